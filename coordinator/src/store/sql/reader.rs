//! Reads, each on a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};

use concord_protocol::{Epoch, Gtid};
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::link::{Address, Link};
use super::{Problem, digest};
use crate::store::row::{self, StoredRow};
use crate::store::{Filter, Stored, Walk};

/// So many connections at a time.
const LINKS_MAX: usize = 16;

/// Connections that nobody reads with.
#[derive(Debug)]
pub(super) struct Readers {
    address: Address,
    idle_max_s: u64,
    idle: Mutex<Vec<Link>>,
    turns: Semaphore,
}

impl Readers {
    pub(super) fn new(address: Address, idle_max_s: u64) -> Self {
        Readers { address, idle_max_s, idle: Mutex::default(), turns: Semaphore::new(LINKS_MAX) }
    }

    /// Runs a read, or what may be done twice; once more on a new connection where an old one has been closed by the server.
    pub(super) async fn run<T>(
        self: Arc<Self>,
        read: impl for<'l> Fn(&'l mut Link) -> BoxFuture<'l, Result<T, Problem>>,
    ) -> Result<T, Problem> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut link) = idle.filter(Link::is_fresh)
            && let Ok(value) = read(&mut link).await
        {
            self.keep(link);
            return Ok(value);
        }
        let mut link = self.address.connect(self.idle_max_s).await?;
        let value = read(&mut link).await?;
        self.keep(link);
        Ok(value)
    }

    fn keep(&self, link: Link) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }
}

/// What a record is read back from.
pub(super) const ROW: &str = "term, seq, at_ms, crc, body";

/// Every live transaction that these epochs have issued.
pub(super) async fn load_live(link: &mut Link, issuers: &[Epoch]) -> Result<Vec<Stored>, Problem> {
    let sql = format!(
        "SELECT {ROW}, gtid FROM concord_record WHERE issuer IN ({}) ORDER BY gtid, term, seq",
        list(issuers)
    );
    logged(link, sql).await
}

/// The newest live transactions before `before` that none of these epochs has issued.
pub(super) async fn list_live_elsewhere(
    link: &mut Link,
    issuers: &[Epoch],
    walk: Walk,
    limit: usize,
) -> Result<Vec<Stored>, Problem> {
    let dialect = link.dialect();
    let (than, from, order) = match walk {
        Walk::Back(before) => ("<", before, "DESC"),
        Walk::Forth(after) => (">", after, "ASC"),
    };
    let from = from.map(|from| format!("AND gtid {than} {}", dialect.bytes(&from.to_bytes())));
    let sql = format!(
        "SELECT {ROW}, r.gtid FROM concord_record AS r JOIN (SELECT DISTINCT gtid FROM concord_record \
         WHERE issuer NOT IN ({}) {} ORDER BY gtid {order} LIMIT {limit}) AS listed ON listed.gtid = r.gtid \
         ORDER BY r.gtid, term, seq",
        list(issuers),
        from.unwrap_or_default()
    );
    let mut found = logged(link, sql).await?;
    if matches!(walk, Walk::Back(_)) {
        found.reverse();
    }
    Ok(found)
}

fn list(epochs: &[Epoch]) -> String {
    epochs.iter().map(|epoch| epoch.0.to_string()).collect::<Vec<_>>().join(", ")
}

/// What a query of the log answers: columns of [`ROW`] and then the gtid, in the order of both.
async fn logged(link: &mut Link, sql: String) -> Result<Vec<Stored>, Problem> {
    let rows = link.query(sql, |row| Ok((row.bytes(5)?, stored(row)?))).await?;
    let mut live: Vec<Stored> = Vec::new();
    for (gtid, row) in rows {
        let gtid = gtid_of(gtid)?;
        let record = row.decode(gtid)?;
        match live.last_mut() {
            Some(last) if last.gtid == gtid => last.records.push(record),
            _ => live.push(Stored { gtid, records: vec![record] }),
        }
    }
    Ok(live)
}

/// One transaction.
pub(super) async fn get(link: &mut Link, gtid: Gtid) -> Result<Option<Stored>, Problem> {
    let id = link.dialect().bytes(&gtid.to_bytes());
    let sql = format!("SELECT {ROW} FROM concord_record WHERE gtid = {id} ORDER BY term, seq");
    let rows = link.query(sql, stored).await?;
    // It may have ended since, never begun again: what is said here wins.
    let sql = format!("SELECT records FROM concord_ended WHERE gtid = {id}");
    if let Some(records) = link.query(sql, |row| row.bytes(0)).await?.pop() {
        return Ok(Some(Stored { gtid, records: row::decode_all(gtid, &records)? }));
    }
    let records = rows.iter().map(|row| row.decode(gtid)).collect::<Result<Vec<_>, _>>()?;
    Ok((!records.is_empty()).then_some(Stored { gtid, records }))
}

/// Ended transactions, newest first.
pub(super) async fn list_ended(link: &mut Link, filter: &Filter) -> Result<Vec<Stored>, Problem> {
    let dialect = link.dialect();
    let mut conditions = vec!["1 = 1".to_owned()];
    if let Some(committed) = filter.committed {
        conditions.push(format!("committed = {}", i64::from(committed)));
    }
    if let Some(name) = &filter.name {
        conditions.push(match name.is_empty() {
            true => "name IS NULL".to_owned(),
            false => format!("name = {}", dialect.bytes(&digest(name))),
        });
    }
    if let Some(before) = filter.before {
        conditions.push(format!("gtid < {}", dialect.bytes(&before.to_bytes())));
    }
    let sql = format!(
        "SELECT gtid, records FROM concord_ended WHERE {} ORDER BY gtid DESC LIMIT {}",
        conditions.join(" AND "),
        filter.limit.min(i64::MAX as usize),
    );
    let rows = link.query(sql, |row| Ok((row.bytes(0)?, row.bytes(1)?))).await?;
    let stored = rows.into_iter().map(|(gtid, records)| {
        let gtid = gtid_of(gtid)?;
        Ok(Stored { gtid, records: row::decode_all(gtid, &records)? })
    });
    stored.collect()
}

/// A row of the log, from a result that begins with [`ROW`].
pub(super) fn stored(row: &super::link::Columns<'_>) -> Result<StoredRow, sqlx::Error> {
    Ok(StoredRow {
        epoch: row.number(0)?,
        seq: row.number(1)?,
        at: row.number(2)?,
        crc: row.number(3)?,
        body: row.bytes(4)?,
    })
}

pub(super) fn gtid_of(bytes: Vec<u8>) -> Result<Gtid, Problem> {
    let found = format!("{bytes:02x?}");
    <[u8; 16]>::try_from(bytes)
        .ok()
        .and_then(|bytes| Gtid::from_bytes(bytes).ok())
        .ok_or_else(|| Problem::Refused(format!("it holds {found} where a gtid should be")))
}
