//! Between the protocol's records and the stored ones, in both directions.

use bytes::Bytes;
use concord_proto::store::{self, record::Kind as RecordKind};
use concord_proto::v1::BranchKind;
use concord_protocol::{
    BadLog, BranchId, Decision, Grade, Kind, Millis, Options, Outcome, Record, Source, Transaction,
};

use super::live::BranchExtra;
use super::snapshot::{BranchSnapshot, BranchSpec, Header, Snapshot};
use crate::store::{StoreError, Stored, UnixMillis};

/// What a stored record needs beyond what the protocol knows.
pub(crate) struct Context<'a> {
    pub(crate) header: &'a Header,
    /// All of the transaction's branches, in the order of their ids.
    pub(crate) branches: &'a [BranchSpec],
    /// What else is known of them, in the same order.
    pub(crate) extras: &'a [BranchExtra],
    /// How many of them came with the request.
    pub(crate) begun_with: usize,
    /// Why it is rolled back.
    pub(crate) reason: &'a str,
    /// The operator whose order this is, and why; empty otherwise.
    pub(crate) operator: (&'a str, &'a str),
}

/// The stored form of a record.
pub(crate) fn to_store(record: &Record, context: &Context<'_>) -> store::Record {
    let (operator, why) = (context.operator.0.to_owned(), context.operator.1.to_owned());
    let kind = match record {
        Record::Begun => RecordKind::Begun(begun(context)),
        Record::Registered { branch: id, kind: _ } => {
            RecordKind::Registered(store::Registered { branch: branch(*id, context) })
        }
        Record::Delegated(id) => RecordKind::Delegated(store::Delegated { branch_id: id.0 }),
        Record::Decided { decision, branches, cause: _ } => RecordKind::Decided(store::Decided {
            commit: *decision == Decision::Commit,
            branches: branches.iter().map(|id| id.0).collect(),
            reason: context.reason.to_owned(),
        }),
        Record::BranchEnded { branch, outcome, source, heuristic } => {
            RecordKind::BranchEnded(store::BranchEnded {
                branch_id: branch.0,
                committed: *outcome == Outcome::Committed,
                source: source_to_store(*source).into(),
                heuristic: *heuristic,
                operator,
                reason: why,
            })
        }
        // Parked by nobody's order: its last answer says why.
        Record::BranchParked(id) => RecordKind::BranchParked(store::BranchParked {
            branch_id: id.0,
            reason: if operator.is_empty() { context.last_error(*id) } else { why },
            operator,
        }),
        Record::Retried => RecordKind::Retried(store::Retried { operator }),
        Record::Ended(outcome) => RecordKind::Ended(store::Ended {
            committed: *outcome == Outcome::Committed,
            reason: context.reason.to_owned(),
            troubles: context.troubles(),
        }),
    };
    store::Record { kind: Some(kind) }
}

fn begun(context: &Context<'_>) -> store::Begun {
    let Header { name, timeout_ms, grade, stays_open, idempotency_key, content_hash, begun_at, tenant } =
        context.header;
    let ids = (1u32..).map(BranchId).take(context.begun_with);
    store::Begun {
        name: name.clone(),
        timeout_ms: *timeout_ms,
        grade: grade_to_store(*grade),
        idempotency_key: idempotency_key.clone(),
        content_hash: content_hash.clone().into(),
        branches: ids.filter_map(|id| branch(id, context)).collect(),
        stays_open: *stays_open,
        tenant: tenant.clone(),
        begun_at_ms: begun_at.0,
    }
}

impl Context<'_> {
    fn last_error(&self, id: BranchId) -> String {
        let extra = index(id).and_then(|index| self.extras.get(index));
        extra.map(|extra| extra.last_error.to_string()).unwrap_or_default()
    }

    fn troubles(&self) -> Vec<store::Trouble> {
        let all = (1u32..).zip(self.extras).map(|(branch_id, extra)| store::Trouble {
            branch_id,
            failed_calls: extra.failed_calls,
            last_error: extra.last_error.to_string(),
        });
        all.filter(|trouble| trouble.failed_calls > 0 || !trouble.last_error.is_empty()).collect()
    }
}

fn index(id: BranchId) -> Option<usize> {
    usize::try_from(id.0.checked_sub(1)?).ok()
}

fn branch(id: BranchId, context: &Context<'_>) -> Option<store::BranchSpec> {
    let spec = context.branches.get(index(id)?)?;
    let (kind, payload) = match spec.kind {
        Kind::Xa => (BranchKind::Xa, Bytes::new()),
        // Confirm and Cancel are called with it, after a restart too.
        Kind::Tcc => (BranchKind::Tcc, context.extras.get(index(id)?)?.payload.clone()),
    };
    Some(store::BranchSpec {
        branch_id: id.0,
        kind: kind.into(),
        participant: spec.participant.to_string(),
        action: spec.action.to_string(),
        registration_key: spec.registration_key.to_string(),
        payload,
    })
}

fn grade_to_store(grade: Grade) -> i32 {
    match grade {
        Grade::EarlyVote => concord_proto::v1::Grade::EarlyVote.into(),
        Grade::Strict => concord_proto::v1::Grade::Strict.into(),
    }
}

fn source_to_store(source: Source) -> store::Source {
    match source {
        Source::Participant => store::Source::Participant,
        Source::Sweeper => store::Source::Sweeper,
        Source::Operator => store::Source::Operator,
    }
}

/// A transaction rebuilt from its stored records.
pub(crate) struct Rebuilt {
    pub(crate) header: Header,
    /// With the payloads of TCC branches, and what is on record of their troubles.
    pub(crate) branches: Vec<(BranchSpec, BranchExtra)>,
    pub(crate) begun_with: usize,
    pub(crate) transaction: Transaction,
    pub(crate) reason: String,
    pub(crate) decided_at: Option<UnixMillis>,
    pub(crate) ended_at: Option<UnixMillis>,
}

/// Rebuilds a transaction, at this time of the engine's clock.
///
/// # Errors
/// [`StoreError::Corrupt`] when the records contradict each other or cannot be understood.
pub(crate) fn rebuild(
    stored: &Stored,
    park_after_attempts: Option<u32>,
    now: Millis,
) -> Result<Rebuilt, StoreError> {
    let corrupt = |reason: String| StoreError::Corrupt { gtid: stored.gtid, reason: reason.into() };
    let Some((written_at, store::Record { kind: Some(RecordKind::Begun(begun)) })) = stored.records.first()
    else {
        return Err(corrupt("its first record is not its beginning".into()));
    };
    let unknown = || corrupt("a branch of a kind not known here".into());
    let read = |branch: &store::BranchSpec| spec(branch).ok_or_else(unknown);
    let mut branches = begun.branches.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let begun_with = branches.len();
    let (mut reason, mut decided_at, mut ended_at) = (String::new(), None, None);
    let mut records = Vec::with_capacity(stored.records.len());
    for (at, record) in &stored.records {
        let kind = record.kind.as_ref().ok_or_else(|| corrupt("a record of a kind not known here".into()))?;
        match kind {
            RecordKind::Registered(store::Registered { branch: Some(branch) }) => {
                branches.push(read(branch)?)
            }
            RecordKind::Decided(decided) => {
                decided_at = Some(*at);
                reason.clone_from(&decided.reason);
            }
            RecordKind::BranchParked(parked) => {
                if let Some(extra) = extra(&mut branches, parked.branch_id) {
                    extra.last_error = match parked.operator.as_str() {
                        // For what it had last said.
                        "" => parked.reason.as_str().into(),
                        operator => parked_by(operator, &parked.reason).into(),
                    };
                }
            }
            RecordKind::Ended(ended) => {
                for trouble in &ended.troubles {
                    if let Some(extra) = extra(&mut branches, trouble.branch_id) {
                        extra.failed_calls = trouble.failed_calls;
                        extra.last_error = trouble.last_error.as_str().into();
                    }
                }
                ended_at = Some(*at);
                decided_at = decided_at.or(Some(*at));
                if !ended.reason.is_empty() {
                    reason.clone_from(&ended.reason);
                }
            }
            _ => {}
        }
        records.push(from_store(kind).ok_or_else(|| corrupt(format!("not understood: {kind:?}")))?);
    }
    let grade = match concord_proto::v1::Grade::try_from(begun.grade) {
        Ok(concord_proto::v1::Grade::Strict) => Grade::Strict,
        _ => Grade::EarlyVote,
    };
    let options = Options {
        coordinator_driven: begun_with > 0,
        grade,
        stays_open: begun.stays_open,
        // What stays open has all of its time again: the clock that it began by may have been another machine's. All else
        // that is undecided is rolled back at once.
        deadline: now.plus(Millis(begun.timeout_ms.into())),
        park_after_attempts,
    };
    let kinds: Vec<Kind> = branches[..begun_with].iter().map(|(spec, _)| spec.kind).collect();
    let transaction =
        Transaction::recover(options, kinds, records).map_err(|bad: BadLog| corrupt(bad.to_string()))?;
    let header = Header {
        name: begun.name.clone(),
        timeout_ms: begun.timeout_ms,
        grade,
        stays_open: begun.stays_open,
        idempotency_key: begun.idempotency_key.clone(),
        content_hash: begun.content_hash.to_vec(),
        begun_at: began_at(begun, *written_at),
        tenant: begun.tenant.clone(),
    };
    Ok(Rebuilt { header, branches, begun_with, transaction, reason, decided_at, ended_at })
}

/// The record of its beginning may have been written later: when somebody joined, or when it ended.
fn began_at(begun: &store::Begun, written_at: UnixMillis) -> UnixMillis {
    match begun.begun_at_ms {
        0 => written_at,
        at => UnixMillis(at),
    }
}

fn extra(branches: &mut [(BranchSpec, BranchExtra)], id: u32) -> Option<&mut BranchExtra> {
    branches.get_mut(index(BranchId(id))?).map(|(_, extra)| extra)
}

fn spec(branch: &store::BranchSpec) -> Option<(BranchSpec, BranchExtra)> {
    let spec = BranchSpec {
        kind: kind_from_store(branch)?,
        participant: branch.participant.as_str().into(),
        action: branch.action.as_str().into(),
        registration_key: branch.registration_key.as_str().into(),
    };
    Some((spec, BranchExtra { payload: branch.payload.clone(), ..BranchExtra::default() }))
}

fn kind_from_store(branch: &store::BranchSpec) -> Option<Kind> {
    match BranchKind::try_from(branch.kind).ok()? {
        BranchKind::Unspecified => None,
        BranchKind::Xa => Some(Kind::Xa),
        BranchKind::Tcc => Some(Kind::Tcc),
    }
}

fn from_store(kind: &RecordKind) -> Option<Record> {
    let outcome = |committed| if committed { Outcome::Committed } else { Outcome::RolledBack };
    Some(match kind {
        RecordKind::Begun(_) => Record::Begun,
        RecordKind::Registered(registered) => {
            let branch = registered.branch.as_ref()?;
            Record::Registered { branch: BranchId(branch.branch_id), kind: kind_from_store(branch)? }
        }
        RecordKind::Delegated(delegated) => Record::Delegated(BranchId(delegated.branch_id)),
        RecordKind::Decided(decided) => Record::Decided {
            decision: if decided.commit { Decision::Commit } else { Decision::Rollback },
            branches: decided.branches.iter().copied().map(BranchId).collect(),
            cause: None,
        },
        RecordKind::BranchEnded(ended) => Record::BranchEnded {
            branch: BranchId(ended.branch_id),
            outcome: outcome(ended.committed),
            source: match store::Source::try_from(ended.source).ok()? {
                store::Source::Participant => Source::Participant,
                store::Source::Sweeper => Source::Sweeper,
                store::Source::Operator => Source::Operator,
            },
            heuristic: ended.heuristic,
        },
        RecordKind::BranchParked(parked) => Record::BranchParked(BranchId(parked.branch_id)),
        RecordKind::Retried(_) => Record::Retried,
        RecordKind::Ended(ended) => Record::Ended(outcome(ended.committed)),
    })
}

/// Why a branch is parked, by whose order.
pub(crate) fn parked_by(operator: &str, reason: &str) -> String {
    match reason {
        "" => format!("parked by {operator}"),
        reason => format!("parked by {operator}: {reason}"),
    }
}

/// One line of a transaction's history.
#[derive(Debug, Clone)]
pub struct HistoryEvent {
    /// When.
    pub at: UnixMillis,
    /// A stable name.
    pub kind: &'static str,
    /// One sentence.
    pub detail: String,
}

/// A transaction's history, for people.
pub(crate) fn history(stored: &Stored) -> Vec<HistoryEvent> {
    let event = |(at, record): &(UnixMillis, store::Record)| {
        let record = record.kind.as_ref()?;
        let at = match record {
            RecordKind::Begun(begun) => began_at(begun, *at),
            _ => *at,
        };
        let (kind, detail) = describe(record);
        Some(HistoryEvent { at, kind, detail })
    };
    stored.records.iter().filter_map(event).collect()
}

fn branches(count: usize) -> String {
    match count {
        1 => "1 branch".to_owned(),
        _ => format!("{count} branches"),
    }
}

fn describe(kind: &RecordKind) -> (&'static str, String) {
    let ended = |committed| if committed { "committed" } else { "rolled back" };
    let by = |operator: &str| if operator.is_empty() { String::new() } else { format!(" by {operator}") };
    let because = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match kind {
        RecordKind::Begun(begun) if begun.branches.is_empty() => ("begun", "begun by its initiator".into()),
        RecordKind::Begun(begun) => ("begun", format!("begun with {}", branches(begun.branches.len()))),
        RecordKind::Registered(registered) => match &registered.branch {
            Some(spec) => {
                ("registered", format!("branch {} joined from {}", spec.branch_id, spec.participant))
            }
            None => ("registered", "a branch joined".into()),
        },
        RecordKind::Delegated(delegated) => {
            ("delegated", format!("branch {}, the only one, commits in one phase", delegated.branch_id))
        }
        RecordKind::Decided(decided) if decided.commit => {
            ("decided", format!("decided: commit, {} to tell", branches(decided.branches.len())))
        }
        RecordKind::Decided(decided) => {
            ("decided", format!("decided: roll back{}", because(&decided.reason)))
        }
        RecordKind::BranchEnded(branch) => {
            let source = match store::Source::try_from(branch.source) {
                Ok(store::Source::Sweeper) => "; the sweeper saw so on its resource",
                Ok(store::Source::Operator) => "; an operator said so",
                _ => "",
            };
            let against = if branch.heuristic { ", against the decision" } else { "" };
            let text = format!(
                "branch {} {}{against}{source}{}{}",
                branch.branch_id,
                ended(branch.committed),
                by(&branch.operator),
                because(&branch.reason),
            );
            ("branch_ended", text)
        }
        RecordKind::BranchParked(parked) => {
            let text = format!(
                "branch {} parked{}{}",
                parked.branch_id,
                by(&parked.operator),
                because(&parked.reason)
            );
            ("parked", text)
        }
        RecordKind::Retried(retried) => {
            ("retried", format!("every unfinished branch retried{}", by(&retried.operator)))
        }
        RecordKind::Ended(end) => {
            let troubles = end.troubles.iter().filter(|trouble| trouble.failed_calls > 0).map(|trouble| {
                let store::Trouble { branch_id, failed_calls, last_error } = trouble;
                let calls = if *failed_calls == 1 { "call" } else { "calls" };
                format!("; branch {branch_id} after {failed_calls} failed {calls}{}", because(last_error))
            });
            let troubles: String = troubles.collect();
            ("ended", format!("{}{}{troubles}", ended(end.committed), because(&end.reason)))
        }
    }
}

/// How a transaction that is not in memory is shown.
///
/// # Errors
/// As [`rebuild`].
pub(crate) fn snapshot(stored: &Stored) -> Result<Snapshot, StoreError> {
    // Nothing is retried any more, so nothing is parked for having been retried too often.
    let Rebuilt { header, branches, transaction, reason, decided_at, ended_at, .. } =
        rebuild(stored, None, Millis(0))?;
    let branches = transaction.branches().zip(branches).map(|((id, branch), (spec, extra))| BranchSnapshot {
        id,
        spec,
        state: branch.state(),
        parked: branch.is_parked(),
        attempts: extra.failed_calls,
        next_attempt_at: None,
        last_error: extra.last_error.into(),
        reply: Bytes::new(),
    });
    Ok(Snapshot {
        gtid: stored.gtid,
        state: transaction.state(),
        parked: transaction.is_parked(),
        heuristic: transaction.is_heuristic(),
        reason,
        branches: branches.collect(),
        decided_at,
        ended_at,
        header,
    })
}
