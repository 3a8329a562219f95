//! Purging the barrier table, in small steps. What may go, and why nothing is lost: see [`crate::horizon`].

use std::time::Duration;

use concord_protocol::Gtid;
use concord_seeded_bugs::seeded_bug;
use tonic::Status;

use crate::horizon::Horizon;
use crate::link::Link;
use crate::local::LocalError;
use crate::tcc::Home;

/// Rows looked at in one step, and so in one local transaction at most.
pub(crate) const STEP_ROWS: usize = 500;
/// Between two steps, so that the work of others comes first.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the table was not purged to the end. The next round does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// The database did not answer.
    #[error("the database could not be asked: {0}")]
    Database(#[from] LocalError),
    /// The coordinator did not answer.
    #[error("the coordinator could not be asked: {0}")]
    Coordinator(Box<Status>),
}

/// Deletes the rows of one table that nobody needs any more. Answers how many.
pub(crate) async fn purge(home: &dyn Home, horizon: &Horizon, link: &Link) -> Result<u64, PurgeError> {
    let Some(newest) = home.newest().await? else { return Ok(0) };
    horizon.see(newest);
    let Some(bound) = horizon.bound(newest) else { return Ok(0) };
    let (mut after, mut deleted) = (None, 0);
    // In the order of the key, so that rows that must stay do not keep the others from being looked at.
    loop {
        let page = home.page(after, bound).await?;
        let Some(last) = page.last().copied() else { return Ok(deleted) };
        let old: Vec<Gtid> = page.iter().copied().filter(|gtid| gtid.epoch() <= newest.epoch()).collect();
        let ended = match seeded_bug!("purge-too-early") {
            true => old,
            false => ended(link, old).await?,
        };
        if !ended.is_empty() {
            match home.forget(ended).await {
                Ok(rows) => deleted += rows,
                // Somebody has one of the rows: these have to wait for the next round, the others not.
                Err(error @ LocalError::Server { code: 1205 | 1213, .. }) => {
                    tracing::debug!(%error, "rows of the barrier table could not be purged yet");
                }
                Err(error) => return Err(error.into()),
            }
        }
        after = Some(last);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Those of which the coordinator says that they have ended.
async fn ended(link: &Link, gtids: Vec<Gtid>) -> Result<Vec<Gtid>, PurgeError> {
    if gtids.is_empty() {
        return Ok(gtids);
    }
    let verdicts = link.inquire(&gtids).await.map_err(|status| PurgeError::Coordinator(Box::new(status)))?;
    let ended = gtids.into_iter().zip(verdicts).filter(|(_, verdict)| verdict.ended);
    Ok(ended.map(|(gtid, _)| gtid).collect())
}
