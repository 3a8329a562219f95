//! Transactions through a coordinator.

use std::sync::Arc;

use anyhow::{Result, ensure};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{ExecuteRequest, TransactionState};
use tonic::transport::Channel;

use super::{Caller, Callers, Log};
use crate::service::channel;

type Request = Arc<dyn Fn() -> ExecuteRequest + Send + Sync>;

/// Executes one request after the other.
pub(crate) struct Through {
    client: CoordinatorClient<Channel>,
    request: Request,
}

impl Caller for Through {
    async fn call(&mut self) -> Result<()> {
        let done = self.client.execute((self.request)()).await?.into_inner();
        let transaction = done.transaction.unwrap_or_default();
        ensure!(transaction.state() == TransactionState::Committed, "not committed: {transaction:?}");
        Ok(())
    }
}

/// Callers of the coordinator at `url`, over one connection; the syncs of its log are counted.
pub(crate) fn through(
    name: &str,
    url: &str,
    callers: usize,
    request: impl Fn() -> ExecuteRequest + Send + Sync + 'static,
) -> Result<Callers<Through>> {
    let (client, request) = (CoordinatorClient::new(channel(url)?), Arc::new(request) as Request);
    let caller = || Through { client: client.clone(), request: Arc::clone(&request) };
    let callers = std::iter::repeat_with(caller).take(callers).collect();
    let log = Log::Of(OperatorClient::new(channel(url)?));
    Ok(Callers { name: name.to_owned(), callers, log })
}
