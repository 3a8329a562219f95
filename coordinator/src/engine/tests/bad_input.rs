//! Everything that must be refused, with nothing begun.

use super::*;
use concord_protocol::{Epoch, Refusal};

fn refusal(result: Result<impl std::fmt::Debug, EngineError>) -> Refusal {
    match result {
        Err(EngineError::Refused { refusal, .. }) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn gtids_that_nobody_issued() {
    let world = World::new().await;
    let now = world.engine.epoch();
    let ours = Gtid::compose(1, now, 1);
    let done = world.engine.commit(ours, Wait::Completed, None).await;
    assert!(matches!(done, Err(EngineError::UnknownGtid(gtid)) if gtid == ours));
    // Of an epoch that has ended: rolled back, for ever.
    let earlier = Gtid::compose(1, Epoch(now.0 - 1), 1);
    let done = world.engine.commit(earlier, Wait::Completed, None).await;
    assert!(matches!(done, Err(EngineError::RolledBack { .. })), "{done:?}");
    for gtid in [ours, earlier] {
        assert!(matches!(world.engine.watch(gtid).await.err(), Some(EngineError::UnknownGtid(_))));
        assert!(matches!(world.engine.get(gtid).await.err(), Some(EngineError::UnknownGtid(_))));
    }
    // Of an epoch to come, because the store was set back: any doubt wins.
    let later = Gtid::compose(1, Epoch(now.0 + 1), 1);
    assert_eq!(world.engine.inquire(later).await.unwrap().verdict, crate::engine::Verdict::Undecided);
}

#[tokio::test(start_paused = true)]
async fn wrong_states() {
    let world = World::new().await;
    let empty = world.joined(&[]).await;
    assert_eq!(refusal(world.engine.commit(empty, Wait::Completed, None).await), Refusal::NoBranches);
    let gtid = world.joined(&[A, B]).await;
    assert_eq!(
        refusal(world.engine.vote(gtid, BranchId(3), Vote::Yes, String::new()).await),
        Refusal::UnknownBranch
    );
    assert_eq!(
        refusal(world.engine.vote(gtid, BranchId(0), Vote::Yes, String::new()).await),
        Refusal::UnknownBranch
    );
    world.engine.vote(gtid, BranchId(1), Vote::Yes, String::new()).await.unwrap();
    assert_eq!(
        refusal(world.engine.vote(gtid, BranchId(1), Vote::ReadOnly, String::new()).await),
        Refusal::VoteConflict
    );
    assert_eq!(refusal(world.engine.park(gtid, Default::default()).await), Refusal::NotDecided);
    world.engine.commit(gtid, Wait::Completed, None).await.unwrap();
    assert_eq!(refusal(world.register(gtid, "http://c").await), Refusal::NotActive);
}

#[tokio::test(start_paused = true)]
async fn a_participant_that_registers_twice_gets_the_same_branch() {
    let world = World::new().await;
    let gtid = world.joined(&[A, B]).await;
    assert_eq!(world.register(gtid, A).await.unwrap(), BranchId(1));
    assert_eq!(world.register(gtid, B).await.unwrap(), BranchId(2));
}

#[tokio::test(start_paused = true)]
async fn too_much_or_nothing() {
    let world = World::new().await;
    let invalid = |result: Result<Snapshot, EngineError>, field: &str| match result {
        Err(EngineError::Invalid { field: found, .. }) => assert_eq!(found, field),
        other => panic!("not refused: {other:?}"),
    };
    invalid(world.execute(&[]).await, "branches");
    invalid(world.execute(&vec![A; 1_001]).await, "branches");
    let mut large = branches(&[A, B]);
    large[1].payload = Bytes::from(vec![0; 1 << 20]);
    let request = BeginRequest::default();
    let result = world.engine.execute(request, Grade::EarlyVote, large, Wait::Completed, None).await;
    invalid(result, "branches.payload");
    let request = BeginRequest { timeout_ms: 86_400_001, ..BeginRequest::default() };
    assert!(matches!(
        world.engine.begin(request).await,
        Err(EngineError::Invalid { field: "timeout_ms", .. })
    ));
    let strange = world.execute(&[A, "ftp://elsewhere"]).await;
    assert!(matches!(strange, Err(EngineError::NotAllowed(address)) if address == "ftp://elsewhere"));
    assert_eq!(world.engine.statistics().begun, 0, "nothing has begun");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_branches_are_fine() {
    let world = World::new().await;
    let done = world.execute(&vec![A; 1_000]).await.unwrap();
    assert_eq!(done.state, State::Committed);
    assert_eq!(world.actors.calls(done.gtid).len(), 2_000);
}

#[tokio::test(start_paused = true)]
async fn past_the_limit_new_transactions_are_refused_at_once() {
    let world = World::new().await;
    for _ in 0..2_000 {
        world.joined(&[]).await;
    }
    let refused = world.engine.begin(BeginRequest::default()).await;
    assert!(matches!(refused, Err(EngineError::TooManyLive(2_000))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn while_draining_nothing_new_begins_and_the_old_may_end() {
    let world = World::new().await;
    let gtid = world.joined(&[A, B]).await;
    world.engine.stop_beginning();
    let (drained, ()) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(5), world.engine.drained()), async {
            let refused = world.engine.begin(BeginRequest::default()).await;
            assert!(matches!(refused, Err(EngineError::ShuttingDown)));
            world.engine.commit(gtid, Wait::Completed, None).await.unwrap();
        });
    drained.expect("drained before its grace was over");
}
