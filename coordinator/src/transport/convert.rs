//! Between the engine's types and the wire's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use concord_proto::status::with_reason;
use concord_proto::v1;
use concord_protocol::{BranchState, Gtid, Outcome, Refusal, State};
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::engine::{BranchSnapshot, EngineError, Grade, HistoryEvent, Kind, Snapshot, Verdict};
use crate::store::{StoreError, UnixMillis};

pub(crate) fn timestamp(at: UnixMillis) -> Timestamp {
    (UNIX_EPOCH + Duration::from_millis(at.0)).into()
}

/// Refuses what was before 1970.
pub(crate) fn unix_millis(field: &'static str, at: Timestamp) -> Result<UnixMillis, Status> {
    let since = SystemTime::try_from(at).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    millis.map(UnixMillis).ok_or_else(|| invalid(field, "is no time since 1970"))
}

pub(crate) fn transaction(snapshot: Snapshot, history: Vec<HistoryEvent>) -> v1::Transaction {
    let Snapshot { gtid, header, state, parked, heuristic, reason, branches, decided_at, ended_at } =
        snapshot;
    let grade = match header.grade {
        Grade::EarlyVote => v1::Grade::EarlyVote,
        Grade::Strict => v1::Grade::Strict,
    };
    v1::Transaction {
        gtid: gtid.to_string(),
        state: state_to_wire(state).into(),
        parked,
        heuristic,
        reason,
        name: header.name,
        grade: grade.into(),
        branches: branches.into_iter().map(branch).collect(),
        begun_at: Some(timestamp(header.begun_at)),
        decided_at: decided_at.map(timestamp),
        ended_at: ended_at.map(timestamp),
        timeout_ms: header.timeout_ms,
        history: history.into_iter().map(event).collect(),
        tenant: header.tenant,
    }
}

fn branch(branch: BranchSnapshot) -> v1::Branch {
    let kind = match branch.spec.kind {
        Kind::Xa => v1::BranchKind::Xa,
        Kind::Tcc => v1::BranchKind::Tcc,
    };
    let state = match branch.state {
        _ if branch.parked => v1::BranchState::Parked,
        BranchState::Active | BranchState::Worked => v1::BranchState::Active,
        BranchState::Prepared => v1::BranchState::Prepared,
        BranchState::ReadOnly => v1::BranchState::ReadOnly,
        BranchState::Refused => v1::BranchState::Refused,
        BranchState::Committed => v1::BranchState::Committed,
        BranchState::RolledBack => v1::BranchState::RolledBack,
    };
    v1::Branch {
        branch_id: branch.id.0,
        kind: kind.into(),
        participant: branch.spec.participant.to_string(),
        action: branch.spec.action.to_string(),
        state: state.into(),
        attempts: branch.attempts,
        last_error: branch.last_error,
        next_attempt_at: branch.next_attempt_at.map(timestamp),
    }
}

fn event(event: HistoryEvent) -> v1::HistoryEvent {
    v1::HistoryEvent { at: Some(timestamp(event.at)), kind: event.kind.to_owned(), detail: event.detail }
}

fn state_to_wire(state: State) -> v1::TransactionState {
    match state {
        State::Active => v1::TransactionState::Active,
        State::Preparing => v1::TransactionState::Preparing,
        State::Committing => v1::TransactionState::Committing,
        State::Committed => v1::TransactionState::Committed,
        State::RollingBack => v1::TransactionState::RollingBack,
        State::RolledBack => v1::TransactionState::RolledBack,
    }
}

pub(crate) fn state_from_wire(state: v1::TransactionState) -> Option<State> {
    Some(match state {
        v1::TransactionState::Unspecified => return None,
        v1::TransactionState::Active => State::Active,
        v1::TransactionState::Preparing => State::Preparing,
        v1::TransactionState::Committing => State::Committing,
        v1::TransactionState::Committed => State::Committed,
        v1::TransactionState::RollingBack => State::RollingBack,
        v1::TransactionState::RolledBack => State::RolledBack,
    })
}

pub(crate) fn outcome_from_wire(state: v1::TransactionState) -> Option<Outcome> {
    match state {
        v1::TransactionState::Committed => Some(Outcome::Committed),
        v1::TransactionState::RolledBack => Some(Outcome::RolledBack),
        _ => None,
    }
}

pub(crate) fn verdict(verdict: Verdict) -> v1::Outcome {
    match verdict {
        Verdict::Undecided => v1::Outcome::Undecided,
        Verdict::Committed => v1::Outcome::Committed,
        Verdict::RolledBack => v1::Outcome::RolledBack,
    }
}

/// A status with a stable reason. That a record cannot be read is said in the log as well: whoever asked may have nobody to tell.
pub(crate) fn status(error: EngineError) -> Status {
    let (code, reason) = match &error {
        EngineError::UnknownGtid(_) => (Code::NotFound, "UNKNOWN_GTID"),
        EngineError::Refused { refusal, .. } => match refusal {
            Refusal::NotActive => (Code::FailedPrecondition, "TRANSACTION_NOT_ACTIVE"),
            Refusal::AlreadyCommitted => (Code::FailedPrecondition, "ALREADY_COMMITTED"),
            Refusal::AlreadyRolledBack => (Code::Aborted, "ROLLED_BACK"),
            Refusal::NoBranches => (Code::FailedPrecondition, "NO_BRANCHES"),
            Refusal::UnknownBranch => (Code::NotFound, "UNKNOWN_BRANCH"),
            Refusal::VoteConflict => (Code::FailedPrecondition, "VOTE_CONFLICT"),
            Refusal::NotDecided => (Code::FailedPrecondition, "NOT_DECIDED"),
            Refusal::BranchEnded => (Code::FailedPrecondition, "BRANCH_ENDED"),
        },
        EngineError::RolledBack { .. } => (Code::Aborted, "ROLLED_BACK"),
        EngineError::StillUndecided(_) => (Code::DeadlineExceeded, "NOT_DECIDED_YET"),
        EngineError::KeyReused { .. } => (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
        EngineError::Invalid { .. } => (Code::InvalidArgument, "INVALID_FIELD"),
        EngineError::NotAllowed(_) => (Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED"),
        EngineError::TooManyLive(_) => (Code::ResourceExhausted, "TOO_MANY_LIVE_TRANSACTIONS"),
        EngineError::TenantTooMany { .. } => (Code::ResourceExhausted, "TENANT_TOO_MANY_LIVE"),
        EngineError::TenantTooFast { .. } => (Code::ResourceExhausted, "TENANT_TOO_FAST"),
        EngineError::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
        EngineError::Elsewhere(_) => (Code::Unavailable, "ANOTHER_COORDINATOR"),
        EngineError::Store(_) => (Code::Unavailable, "STORE_FAILED"),
    };
    if let EngineError::Store(StoreError::Corrupt { gtid, .. }) = &error {
        tracing::error!(%gtid, %error, "a record of a transaction cannot be read");
    }
    with_reason(code, reason, error.to_string())
}

/// `INVALID_ARGUMENT` with the field's name.
pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> Status {
    status(EngineError::Invalid { field, problem: problem.into() })
}

pub(crate) fn gtid(text: &str) -> Result<Gtid, Status> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        invalid("gtid", format!("{shown:?} is not a gtid (a version 8 UUID of 36 characters)"))
    })
}

/// Refuses text over its limit.
pub(crate) fn text(field: &'static str, value: String, bytes_max: usize) -> Result<String, Status> {
    match value.len() {
        length if length > bytes_max => {
            Err(invalid(field, format!("{length} bytes are over the limit of {bytes_max}")))
        }
        _ => Ok(value),
    }
}

/// Refuses text that is empty or over its limit.
pub(crate) fn required(field: &'static str, value: String, bytes_max: usize) -> Result<String, Status> {
    match value.is_empty() {
        true => Err(invalid(field, "must not be empty")),
        false => text(field, value, bytes_max),
    }
}

#[cfg(test)]
mod tests {
    use concord_protocol::Epoch;

    use super::*;
    use crate::logged::logged;

    #[test]
    fn a_record_that_cannot_be_read_is_in_the_log() {
        let gtid = Gtid::compose(1, Epoch(1), 7);
        let corrupt = StoreError::Corrupt { gtid, reason: "no end".into() };
        let log = logged(|| {
            assert!(status(corrupt.into()).message().contains("the store is lost"));
        });
        assert!(log.contains("ERROR") && log.contains(&format!("gtid={gtid}")), "{log}");
        assert!(log.contains("cannot be read: no end"), "{log}");
        let log = logged(|| drop(status(EngineError::UnknownGtid(gtid))));
        assert_eq!(log, "");
    }
}
