//! A database that is down, or stands still, or was restarted, at each stage of a transfer.

use super::support::*;

concord_tests::on_both!(
    down_at_prepare,
    down_at_commit,
    restarted_between_prepare_and_commit,
    still_at_prepare,
    still_at_commit
);

async fn down_at_prepare(flavor: Flavor) -> Result<()> {
    let scene = Scene::set(flavor).await?;
    scene.servers()[1].kill9()?;
    let (transfer, transaction) = scene.run(LONG_MS).await?;
    ensure!(transfer.outcome == Outcome::RolledBack, "{transaction:?}");
    scene.servers()[1].restart().await?;
    scene.ends_well(vec![transfer]).await
}

async fn down_at_commit(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let (_, request) = scene.world.transfer(1, 100);
    let running = scene.world.spawn(ExecuteRequest { wait: Wait::Decided.into(), ..request });
    // "Committed, still delivering" is not a failure.
    let transfer = told(running, Outcome::Committed).await?;
    scene.servers()[1].kill9()?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let tried = scene.world.two.calls(Verb::Commit).await?;
    scene.world.two.called(Verb::Commit, tried + 2).await?;
    let status = scene.world.coordinator.status().await?;
    ensure!(status.live_transactions == 1, "it does not end while its database is down");
    ensure!(scene.world.banks()[0].balance(1).await? == BALANCE - 100, "the other is not kept waiting");
    scene.servers()[1].restart().await?;
    scene.ends_well(vec![transfer]).await
}

async fn restarted_between_prepare_and_commit(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.one.fault(Verb::Commit, Fault::Unavailable).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.one.called(Verb::Commit, 0).await?;
    scene.world.two.called(Verb::Commit, 0).await?;
    for server in scene.servers() {
        server.kill9()?;
        server.restart().await?;
    }
    scene.world.one.fault(Verb::Commit, Fault::None).await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let committed = told(running, Outcome::Committed).await?;

    // The same with a rollback in the end.
    scene.world.two.fault(Verb::Prepare, Fault::Gate).await?;
    let before = scene.world.two.calls(Verb::Prepare).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Prepare, before).await?;
    scene.first_is_prepared().await?;
    scene.servers()[0].kill9()?;
    scene.servers()[0].restart().await?;
    scene.servers()[1].kill9()?;
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    let rolled_back = told(running, Outcome::RolledBack).await?;
    scene.servers()[1].restart().await?;
    scene.ends_well(vec![committed, rolled_back]).await
}

async fn still_at_prepare(flavor: Flavor) -> Result<()> {
    let scene = Scene::set(flavor).await?;
    // Connections are there: the participant finds out by waiting.
    let (before, _) = scene.run(LONG_MS).await?;
    scene.servers()[1].pause()?;
    let (_, request) = scene.world.transfer(1, 100);
    let request = ExecuteRequest { timeout_ms: SHORT_MS, wait: Wait::Decided.into(), ..request };
    let transfer = told(scene.world.spawn(request), Outcome::RolledBack).await?;
    scene.servers()[1].resume()?;
    scene.ends_well(vec![before, transfer]).await
}

async fn still_at_commit(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.servers()[1].pause()?;
    let tried = scene.world.two.calls(Verb::Commit).await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    // Twice: the first one has been given up.
    scene.world.two.called(Verb::Commit, tried + 1).await?;
    scene.servers()[1].resume()?;
    let transfer = told(running, Outcome::Committed).await?;
    scene.ends_well(vec![transfer]).await
}
