//! Calls that arrive in the wrong order, or in another life of the participant.

use concord_proto::v1::participant_client::ParticipantClient;

use super::support::*;

concord_tests::on_both!(rollback_overtakes_prepare, prepare_arrives_in_the_next_life);

/// The participant's own memory holds the late call off.
async fn rollback_overtakes_prepare(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Gate).await?;
    let (transfer, transaction) = scene.run(SHORT_MS).await?;
    ensure!(transfer.outcome == Outcome::RolledBack, "{transaction:?}");
    scene.world.coordinator.drained().await?;
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    scene.ends_well(vec![transfer]).await
}

/// The tombstone in its database does, when its memory is gone.
async fn prepare_arrives_in_the_next_life(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Gate).await?;
    let (name, request) = scene.world.transfer(1, 100);
    let work = request.branches[1].clone();
    let running = scene.world.spawn(ExecuteRequest { timeout_ms: SHORT_MS, ..request });
    let (transfer, answer) = running.answer().await?;
    let gtid = answer?.transaction.expect("Execute answers with the transaction").gtid;
    ensure!(transfer.outcome == Outcome::RolledBack && transfer.name == name, "{transfer:?}");
    scene.world.two.kill9()?;
    scene.world.two.restart().await?;
    let cluster_id = scene.world.coordinator.status().await?.cluster_id;
    let late = PrepareRequest {
        branch: Some(BranchContext { gtid, branch_id: 2, cluster_id }),
        work: Some(Work { action: work.action, payload: work.payload }),
        repeated_call: false,
        remaining_ms: 10_000,
    };
    let mut client = ParticipantClient::connect(scene.world.two.url()).await?;
    let answer = client.prepare(late).await?.into_inner();
    ensure!(answer.vote() == Vote::No, "{answer:?}");
    scene.ends_well(vec![transfer]).await
}
