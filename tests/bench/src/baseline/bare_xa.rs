//! The same SQL driven by a bare XA client: no coordinator, no participants, no log, and nobody to clean up
//! after a crash. Once with the marker rows that the participants write, which is exactly the same SQL, and once
//! without.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::load::{Caller, Callers};
use crate::service::bank::{Share, book_sql};

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
        let (run, number) = (std::process::id(), TRANSFERS.fetch_add(1, Ordering::Relaxed));
        let gtid = format!("X'{run:08x}{number:024x}'");
        let xid = |bank: usize| format!("{gtid}, X'{bank:02x}', 1");
        let shares = Share::random_pair();
        let work = |bank: usize| {
            let (sql, name) = (book_sql(&shares[bank]), xid(bank));
            let marker = match self.marker {
                true => format!(
                    "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES \
                     ({gtid}, {bank}, IF(ROW_COUNT() = 1, 1, NULL), 0, X''); "
                ),
                false => String::new(),
            };
            format!("XA START {name}; {sql}; {marker}XA END {name}; XA PREPARE {name}")
        };
        let [a, b] = &mut self.connections;
        tokio::try_join!(a.query_drop(work(0)), b.query_drop(work(1)))?;
        let commit = |bank| format!("XA COMMIT {}", xid(bank));
        tokio::try_join!(a.query_drop(commit(0)), b.query_drop(commit(1)))?;
        Ok(())
    }
}
