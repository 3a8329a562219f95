//! A transaction that somebody asks for, while processes die.

use anyhow::{Context as _, Result};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{ExecuteRequest, ExecuteResponse, Transaction};
use concord_sandbox::PATIENCE;
use concord_tests::{Outcome, Transfer, until};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

pub(super) type Api = CoordinatorClient<Channel>;

/// One transaction, and what its initiator is told.
pub(super) struct Attempt {
    /// Its name, and that of its ledger rows.
    name: String,
    /// Which banks take part.
    takes_part: [bool; 2],
    answer: watch::Receiver<Option<Outcome>>,
    /// With an idempotency key, so that it can be asked for again.
    request: Option<ExecuteRequest>,
}

/// A transaction whose initiator waits for nothing any more.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) transfer: Transfer,
    pub(super) takes_part: [bool; 2],
}

impl Attempt {
    /// Has the coordinator run a transaction, in the background.
    pub(super) fn execute(api: Api, request: ExecuteRequest, takes_part: [bool; 2]) -> Self {
        let name = request.name.clone();
        let request = ExecuteRequest { idempotency_key: name.clone(), ..request };
        let attempt = Attempt::of(name, takes_part, ask(api, request.clone()));
        Attempt { request: Some(request), ..attempt }
    }

    /// A transaction whose initiator, in the background, learns this.
    pub(super) fn of(
        name: String,
        takes_part: [bool; 2],
        answer: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        let (told, answered) = watch::channel(None);
        tokio::spawn(async move { told.send(Some(answer.await)) });
        Attempt { name, takes_part, answer: answered, request: None }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answer.borrow().is_some()
    }

    /// Waits for the answer.
    pub(super) async fn answer(&self) -> Result<Outcome> {
        let mut answer = self.answer.clone();
        let told = tokio::time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await;
        let told = told.with_context(|| format!("{} is never answered", self.name))??;
        Ok(told.unwrap_or(Outcome::Unknown))
    }

    /// Waits for the answer. With `again`, an initiator that was told nothing asks with its key until it is.
    pub(super) async fn finish(self, again: Option<Api>) -> Result<Finished> {
        let mut outcome = self.answer().await?;
        if let (Outcome::Unknown, Some(api), Some(request)) = (outcome, again, self.request) {
            outcome = until("an initiator that asks again is told", async || {
                Ok(Some(ask(api.clone(), request.clone()).await).filter(|told| *told != Outcome::Unknown))
            })
            .await?;
        }
        let transfer = Transfer { name: self.name, outcome };
        Ok(Finished { transfer, takes_part: self.takes_part })
    }
}

async fn ask(mut api: Api, request: ExecuteRequest) -> Outcome {
    Outcome::of(&api.execute(request).await.map(tonic::Response::into_inner))
}

/// What an initiator that drives its transaction itself is told.
pub(super) fn outcome_of(answer: Result<Option<Transaction>, Status>) -> Outcome {
    match answer {
        Ok(transaction) => Outcome::of(&Ok(ExecuteResponse { transaction, ..Default::default() })),
        Err(status) if concord_proto::status::reason(&status).as_deref() == Some("ROLLED_BACK") => {
            Outcome::RolledBack
        }
        Err(_) => Outcome::Unknown,
    }
}
