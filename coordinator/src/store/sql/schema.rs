//! Tables, versions, and the beginning of an epoch.

use std::time::Instant;

use concord_protocol::{ClusterId, Epoch};

use super::link::{Address, Dialect, Link};
use super::{Member, Problem, members};

/// The tables of each version, in the order in which they came. What has been made may be made again: in MySQL a
/// migration that was cut short leaves a part of it.
fn migrations(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::MySql => &[include_str!("schema/mysql/001.sql")],
        Dialect::Postgres => &[include_str!("schema/postgres/001.sql")],
    }
}

/// What opening the store has found and begun.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) cluster_id: ClusterId,
    pub(super) epoch: Epoch,
    /// Before the lease began.
    pub(super) leased_at: Instant,
    pub(super) link: Link,
}

/// Makes or migrates the tables, begins an epoch, and takes over the earlier lives of this coordinator and all whose lease
/// has run out.
pub(super) async fn open(address: &Address, member: &Member) -> Result<Opened, Problem> {
    let mut link = address.connect(member.idle_max_s()).await?;
    lock(&mut link).await?;
    migrate(&mut link).await?;
    unlock(&mut link).await?;
    let leased_at = Instant::now();
    let (cluster_id, epoch) = begin_epoch(&mut link, member).await?;
    Ok(Opened { cluster_id, epoch, leased_at, link })
}

/// One coordinator at a time makes tables. Should it fall silent meanwhile, the server closes its connection and the lock is
/// free: after its `wait_timeout`, or because it is idle in a transaction.
async fn lock(link: &mut Link) -> Result<(), Problem> {
    let sql = match link.dialect() {
        Dialect::MySql => "SELECT CAST(coalesce(GET_LOCK(concat('concord-', DATABASE()), 30), 0) AS SIGNED)",
        Dialect::Postgres => {
            link.execute("BEGIN; SET LOCAL lock_timeout = '30s'".to_owned()).await?;
            "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(hashtext('concord'))) AS locked"
        }
    };
    match link.query(sql.to_owned(), |row| row.number(0)).await?.first() {
        Some(1) => Ok(()),
        _ => Err(Problem::Refused("another coordinator has been making tables for 30 s".into())),
    }
}

async fn unlock(link: &mut Link) -> Result<(), Problem> {
    let sql = match link.dialect() {
        Dialect::MySql => "DO RELEASE_LOCK(concat('concord-', DATABASE()))",
        Dialect::Postgres => "COMMIT",
    };
    link.execute(sql.to_owned()).await?;
    Ok(())
}

async fn migrate(link: &mut Link) -> Result<(), Problem> {
    let migrations = migrations(link.dialect());
    let found = version(link).await?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(Problem::NewerSchema { found, known });
    }
    for (sql, version) in migrations.iter().zip(1..).skip(usize::try_from(found).unwrap_or_default()) {
        link.execute((*sql).to_owned()).await?;
        if version == 1 {
            // Positive: it is written as a number with a sign.
            let cluster_id = rand::random::<u64>() >> 1;
            let once = |name: &str, value: u64| {
                format!(
                    "INSERT INTO concord_meta (name, value) SELECT '{name}', {value} FROM (SELECT 1 AS one) AS once \
                     WHERE NOT EXISTS (SELECT 1 FROM concord_meta AS m WHERE m.name = '{name}')"
                )
            };
            let facts =
                [once("cluster_id", cluster_id), once("epoch", 0), once("term", 0), once("version", 0)];
            link.execute(facts.join("; ")).await?;
        }
        link.execute(format!("UPDATE concord_meta SET value = {version} WHERE name = 'version'")).await?;
    }
    Ok(())
}

/// 0 where there is nothing yet.
async fn version(link: &mut Link) -> Result<i64, Problem> {
    let schema = match link.dialect() {
        Dialect::MySql => "DATABASE()",
        Dialect::Postgres => "current_schema()",
    };
    let exists = format!(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = {schema} AND table_name = 'concord_meta'"
    );
    if link.query(exists, |row| row.number(0)).await?.first() == Some(&0) {
        return Ok(0);
    }
    Ok(meta(link, "version").await?.unwrap_or_default())
}

async fn meta(link: &mut Link, name: &str) -> Result<Option<i64>, Problem> {
    let sql = format!("SELECT value FROM concord_meta WHERE name = '{name}'");
    Ok(link.query(sql, |row| row.number(0)).await?.first().copied())
}

async fn begin_epoch(link: &mut Link, member: &Member) -> Result<(ClusterId, Epoch), Problem> {
    let dialect = link.dialect();
    let (now, lease_ms) = (dialect.now(), member.lease.as_millis());
    let (name, address) = (dialect.text(&member.name), dialect.text(&member.address));
    link.execute(format!(
        "BEGIN; UPDATE concord_meta SET value = value + 1 WHERE name = 'epoch'; \
         INSERT INTO concord_coordinator (epoch, term, name, address, expires_at) \
         SELECT value, 0, {name}, {address}, {now} + {lease_ms} FROM concord_meta WHERE name = 'epoch'"
    ))
    .await?;
    let epoch = meta(link, "epoch").await?;
    let cluster_id = meta(link, "cluster_id").await?;
    link.execute("COMMIT".to_owned()).await?;
    let broken = |what: &str| Problem::Refused(format!("its table concord_meta has no {what}"));
    let epoch = epoch.and_then(|epoch| u32::try_from(epoch).ok()).ok_or_else(|| broken("epoch"))?;
    let cluster_id = cluster_id.map(i64::cast_unsigned).ok_or_else(|| broken("cluster_id"))?;
    let (cluster_id, epoch) = (ClusterId(cluster_id), Epoch(epoch));
    members::take_over(link, epoch, Some(&member.name)).await?;
    Ok((cluster_id, epoch))
}
