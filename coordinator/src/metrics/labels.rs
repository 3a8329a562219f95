//! Labels. Every one has few values, all known beforehand: what a caller chooses is never among them.

use std::marker::PhantomData;

use concord_protocol::{Kind, Outcome, State, Verb};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A label, and all that it can be.
pub(crate) trait Label: Copy + Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;
    /// Its values, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// As it is shown.
    fn value(self) -> &'static str;

    /// Its place among all.
    fn index(self) -> usize;
}

macro_rules! label {
    ($type:ty, $name:literal: $($value:ident = $text:literal),+ $(,)?) => {
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn value(self) -> &'static str {
                match self {
                    $(Self::$value => $text),+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// Which protocols the branches of a transaction follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Xa,
    Tcc,
    Mixed,
    /// Nobody has joined.
    NoBranches,
}

/// Who drives a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its initiator, from `Begin` to `Commit`.
    Open,
    /// The coordinator, on `Execute`.
    Executed,
}

/// Why a transaction was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its initiator, or an operator, wanted it.
    Asked,
    /// A branch voted no.
    Refused,
    /// Its deadline passed.
    TimedOut,
    /// The same, and calls had failed to a branch that had not voted.
    Unreachable,
    /// The coordinator restarted before the decision.
    Restarted,
}

/// Why no transaction was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    TooManyLive,
    TenantTooMany,
    TenantTooFast,
    ShuttingDown,
    StoreFailed,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// Not called: its transaction timed out before its turn came.
    TooLate,
    /// Not called: it has no stream and does not listen.
    NotAttached,
    /// Not called: its breaker was open.
    BreakerOpen,
    /// It could not be sent.
    Unreachable,
    /// Nothing came back in time.
    TimedOut,
    /// The connection broke meanwhile.
    Broken,
    /// The participant answered with an error, or its stream broke.
    Error,
}

/// What a participant's breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Calls are made.
    Closed,
    /// None is.
    Open,
    /// The next one is let through, as a probe.
    HalfOpen,
}

/// Which phase a call belongs to, as far as turns go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallPhase {
    One,
    Two,
}

/// Why a call was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    NoToken,
    BadToken,
    /// The caller has other roles.
    Role,
}

/// Why a connection was closed before there was a call on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There were as many as there may be.
    TooMany,
    /// TLS was not agreed upon.
    Handshake,
    /// No call came in time.
    Silent,
}

label!(Kind, "protocol": Xa = "xa", Tcc = "tcc");
label!(Protocol, "protocol": Xa = "xa", Tcc = "tcc", Mixed = "mixed", NoBranches = "none");
label!(Mode, "mode": Open = "open", Executed = "executed");
label!(Outcome, "outcome": Committed = "committed", RolledBack = "rolled_back");
label!(
    Reason, "reason":
    Asked = "asked",
    Refused = "refused",
    TimedOut = "timed_out",
    Unreachable = "unreachable",
    Restarted = "restarted",
);
label!(
    Denial, "reason":
    TooManyLive = "too_many_live",
    TenantTooMany = "tenant_too_many",
    TenantTooFast = "tenant_too_fast",
    ShuttingDown = "shutting_down",
    StoreFailed = "store_failed",
);
label!(
    CallFailure, "reason":
    TooLate = "too_late",
    NotAttached = "not_attached",
    BreakerOpen = "breaker_open",
    Unreachable = "unreachable",
    TimedOut = "timed_out",
    Broken = "broken",
    Error = "error",
);
label!(BreakerState, "state": Closed = "closed", Open = "open", HalfOpen = "half_open");
label!(CallPhase, "phase": One = "one", Two = "two");
label!(Turned, "reason": NoToken = "no_token", BadToken = "bad_token", Role = "role");
label!(Refused, "reason": TooMany = "too_many", Handshake = "handshake", Silent = "silent");
label!(
    State, "state":
    Active = "active",
    Preparing = "preparing",
    Committing = "committing",
    Committed = "committed",
    RollingBack = "rolling_back",
    RolledBack = "rolled_back",
);
label!(
    Verb, "verb":
    Work = "work",
    WorkAndPrepare = "work_and_prepare",
    Prepare = "prepare",
    WorkAndCommit = "work_and_commit",
    CommitOnePhase = "commit_one_phase",
    Commit = "commit",
    Rollback = "rollback",
    Try = "try",
    Confirm = "confirm",
    Cancel = "cancel",
);

/// One label, or two.
pub(crate) trait Labels: Copy + Send + Sync + 'static {
    /// Every value, in the order of [`Labels::place`].
    fn all() -> Vec<Self>;

    /// Its place among all.
    fn place(self) -> usize;

    /// Names and values, as they are shown.
    fn pairs(self) -> Vec<(&'static str, &'static str)>;
}

impl<L: Label> Labels for L {
    fn all() -> Vec<Self> {
        L::ALL.to_vec()
    }

    fn place(self) -> usize {
        self.index()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        vec![(L::NAME, self.value())]
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn all() -> Vec<Self> {
        A::ALL.iter().flat_map(|a| B::ALL.iter().map(|b| (*a, *b))).collect()
    }

    fn place(self) -> usize {
        self.0.index() * B::ALL.len() + self.1.index()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        vec![(A::NAME, self.0.value()), (B::NAME, self.1.value())]
    }
}

/// A metric for each value of its labels: all are there from the start, and each is found by its place.
#[derive(Debug, Clone)]
pub(crate) struct By<L, M> {
    metrics: Vec<M>,
    labels: PhantomData<L>,
}

impl<L: Labels, M> By<L, M> {
    pub(super) fn new(metric: impl Fn() -> M) -> Self {
        By { metrics: L::all().iter().map(|_| metric()).collect(), labels: PhantomData }
    }

    pub(crate) fn at(&self, labels: L) -> &M {
        &self.metrics[labels.place()]
    }
}

impl<L: Labels> By<L, Counter> {
    /// How many in all, of the labels that `keep` wants.
    pub(crate) fn sum(&self, keep: impl Fn(L) -> bool) -> u64 {
        L::all().into_iter().filter(|labels| keep(*labels)).map(|labels| self.at(labels).get()).sum()
    }
}

impl<L: Labels, M: EncodeMetric + TypedMetric> EncodeMetric for By<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for labels in L::all() {
            self.at(labels).encode(encoder.encode_family(&labels.pairs())?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Labels>() {
        let all = L::all();
        let places: Vec<usize> = all.iter().map(|labels| labels.place()).collect();
        assert_eq!(places, (0..all.len()).collect::<Vec<_>>(), "each has its own place, in order");
    }

    #[test]
    fn every_value_has_a_place_of_its_own() {
        check::<Kind>();
        check::<Protocol>();
        check::<Mode>();
        check::<Outcome>();
        check::<Reason>();
        check::<Denial>();
        check::<CallFailure>();
        check::<BreakerState>();
        check::<CallPhase>();
        check::<Turned>();
        check::<Refused>();
        check::<State>();
        check::<Verb>();
        check::<(Protocol, Mode)>();
        check::<(Kind, Outcome)>();
    }
}
