//! One live transaction: the protocol's state, and what the protocol does not need to know.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use concord_proto::trace::TraceId;
use concord_protocol::{
    BranchId, BranchState, Cause, Decision, Gtid, Millis, Outcome, Reply, State, Transaction, Verb, Vote,
};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use super::record::{Context, HistoryEvent, Rebuilt};
use super::snapshot::{BranchSnapshot, BranchSpec, Header, Snapshot};
use crate::metrics::Label as _;
use crate::store::UnixMillis;
use crate::trace::Trace;

/// How many answers of participants are kept, the last ones.
const ANSWERS_MAX: usize = 50;
/// How many branches a sentence names.
const NAMED_MAX: usize = 3;

/// A transaction in memory. Whoever brings an event locks it and steps it; nobody waits while holding it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) gtid: Gtid,
    pub(crate) header: Header,
    state: Mutex<LiveState>,
    /// Woken after every step.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
pub(crate) struct LiveState {
    pub(crate) transaction: Transaction,
    pub(crate) specs: Vec<BranchSpec>,
    pub(crate) extras: Vec<BranchExtra>,
    /// What branches answered with which not all went well.
    pub(crate) answers: VecDeque<Answer>,
    /// How many branches came with the request.
    pub(crate) begun_with: usize,
    /// Why it is rolled back, once it is.
    pub(crate) reason: String,
    /// What the initiator gave as its reason to roll back.
    pub(crate) request_reason: String,
    /// The operator whose order is being carried out, and why.
    pub(crate) operator: (String, String),
    /// That it has begun may be told.
    pub(crate) begun: bool,
    /// What may be told. `None`: nothing yet.
    pub(crate) told: Option<Decision>,
    /// Since when its branches have been asked to end, by the monotonic clock.
    pub(crate) ending_since: Option<Millis>,
    pub(crate) completed: bool,
    /// Steps that had effects, so far.
    pub(crate) steps: u64,
    pub(crate) decided_at: Option<UnixMillis>,
    pub(crate) ended_at: Option<UnixMillis>,
    /// When it began. `None`: before this life of the coordinator.
    pub(crate) begun_since: Option<Instant>,
    /// When the first calls of phase one left; or, once the decision is told, when that was. `None`: neither, in this life.
    pub(crate) phase_since: Option<Instant>,
    /// None: it belongs to none, or not yet.
    pub(crate) trace: Option<Box<Trace>>,
}

/// What is known of a branch beyond what the protocol needs.
#[derive(Debug, Default)]
pub(crate) struct BranchExtra {
    pub(crate) payload: Bytes,
    pub(crate) reply: Bytes,
    /// Calls to it that have failed, in this life of the coordinator.
    pub(crate) failed_calls: u32,
    /// Until then it is left alone; `None` while a call is under way, or none is planned.
    pub(crate) retry_at: Option<UnixMillis>,
    /// What the last call that was not as hoped said.
    pub(crate) last_error: Box<str>,
}

/// What a participant has answered, or why it has not.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) at: UnixMillis,
    pub(crate) branch: BranchId,
    pub(crate) verb: Verb,
    pub(crate) reply: Reply,
    pub(crate) reason: Box<str>,
}

impl Answer {
    /// For people, as a line of the transaction's history.
    pub(crate) fn event(&self) -> HistoryEvent {
        let (kind, what) = match self.reply {
            Reply::Failed { .. } => ("call_failed", "no answer"),
            Reply::Worked => ("answered", "worked"),
            Reply::Vote(Vote::Yes) => ("answered", "voted yes"),
            Reply::Vote(Vote::ReadOnly) => ("answered", "voted read-only"),
            Reply::Vote(Vote::No) => ("answered", "voted no"),
            Reply::Ended(Outcome::Committed) => ("answered", "committed"),
            Reply::Ended(Outcome::RolledBack) => ("answered", "rolled back"),
            Reply::Refused => ("answered", "refused"),
        };
        let because = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        let verb = self.verb.value().replace('_', " ");
        HistoryEvent {
            at: self.at,
            kind,
            detail: format!("branch {}, asked to {verb}: {what}{because}", self.branch),
        }
    }
}

impl Live {
    pub(crate) fn new(
        gtid: Gtid,
        header: Header,
        transaction: Transaction,
        branches: Vec<(BranchSpec, BranchExtra)>,
    ) -> Self {
        let (mut specs, mut extras) =
            (Vec::with_capacity(branches.len()), Vec::with_capacity(branches.len()));
        for (spec, extra) in branches {
            specs.push(spec);
            extras.push(extra);
        }
        let state = LiveState {
            transaction,
            begun_with: specs.len(),
            specs,
            extras,
            answers: VecDeque::new(),
            reason: String::new(),
            request_reason: String::new(),
            operator: Default::default(),
            begun: !header.stays_open,
            told: None,
            ending_since: None,
            completed: false,
            steps: 0,
            decided_at: None,
            ended_at: None,
            begun_since: Some(Instant::now()),
            phase_since: None,
            trace: None,
        };
        Live { gtid, header, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(crate) fn recovered(gtid: Gtid, rebuilt: Rebuilt) -> Self {
        let Rebuilt { header, branches, begun_with, transaction, reason, decided_at, ended_at } = rebuilt;
        let told = transaction.decision();
        let live = Live::new(gtid, header, transaction, branches);
        let mut state = live.lock();
        state.begun_with = begun_with;
        state.begun = true;
        state.reason = reason;
        state.told = told;
        state.decided_at = decided_at;
        state.ended_at = ended_at;
        state.begun_since = None;
        drop(state);
        live
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a step has made `ready` answer.
    pub(crate) async fn when<T>(&self, mut ready: impl FnMut(&LiveState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no step is missed.
            changed.as_mut().enable();
            if let Some(answer) = ready(&self.lock()) {
                return answer;
            }
            changed.await;
        }
    }

    pub(crate) fn deadline(&self) -> Millis {
        self.lock().transaction.options().deadline
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let transaction = &state.transaction;
        let shown = |((id, branch), (spec, extra)): (
            (BranchId, &concord_protocol::Branch),
            (&BranchSpec, &BranchExtra),
        )| {
            BranchSnapshot {
                id,
                spec: spec.clone(),
                state: branch.state(),
                parked: branch.is_parked(),
                attempts: extra.failed_calls,
                next_attempt_at: extra
                    .retry_at
                    .filter(|_| !branch.is_parked() && !branch.state().has_ended()),
                last_error: extra.last_error.to_string(),
                reply: extra.reply.clone(),
            }
        };
        Snapshot {
            gtid: self.gtid,
            header: self.header.clone(),
            state: transaction.state(),
            parked: transaction.is_parked(),
            heuristic: transaction.is_heuristic(),
            reason: state.reason.clone(),
            branches: transaction.branches().zip(state.specs.iter().zip(&state.extras)).map(shown).collect(),
            decided_at: state.decided_at,
            ended_at: state.ended_at,
        }
    }
}

impl LiveState {
    /// Adds a branch. Most transactions have two, and there are many transactions: no room is made for more than half
    /// as many again.
    pub(crate) fn push(&mut self, spec: BranchSpec, extra: BranchExtra) {
        let more = (self.specs.len() / 2).max(1);
        if self.specs.len() == self.specs.capacity() {
            self.specs.reserve_exact(more);
        }
        if self.extras.len() == self.extras.capacity() {
            self.extras.reserve_exact(more);
        }
        self.specs.push(spec);
        self.extras.push(extra);
    }

    pub(crate) fn context<'a>(&'a self, header: &'a Header) -> Context<'a> {
        Context {
            header,
            branches: &self.specs,
            extras: &self.extras,
            begun_with: self.begun_with,
            reason: &self.reason,
            operator: (&self.operator.0, &self.operator.1),
        }
    }

    pub(crate) fn extra(&mut self, id: BranchId) -> Option<&mut BranchExtra> {
        self.extras.get_mut(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    pub(crate) fn spec(&self, id: BranchId) -> Option<&BranchSpec> {
        self.specs.get(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// For log lines.
    pub(crate) fn trace_id(&self) -> Option<DisplayValue<TraceId>> {
        self.trace.as_ref().map(|trace| display(trace.id()))
    }

    /// Whether an answer is for the history: if it is bad, or one of a branch that has given bad ones before.
    pub(crate) fn is_notable(&self, branch: BranchId, reply: Reply) -> bool {
        let is_bad = matches!(reply, Reply::Failed { .. } | Reply::Refused | Reply::Vote(Vote::No));
        is_bad || self.answers.iter().any(|before| before.branch == branch)
    }

    /// Keeps an answer for the history.
    pub(crate) fn note(&mut self, answer: Answer) {
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }

    /// Why its branches are parked, by whose order.
    pub(crate) fn note_parked(&mut self, why: &str) {
        let parked = self.transaction.branches().map(|(_, branch)| branch.is_parked());
        for (extra, _) in self.extras.iter_mut().zip(parked).filter(|(_, parked)| *parked) {
            extra.last_error = why.into();
        }
    }

    /// Before what its time runs out if it does so now, in words.
    pub(crate) fn awaited(&self) -> String {
        if self.transaction.state() == State::Active {
            return "its commit was asked for".to_owned();
        }
        let in_state = |wanted| -> Vec<(BranchId, &BranchExtra)> {
            let branches = self.transaction.branches().zip(&self.extras);
            branches
                .filter(|((_, branch), _)| branch.state() == wanted)
                .map(|((id, _), extra)| (id, extra))
                .collect()
        };
        let mut silent = in_state(BranchState::Active);
        if silent.is_empty() {
            silent = in_state(BranchState::Worked);
        }
        let mut names: Vec<String> = silent.iter().take(NAMED_MAX).map(|(id, _)| self.title(*id)).collect();
        if silent.len() > NAMED_MAX {
            names.push(format!("{} more", silent.len() - NAMED_MAX));
        }
        let error = silent.iter().map(|(_, extra)| &*extra.last_error).find(|error| !error.is_empty());
        let because = error.map(|error| format!(": {error}")).unwrap_or_default();
        let done = match self.transaction.is_delegated() {
            true => ", which commits in one phase, had answered",
            false => " had voted",
        };
        format!("{}{done}{because}", names.join(" and "))
    }

    /// A branch, for people.
    fn title(&self, id: BranchId) -> String {
        match self.spec(id) {
            Some(spec) if spec.action.is_empty() => format!("branch {id} ({})", spec.participant),
            Some(spec) => format!("branch {id} ({} at {})", spec.action, spec.participant),
            None => format!("branch {id}"),
        }
    }

    /// Puts the protocol's cause into words, once it is known. `awaited`: before what its time has run out, if it has now.
    pub(crate) fn explain(&mut self, header: &Header, awaited: Option<String>) {
        let Some(cause) = self.transaction.cause() else {
            if self.transaction.decision() == Some(Decision::Commit) {
                // It has committed in one phase, while it was about to be rolled back.
                self.reason.clear();
            }
            return;
        };
        if !self.reason.is_empty() {
            return;
        }
        self.reason = match cause {
            Cause::Requested if self.request_reason.is_empty() => "asked for by its initiator".into(),
            Cause::Requested => self.request_reason.clone(),
            Cause::TimedOut => {
                let awaited = awaited.unwrap_or_else(|| "every branch had voted".to_owned());
                format!("timed out after {} ms, before {awaited}", header.timeout_ms)
            }
            Cause::Restarted => match self.transaction.is_delegated() {
                true => format!("the coordinator restarted before {}", self.awaited()),
                false => "the coordinator restarted before the decision".into(),
            },
            Cause::Refused(id) => {
                let why = self.extra(id).map(|extra| extra.last_error.to_string()).unwrap_or_default();
                format!("{} refused: {why}", self.title(id))
            }
        };
    }
}
