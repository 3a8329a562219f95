//! The same SQL driven by a bare XA client: no coordinator, no participants, no log, and nobody to clean up
//! after a crash. Once with the marker rows that the participants write, which is exactly the same SQL, and once
//! without.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use concord_sandbox::until;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::load::{Caller, Callers};
use crate::service::bank::{Share, book_sql};
use crate::setup::MANY;

/// Transfers of this process, each with a gtid of its own.
static TRANSFERS: AtomicU64 = AtomicU64::new(1);

/// One client: a connection to each database.
pub(crate) struct BareXa {
    connections: [Conn; 2],
    marker: bool,
}

/// Clients of these databases, which write the marker rows or do not.
///
/// # Errors
/// When one cannot connect.
pub(crate) async fn bare_xa(
    name: &str,
    [a, b]: &[String; 2],
    count: usize,
    marker: bool,
) -> Result<Callers<BareXa>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let connections = [Conn::from_url(a).await?, Conn::from_url(b).await?];
        clients.push(BareXa { connections, marker });
    }
    Ok(Callers::new(name, clients))
}

impl Caller for BareXa {
    /// The branches in parallel, each with its work and PREPARE in one round trip, then the commits in parallel.
    async fn call(&mut self) -> Result<()> {
        let transfer = Transfer::new();
        let [to_a, to_b] = transfer.prepare(Share::random_pair(), self.marker);
        let [a, b] = &mut self.connections;
        tokio::try_join!(a.query_drop(to_a), b.query_drop(to_b))?;
        transfer.commit(&mut self.connections).await
    }
}

/// By its gtid, as a literal.
pub(crate) struct Transfer(String);

impl Transfer {
    fn new() -> Transfer {
        let (run, number) = (std::process::id(), TRANSFERS.fetch_add(1, Ordering::Relaxed));
        Transfer(format!("X'{run:08x}{number:024x}'"))
    }

    fn xid(&self, bank: usize) -> String {
        format!("{}, X'{bank:02x}', 1", self.0)
    }

    /// What each database is told first.
    fn prepare(&self, shares: [Share; 2], marker: bool) -> [String; 2] {
        [0, 1].map(|bank| {
            let (sql, xid) = (book_sql(&shares[bank]), self.xid(bank));
            let marker = match marker {
                true => format!(
                    "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES \
                     ({}, {bank}, IF(ROW_COUNT() = 1, 1, NULL), 0, X''); ",
                    self.0
                ),
                false => String::new(),
            };
            format!("XA START {xid}; {sql}; {marker}XA END {xid}; XA PREPARE {xid}")
        })
    }

    async fn commit(&self, [a, b]: &mut [Conn; 2]) -> Result<()> {
        let [of_a, of_b] = [0, 1].map(|bank| format!("XA COMMIT {}", self.xid(bank)));
        tokio::try_join!(a.query_drop(of_a), b.query_drop(of_b))?;
        Ok(())
    }
}

/// Prepares so many transfers, each by sessions that end then: branches that nobody holds, as after a crash.
///
/// # Errors
/// The databases'.
pub(crate) async fn leave_prepared(urls: &[String; 2], count: u32) -> Result<Vec<Transfer>> {
    let before = sessions(urls).await?;
    // Each on accounts of its own: they hold their locks until the end.
    let prepare = |account| async move {
        let [mut a, mut b] = [Conn::from_url(&urls[0]).await?, Conn::from_url(&urls[1]).await?];
        let transfer = Transfer::new();
        let [to_a, to_b] = transfer.prepare(Share::pair([account, account]), true);
        tokio::try_join!(a.query_drop(to_a), b.query_drop(to_b))?;
        tokio::try_join!(a.disconnect(), b.disconnect())?;
        anyhow::Ok(transfer)
    };
    let prepared = stream::iter(1..=count).map(prepare).buffer_unordered(MANY).try_collect().await?;
    until("their sessions have ended", async || {
        Ok::<_, anyhow::Error>((sessions(urls).await? <= before).then_some(()))
    })
    .await?;
    Ok(prepared)
}

/// On both databases.
async fn sessions(urls: &[String; 2]) -> Result<u64> {
    let mut count = 0;
    for url in urls {
        let mut connection = Conn::from_url(url).await?;
        let row: Option<(String, u64)> =
            connection.query_first("SHOW GLOBAL STATUS LIKE 'Threads_connected'").await?;
        count += row.context("no Threads_connected")?.1;
        connection.disconnect().await?;
    }
    Ok(count)
}

/// Commits prepared transfers, [`MANY`] at a time. Answers how long it took once all were connected.
///
/// # Errors
/// The databases'.
pub(crate) async fn commit_prepared(urls: &[String; 2], prepared: Vec<Transfer>) -> Result<Duration> {
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push([Conn::from_url(&urls[0]).await?, Conn::from_url(&urls[1]).await?]);
    }
    let left = Mutex::new(prepared.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let start = Instant::now();
    let deliver = |mut client: [Conn; 2]| async move {
        while let Some(transfer) = next() {
            transfer.commit(&mut client).await?;
        }
        anyhow::Ok(())
    };
    try_join_all(clients.into_iter().map(deliver)).await?;
    Ok(start.elapsed())
}
