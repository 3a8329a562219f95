//! What a transaction costs the database server that has the store, by the server's own counts.

use anyhow::{Context as _, Result};
use concord_proto::v1::GetStatusRequest;
use concord_proto::v1::operator_client::OperatorClient;
use concord_sandbox::Service;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::service::channel;

/// The server's counters, with what they are called below.
const COUNTERS: [(&str, &str); 5] = [
    ("Bytes_received", "bytes received"),
    ("Innodb_os_log_written", "bytes written to its redo log"),
    ("Handler_write", "rows inserted"),
    ("Handler_delete", "rows deleted"),
    ("Handler_update", "rows updated"),
];

/// What was counted so far.
pub(super) struct Footprint {
    transactions: u64,
    counts: Vec<u64>,
}

/// Of all stores on a server of MySQL or MariaDB at `url`, and of all coordinators that use it.
pub(super) async fn read(url: &str, coordinators: &[&Service]) -> Result<Footprint> {
    let mut transactions = 0;
    for coordinator in coordinators {
        let mut operator = OperatorClient::new(channel(&coordinator.url())?);
        transactions += operator.get_status(GetStatusRequest {}).await?.into_inner().committed;
    }
    let mut connection = Conn::from_url(url).await?;
    let mut counts = Vec::new();
    for (variable, _) in COUNTERS {
        let row: Option<(String, u64)> =
            connection.query_first(format!("SHOW GLOBAL STATUS LIKE '{variable}'")).await?;
        counts.push(row.with_context(|| format!("the server has no {variable}"))?.1);
    }
    connection.disconnect().await?;
    Ok(Footprint { transactions, counts })
}

impl Footprint {
    /// What a transaction has cost since then.
    pub(super) fn since(&self, before: &Footprint) -> String {
        let transactions = (self.transactions - before.transactions).max(1) as f64;
        let parts = COUNTERS.iter().zip(self.counts.iter().zip(&before.counts)).map(
            |((_, name), (after, before))| format!("{:.1} {name}", (after - before) as f64 / transactions),
        );
        format!("the store's server for each transaction: {}", parts.collect::<Vec<_>>().join(", "))
    }
}
