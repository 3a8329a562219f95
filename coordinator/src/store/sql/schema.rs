//! Tables, versions, and the beginning of an epoch.

use std::time::Instant;

use concord_protocol::{ClusterId, Epoch};

use super::link::{Address, Dialect, Link};
use super::{Member, Problem, members};

/// A version of the tables. The first one is 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// Makes it of the one before. What has been made may be made again: in MySQL a migration that was cut short leaves a
    /// part of it.
    pub(super) sql: &'static str,
    /// The oldest version that a coordinator must know to work with it. So that neighbours can run together, a release only
    /// adds, and this is at most what the release before knows (docs/cluster.md, "Upgrading").
    pub(super) needs: i64,
}

/// All versions that this program knows.
pub(super) fn versions(dialect: Dialect) -> &'static [Version] {
    match dialect {
        Dialect::MySql => &[Version { sql: include_str!("schema/mysql/001.sql"), needs: 1 }],
        Dialect::Postgres => &[Version { sql: include_str!("schema/postgres/001.sql"), needs: 1 }],
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
pub(super) async fn open(
    address: &Address,
    member: &Member,
    versions: &[Version],
) -> Result<Opened, Problem> {
    let mut link = address.connect(member.idle_max_s()).await?;
    lock(&mut link).await?;
    migrate(&mut link, versions).await?;
    unlock(&mut link).await?;
    let leased_at = Instant::now();
    let (cluster_id, epoch) = begin_epoch(&mut link, member, versions.len()).await?;
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

async fn migrate(link: &mut Link, versions: &[Version]) -> Result<(), Problem> {
    let (found, needs) = version(link).await?;
    let known = versions.len() as i64;
    if needs > known {
        return Err(Problem::NewerSchema { found: found.max(needs), known });
    }
    let new = versions.iter().zip(1..).skip(usize::try_from(found).unwrap_or_default());
    if found > 0 {
        let needs = new.clone().map(|(version, _)| version.needs).max();
        understood_by_all(link, needs.unwrap_or_default()).await?;
    }
    for (Version { sql, needs }, version) in new {
        if version > 1 {
            // First: should this be cut short, nobody works with what it does not know.
            link.execute(format!("UPDATE concord_meta SET value = {needs} WHERE name = 'needs'")).await?;
        }
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
            let facts = [("cluster_id", cluster_id), ("epoch", 0), ("term", 0), ("version", 0), ("needs", 1)];
            let facts = facts.map(|(name, value)| once(name, value));
            link.execute(facts.join("; ")).await?;
        }
        link.execute(format!("UPDATE concord_meta SET value = {version} WHERE name = 'version'")).await?;
    }
    Ok(())
}

/// Refuses what coordinators that are running would not understand.
async fn understood_by_all(link: &mut Link, needs: i64) -> Result<(), Problem> {
    let now = link.dialect().now();
    let sql = format!(
        "SELECT knows FROM concord_coordinator WHERE successor IS NULL AND expires_at >= {now} AND knows < {needs}"
    );
    match link.query(sql, |row| row.number(0)).await?.into_iter().min() {
        None => Ok(()),
        Some(knows) => Err(Problem::Refused(format!(
            "a coordinator is running on it whose version knows schema version {knows}, and this one needs {needs}: \
             upgrade that one first, to a release in between, or stop it"
        ))),
    }
}

/// Of the tables, and the oldest that one must know to work with them: 0 where there is nothing yet.
pub(super) async fn version(link: &mut Link) -> Result<(i64, i64), Problem> {
    let schema = match link.dialect() {
        Dialect::MySql => "DATABASE()",
        Dialect::Postgres => "current_schema()",
    };
    let exists = format!(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = {schema} AND table_name = 'concord_meta'"
    );
    if link.query(exists, |row| row.number(0)).await?.first() == Some(&0) {
        return Ok((0, 0));
    }
    Ok((meta(link, "version").await?.unwrap_or_default(), meta(link, "needs").await?.unwrap_or_default()))
}

pub(super) async fn meta(link: &mut Link, name: &str) -> Result<Option<i64>, Problem> {
    let sql = format!("SELECT value FROM concord_meta WHERE name = '{name}'");
    Ok(link.query(sql, |row| row.number(0)).await?.first().copied())
}

async fn begin_epoch(link: &mut Link, member: &Member, knows: usize) -> Result<(ClusterId, Epoch), Problem> {
    let dialect = link.dialect();
    let (now, lease_ms) = (dialect.now(), member.lease.as_millis());
    let (name, address) = (dialect.text(&member.name), dialect.text(&member.address));
    link.execute(format!(
        "BEGIN; UPDATE concord_meta SET value = value + 1 WHERE name = 'epoch'; \
         INSERT INTO concord_coordinator (epoch, term, knows, name, address, expires_at) \
         SELECT value, 0, {knows}, {name}, {address}, {now} + {lease_ms} FROM concord_meta WHERE name = 'epoch'"
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
