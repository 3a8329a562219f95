//! Processes that die or stand still, at each stage of a transfer.

use super::support::*;

concord_tests::on_both!(
    participant_dies_around_its_vote,
    participant_dies_around_its_commit,
    participant_dies_around_its_rollback,
    participant_stands_still,
    coordinator_dies_before_the_decision,
    coordinator_dies_after_the_decision,
    everything_dies_after_the_decision,
    everything_dies_before_the_decision,
);

async fn participant_dies_around_its_vote(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    // It had prepared: after its return it finds that out and says yes.
    scene.world.two.fault(Verb::Prepare, Fault::ExitAfter).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.ended().await?;
    scene.world.two.restart().await?;
    let prepared = told(running, Outcome::Committed).await?;
    // It had not: nobody knows whether the work was done, and it is not done twice.
    scene.world.two.fault(Verb::Prepare, Fault::ExitBefore).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.ended().await?;
    scene.world.two.restart().await?;
    let lost = told(running, Outcome::RolledBack).await?;
    scene.ends_well(vec![prepared, lost]).await
}

async fn participant_dies_around_its_commit(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    for fault in [Fault::ExitBefore, Fault::ExitAfter] {
        scene.world.two.fault(Verb::Commit, fault).await?;
        let running = scene.transfer(LONG_MS);
        scene.world.two.ended().await?;
        scene.world.two.restart().await?;
        transfers.push(told(running, Outcome::Committed).await?);
    }
    scene.ends_well(transfers).await
}

async fn participant_dies_around_its_rollback(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    scene.world.one.fault(Verb::Prepare, Fault::Refused).await?;
    for fault in [Fault::ExitBefore, Fault::ExitAfter] {
        scene.world.two.fault(Verb::Rollback, fault).await?;
        let running = scene.transfer(LONG_MS);
        scene.world.two.ended().await?;
        scene.world.two.restart().await?;
        transfers.push(told(running, Outcome::RolledBack).await?);
    }
    scene.world.one.fault(Verb::Prepare, Fault::None).await?;
    scene.ends_well(transfers).await
}

/// As a network that takes everything and gives nothing: connections stay open.
async fn participant_stands_still(flavor: Flavor) -> Result<()> {
    let mut options = WorldOptions::default();
    options.coordinator = options.coordinator.set("calls.timeout_ms", 200);
    let mut scene = Scene::set_with(flavor, options).await?;
    scene.world.two.process().pause()?;
    let (_, request) = scene.world.transfer(1, 100);
    let request = ExecuteRequest { timeout_ms: SHORT_MS, wait: Wait::Decided.into(), ..request };
    let rolled_back = told(scene.world.spawn(request), Outcome::RolledBack).await?;
    scene.world.two.process().resume()?;
    // What was on its way arrives now, and is refused.
    scene.world.audit(std::slice::from_ref(&rolled_back)).await?;

    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.world.two.process().pause()?;
    let failed = scene.world.coordinator.status().await?.calls_failed;
    until("calls to it fail", async || {
        Ok((scene.world.coordinator.status().await?.calls_failed > failed + 1).then_some(()))
    })
    .await?;
    scene.world.two.process().resume()?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let committed = told(running, Outcome::Committed).await?;
    scene.ends_well(vec![rolled_back, committed]).await
}

async fn coordinator_dies_before_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Gate).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Prepare, 0).await?;
    scene.first_is_prepared().await?;
    scene.world.coordinator.kill9()?;
    let transfer = cut_off(running, Outcome::RolledBack).await?;
    scene.world.coordinator.restart().await?;
    scene.world.coordinator.drained().await?;
    // The second branch prepares only now. Whether its transaction is on record or not: it must not stay.
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    scene.ends_well(vec![transfer]).await
}

async fn coordinator_dies_after_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.one.fault(Verb::Commit, Fault::Unavailable).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let (_, request) = scene.world.transfer(1, 100);
    let request = ExecuteRequest { idempotency_key: "the key".into(), ..request };
    let running = scene.world.spawn(request.clone());
    scene.world.one.called(Verb::Commit, 0).await?;
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.world.coordinator.kill9()?;
    let transfer = cut_off(running, Outcome::Committed).await?;
    scene.world.coordinator.restart().await?;
    scene.world.one.fault(Verb::Commit, Fault::None).await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    // The initiator asks again with its key, and is told of the first one.
    told(scene.world.spawn(request), Outcome::Committed).await?;
    scene.ends_well(vec![transfer]).await
}

async fn everything_dies_after_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.kill_everything().await?;
    let transfer = cut_off(running, Outcome::Committed).await?;
    scene.ends_well(vec![transfer]).await
}

async fn everything_dies_before_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Gate).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Prepare, 0).await?;
    scene.first_is_prepared().await?;
    scene.kill_everything().await?;
    let transfer = cut_off(running, Outcome::RolledBack).await?;
    scene.ends_well(vec![transfer]).await
}
