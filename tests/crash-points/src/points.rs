//! The table of all crash points.

/// Every point. The first part of a name says where it is: in the coordinator, in the participant SDK, in its XA driver
/// (which the coordinator's sweeper uses too), in its TCC barrier.
pub const POINTS: &[&str] = &[
    // The coordinator hands a record of a kind to the store: before, and after it is queued.
    "coordinator/log-before/begun",
    "coordinator/log-before/registered",
    "coordinator/log-before/delegated",
    "coordinator/log-before/decided-commit",
    "coordinator/log-before/decided-rollback",
    "coordinator/log-before/branch-ended",
    "coordinator/log-before/branch-parked",
    "coordinator/log-before/retried",
    "coordinator/log-before/ended",
    "coordinator/log-queued/begun",
    "coordinator/log-queued/registered",
    "coordinator/log-queued/delegated",
    "coordinator/log-queued/decided-commit",
    "coordinator/log-queued/decided-rollback",
    "coordinator/log-queued/branch-ended",
    "coordinator/log-queued/branch-parked",
    "coordinator/log-queued/retried",
    "coordinator/log-queued/ended",
    // A record that something waits for is durable; nobody has been told yet.
    "coordinator/log-durable/begun",
    "coordinator/log-durable/registered",
    "coordinator/log-durable/delegated",
    "coordinator/log-durable/decided-commit",
    // The store's writer: before the SQL commit, and between it and the acknowledgement.
    "coordinator/writer-before/forced",
    "coordinator/writer-before/lazy",
    "coordinator/writer-committed/forced",
    "coordinator/writer-committed/lazy",
    // A call is about to leave; its answer has arrived and has not stepped the protocol yet. A coordinator dies
    // between the two when a participant's `received` kills it.
    "coordinator/send/Work",
    "coordinator/send/WorkAndPrepare",
    "coordinator/send/Prepare",
    "coordinator/send/WorkAndCommit",
    "coordinator/send/CommitOnePhase",
    "coordinator/send/Commit",
    "coordinator/send/Rollback",
    "coordinator/send/Try",
    "coordinator/send/Confirm",
    "coordinator/send/Cancel",
    "coordinator/reply/Work",
    "coordinator/reply/WorkAndPrepare",
    "coordinator/reply/Prepare",
    "coordinator/reply/WorkAndCommit",
    "coordinator/reply/CommitOnePhase",
    "coordinator/reply/Commit",
    "coordinator/reply/Rollback",
    "coordinator/reply/Try",
    "coordinator/reply/Confirm",
    "coordinator/reply/Cancel",
    // A call of an initiator's or a participant's has come in; its answer is about to leave.
    "coordinator/received/Begin",
    "coordinator/received/RegisterBranch",
    "coordinator/received/ReportVote",
    "coordinator/received/Commit",
    "coordinator/received/Rollback",
    "coordinator/received/Execute",
    "coordinator/received/Inquire",
    "coordinator/answer/Begin",
    "coordinator/answer/RegisterBranch",
    "coordinator/answer/ReportVote",
    "coordinator/answer/Commit",
    "coordinator/answer/Rollback",
    "coordinator/answer/Execute",
    "coordinator/answer/Inquire",
    // At its start.
    "coordinator/epoch/before",
    "coordinator/epoch/raised",
    "coordinator/recovery/loaded",
    "coordinator/recovery/resume",
    "coordinator/recovery/resumed",
    "coordinator/recovery/done",
    // Its sweeper ends a branch that it has found.
    "coordinator/sweeper/before",
    "coordinator/sweeper/after",
    // A call of the coordinator's has come in; its answer is about to leave.
    "participant/received/Work",
    "participant/received/Prepare",
    "participant/received/Commit",
    "participant/received/Rollback",
    "participant/received/Try",
    "participant/received/Confirm",
    "participant/received/Cancel",
    "participant/answer/Work",
    "participant/answer/Prepare",
    "participant/answer/Commit",
    "participant/answer/Rollback",
    "participant/answer/Try",
    "participant/answer/Confirm",
    "participant/answer/Cancel",
    // Its own calls of the coordinator.
    "participant/register/before",
    "participant/register/after",
    "participant/report/before",
    "participant/report/after",
    "participant/inquire/before",
    "participant/inquire/after",
    // Its recovery ends a branch that it has found.
    "participant/sweep/before",
    "participant/sweep/after",
    // It deletes rows of the barrier table.
    "participant/purge/deleted",
    "participant/purge/committed",
    // Round trips to the database: XA START with the work; XA START or the work, then END and PREPARE; the same with
    // COMMIT ONE PHASE; END and ROLLBACK of a branch that is not prepared; COMMIT and ROLLBACK of one that is, on the
    // session that holds it or on any; the tombstone.
    "xa/work/before",
    "xa/work/after",
    "xa/prepare/before",
    "xa/prepare/after",
    "xa/one-phase/before",
    "xa/one-phase/after",
    "xa/abort/before",
    "xa/abort/after",
    "xa/owner/before",
    "xa/owner/after",
    "xa/commit/before",
    "xa/commit/after",
    "xa/rollback/before",
    "xa/rollback/after",
    "xa/tombstone/before",
    "xa/tombstone/after",
    // Local transactions: before the first statement, which is the barrier's; after it and before the handler; after
    // the handler and before COMMIT; after COMMIT.
    "tcc/try/before",
    "tcc/try/row",
    "tcc/try/done",
    "tcc/try/committed",
    "tcc/refuse/before",
    "tcc/refuse/row",
    "tcc/refuse/committed",
    "tcc/confirm/before",
    "tcc/confirm/row",
    "tcc/confirm/done",
    "tcc/confirm/committed",
    "tcc/cancel/before",
    "tcc/cancel/row",
    "tcc/cancel/done",
    "tcc/cancel/committed",
    "tcc/tombstone/row",
    "tcc/tombstone/committed",
];

/// Those that are reached only where a prepared branch stays with its session: on MariaDB.
pub const MARIADB_ONLY: &[&str] = &["xa/owner/before", "xa/owner/after"];

/// Whether a point of this name is in the table.
pub const fn is_known(name: &str) -> bool {
    let mut index = 0;
    while index < POINTS.len() {
        if same(POINTS[index].as_bytes(), name.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

/// `==` is not for constant functions yet.
const fn same(one: &[u8], two: &[u8]) -> bool {
    if one.len() != two.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != two[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        let names: std::collections::BTreeSet<_> = POINTS.iter().collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(MARIADB_ONLY.iter().all(|name| is_known(name)));
        assert!(!is_known("xa/prepare") && !is_known(""));
    }
}
