//! TCC branches, alone and beside an XA branch, under the same faults.

use concord_proto::v1::participant_client::ParticipantClient;
use concord_tests::{Entry, Running};

use super::support::*;

concord_tests::on_both!(
    try_is_repeated_until_it_answers,
    a_try_that_never_answers_is_cancelled,
    confirm_is_repeated_until_it_answers,
    cancel_is_repeated_until_it_answers,
    cancel_overtakes_try,
    try_arrives_in_the_next_life,
    refusals,
    a_refused_confirm_waits_for_an_operator,
    coordinator_dies_while_they_try,
    coordinator_dies_after_the_decision,
    everything_dies_around_the_decision,
    database_dies_at_each_stage,
    driven_by_the_initiator,
);

/// Small, so that an account lasts for all of a scenario.
const AMOUNT: i64 = 10;
const TCC: [BranchKind; 2] = [BranchKind::Tcc, BranchKind::Tcc];
/// The second side is TCC in both: faults are made there.
const KINDS: [[BranchKind; 2]; 2] = [TCC, [BranchKind::Xa, BranchKind::Tcc]];

impl Scene {
    fn transfer_by(&self, kinds: [BranchKind; 2], timeout_ms: u32) -> Running {
        let (_, request) = self.world.transfer_by(kinds, 1, AMOUNT);
        self.world.spawn(ExecuteRequest { timeout_ms, ..request })
    }

    /// One transfer of each sort, with this fault at the second participant's `verb` until it has been called
    /// again, or until the fault has ended its life.
    async fn with_fault(&mut self, verb: Verb, fault: Fault, outcome: Outcome) -> Result<Vec<Transfer>> {
        let mut transfers = Vec::new();
        for kinds in KINDS {
            let before = self.world.two.calls(verb).await?;
            self.world.two.fault(verb, fault).await?;
            let running = self.transfer_by(kinds, LONG_MS);
            if matches!(fault, Fault::ExitBefore | Fault::ExitAfter) {
                self.world.two.ended().await?;
                self.world.two.restart().await?;
            } else {
                self.world.two.called(verb, before + 1).await?;
                self.world.two.fault(verb, Fault::None).await?;
            }
            transfers.push(told(running, outcome).await?);
        }
        Ok(transfers)
    }

    /// Waits until the first side holds money.
    async fn first_has_tried(&self) -> Result<()> {
        until("the first side holds money", async || {
            Ok((self.world.banks()[0].reserved().await?.0 == AMOUNT).then_some(()))
        })
        .await
    }
}

fn impatient() -> WorldOptions {
    let mut options = WorldOptions::default();
    options.coordinator = options.coordinator.set("calls.timeout_ms", 300);
    options
}

async fn try_is_repeated_until_it_answers(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set_with(flavor, impatient()).await?;
    let mut transfers = Vec::new();
    for fault in [Fault::Unavailable, Fault::Silent, Fault::LostReply, Fault::ExitBefore, Fault::ExitAfter] {
        transfers.extend(scene.with_fault(Verb::Try, fault, Outcome::Committed).await?);
    }
    scene.ends_well(transfers).await
}

async fn a_try_that_never_answers_is_cancelled(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set_with(flavor, impatient()).await?;
    let mut transfers = Vec::new();
    for kinds in KINDS {
        scene.world.two.fault(Verb::Try, Fault::Silent).await?;
        transfers.push(told(scene.transfer_by(kinds, SHORT_MS), Outcome::RolledBack).await?);
        scene.world.two.fault(Verb::Try, Fault::None).await?;
    }
    scene.ends_well(transfers).await
}

async fn confirm_is_repeated_until_it_answers(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set_with(flavor, impatient()).await?;
    let mut transfers = Vec::new();
    for fault in [
        Fault::Unavailable,
        Fault::Garbage,
        Fault::Refused,
        Fault::Silent,
        Fault::LostReply,
        Fault::ExitBefore,
        Fault::ExitAfter,
    ] {
        transfers.extend(scene.with_fault(Verb::Confirm, fault, Outcome::Committed).await?);
    }
    scene.ends_well(transfers).await
}

async fn cancel_is_repeated_until_it_answers(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set_with(flavor, impatient()).await?;
    let mut transfers = Vec::new();
    for fault in [
        Fault::Unavailable,
        Fault::Garbage,
        Fault::Refused,
        Fault::Silent,
        Fault::LostReply,
        Fault::ExitBefore,
        Fault::ExitAfter,
    ] {
        scene.world.one.fault(Verb::Try, Fault::Refused).await?;
        scene.world.one.fault(Verb::Prepare, Fault::Refused).await?;
        transfers.extend(scene.with_fault(Verb::Cancel, fault, Outcome::RolledBack).await?);
    }
    scene.world.one.fault(Verb::Try, Fault::None).await?;
    scene.world.one.fault(Verb::Prepare, Fault::None).await?;
    scene.ends_well(transfers).await
}

async fn cancel_overtakes_try(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    for kinds in KINDS {
        scene.world.two.fault(Verb::Try, Fault::Gate).await?;
        transfers.push(told(scene.transfer_by(kinds, SHORT_MS), Outcome::RolledBack).await?);
        scene.world.coordinator.drained().await?;
        // The Try goes through its gate now.
        scene.world.two.fault(Verb::Try, Fault::None).await?;
    }
    scene.ends_well(transfers).await
}

/// The tombstone in the database holds it off, when the participant's memory is gone.
async fn try_arrives_in_the_next_life(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Try, Fault::Gate).await?;
    let (_, request) = scene.world.transfer_by(TCC, 1, AMOUNT);
    let work = request.branches[1].clone();
    let running = scene.world.spawn(ExecuteRequest { timeout_ms: SHORT_MS, ..request });
    let (transfer, answer) = running.answer().await?;
    let gtid = answer?.transaction.expect("Execute answers with the transaction").gtid;
    ensure!(transfer.outcome == Outcome::RolledBack, "{transfer:?}");
    scene.world.two.kill9()?;
    scene.world.two.restart().await?;
    let cluster_id = scene.world.coordinator.status().await?.cluster_id;
    let late = TryRequest {
        branch: Some(BranchContext { gtid, branch_id: 2, cluster_id }),
        work: Some(Work { action: work.action, payload: work.payload }),
        remaining_ms: 10_000,
    };
    let mut client = ParticipantClient::connect(scene.world.two.url()).await?;
    let answer = client.r#try(late).await?.into_inner();
    ensure!(!answer.reserved, "{answer:?}");
    scene.ends_well(vec![transfer]).await
}

async fn refusals(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    // The handler's no on either side, whichever protocol the other follows; no such account; no such action.
    let cases = [
        (["hold", "promise"], 1, 2 * BALANCE, "insufficient funds"),
        (["hold", "credit"], 1, 2 * BALANCE, "insufficient funds"),
        (["debit", "promise"], 1, 2 * BALANCE, "insufficient funds"),
        (["hold", "promise"], 99, 1, "no account 99"),
        (["debit", "promise"], 99, 1, "no account 99"),
        (["hold", "credit"], 99, 1, "matched 0"),
    ];
    for (number, (actions, to, amount, why)) in cases.into_iter().enumerate() {
        let [one, two] = actions;
        let request = scene.world.request(&format!("refused-{number}"), [(one, 1), (two, to)], amount);
        transfers.push(refused(&scene, request, why).await?);
    }
    let (_, mut unknown) = scene.world.transfer_by(TCC, 1, 1);
    unknown.branches[1].action = "nothing".into();
    transfers.push(refused(&scene, unknown, "no TCC action \"nothing\"").await?);
    // A refusal at the door, by something that is there and will never do it.
    scene.world.two.fault(Verb::Try, Fault::Refused).await?;
    let (_, request) = scene.world.transfer_by(TCC, 1, 1);
    transfers.push(refused(&scene, request, "a fault of the test's: refused").await?);
    scene.world.two.fault(Verb::Try, Fault::None).await?;
    scene.ends_well(transfers).await
}

async fn refused(scene: &Scene, request: ExecuteRequest, why: &str) -> Result<Transfer> {
    let running = scene.world.spawn(ExecuteRequest { timeout_ms: LONG_MS, ..request });
    let (transfer, answer) = running.answer().await?;
    let transaction = answer?.transaction.expect("Execute answers with the transaction");
    ensure!(transaction.state() == TransactionState::RolledBack, "{transaction:?}");
    ensure!(transaction.reason.contains(why), "{why:?} is not in {:?}", transaction.reason);
    Ok(transfer)
}

/// Somebody took the held money away behind the service's back: its Confirm says no.
async fn a_refused_confirm_waits_for_an_operator(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let bank = scene.world.banks()[0].clone();
    scene.world.one.fault(Verb::Confirm, Fault::Unavailable).await?;
    let (name, request) = scene.world.transfer_by(TCC, 1, AMOUNT);
    let running = scene.world.spawn(ExecuteRequest { name, wait: Wait::Decided.into(), ..request });
    let (transfer, answer) = running.answer().await?;
    let gtid = answer?.transaction.expect("Execute answers with the transaction").gtid;
    bank.run("UPDATE account SET held = 0 WHERE id = 1").await?;
    scene.world.one.fault(Verb::Confirm, Fault::None).await?;
    let parked = until("the branch is parked", async || {
        let get = GetRequest { gtid: gtid.clone() };
        let found = scene.world.coordinator.api().get(get).await?.into_inner().transaction;
        // On record: else a restart knows nothing of it, and asks again.
        let on_record = |one: &Transaction| one.history.iter().any(|event| event.kind == "parked");
        Ok(found.filter(|transaction| transaction.parked && on_record(transaction)))
    })
    .await?;
    ensure!(parked.state() == TransactionState::Committing, "{parked:?}");
    ensure!(parked.branches[0].last_error.contains("nothing is held"), "{parked:?}");
    ensure!(!parked.heuristic, "{parked:?}");
    ensure!(scene.world.coordinator.status().await?.refused_branches == 1, "it is counted");
    // A restart leaves it alone; it is neither asked again nor cancelled.
    scene.world.coordinator.kill9()?;
    scene.world.coordinator.restart().await?;
    let asked = scene.world.one.calls(Verb::Confirm).await?;
    let running = told(scene.transfer_by(TCC, LONG_MS), Outcome::Committed).await?;
    ensure!(scene.world.one.calls(Verb::Confirm).await? == asked + 1, "only the other one was confirmed");
    ensure!(scene.world.one.calls(Verb::Cancel).await? == 0, "never cancelled");
    bank.run(&format!("UPDATE account SET held = {AMOUNT} WHERE id = 1")).await?;
    let order = RetryRequest { gtid, operator: "ada".into() };
    scene.world.coordinator.operator().retry(order).await?;
    scene.ends_well(vec![transfer, running]).await
}

async fn coordinator_dies_while_they_try(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Try, Fault::Gate).await?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Try, 0).await?;
    scene.first_has_tried().await?;
    scene.world.coordinator.kill9()?;
    let transfer = cut_off(running, Outcome::RolledBack).await?;
    scene.world.coordinator.restart().await?;
    scene.world.coordinator.drained().await?;
    // The second Try goes through only now.
    scene.world.two.fault(Verb::Try, Fault::None).await?;
    scene.ends_well(vec![transfer]).await
}

async fn coordinator_dies_after_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    for (number, kinds) in KINDS.into_iter().enumerate() {
        for verb in [Verb::Confirm, Verb::Commit] {
            scene.world.one.fault(verb, Fault::Unavailable).await?;
            scene.world.two.fault(verb, Fault::Unavailable).await?;
        }
        let (_, request) = scene.world.transfer_by(kinds, 1, AMOUNT);
        let request = ExecuteRequest { idempotency_key: format!("key {number}"), ..request };
        let before = scene.world.two.calls(Verb::Confirm).await?;
        let running = scene.world.spawn(request.clone());
        scene.world.two.called(Verb::Confirm, before).await?;
        scene.world.coordinator.kill9()?;
        transfers.push(cut_off(running, Outcome::Committed).await?);
        scene.world.coordinator.restart().await?;
        for verb in [Verb::Confirm, Verb::Commit] {
            scene.world.one.fault(verb, Fault::None).await?;
            scene.world.two.fault(verb, Fault::None).await?;
        }
        told(scene.world.spawn(request), Outcome::Committed).await?;
    }
    scene.ends_well(transfers).await
}

async fn everything_dies_around_the_decision(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    scene.world.two.fault(Verb::Try, Fault::Gate).await?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Try, 0).await?;
    scene.first_has_tried().await?;
    scene.kill_everything().await?;
    let before = cut_off(running, Outcome::RolledBack).await?;
    scene.world.two.fault(Verb::Confirm, Fault::Unavailable).await?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Confirm, 0).await?;
    scene.kill_everything().await?;
    let after = cut_off(running, Outcome::Committed).await?;
    scene.ends_well(vec![before, after]).await
}

async fn database_dies_at_each_stage(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    // Down when it is tried: asked again until it is back.
    scene.servers()[1].kill9()?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Try, 1).await?;
    scene.servers()[1].restart().await?;
    transfers.push(told(running, Outcome::Committed).await?);
    // Down when it is confirmed.
    let before = scene.world.two.calls(Verb::Confirm).await?;
    scene.world.two.fault(Verb::Confirm, Fault::Unavailable).await?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Confirm, before).await?;
    scene.servers()[1].kill9()?;
    scene.world.two.fault(Verb::Confirm, Fault::None).await?;
    let tried = scene.world.two.calls(Verb::Confirm).await?;
    scene.world.two.called(Verb::Confirm, tried + 1).await?;
    scene.servers()[1].restart().await?;
    transfers.push(told(running, Outcome::Committed).await?);
    // Down when it is cancelled.
    scene.world.one.fault(Verb::Try, Fault::Refused).await?;
    scene.world.two.fault(Verb::Cancel, Fault::Unavailable).await?;
    let running = scene.transfer_by(TCC, LONG_MS);
    scene.world.two.called(Verb::Cancel, 0).await?;
    scene.servers()[1].kill9()?;
    scene.world.two.fault(Verb::Cancel, Fault::None).await?;
    let tried = scene.world.two.calls(Verb::Cancel).await?;
    scene.world.two.called(Verb::Cancel, tried + 1).await?;
    scene.servers()[1].restart().await?;
    transfers.push(told(running, Outcome::RolledBack).await?);
    scene.world.one.fault(Verb::Try, Fault::None).await?;
    scene.ends_well(transfers).await
}

/// The initiator calls the services itself; they join, try, and report.
async fn driven_by_the_initiator(flavor: Flavor) -> Result<()> {
    let mut scene = Scene::set(flavor).await?;
    let mut transfers = Vec::new();
    for (kinds, outcome) in [
        (TCC, Outcome::Committed),
        (KINDS[1], Outcome::Committed),
        (TCC, Outcome::RolledBack),
        (KINDS[1], Outcome::RolledBack),
    ] {
        let name = format!("driven {}", transfers.len());
        let mut api = scene.world.coordinator.api();
        let begin = BeginRequest { name: name.clone(), ..BeginRequest::default() };
        let gtid = api.begin(begin).await?.into_inner().gtid;
        let entry = Entry { transfer: name.clone(), account: 1, amount: 100 };
        let [one, two] = concord_tests::actions(kinds);
        scene.world.one.join(&gtid, one, &entry).await?;
        scene.world.two.join(&gtid, two, &entry).await?;
        let transaction = match outcome {
            Outcome::Committed => {
                let request = CommitRequest { gtid, ..CommitRequest::default() };
                api.commit(request).await?.into_inner().transaction
            }
            _ => {
                let request = RollbackRequest { gtid, ..RollbackRequest::default() };
                api.rollback(request).await?.into_inner().transaction
            }
        };
        let kinds_seen: Vec<_> =
            transaction.iter().flat_map(|one| &one.branches).map(|branch| branch.kind()).collect();
        ensure!(kinds_seen == kinds, "{kinds_seen:?}");
        transfers.push(Transfer { name, outcome });
    }
    ensure!(scene.world.two.calls(Verb::Try).await? == 0, "they have voted: nobody asks them to try");
    scene.ends_well(transfers).await
}
