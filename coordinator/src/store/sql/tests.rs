//! The suite's subjects, and what only this store can be asked: take-over, fencing, broken connections.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

use concord_sandbox::{Flavor, Server, ServerOptions};

use super::*;
use crate::store::conformance::{Crash, Subject, begun, decided, ended, gtid, run};

/// One server of each kind for all tests of a process, each of which has a database of its own.
fn server(flavor: Flavor) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
    let place = match flavor {
        Flavor::MySql => 0,
        Flavor::MariaDb => 1,
    };
    SERVERS[place].get_or_init(|| {
        apart(|| Server::start_blocking(ServerOptions::new(flavor)).expect("the server starts"))
    })
}

/// Where blocking is allowed.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("it does not panic"))
}

/// A database of its own; answers its URL.
fn database(flavor: Flavor) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("store_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let server = server(flavor);
    apart(|| run(async { server.create_database(&name).await.expect("a database is made") }));
    server.url(&name)
}

fn open(url: &str, name: &str) -> SqlStore {
    open_for(url, name, Duration::from_secs(10))
}

fn open_for(url: &str, name: &str, lease: Duration) -> SqlStore {
    apart(|| SqlStore::open(url, Member { name: name.into(), lease })).expect("the store opens")
}

/// A database on one kind of server.
pub(in crate::store) struct SqlSubject<const MARIADB: bool>(String);

impl<const MARIADB: bool> Subject for SqlSubject<MARIADB> {
    type Store = SqlStore;

    /// The database syncs every commit.
    const LAZY_IS_FREE: bool = false;
    /// Every crash of each opens connections.
    const HISTORIES: u32 = 8;

    fn create() -> (Self, SqlStore) {
        let url = database(if MARIADB { Flavor::MariaDb } else { Flavor::MySql });
        let store = open(&url, "one");
        (SqlSubject(url), store)
    }

    /// The next life takes over, and what the earlier one still has to write is refused. That a database server keeps what
    /// it has committed is its own affair.
    fn crash(self, store: SqlStore, _: Crash) -> (Self, SqlStore) {
        let next = self.reopen(store);
        (self, next)
    }

    fn reopen(&self, store: SqlStore) -> SqlStore {
        let next = open(&self.0, "one");
        drop(store);
        next
    }

    fn hold(store: &SqlStore) {
        store.queue.hold();
    }

    fn release(store: &SqlStore) {
        store.queue.release();
    }

    fn fail_next_sync(store: &SqlStore) {
        store.faults.fail_commit.store(true, Ordering::SeqCst);
    }
}

/// A test for each kind of server.
macro_rules! on_each {
    ($($test:ident)*) => {
        mod mysql {
            $(#[test] fn $test() { super::$test(super::Flavor::MySql) })*
        }
        mod mariadb {
            $(#[test] fn $test() { super::$test(super::Flavor::MariaDb) })*
        }
    };
}
on_each! {
    who_has_been_taken_over_writes_nothing_more
    an_expired_lease_is_taken_over_and_one_that_is_renewed_is_not
    a_connection_that_breaks_is_made_again
    a_commit_is_made_once_however_often_it_is_tried
}

fn who_has_been_taken_over_writes_nothing_more(flavor: Flavor) {
    let url = database(flavor);
    let first = open(&url, "one");
    run(async {
        first.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        let second = open(&url, "one");
        let late = first.append(vec![decided(1, true)], Durability::Forced).await;
        let error = late.unwrap_err().to_string();
        assert!(error.contains("has taken over"), "{error}");
        let live = second.load_live().await.unwrap();
        assert_eq!(live.len(), 1);
        assert_eq!(live[0].records.len(), 1, "nothing was decided");
        second.append(vec![decided(1, false), ended(1, 1, false)], Durability::Forced).await.unwrap();
        assert_eq!(second.load_live().await.unwrap(), []);
        assert_eq!(second.get(gtid(1)).await.unwrap().unwrap().records.len(), 3);
    });
}

fn an_expired_lease_is_taken_over_and_one_that_is_renewed_is_not(flavor: Flavor) {
    let url = database(flavor);
    let [one, other] = [1, 2].map(|lease| Duration::from_secs(lease));
    let first = open_for(&url, "first", one);
    run(async {
        first.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        tokio::time::sleep(2 * one).await;
        let second = open_for(&url, "second", other);
        assert_eq!(second.load_live().await.unwrap(), [], "the first one is there");
        first.append(vec![begun(2, "", "")], Durability::Forced).await.unwrap();
        // It does not come to renew any more.
        first.queue.fail(StoreError::Failed("a test stops it".into()));
        tokio::time::sleep(2 * one).await;
        let third = open_for(&url, "third", other);
        let live = third.load_live().await.unwrap();
        assert_eq!(live.iter().map(|live| live.gtid).collect::<Vec<_>>(), [gtid(1), gtid(2)]);
        assert_eq!(second.load_live().await.unwrap(), []);
    });
}

/// As a server does that restarts, or a network that forgets.
fn cut_connections(url: &str) {
    apart(|| {
        run(async {
            let mut link = Address::parse(url).unwrap().connect(10).await.unwrap();
            let others = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
                          WHERE db = DATABASE() AND id <> CONNECTION_ID()";
            for id in link.query(others.to_owned(), |row| row.number(0)).await.unwrap() {
                // It may have ended by itself.
                let _ = link.execute(format!("KILL {id}")).await;
            }
        });
    });
}

fn a_connection_that_breaks_is_made_again(flavor: Flavor) {
    let url = database(flavor);
    let store = open(&url, "one");
    run(async {
        for n in 0..5 {
            store.append(vec![begun(n, "", "")], Durability::Forced).await.unwrap();
            assert_eq!(store.load_live().await.unwrap().len() as u64, n + 1);
            cut_connections(&url);
        }
    });
}

/// The answer to a COMMIT is lost: the next try sees that it was made.
fn a_commit_is_made_once_however_often_it_is_tried(flavor: Flavor) {
    let url = database(flavor);
    let store = open(&url, "one");
    run(async {
        store.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        // As if the writer's second commit had been made, unheard.
        apart(|| {
            run(async {
                let mut link = Address::parse(&url).unwrap().connect(10).await.unwrap();
                let sql = "UPDATE concord_coordinator SET commits = commits + 1".to_owned();
                assert_eq!(link.execute(sql).await.unwrap(), [1]);
            });
        });
        store.append(vec![begun(2, "", "")], Durability::Forced).await.unwrap();
        assert_eq!(store.get(gtid(2)).await.unwrap(), None, "it was not written a second time");
        store.append(vec![begun(3, "", "")], Durability::Forced).await.unwrap();
        assert!(store.get(gtid(3)).await.unwrap().is_some());
    });
}
