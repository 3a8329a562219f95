//! The suite's subjects, and what only this store can be asked: take-over, fencing, broken connections.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;

use concord_sandbox::{Flavor, Postgres, PostgresOptions, Server, ServerOptions};

use super::*;
use crate::store::conformance::{Crash, Subject, begun, decided, ended, gtid, run};
use crate::store::{Archive, Place, Span};

/// A kind of database server. All tests of a process share one, on which each has a database of its own.
pub(in crate::store) trait Kind: 'static {
    /// Makes a database; answers its URL.
    fn create(name: String) -> String;
}

#[derive(Debug)]
pub(in crate::store) enum MySql {}
#[derive(Debug)]
pub(in crate::store) enum MariaDb {}
#[derive(Debug)]
pub(in crate::store) enum PostgreSql {}

fn start(flavor: Flavor) -> Server {
    Server::start_blocking(ServerOptions::new(flavor)).expect("the server starts")
}

fn create(server: &Server, name: &str) -> String {
    run(async { server.create_database(name).await.expect("a database is made") });
    server.url(name)
}

impl Kind for MySql {
    fn create(name: String) -> String {
        static SERVER: LazyLock<Server> = LazyLock::new(|| start(Flavor::MySql));
        create(&SERVER, &name)
    }
}

impl Kind for MariaDb {
    fn create(name: String) -> String {
        static SERVER: LazyLock<Server> = LazyLock::new(|| start(Flavor::MariaDb));
        create(&SERVER, &name)
    }
}

impl Kind for PostgreSql {
    fn create(name: String) -> String {
        static SERVER: LazyLock<Postgres> = LazyLock::new(|| {
            Postgres::start_blocking(PostgresOptions::default()).expect("the server starts")
        });
        run(async { SERVER.create_database(&name).await.expect("a database is made") });
        SERVER.url(&name)
    }
}

/// Where blocking is allowed.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("it does not panic"))
}

/// A database of its own; answers its URL.
fn database<K: Kind>() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("store_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    apart(|| K::create(name))
}

fn open(url: &str, name: &str) -> SqlStore {
    open_for(url, name, Duration::from_secs(10))
}

fn open_for(url: &str, name: &str, lease: Duration) -> SqlStore {
    let member = Member { name: name.into(), address: format!("{name}:7600"), lease };
    apart(|| SqlStore::open(url, member)).expect("the store opens")
}

/// A database on one kind of server.
pub(in crate::store) struct SqlSubject<K>(String, PhantomData<K>);

impl<K: Kind> Subject for SqlSubject<K> {
    type Store = SqlStore;

    /// The database syncs every commit.
    const LAZY_IS_FREE: bool = false;
    const KEYS_ARE_CLAIMED: bool = true;
    /// Every crash of each opens connections.
    const HISTORIES: u32 = 8;

    fn create() -> (Self, SqlStore) {
        let url = database::<K>();
        let store = open(&url, "one");
        (SqlSubject(url, PhantomData), store)
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
    (mod $module:ident $kind:ident $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() { super::$test::<super::$kind>() })*
        }
    };
    ($($test:ident)*) => {
        on_each! { mod mysql MySql $($test)* }
        on_each! { mod mariadb MariaDb $($test)* }
        on_each! { mod postgres PostgreSql $($test)* }
    };
}
on_each! {
    it_is_read_beside_its_coordinators
    what_is_no_store_is_not_read
    who_has_been_taken_over_writes_nothing_more
    an_expired_lease_is_taken_over_and_one_that_is_renewed_is_not
    what_is_taken_over_is_handed_out_once_and_ends
    who_has_been_taken_over_takes_nothing_over
    of_many_that_take_over_one_does
    a_key_goes_to_who_comes_first
    a_key_that_nobody_began_with_is_purged
    a_lease_that_cannot_be_renewed_is_given_up_in_time
    a_connection_that_breaks_is_made_again
    a_commit_is_made_once_however_often_it_is_tried
    neighbouring_versions_share_it
    what_would_break_an_older_one_waits_for_its_end
}

fn who_has_been_taken_over_writes_nothing_more<K: Kind>() {
    let url = database::<K>();
    let first = open(&url, "one");
    run(async {
        first.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        let second = open(&url, "one");
        let late = first.append(vec![decided(1, true)], Durability::Forced).await;
        let error = late.unwrap_err().to_string();
        let why = "has taken over from this one: its lease had run out, or another one has been started under its name";
        assert!(error.contains(why), "{error}");
        let live = second.load_live().await.unwrap();
        assert_eq!(live.len(), 1);
        assert_eq!(live[0].records.len(), 1, "nothing was decided");
        second.append(vec![decided(1, false), ended(1, 1, false)], Durability::Forced).await.unwrap();
        assert_eq!(second.load_live().await.unwrap(), []);
        assert_eq!(second.get(gtid(1)).await.unwrap().unwrap().records.len(), 3);
    });
}

fn an_expired_lease_is_taken_over_and_one_that_is_renewed_is_not<K: Kind>() {
    let url = database::<K>();
    let [one, other] = [3, 6].map(Duration::from_secs);
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

/// As when its process is killed: nothing renews its lease.
fn silence(store: &SqlStore) {
    store.queue.fail(StoreError::Failed("a test stops it".into()));
}

fn what_is_taken_over_is_handed_out_once_and_ends<K: Kind>() {
    let url = database::<K>();
    // The successor has begun before whom it succeeds.
    let [stays, gone] = [("stays", 30), ("gone", 4)]
        .map(|(name, seconds)| open_for(&url, name, Duration::from_secs(seconds)));
    run(async {
        let issued = gone.epoch();
        let at = |n| Gtid::compose(n, issued, n);
        let entry = |entry: Entry, gtid| Entry { gtid, ..entry };
        for n in 1..=3 {
            gone.append(vec![entry(begun(n, "", "key"), at(n))], Durability::Forced).await.unwrap();
        }
        gone.append(vec![entry(decided(1, true), at(1))], Durability::Forced).await.unwrap();
        assert_eq!(stays.take_over().await.unwrap(), []);
        let other = Owner::Other { address: "gone:7600".into() };
        assert_eq!(stays.reign(issued).await.unwrap(), Reign { owner: other, is_over: false });
        assert_eq!(stays.members().await.unwrap(), [stays.epoch(), issued]);
        silence(&gone);
        let live = loop {
            let live = stays.take_over().await.unwrap();
            if !live.is_empty() {
                break live;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(live.iter().map(|live| live.gtid).collect::<Vec<_>>(), [at(1), at(2), at(3)]);
        assert_eq!(live[0].records.len(), 2);
        assert_eq!(stays.take_over().await.unwrap(), [], "once");
        assert_eq!(stays.reign(issued).await.unwrap(), Reign { owner: Owner::Us, is_over: true });
        assert_eq!(stays.members().await.unwrap(), [stays.epoch()]);
        // All records are there when it ends, those of both.
        stays.append(vec![entry(ended(1, 1, true), at(1))], Durability::Forced).await.unwrap();
        let records = |stored: Option<Stored>| -> Vec<_> {
            stored.unwrap().records.into_iter().map(|(_, record)| record).collect()
        };
        let all = [begun(1, "", "key"), decided(1, true), ended(1, 1, true)].map(|entry| entry.record);
        assert_eq!(records(stays.get(at(1)).await.unwrap()), all);
        stays.append(vec![entry(decided(2, false), at(2))], Durability::Forced).await.unwrap();
        let all = [begun(2, "", "key"), decided(2, false), ended(2, 2, false)].map(|entry| entry.record);
        assert_eq!(records(stays.get(at(2)).await.unwrap()), all[..2]);
        stays.append(vec![entry(ended(2, 2, false), at(2))], Durability::Forced).await.unwrap();
        assert_eq!(records(stays.get(at(2)).await.unwrap()), all);
        // And those who come later find what is left, at the successor of the successor.
        let third = open(&url, "stays");
        let live = third.load_live().await.unwrap();
        assert_eq!(live.iter().map(|live| live.gtid).collect::<Vec<_>>(), [at(3)]);
        assert_eq!(third.reign(issued).await.unwrap(), Reign { owner: Owner::Us, is_over: true });
        let owner = Owner::Other { address: "stays:7600".into() };
        assert_eq!(
            stays.read(move |link| Box::pin(members::reign(link, issued, Epoch(99)))).await.unwrap().owner,
            owner
        );
    });
}

/// Else what it takes would stay behind, with a successor that has one itself.
fn who_has_been_taken_over_takes_nothing_over<K: Kind>() {
    let url = database::<K>();
    let gone = open_for(&url, "gone", Duration::from_secs(1));
    let first = open(&url, "first");
    let (issued, fenced) = (gone.epoch(), first.epoch());
    run(async {
        silence(&gone);
        let second = open_for(&url, "first", Duration::from_secs(30));
        while second.members().await.unwrap().contains(&issued) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let late = first.read(move |link| Box::pin(members::take_over(link, fenced, None))).await;
        assert!(late.unwrap_err().to_string().contains("has taken over"));
        assert_eq!(second.reign(issued).await.unwrap().owner, Owner::Other { address: "gone:7600".into() });
        assert_eq!(second.take_over().await.unwrap(), []);
        assert_eq!(second.reign(issued).await.unwrap(), Reign { owner: Owner::Us, is_over: true });
    });
}

fn of_many_that_take_over_one_does<K: Kind>() {
    let url = database::<K>();
    let gone: Vec<_> = (0..4).map(|n| open_for(&url, &format!("gone-{n}"), Duration::from_secs(3))).collect();
    let heirs: Vec<_> =
        (0..4).map(|n| open_for(&url, &format!("heir-{n}"), Duration::from_secs(30))).collect();
    run(async {
        for (n, store) in (1..).zip(&gone) {
            let gtid = Gtid::compose(n, store.epoch(), n);
            store.append(vec![Entry { gtid, ..begun(n, "", "") }], Durability::Forced).await.unwrap();
            silence(store);
        }
        let mut adopted = Vec::new();
        while adopted.len() < gone.len() {
            // At the same moment. One may have to give way; it comes again.
            for live in futures_util::future::join_all(heirs.iter().map(SqlStore::take_over)).await {
                match live {
                    Ok(live) => adopted.extend(live.into_iter().map(|live| live.gtid)),
                    Err(error) => assert!(matches!(error, StoreError::Read(_)), "{error}"),
                }
            }
        }
        for _ in 0..3 {
            for heir in &heirs {
                assert_eq!(heir.take_over().await.unwrap(), []);
            }
        }
        adopted.sort();
        adopted.dedup();
        assert_eq!(adopted.len(), gone.len(), "each went to one: {adopted:?}");
    });
}

fn a_key_goes_to_who_comes_first<K: Kind>() {
    let url = database::<K>();
    let stores = ["one", "two", "three"].map(|name| open(&url, name));
    run(async {
        for round in 0..10 {
            let key = format!("key {round}");
            let claims = (1..).zip(&stores).map(|(n, store)| store.claim_key(key.clone(), gtid(n), None));
            let claims = futures_util::future::join_all(claims).await;
            let claims: Vec<_> = claims.into_iter().map(Result::unwrap).collect();
            assert!(claims.iter().all(|claim| *claim == claims[0]), "{claims:?}");
            assert_eq!(stores[0].find_key(key.clone()).await.unwrap(), Some(claims[0]));
            // It never came to be: whoever is next has the key, and those who have heard of the first do not take it away.
            let next = stores.iter().map(|store| store.claim_key(key.clone(), gtid(9), Some(claims[0])));
            for claim in futures_util::future::join_all(next).await {
                assert_eq!(claim.unwrap(), gtid(9));
            }
            assert_eq!(stores[1].claim_key(key, gtid(10), Some(claims[0])).await.unwrap(), gtid(9));
        }
    });
}

fn a_key_that_nobody_began_with_is_purged<K: Kind>() {
    let url = database::<K>();
    let store = open(&url, "one");
    run(async {
        let hour = 3_600_000;
        let at = |hours: u64| Gtid::compose(hours * hour, Epoch(1), hours);
        for (key, hours) in [("lost", 1), ("live", 1), ("young", 3)] {
            assert_eq!(store.claim_key(key.into(), at(hours), None).await.unwrap(), at(hours));
        }
        let live = Gtid::compose(hour, Epoch(1), 7);
        store.claim_key("live".into(), live, Some(at(1))).await.unwrap();
        let begun = Entry { gtid: live, ..begun(7, "", "live") };
        store.append(vec![begun], Durability::Forced).await.unwrap();
        assert_eq!(store.purge(UnixMillis(3 * hour), 100).await.unwrap(), 0);
        assert_eq!(store.find_key("lost".into()).await.unwrap(), None);
        assert_eq!(store.find_key("live".into()).await.unwrap(), Some(live));
        assert_eq!(store.find_key("young".into()).await.unwrap(), Some(at(3)));
    });
}

/// Its database does not answer, rather than breaking the connection.
fn a_lease_that_cannot_be_renewed_is_given_up_in_time<K: Kind>() {
    let url = database::<K>();
    let store = open_for(&url, "one", Duration::from_secs(1));
    run(async {
        // A transaction that holds the coordinator's own row.
        let mut link = Address::parse(&url).unwrap().connect(60).await.unwrap();
        let lock = "BEGIN; UPDATE concord_coordinator SET commits = commits".to_owned();
        link.execute(lock).await.unwrap();
        let error = store.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap_err().to_string();
        assert!(error.contains("lease has run out"), "{error}");
        assert!(matches!(store.take_over().await, Err(StoreError::Failed(_))));
        link.execute("ROLLBACK".to_owned()).await.unwrap();
    });
}

/// As a server does that restarts, or a network that forgets.
fn cut_connections(url: &str) {
    apart(|| {
        run(async {
            let mut link = Address::parse(url).unwrap().connect(10).await.unwrap();
            let others = match link.dialect() {
                Dialect::MySql => {
                    "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
                     WHERE db = DATABASE() AND id <> CONNECTION_ID()"
                }
                Dialect::Postgres => {
                    "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity \
                     WHERE datname = current_database() AND pid <> pg_backend_pid()"
                }
            };
            for id in link.query(others.to_owned(), |row| row.number(0)).await.unwrap() {
                let kill = match link.dialect() {
                    Dialect::MySql => format!("KILL {id}"),
                    Dialect::Postgres => format!("SELECT pg_terminate_backend({id})"),
                };
                // It may have ended by itself.
                let _ = link.execute(kill).await;
            }
        });
    });
}

fn a_connection_that_breaks_is_made_again<K: Kind>() {
    let url = database::<K>();
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
fn a_commit_is_made_once_however_often_it_is_tried<K: Kind>() {
    let url = database::<K>();
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

#[test]
fn where_the_store_is_is_shown_without_a_password() {
    for url in ["mysql://ann:s3cret@db/concord", "mysql://ann@db/concord?password=s3cret"] {
        assert_eq!(shown(url), Path::new("mysql://ann@db/concord"));
    }
}

#[test]
fn commits_are_measured_as_syncs_and_batches() {
    let (url, metrics) = (database::<MariaDb>(), Metrics::default());
    let member = Member { name: "one".into(), address: "one:7600".into(), lease: Duration::from_secs(10) };
    let store = apart(|| SqlStore::open_measured(&url, member, &metrics)).unwrap();
    run(async {
        for number in 1..=3 {
            let entries = vec![begun(number, "", ""), decided(number, true)];
            store.append(entries, Durability::Forced).await.unwrap();
        }
    });
    assert_eq!(store.counters(), Counters { syncs: 3, records: 6, commits: 3 });
    let [count, seconds] = metrics.count_and_sum("log_sync_seconds");
    assert_eq!(count, 3.0);
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    assert_eq!(metrics.count_and_sum("log_batch_records"), [3.0, 6.0]);
}

/// Opens it as a program would that knows these versions too.
fn open_newer(url: &str, name: &str, newer: &[Version]) -> Result<SqlStore, StoreError> {
    let member =
        Member { name: name.into(), address: format!("{name}:7600"), lease: Duration::from_secs(10) };
    apart(|| {
        let versions = |dialect| &*[schema::versions(dialect), newer].concat().leak();
        SqlStore::open_knowing(url, member, &Metrics::default(), versions)
    })
}

/// What a release may do to the tables that the one before it works with.
const ADDS: Version = Version {
    sql: "ALTER TABLE concord_record ADD COLUMN extra BIGINT; ALTER TABLE concord_ended ADD COLUMN extra BIGINT; \
          ALTER TABLE concord_keyed ADD COLUMN extra BIGINT; ALTER TABLE concord_coordinator ADD COLUMN extra BIGINT; \
          CREATE TABLE concord_extra (id BIGINT NOT NULL PRIMARY KEY)",
    needs: 1,
};
/// And what it may not.
const BREAKS: Version = Version { sql: "ALTER TABLE concord_keyed RENAME TO concord_keys", needs: 3 };

fn neighbouring_versions_share_it<K: Kind>() {
    let url = database::<K>();
    let old = open(&url, "old");
    run(async {
        let at = |store: &SqlStore, n| Gtid::compose(n, store.epoch(), n);
        let write = |store: &SqlStore, entry: Entry, gtid| {
            store.append(vec![Entry { gtid, ..entry }], Durability::Forced)
        };
        write(&old, begun(1, "", ""), at(&old, 1)).await.unwrap();
        let new = open_newer(&url, "new", &[ADDS]).unwrap();
        // The old one goes on, is started again, and takes over from the new one.
        write(&old, decided(1, true), at(&old, 1)).await.unwrap();
        write(&old, ended(1, 1, true), at(&old, 1)).await.unwrap();
        write(&new, begun(2, "", ""), at(&new, 2)).await.unwrap();
        let issued = at(&new, 2);
        new.close().await.unwrap();
        drop(old);
        let again = open(&url, "old");
        assert_eq!(again.load_live().await.unwrap()[0].gtid, issued);
        assert_eq!(again.claim_key("key".into(), gtid(3), None).await.unwrap(), gtid(3));
        write(&again, decided(2, false), issued).await.unwrap();
        write(&again, ended(2, 2, false), issued).await.unwrap();
        assert_eq!(again.list_ended(Filter { limit: 10, ..Filter::default() }).await.unwrap().len(), 2);
        assert_eq!(again.purge(UnixMillis(u64::MAX >> 1), 10).await.unwrap(), 2);
    });
}

fn what_would_break_an_older_one_waits_for_its_end<K: Kind>() {
    let url = database::<K>();
    let old = open(&url, "old");
    let refused = open_newer(&url, "new", &[ADDS, BREAKS]).unwrap_err().to_string();
    assert!(refused.contains("upgrade that one first"), "{refused}");
    run(async {
        old.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        old.close().await.unwrap();
    });
    let new = open_newer(&url, "new", &[ADDS, BREAKS]).unwrap();
    assert_eq!(run(new.load_live()).unwrap().len(), 1);
    // Which the older one would only find out when it writes.
    let member = Member { name: "old".into(), address: "old:7600".into(), lease: Duration::from_secs(10) };
    let refused = apart(|| SqlStore::open(&url, member)).unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 3, known: 1, .. }), "{refused}");
}

fn it_is_read_beside_its_coordinators<K: Kind>() {
    let url = database::<K>();
    let store = open(&url, "one");
    // More than are read at a time.
    for n in 1..=100 {
        run(async {
            let key = if n % 10 == 0 { format!("key-{n}") } else { String::new() };
            let entries = match n % 3 {
                0 => vec![begun(n, "", &key), decided(n, true), ended(n, n, true)],
                _ => vec![begun(n, "", &key)],
            };
            store.append(entries, Durability::Forced).await.expect("it is written");
        });
    }
    apart(|| {
        let mut archive = Archive::open(&Place::Database(url.clone())).expect("it opens");
        let facts = archive.facts().expect("it has facts");
        let (cluster_id, epoch) = (store.cluster_id(), store.epoch());
        assert_eq!((facts.cluster_id, facts.epoch, facts.live, facts.ended), (cluster_id, epoch, 67, 33));
        assert!(facts.bytes > 0);
        assert_eq!(archive.epoch().expect("it answers"), epoch);
        assert_eq!(archive.damage().expect("it answers"), Vec::<String>::new());
        let mut seen = Vec::new();
        archive
            .walk(Span::ALL, |archive, gtid, stored| {
                let records = stored?.records;
                seen.push((gtid, records.len()));
                assert_eq!(archive.is_found_by(&format!("key-{}", seen.len()), gtid)?, seen.len() % 10 == 0);
                Ok::<_, StoreError>(())
            })
            .expect("it is read");
        let expected = (1..=100).map(|n| (gtid(n), if n % 3 == 0 { 3 } else { 1 }));
        assert_eq!(seen, expected.collect::<Vec<_>>());
    });
    apart(|| {
        let mut archive = SqlArchive::open(&url).expect("it opens");
        let page = archive.page(Span::ALL.into(), 7).expect("it is read");
        assert_eq!(page.len(), 7, "no more at a time than was asked for");
    });
    // Of nobody's epoch.
    run(async {
        let mut link = Address::parse(&url).expect("a URL").connect(10).await.expect("it connects");
        link.execute("UPDATE concord_record SET issuer = 99".to_owned()).await.expect("it is changed");
    });
    apart(|| {
        let mut archive = Archive::open(&Place::Database(url.clone())).expect("it opens");
        let damage = archive.damage().expect("it answers");
        assert!(matches!(&damage[..], [one] if one.contains("epoch 99")), "{damage:?}");
    });
}

fn what_is_no_store_is_not_read<K: Kind>() {
    let url = database::<K>();
    let error = apart(|| Archive::open(&Place::Database(url.clone()))).expect_err("it has no tables");
    assert!(error.to_string().contains("no tables of Concord's"), "{error}");
    let version = run(async {
        let mut link = Address::parse(&url).expect("a URL").connect(10).await.expect("it connects");
        schema::version(&mut link).await.expect("it is asked")
    });
    assert_eq!(version, (0, 0), "none has been made");
}
