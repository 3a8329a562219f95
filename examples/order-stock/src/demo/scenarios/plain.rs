//! Nothing breaks.

use anyhow::{Result, ensure};
use reqwest::StatusCode;

use super::{Scenario, placed, refused, wish};
use crate::demo::catalog::{CUSTOMER, HOT, price, scarce};
use crate::demo::customer::outcome;
use crate::demo::part::Part;
use crate::demo::record::Outcome;
use crate::demo::say::{self, money, thousands};
use crate::demo::scenarios::view::View;
use crate::demo::stage::Stage;

pub(super) async fn success(stage: &Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("1  An order that succeeds: 2 of T00101 for user 5");
    let before = View::take(stage, "T00101", CUSTOMER).await?;
    let wish = wish("T00101", 2, "success");
    let door = stage.part(Part::Order).process.url();
    say::line(format!("curl -d '{}' {door}/orders", serde_json::to_string(&wish)?));
    let answer = stage.customer.ask(&wish).await?;
    say::line(format!("{}: {}", answer.status, answer.body));
    say::line(
        "One global transaction, two protocols. The order's row is prepared by XA while goods and money",
    );
    say::line(
        "are frozen by TCC (Try), all at once. All say yes, the decision is written to disk, and then the",
    );
    say::line(
        "row is committed, the goods are taken out of the stock and the money out of the account (Confirm).",
    );
    placed(stage, "successful", &wish, answer, before, record).await
}

pub(super) async fn refusal(stage: &Stage, orders: u64, record: &mut Vec<Outcome>) -> Result<Scenario> {
    let qty = scarce(orders) + 1;
    say::headline(format!(
        "2  An order that is refused: {} of {HOT}, one more than there are",
        thousands(qty)
    ));
    let before = View::take(stage, HOT, CUSTOMER).await?;
    let wish = wish(HOT, qty, "refusal");
    let answer = stage.customer.ask(&wish).await?;
    say::line(format!("{}: {}", answer.status, answer.body["error"]));
    let outcome = outcome(&wish, answer)?;
    ensure!(outcome.reason.contains("not enough of T00110"), "for want of stock: {outcome:?}");
    let frozen = stage.books(Part::Payment).history(&stage.balance, &outcome.id).await?;
    match frozen.first() {
        Some(row) => say::line(format!(
            "Meanwhile the payment service had frozen {}; this reservation is {} now.",
            money(row.quantity),
            row.state
        )),
        None => say::line("The payment service was told before it had frozen any money."),
    }
    say::line(format!("The prepared row of the order ({}) was rolled back.", money(price(HOT) * qty)));
    refused(stage, "refused for want of stock", outcome, before, record).await
}

pub(super) async fn duplicate(stage: &Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("3  A request that comes twice");
    let before = View::take(stage, "T00102", CUSTOMER).await?;
    let wish = wish("T00102", 3, "twice");
    let (one, other) = tokio::try_join!(stage.customer.ask(&wish), stage.customer.ask(&wish))?;
    say::line("Twice at the same time by HTTP, and then once more by gRPC, with the same request id:");
    for answer in [&one, &other] {
        say::line(format!("{}: order {}", answer.status, answer.body["id"]));
    }
    ensure!(one.body == other.body, "it should have been one order: {one:?}, {other:?}");
    let again = stage.customer.place_by_grpc(&wish).await?;
    say::line(format!("OK: order {:?}", again.id));
    ensure!(one.body["id"] == again.id, "another order by gRPC: {one:?}, {again:?}");
    let differs = stage.customer.ask(&super::wish("T00102", 4, "twice")).await?;
    ensure!(differs.status == StatusCode::UNPROCESSABLE_ENTITY, "other content: {differs:?}");
    say::line("The same request id with another quantity is a mistake of the customer's:");
    say::line(format!("{}: {}", differs.status, differs.body["error"]));
    placed(stage, "sent three times", &wish, one, before, record).await
}
