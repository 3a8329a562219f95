//! The coordinator, as an operator sees it.

use anyhow::{Context as _, Result, bail};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{
    GetStatusRequest, GetStatusResponse, ListRequest, Transaction, TransactionState, WatchRequest,
};
use concord_sandbox::{PATIENCE, until};
use tonic::transport::{Channel, Endpoint};

/// Transactions in one answer to List.
const PAGE_SIZE: u32 = 1_000;

/// States of a transaction that has not ended.
const UNFINISHED: [TransactionState; 4] = [
    TransactionState::Active,
    TransactionState::Preparing,
    TransactionState::Committing,
    TransactionState::RollingBack,
];

/// A client of the coordinator that only looks.
#[derive(Debug)]
pub(crate) struct Observer {
    channel: Channel,
}

impl Observer {
    /// Connects when first used, and again whenever the coordinator has been away.
    ///
    /// # Errors
    /// When the coordinator's address cannot be read.
    pub(crate) fn new(coordinator: &str) -> Result<Observer> {
        let channel = Endpoint::from_shared(coordinator.to_owned())?.tcp_nodelay(true).connect_lazy();
        Ok(Observer { channel })
    }

    /// Waits for the one transaction whose commit is decided and not yet delivered.
    ///
    /// # Errors
    /// When there is none for too long.
    pub(crate) async fn decided(&self) -> Result<Transaction> {
        until("the coordinator has decided to commit", async || {
            Ok(self.list(&[TransactionState::Committing]).await?.pop())
        })
        .await
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

    /// Follows a transaction to its end.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn ended(&self, gtid: &str) -> Result<Transaction> {
        let ended = [TransactionState::Committed, TransactionState::RolledBack];
        self.watch(gtid, "it has ended", |seen| ended.contains(&seen.state())).await
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
        let started = tokio::time::Instant::now();
        loop {
            let left = self.list(&UNFINISHED).await?;
            if left.is_empty() || started.elapsed() > PATIENCE {
                return Ok(left);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
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
}
