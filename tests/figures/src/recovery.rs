//! kill -9 of the coordinator with decided transactions that no participant has been told of: from its restart
//! until XA RECOVER is empty on both databases.

use std::time::Instant;

use anyhow::{Result, ensure};
use concord_proto::v1::{TransactionState, Wait};
use concord_sandbox::until;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::stage::Stage;
use crate::{Bound, Line};

pub(crate) async fn measure(stage: &mut Stage, in_doubt: usize) -> Result<Vec<Line>> {
    std::fs::write(&stage.hold, "")?;
    // Until the banks have seen the file.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let client = stage.client()?;
    // Each on accounts of its own: they hold their locks until the end.
    let accounts = 1..=u32::try_from(in_doubt)?;
    let requests: Result<Vec<_>> = accounts.map(|id| stage.transfer([id, id], Wait::Decided)).collect();
    stream::iter(requests?)
        .map(|request| {
            let mut client = client.clone();
            async move {
                let done = client.execute(request).await?.into_inner().transaction.unwrap_or_default();
                ensure!(done.state() == TransactionState::Committing, "not held: {done:?}");
                anyhow::Ok(())
            }
        })
        .buffer_unordered(64)
        .try_collect::<()>()
        .await?;
    let held = stage.in_doubt().await?;
    ensure!(held == 2 * in_doubt, "{held} branches are in doubt, not {}", 2 * in_doubt);
    stage.coordinator.kill9()?;
    std::fs::remove_file(&stage.hold)?;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let start = Instant::now();
    stage.coordinator.start().await?;
    let listening = start.elapsed();
    let stage = &*stage;
    until("nothing is in doubt", async || {
        Ok::<_, anyhow::Error>((stage.in_doubt().await? == 0).then_some(()))
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(vec![Line {
        figure: format!("recovery of {in_doubt} decided transactions"),
        database: stage.flavor.to_string(),
        value: seconds,
        unit: "s",
        wanted: Some(Bound::AtMost(5.0)),
        detail: format!("of which {:.2} s until it listens; {held} branches", listening.as_secs_f64()),
    }])
}
