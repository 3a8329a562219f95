//! No-op TCC on top of a long history, and while such a history is being deleted; memory with a history.

use anyhow::{Result, ensure};
use concord_coordinator::store::UnixMillis;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{ExecuteRequest, ListRequest};

use super::side_by_side::SideBySide;
use crate::crowd;
use crate::history::{self, fill};
use crate::outcome::{Bound, Outcome};
use crate::service::channel;
use crate::setup::Setup;

const DAY_MS: u64 = 86_400_000;
/// Longer ago than any coordinator keeps unasked.
const LONG_AGO_MS: u64 = 30 * DAY_MS;

pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let (counts, live, deleted): (&[u64], _, _) = match setup.quick {
        true => (&[100_000], 10_000, 500_000),
        false => (&[1_000_000, 10_000_000], 100_000, 2_000_000),
    };
    let mut outcomes = Vec::new();
    for (number, &count) in counts.iter().enumerate() {
        let stage = with_history(setup, count, &["--retention-days=365"]).await?;
        outcomes.extend(stage.compare(setup, &format!("{count} in history")).await?);
        let name = format!("{count} in history, with idempotency keys");
        outcomes.extend(stage.compare_requests(setup, &name, keyed(&stage)).await?);
        if number == 0 {
            outcomes.push(memory(setup, &stage, live, count).await?);
        }
    }
    outcomes.extend(being_deleted(setup, deleted).await?);
    Ok(outcomes)
}

/// Requests each with a key of its own.
fn keyed(stage: &SideBySide) -> impl Fn() -> ExecuteRequest + Clone + Send + Sync + 'static {
    let request = stage.request(2);
    move || ExecuteRequest { idempotency_key: history::new_key(), ..request.clone() }
}

/// A coordinator that has so many ended transactions, and one that has none.
async fn with_history(setup: &Setup, count: u64, arguments: &[&str]) -> Result<SideBySide> {
    setup.progress.stage(&format!("history, {count} are written"), 0);
    let until = UnixMillis(UnixMillis::now().0 - LONG_AGO_MS);
    let directory = Setup::directory()?;
    fill(&SideBySide::data_of_burdened(&directory), count, until).await?;
    SideBySide::set_up_in(directory, arguments).await
}

/// With so many live ones and the history.
async fn memory(setup: &Setup, stage: &SideBySide, live: usize, history: u64) -> Result<Outcome> {
    setup.progress.stage(&format!("history, {live} begin"), 0);
    crowd::begin(&CoordinatorClient::new(channel(&stage.burdened.url())?), live).await?;
    let resident = crowd::resident_bytes(stage.burdened.pid())? as f64 / f64::from(1 << 20);
    let name = format!("memory with {live} live and {history} in history");
    Ok(Outcome::figure(&name, resident, "MiB").ours_wanted(Bound::AtMost(200e6 / f64::from(1 << 20))))
}

/// All of it is older than the coordinator keeps: it is deleting all the time.
async fn being_deleted(setup: &Setup, count: u64) -> Result<[Outcome; 2]> {
    let stage = with_history(setup, count, &[]).await?;
    let outcomes = stage.compare(setup, &format!("{count} in history being deleted")).await?;
    let mut client = CoordinatorClient::new(channel(&stage.burdened.url())?);
    let left = ListRequest { name: history::NAME.into(), page_size: 1, ..ListRequest::default() };
    let left = client.list(left).await?.into_inner().transactions;
    ensure!(!left.is_empty(), "all of the history was deleted before the measurement had ended");
    Ok(outcomes)
}
