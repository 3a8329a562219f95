//! One database server, as a resource of distributed transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use concord_protocol::{BranchId, ClusterId, Gtid};
use mysql_async::{Opts, OptsBuilder, Row, from_row_opt};

use crate::barrier::{Barrier, create_sql};
use crate::branch::Branch;
use crate::error::{XaError, code};
use crate::server::{FOREIGN_ENGINES, Leniency, Purpose, ServerInfo, VARIABLES, Variables, judge};
use crate::session::{OwnSessions, Pool, Session};
use crate::statement::excerpt;
use crate::xid::{RawXid, Xid};

/// Isolation of branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ, the default of both servers.
    RepeatableRead,
    /// SERIALIZABLE. With grade STRICT, transactions are globally serializable.
    Serializable,
}

/// How to use a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sessions for branches, at most. On MariaDB a prepared branch keeps its session until phase two.
    pub sessions_max: usize,
    /// Sessions for phase two and recovery, at most; apart from the others, so that branches waiting for
    /// locks can never keep out the commits that would release them.
    pub control_sessions_max: usize,
    /// How long a branch waits for a session before it is refused.
    pub session_wait: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for an answer in phase two and recovery.
    pub control_timeout: Duration,
    /// `innodb_lock_wait_timeout` of branches, in whole seconds. A deadlock across branches ends by it alone.
    pub lock_wait: Duration,
    /// `lock_wait_timeout` (metadata locks) of branches, in whole seconds.
    pub metadata_lock_wait: Duration,
    /// Isolation of branches; None: the server's default.
    pub isolation: Option<Isolation>,
    /// What the start-up check overlooks.
    pub leniency: Leniency,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sessions_max: 128,
            control_sessions_max: 32,
            session_wait: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            control_timeout: Duration::from_secs(10),
            lock_wait: Duration::from_secs(3),
            metadata_lock_wait: Duration::from_secs(5),
            isolation: None,
            leniency: Leniency::default(),
        }
    }
}

/// A branch that the server lists as prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDoubt {
    /// Its name as the server gave it.
    pub raw: RawXid,
    /// Its name as ours, when Concord made it. Look at the cluster before touching it.
    pub xid: Option<Xid>,
}

/// A database server. Cheap to clone; clones share the sessions.
#[derive(Debug, Clone)]
pub struct Database(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) server: ServerInfo,
    pub(crate) barrier: Barrier,
    pub(crate) options: Options,
    pub(crate) branches: Arc<Pool>,
    pub(crate) control: Arc<Pool>,
    pub(crate) own: Arc<OwnSessions>,
    /// Whether XA RECOVER is allowed: 0 not known yet, 1 yes, 2 no.
    recover_allowed: AtomicU8,
    address: String,
}

impl Database {
    /// Connects, and checks that the server is fit for XA.
    ///
    /// `url`: `mysql://user:password@host:port/database`, with the driver's TLS parameters. Without a
    /// database there is no barrier table: then only [`Database::recover`], [`Database::commit`] and
    /// [`Database::rollback`] are of use, and less can be proved.
    ///
    /// # Errors
    /// [`XaError::Url`], [`XaError::Connection`], [`XaError::Unfit`] with everything that is wrong.
    pub async fn connect(url: &str, options: Options) -> Result<Self, XaError> {
        let opts = Opts::from_url(url)?;
        let address = match (opts.ip_or_hostname(), opts.tcp_port(), opts.db_name()) {
            (host, port, Some(database)) => format!("{host}:{port}/{database}"),
            (host, port, None) => format!("{host}:{port}"),
        };
        // Affected rows count matched rows, so that a repeated UPDATE is not taken for a miss. No hopping to
        // the server's socket: behind a port forward its path may be another server's.
        let opts: Opts = OptsBuilder::from_opts(opts).client_found_rows(true).prefer_socket(false).into();
        let own = Arc::new(OwnSessions::default());
        let pool = |setup, max, wait| {
            Pool::new(opts.clone(), setup, max, wait, options.connect_timeout, Arc::clone(&own))
        };
        let branches = pool(branch_setup(&options), options.sessions_max.max(1), options.session_wait);
        let control =
            pool(CONTROL_SETUP.into(), options.control_sessions_max.max(1), options.control_timeout);
        let mut session = control.acquire().await?;
        let server = probe(&mut session, &options).await?;
        session.give_back();
        let barrier = Barrier::new(server.database.as_deref());
        let recover_allowed = AtomicU8::new(0);
        Ok(Database(Arc::new(Inner {
            server,
            barrier,
            options,
            branches,
            control,
            own,
            recover_allowed,
            address,
        })))
    }

    /// What the server is.
    pub fn server_info(&self) -> &ServerInfo {
        &self.0.server
    }

    /// Host, port and database; never the password.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Creates the barrier table if it is not there. Safe to repeat and to race with others.
    ///
    /// # Errors
    /// Any [`XaError`]; most likely the user may not create tables: then an administrator runs it once.
    pub async fn migrate(&self) -> Result<(), XaError> {
        let sql = create_sql(&self.0.barrier.table);
        let mut tries = 3;
        loop {
            tries -= 1;
            let result = self.control(&sql).await;
            match result {
                // Racing DDL may lose a deadlock on the data dictionary.
                Err(XaError::Server { code: code::LOCK_DEADLOCK | code::LOCK_WAIT_TIMEOUT, .. })
                    if tries > 0 => {}
                other => return other.map(|_| ()),
            }
        }
    }

    /// Opens a branch. Nothing is sent yet: `XA START` goes with the first statement.
    ///
    /// # Errors
    /// [`XaError::SessionsExhausted`], [`XaError::Connection`].
    pub async fn begin(&self, cluster: ClusterId, gtid: Gtid, branch: BranchId) -> Result<Branch, XaError> {
        let session = self.0.branches.acquire().await?;
        Ok(Branch::new(self.clone(), session, Xid { cluster, gtid, branch }))
    }

    /// Every branch that the server lists as prepared, foreign ones included (docs/xa.md rule 20).
    ///
    /// # Errors
    /// [`XaError::Server`] with code 1401 on MySQL without the right XA_RECOVER_ADMIN; connection errors.
    pub async fn recover(&self) -> Result<Vec<InDoubt>, XaError> {
        let result = self.control("XA RECOVER").await;
        match &result {
            Ok(_) => self.0.recover_allowed.store(1, Ordering::Relaxed),
            Err(XaError::Server { code: code::XAER_RMERR | 1227, .. }) => {
                self.0.recover_allowed.store(2, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        let rows = result?.into_iter().flat_map(|outcome| outcome.rows);
        // Rows that cannot be read are nobody's to touch.
        let raws = rows.filter_map(|row| {
            let (format, gtrid, bqual, data) = from_row_opt::<(i64, i64, i64, Vec<u8>)>(row).ok()?;
            RawXid::from_row(format, gtrid, bqual, &data)
        });
        Ok(raws.map(|raw| InDoubt { xid: Xid::parse(&raw), raw }).collect())
    }

    /// The server's clock: milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn clock_ms(&self) -> Result<i64, XaError> {
        let answer = self.control("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)").await?;
        let row = answer.into_iter().flat_map(|outcome| outcome.rows).next();
        row.and_then(|row| from_row_opt::<i64>(row).ok())
            .ok_or_else(|| XaError::Statement("the server has no clock".into()))
    }

    /// Whether the server knows this XID, whoever holds it. Asks XA RECOVER, which lists only prepared ones,
    /// or where that is not allowed whether the XID could be started, which says no in any state.
    pub(crate) async fn is_listed(&self, xid: &Xid) -> Result<bool, XaError> {
        if self.0.recover_allowed.load(Ordering::Relaxed) != 2 {
            match self.recover().await {
                Ok(list) => return Ok(list.iter().any(|branch| branch.xid.as_ref() == Some(xid))),
                Err(XaError::Server { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let name = xid.to_sql();
        match self.control(&format!("XA START {name}; XA END {name}; XA ROLLBACK {name}")).await {
            Ok(_) => Ok(false),
            Err(XaError::Server { code: code::XAER_DUPID, .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Runs statements on a fresh session in autocommit; after an error of the XA kind it is not used again.
    pub(crate) async fn control(&self, sql: &str) -> Result<Vec<crate::session::Outcome>, XaError> {
        let mut session = self.0.control.acquire().await?;
        let results = session.run_within(self.0.options.control_timeout, sql).await;
        match results {
            Ok(results) => {
                session.give_back();
                Ok(results)
            }
            Err(failure) => {
                tracing::debug!(sql = excerpt(sql), error = %failure.error, "a control statement failed");
                Err(failure.error)
            }
        }
    }
}

/// Phase two must not wait long for a row: it looks again instead.
const CONTROL_SETUP: &str = "SET SESSION autocommit = 1, innodb_lock_wait_timeout = 1, lock_wait_timeout = 5";

/// What a session for work is told first.
pub fn branch_setup(options: &Options) -> String {
    let lock_wait_s = options.lock_wait.as_secs().max(1);
    let metadata_wait_s = options.metadata_lock_wait.as_secs().max(1);
    let mut setup = format!(
        "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {lock_wait_s}, \
         lock_wait_timeout = {metadata_wait_s}"
    );
    let isolation = match options.isolation {
        None => return setup,
        Some(Isolation::ReadCommitted) => "READ COMMITTED",
        Some(Isolation::RepeatableRead) => "REPEATABLE READ",
        Some(Isolation::Serializable) => "SERIALIZABLE",
    };
    setup.push_str("; SET SESSION TRANSACTION ISOLATION LEVEL ");
    setup.push_str(isolation);
    setup
}

async fn probe(session: &mut Session, options: &Options) -> Result<ServerInfo, XaError> {
    let sql = format!("{VARIABLES}; SELECT DATABASE(); {FOREIGN_ENGINES}");
    let limit = options.connect_timeout;
    let mut results = session.run_within(limit, &sql).await.map_err(|failure| failure.error)?.into_iter();
    let mut rows = || results.next().map(|outcome| outcome.rows).unwrap_or_default();
    let variables: Variables =
        pairs(rows()).map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let database =
        rows().into_iter().next().and_then(|row| from_row_opt::<Option<String>>(row).ok()).flatten();
    let foreign_engines: Vec<_> = pairs(rows()).collect();
    judge(Purpose::Xa, &variables, &foreign_engines, database, &options.leniency).map_err(XaError::Unfit)
}

fn pairs(rows: Vec<Row>) -> impl Iterator<Item = (String, String)> {
    rows.into_iter().filter_map(|row| from_row_opt::<(String, String)>(row).ok())
}
