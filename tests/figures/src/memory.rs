//! Memory per live transaction: resident memory of the coordinator's process before and after.

use anyhow::{Context as _, Result};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{BeginRequest, BranchKind, RegisterBranchRequest};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::stage::{channel, coordinator};
use crate::{Bound, Line};

const BRANCHES: usize = 2;

pub(crate) async fn measure(live: usize) -> Result<Vec<Line>> {
    let directory = tempfile::Builder::new().prefix("concord-figures-").tempdir_in("/var/tmp")?;
    let coordinator = coordinator(directory.path()).await?;
    let pid = coordinator.pid();
    let client = CoordinatorClient::new(channel(&coordinator.url())?);
    // Some first, so that buffers and connections are not counted.
    begin(&client, live / 100).await?;
    let before = resident_bytes(pid)?;
    begin(&client, live).await?;
    let after = resident_bytes(pid)?;
    let each = (after.saturating_sub(before)) as f64 / live as f64 / 1024.0;
    Ok(vec![Line {
        figure: format!("memory per live transaction, {live} live"),
        database: "-".into(),
        value: each,
        unit: "KiB",
        wanted: Some(Bound::AtMost(4.0)),
        detail: format!("{BRANCHES} branches each; {} MiB before, {} MiB after", before >> 20, after >> 20),
    }])
}

async fn begin(client: &CoordinatorClient<tonic::transport::Channel>, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(|_| {
            let mut client = client.clone();
            async move {
                let request =
                    BeginRequest { name: "memory".into(), timeout_ms: 86_400_000, ..Default::default() };
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

fn resident_bytes(pid: u32) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024)
}
