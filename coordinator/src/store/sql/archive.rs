//! The store in a database, read by a program that is no coordinator.

use std::collections::BTreeMap;
use std::path::PathBuf;

use concord_protocol::{ClusterId, Epoch, Gtid};
use tokio::runtime::Runtime;

use super::link::{Address, Dialect, Link};
use super::reader::{self, ROW, gtid_of, stored};
use super::schema::{meta, version, versions};
use super::{Problem, digest, shown};
use crate::store::archive::{Range, Read};
use crate::store::row::{self, StoredRow};
use crate::store::{Facts, StoreError, Stored};

/// It may be silent for so long: whoever reads what it prints may be slow.
const IDLE_MAX_S: u64 = 3_600;

/// A store in a database, open for reading.
#[derive(Debug)]
pub(in crate::store) struct SqlArchive {
    runtime: Runtime,
    link: Link,
    place: PathBuf,
}

impl SqlArchive {
    /// Connects. The database is told to let nothing be written.
    pub(in crate::store) fn open(url: &str) -> Result<Self, StoreError> {
        let place = shown(url);
        let failed = |problem: Problem| problem.open(&place);
        let address = Address::parse(url).map_err(Problem::Sql).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(Problem::Refused(format!("no runtime: {error}"))))?;
        let link = runtime.block_on(connect(&address)).map_err(failed)?;
        Ok(SqlArchive { runtime, link, place })
    }

    pub(in crate::store) fn facts(&mut self) -> Result<Facts, StoreError> {
        let place = self.place.clone();
        self.runtime.block_on(facts(&mut self.link)).map_err(|problem| problem.open(&place))
    }

    pub(in crate::store) fn epoch(&mut self) -> Result<Epoch, StoreError> {
        let place = self.place.clone();
        let epoch = self.runtime.block_on(fact(&mut self.link, "epoch"));
        epoch.map(epoch_of).map_err(|problem| problem.open(&place))
    }

    /// Transactions that no coordinator would ever take up.
    pub(in crate::store) fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT r.issuer FROM concord_record AS r WHERE NOT EXISTS \
                   (SELECT 1 FROM concord_coordinator AS c WHERE c.epoch = r.issuer)";
        let issuers = self.runtime.block_on(self.link.query(sql.to_owned(), |row| row.number(0)));
        let issuers = issuers.map_err(|error| Problem::Sql(error).read())?;
        let said = |issuer| {
            format!("the log holds transactions of epoch {issuer}, of which there is no coordinator")
        };
        Ok(issuers.into_iter().map(said).collect())
    }

    /// At most `limit` transactions, the first of a range.
    pub(in crate::store) fn page(&mut self, range: Range, limit: usize) -> Result<Vec<Read>, StoreError> {
        self.runtime.block_on(page(&mut self.link, range, limit)).map_err(Problem::read)
    }

    pub(in crate::store) fn is_found_by(&mut self, key: &str, gtid: Gtid) -> Result<bool, StoreError> {
        let dialect = self.link.dialect();
        let sql = format!(
            "SELECT count(*) FROM concord_keyed WHERE digest = {} AND gtid = {}",
            dialect.bytes(&digest(key)),
            dialect.bytes(&gtid.to_bytes())
        );
        let read = async {
            if self.link.query(sql, |row| row.number(0)).await?.first() != Some(&0) {
                return Ok(true);
            }
            // It may have been purged meanwhile, with its key.
            Ok::<_, Problem>(reader::get(&mut self.link, gtid).await?.is_none())
        };
        self.runtime.block_on(read).map_err(Problem::read)
    }
}

async fn connect(address: &Address) -> Result<Link, Problem> {
    let mut link = address.connect(IDLE_MAX_S).await?;
    let read_only = match link.dialect() {
        Dialect::MySql => "SET SESSION TRANSACTION READ ONLY",
        Dialect::Postgres => "SET default_transaction_read_only = on",
    };
    link.execute(read_only.to_owned()).await?;
    let known = versions(link.dialect()).len() as i64;
    match version(&mut link).await? {
        (0, _) => Err(Problem::Refused("it has no tables of Concord's".into())),
        (found, needs) if needs > known => Err(Problem::NewerSchema { found: found.max(needs), known }),
        (found, _) if found < known => Err(Problem::OlderSchema { found, known }),
        _ => Ok(link),
    }
}

async fn fact(link: &mut Link, name: &str) -> Result<i64, Problem> {
    let missing = || Problem::Refused(format!("its table concord_meta has no {name}"));
    meta(link, name).await?.ok_or_else(missing)
}

fn epoch_of(number: i64) -> Epoch {
    Epoch(u32::try_from(number).unwrap_or(u32::MAX))
}

async fn facts(link: &mut Link) -> Result<Facts, Problem> {
    let bytes = match link.dialect() {
        Dialect::MySql => {
            "SELECT CAST(coalesce(sum(data_length + index_length), 0) AS SIGNED) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name LIKE 'concord%'"
        }
        Dialect::Postgres => {
            "SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS BIGINT) FROM pg_class \
             WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname LIKE 'concord%'"
        }
    };
    let mut facts = Vec::new();
    for name in ["cluster_id", "epoch", "version"] {
        facts.push(fact(link, name).await?);
    }
    for sql in
        ["SELECT count(DISTINCT gtid) FROM concord_record", "SELECT count(*) FROM concord_ended", bytes]
    {
        facts.extend(link.query(sql.to_owned(), |row| row.number(0)).await?);
    }
    match facts.as_slice() {
        [cluster_id, epoch, version, live, ended, bytes] => Ok(Facts {
            cluster_id: ClusterId(cluster_id.cast_unsigned()),
            epoch: epoch_of(*epoch),
            schema_version: u32::try_from(*version).unwrap_or(u32::MAX),
            live: live.unsigned_abs(),
            ended: ended.unsigned_abs(),
            bytes: bytes.unsigned_abs(),
        }),
        _ => Err(Problem::Refused("the database counts nothing".into())),
    }
}

/// What is on record of one transaction.
#[derive(Debug)]
enum Found {
    Live(Vec<StoredRow>),
    /// An encoded `concord.store.v1.Records`.
    Ended(Vec<u8>),
}

async fn page(link: &mut Link, range: Range, limit: usize) -> Result<Vec<Read>, Problem> {
    // So that one that ends meanwhile is seen in one place.
    let begin = match link.dialect() {
        Dialect::MySql => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY",
        Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    link.execute(begin.to_owned()).await?;
    let found = find(link, range, limit).await?;
    link.execute("COMMIT".to_owned()).await?;
    let read = |(gtid, found): (Gtid, Found)| {
        let records = match found {
            Found::Live(rows) => rows.iter().map(|row| row.decode(gtid)).collect(),
            Found::Ended(records) => row::decode_all(gtid, &records),
        };
        (gtid, records.map(|records| Stored { gtid, records }))
    };
    Ok(found.into_iter().map(read).collect())
}

async fn find(link: &mut Link, range: Range, limit: usize) -> Result<BTreeMap<Gtid, Found>, Problem> {
    let dialect = link.dialect();
    let within =
        |until: &[u8]| format!("gtid > {} AND gtid <= {}", dialect.bytes(&range.after), dialect.bytes(until));
    let of = |table: &str| {
        format!(
            "(SELECT DISTINCT gtid FROM {table} WHERE {} ORDER BY gtid LIMIT {limit})",
            within(&range.until)
        )
    };
    let sql = format!("{} UNION {} ORDER BY gtid LIMIT {limit}", of("concord_record"), of("concord_ended"));
    let mut found = BTreeMap::new();
    let Some(last) = link.query(sql, |row| row.bytes(0)).await?.pop() else { return Ok(found) };
    let page = within(&last);
    let sql = format!("SELECT {ROW}, gtid FROM concord_record WHERE {page} ORDER BY gtid, term, seq");
    for (gtid, row) in link.query(sql, |row| Ok((row.bytes(5)?, stored(row)?))).await? {
        if let Found::Live(rows) = found.entry(gtid_of(gtid)?).or_insert_with(|| Found::Live(Vec::new())) {
            rows.push(row);
        }
    }
    let sql = format!("SELECT gtid, records FROM concord_ended WHERE {page}");
    for (gtid, records) in link.query(sql, |row| Ok((row.bytes(0)?, row.bytes(1)?))).await? {
        found.insert(gtid_of(gtid)?, Found::Ended(records));
    }
    Ok(found)
}
