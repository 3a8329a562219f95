//! The table of seeded bugs.

/// Where a bug sits, and with it which layers of tests are near it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// The state machine of one transaction.
    Protocol,
    /// The coordinator around it: requests, recovery, inquiry.
    Engine,
    /// The coordinator's log.
    Store,
    /// The coordinator's sweeper.
    Sweeper,
    /// XA branches in the participant's database.
    Xa,
    /// The participant: handlers, recovery.
    Participant,
    /// The TCC barrier.
    Barrier,
}

/// A bug on purpose.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// Its name.
    pub name: &'static str,
    /// Where it sits.
    pub home: Home,
    /// What the code does wrong.
    pub what: &'static str,
}

const fn bug(name: &'static str, home: Home, what: &'static str) -> Bug {
    Bug { name, home, what }
}

/// All of them.
pub const BUGS: &[Bug] = &[
    bug(
        "decision-not-forced",
        Home::Protocol,
        "commits are told and delivered before the decision is on disk",
    ),
    bug("tries-before-the-log", Home::Protocol, "Try is called before the branch is on disk"),
    bug("a-vote-is-missing", Home::Protocol, "the last vote is not waited for"),
    bug("no-is-yes", Home::Protocol, "a vote of no counts as a yes"),
    bug("commit-after-abort", Home::Protocol, "a commit asked for after the rollback commits"),
    bug(
        "open-rollback-not-forced",
        Home::Protocol,
        "a rollback is told before it is on disk, of a transaction that another coordinator may leave open",
    ),
    bug(
        "open-commit-not-forced",
        Home::Protocol,
        "that nobody wrote is told before it is on disk, of a transaction that another coordinator may leave open",
    ),
    bug(
        "open-branch-not-forced",
        Home::Protocol,
        "a branch has joined before it is on disk, in a transaction that another coordinator may leave open",
    ),
    bug("deadline-beats-decision", Home::Protocol, "the deadline rolls a decided commit back"),
    bug(
        "rollback-in-the-logs-hands",
        Home::Protocol,
        "a rollback overtakes the decision that is being written",
    ),
    bug("read-only-gets-commit", Home::Protocol, "phase two goes to branches that only read"),
    bug("retry-without-fence", Home::Protocol, "a lost one-phase commit counts as rolled back"),
    bug("confirm-refusal-cancels", Home::Protocol, "a refused Confirm turns the transaction into a rollback"),
    bug("ends-before-last-ack", Home::Protocol, "the end is recorded when the first branch has answered"),
    bug("heuristic-unnoticed", Home::Protocol, "a branch that ended the other way counts as done"),
    bug("recovery-commits", Home::Protocol, "a restart commits what was not decided"),
    bug("duplicate-answered-early", Home::Engine, "a repeated Commit is answered before the decision"),
    bug(
        "unknown-is-committed",
        Home::Engine,
        "asked about what it does not know, the coordinator says committed",
    ),
    bug(
        "key-answered-off-the-record",
        Home::Engine,
        "a key is answered for before its transaction is on record, on a store where the key may be another's by now",
    ),
    bug(
        "store-asked-first",
        Home::Engine,
        "whether an epoch is over is asked after the store was: what it wrote in between counts as rolled back",
    ),
    bug(
        "undecided-is-rolled-back",
        Home::Engine,
        "asked about what is undecided, the coordinator says rolled back",
    ),
    bug(
        "answers-for-all-branches",
        Home::Engine,
        "asked about a branch that only read, it answers for the others",
    ),
    bug("recovery-forgets", Home::Engine, "a restart does not deliver what was decided"),
    bug("key-forgotten", Home::Engine, "an idempotency key begins a second transaction"),
    bug("ack-before-sync", Home::Store, "the log acknowledges before it has synced"),
    bug("no-safety-interval", Home::Sweeper, "the sweeper ends branches as soon as it sees them"),
    bug("foreign-xids", Home::Sweeper, "the sweeper touches branches of other coordinators"),
    bug("sweeper-guesses", Home::Sweeper, "the sweeper rolls back what is undecided"),
    bug("no-sweeper", Home::Sweeper, "nobody looks after branches whose participant is gone"),
    bug("nota-is-success", Home::Xa, "XAER_NOTA to a commit counts as success"),
    bug("no-marker-row", Home::Xa, "an XA branch leaves no marker row"),
    bug("no-tombstone", Home::Xa, "a rollback leaves no tombstone"),
    bug("failed-prepare-is-yes", Home::Xa, "a PREPARE that failed counts as a yes"),
    bug("rows-not-counted", Home::Xa, "nobody looks how many rows a statement matched"),
    bug("rollback-waits-for-work", Home::Participant, "a rollback does not fence the work under way"),
    bug("repeat-runs-again", Home::Participant, "a repeated one-phase commit is run again"),
    bug("recovery-guesses", Home::Participant, "a participant's recovery rolls back what is undecided"),
    bug("no-barrier-row", Home::Barrier, "Try, Confirm and Cancel run without a look at the barrier"),
    bug("refusal-not-recorded", Home::Barrier, "a refused Try is forgotten"),
    bug("empty-cancel-forgotten", Home::Barrier, "a Cancel that comes before its Try leaves nothing"),
    bug("confirm-blind", Home::Barrier, "Confirm does not look whether it has been done"),
    bug("confirm-without-try", Home::Barrier, "a Confirm without a Try counts as done"),
    bug("purge-too-early", Home::Barrier, "rows of transactions that have not ended are purged"),
];

/// Whether a bug of this name is in the table.
pub const fn is_known(name: &str) -> bool {
    let mut index = 0;
    while index < BUGS.len() {
        if same(BUGS[index].name.as_bytes(), name.as_bytes()) {
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
        let names: std::collections::BTreeSet<_> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        assert!(!is_known("no-bug") && !is_known(""));
    }

    #[test]
    fn this_build_has_none() {
        assert!(cfg!(feature = "enabled") || !crate::seeded_bug!("no-marker-row"));
    }
}
