//! Where orders are placed: one call to the coordinator for all three services.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use concord_participant::Gtid;
use concord_participant::reservations::{ReserveItem, ReserveItems};
use concord_proto::status::reason;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, Transaction, TransactionState};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::payment::Payment;

/// An order that nobody has decided on after so long is rolled back.
const TIMEOUT_MS: u32 = 5_000;
/// How long a customer waits for an answer, at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before something is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// Of one order.
const QTY_MAX: i64 = 10_000;
/// Bytes.
const REQUEST_ID_MAX: usize = 64;
/// Characters, as in the tables.
const SKU_MAX: usize = 64;

/// What a customer asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    /// What.
    pub sku: String,
    /// How much of it.
    pub qty: i64,
    /// Who.
    pub user: u32,
    /// The customer's own name for the request: however often it is sent, it is one order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What the order service's own branch is to write: the payload of `place`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewOrder {
    /// What.
    pub sku: String,
    /// How much of it.
    pub qty: i64,
    /// Who.
    pub user: u32,
    /// For how much.
    pub cents: i64,
}

/// An order that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The global transaction that placed it.
    pub id: String,
    /// What.
    pub sku: String,
    /// How much of it.
    pub qty: i64,
    /// Who.
    pub user: u32,
    /// For how much.
    pub cents: i64,
}

/// How far a new order has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The order.
    pub order: Order,
    /// It stands, but a service has not heard of it yet.
    pub delivering: bool,
}

/// Why there is no order, or no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The wish is not one.
    Invalid(String),
    /// What it is about is not there.
    Unknown(String),
    /// A service has refused.
    Refused {
        /// In its words.
        reason: String,
        /// The global transaction.
        id: String,
    },
    /// The request's id was used for another wish.
    OtherContent(String),
    /// It is not known what will come of it; it may be asked again, under this request id.
    Unavailable {
        /// What is the matter.
        reason: String,
        /// To be sent along with the repeated request.
        request_id: Option<String>,
    },
    /// A mistake of the program, or of those who run it.
    Broken(String),
}

/// Where the participants listen.
#[derive(Debug)]
pub(crate) struct Services {
    /// This service itself.
    pub order: String,
    /// The stock service.
    pub stock: String,
    /// The payment service.
    pub payment: String,
}

/// Places orders. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    coordinator: CoordinatorClient<Channel>,
    services: Arc<Services>,
    database: Pool,
}

impl Desk {
    /// Connects to the coordinator when first used, and again whenever it has been away.
    ///
    /// # Errors
    /// When the coordinator's address cannot be read.
    pub(crate) fn new(coordinator: &str, services: Services, database: Pool) -> Result<Desk> {
        let channel = Endpoint::from_shared(coordinator.to_owned())?.tcp_nodelay(true).connect_lazy();
        let coordinator = CoordinatorClient::new(channel);
        Ok(Desk { coordinator, services: services.into(), database })
    }

    /// Places an order: its row, the goods and the money, or none of them.
    ///
    /// # Errors
    /// [`Refusal`]: then there is no order, but with [`Refusal::Unavailable`] there may be.
    pub(crate) async fn place(&self, wish: Wish) -> Result<Placed, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        check(&wish)?;
        let Wish { sku, qty, user, request_id } = wish;
        let request_id = request_id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let unavailable = |reason| Refusal::Unavailable { reason, request_id: Some(request_id.clone()) };
        let price = self.price(&sku).await.map_err(|error| unavailable(error.to_string()))?;
        let price = price.ok_or_else(|| Refusal::Unknown(format!("there is no {sku}")))?;
        let cents =
            price.checked_mul(qty).ok_or_else(|| Refusal::Invalid("that is too much money".into()))?;
        let new = NewOrder { sku, qty, user, cents };
        let mut request = self.request(&new).map_err(|error| Refusal::Broken(error.to_string()))?;
        for attempt in 1.. {
            // A user's request ids are the user's own. The same key answers with the first outcome, for ever, so
            // what is tried anew is another key's.
            request.idempotency_key = format!("{user}/{request_id}/{attempt}");
            let done = self.execute(&request, deadline, &request_id).await?;
            let NewOrder { sku, qty, user, cents } = new.clone();
            let order = Order { id: done.gtid.clone(), sku, qty, user, cents };
            match (done.state(), refusal(&done)) {
                (TransactionState::Committed, _) => return Ok(Placed { order, delivering: false }),
                (TransactionState::Committing, _) => return Ok(Placed { order, delivering: true }),
                (_, Some(words)) => {
                    return Err(Refusal::Refused { reason: words.to_owned(), id: done.gtid });
                }
                // A time-out, a coordinator that restarted: nobody's fault.
                _ if Instant::now() + PAUSE > deadline => return Err(unavailable(done.reason)),
                _ => tokio::time::sleep(PAUSE * attempt).await,
            }
        }
        Err(unavailable("tried too often".into()))
    }

    /// Reads an order.
    ///
    /// # Errors
    /// [`Refusal::Unknown`]; [`Refusal::Unavailable`] when the database cannot be read.
    pub(crate) async fn order(&self, id: &str) -> Result<Order, Refusal> {
        let unknown = || Refusal::Unknown(format!("there is no order {id}"));
        let gtid: Gtid = id.parse().map_err(|_| unknown())?;
        let row = async {
            let sql = "SELECT id, sku, qty, user, cents FROM orders WHERE id = ?";
            self.database.get_conn().await?.exec_first(sql, (gtid.to_string(),)).await
        };
        let row: Option<(String, String, i64, u32, i64)> =
            row.await.map_err(|error: mysql_async::Error| Refusal::Unavailable {
                reason: error.to_string(),
                request_id: None,
            })?;
        let (id, sku, qty, user, cents) = row.ok_or_else(unknown)?;
        Ok(Order { id, sku, qty, user, cents })
    }

    async fn price(&self, sku: &str) -> Result<Option<i64>, mysql_async::Error> {
        let sql = "SELECT cents FROM price WHERE sku = ?";
        self.database.get_conn().await?.exec_first(sql, (sku,)).await
    }

    /// The whole global transaction: XA here, TCC there.
    fn request(&self, order: &NewOrder) -> Result<ExecuteRequest, serde_json::Error> {
        let goods = ReserveItems { items: vec![ReserveItem { sku: order.sku.clone(), quantity: order.qty }] };
        let money = Payment { user: order.user, cents: order.cents };
        let Services { order: here, stock, payment } = &*self.services;
        let branch = |kind: BranchKind, participant: &str, action: &str, payload| BranchRequest {
            kind: kind.into(),
            participant: participant.to_owned(),
            action: action.to_owned(),
            payload: Vec::into(payload),
        };
        Ok(ExecuteRequest {
            name: "order".to_owned(),
            branches: vec![
                branch(BranchKind::Xa, here, "place", serde_json::to_vec(order)?),
                branch(BranchKind::Tcc, stock, "reserve", serde_json::to_vec(&goods)?),
                branch(BranchKind::Tcc, payment, "pay", serde_json::to_vec(&money)?),
            ],
            timeout_ms: TIMEOUT_MS,
            ..Default::default()
        })
    }

    /// Asks until there is an answer: the idempotency key makes that safe, whether or not an earlier call has
    /// arrived.
    async fn execute(
        &self,
        request: &ExecuteRequest,
        deadline: Instant,
        request_id: &str,
    ) -> Result<Transaction, Refusal> {
        loop {
            let mut call = Request::new(request.clone());
            // A little before it, the coordinator answers with the decision if there is one.
            call.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let status = match self.coordinator.clone().execute(call).await {
                Ok(answer) => return Ok(answer.into_inner().transaction.unwrap_or_default()),
                Err(status) => status,
            };
            if reason(&status).as_deref() == Some("IDEMPOTENCY_KEY_REUSED") {
                let message = format!("request id {request_id} was used for another order");
                return Err(Refusal::OtherContent(message));
            }
            if !is_outcome_unknown(&status) {
                return Err(Refusal::Broken(status.to_string()));
            }
            if status.code() == Code::ResourceExhausted || Instant::now() + PAUSE > deadline {
                let (reason, request_id) = (status.message().to_owned(), Some(request_id.to_owned()));
                return Err(Refusal::Unavailable { reason, request_id });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn check(wish: &Wish) -> Result<(), Refusal> {
    let invalid = |problem: String| Err(Refusal::Invalid(problem));
    if !(1..=SKU_MAX).contains(&wish.sku.chars().count()) {
        return invalid(format!("sku must have from 1 to {SKU_MAX} characters"));
    }
    if !(1..=QTY_MAX).contains(&wish.qty) {
        return invalid(format!("qty must be from 1 to {QTY_MAX}, not {}", wish.qty));
    }
    if wish.user == 0 {
        return invalid("user must be 1 or more".into());
    }
    match &wish.request_id {
        Some(id) if !(1..=REQUEST_ID_MAX).contains(&id.len()) => {
            invalid(format!("request_id must have from 1 to {REQUEST_ID_MAX} bytes"))
        }
        _ => Ok(()),
    }
}

/// The words of the stock or the payment service, if one of them said no: of "branch 2 (reserve at http://…)
/// refused: not enough of T00101". A Try that merely fails is repeated until it times out.
fn refusal(transaction: &Transaction) -> Option<&str> {
    // Not the branches' states: of a transaction that has ended, only the reason is kept.
    let (branch, words) = transaction.reason.split_once(" refused: ")?;
    (branch.starts_with("branch 2 ") || branch.starts_with("branch 3 ")).then_some(words)
}

/// The call may or may not have taken effect, or did not only for the moment.
fn is_outcome_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::ResourceExhausted
    )
}
