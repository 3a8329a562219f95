//! Ending the branches that were left prepared in this participant's database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use concord_crash_points::crash_point;
use concord_proto::v1::Outcome;
use concord_seeded_bugs::seeded_bug;
use concord_xa::{Holding, XaError, Xid};
use tonic::Status;
use tracing::Instrument as _;

use crate::link::INQUIRE_MAX;
use crate::participant::{Ending, Xa};
use crate::slots::State;
use crate::trace::span;

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Branches of ours found prepared, those in flight in this process not counted.
    pub found: usize,
    /// Committed, as the coordinator had decided.
    pub committed: usize,
    /// Rolled back, as the coordinator had decided or presumed.
    pub rolled_back: usize,
    /// Left alone: undecided, too young, another database's, or the database could not end them yet.
    pub left: usize,
}

/// Why a sweep could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The database user may not run XA RECOVER; on MySQL grant it XA_RECOVER_ADMIN. Phase two works without.
    #[error("the database user may not list prepared branches; grant it XA_RECOVER_ADMIN")]
    NotAllowed,
    /// The database did not answer. Try again later.
    #[error("the database could not be asked: {0}")]
    Database(#[source] XaError),
    /// The coordinator did not answer. Try again later.
    #[error("the coordinator could not be asked: {0}")]
    Coordinator(Box<Status>),
}

impl Xa {
    /// Finds branches of ours that are prepared in the database, and ends them as the coordinator says
    /// (docs/xa.md rules 4, 10 and 20). Branches that were prepared less than `safety` ago, by this process or
    /// by another on the same database, are left to the coordinator's own calls.
    pub(crate) async fn sweep(&self, safety: Duration) -> Result<Swept, SweepError> {
        let listed = match self.database.recover().await {
            Ok(listed) => listed,
            Err(XaError::Server { code: 1401 | 1227, .. }) => return Err(SweepError::NotAllowed),
            Err(error) => return Err(SweepError::Database(error)),
        };
        // By format id first (that makes an `xid`), then by cluster, before anything else is looked at.
        let mut ours: Vec<Xid> = listed.into_iter().filter_map(|branch| branch.xid).collect();
        if self.link.cluster().is_none() || !ours.is_empty() {
            let known = self.link.cluster();
            ours.retain(|xid| known.is_none_or(|cluster| cluster == xid.cluster));
            ours.retain(|xid| !self.in_flight(xid, safety));
        }
        let mut swept = Swept::default();
        if ours.is_empty() && self.link.cluster().is_some() {
            return Ok(swept);
        }
        for chunk in ours.chunks(INQUIRE_MAX).chain(ours.is_empty().then_some(&[][..])) {
            let verdicts = self.inquire(chunk).await?;
            // The cluster is known by now.
            let ours = chunk.iter().zip(verdicts).filter(|(xid, _)| Some(xid.cluster) == self.link.cluster());
            for (xid, verdict) in ours {
                let span = span("recover", (xid.gtid, xid.branch), None);
                self.carry_out(xid, verdict, safety, &mut swept).instrument(span).await;
            }
        }
        Ok(swept)
    }

    async fn inquire(&self, xids: &[Xid]) -> Result<Vec<Outcome>, SweepError> {
        let (gtids, branches): (Vec<_>, Vec<_>) = xids.iter().map(|xid| (xid.gtid, xid.branch)).unzip();
        let verdicts = self.link.inquire_branches(&gtids, &branches).await;
        let verdicts = verdicts.map_err(|status| SweepError::Coordinator(Box::new(status)))?;
        Ok(verdicts.into_iter().map(|verdict| verdict.outcome).collect())
    }

    async fn carry_out(&self, xid: &Xid, verdict: Outcome, safety: Duration, swept: &mut Swept) {
        swept.found += 1;
        if !self.lives_here(xid, safety).await {
            swept.left += 1;
            return;
        }
        crash_point!("participant/sweep/before");
        let ending = match verdict {
            Outcome::Committed => self.commit(*xid).await,
            Outcome::RolledBack => self.rollback(*xid).await,
            _ if seeded_bug!("recovery-guesses") => self.rollback(*xid).await,
            // Any doubt wins.
            _ => {
                swept.left += 1;
                return;
            }
        };
        crash_point!("participant/sweep/after");
        match ending {
            Ok(Ending::Committed { .. }) => {
                swept.committed += 1;
                tracing::info!("recovery committed a branch");
            }
            Ok(Ending::RolledBack { .. }) => {
                swept.rolled_back += 1;
                tracing::info!("recovery rolled a branch back");
            }
            Err(unsettled) => {
                swept.left += 1;
                tracing::warn!(reason = unsettled.0, "recovery could not end a branch yet");
            }
        }
    }

    /// Whether the branch is in this participant's own database, and old enough for recovery. The server also
    /// lists branches of its other databases: what this one's barrier table says of them proves nothing.
    async fn lives_here(&self, xid: &Xid, safety: Duration) -> bool {
        match self.database.holding(xid).await {
            Ok(Holding::Here(age)) => age >= safety,
            Ok(Holding::Elsewhere | Holding::NoTable) => false,
            Err(error) => {
                tracing::warn!(%error, "recovery cannot look at a branch yet");
                false
            }
        }
    }

    /// Whether someone in this process is busy with the branch, or has prepared it just now.
    fn in_flight(&self, xid: &Xid, safety: Duration) -> bool {
        let Some(slot) = self.slots.find(xid) else { return false };
        match slot.state.try_lock() {
            Err(_) => true,
            Ok(state) => match &*state {
                State::Prepared { since, .. } => since.elapsed() < safety,
                State::Open { .. } => true,
                State::New | State::Lost { .. } | State::Ended(_) => false,
            },
        }
    }

    /// Sweeps now and at intervals until the participant stops.
    pub(crate) async fn recover_for_ever(&self, every: Duration, safety: Duration) {
        let told = AtomicBool::new(false);
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.expire().await;
            match self.sweep(safety).await {
                Ok(swept) if swept.found > 0 => tracing::debug!(?swept, "swept the database"),
                Ok(_) => {}
                Err(error @ SweepError::NotAllowed) => {
                    if !told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "no recovery from this participant");
                    }
                }
                Err(error) => tracing::warn!(%error, "could not sweep the database"),
            }
        }
    }
}
