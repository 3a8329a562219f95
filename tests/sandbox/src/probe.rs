//! Talking to a server from blocking code: is it there, is it ours, what is it?

use std::{path::PathBuf, thread, time::Duration};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::{runtime::Builder, time::timeout};

use crate::{Flavor, Version, error::Error};

/// How long one attempt may take; a frozen or overloaded server costs this much per attempt.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) flavor: Flavor,
    pub(crate) version: Version,
    pub(crate) data_dir: PathBuf,
    pub(crate) max_connections: u32,
}

/// Connects once and asks. The text of the error goes into a message for the user.
pub(crate) fn ask(url: &str) -> Result<Answer, String> {
    let opts = Opts::from_url(url).map_err(|e| e.to_string())?;
    block_on(async move {
        match timeout(ATTEMPT_MAX, Box::pin(ask_async(opts))).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {ATTEMPT_MAX:?}")),
        }
    })
}

async fn ask_async(opts: Opts) -> Result<Answer, Error> {
    let mut conn = Conn::new(opts).await?;
    let row: Option<(u8, String, String, u32)> =
        conn.query_first("SELECT 1, VERSION(), @@datadir, @@max_connections").await?;
    conn.disconnect().await?;
    let (_, version, data_dir, max_connections) =
        row.ok_or_else(|| mysql_async::Error::Other("SELECT gave no row".into()))?;
    let (flavor, version) = Version::from_banner(&format!("Ver {version}"))
        .ok_or_else(|| mysql_async::Error::Other(format!("strange version '{version}'").into()))?;
    Ok(Answer { flavor, version, data_dir: data_dir.into(), max_connections })
}

/// Runs a future on a thread and a runtime of its own, so that it works inside and outside of any runtime.
fn block_on<T: Send>(future: impl Future<Output = Result<T, String>> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            runtime.block_on(future)
        });
        worker.join().unwrap_or_else(|_| Err("the database client panicked".into()))
    })
}
