//! Whether a new transaction may begin, and whether it has begun before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use concord_proto::TraceContext;
use concord_protocol::{Event, Gtid, Millis, Options, Transaction};
use concord_seeded_bugs::seeded_bug;
use sha2::{Digest as _, Sha256};

use super::live::{BranchExtra, Live};
use super::measure::mode;
use super::registry::Full;
use super::settings::TenantLimits;
use super::snapshot::{BranchSpec, Grade, Header, Kind, Snapshot};
use super::timers::TimerKey;
use super::{BeginRequest, BranchRequest, Engine, EngineError, Found, invalid};
use crate::metrics::Denial;

/// What comes of a request to begin.
pub(super) enum FirstOrNew {
    /// The same request has begun this before.
    First(Box<Snapshot>),
    /// It begins this.
    New(Gtid),
}

impl Engine {
    /// Builds the header of a new transaction.
    pub(super) fn header(
        &self,
        request: BeginRequest,
        grade: Grade,
        branches: &[BranchRequest],
    ) -> Result<Header, EngineError> {
        let settings = self.driver.settings.load();
        let BeginRequest { name, timeout_ms, idempotency_key, tenant, trace: _ } = request;
        let timeout_max = u32::try_from(settings.timeout_max.as_millis()).unwrap_or(u32::MAX);
        if timeout_ms > timeout_max {
            return Err(invalid("timeout_ms", format!("{timeout_ms} is over the limit of {timeout_max}")));
        }
        let content_hash = match idempotency_key.is_empty() {
            true => Vec::new(),
            false => content_hash(&name, timeout_ms, grade, branches),
        };
        let timeout_ms = match timeout_ms {
            0 => u32::try_from(settings.timeout_default.as_millis()).unwrap_or(timeout_max),
            given => given,
        };
        Ok(Header {
            name,
            timeout_ms,
            grade,
            stays_open: branches.is_empty() && self.driver.store.is_shared(),
            idempotency_key: match idempotency_key.is_empty() || tenant.is_empty() {
                true => idempotency_key,
                false => format!("{tenant}/{idempotency_key}"),
            },
            content_hash,
            begun_at: self.driver.clock.wall(),
            tenant,
        })
    }

    /// Gives a new transaction its gtid; or answers with the one that the same key began before. The caller holds the
    /// key.
    ///
    /// # Errors
    /// [`EngineError::Elsewhere`] when another coordinator has that one.
    pub(super) async fn first_or_new(&self, header: &Header) -> Result<FirstOrNew, EngineError> {
        let new = self.issuer.issue(&self.driver.clock);
        let key = &header.idempotency_key;
        if key.is_empty() || seeded_bug!("key-forgotten") {
            return Ok(FirstOrNew::New(new));
        }
        let mut gone = None;
        let first = loop {
            if let Some(live) = self.driver.registry.by_key(key) {
                break live.snapshot();
            }
            let first = self.driver.store.claim_key(key.clone(), new, gone).await?;
            if first == new {
                return Ok(FirstOrNew::New(new));
            }
            match self.find(first).await {
                Ok(Found::Live(live)) => break live.snapshot(),
                Ok(Found::Ended(snapshot)) => break *snapshot,
                // It has never begun, and never will: ours because we hold the key, others' because they are gone.
                Err(EngineError::RolledBack { .. }) => gone = Some(first),
                Err(EngineError::UnknownGtid(_)) if first.epoch() == self.epoch() => gone = Some(first),
                // Another coordinator may be about to begin it.
                Err(EngineError::UnknownGtid(_)) => return Err(EngineError::Elsewhere(first)),
                Err(error) => return Err(error),
            }
        };
        // A key of nobody in particular may look like a tenant's.
        if first.header.content_hash != header.content_hash || first.header.tenant != header.tenant {
            return Err(EngineError::KeyReused { key: key.clone(), gtid: first.gtid });
        }
        Ok(FirstOrNew::First(Box::new(first)))
    }

    /// Makes a new transaction live; a coordinator-driven one starts at once, one that stays open goes on record.
    pub(super) fn admit(
        &self,
        gtid: Gtid,
        header: Header,
        branches: Vec<BranchRequest>,
        trace: Option<TraceContext>,
    ) -> Result<Arc<Live>, EngineError> {
        let denied = |why| self.driver.metrics.engine.denied.at(why).inc();
        if self.stopping.load(Ordering::SeqCst) {
            denied(Denial::ShuttingDown);
            return Err(EngineError::ShuttingDown);
        }
        if let Some(error) = self.driver.failed.cause() {
            denied(Denial::StoreFailed);
            return Err(EngineError::Store(error.clone()));
        }
        let driver = &self.driver;
        let options = Options {
            coordinator_driven: !branches.is_empty(),
            grade: header.grade,
            stays_open: header.stays_open,
            deadline: driver.clock.now().plus(Millis(header.timeout_ms.into())),
            park_after_attempts: driver.settings.load().park_after_attempts,
        };
        let first = match (options.coordinator_driven, options.stays_open) {
            (true, _) => Some(Event::Execute),
            (false, true) => Some(Event::Begin),
            (false, false) => None,
        };
        let kinds = branches.iter().map(|branch| branch.kind);
        let transaction = Transaction::with_branches(options, kinds);
        let branches = branches.into_iter().map(|branch| {
            let mut spec = BranchSpec {
                kind: branch.kind,
                participant: branch.participant.into(),
                action: branch.action.into(),
                registration_key: "".into(),
            };
            driver.registry.share_names(&mut spec);
            (spec, BranchExtra { payload: branch.payload, ..BranchExtra::default() })
        });
        let live = Arc::new(Live::new(gtid, header, transaction, branches.collect()));
        let settings = driver.settings.load();
        let tenant = settings.tenants.get(&live.header.tenant);
        if let Some(TenantLimits { begins_per_second: Some(limit), .. }) = tenant
            && !driver.rates.take(&live.header.tenant, *limit, driver.clock.now())
        {
            denied(Denial::TenantTooFast);
            return Err(EngineError::TenantTooFast { tenant: live.header.tenant.clone(), limit: *limit });
        }
        let limits =
            [Some(settings.live_transactions_max), tenant.and_then(|limits| limits.live_transactions_max)];
        match driver.registry.insert(Arc::clone(&live), limits) {
            Ok(()) => {}
            Err(Full::Coordinator(limit)) => {
                denied(Denial::TooManyLive);
                return Err(EngineError::TooManyLive(limit));
            }
            Err(Full::Tenant(limit)) => {
                denied(Denial::TenantTooMany);
                return Err(EngineError::TenantTooMany { tenant: live.header.tenant.clone(), limit });
            }
        }
        if trace.is_some() {
            driver.trace(&live, &mut live.lock(), trace);
        }
        driver.metrics.engine.begun.at(mode(&options)).inc();
        driver.timers.set((options.deadline, live.gtid, TimerKey::Deadline));
        if let Some(event) = first {
            driver.step_or_log(&live, event);
        }
        Ok(live)
    }

    pub(super) fn check_participant(&self, participant: &str) -> Result<(), EngineError> {
        match self.driver.participants.permits(participant) {
            true => Ok(()),
            false => Err(EngineError::NotAllowed(participant.to_owned())),
        }
    }

    pub(super) fn check_branches(&self, branches: &[BranchRequest]) -> Result<(), EngineError> {
        let settings = self.driver.settings.load();
        if branches.is_empty() {
            return Err(invalid("branches", "a transaction needs at least one".into()));
        }
        if branches.len() > settings.branches_max {
            let (count, max) = (branches.len(), settings.branches_max);
            return Err(invalid("branches", format!("{count} are over the limit of {max}")));
        }
        let bytes: usize = branches.iter().map(|branch| branch.payload.len()).sum();
        self.check_payload("branches.payload", bytes)?;
        branches.iter().try_for_each(|branch| self.check_participant(&branch.participant))
    }

    /// `bytes`: of all payloads of one transaction.
    pub(super) fn check_payload(&self, field: &'static str, bytes: usize) -> Result<(), EngineError> {
        let max = self.driver.settings.load().payload_bytes_max;
        match bytes > max {
            true => Err(invalid(field, format!("{bytes} bytes in all are over the limit of {max}"))),
            false => Ok(()),
        }
    }
}

/// What makes two requests the same. Every part is preceded by its length, so no two requests hash alike by
/// moving bytes from one field to the next.
fn content_hash(name: &str, timeout_ms: u32, grade: Grade, branches: &[BranchRequest]) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(name.as_bytes());
    part(&timeout_ms.to_be_bytes());
    part(&[u8::from(grade == Grade::Strict)]);
    for branch in branches {
        part(&[u8::from(branch.kind == Kind::Tcc)]);
        part(branch.participant.as_bytes());
        part(branch.action.as_bytes());
        part(&branch.payload);
    }
    hash.finalize().to_vec()
}
