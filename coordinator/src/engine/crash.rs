//! What crash points call the protocol's records.

use concord_protocol::{Decision, Effect, Forced, Record};

/// The kinds of a step's records, in order.
pub(super) fn records(effects: &[Effect]) -> impl Iterator<Item = &'static str> {
    let appended = |effect: &Effect| match effect {
        Effect::Append { record, .. } => Some(kind(record)),
        _ => None,
    };
    effects.iter().filter_map(appended)
}

fn kind(record: &Record) -> &'static str {
    match record {
        Record::Begun => "begun",
        Record::Registered { .. } => "registered",
        Record::Delegated(_) => "delegated",
        Record::Decided { decision: Decision::Commit, .. } => "decided-commit",
        Record::Decided { decision: Decision::Rollback, .. } => "decided-rollback",
        Record::BranchEnded { .. } => "branch-ended",
        Record::BranchParked(_) => "branch-parked",
        Record::Retried => "retried",
        Record::Ended(_) => "ended",
    }
}

/// The kind of a record that something waits for.
pub(super) fn forced(record: Forced) -> &'static str {
    match record {
        Forced::Begun => "begun",
        Forced::Registered(_) => "registered",
        Forced::Delegated => "delegated",
        Forced::Decided => "decided-commit",
        Forced::Ended => "ended",
    }
}
