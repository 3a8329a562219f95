//! A participant that answers garbage, or never, or too late, or refuses.

use super::support::*;

concord_tests::on_both!(garbage, silence, lost_replies, refusals);

async fn garbage(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    // No vote: it is asked again until the time is over, and then rolled back.
    scene.world.two.fault(Verb::Prepare, Fault::Garbage).await?;
    let (no_vote, transaction) = scene.run(SHORT_MS).await?;
    ensure!(no_vote.outcome == Outcome::RolledBack, "{transaction:?}");
    ensure!(transaction.reason.contains("timed out"), "{:?}", transaction.reason);
    ensure!(transaction.branches[1].last_error.contains("holds no vote"), "{transaction:?}");
    ensure!(scene.world.two.calls(Verb::Prepare).await? > 1, "it was asked once only");
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;

    // No outcome of a commit: it is told again until it has one to say.
    scene.world.two.fault(Verb::Commit, Fault::Garbage).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Commit, 2).await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let no_commit = told(running, Outcome::Committed).await?;

    // No outcome of a rollback: the same.
    scene.world.one.fault(Verb::Prepare, Fault::Refused).await?;
    scene.world.two.fault(Verb::Rollback, Fault::Garbage).await?;
    let before = scene.world.two.calls(Verb::Rollback).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Rollback, before + 2).await?;
    scene.world.one.fault(Verb::Prepare, Fault::None).await?;
    scene.world.two.fault(Verb::Rollback, Fault::None).await?;
    let no_rollback = told(running, Outcome::RolledBack).await?;
    scene.ends_well(vec![no_vote, no_commit, no_rollback]).await
}

async fn silence(flavor: Flavor) -> Result<()> {
    let mut options = WorldOptions::default();
    options.coordinator = options.coordinator.set("calls.timeout_ms", 200);
    let mut scene = Scene::set_with(flavor, options).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Silent).await?;
    let (no_vote, transaction) = scene.run(SHORT_MS).await?;
    ensure!(no_vote.outcome == Outcome::RolledBack, "{transaction:?}");
    // What its branch says last may be of the rollback, where that was slow.
    ensure!(transaction.reason.contains("timed out"), "{:?}", transaction.reason);
    ensure!(scene.world.two.calls(Verb::Prepare).await? > 1, "it was asked once only");
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;

    scene.world.two.fault(Verb::Commit, Fault::Silent).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Commit, 1).await?;
    scene.world.two.fault(Verb::Commit, Fault::None).await?;
    let no_commit = told(running, Outcome::Committed).await?;

    scene.world.one.fault(Verb::Prepare, Fault::Refused).await?;
    scene.world.two.fault(Verb::Rollback, Fault::Silent).await?;
    let before = scene.world.two.calls(Verb::Rollback).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.two.called(Verb::Rollback, before + 1).await?;
    scene.world.one.fault(Verb::Prepare, Fault::None).await?;
    scene.world.two.fault(Verb::Rollback, Fault::None).await?;
    let no_rollback = told(running, Outcome::RolledBack).await?;
    scene.ends_well(vec![no_vote, no_commit, no_rollback]).await
}

/// The work is done and the answer lost, as often as not: each takes effect once.
async fn lost_replies(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    for verb in [Verb::Prepare, Verb::Commit] {
        let before = scene.world.two.calls(verb).await?;
        scene.world.two.fault(verb, Fault::LostReply).await?;
        let running = scene.transfer(LONG_MS);
        scene.world.two.called(verb, before + 2).await?;
        scene.world.two.fault(verb, Fault::None).await?;
        transfers.push(told(running, Outcome::Committed).await?);
    }
    let before = scene.world.one.calls(Verb::Rollback).await?;
    scene.world.two.fault(Verb::Prepare, Fault::Refused).await?;
    scene.world.one.fault(Verb::Rollback, Fault::LostReply).await?;
    let running = scene.transfer(LONG_MS);
    scene.world.one.called(Verb::Rollback, before + 2).await?;
    scene.world.one.fault(Verb::Rollback, Fault::None).await?;
    scene.world.two.fault(Verb::Prepare, Fault::None).await?;
    transfers.push(told(running, Outcome::RolledBack).await?);
    scene.ends_well(transfers).await
}

async fn refusals(flavor: Flavor) -> Result<()> {
    let scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    // The handler's no, a handler that does not exist, a payload that the handler cannot read, no such account.
    let cases = [
        ([("debit", 1), ("credit", 1)], 2 * BALANCE, "insufficient funds"),
        ([("debit", 1), ("nothing", 1)], 1, "no action \"nothing\""),
        ([("debit", 1), ("credit", 99)], 1, "matched 0"),
    ];
    for (number, (actions, amount, why)) in cases.into_iter().enumerate() {
        let request = scene.world.request(&format!("refused-{number}"), actions, amount);
        let running = scene.world.spawn(ExecuteRequest { timeout_ms: LONG_MS, ..request });
        let (transfer, answer) = running.answer().await?;
        let transaction = answer?.transaction.expect("Execute answers with the transaction");
        ensure!(transaction.state() == TransactionState::RolledBack, "{transaction:?}");
        ensure!(transaction.reason.contains(why), "{why:?} is not in {:?}", transaction.reason);
        transfers.push(transfer);
    }
    scene.ends_well(transfers).await
}
