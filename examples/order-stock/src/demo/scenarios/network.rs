//! The network loses and delays.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use concord_participant::reservations::State;
use concord_proto::v1::TryRequest;
use concord_proto::v1::participant_client::ParticipantClient;
use concord_sandbox::until;
use prost::Message as _;

use super::{Scenario, placed, refused, wish};
use crate::demo::catalog::{CUSTOMER, POOR, POOR_BALANCE, price};
use crate::demo::customer::outcome;
use crate::demo::part::Part;
use crate::demo::record::Outcome;
use crate::demo::say::{self, money};
use crate::demo::scenarios::view::View;
use crate::demo::stage::Stage;
use crate::order::desk::Wish;
use crate::switches::{CATCH_TRY, CAUGHT, LOSE_REPLY};

pub(super) async fn reply_lost(stage: &Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("4  The answer to a Try is lost");
    let before = View::take(stage, "T00103", CUSTOMER).await?;
    let wish = wish("T00103", 2, "reply-lost");
    let stock = stage.part(Part::Stock);
    stock.switch_on(LOSE_REPLY)?;
    let failed_before = stage.observer.status().await?.calls_failed;
    let answer = stage.customer.ask(&wish).await?;
    ensure!(!stock.file(LOSE_REPLY).exists(), "no answer was lost");
    let failed = stage.observer.status().await?.calls_failed;
    ensure!(failed > failed_before, "the coordinator has noticed nothing");
    say::line(
        "The stock service had frozen the goods and said so, when the connection broke. The coordinator",
    );
    say::line(format!(
        "cannot know whether it had (calls failed: {failed_before} -> {failed}), and asked again."
    ));
    say::line(
        "The barrier, a row that was committed together with the frozen goods, remembered the branch: it",
    );
    say::line("answered what had been answered before, and nothing was frozen twice.");
    let outcome = outcome(&wish, answer.clone())?;
    let frozen = stage.books(Part::Stock).history(&stage.stock, &outcome.id).await?;
    ensure!(
        frozen.len() == 1 && frozen[0].quantity == wish.qty && frozen[0].state == State::Confirmed,
        "frozen once: {frozen:?}"
    );
    say::line(format!(
        "The stock service has one reservation on record, of {}, {}.",
        frozen[0].quantity, frozen[0].state
    ));
    placed(stage, "answer to Try lost", &wish, answer, before, record).await
}

pub(super) async fn cancel_overtakes(stage: &Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("5  A Cancel overtakes its Try");
    let before = View::take(stage, "T00101", POOR).await?;
    let wish = Wish { sku: "T00101".into(), qty: 1, user: POOR, request_id: Some("cancel-overtakes".into()) };
    let stock = stage.part(Part::Stock);
    stock.switch_on(CATCH_TRY)?;
    let outcome = outcome(&wish, stage.customer.ask(&wish).await?)?;
    ensure!(outcome.order.is_none(), "it should have been refused: {outcome:?}");
    say::line(format!(
        "User {POOR} has {} and wants something for {}.",
        money(POOR_BALANCE),
        money(price(&wish.sku))
    ));
    say::line(format!("The payment service: {}. So everything is cancelled at once,", outcome.reason));
    say::line(
        "also at the stock service; but there the Try is still on its way. Its Cancel comes first, finds",
    );
    say::line("nothing to give back, and leaves a tombstone.");
    let caught =
        until("a Try was caught", async || Ok::<_, std::io::Error>(fs::read(stock.file(CAUGHT)).ok()))
            .await?;
    let late = TryRequest::decode(&caught[..]).context("read the Try that was caught")?;
    let gtid = late.branch.as_ref().map(|branch| branch.gtid.clone());
    ensure!(gtid.as_deref() == Some(&outcome.id), "another Try was caught: {late:?}");
    let mut network = ParticipantClient::connect(stock.process.url()).await?;
    let answer = network.r#try(late).await?.into_inner();
    ensure!(!answer.reserved, "the late Try should have been refused: {answer:?}");
    say::line(format!("Now the Try arrives. The stock service refuses it: {}.", answer.reason));
    let frozen = stage.books(Part::Stock).history(&stage.stock, &outcome.id).await?;
    ensure!(frozen.is_empty(), "the late Try has frozen something: {frozen:?}");
    refused(stage, "Cancel came before Try", outcome, before, record).await
}
