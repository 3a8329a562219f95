//! Whoever is gone is taken over from.

use super::support::*;

on_each_store!(
    what_is_decided_is_delivered_by_another,
    what_is_undecided_is_rolled_back_by_another,
    what_is_open_stays_open,
    a_key_of_a_dead_coordinator_runs_once,
    one_that_wakes_up_late_decides_nothing,
    one_that_comes_back_takes_over_from_itself,
    kills_under_load,
);

async fn what_is_decided_is_delivered_by_another(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    scene.world.two.fault(Verb::Commit, Fault::Silent).await?;
    let running = scene.world.spawn(scene.transfer());
    scene.world.two.called(Verb::Commit, 0).await?;
    scene.world.coordinator.kill9()?;
    let name = running.answer().await?.0.name;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    scene.world.peers[0].drained().await?;
    until("another coordinator has committed it", async || {
        let request = ListRequest { name: name.clone(), ..ListRequest::default() };
        let listed = scene.world.peers[1].api().list(request).await?.into_inner().transactions;
        Ok(listed.iter().any(|one| one.state() == TransactionState::Committed).then_some(()))
    })
    .await?;
    scene.world.coordinator.restart().await?;
    scene.world.audit(&[Transfer { name, outcome: Outcome::Committed }]).await
}

async fn what_is_undecided_is_rolled_back_by_another(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Silent).await?;
    let running = scene.world.spawn(ExecuteRequest { idempotency_key: String::new(), ..scene.transfer() });
    scene.world.two.called(Verb::Prepare, 0).await?;
    scene.world.coordinator.kill9()?;
    let name = running.answer().await?.0.name;
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    // Its branches are prepared, or working: they hear that it has rolled back from those who are left.
    let cluster = scene.world.peers[0].status().await?.cluster_id;
    until("nothing is in doubt", async || {
        let [one, two] = scene.world.banks();
        Ok((one.in_doubt(cluster).await? + two.in_doubt(cluster).await? == 0).then_some(()))
    })
    .await?;
    scene.world.coordinator.restart().await?;
    scene.world.audit(&[Transfer { name, outcome: Outcome::RolledBack }]).await
}

/// Begun and joined through the first coordinator, which dies; one more joins, and the initiator commits, through another.
async fn what_is_open_stays_open(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    let mut transfers = Vec::new();
    for outcome in [Outcome::Committed, Outcome::RolledBack] {
        let (name, _) = scene.world.transfer(1, 100);
        let begin = BeginRequest { name: name.clone(), timeout_ms: 60_000, idempotency_key: name.clone() };
        let begun = scene.world.coordinator.api().begin(begin.clone()).await?.into_inner();
        let entry = concord_tests::Entry { transfer: name.clone(), account: 1, amount: 100 };
        scene.world.one.join(&begun.gtid, "debit", &entry).await?;
        scene.world.coordinator.kill9()?;
        let second = scene.world.peers[0].api();
        let again =
            until("another coordinator has it", async || match second.clone().begin(begin.clone()).await {
                Ok(again) => Ok(Some(again.into_inner())),
                Err(status) if status.code() == tonic::Code::Unavailable => Ok(None),
                Err(status) => bail!("{status}"),
            })
            .await?;
        ensure!(again.gtid == begun.gtid, "{again:?}");
        let get = GetRequest { gtid: begun.gtid.clone() };
        let seen = second.clone().get(get).await?.into_inner().transaction.unwrap();
        ensure!(seen.state() == TransactionState::Active && seen.branches.len() == 1, "{seen:?}");
        scene.world.two.join(&begun.gtid, "credit", &entry).await?;
        let ended = match outcome {
            Outcome::Committed => {
                let request = CommitRequest { gtid: begun.gtid.clone(), ..CommitRequest::default() };
                second.clone().commit(request).await?.into_inner().transaction.unwrap()
            }
            _ => {
                let request = RollbackRequest { gtid: begun.gtid.clone(), ..RollbackRequest::default() };
                second.clone().rollback(request).await?.into_inner().transaction.unwrap()
            }
        };
        ensure!(ended.branches.len() == 2, "{ended:?}");
        ensure!(
            (ended.state() == TransactionState::Committed) == (outcome == Outcome::Committed),
            "{ended:?}"
        );
        transfers.push(Transfer { name, outcome });
        scene.world.coordinator.restart().await?;
    }
    scene.world.audit(&transfers).await
}

async fn a_key_of_a_dead_coordinator_runs_once(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    let mut transfers = Vec::new();
    for (verb, outcome) in [(Verb::Prepare, None), (Verb::Commit, Some(Outcome::Committed))] {
        scene.world.two.fault(verb, Fault::Silent).await?;
        let request = scene.transfer();
        let (calls, running) = (scene.world.two.calls(verb).await?, scene.world.spawn(request.clone()));
        scene.world.two.called(verb, calls).await?;
        scene.world.coordinator.kill9()?;
        let told = running.answer().await?.0.outcome;
        ensure!(told == Outcome::Unknown, "{told:?}");
        scene.world.two.fault(verb, Fault::None).await?;
        let (transfer, transaction) = insist(scene.anywhere(), request).await?;
        ensure!(outcome.is_none_or(|outcome| transfer.outcome == outcome), "{transaction:?}");
        ensure!(transfer.outcome != Outcome::Unknown, "{transaction:?}");
        transfers.push(transfer);
        scene.world.coordinator.restart().await?;
    }
    scene.world.audit(&transfers).await
}

/// It sleeps for longer than its lease with a transaction in its hands, whose votes it finds when it wakes up.
async fn one_that_wakes_up_late_decides_nothing(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Silent).await?;
    let request = scene.transfer();
    let running = scene.world.spawn(request.clone());
    scene.world.two.called(Verb::Prepare, 0).await?;
    scene.world.coordinator.process().pause()?;
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    let (transfer, _) = insist_without_the_first(&scene, request).await?;
    scene.world.coordinator.process().resume()?;
    let status = scene.world.coordinator.process().ended().await?;
    ensure!(status.code() == Some(3), "{status:?}");
    let log = scene.world.coordinator.process().log();
    ensure!(log.contains("lease"), "{log}");
    let told = running.answer().await?.0.outcome;
    ensure!(told == Outcome::Unknown || told == transfer.outcome, "{told:?}, {transfer:?}");
    scene.world.coordinator.restart().await?;
    scene.world.audit(&[transfer]).await
}

async fn insist_without_the_first(scene: &Scene, request: ExecuteRequest) -> Result<(Transfer, Transaction)> {
    let urls: Vec<_> = scene.world.peers.iter().map(Coordinator::url).collect();
    let client = CoordinatorClient::new(concord_proto::Coordinators::connect_lazy(&urls.join(","))?);
    insist(client, request).await
}

/// Nobody waits for its lease: it has the same name.
async fn one_that_comes_back_takes_over_from_itself(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    scene.world.two.fault(Verb::Commit, Fault::Silent).await?;
    let running = scene.world.spawn(scene.transfer());
    scene.world.two.called(Verb::Commit, 0).await?;
    for peer in &mut scene.world.peers {
        peer.process().pause()?;
    }
    scene.world.coordinator.kill9()?;
    let name = running.answer().await?.0.name;
    scene.world.coordinator.restart().await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    scene.world.coordinator.drained().await?;
    for peer in &mut scene.world.peers {
        peer.process().resume()?;
        peer.process().kill9()?;
        peer.restart().await?;
    }
    scene.world.audit(&[Transfer { name, outcome: Outcome::Committed }]).await
}

/// Transfers with keys go on through whoever is left, while one coordinator after another is killed.
async fn kills_under_load(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    let mut running = Vec::new();
    for round in 0..3 {
        for _ in 0..20 {
            running.push(tokio::spawn(insist(scene.anywhere(), scene.transfer())));
        }
        let victim = match round {
            0 => &mut scene.world.coordinator,
            number => &mut scene.world.peers[number - 1],
        };
        until("it has begun some", async || {
            let begun = victim.status().await?.begun;
            Ok((begun > 0).then_some(()))
        })
        .await?;
        victim.kill9()?;
        tokio::time::sleep(LEASE / 2).await;
        victim.restart().await?;
    }
    let transfers = all_told(running).await?;
    scene.world.audit(&transfers).await
}
