//! The lease: how long this coordinator may go on without being heard of.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use concord_protocol::Epoch;

use super::link::{Address, Link};
use super::{Member, Problem};
use crate::store::queue::Queue;

/// It is renewed so many times while it lasts.
const RENEWALS: u32 = 3;

/// Until when others leave this coordinator alone at least, by this machine's monotonic clock: counted from before the
/// renewal was sent, while the database counts from when it was made.
#[derive(Debug)]
pub(super) struct Lease {
    lasts: Duration,
    until: Mutex<Instant>,
}

impl Lease {
    /// From `start` on, which was before it was asked for.
    pub(super) fn new(start: Instant, lasts: Duration) -> Self {
        Lease { lasts, until: Mutex::new(start + lasts) }
    }

    pub(super) fn is_held(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Waits no longer than the lease lasts.
    pub(super) async fn while_held<T, E: Into<Problem>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout_at(self.until().into(), work).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Problem::Silent),
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self, start: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = start + self.lasts;
    }
}

/// Renews the lease until it is lost, or nobody has it any more.
pub(super) async fn keep(
    lease: Weak<Lease>,
    queue: Arc<Queue>,
    address: Address,
    member: Member,
    epoch: Epoch,
) {
    let mut link = None;
    loop {
        tokio::time::sleep(member.lease / RENEWALS).await;
        let Some(lease) = lease.upgrade() else { return };
        if queue.over().is_some() {
            return;
        }
        let start = Instant::now();
        match lease.while_held(renew(&mut link, &address, &member, epoch)).await {
            Ok(()) => lease.renewed(start),
            Err(problem) if problem.may_pass() && lease.is_held() => {
                link = None;
                tracing::warn!(%problem, "the lease could not be renewed; trying again");
            }
            Err(problem) => {
                queue.fail(problem.failed());
                return;
            }
        }
    }
}

async fn renew(
    link: &mut Option<Link>,
    address: &Address,
    member: &Member,
    epoch: Epoch,
) -> Result<(), Problem> {
    let link = match link {
        Some(link) => link,
        None => link.insert(address.connect(member.idle_max_s()).await?),
    };
    let (now, lease_ms) = (link.dialect().now(), member.lease.as_millis());
    let changed = link
        .execute(format!(
            "UPDATE concord_coordinator SET expires_at = {now} + {lease_ms} WHERE epoch = {} AND successor IS NULL",
            epoch.0
        ))
        .await?;
    if changed.last() == Some(&1) {
        return Ok(());
    }
    let sql = format!("SELECT successor FROM concord_coordinator WHERE epoch = {}", epoch.0);
    let successor = link.query(sql, |row| row.number_or_null(0)).await?.pop().flatten();
    Err(successor.map_or_else(|| Problem::Refused("its lease is gone".into()), Problem::Fenced))
}
