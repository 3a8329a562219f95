//! Crashes and failures of the store.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_decided_is_delivered_after_a_crash_and_the_rest_rolled_back() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::Commit));
    let decided = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    world.actors.script(A, Script::HangOn(Verb::WorkAndPrepare));
    let undecided = {
        let request = BeginRequest::default();
        let until = Some(tokio::time::Instant::now() + Duration::from_secs(1));
        let execute =
            world.engine.execute(request, Grade::EarlyVote, branches(&[A, B]), Wait::Decided, until);
        match execute.await {
            Err(EngineError::StillUndecided(gtid)) => gtid,
            other => panic!("{other:?}"),
        }
    };
    // Its lazy records have been written by now, but were never synced.
    let world = world.crash().await;
    world.actors.script(A, Script::Agree);
    world.actors.script(B, Script::Agree);
    world.reaches(decided.gtid, State::Committed).await;
    let refused = world.engine.commit(undecided, Wait::Completed, None).await;
    assert!(matches!(refused, Err(EngineError::RolledBack { .. })), "{refused:?}");
    assert!(!world.actors.calls(undecided).iter().any(|(_, verb)| *verb == Verb::Commit));
}

#[tokio::test(start_paused = true)]
async fn a_one_phase_commit_that_was_under_way_is_asked_about_after_a_crash() {
    let world = World::new().await;
    world.actors.script(A, Script::HangOn(Verb::WorkAndCommit));
    {
        let execute = world.execute(&[A]);
        assert!(tokio::time::timeout(Duration::from_secs(1), execute).await.is_err());
    }
    let gtid = world.actors.calls.lock().unwrap()[0].0;
    let world = world.crash().await;
    world.reaches(gtid, State::RolledBack).await;
    assert_eq!(world.actors.calls(gtid), [(1, Verb::WorkAndCommit), (1, Verb::Rollback)]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_acknowledges_nothing_and_stops_everything() {
    let world = World::new().await;
    world.store.fail_next("No space left on device");
    let failed = world.execute(&[A, B]).await;
    assert!(matches!(failed, Err(EngineError::Store(_))), "{failed:?}");
    assert!(world.engine.store_failed().await.to_string().contains("No space left"));
    let refused = world.engine.begin(BeginRequest::default()).await;
    assert!(matches!(refused, Err(EngineError::Store(_))), "{refused:?}");
    let gtid = world.actors.calls.lock().unwrap()[0].0;
    assert!(world.actors.calls(gtid).iter().all(|(_, verb)| *verb == Verb::WorkAndPrepare));
    // After the restart the participants are told to roll back, or find out by inquiry.
    let world = world.crash().await;
    assert_eq!(world.engine.inquire(gtid).await.unwrap().verdict, crate::engine::Verdict::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn a_failed_lazy_write_stops_everything_too() {
    let world = World::new().await;
    world.actors.script(A, Script::Refuse);
    world.store.fail_next("No space left on device");
    let _ = world.execute(&[A, B]).await;
    assert!(world.engine.store_failed().await.to_string().contains("No space left"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_stops_nothing() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::WorkAndPrepare));
    {
        let execute = world.execute(&[A, B]);
        assert!(tokio::time::timeout(Duration::from_secs(1), execute).await.is_err());
    }
    let gtid = world.actors.calls.lock().unwrap()[0].0;
    world.actors.script(B, Script::Agree);
    world.reaches(gtid, State::Committed).await;
}
