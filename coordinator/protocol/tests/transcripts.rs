//! Golden transcripts: what the coordinator says in typical conversations. They are specification and test at
//! once; `cargo insta review` (or INSTA_UPDATE=always) updates them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::VecDeque;
use std::fmt::Write as _;

use concord_protocol::{
    BranchId, Effect, Event, Forced, Grade, Kind, Millis, Options, Outcome, Record, Reply, Timer,
    Transaction, Verb, Vote,
};

const DEADLINE: Millis = Millis(30_000);

/// A conversation, written down as it goes.
struct Conversation {
    transaction: Transaction,
    text: String,
    now: Millis,
    /// Forced records that the log has not acknowledged, oldest first.
    in_log: VecDeque<Forced>,
}

impl Conversation {
    fn initiator_driven() -> Self {
        Conversation::with(Transaction::begin(options(false, Grade::EarlyVote)))
    }

    /// One that outlives its coordinator.
    fn staying_open() -> Self {
        let options = Options { stays_open: true, ..options(false, Grade::EarlyVote) };
        let mut conversation = Conversation::with(Transaction::begin(options));
        conversation.event("initiator: begin", Event::Begin);
        conversation
    }

    /// Another coordinator goes on with what the log holds.
    fn taken_over(&mut self, records: impl IntoIterator<Item = Record>) -> &mut Self {
        let options = *self.transaction.options();
        self.transaction = Transaction::recover(options, [], records).unwrap();
        self.in_log.clear();
        self.event("another coordinator takes over", Event::Resume)
    }

    fn executed(branches: usize, grade: Grade) -> Self {
        Conversation::executed_as(&vec![Xa; branches], grade)
    }

    fn executed_as(kinds: &[Kind], grade: Grade) -> Self {
        let transaction = Transaction::with_branches(options(true, grade), kinds.iter().copied());
        let mut conversation = Conversation::with(transaction);
        conversation.event("initiator: execute", Event::Execute);
        conversation
    }

    fn recovered(branches: usize, records: impl IntoIterator<Item = Record>) -> Self {
        Conversation::recovered_as(&vec![Xa; branches], records)
    }

    fn recovered_as(kinds: &[Kind], records: impl IntoIterator<Item = Record>) -> Self {
        let records: Vec<Record> = records.into_iter().collect();
        let options = options(true, Grade::EarlyVote);
        let transaction = Transaction::recover(options, kinds.iter().copied(), records.clone()).unwrap();
        let mut conversation = Conversation::with(transaction);
        for record in records {
            writeln!(conversation.text, "log holds: {record:?}").unwrap();
        }
        conversation.event("coordinator: restarts", Event::Resume);
        conversation
    }

    fn with(transaction: Transaction) -> Self {
        Conversation { transaction, text: String::new(), now: Millis(0), in_log: VecDeque::new() }
    }

    fn event(&mut self, said: &str, event: Event) -> &mut Self {
        writeln!(self.text, "{said}").unwrap();
        match self.transaction.step(event, self.now) {
            Ok(effects) => effects.iter().for_each(|effect| self.effect(effect)),
            Err(refusal) => writeln!(self.text, "    refused: {refusal}").unwrap(),
        }
        writeln!(self.text, "    [{:?}]", self.transaction.state()).unwrap();
        self
    }

    fn effect(&mut self, effect: &Effect) {
        let line = match effect {
            Effect::Append { record, forced: Some(forced) } => {
                self.in_log.push_back(*forced);
                format!("log, forced: {record:?}")
            }
            Effect::Append { record, forced: None } => format!("log: {record:?}"),
            Effect::Call { branch, verb, repeated: false } => format!("to branch {branch}: {verb:?}"),
            Effect::Call { branch, verb, repeated: true } => {
                format!("to branch {branch}: {verb:?}, repeated")
            }
            Effect::SetTimer(timer) => format!("timer: {timer:?}"),
            Effect::Tell(milestone) => format!("to initiator: {milestone:?}"),
            Effect::Alarm(branch) => format!("ALARM: branch {branch}"),
        };
        writeln!(self.text, "    {line}").unwrap();
    }

    fn logged(&mut self) -> &mut Self {
        let record = self.in_log.pop_front().expect("nothing waits for the log");
        self.event(&format!("log: durable: {record:?}"), Event::Logged(record))
    }

    fn replied(&mut self, branch: u32, verb: Verb, reply: Reply) -> &mut Self {
        let branch = BranchId(branch);
        self.event(&format!("branch {branch} to {verb:?}: {reply:?}"), Event::Reply { branch, verb, reply })
    }

    fn voted(&mut self, branch: u32, verb: Verb, vote: Vote) -> &mut Self {
        self.replied(branch, verb, Reply::Vote(vote))
    }

    fn ended(&mut self, branch: u32, verb: Verb, outcome: Outcome) -> &mut Self {
        self.replied(branch, verb, Reply::Ended(outcome))
    }

    fn reported(&mut self, branch: u32, vote: Vote) -> &mut Self {
        let branch = BranchId(branch);
        self.event(&format!("branch {branch} reports: {vote:?}"), Event::Voted { branch, vote })
    }

    fn deadline(&mut self) -> &mut Self {
        self.now = DEADLINE;
        self.event("clock: the deadline has come", Event::TimerFired(Timer::Deadline))
    }

    fn retry(&mut self, branch: u32, attempts: u32) -> &mut Self {
        let timer = Timer::Retry { branch: BranchId(branch), attempts };
        self.event(&format!("clock: time to try branch {branch} again"), Event::TimerFired(timer))
    }

    #[track_caller]
    fn check(&self, name: &str) {
        insta::with_settings!({ snapshot_path => "transcripts", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, self.text);
        });
    }
}

fn options(coordinator_driven: bool, grade: Grade) -> Options {
    Options { coordinator_driven, grade, stays_open: false, deadline: DEADLINE, park_after_attempts: None }
}

const LOST: Reply = Reply::Failed { maybe_arrived: true };
const NOT_SENT: Reply = Reply::Failed { maybe_arrived: false };
use Kind::{Tcc, Xa};
use Outcome::{Committed, RolledBack};
use Verb::{
    Cancel, Commit, CommitOnePhase, Confirm, Prepare, Rollback, Try, Work, WorkAndCommit, WorkAndPrepare,
};

#[test]
fn two_branches_commit_with_one_forced_write() {
    Conversation::executed(2, Grade::EarlyVote)
        .voted(1, WorkAndPrepare, Vote::Yes)
        .voted(2, WorkAndPrepare, Vote::Yes)
        .logged()
        .ended(2, Commit, Committed)
        .ended(1, Commit, Committed)
        .check("two_branches_commit");
}

#[test]
fn a_refusal_rolls_the_others_back() {
    Conversation::executed(3, Grade::EarlyVote)
        .voted(1, WorkAndPrepare, Vote::Yes)
        .voted(2, WorkAndPrepare, Vote::No)
        .ended(1, Rollback, RolledBack)
        .event(
            "branch 3 to WorkAndPrepare, too late: yes",
            Event::Reply { branch: BranchId(3), verb: WorkAndPrepare, reply: Reply::Vote(Vote::Yes) },
        )
        .ended(3, Rollback, RolledBack)
        .check("a_refusal");
}

#[test]
fn strict_prepares_nobody_before_everybody_has_worked() {
    Conversation::executed(2, Grade::Strict)
        .replied(1, Work, Reply::Worked)
        .replied(2, Work, Reply::Worked)
        .voted(1, Prepare, Vote::Yes)
        .voted(2, Prepare, Vote::ReadOnly)
        .logged()
        .ended(1, Commit, Committed)
        .check("strict");
}

#[test]
fn read_only_branches_drop_out_and_alone_need_no_forced_write() {
    Conversation::executed(2, Grade::EarlyVote)
        .voted(1, WorkAndPrepare, Vote::ReadOnly)
        .voted(2, WorkAndPrepare, Vote::ReadOnly)
        .check("all_read_only");
}

#[test]
fn a_single_branch_commits_in_one_phase() {
    Conversation::executed(1, Grade::EarlyVote)
        .logged()
        .ended(1, WorkAndCommit, Committed)
        .check("one_phase");
}

#[test]
fn a_one_phase_commit_whose_answer_is_lost_is_asked_again_and_fenced_at_the_deadline() {
    Conversation::executed(1, Grade::EarlyVote)
        .logged()
        .replied(1, WorkAndCommit, LOST)
        .retry(1, 1)
        .deadline()
        .ended(1, Rollback, Committed)
        .check("one_phase_answer_lost");
}

#[test]
fn an_operator_ends_a_one_phase_commit_whose_participant_is_gone_and_nobody_hears_before_it_is_on_disk() {
    for (outcome, name) in
        [(Committed, "one_phase_declared_committed"), (RolledBack, "one_phase_declared_rolled_back")]
    {
        Conversation::executed(1, Grade::EarlyVote)
            .logged()
            .replied(1, WorkAndCommit, LOST)
            .deadline()
            .event("operator: branch 1 has ended", Event::Resolve { branch: BranchId(1), outcome })
            .ended(1, Rollback, RolledBack)
            .logged()
            .check(name);
    }
}

#[test]
fn the_sweeper_finds_out_about_a_one_phase_commit_whose_participant_is_gone() {
    Conversation::executed(1, Grade::EarlyVote)
        .logged()
        .replied(1, WorkAndCommit, LOST)
        .deadline()
        .replied(1, Rollback, LOST)
        .event("sweeper: branch 1 rolled back", Event::Swept { branch: BranchId(1), outcome: RolledBack })
        .check("one_phase_swept");
}

#[test]
fn a_one_phase_commit_that_never_left_ends_at_the_deadline() {
    Conversation::executed(1, Grade::EarlyVote)
        .logged()
        .replied(1, WorkAndCommit, NOT_SENT)
        .deadline()
        .check("one_phase_never_left");
}

#[test]
fn an_initiator_drives_two_branches_one_of_which_votes_early() {
    Conversation::initiator_driven()
        .event("a participant joins", Event::Register(Xa))
        .event("a participant joins", Event::Register(Xa))
        .reported(1, Vote::Yes)
        .reported(1, Vote::Yes)
        .event("initiator: commit", Event::Commit)
        .event("initiator: commit, again", Event::Commit)
        .voted(2, Prepare, Vote::Yes)
        .logged()
        .event("initiator: rollback, too late", Event::Rollback)
        .ended(1, Commit, Committed)
        .ended(2, Commit, Committed)
        .event("initiator: commit, again", Event::Commit)
        .check("initiator_driven");
}

const BEGUN: [Record; 3] = [
    Record::Begun,
    Record::Registered { branch: BranchId(1), kind: Xa },
    Record::Registered { branch: BranchId(2), kind: Tcc },
];

#[test]
fn an_open_transaction_outlives_its_coordinator() {
    Conversation::staying_open()
        .logged()
        .event("a participant joins", Event::Register(Xa))
        .logged()
        .event("a participant joins", Event::Register(Tcc))
        .logged()
        .reported(1, Vote::Yes)
        .event("initiator: commit", Event::Commit)
        .taken_over(BEGUN)
        .event("initiator: commit, again", Event::Commit)
        .voted(1, Prepare, Vote::Yes)
        .voted(2, Try, Vote::Yes)
        .logged()
        .ended(1, Commit, Committed)
        .ended(2, Confirm, Committed)
        .check("stays_open");
}

#[test]
fn a_rollback_of_one_that_stays_open_is_told_when_it_is_on_disk() {
    Conversation::staying_open()
        .logged()
        .event("a participant joins", Event::Register(Xa))
        .logged()
        .event("initiator: rollback", Event::Rollback)
        .reported(1, Vote::Yes)
        .event("initiator: commit, too late", Event::Commit)
        .logged()
        .ended(1, Rollback, RolledBack)
        .event("initiator: commit, again", Event::Commit)
        .check("stays_open_rolled_back");
}

#[test]
fn a_rollback_that_was_not_on_disk_has_never_been_told() {
    Conversation::staying_open()
        .logged()
        .event("a participant joins", Event::Register(Xa))
        .logged()
        .event("a participant joins", Event::Register(Tcc))
        .logged()
        .event("initiator: rollback", Event::Rollback)
        .taken_over(BEGUN)
        .event("initiator: commit, sent before the rollback", Event::Commit)
        .voted(1, Prepare, Vote::Yes)
        .voted(2, Try, Vote::Yes)
        .logged()
        .ended(1, Commit, Committed)
        .ended(2, Confirm, Committed)
        .check("stays_open_taken_over");
}

#[test]
fn that_all_have_only_read_is_told_when_it_is_on_disk_if_another_may_have_taken_over() {
    Conversation::staying_open()
        .logged()
        .event("a participant joins", Event::Register(Xa))
        .logged()
        .reported(1, Vote::ReadOnly)
        .event("initiator: commit", Event::Commit)
        .event("initiator: commit, again", Event::Commit)
        .logged()
        .event("initiator: commit, again", Event::Commit)
        .check("stays_open_only_read");
}

#[test]
fn that_all_have_only_read_is_not_told_by_whom_another_has_taken_over_from() {
    Conversation::staying_open()
        .logged()
        .event("a participant joins", Event::Register(Xa))
        .logged()
        .reported(1, Vote::ReadOnly)
        .event("initiator: commit", Event::Commit)
        .taken_over(BEGUN[..2].to_vec())
        .event("another participant joins", Event::Register(Xa))
        .logged()
        .deadline()
        .logged()
        .check("stays_open_only_read_taken_over");
}

#[test]
fn one_that_stays_open_ends_at_its_deadline() {
    Conversation::staying_open()
        .logged()
        .taken_over(BEGUN[..1].to_vec())
        .deadline()
        .logged()
        .check("stays_open_deadline");
}

#[test]
fn an_initiator_with_one_branch() {
    Conversation::initiator_driven()
        .event("a participant joins", Event::Register(Xa))
        .event("initiator: commit", Event::Commit)
        .event("a participant joins, too late", Event::Register(Xa))
        .logged()
        .ended(1, CommitOnePhase, Committed)
        .check("initiator_driven_one_phase");
}

#[test]
fn a_commit_without_branches_is_refused() {
    Conversation::initiator_driven()
        .event("initiator: commit", Event::Commit)
        .deadline()
        .event("initiator: commit", Event::Commit)
        .check("no_branches");
}

#[test]
fn a_vote_that_comes_after_the_rollback_is_fenced() {
    Conversation::initiator_driven()
        .event("a participant joins", Event::Register(Xa))
        .deadline()
        .reported(1, Vote::Yes)
        .ended(1, Rollback, RolledBack)
        .check("late_vote");
}

#[test]
fn lost_calls_are_repeated_and_a_participant_that_was_never_reached_is_not_waited_for() {
    Conversation::executed(2, Grade::EarlyVote)
        .replied(1, WorkAndPrepare, LOST)
        .replied(2, WorkAndPrepare, NOT_SENT)
        .retry(1, 1)
        .retry(2, 1)
        .replied(2, WorkAndPrepare, NOT_SENT)
        .deadline()
        .replied(1, Rollback, LOST)
        .retry(1, 1)
        .ended(1, Rollback, RolledBack)
        .check("lost_calls");
}

#[test]
fn recovery_with_a_decision_delivers_it() {
    let decided = Record::Decided {
        decision: concord_protocol::Decision::Commit,
        branches: vec![BranchId(1), BranchId(3)],
        cause: None,
    };
    Conversation::recovered(3, [Record::Begun, decided])
        .ended(1, Commit, Committed)
        .replied(3, Commit, LOST)
        .retry(3, 1)
        .ended(3, Commit, Committed)
        .check("recovery_decided");
}

#[test]
fn recovery_without_a_decision_rolls_back() {
    Conversation::recovered(2, [Record::Begun])
        .ended(1, Rollback, RolledBack)
        .ended(2, Rollback, RolledBack)
        .check("recovery_undecided");
}

#[test]
fn recovery_of_a_one_phase_commit_asks_the_participant() {
    Conversation::recovered(1, [Record::Begun, Record::Delegated(BranchId(1))])
        .ended(1, Rollback, Committed)
        .check("recovery_one_phase");
}

#[test]
fn a_branch_that_ends_against_the_decision_is_parked_and_waits_for_an_operator() {
    Conversation::executed(2, Grade::EarlyVote)
        .voted(1, WorkAndPrepare, Vote::Yes)
        .voted(2, WorkAndPrepare, Vote::Yes)
        .event("operator: park, too early", Event::Park)
        .logged()
        .ended(1, Commit, Committed)
        .ended(2, Commit, RolledBack)
        .event("operator: retry now", Event::RetryNow)
        .event(
            "operator: it has been committed by hand",
            Event::Resolve { branch: BranchId(2), outcome: Committed },
        )
        .check("heuristic");
}

#[test]
fn an_operator_parks_and_retries_and_the_sweeper_helps() {
    Conversation::executed(2, Grade::EarlyVote)
        .voted(1, WorkAndPrepare, Vote::Yes)
        .voted(2, WorkAndPrepare, Vote::Yes)
        .logged()
        .replied(1, Commit, LOST)
        .event("operator: park", Event::Park)
        .event("operator: park, once more", Event::Park)
        .retry(1, 1)
        .event("operator: retry now", Event::RetryNow)
        .event("operator: retry now, with both calls under way", Event::RetryNow)
        .event("sweeper: branch 1 committed", Event::Swept { branch: BranchId(1), outcome: Committed })
        .ended(2, Commit, Committed)
        .check("parked_and_swept");
}

#[test]
fn tcc_branches_are_on_disk_before_the_first_try_leaves() {
    Conversation::executed_as(&[Tcc, Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, Try, Vote::Yes)
        .voted(2, Try, Vote::Yes)
        .logged()
        .ended(2, Confirm, Committed)
        .ended(1, Confirm, Committed)
        .check("tcc_confirm");
}

#[test]
fn a_refused_try_cancels_all_even_those_still_trying() {
    Conversation::executed_as(&[Tcc, Tcc, Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, Try, Vote::Yes)
        .voted(2, Try, Vote::No)
        .ended(3, Cancel, RolledBack)
        .voted(3, Try, Vote::Yes)
        .replied(1, Cancel, LOST)
        .retry(1, 1)
        .ended(1, Cancel, RolledBack)
        .check("tcc_refused");
}

#[test]
fn a_try_without_an_answer_is_repeated_until_the_deadline_cancels_it() {
    Conversation::executed_as(&[Tcc, Tcc], Grade::EarlyVote)
        .logged()
        .replied(1, Try, LOST)
        .voted(2, Try, Vote::Yes)
        .retry(1, 1)
        .deadline()
        .voted(1, Try, Vote::Yes)
        .ended(1, Cancel, RolledBack)
        .ended(2, Cancel, RolledBack)
        .check("tcc_timeout");
}

#[test]
fn a_deadline_before_the_branches_are_on_disk_ends_a_transaction_that_called_nobody() {
    Conversation::executed_as(&[Tcc, Tcc], Grade::EarlyVote).deadline().logged().check("tcc_never_called");
}

#[test]
fn a_refused_confirm_parks_the_branch_and_is_never_cancelled() {
    Conversation::executed_as(&[Tcc, Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, Try, Vote::Yes)
        .voted(2, Try, Vote::Yes)
        .logged()
        .ended(1, Confirm, Committed)
        .replied(2, Confirm, Reply::Refused)
        .event("initiator: roll back", Event::Rollback)
        .deadline()
        .event("operator: retry now", Event::RetryNow)
        .replied(2, Confirm, Reply::Refused)
        .event("operator: retry now", Event::RetryNow)
        .ended(2, Confirm, Committed)
        .check("tcc_confirm_refused");
}

#[test]
fn a_cancel_that_finds_the_branch_confirmed_is_a_heuristic_outcome() {
    Conversation::executed_as(&[Tcc, Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, Try, Vote::Yes)
        .voted(2, Try, Vote::No)
        .ended(1, Cancel, Committed)
        .event("operator: seen", Event::Resolve { branch: BranchId(1), outcome: Committed })
        .check("tcc_heuristic");
}

#[test]
fn a_single_tcc_branch_is_not_committed_in_one_phase() {
    Conversation::executed_as(&[Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, Try, Vote::Yes)
        .logged()
        .ended(1, Confirm, Committed)
        .check("tcc_single");
}

#[test]
fn an_order_row_by_xa_and_stock_by_tcc_share_one_decision() {
    Conversation::executed_as(&[Xa, Tcc], Grade::EarlyVote)
        .logged()
        .voted(1, WorkAndPrepare, Vote::Yes)
        .voted(2, Try, Vote::Yes)
        .logged()
        .ended(1, Commit, Committed)
        .ended(2, Confirm, Committed)
        .check("mixed");
}

#[test]
fn strict_mixed_prepares_when_all_have_worked_and_tried() {
    Conversation::executed_as(&[Xa, Tcc], Grade::Strict)
        .logged()
        .replied(1, Work, Reply::Worked)
        .voted(2, Try, Vote::Yes)
        .voted(1, Prepare, Vote::No)
        .ended(2, Cancel, RolledBack)
        .check("mixed_strict");
}

#[test]
fn tcc_driven_by_its_initiator_joins_on_disk_and_is_tried_at_commit_if_it_has_not_voted() {
    Conversation::initiator_driven()
        .event("a TCC participant joins", Event::Register(Tcc))
        .event("an XA participant joins", Event::Register(Xa))
        .event("a TCC participant joins", Event::Register(Tcc))
        .logged()
        .reported(1, Vote::Yes)
        .reported(2, Vote::Yes)
        .event("initiator: commit", Event::Commit)
        .logged()
        .voted(3, Try, Vote::Yes)
        .logged()
        .ended(1, Confirm, Committed)
        .ended(2, Commit, Committed)
        .ended(3, Confirm, Committed)
        .check("tcc_initiator_driven");
}

#[test]
fn a_registration_on_its_way_to_the_disk_is_not_taken_for_the_decision() {
    Conversation::initiator_driven()
        .event("an XA participant joins", Event::Register(Xa))
        .reported(1, Vote::Yes)
        .event("a TCC participant joins", Event::Register(Tcc))
        .reported(2, Vote::Yes)
        .event("initiator: roll back", Event::Rollback)
        .logged()
        .ended(1, Rollback, RolledBack)
        .ended(2, Cancel, RolledBack)
        .check("tcc_late_registration");
}

#[test]
fn recovery_without_a_decision_cancels_every_tcc_branch() {
    Conversation::recovered_as(&[Tcc, Xa], [Record::Begun])
        .ended(1, Cancel, RolledBack)
        .ended(2, Rollback, RolledBack)
        .check("tcc_recovery_undecided");
}

#[test]
fn recovery_with_a_decision_confirms_and_leaves_what_is_parked() {
    let decided = Record::Decided {
        decision: concord_protocol::Decision::Commit,
        branches: vec![BranchId(1), BranchId(2)],
        cause: None,
    };
    Conversation::recovered_as(&[Tcc, Tcc], [Record::Begun, decided, Record::BranchParked(BranchId(2))])
        .ended(1, Confirm, Committed)
        .event("operator: retry now", Event::RetryNow)
        .ended(2, Confirm, Committed)
        .check("tcc_recovery_decided");
}

#[test]
fn a_rollback_that_cannot_be_sent_says_nothing_about_the_one_phase_commit_before_it() {
    Conversation::executed(1, Grade::EarlyVote)
        .logged()
        .deadline()
        .replied(1, Rollback, NOT_SENT)
        // The one-phase commit is still under way: nobody may be told that it is rolled back.
        .event("initiator: roll back", Event::Rollback)
        .ended(1, WorkAndCommit, Committed)
        .check("one_phase_overtaken");
}
