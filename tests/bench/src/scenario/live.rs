//! No-op TCC while others are live: begun and left alone, or decided and held up by a participant that is dead.

use anyhow::Result;
use concord_proto::v1::coordinator_client::CoordinatorClient;

use super::side_by_side::{SideBySide, branch};
use crate::crowd;
use crate::outcome::Outcome;
use crate::service::{self, channel};
use crate::setup::Setup;

pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let counts: &[usize] = if setup.quick { &[100, 10_000] } else { &[100, 10_000, 100_000] };
    let mut outcomes = Vec::new();
    let stage = SideBySide::set_up().await?;
    let client = CoordinatorClient::new(channel(&stage.burdened.url())?);
    let mut live = 0;
    for &count in counts {
        setup.progress.stage(&format!("live, {count} begin"), 0);
        crowd::begin(&client, count - live).await?;
        live = count;
        outcomes.extend(stage.compare(setup, &format!("live, {count} others")).await?);
    }
    drop(stage);
    let held = if setup.quick { 1_000 } else { 10_000 };
    outcomes.extend(with_a_dead_participant(setup, held).await?);
    Ok(outcomes)
}

/// So many transactions have been decided, and one of their two participants has died before its Confirm.
async fn with_a_dead_participant(setup: &Setup, held: usize) -> Result<[Outcome; 2]> {
    setup.progress.stage(&format!("live, {held} are decided"), 0);
    let stage = SideBySide::set_up().await?;
    let mut dead = service::never_confirms("dead", stage.directory().path()).await?;
    let client = CoordinatorClient::new(channel(&stage.burdened.url())?);
    let mut request = stage.request(1);
    request.branches.push(branch(&dead.url()));
    crowd::decide(&client, &request, held).await?;
    dead.kill9()?;
    stage.compare(setup, &format!("live, {held} held up by a dead participant")).await
}
