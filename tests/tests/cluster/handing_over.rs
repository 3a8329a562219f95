//! A coordinator that is told to drain leaves nothing undone and nobody waiting.

use std::time::Duration;

use super::support::*;

on_each_store!(what_is_left_goes_on_at_once, a_rolling_restart_is_not_noticed);

/// Longer than any test: who waits for it waits in vain.
const LONG: Duration = Duration::from_secs(600);

/// Drains it; what was left by then.
async fn drain(coordinator: &mut Coordinator, grace_ms: Option<u32>) -> Result<u64> {
    let request = DrainRequest { grace_ms, operator: "test".into() };
    let mut steps = coordinator.operator().drain(request).await?.into_inner();
    let last = loop {
        match steps.message().await? {
            Some(step) if step.stopping => break step,
            Some(_) => {}
            None => bail!("the stream ended early"),
        }
    };
    ensure!(last.is_shared, "{last:?}");
    let status = coordinator.process().ended().await?;
    ensure!(status.success(), "{status:?}");
    Ok(last.live_transactions)
}

/// One is open, one is committed and not delivered.
async fn what_is_left_goes_on_at_once(shared: Shared) -> Result<()> {
    let mut scene = Scene::set_with(shared, WorldOptions::default(), LONG).await?;
    let (open, _) = scene.world.transfer(2, 100);
    let begin = BeginRequest { name: open.clone(), timeout_ms: 60_000, ..BeginRequest::default() };
    let gtid = scene.world.coordinator.api().begin(begin).await?.into_inner().gtid;
    let entry = concord_tests::Entry { transfer: open.clone(), account: 2, amount: 100 };
    scene.world.one.join(&gtid, "debit", &entry).await?;
    scene.world.two.fault(Verb::Commit, Fault::Silent).await?;
    let decided = scene.transfer();
    let running = scene.world.spawn(decided.clone());
    scene.world.two.called(Verb::Commit, 0).await?;
    ensure!(drain(&mut scene.world.coordinator, Some(0)).await? == 2);
    let told = running.answer().await?.0.outcome;
    ensure!(matches!(told, Outcome::Committed | Outcome::Unknown), "{told:?}");
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let second = scene.world.peers[0].api();
    until("another coordinator has the open one", async || {
        let registered = scene.world.two.join(&gtid, "credit", &entry).await;
        Ok(registered.is_ok().then_some(()))
    })
    .await?;
    let request = CommitRequest { gtid, ..CommitRequest::default() };
    let committed = second.clone().commit(request).await?.into_inner().transaction.unwrap();
    ensure!(committed.state() == TransactionState::Committed, "{committed:?}");
    let (transfer, _) = insist(scene.anywhere(), decided).await?;
    ensure!(transfer.outcome == Outcome::Committed, "{transfer:?}");
    scene.world.coordinator.restart().await?;
    scene.world.audit(&[transfer, Transfer { name: open, outcome: Outcome::Committed }]).await
}

/// Every coordinator is drained and started again, while transfers go on.
async fn a_rolling_restart_is_not_noticed(shared: Shared) -> Result<()> {
    let mut scene = Scene::set_with(shared, WorldOptions::default(), LONG).await?;
    let mut running = Vec::new();
    for number in 0..3 {
        for _ in 0..20 {
            running.push(tokio::spawn(insist(scene.anywhere(), scene.transfer())));
        }
        let drained = match number {
            0 => &mut scene.world.coordinator,
            number => &mut scene.world.peers[number - 1],
        };
        let left = drain(drained, None).await?;
        ensure!(left == 0, "{left} transactions did not end");
        drained.restart().await?;
    }
    let transfers = all_told(running).await?;
    scene.world.audit(&transfers).await
}
