//! Branches of a participant that never comes back are ended by one coordinator, whoever owns the transaction.

use super::support::*;

on_each_store!(what_a_dead_participant_left_prepared);

async fn what_a_dead_participant_left_prepared(shared: Shared) -> Result<()> {
    let options = WorldOptions { sweeper: true, ..WorldOptions::default() };
    let mut scene = Scene::set_with(shared, options, LEASE).await?;
    // Of three transactions, each with another coordinator: decided, so committed without its participant.
    scene.world.two.fault(Verb::Commit, Fault::Unavailable).await?;
    let mut transfers = Vec::new();
    for coordinator in scene.world.coordinators() {
        let request = ExecuteRequest { wait: Wait::Decided.into(), ..scene.transfer() };
        let name = request.name.clone();
        let outcome = Outcome::of(&coordinator.api().execute(request).await.map(tonic::Response::into_inner));
        ensure!(outcome == Outcome::Committed, "{name}: {outcome:?}");
        transfers.push(Transfer { name, outcome });
    }
    // One more, whose coordinator dies before it is decided.
    let prepares = scene.world.two.calls(Verb::Prepare).await?;
    scene.world.two.fault(Verb::Prepare, Fault::LostReply).await?;
    let lost = scene.world.spawn(ExecuteRequest { idempotency_key: String::new(), ..scene.transfer() });
    scene.world.two.called(Verb::Prepare, prepares + 1).await?;
    scene.world.coordinator.kill9()?;
    let lost = Transfer { name: lost.answer().await?.0.name, outcome: Outcome::RolledBack };
    scene.world.two.kill9()?;
    let cluster = scene.world.peers[0].status().await?.cluster_id;
    until("nothing is in doubt", async || {
        let [one, two] = scene.world.banks();
        Ok((one.in_doubt(cluster).await? + two.in_doubt(cluster).await? == 0).then_some(()))
    })
    .await?;
    scene.world.two.restart().await?;
    scene.world.coordinator.restart().await?;
    transfers.push(lost);
    scene.world.audit(&transfers).await
}
