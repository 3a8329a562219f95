//! A participant in two processes on one database: whoever of them dies, the other finishes what it has prepared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use anyhow::{Result, ensure};
use concord_proto::v1::*;
use concord_sandbox::Flavor;
use concord_tests::{
    Fault, Outcome, Participant, ParticipantOptions, Programs, Transfer, Verb, World, WorldOptions, until,
};
use tempfile::TempDir;

const PROGRAMS: Programs = concord_tests::programs!();

concord_tests::on_both!(
    processes_at_the_addresses_of_a_service_stand_in_for_each_other,
    processes_attached_under_one_name_stand_in_for_each_other,
);

async fn processes_at_the_addresses_of_a_service_stand_in_for_each_other(flavor: Flavor) -> Result<()> {
    stand_in_for_each_other(flavor, false).await
}

async fn processes_attached_under_one_name_stand_in_for_each_other(flavor: Flavor) -> Result<()> {
    stand_in_for_each_other(flavor, true).await
}

/// Nobody but the coordinator ends what a process has left behind.
fn without_recovery() -> ParticipantOptions {
    ParticipantOptions { recovery_interval_ms: 3_600_000, ..ParticipantOptions::default() }
}

/// One of the processes of the second bank.
async fn process(world: &World, directory: &Path, attached: bool) -> Result<Participant> {
    let options = ParticipantOptions { attached, ..without_recovery() };
    let (bank, coordinator) = (world.banks()[1].url(), world.coordinator.url());
    Participant::start("bank", PROGRAMS, directory, &bank, &coordinator, &options).await
}

async fn stand_in_for_each_other(flavor: Flavor, attached: bool) -> Result<()> {
    let directories = [TempDir::new()?, TempDir::new()?];
    let pair = concord_tests::pair(flavor).await?;
    let options = WorldOptions { participant: without_recovery(), ..WorldOptions::default() };
    let mut world = World::start(PROGRAMS, pair.banks(20, 1_000).await?, options).await?;
    let mut left = process(&world, directories[0].path(), attached).await?;
    let mut right = process(&world, directories[1].path(), attached).await?;
    let bank = if attached { "attached://bank" } else { "service://bank" };
    if !attached {
        let told = std::mem::take(world.coordinator.options_mut());
        *world.coordinator.options_mut() = told.service("bank", &[left.url(), right.url()]);
        world.coordinator.kill9()?;
        world.coordinator.restart().await?;
    }
    let streams = async |expected: u32| {
        let known = world.coordinator.operator().list_participants(ListParticipantsRequest {}).await?;
        let known = known.into_inner().participants;
        Ok(known.iter().any(|one| one.address == bank && one.streams == expected).then_some(()))
    };
    if attached {
        until("both are attached", async || streams(2).await).await?;
    }

    // Both have prepared their share; neither has committed any.
    for process in [&mut left, &mut right] {
        process.fault(Verb::Commit, Fault::Unavailable).await?;
    }
    let mut transfers = transfer(&world, bank, 1..=20).await?;
    let prepared = [left.calls(Verb::Prepare).await?, right.calls(Verb::Prepare).await?];
    ensure!(prepared.iter().sum::<u64>() == 20 && prepared.iter().all(|share| *share > 0), "{prepared:?}");
    left.kill9()?;
    right.fault(Verb::Commit, Fault::None).await?;
    world.audit(&transfers).await?;

    // All goes to the one that is left, and to both when there are two again.
    transfers.extend(transfer(&world, bank, 1..=20).await?);
    world.audit(&transfers).await?;
    ensure!(right.calls(Verb::Prepare).await? == prepared[1] + 20, "the other one is dead");
    left.restart().await?;
    until("the new process has a share", async || {
        transfers.extend(transfer(&world, bank, 1..=20).await?);
        Ok((left.calls(Verb::Prepare).await? > 0).then_some(()))
    })
    .await?;
    world.audit(&transfers).await
}

/// One from each of these accounts to the same account of the bank that is at `address`. All are decided.
async fn transfer(
    world: &World,
    address: &str,
    accounts: impl Iterator<Item = u32>,
) -> Result<Vec<Transfer>> {
    let mut transfers = Vec::new();
    for account in accounts {
        let (_, mut request) = world.transfer(account, 1);
        request.branches[1].participant = address.to_owned();
        let request = ExecuteRequest { wait: Wait::Decided.into(), ..request };
        let (transfer, answer) = world.spawn(request).answer().await?;
        ensure!(transfer.outcome == Outcome::Committed, "{answer:?}");
        transfers.push(transfer);
    }
    Ok(transfers)
}
