//! Seven orders that show what holds, whatever is lost, late or dead.

mod killed;
mod network;
mod plain;
mod view;

use anyhow::{Result, ensure};
use concord_proto::v1::{Transaction, TransactionState};
use serde::Serialize;

use super::catalog::{CUSTOMER, price};
use super::customer::{Answer, outcome};
use super::record::Outcome;
use super::stage::Stage;
use crate::order::desk::Wish;
use view::View;

/// What became of one of them.
#[derive(Debug, Serialize)]
pub(crate) struct Scenario {
    /// In a few words.
    pub name: &'static str,
    /// The global transaction.
    pub gtid: String,
    /// Its state in the end.
    pub state: String,
    /// Why there is no order; empty when there is one.
    pub reason: String,
    /// What was ordered.
    pub sku: String,
    /// How much of it.
    pub qty: i64,
    /// By whom.
    pub user: u32,
}

/// Runs all seven. `orders` is how many come after them.
///
/// # Errors
/// When one does not end as it must.
pub(crate) async fn run(stage: &mut Stage, orders: u64, record: &mut Vec<Outcome>) -> Result<Vec<Scenario>> {
    Ok(vec![
        plain::success(stage, record).await?,
        plain::refusal(stage, orders, record).await?,
        plain::duplicate(stage, record).await?,
        network::reply_lost(stage, record).await?,
        network::cancel_overtakes(stage, record).await?,
        killed::stock(stage, record).await?,
        killed::coordinator(stage, record).await?,
    ])
}

/// What the customer orders, as a request of that id.
fn wish(sku: &str, qty: i64, request_id: &str) -> Wish {
    Wish { sku: sku.to_owned(), qty, user: CUSTOMER, request_id: Some(request_id.to_owned()) }
}

/// Sees to it that an order was placed in all three databases, once, and shows it.
async fn placed(
    stage: &Stage,
    name: &'static str,
    wish: &Wish,
    answer: Answer,
    before: View,
    record: &mut Vec<Outcome>,
) -> Result<Scenario> {
    let outcome = outcome(wish, answer)?;
    ensure!(outcome.order.is_some(), "it should have been placed: {outcome:?}");
    before.changed(stage, wish.qty, price(&wish.sku) * wish.qty).await?;
    let shown = stage.customer.get(&outcome.id).await?;
    let order = serde_json::from_value(shown.body)?;
    ensure!(outcome.order.as_ref() == Some(&order), "the order reads differently: {order:?}, {outcome:?}");
    conclude(stage, name, outcome, record).await
}

/// Sees to it that an order was refused, and nothing happened in any of the three databases, and shows it.
async fn refused(
    stage: &Stage,
    name: &'static str,
    outcome: Outcome,
    before: View,
    record: &mut Vec<Outcome>,
) -> Result<Scenario> {
    ensure!(outcome.order.is_none(), "it should have been refused: {outcome:?}");
    before.changed(stage, 0, 0).await?;
    conclude(stage, name, outcome, record).await
}

async fn conclude(
    stage: &Stage,
    name: &'static str,
    outcome: Outcome,
    record: &mut Vec<Outcome>,
) -> Result<Scenario> {
    let ended = stage.observer.ended(&outcome.id).await?;
    let wanted = match outcome.order {
        Some(_) => TransactionState::Committed,
        None => TransactionState::RolledBack,
    };
    ensure!(ended.state() == wanted, "customer and coordinator disagree: {outcome:?}, {ended:?}");
    let Wish { sku, qty, user, .. } = outcome.wish.clone();
    let (gtid, reason) = (outcome.id.clone(), outcome.reason.clone());
    record.push(outcome);
    Ok(Scenario { name, gtid, state: state_name(&ended).to_owned(), reason, sku, qty, user })
}

fn state_name(transaction: &Transaction) -> &'static str {
    transaction.state().as_str_name().trim_start_matches("TRANSACTION_STATE_")
}
