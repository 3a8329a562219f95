//! Processes die.

use anyhow::{Context as _, Result, ensure};
use concord_proto::v1::{BranchState, Transaction};
use tokio::task::JoinHandle;

use super::{Scenario, placed, wish};
use crate::demo::catalog::{CUSTOMER, price};
use crate::demo::customer::Answer;
use crate::demo::part::Part;
use crate::demo::record::Outcome;
use crate::demo::say;
use crate::demo::scenarios::view::View;
use crate::demo::stage::Stage;
use crate::order::desk::Wish;
use crate::switches::HOLD_PHASE_TWO;

pub(super) async fn stock(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("6  The stock service is killed -9 between Try and Confirm");
    let before = View::take(stage, "T00104", CUSTOMER).await?;
    let wish = wish("T00104", 2, "stock-killed");
    let stock = Part::Stock.index();
    stage.parts[stock].switch_on(HOLD_PHASE_TWO)?;
    let waiting = send(stage, &wish);
    let decided = stage.observer.decided().await?;
    let knocked = |seen: &Transaction| {
        let is = |part: Part, state| seen.branches[part.index()].state() == state;
        is(Part::Order, BranchState::Committed)
            && is(Part::Payment, BranchState::Committed)
            && seen.branches[stock].attempts > 0
    };
    stage.observer.watch(&decided.gtid, "all but the stock service have done it", knocked).await?;
    let pid = stage.parts[stock].process.pid();
    stage.parts[stock].process.kill9()?;
    say::line(
        "All have tried and the decision is on disk: the order stands. At the stock service a test switch",
    );
    say::line(format!(
        "turns Confirm away at the door. kill -9 {pid}. The goods are frozen, and will be theirs:"
    ));
    before.now(stage).await?.has_frozen(wish.qty, 0)?;
    stage.parts[stock].switch_off(HOLD_PHASE_TWO)?;
    stage.parts[stock].process.start().await?;
    let answer = answer(waiting).await?;
    say::line(format!(
        "The stock service is back (process {}), and the coordinator tries on until it has confirmed.",
        stage.parts[stock].process.pid()
    ));
    say::line(format!("The customer has noticed nothing but a pause: {}.", answer.status));
    stage.observer.ended(&decided.gtid).await?;
    placed(stage, "stock service killed -9 between Try and Confirm", &wish, answer, before, record).await
}

pub(super) async fn coordinator(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("7  The coordinator is killed -9 after the decision");
    let before = View::take(stage, "T00105", CUSTOMER).await?;
    let wish = wish("T00105", 1, "coordinator-killed");
    for part in &stage.parts {
        part.switch_on(HOLD_PHASE_TWO)?;
    }
    let waiting = send(stage, &wish);
    let decided = stage.observer.decided().await?;
    let epoch = stage.observer.status().await?.epoch;
    let pid = stage.coordinator.pid();
    stage.coordinator.kill9()?;
    let in_doubt = stage.books(Part::Order).in_doubt().await?;
    ensure!(in_doubt == 1, "the order's row should be prepared, and nothing else: {in_doubt}");
    say::line(
        "All have said yes, and none has heard that it was decided: test switches turn Commit and Confirm",
    );
    say::line(format!("away. kill -9 {pid}. XA RECOVER lists {in_doubt} at the order service's database."));
    before.now(stage).await?.has_frozen(wish.qty, price(&wish.sku) * wish.qty)?;
    for part in &stage.parts {
        part.switch_off(HOLD_PHASE_TWO)?;
    }
    stage.coordinator.start().await?;
    let epoch_now = stage.observer.status().await?.epoch;
    let answer = answer(waiting).await?;
    say::line(format!(
        "The coordinator is back (process {}, epoch {epoch} -> {epoch_now}), finds the decision on its disk and",
        stage.coordinator.pid()
    ));
    say::line(
        "delivers it. Meanwhile the order service has asked again and again, with its idempotency key, and",
    );
    say::line(format!("got the same transaction: {}.", answer.status));
    let ended = stage.observer.ended(&decided.gtid).await?;
    ensure!(answer.body["id"] == ended.gtid, "another order: {answer:?}, {ended:?}");
    placed(stage, "coordinator killed -9 after the decision", &wish, answer, before, record).await
}

/// Sends the wish; its answer is waited for later.
fn send(stage: &Stage, wish: &Wish) -> JoinHandle<Result<Answer>> {
    let (customer, wish) = (stage.customer.clone(), wish.clone());
    tokio::spawn(async move { customer.ask(&wish).await })
}

async fn answer(waiting: JoinHandle<Result<Answer>>) -> Result<Answer> {
    waiting.await.context("the customer died")?
}
