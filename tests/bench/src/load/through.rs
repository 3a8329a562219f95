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
    through_each(name, &[url.to_owned()], callers, request)
}

/// Callers of these coordinators, as many of each; the syncs of their logs are counted.
pub(crate) fn through_each(
    name: &str,
    urls: &[String],
    callers: usize,
    request: impl Fn() -> ExecuteRequest + Send + Sync + 'static,
) -> Result<Callers<Through>> {
    let request = Arc::new(request) as Request;
    let channels = urls.iter().map(|url| channel(url)).collect::<Result<Vec<_>>>()?;
    let caller = |channel: &Channel| Through {
        client: CoordinatorClient::new(channel.clone()),
        request: Arc::clone(&request),
    };
    let callers = channels.iter().cycle().map(caller).take(callers).collect();
    let log = Log::Of(channels.into_iter().map(OperatorClient::new).collect());
    Ok(Callers { name: name.to_owned(), callers, log })
}
