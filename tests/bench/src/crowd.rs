//! Many live transactions: begun, with registered branches, and left alone; or decided, and held up.

use anyhow::{Context as _, Result, ensure};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{
    BeginRequest, BranchKind, ExecuteRequest, RegisterBranchRequest, TransactionState, Wait,
};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tonic::transport::Channel;

use crate::setup::MANY;

pub(crate) const BRANCHES: usize = 2;
/// They outlive every measurement.
const TIMEOUT_MS: u32 = 86_400_000;

/// Begins so many transactions, each with [`BRANCHES`] registered branches.
///
/// # Errors
/// When the coordinator refuses one.
pub(crate) async fn begin(client: &CoordinatorClient<Channel>, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(|_| {
            let mut client = client.clone();
            async move {
                let request =
                    BeginRequest { name: "crowd".into(), timeout_ms: TIMEOUT_MS, ..Default::default() };
                let gtid = client.begin(request).await?.into_inner().gtid;
                for branch in 0..BRANCHES {
                    let request = RegisterBranchRequest {
                        gtid: gtid.clone(),
                        kind: BranchKind::Xa.into(),
                        participant: format!("http://127.0.0.1:710{branch}"),
                        registration_key: format!("registration of branch {branch}"),
                        ..Default::default()
                    };
                    client.register_branch(request).await?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(64)
        .try_collect()
        .await
}

/// Executes so many times a transaction of which a participant does not end its branch: they stay decided.
///
/// # Errors
/// When one is not held up.
pub(crate) async fn decide(
    client: &CoordinatorClient<Channel>,
    request: &ExecuteRequest,
    count: usize,
) -> Result<()> {
    let request = ExecuteRequest { wait: Wait::Decided.into(), ..request.clone() };
    stream::iter(0..count)
        .map(|_| {
            let (mut client, request) = (client.clone(), request.clone());
            async move {
                let done = client.execute(request).await?.into_inner().transaction.unwrap_or_default();
                ensure!(done.state() == TransactionState::Committing, "not held up: {done:?}");
                Ok(())
            }
        })
        .buffer_unordered(MANY)
        .try_collect()
        .await
}

/// Memory of a process that is not paged out.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024)
}
