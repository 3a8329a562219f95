//! A customer, who knows the order service's doors and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use concord_sandbox::PATIENCE;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::record::Outcome;
use crate::order::desk::{Order, Wish};
use crate::order::grpc::v1;
use crate::order::grpc::v1::orders_client::OrdersClient;

/// When the door does not say when to ask again.
const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// The shop answers sooner, whatever happens.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Places orders.
#[derive(Debug)]
pub(crate) struct Customer {
    http: Client,
    door: String,
    repeats: AtomicU64,
}

/// What the shop has answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The JSON.
    pub body: Value,
}

impl Customer {
    /// `door` is the URL of the order service.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(crate) fn new(door: String) -> Result<Customer> {
        let http = Client::builder().timeout(CALL_TIMEOUT).tcp_nodelay(true).build()?;
        Ok(Customer { http, door, repeats: AtomicU64::new(0) })
    }

    /// Sends the wish until the shop knows what came of it. The wish has a request id, so that is one order at most.
    ///
    /// # Errors
    /// When nothing is known for too long.
    pub(crate) async fn ask(&self, wish: &Wish) -> Result<Answer> {
        let started = Instant::now();
        loop {
            let trouble = match self.post(wish).await {
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => answer.body.to_string(),
                Ok(answer) => return Ok(answer),
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() > PATIENCE {
                bail!("{wish:?}: nothing is known of it: {trouble}");
            }
            self.repeats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }

    /// As [`Customer::ask`]; the answer must be a yes or a no.
    ///
    /// # Errors
    /// As [`Customer::ask`]; when it is neither.
    pub(crate) async fn order(&self, wish: &Wish) -> Result<Outcome> {
        outcome(wish, self.ask(wish).await?)
    }

    async fn post(&self, wish: &Wish) -> Result<Answer> {
        let response = self.http.post(format!("{}/orders", self.door)).json(wish).send().await?;
        Ok(Answer { status: response.status(), body: response.json().await? })
    }

    /// Sends the wish once, by gRPC.
    ///
    /// # Errors
    /// When there is no answer, or no order.
    pub(crate) async fn place_by_grpc(&self, wish: &Wish) -> Result<v1::Order> {
        let Wish { sku, qty, user, request_id } = wish.clone();
        let request = v1::PlaceRequest { sku, qty, user, request_id: request_id.unwrap_or_default() };
        let mut orders = OrdersClient::connect(self.door.clone()).await?;
        orders.place(request).await?.into_inner().order.context("an answer with no order in it")
    }

    /// Reads an order.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn get(&self, id: &str) -> Result<Answer> {
        let response = self.http.get(format!("{}/orders/{id}", self.door)).send().await?;
        Ok(Answer { status: response.status(), body: response.json().await? })
    }

    /// Requests that were repeated because it was not known what had come of them.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }
}

/// Reads a yes or a no.
///
/// # Errors
/// When it is neither.
pub(crate) fn outcome(wish: &Wish, answer: Answer) -> Result<Outcome> {
    let Answer { status, body } = answer;
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    match status {
        StatusCode::CREATED | StatusCode::ACCEPTED => {
            let order: Order = serde_json::from_value(body)?;
            Ok(Outcome {
                wish: wish.clone(),
                id: order.id.clone(),
                order: Some(order),
                reason: String::new(),
            })
        }
        StatusCode::CONFLICT => {
            let id = text("id").context("a refusal without an id")?;
            let reason = text("error").context("a refusal without a reason")?;
            Ok(Outcome { wish: wish.clone(), id, order: None, reason })
        }
        _ => bail!("{wish:?}: {status}: {body}"),
    }
}
