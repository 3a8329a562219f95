//! What callers are told, and when.

use super::*;
use crate::engine::{HistoryEvent, Order, Verdict};
use crate::logged::Logging;
use crate::resource::{Branches, Sweeper};
use crate::store::UnixMillis;
use concord_protocol::{Decision, Epoch, Refusal};
use concord_xa::{Holding, InDoubt, RawXid, Resolution, XaError, Xid};

#[tokio::test(start_paused = true)]
async fn two_branches_commit_with_one_sync() {
    let world = World::new().await;
    let before = world.store.counters().syncs;
    let done = world.execute(&[A, B]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    assert_eq!(world.store.counters().syncs - before, 1);
    assert!(done.branches.iter().all(|branch| branch.reply == "payload"));
    let calls = world.actors.calls(done.gtid);
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[2..].iter().filter(|call| call.1 == Verb::Commit).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_and_nothing_leaves_before_the_decision_is_on_disk() {
    let world = World::new().await;
    world.store.pause();
    let gtid = world.joined(&[A, B]).await;
    {
        let commit = world.engine.commit(gtid, Wait::Decided, None);
        tokio::pin!(commit);
        assert!(tokio::time::timeout(Duration::from_secs(20), &mut commit).await.is_err());
        assert_eq!(world.engine.inquire(gtid).await.unwrap().verdict, Verdict::Undecided);
        assert!(world.actors.calls(gtid).iter().all(|(_, verb)| *verb == Verb::Prepare));
        world.store.resume();
        assert_eq!(commit.await.unwrap().decision(), Some(Decision::Commit));
    }
    world.reaches(gtid, State::Committed).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_outcome_with_its_reason() {
    let world = World::new().await;
    world.actors.script(B, Script::Refuse);
    let done = world.execute(&[A, B]).await.unwrap();
    assert_eq!(done.state, State::RolledBack);
    assert_eq!(done.reason, "branch 2 (work at http://b) refused: insufficient funds");
    assert_eq!(world.engine.inquire(done.gtid).await.unwrap().verdict, Verdict::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn read_only_branches_are_not_told_to_commit() {
    let world = World::new().await;
    world.actors.script(B, Script::ReadOnly);
    let done = world.execute(&[A, B]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    assert!(!world.actors.calls(done.gtid).contains(&(2, Verb::Commit)));
    // Nor after a crash: it has no marker row, and would look like a loss.
    world.actors.script(A, Script::HangOn(Verb::Commit));
    let stuck = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    let world = world.crash().await;
    world.actors.script(A, Script::Agree);
    world.reaches(stuck.gtid, State::Committed).await;
    assert!(!world.actors.calls(stuck.gtid).contains(&(2, Verb::Commit)));
}

#[tokio::test(start_paused = true)]
async fn on_a_shared_store_it_is_on_disk_that_nobody_wrote_before_anybody_hears_of_it() {
    let world = World::on(MemoryStore::new().shared(), Arc::default()).await;
    for participant in [A, B] {
        world.actors.script(participant, Script::ReadOnly);
    }
    let gtid = world.joined(&[A, B]).await;
    world.store.pause();
    {
        let commit = world.engine.commit(gtid, Wait::Decided, None);
        tokio::pin!(commit);
        assert!(tokio::time::timeout(Duration::from_secs(20), &mut commit).await.is_err());
        assert_eq!(world.engine.inquire(gtid).await.unwrap().verdict, Verdict::Undecided);
        world.store.resume();
        assert_eq!(commit.await.unwrap().state, State::Committed);
    }
    // It leaves memory as all others do, and is history.
    tokio::time::timeout(Duration::from_secs(20), world.engine.drained()).await.expect("it ends");
    assert_eq!(world.engine.commit(gtid, Wait::Completed, None).await.unwrap().state, State::Committed);
    // Nobody was called but for its vote.
    assert_eq!(world.actors.calls(gtid), [(1, Verb::Prepare), (2, Verb::Prepare)]);
}

/// Should this coordinator have been taken over from, what is not on record never was, and its key is another's.
#[tokio::test(start_paused = true)]
async fn on_a_shared_store_a_key_is_answered_for_once_its_transaction_is_on_record() {
    let world = World::on(MemoryStore::new().shared(), Arc::default()).await;
    for (a, b, state) in [
        (Script::Refuse, Script::Agree, State::RolledBack),
        (Script::ReadOnly, Script::ReadOnly, State::Committed),
    ] {
        world.actors.script(A, a);
        world.actors.script(B, b);
        world.store.pause();
        {
            let key = format!("{state:?}");
            let done = world.execute_keyed(&[A, B], &key, Wait::Decided);
            tokio::pin!(done);
            assert!(tokio::time::timeout(Duration::from_secs(20), &mut done).await.is_err());
            world.store.resume();
            assert_eq!(done.await.unwrap().state, state);
        }
    }
    world.store.fail_next("it was taken over from");
    let refused = world.execute_keyed(&[A, B], "another", Wait::Decided).await;
    assert!(matches!(refused, Err(EngineError::Store(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn one_branch_commits_in_one_call() {
    let world = World::new().await;
    let done = world.execute(&[A]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    assert_eq!(world.actors.calls(done.gtid), [(1, Verb::WorkAndCommit)]);
}

#[tokio::test(start_paused = true)]
async fn an_initiator_commits_and_repeats_itself() {
    let world = World::new().await;
    let gtid = world.joined(&[A, B]).await;
    world.engine.vote(gtid, BranchId(1), Vote::Yes, String::new()).await.unwrap();
    for _ in 0..3 {
        let done = world.engine.commit(gtid, Wait::Completed, None).await.unwrap();
        assert_eq!(done.state, State::Committed);
    }
    assert!(!world.actors.calls(gtid).contains(&(1, Verb::Prepare)), "it had voted");
    // Also once it has left memory, and after a restart.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.engine.statistics().live, 0);
    assert_eq!(world.engine.commit(gtid, Wait::Completed, None).await.unwrap().state, State::Committed);
    let refused = world.engine.rollback(gtid, String::new(), Wait::Completed, None).await;
    assert!(matches!(refused, Err(EngineError::Refused { refusal: Refusal::AlreadyCommitted, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_commit_after_a_rollback_is_refused_for_ever() {
    let world = World::new().await;
    let gtid = world.joined(&[A]).await;
    world.engine.rollback(gtid, "changed my mind".into(), Wait::Completed, None).await.unwrap();
    let refused = world.engine.commit(gtid, Wait::Completed, None).await;
    assert!(
        matches!(refused, Err(EngineError::RolledBack { ref reason, .. }) if reason == "changed my mind")
    );
    let lost = world.joined(&[A]).await;
    let world = world.crash().await;
    for gtid in [gtid, lost] {
        let refused = world.engine.commit(gtid, Wait::Completed, None).await;
        assert!(matches!(refused, Err(EngineError::RolledBack { .. })), "{refused:?}");
        assert_eq!(world.engine.inquire(gtid).await.unwrap().verdict, Verdict::RolledBack);
    }
}

#[tokio::test(start_paused = true)]
async fn an_undecided_transaction_times_out_and_says_whom_it_has_waited_for() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::WorkAndPrepare));
    for (participants, awaited) in [
        (&[A, B][..], "branch 2 (work at http://b) had voted"),
        (&[B, A, B], "branch 1 (work at http://b) and branch 3 (work at http://b) had voted"),
        (
            &[B, B, B, B, B, A],
            "branch 1 (work at http://b) and branch 2 (work at http://b) and branch 3 (work at http://b) and \
             2 more had voted",
        ),
    ] {
        let done = world.execute(participants).await.unwrap();
        assert_eq!(done.state, State::RolledBack);
        assert_eq!(done.reason, format!("timed out after 30000 ms, before {awaited}"));
    }
    world.actors.script(B, Script::FailOn(Verb::WorkAndPrepare));
    let done = world.execute(&[A, B]).await.unwrap();
    let reason = "timed out after 30000 ms, before branch 2 (work at http://b) had voted: no answer";
    assert_eq!(done.reason, reason);
    let idle = world.engine.begin(BeginRequest { timeout_ms: 10, ..BeginRequest::default() }).await.unwrap();
    let idle = world.reaches(idle.id, State::RolledBack).await;
    assert_eq!(idle.reason, "timed out after 10 ms, before its commit was asked for");
}

#[tokio::test(start_paused = true)]
async fn one_that_commits_in_one_phase_while_its_time_runs_out_has_no_reason_to_be_rolled_back() {
    let world = World::new().await;
    world.actors.script(A, Script::Hang);
    let execute = world.execute(&[A]);
    tokio::pin!(execute);
    assert!(tokio::time::timeout(Duration::from_secs(20), &mut execute).await.is_err());
    assert_eq!(world.engine.census().outcome_unknown, 0, "it may yet be in time");
    assert!(tokio::time::timeout(Duration::from_secs(20), &mut execute).await.is_err());
    assert_eq!(world.engine.census().outcome_unknown, 1);
    let overdue = world.engine.overdue(Duration::ZERO, 1);
    let reason = "timed out after 30000 ms, before branch 1 (work at http://a), which commits in one phase, had answered";
    assert_eq!((overdue[0].state, &*overdue[0].reason), (State::Preparing, reason));
    world.actors.script(A, Script::Agree);
    let done = execute.await.unwrap();
    assert_eq!(world.engine.census().outcome_unknown, 0);
    let calls = world.actors.calls(done.gtid);
    assert_eq!(calls, [(1, Verb::WorkAndCommit), (1, Verb::Rollback)], "answered in this order");
    assert_eq!((done.state, &*done.reason), (State::Committed, ""));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_too_a_one_phase_commit_says_whom_it_waits_for() {
    let world = World::new().await;
    world.actors.script(A, Script::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(1), world.execute(&[A])).await.is_err());
    let world = world.crash().await;
    let overdue = world.engine.overdue(Duration::ZERO, 1);
    let reason = "the coordinator restarted before branch 1 (work at http://a), which commits in one phase, had answered";
    assert_eq!((overdue[0].state, &*overdue[0].reason), (State::Preparing, reason));
    assert_eq!(world.engine.census().outcome_unknown, 1);
}

#[tokio::test(start_paused = true)]
async fn who_answers_again_is_called_at_once() {
    let world = World::new().await;
    world.actors.script(B, Script::FailOn(Verb::Commit));
    let waiting = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap().gtid;
    tokio::time::sleep(Duration::from_secs(600)).await;
    world.actors.script(B, Script::Agree);
    let start = tokio::time::Instant::now();
    let calls = world.actors.calls(waiting).len();
    world.engine.call_again(A);
    tokio::task::yield_now().await;
    assert_eq!(world.actors.calls(waiting).len(), calls, "that is somebody else");
    world.engine.call_again(B);
    world.reaches(waiting, State::Committed).await;
    assert_eq!(world.actors.calls(waiting).len(), calls + 1);
    assert_eq!(start.elapsed(), Duration::ZERO, "the next attempt was half a minute away");
    // The timer that was set before finds nothing to do.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.actors.calls(waiting).len(), calls + 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_is_on_disk_before_it_is_said_to_be_carried_out() {
    let order = || Order { operator: "ann".into(), reason: "ticket 5".into() };
    let by_ann = |history: &[HistoryEvent]| history.iter().any(|event| event.detail.contains("by ann"));
    let world = World::new().await;
    world.actors.script(B, Script::FailOn(Verb::Commit));
    let waiting = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap().gtid;
    world.store.pause();
    let mut park = Box::pin(world.engine.park(waiting, order()));
    assert!(park.as_mut().now_or_never().is_none(), "it is not on disk");
    world.store.resume();
    assert!(park.await.unwrap().parked);
    // Nothing that was not synced survives.
    let world = world.crash().await;
    let (snapshot, history) = world.engine.get(waiting).await.unwrap();
    assert!(snapshot.parked && by_ann(&history), "{history:?}");
    assert_eq!(snapshot.branches[1].last_error, "parked by ann: ticket 5");
    let outcome = Outcome::Committed;
    world.engine.resolve(waiting, Some(BranchId(2)), outcome, order()).await.unwrap();
    let world = world.crash().await;
    // The other one is asked once more how it has ended; this one is not called again.
    world.reaches(waiting, State::Committed).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_of_an_end_that_an_operator_declares_before_it_is_on_disk() {
    for outcome in [Outcome::Committed, Outcome::RolledBack] {
        let world = World::new().await;
        world.actors.script(A, Script::Hang);
        let mut waiting = Box::pin(world.execute(&[A]));
        assert!(tokio::time::timeout(Duration::from_secs(60), waiting.as_mut()).await.is_err());
        let gtid = world.engine.overdue(Duration::ZERO, 1)[0].gtid;
        world.store.pause();
        let order = Order { operator: "ann".into(), ..Order::default() };
        let mut resolve = Box::pin(world.engine.resolve(gtid, None, outcome, order));
        assert!(resolve.as_mut().now_or_never().is_none(), "it is not on disk");
        // What its participant says now comes too late.
        world.actors.script(A, Script::Agree);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(waiting.as_mut().now_or_never().is_none(), "the initiator was told");
        assert_eq!(world.engine.get(gtid).await.unwrap().0.state, State::Preparing);
        world.store.resume();
        let state = resolve.await.unwrap().state;
        assert_eq!(state, waiting.await.unwrap().state);
        assert_eq!(state, if outcome == Outcome::Committed { State::Committed } else { State::RolledBack });
        let world = world.crash().await;
        let (snapshot, history) = world.engine.get(gtid).await.unwrap();
        assert_eq!(snapshot.state, state, "{history:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_decision_does_not_hide_what_has_led_to_it() {
    let world = World::new().await;
    world.actors.script(A, Script::FailOn(Verb::Rollback));
    world.actors.script(B, Script::Misunderstand(Verb::WorkAndPrepare));
    let mut waiting = Box::pin(world.execute_keyed(&[A, B], "", Wait::Decided));
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting.as_mut()).await.is_err());
    world.actors.script(B, Script::HangOn(Verb::WorkAndPrepare));
    let rolled_back = waiting.await.unwrap();
    world.actors.script(B, Script::FailOn(Verb::WorkAndPrepare));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (snapshot, history) = world.engine.get(rolled_back.gtid).await.unwrap();
    let late = |event: &HistoryEvent| event.detail.contains("branch 2") && event.detail.contains("no answer");
    assert!(history.iter().any(late), "{history:?}");
    assert_eq!(snapshot.branches[1].last_error, "what?");
}

#[tokio::test(start_paused = true)]
async fn when_it_began_is_on_record_though_that_is_written_later() {
    let world = World::new().await;
    let begun = world.engine.begin(BeginRequest::default()).await.unwrap();
    let begun_at = UnixMillis(begun.id.unix_ms());
    while UnixMillis::now().0 < begun_at.0 + 50 {
        std::thread::yield_now();
    }
    world.register(begun.id, A).await.unwrap();
    world.engine.rollback(begun.id, String::new(), Wait::Completed, None).await.unwrap();
    world.engine.on_disk().await.unwrap();
    let world = world.crash().await;
    let (snapshot, history) = world.engine.get(begun.id).await.unwrap();
    assert!(snapshot.header.begun_at.0.abs_diff(begun_at.0) < 40, "{snapshot:?}");
    assert_eq!((history[0].kind, history[0].at), ("begun", snapshot.header.begun_at));
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_does_not_answer_says_when_it_is_called_next() {
    let (world, before) = (World::new().await, UnixMillis::now());
    world.actors.script(B, Script::FailOn(Verb::Commit));
    let waiting = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap().gtid;
    let next = async || {
        let (snapshot, _) = world.engine.get(waiting).await.unwrap();
        let [a, b] = [0, 1].map(|one| snapshot.branches[one].next_attempt_at);
        assert_eq!(a, None, "it has committed");
        b
    };
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Only tokio's clock has jumped ahead.
    let pause = next().await.unwrap().0 - before.0;
    assert!((15_000..60_000).contains(&pause), "{pause}");
    world.actors.script(B, Script::HangOn(Verb::Commit));
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(next().await, None, "a call is under way");
}

#[tokio::test(start_paused = true)]
async fn what_went_wrong_on_the_way_is_on_record_of_one_that_has_ended() {
    let world = World::new().await;
    world.actors.script(A, Script::Misunderstand(Verb::Commit));
    world.actors.script(B, Script::FailOn(Verb::Commit));
    let decided = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (_, history) = world.engine.get(decided.gtid).await.unwrap();
    let told = |kind: &str| -> Vec<&str> {
        history.iter().filter(|event| event.kind == kind).map(|event| &*event.detail).collect()
    };
    assert!(history.is_sorted_by_key(|event| event.at));
    assert_eq!(history[0].kind, "begun");
    let failed = told("call_failed");
    assert!((10..=50).contains(&failed.len()), "{failed:?}");
    assert!(
        failed.iter().all(|detail| *detail == "branch 2, asked to commit: no answer: no answer"),
        "{failed:?}"
    );
    world.actors.script(A, Script::Agree);
    world.actors.script(B, Script::Agree);
    let in_memory = world.reaches(decided.gtid, State::Committed).await;
    while world.engine.statistics().live > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (on_record, history) = world.engine.get(decided.gtid).await.unwrap();
    let troubles = |snapshot: &Snapshot| -> Vec<(u32, String)> {
        let branches = snapshot.branches.iter();
        branches.map(|branch| (branch.attempts, branch.last_error.clone())).collect()
    };
    let [a, b] = [0, 1].map(|at: usize| in_memory.branches[at].attempts);
    assert!(a > 1 && b > 1, "{in_memory:?}");
    assert_eq!(troubles(&in_memory), [(a, "what?".to_owned()), (b, "no answer".to_owned())]);
    assert_eq!(troubles(&on_record), troubles(&in_memory));
    let ended = format!(
        "committed; branch 1 after {a} failed calls: what?; branch 2 after {b} failed calls: no answer"
    );
    assert_eq!(history.last().unwrap().detail, ended);
}

#[tokio::test(start_paused = true)]
async fn decided_answers_before_phase_two_and_completed_settles_for_it_at_the_callers_deadline() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::Commit));
    let decided = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    assert_eq!(decided.state, State::Committing);
    let until = Some(tokio::time::Instant::now() + Duration::from_secs(2));
    let settled = world.engine.commit(decided.gtid, Wait::Completed, until).await.unwrap();
    assert_eq!(settled.state, State::Committing);
    world.actors.script(B, Script::Agree);
    world.reaches(decided.gtid, State::Committed).await;
}

/// A duplicate of its call may run when its participant has forgotten the first, and prepare something.
#[tokio::test(start_paused = true)]
async fn a_branch_that_only_read_is_no_part_of_the_decision() {
    let world = World::new().await;
    world.actors.script(B, Script::ReadOnly);
    world.actors.script(A, Script::HangOn(Verb::Commit));
    let live = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap().gtid;
    let verdict =
        async |gtid, branch| world.engine.inquire_branch(gtid, Some(BranchId(branch))).await.unwrap().verdict;
    assert_eq!((verdict(live, 1).await, verdict(live, 2).await), (Verdict::Committed, Verdict::RolledBack));
    world.actors.script(A, Script::Agree);
    let ended = world.execute(&[A, B]).await.unwrap().gtid;
    world.actors.script(A, Script::ReadOnly);
    let all_read = world.execute(&[A, B]).await.unwrap().gtid;
    for gtid in [ended, all_read] {
        // From memory, and from the store when it has left that.
        for _ in 0..2 {
            let first = if gtid == ended { Verdict::Committed } else { Verdict::RolledBack };
            assert_eq!((verdict(gtid, 1).await, verdict(gtid, 2).await), (first, Verdict::RolledBack));
            assert_eq!(verdict(gtid, 3).await, Verdict::RolledBack, "there is no such branch");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert!(world.engine.inquire(gtid).await.unwrap().ended);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_answers_with_the_first_outcome() {
    let world = World::new().await;
    let first = world.execute_keyed(&[A, B], "k1", Wait::Completed).await.unwrap();
    let again = world.execute_keyed(&[A, B], "k1", Wait::Completed).await.unwrap();
    assert_eq!((again.gtid, again.state), (first.gtid, State::Committed));
    let other = world.execute_keyed(&[A], "k1", Wait::Completed).await;
    assert!(matches!(other, Err(EngineError::KeyReused { gtid, .. }) if gtid == first.gtid), "{other:?}");
    // Once it is history, and after a crash, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let world = world.crash().await;
    let again = world.execute_keyed(&[A, B], "k1", Wait::Completed).await.unwrap();
    assert_eq!((again.gtid, again.state), (first.gtid, State::Committed));
    assert_eq!(
        world.actors.calls(first.gtid).iter().filter(|call| call.1 == Verb::WorkAndPrepare).count(),
        2
    );
}

#[tokio::test]
async fn concurrent_calls_with_one_key_run_once() {
    let world = World::new().await;
    let calls = (0..32).map(|_| world.execute_keyed(&[A, B], "same", Wait::Completed));
    let gtids: Vec<Gtid> =
        futures_util::future::join_all(calls).await.into_iter().map(|done| done.unwrap().gtid).collect();
    assert!(gtids.iter().all(|gtid| *gtid == gtids[0]));
    assert_eq!(world.actors.calls(gtids[0]).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_history_tells_the_story_operators_included() {
    let world = World::new().await;
    world.actors.script(B, Script::BreakPromise);
    let logging = Logging::start();
    let stuck = world.execute(&[A, B]).await.unwrap();
    assert!(stuck.parked && stuck.heuristic && stuck.state == State::Committing, "{stuck:?}");
    assert_eq!(world.engine.statistics().heuristic, 1);
    let order = Order { operator: "ann".into(), reason: "booked by hand".into() };
    let resolved = world.engine.resolve(stuck.gtid, None, Outcome::Committed, order).await.unwrap();
    assert_eq!((resolved.state, resolved.parked), (State::Committed, false));
    let log = logging.text();
    assert!(log.contains("outcome=\"rolled_back\" decision=\"committed\""), "{log}");
    assert!(log.contains("reason=\"booked by hand\" order=\"resolve branch 2 as committed\""), "{log}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, history) = world.engine.get(stuck.gtid).await.unwrap();
    let story: Vec<String> =
        history.iter().map(|event| format!("{}: {}", event.kind, event.detail)).collect();
    assert_eq!(
        story,
        [
            "begun: begun with 2 branches",
            "decided: decided: commit, 2 branches to tell",
            "branch_ended: branch 2 rolled back, against the decision",
            "branch_ended: branch 2 committed; an operator said so by ann: booked by hand",
            "ended: committed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_ends_a_branch_whose_participant_never_comes_back() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::Commit));
    let decided = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    assert!(world.engine.stuck(Duration::from_secs(15)).is_empty(), "its participant is not late yet");
    // The wall clock stands still meanwhile (tokio's is another), as after a jump backwards: it does not count.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stuck = world.engine.stuck(Duration::from_secs(15));
    assert_eq!(stuck.len(), 1);
    assert_eq!((stuck[0].gtid, stuck[0].branch, &*stuck[0].participant), (decided.gtid, BranchId(2), B));
    world.engine.swept(decided.gtid, BranchId(2), Outcome::Committed);
    world.reaches(decided.gtid, State::Committed).await;
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_ends_a_one_phase_commit_whose_participant_never_comes_back() {
    for outcome in [Outcome::Committed, Outcome::RolledBack] {
        let world = World::new().await;
        // Its answer is lost; and so is what the coordinator asks about it later.
        world.actors.script(A, Script::Hang);
        let begun = world.execute_keyed(&[A], "", Wait::Decided);
        assert!(tokio::time::timeout(Duration::from_secs(50), begun).await.is_err());
        let stuck = world.engine.stuck(Duration::from_secs(10));
        let [one] = stuck.as_slice() else { panic!("{stuck:?}") };
        assert_eq!((one.decision, &*one.participant), (Decision::Rollback, A), "it is fenced");
        world.engine.swept(one.gtid, one.branch, outcome);
        let state = if outcome == Outcome::Committed { State::Committed } else { State::RolledBack };
        world.reaches(one.gtid, state).await;
    }
}

/// Between a look at the store and the end of the epoch that issued it, it may have been decided.
#[tokio::test(start_paused = true)]
async fn rolled_back_is_presumed_only_of_an_epoch_that_was_over_before_the_store_was_asked() {
    let world = World::new().await;
    let [inquired, committed] = [7, 8].map(|epoch| Gtid::compose(1, Epoch(epoch), 1));
    world.store.ends_soon(inquired.epoch());
    assert_eq!(world.engine.inquire(inquired).await.unwrap().verdict, Verdict::Undecided);
    assert_eq!(world.engine.inquire(inquired).await.unwrap().verdict, Verdict::RolledBack);
    world.store.ends_soon(committed.epoch());
    let commit = || world.engine.commit(committed, Wait::Decided, None);
    assert!(matches!(commit().await, Err(EngineError::UnknownGtid(_))));
    assert!(matches!(commit().await, Err(EngineError::RolledBack { .. })));
}

/// A database that lists a prepared branch and does as it is told.
#[derive(Default)]
pub(super) struct Prepared(Mutex<Vec<(&'static str, Xid)>>);

impl Branches for Prepared {
    async fn holding(&self, _: &Xid) -> Result<Holding, XaError> {
        Ok(Holding::Here(Duration::from_secs(60)))
    }

    async fn commit(&self, xid: &Xid) -> Resolution {
        self.0.lock().unwrap().push(("commit", *xid));
        Resolution::Committed { reply: Default::default() }
    }

    async fn rollback(&self, xid: &Xid) -> Resolution {
        self.0.lock().unwrap().push(("rollback", *xid));
        Resolution::RolledBack { reason: "told to".into() }
    }
}

/// As where a coordinator was lost with the branch's vote, and its successor commits the branch, alone, in one phase.
#[tokio::test(start_paused = true)]
async fn the_sweeper_fences_a_one_phase_commit_whose_branch_is_prepared() {
    let world = World::new().await;
    world.actors.script(A, Script::Hang);
    let begun = world.execute_keyed(&[A], "", Wait::Decided);
    assert!(tokio::time::timeout(Duration::from_secs(50), begun).await.is_err());
    let stuck = world.engine.stuck(Duration::from_secs(10));
    let [one] = stuck.as_slice() else { panic!("{stuck:?}") };
    let xid = Xid { cluster: world.engine.cluster_id(), gtid: one.gtid, branch: one.branch };
    let listed = [InDoubt { raw: RawXid::from(&xid), xid: Some(xid) }];
    let (database, sweeper) = (Prepared::default(), Sweeper::new("db".into(), xid.cluster, vec![A.into()]));
    sweeper.sweep(&world.engine, &database, &listed, Duration::ZERO).await;
    assert_eq!(*database.0.lock().unwrap(), [("rollback", xid)]);
    world.reaches(xid.gtid, State::RolledBack).await;
}
