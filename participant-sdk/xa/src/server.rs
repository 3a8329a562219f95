//! What kind of server this is, and whether it is fit for XA (docs/xa.md rules 13 and 19).

use std::collections::HashMap;
use std::fmt;

/// The family of a server. They differ in who may finish a prepared branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// MySQL and what is built from it (Percona Server).
    MySql,
    /// MariaDB.
    MariaDb,
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavor::MySql => "MySQL",
            Flavor::MariaDb => "MariaDB",
        })
    }
}

/// A server that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its family.
    pub flavor: Flavor,
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// Whether a prepared branch leaves its session at once, so that any session may finish it. Without it
    /// the session that prepared is kept until phase two.
    pub detaches_on_prepare: bool,
    /// The default database of the connection, if it has one.
    pub database: Option<String>,
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "{} {major}.{minor}.{patch}", self.flavor)
    }
}

/// What to overlook at the start-up check.
#[derive(Debug, Clone, Default)]
pub struct Leniency {
    /// Accept servers that may forget acknowledged commits when they crash. For tests and caches only.
    pub allow_relaxed_durability: bool,
    /// Tables that may have an engine other than InnoDB: branches must not write to them.
    pub ignore_tables: Vec<String>,
}

/// What makes a server unfit, and what to do about it. Printed, it is one sentence of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub found: String,
    /// What to do about it.
    pub mend: String,
}

impl Fault {
    /// A fault in these words, without a full stop.
    pub fn new(found: impl Into<String>, mend: impl Into<String>) -> Self {
        Fault { found: found.into(), mend: mend.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found, self.mend)
    }
}

/// All of them, one after the other.
pub fn all(faults: &[Fault], separator: &str) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(separator)
}

/// System variables, by lower-case name.
pub type Variables = HashMap<String, String>;

/// What a server is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// XA branches.
    Xa,
    /// Local transactions, as of TCC branches.
    Local,
}

/// Asks for the variables that [`judge`] looks at. Those that a server does not have are absent.
pub const VARIABLES: &str = "SHOW VARIABLES WHERE Variable_name IN ('version', 'version_comment', \
     'xa_detach_on_prepare', 'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'wsrep_on', \
     'innodb_support_xa', 'tidb_version')";

/// Asks for the base tables of the default database that cannot take part in a transaction.
pub const FOREIGN_ENGINES: &str = "SELECT table_name, engine FROM information_schema.tables \
     WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' ORDER BY table_name";

/// Decides whether a server is fit, from its variables and its non-InnoDB tables.
///
/// # Errors
/// Everything that is wrong.
pub fn judge(
    purpose: Purpose,
    variables: &Variables,
    foreign_engines: &[(String, String)],
    database: Option<String>,
    leniency: &Leniency,
) -> Result<ServerInfo, Vec<Fault>> {
    let get = |name: &str| variables.get(name).map_or("", String::as_str);
    let on = |name: &str| ["ON", "1"].iter().any(|value| get(name).eq_ignore_ascii_case(value));
    let banner = format!("{} {}", get("version"), get("version_comment"));
    let mut faults = Vec::new();
    let xa = purpose == Purpose::Xa;
    for other in ["TiDB", "Vitess"] {
        if xa && banner.to_ascii_lowercase().contains(&other.to_ascii_lowercase()) {
            faults.push(Fault::new(format!("{other} does not support XA"), "use MySQL or MariaDB"));
        }
    }
    if xa && on("wsrep_on") {
        faults.push(Fault::new(
            "Galera (wsrep_on) does not support XA",
            "use a server that is not a cluster node",
        ));
    }
    let flavor = if banner.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
    let version = parse_version(get("version"));
    let oldest = match flavor {
        Flavor::MySql => (8, 0, 29),
        Flavor::MariaDb => (10, 5, 0),
    };
    if version < oldest {
        let (major, minor, patch) = oldest;
        let found = get("version");
        faults.push(Fault::new(
            format!("{flavor} {found} is too old"),
            format!("{major}.{minor}.{patch} or later is needed"),
        ));
    }
    // Asked for, not inferred from the version: it can be switched off.
    let detaches_on_prepare = on("xa_detach_on_prepare");
    if xa && flavor == Flavor::MySql && !detaches_on_prepare {
        faults.push(Fault::new(
            "xa_detach_on_prepare is OFF: prepared branches may turn into ghosts",
            "set it ON",
        ));
    }
    if !leniency.allow_relaxed_durability {
        if get("innodb_flush_log_at_trx_commit") != "1" {
            faults.push(Fault::new(
                "innodb_flush_log_at_trx_commit is not 1: a crash may lose acknowledged commits",
                "set it to 1 (or allow relaxed durability, for tests)",
            ));
        }
        if on("log_bin") && get("sync_binlog") != "1" {
            faults.push(Fault::new(
                "sync_binlog is not 1 while the binary log is on: a crash may lose acknowledged commits",
                "set it to 1 (or allow relaxed durability, for tests)",
            ));
        }
    }
    for (table, engine) in foreign_engines {
        if !leniency.ignore_tables.contains(table) {
            faults.push(Fault::new(
                format!("table {table} has engine {engine}, which cannot be rolled back"),
                "convert it to InnoDB, or name it among the tables to ignore and keep branches off it",
            ));
        }
    }
    if faults.is_empty() {
        Ok(ServerInfo { flavor, version, detaches_on_prepare, database })
    } else {
        Err(faults)
    }
}

/// The leading `a.b.c` of a version string; what cannot be read is 0.
fn parse_version(text: &str) -> (u16, u16, u16) {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0))
        .chain(std::iter::repeat(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(changes: &[(&str, &str)]) -> Variables {
        let good = [
            ("version", "8.4.3"),
            ("version_comment", "MySQL Community Server - GPL"),
            ("xa_detach_on_prepare", "ON"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "ON"),
            ("sync_binlog", "1"),
        ];
        let all = good.iter().chain(changes);
        all.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn faults(changes: &[(&str, &str)], leniency: &Leniency) -> String {
        judge(Purpose::Xa, &variables(changes), &[], None, leniency)
            .map_or_else(|faults| all(&faults, "\n"), |_| String::new())
    }

    #[test]
    fn rule_13_and_19_each_fault_is_named() {
        let strict = Leniency::default();
        assert_eq!(faults(&[], &strict), "");
        for (change, word) in [
            (("version", "8.0.28"), "8.0.29"),
            (("version", "5.7.44-log"), "too old"),
            (("version", "10.4.34-MariaDB"), "10.5.0"),
            (("version", "garbage"), "too old"),
            (("version", "8.0.11-TiDB-v7.5.0"), "TiDB"),
            (("version_comment", "Version: 19.0 (Git) Vitess"), "Vitess"),
            (("xa_detach_on_prepare", "OFF"), "xa_detach_on_prepare"),
            (("innodb_flush_log_at_trx_commit", "2"), "innodb_flush_log_at_trx_commit"),
            (("sync_binlog", "0"), "sync_binlog"),
            (("wsrep_on", "ON"), "Galera"),
        ] {
            assert!(faults(&[change], &strict).contains(word), "{change:?}: {}", faults(&[change], &strict));
        }
        assert_eq!(faults(&[("log_bin", "OFF"), ("sync_binlog", "0")], &strict), "");
    }

    #[test]
    fn local_transactions_need_durability_but_not_what_xa_does() {
        let faults = |changes| {
            let fit = judge(Purpose::Local, &variables(changes), &[], None, &Leniency::default());
            fit.map_or_else(|faults| all(&faults, "\n"), |_| String::new())
        };
        assert_eq!(faults(&[("wsrep_on", "ON"), ("xa_detach_on_prepare", "OFF")]), "");
        assert!(faults(&[("sync_binlog", "0")]).contains("sync_binlog"));
        assert!(faults(&[("version", "5.7.44")]).contains("too old"));
    }

    #[test]
    fn rule_13_mariadb_has_no_such_variable_and_holds() {
        let mut variables = variables(&[("version", "10.11.14-MariaDB-log")]);
        variables.remove("xa_detach_on_prepare");
        let info = judge(Purpose::Xa, &variables, &[], None, &Leniency::default()).unwrap();
        assert_eq!((info.flavor, info.detaches_on_prepare), (Flavor::MariaDb, false));
        assert_eq!(info.to_string(), "MariaDB 10.11.14");
    }

    #[test]
    fn rule_19_relaxed_durability_and_tables_are_overlooked_on_demand_only() {
        let relaxed = Leniency { allow_relaxed_durability: true, ignore_tables: vec!["audit".into()] };
        assert_eq!(faults(&[("innodb_flush_log_at_trx_commit", "0"), ("sync_binlog", "0")], &relaxed), "");
        let tables =
            [("audit".to_string(), "MyISAM".to_string()), ("cache".to_string(), "MEMORY".to_string())];
        let faults = judge(Purpose::Xa, &variables(&[]), &tables, None, &relaxed).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].found.contains("cache") && faults[0].found.contains("MEMORY"));
    }
}
