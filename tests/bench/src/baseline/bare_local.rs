//! The same transfer as one local transaction, in one round trip: both accounts are in one database, and there is
//! nothing to coordinate. What coordination costs, all in all, is the distance to this.

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::load::{Caller, Callers};
use crate::service::bank::{Share, book_sql};

/// One client: a connection.
pub(crate) struct BareLocal(Conn);

/// Clients of one database.
///
/// # Errors
/// When one cannot connect.
pub(crate) async fn bare_local(name: &str, url: &str, count: usize) -> Result<Callers<BareLocal>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(BareLocal(Conn::from_url(url).await?));
    }
    Ok(Callers::new(name, clients))
}

impl Caller for BareLocal {
    async fn call(&mut self) -> Result<()> {
        let mut shares = Share::random_pair();
        // Both are in one database here: in one order, so that two transfers never wait for each other.
        shares.sort_by_key(|share| share.account);
        let [a, b] = shares.map(|share| book_sql(&share));
        Ok(self.0.query_drop(format!("BEGIN; {a}; {b}; COMMIT")).await?)
    }
}
