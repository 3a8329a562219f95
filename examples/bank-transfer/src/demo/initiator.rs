//! The application that wants money moved: a client of the coordinator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{
    BranchKind, BranchRequest, ExecuteRequest, GetStatusRequest, GetStatusResponse, ListRequest, Transaction,
    TransactionState, Wait, WatchRequest,
};
use concord_sandbox::{PATIENCE, until};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::account::{Account, Transfer};
use crate::bank::Entry;

/// How long one call may take. Past it the outcome is unknown, and the call is repeated with its key.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Before a call is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(50);
/// Transactions in one answer to List.
const PAGE_SIZE: u32 = 1_000;

/// States of a transaction that has not ended.
const UNFINISHED: [TransactionState; 4] = [
    TransactionState::Active,
    TransactionState::Preparing,
    TransactionState::Committing,
    TransactionState::RollingBack,
];

/// A client of the coordinator that moves money between the banks.
#[derive(Debug)]
pub(crate) struct Initiator {
    channel: Channel,
    banks: [String; 2],
    repeats: AtomicU64,
}

impl Initiator {
    /// Connects when first used, and again whenever the coordinator has been away. `banks` are the addresses
    /// of the two bank services.
    ///
    /// # Errors
    /// When the coordinator's address cannot be read.
    pub(crate) fn new(coordinator: &str, banks: [String; 2]) -> Result<Initiator> {
        let channel = Endpoint::from_shared(coordinator.to_owned())?.tcp_nodelay(true).connect_lazy();
        Ok(Initiator { channel, banks, repeats: AtomicU64::new(0) })
    }

    /// Moves money: both branches in one call. Answers when the outcome is known, and repeats the call while
    /// it is not: the idempotency key makes that safe, whether or not an earlier call has arrived.
    ///
    /// # Errors
    /// When the coordinator refuses the request as such, or nothing is known for too long.
    pub(crate) async fn transfer(&self, transfer: &Transfer, wait: Wait) -> Result<Transaction> {
        let started = Instant::now();
        loop {
            let mut request = Request::new(self.request(transfer, wait)?);
            request.set_timeout(CALL_TIMEOUT);
            match self.coordinator().execute(request).await {
                Ok(response) => {
                    return response.into_inner().transaction.context("an answer with no transaction in it");
                }
                Err(status) if !is_outcome_unknown(&status) => {
                    return Err(status).with_context(|| format!("transfer {}", transfer.key));
                }
                Err(status) if started.elapsed() > PATIENCE => {
                    return Err(status)
                        .with_context(|| format!("transfer {}: outcome unknown", transfer.key));
                }
                Err(_) => {
                    self.repeats.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(REPEAT_AFTER).await;
                }
            }
        }
    }

    /// Calls that were repeated because their outcome was not known.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// Follows a transaction until something can be seen in it.
    ///
    /// # Errors
    /// When it ends, or too much time passes, before that.
    pub(crate) async fn watch(
        &self,
        gtid: &str,
        what: &str,
        seen: impl Fn(&Transaction) -> bool,
    ) -> Result<Transaction> {
        let follow = async {
            let request = WatchRequest { gtid: gtid.to_owned() };
            let mut changes = self.coordinator().watch(request).await?.into_inner();
            let mut last = None;
            while let Some(change) = changes.message().await? {
                match change.transaction {
                    Some(transaction) if seen(&transaction) => return Ok(transaction),
                    other => last = other,
                }
            }
            bail!("transaction {gtid} ended, and it was never seen that {what}: {last:?}")
        };
        tokio::time::timeout(PATIENCE, follow).await.with_context(|| format!("waited in vain: {what}"))?
    }

    /// The coordinator's own account of itself, once it answers.
    ///
    /// # Errors
    /// When it does not answer for too long.
    pub(crate) async fn status(&self) -> Result<GetStatusResponse> {
        until("the coordinator answers", async || {
            let mut operator = OperatorClient::new(self.channel.clone());
            Ok(operator.get_status(GetStatusRequest {}).await.ok().map(|response| response.into_inner()))
        })
        .await
    }

    /// Transactions that have not ended, once there are none or too much time has passed.
    ///
    /// # Errors
    /// When the coordinator cannot be asked.
    pub(crate) async fn unfinished(&self) -> Result<Vec<Transaction>> {
        let started = Instant::now();
        loop {
            let left = self.list(&UNFINISHED).await?;
            if left.is_empty() || started.elapsed() > PATIENCE {
                return Ok(left);
            }
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }

    /// Every transaction in one of these states, page after page.
    ///
    /// # Errors
    /// When the coordinator cannot be asked.
    pub(crate) async fn list(&self, states: &[TransactionState]) -> Result<Vec<Transaction>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let states = states.iter().map(|state| i32::from(*state)).collect();
            let request = ListRequest { states, page_size: PAGE_SIZE, page_token, ..Default::default() };
            let page = self.coordinator().list(request).await?.into_inner();
            all.extend(page.transactions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    fn coordinator(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel.clone())
    }

    fn request(&self, transfer: &Transfer, wait: Wait) -> Result<ExecuteRequest> {
        let branch = |action: &str, account: Account| -> Result<BranchRequest> {
            let entry =
                Entry { transfer: transfer.key.clone(), account: account.number, amount: transfer.amount };
            Ok(BranchRequest {
                kind: BranchKind::Xa.into(),
                participant: self.banks[account.bank.index()].clone(),
                action: action.to_owned(),
                payload: serde_json::to_vec(&entry)?.into(),
            })
        };
        Ok(ExecuteRequest {
            name: "transfer".to_owned(),
            branches: vec![branch("debit", transfer.from)?, branch("credit", transfer.to)?],
            wait: wait.into(),
            idempotency_key: transfer.key.clone(),
            ..Default::default()
        })
    }
}

/// The call may or may not have taken effect, or did not only for the moment. Everything else is the
/// coordinator's last word.
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

/// Whether the money moves, for good: what COMMITTING stands for is never taken back.
pub(crate) fn is_committed(transaction: &Transaction) -> bool {
    matches!(transaction.state(), TransactionState::Committing | TransactionState::Committed)
}
