//! Whether a database is fit to hold the store, and how it is now.

use concord_xa::server::{Fault, Leniency, Purpose, VARIABLES, Variables, judge};

use super::link::{Address, Dialect, Link};
use super::schema::{version, versions};
use super::{Problem, members, shown};
use crate::store::{StoreError, UnixMillis};

/// It may be silent for so long.
const IDLE_MAX_S: u64 = 60;

/// What a database that holds a store, or is to hold one, says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// What the server says it is.
    pub server: String,
    /// What may make it lose what it has acknowledged, or keeps it from being written to.
    pub faults: Vec<Fault>,
    /// How far its clock is ahead of this machine's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// How long it took to ask for that.
    pub round_trip_ms: u64,
    /// Coordinators whose lease has not run out; `None` where there are no tables yet.
    pub coordinators: Option<usize>,
}

/// Asks the database at this URL. Nothing in it is changed.
///
/// # Errors
/// [`StoreError::NewerSchema`]; [`StoreError::Open`]: it cannot be reached, or refuses.
pub async fn examine(url: &str) -> Result<Examination, StoreError> {
    let answer = async {
        let mut link = Address::parse(url)?.connect(IDLE_MAX_S).await?;
        let (server, faults) = match link.dialect() {
            Dialect::MySql => mysql(&mut link).await?,
            Dialect::Postgres => postgres(&mut link).await?,
        };
        let sql = format!("SELECT {}", link.dialect().now());
        let (asked, start) = (UnixMillis::now(), std::time::Instant::now());
        let there = link.query(sql, |row| row.number(0)).await?.pop().unwrap_or_default();
        let round_trip_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let here = asked.0.saturating_add(round_trip_ms / 2).cast_signed();
        let coordinators = coordinators(&mut link).await?;
        Ok(Examination { server, faults, clock_ahead_ms: there - here, round_trip_ms, coordinators })
    };
    answer.await.map_err(|problem: Problem| problem.open(&shown(url)))
}

async fn coordinators(link: &mut Link) -> Result<Option<usize>, Problem> {
    let known = versions(link.dialect()).len() as i64;
    match version(link).await? {
        (0, _) => Ok(None),
        (found, needs) if needs > known => Err(Problem::NewerSchema { found: found.max(needs), known }),
        _ => Ok(Some(members::alive(link).await?.len())),
    }
}

async fn mysql(link: &mut Link) -> Result<(String, Vec<Fault>), Problem> {
    let pairs = link.query(VARIABLES.to_owned(), |row| Ok((row.text(0)?, row.text(1)?))).await?;
    let variables: Variables =
        pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let (server, mut faults) = match judge(Purpose::Local, &variables, &[], None, &Leniency::default()) {
        Ok(server) => (server.to_string(), Vec::new()),
        Err(faults) => (variables.get("version").cloned().unwrap_or_default(), faults),
    };
    let read_only = link.query("SELECT CAST(@@global.read_only AS SIGNED)".to_owned(), |row| row.number(0));
    if read_only.await?.first() == Some(&1) {
        faults.push(takes_no_writes("read_only is ON"));
    }
    Ok((server, faults))
}

async fn postgres(link: &mut Link) -> Result<(String, Vec<Fault>), Problem> {
    let mut settings = Vec::new();
    for name in ["server_version", "fsync", "full_page_writes", "synchronous_commit"] {
        let sql = format!("SELECT current_setting('{name}')");
        settings.extend(link.query(sql, |row| row.text(0)).await?);
    }
    let [version, fsync, full_page_writes, synchronous_commit] = settings.as_slice() else {
        return Err(Problem::Refused("the database does not tell its settings".into()));
    };
    let mut faults = Vec::new();
    if fsync == "off" {
        faults.push(Fault::new("fsync is off: a crash may lose acknowledged commits, or all", "set it on"));
    }
    if full_page_writes == "off" {
        faults.push(Fault::new(
            "full_page_writes is off: a crash may tear pages",
            "set it on; off is safe only where the file system never tears a page",
        ));
    }
    // The sessions of a coordinator set it on, so it is something between that keeps them from it.
    if synchronous_commit == "off" {
        faults.push(Fault::new(
            "synchronous_commit stays off, though this session has set it on",
            "connect to the server itself, and not through a pooler that shares sessions",
        ));
    }
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN 1::bigint ELSE 0::bigint END";
    if link.query(sql.to_owned(), |row| row.number(0)).await?.first() == Some(&1) {
        faults.push(takes_no_writes("it is a standby"));
    }
    Ok((format!("PostgreSQL {version}"), faults))
}

fn takes_no_writes(why: &str) -> Fault {
    Fault::new(format!("it takes no writes: {why}"), "name the primary in store.url")
}
