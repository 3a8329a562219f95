//! TCC branches, alone and beside XA branches.

use super::*;
use crate::engine::Order;
use crate::logged::Logging;
use concord_protocol::{BranchState, Decision, Refusal};

#[tokio::test(start_paused = true)]
async fn two_branches_are_confirmed_with_two_syncs() {
    let world = World::new().await;
    let before = world.store.counters().syncs;
    let done = world.execute(&[T, U]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    assert_eq!(world.store.counters().syncs - before, 2);
    assert!(done.branches.iter().all(|branch| branch.spec.kind == Kind::Tcc && branch.reply == "payload"));
    assert_eq!(verbs(&world, done.gtid), [Verb::Try, Verb::Try, Verb::Confirm, Verb::Confirm]);
}

#[tokio::test(start_paused = true)]
async fn no_try_leaves_before_its_branch_is_on_disk() {
    let world = World::new().await;
    world.store.pause();
    {
        let execute = world.execute(&[T, A]);
        tokio::pin!(execute);
        assert!(tokio::time::timeout(Duration::from_secs(20), &mut execute).await.is_err());
        assert!(world.actors.calls.lock().unwrap().is_empty(), "called before the branches are on disk");
        world.store.resume();
        assert_eq!(execute.await.unwrap().state, State::Committed);
    }
    let gtid = world.engine.begin(BeginRequest::default()).await.unwrap().id;
    world.store.pause();
    let join = world.register(gtid, T);
    tokio::pin!(join);
    assert!(tokio::time::timeout(Duration::from_secs(20), &mut join).await.is_err());
    world.store.resume();
    assert_eq!(join.await.unwrap(), BranchId(1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_try_cancels_the_others() {
    let world = World::new().await;
    world.actors.script(U, Script::Refuse);
    let done = world.execute(&[T, A, U]).await.unwrap();
    assert_eq!((done.state, done.decision()), (State::RolledBack, Some(Decision::Rollback)));
    assert_eq!(done.reason, "branch 3 (work at http://tcc-2) refused: insufficient funds");
    let calls = world.actors.calls(done.gtid);
    assert!(calls.contains(&(1, Verb::Cancel)) && calls.contains(&(2, Verb::Rollback)), "{calls:?}");
    assert!(!calls.contains(&(3, Verb::Cancel)), "it has refused by itself: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn xa_and_tcc_branches_share_one_decision() {
    let world = World::new().await;
    let done = world.execute(&[A, T]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    let mut calls = world.actors.calls(done.gtid);
    calls.sort_by_key(|(branch, _)| *branch);
    let expected = [(1, Verb::WorkAndPrepare), (1, Verb::Commit), (2, Verb::Try), (2, Verb::Confirm)];
    assert_eq!(calls, expected);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_confirm_and_cancel_still_know_their_payload() {
    let world = World::new().await;
    world.actors.script(T, Script::HangOn(Verb::Confirm));
    let decided = world.execute_keyed(&[T, U], "", Wait::Decided).await.unwrap();
    let undecided = world.engine.begin(BeginRequest::default()).await.unwrap().id;
    world.register(undecided, U).await.unwrap();
    world.actors.work.lock().unwrap().clear();
    let world = world.crash().await;
    world.actors.script(T, Script::Agree);
    world.reaches(decided.gtid, State::Committed).await;
    world.reaches(undecided, State::RolledBack).await;
    let mut work = world.actors.work.lock().unwrap().clone();
    work.sort_by_key(|(verb, ..)| *verb == Verb::Cancel);
    let payload = Bytes::from_static(b"payload");
    let confirm = (Verb::Confirm, "work".to_owned(), payload.clone());
    let cancel = (Verb::Cancel, "reserve".to_owned(), payload);
    // That U had been confirmed was nowhere on record: it is asked again.
    assert_eq!(work, [confirm.clone(), confirm, cancel]);
    assert_eq!(verbs(&world, undecided), [Verb::Cancel]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_confirm_waits_for_an_operator_and_is_never_cancelled() {
    let world = World::new().await;
    world.actors.script(U, Script::RefuseConfirm);
    let log = Logging::start();
    let parked = world.execute(&[T, U]).await.unwrap();
    assert_eq!((parked.state, parked.parked, parked.heuristic), (State::Committing, true, false));
    let log = log.text();
    assert!(log.contains("decision=\"committed\" reason=\"the warehouse has burnt down\""), "{log}");
    let world = world.crash_keeping(usize::MAX).await;
    // A restart does not ask again by itself.
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(world.engine.statistics().refused, 0);
    let (parked, history) = world.engine.get(parked.gtid).await.unwrap();
    assert!(parked.parked);
    assert_eq!(parked.branches[1].last_error, "the warehouse has burnt down");
    assert!(history.iter().any(|event| event.detail == "branch 2 parked: the warehouse has burnt down"));
    assert_eq!(world.engine.statistics().parked, 1);
    let order = || Order { operator: "ada".into(), reason: String::new() };
    world.engine.retry(parked.gtid, order()).await.unwrap();
    let refused_again = async {
        while world.engine.statistics().refused == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused_again).await.unwrap();
    let late = world.engine.rollback(parked.gtid, String::new(), Wait::Decided, None).await;
    assert!(matches!(late, Err(EngineError::Refused { refusal: Refusal::AlreadyCommitted, .. })));
    world.actors.script(U, Script::Agree);
    world.engine.retry(parked.gtid, order()).await.unwrap();
    let done = world.reaches(parked.gtid, State::Committed).await;
    assert!(!done.heuristic && done.branches.iter().all(|branch| branch.state == BranchState::Committed));
    assert!(!verbs(&world, done.gtid).contains(&Verb::Cancel));
}

#[tokio::test(start_paused = true)]
async fn an_initiator_drives_tcc_branches() {
    let world = World::new().await;
    let gtid = world.joined(&[T, U]).await;
    // A repeat is the same branch; another content under the same key is a mistake.
    assert_eq!(world.register(gtid, T).await.unwrap(), BranchId(1));
    for other in [
        RegisterRequest { payload: Bytes::from_static(b"other"), ..joining(gtid, T) },
        RegisterRequest { action: "other".into(), ..joining(gtid, T) },
        RegisterRequest { kind: Kind::Xa, ..joining(gtid, T) },
    ] {
        let refused = world.engine.register(other).await;
        assert!(
            matches!(refused, Err(EngineError::Invalid { field: "registration_key", .. })),
            "{refused:?}"
        );
    }
    let large = RegisterRequest {
        payload: vec![0; 1 << 20].into(),
        registration_key: "large".into(),
        ..joining(gtid, T)
    };
    let refused = world.engine.register(large).await;
    assert!(matches!(refused, Err(EngineError::Invalid { field: "payload", .. })), "{refused:?}");
    world.engine.vote(gtid, BranchId(1), Vote::Yes, String::new()).await.unwrap();
    assert_eq!(world.engine.commit(gtid, Wait::Completed, None).await.unwrap().state, State::Committed);
    let mut calls = world.actors.calls(gtid);
    calls.sort_by_key(|(branch, _)| *branch);
    // The one that had not voted is tried, which is safe to repeat.
    assert_eq!(calls, [(1, Verb::Confirm), (2, Verb::Try), (2, Verb::Confirm)]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cancels_what_was_tried_and_the_sweeper_has_no_part_in_it() {
    let world = World::new().await;
    world.actors.script(U, Script::HangOn(Verb::Try));
    let execute = world.execute(&[T, U, A]).await.unwrap();
    assert_eq!(execute.state, State::RolledBack);
    assert_eq!(execute.reason, format!("timed out after 30000 ms, before branch 2 (work at {U}) had voted"));
    world.actors.script(T, Script::HangOn(Verb::Confirm));
    world.actors.script(U, Script::Agree);
    world.execute_keyed(&[T, A], "", Wait::Decided).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.engine.stuck(Duration::ZERO).is_empty(), "no resource lists a TCC branch");
}

fn verbs(world: &World, gtid: Gtid) -> Vec<Verb> {
    world.actors.calls(gtid).into_iter().map(|(_, verb)| verb).collect()
}
