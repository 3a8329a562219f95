//! A real server: sessions that may wait, and somebody who watches.

use std::collections::BTreeSet;
use std::time::Duration;

use concord_protocol::Gtid;
use concord_sandbox::Server;
use concord_simulation::database::{Key, Row, code};
use concord_xa::{Database, Options, Xid};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Opts, OptsBuilder, ServerError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::sql;
use super::step::{ACCOUNTS, BRANCHES, Names, OPENING, SLOTS};

/// As the simulation has it.
pub(crate) type Result<T> = std::result::Result<T, u16>;

const DATABASE: &str = "conformance";
/// A server that does not answer for so long has hung.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Real {
    server: Server,
    url: String,
    watcher: Conn,
    driver: Database,
    cases: u64,
}

/// What every statement may answer: rows affected, and the rows.
pub(crate) type Reply = Result<(u64, Vec<mysql_async::Row>)>;

/// A session. Its statements run in the background.
pub(crate) struct Session {
    pub(crate) thread: u32,
    to_server: mpsc::UnboundedSender<(String, oneshot::Sender<Reply>)>,
}

/// What all tables hold, whoever has committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) prepared: Vec<Xid>,
    /// Without connection ids and times.
    pub(crate) rows: Vec<(Key, Row)>,
    /// Committed notes.
    pub(crate) notes: usize,
}

impl Real {
    pub(crate) async fn new(server: Server) -> Self {
        server.create_database(DATABASE).await.expect("a database");
        let url = server.url(DATABASE);
        let mut watcher = connect(&url).await;
        watcher.query_drop(sql::TABLES).await.expect("tables");
        for id in 0..ACCOUNTS {
            watcher.query_drop(format!("INSERT INTO account VALUES ({id}, {OPENING}, 0)")).await.unwrap();
        }
        let driver = driver(&url).await;
        Real { server, url, watcher, driver, cases: 0 }
    }

    /// Sets everything back. Answers the number of the next case.
    pub(crate) async fn next_case(&mut self) -> u64 {
        for listed in self.driver.recover().await.expect("XA RECOVER") {
            let xid = listed.xid.expect("one of ours");
            match self.watcher.query_drop(format!("XA ROLLBACK {}", xid.to_sql())).await {
                // MariaDB says so of a branch that only read.
                Ok(()) | Err(Error::Server(ServerError { code: code::RBROLLBACK, .. })) => {}
                Err(error) => panic!("{xid} is in the way: {error}"),
            }
        }
        self.cases += 1;
        let mut reset = format!(
            "DELETE FROM barrier; DELETE FROM note; UPDATE account SET balance = {OPENING}, frozen = 0"
        );
        // Between any two rows of the case there is one that nobody touches.
        for gtid in Names::new(self.cases).gtids().map(sql::hex) {
            for between in BRANCHES.iter().map(|branch| branch - 5).chain([BRANCHES[2] + 5]) {
                reset.push_str(&format!("; INSERT INTO barrier VALUES ({gtid}, {between}, 9, 0)"));
            }
        }
        self.watcher.query_drop(reset).await.expect("nobody holds a row");
        self.cases
    }

    pub(crate) async fn session(&self) -> Session {
        let mut conn = connect(&self.url).await;
        // Who waits, waits until the other is done: time-outs are not compared.
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 1000").await.unwrap();
        let thread = conn.id();
        let (to_server, mut statements) = mpsc::unbounded_channel::<(String, oneshot::Sender<Reply>)>();
        tokio::spawn(async move {
            while let Some((text, answer)) = statements.recv().await {
                let _ = answer.send(run(&mut conn, &text).await);
            }
            // Dropped without a farewell, as when a process dies.
        });
        Session { thread, to_server }
    }

    /// Waits until a session has gone, with whatever it held.
    pub(crate) async fn until_gone(&mut self, thread: u32) {
        let started = Instant::now();
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {thread}");
        // MySQL stops listing a session before it has rolled back what that left.
        while self.watcher.query_first::<u32, _>(&sql).await.unwrap() != Some(0)
            || self.transactions().await.iter().any(|one| thread_of(one) == Some(thread))
        {
            assert!(started.elapsed() < PATIENCE, "session {thread} does not go away");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends a session, whatever it is doing: one that waits for a lock would not notice that its client has gone.
    pub(crate) async fn end(&mut self, session: Session) {
        // "No such session" is as good.
        let _ = self.watcher.query_drop(format!("KILL {}", session.thread)).await;
        self.until_gone(session.thread).await;
    }

    /// Whether a session is at work; None: there is none.
    pub(crate) async fn process(&mut self, thread: u32) -> Option<bool> {
        let sql = format!("SELECT command FROM information_schema.processlist WHERE id = {thread}");
        self.watcher.query_first::<String, _>(sql).await.unwrap().map(|command| command != "Sleep")
    }

    /// The sessions that wait for a lock.
    pub(crate) async fn waiting(&mut self) -> BTreeSet<u32> {
        let all = self.transactions().await;
        all.iter().filter(|one| one.contains("LOCK WAIT")).filter_map(|one| thread_of(one)).collect()
    }

    /// What the server tells of each transaction. Not from `innodb_trx`, which is a copy up to 0.1 s old.
    async fn transactions(&mut self) -> Vec<String> {
        let row: Option<(String, String, String)> =
            self.watcher.query_first("SHOW ENGINE INNODB STATUS").await.unwrap();
        let (_, _, text) = row.expect("a status");
        let (_, list) = text.split_once("LIST OF TRANSACTIONS FOR EACH SESSION:").expect("transactions");
        list.split("---TRANSACTION ").map(str::to_owned).collect()
    }

    /// kill -9, and a restart.
    pub(crate) async fn crash(&mut self) {
        self.server.kill9().expect("a kill");
        self.server.restart().await.expect("a restart");
        self.watcher = connect(&self.url).await;
        self.driver = driver(&self.url).await;
    }

    pub(crate) async fn state(&mut self) -> State {
        let listed = self.driver.recover().await.expect("XA RECOVER");
        let mut prepared: Vec<Xid> = listed.into_iter().map(|one| one.xid.expect("one of ours")).collect();
        prepared.sort();
        let mut rows = Vec::new();
        self.watcher.query_drop("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await.unwrap();
        let accounts: Vec<(u32, i64, i64)> =
            self.watcher.query("SELECT id, balance, frozen FROM account ORDER BY id").await.unwrap();
        for (id, balance, frozen) in accounts {
            rows.push((Key::Account(0, id), Row::Account { balance, frozen }));
        }
        self.watcher.query_drop("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await.unwrap();
        let select = "SELECT gtid, branch, state FROM barrier WHERE state <> 9 ORDER BY gtid, branch";
        let barrier: Vec<(Vec<u8>, u32, u8)> = self.watcher.query(select).await.unwrap();
        for (gtid, branch, state) in barrier {
            let gtid = Gtid::from_bytes(gtid.try_into().unwrap()).unwrap();
            rows.push((Key::Barrier(0, gtid, branch), Row::Barrier { state, connection: 0, created_ms: 0 }));
        }
        let notes: Option<usize> = self.watcher.query_first("SELECT COUNT(*) FROM note").await.unwrap();
        State { prepared, rows, notes: notes.unwrap_or_default() }
    }
}

impl Session {
    pub(crate) fn send(&self, text: String) -> oneshot::Receiver<Reply> {
        let (answer, answered) = oneshot::channel();
        self.to_server.send((text, answer)).expect("the session's task lives as long as it");
        answered
    }
}

/// The session whose transaction is told of.
fn thread_of(transaction: &str) -> Option<u32> {
    transaction.split_once("thread id ")?.1.split_once(',')?.0.parse().ok()
}

/// As many sessions as a case has.
pub(crate) async fn sessions(real: &Real) -> Vec<Session> {
    let mut all = Vec::new();
    for _ in 0..SLOTS {
        all.push(real.session().await);
    }
    all
}

/// Reads XA RECOVER.
async fn driver(url: &str) -> Database {
    Database::connect(url, Options::default()).await.expect("a fit server")
}

async fn connect(url: &str) -> Conn {
    let opts = Opts::from_url(url).unwrap();
    let opts = OptsBuilder::from_opts(opts).client_found_rows(true).prefer_socket(false);
    Conn::new(opts).await.expect("a connection")
}

/// Code of an answer that is none: the connection broke.
pub(crate) const BROKEN: u16 = 0;

async fn run(conn: &mut Conn, text: &str) -> Reply {
    let code = |error: Error| match error {
        Error::Server(error) => error.code,
        _ => BROKEN,
    };
    let mut result = conn.query_iter(text).await.map_err(code)?;
    let mut last = (0, Vec::new());
    // None: nothing is left, or the next statement has failed.
    while let Some(columns) = result.columns() {
        let affected = if columns.is_empty() { result.affected_rows() } else { 0 };
        last = (affected, result.collect().await.map_err(code)?);
    }
    result.drop_result().await.map_err(code)?;
    Ok(last)
}
