//! One private server per flavour for all tests; a database of its own for each test.
#![allow(unreachable_pub)] // Each file is a module of the test binary, and `pub` is how modules share.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
pub use concord_sandbox::{Flavor, Server, ServerOptions};
pub use concord_xa::*;
pub use mysql_async::prelude::Queryable as _;
pub use mysql_async::{Conn, Opts};

pub const CLUSTER: ClusterId = ClusterId(0xC0_FFEE);

/// A server of one's own, for tests that change or kill it.
pub fn start(flavor: Flavor, arguments: &[&str]) -> Server {
    // A thread of its own: the blocking twin must not run inside a runtime.
    let options =
        arguments.iter().fold(ServerOptions::new(flavor), |options, argument| options.arg(*argument));
    std::thread::spawn(move || Server::start_blocking(options).expect("a database server"))
        .join()
        .expect("the server starts")
}

const TRUST: &str = "--log-bin-trust-function-creators=ON";
static MYSQL: LazyLock<Server> = LazyLock::new(|| start(Flavor::MySql, &[TRUST]));
static MARIADB: LazyLock<Server> = LazyLock::new(|| start(Flavor::MariaDb, &[TRUST]));

pub fn server(flavor: Flavor) -> &'static Server {
    match flavor {
        Flavor::MySql => &MYSQL,
        Flavor::MariaDb => &MARIADB,
    }
}

/// A database with two accounts of 100 each, and a driver on it.
pub struct Bench {
    pub flavor: Flavor,
    pub url: String,
    pub name: String,
    pub db: Database,
    pub plain: Conn,
}

static NAMES: AtomicU32 = AtomicU32::new(0);
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

/// A gtid that nobody else has.
pub fn gtid() -> Gtid {
    Gtid::compose(1_700_000_000_000, Epoch(1), SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

pub fn xid() -> Xid {
    Xid { cluster: CLUSTER, gtid: gtid(), branch: BranchId(1) }
}

pub fn options() -> Options {
    Options { lock_wait: std::time::Duration::from_secs(1), ..Options::default() }
}

impl Bench {
    pub async fn new(flavor: Flavor) -> Self {
        Self::on(server(flavor)).await
    }

    pub async fn on(server: &Server) -> Self {
        let name = format!("t{}", NAMES.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await.expect("a database");
        let url = server.url(&name);
        let mut plain = connect(&url).await;
        plain
            .query_drop(
                "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL) ENGINE=InnoDB; \
                 INSERT INTO account VALUES (1, 100), (2, 100)",
            )
            .await
            .expect("tables");
        let db = Database::connect(&url, options()).await.expect("a fit server");
        db.migrate().await.expect("the barrier table");
        Bench { flavor: server.flavor(), url, name, db, plain }
    }

    /// Another process: nothing shared with `db`.
    pub async fn elsewhere(&self) -> Database {
        Database::connect(&self.url, options()).await.expect("a fit server")
    }

    pub async fn begin(&self, xid: Xid) -> Branch {
        self.db.begin(xid.cluster, xid.gtid, xid.branch).await.expect("a branch")
    }

    /// A branch that has taken 10 from account 1, not yet voted.
    pub async fn worked(&self, xid: Xid) -> Branch {
        let mut branch = self.begin(xid).await;
        branch.exec_exactly("UPDATE account SET balance = balance - 10 WHERE id = ?", (1,), 1).await.unwrap();
        branch
    }

    pub async fn prepared(&self, xid: Xid) -> PreparedBranch {
        yes(self.worked(xid).await.prepare(b"reply").await)
    }

    /// Prepared by a process that is gone.
    pub async fn abandoned(&self, xid: Xid) {
        let prepared = self.prepared(xid).await;
        if prepared.is_held() {
            self.end_session(prepared.connection_id()).await;
        }
    }

    pub async fn balance(&mut self, id: u32) -> i64 {
        let row: Option<i64> =
            self.plain.query_first(format!("SELECT balance FROM account WHERE id = {id}")).await.unwrap();
        row.expect("an account")
    }

    /// Prepared branches of ours on the server that belong to `gtid`.
    pub async fn listed(&self, xid: &Xid) -> bool {
        self.db.recover().await.unwrap().iter().any(|branch| branch.xid.as_ref() == Some(xid))
    }

    /// States in the barrier table.
    pub async fn barrier(&mut self) -> Vec<u8> {
        self.plain.query("SELECT state FROM concord_barrier").await.unwrap()
    }

    /// Ends a session and waits until the server has let go of it.
    pub async fn end_session(&self, id: u32) {
        assert!(self.db.end_session(id).await, "the session is gone");
    }

    /// Returns once session `id` is executing a statement that has been waiting.
    pub async fn until_waiting(&self, id: u32) {
        let mut other = connect(&self.url).await;
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.innodb_trx \
             WHERE trx_mysql_thread_id = {id} AND trx_state = 'LOCK WAIT'"
        );
        while other.query_first::<u32, _>(&sql).await.unwrap() == Some(0) {
            // InnoDB refreshes that table at most ten times a second.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub fn detaches(&self) -> bool {
        self.db.server_info().detaches_on_prepare
    }
}

pub async fn connect(url: &str) -> Conn {
    let opts = mysql_async::OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    Conn::new(opts).await.expect("a connection")
}

pub fn yes(vote: Vote) -> PreparedBranch {
    match vote {
        Vote::Yes(prepared) => prepared,
        other => panic!("expected a yes, got {other:?}"),
    }
}

pub fn no(vote: Vote) -> String {
    match vote {
        Vote::No { reason } => reason,
        other => panic!("expected a no, got {other:?}"),
    }
}

pub fn committed(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::Committed { .. })
}

pub fn rolled_back(resolution: &Resolution) -> bool {
    matches!(resolution, Resolution::RolledBack { .. })
}

/// Makes two tests of one: MySQL and MariaDB.
#[macro_export]
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($flavor:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn run($flavor: Flavor) $body
            #[tokio::test]
            async fn mysql() { run(Flavor::MySql).await }
            #[tokio::test]
            async fn mariadb() { run(Flavor::MariaDb).await }
        }
    )*};
}
