//! One suite that every store passes: the contract, rule by rule, and random histories against a model.
//!
//! A new store implements [`Subject`] and is named in a `conformance!` at the end of this file. What only one
//! kind of store can be asked (a damaged file, a second process) stands beside that store.

mod histories;
mod queries;
mod rules;

use concord_proto::store::{Begun, BranchSpec, Decided, Ended, Record, Registered, record::Kind};
use concord_protocol::{Epoch, Gtid};

use super::sql::{self, SqlSubject};
use super::sqlite::SqliteSubject;
use super::{Durability, Entry, Filter, MemoryStore, Store, StoreError, Stored, UnixMillis};

/// How a process or a machine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// As by `kill -9`: what was written is there.
    Kill,
    /// As by a power failure: what was synced is there, and of what was written since, the first so many 255ths.
    Power(u8),
}

/// A kind of store under test, and the medium it writes to.
pub(super) trait Subject: Sized {
    type Store: Store;

    /// Commits of lazy appends only are not synced.
    const LAZY_IS_FREE: bool = true;

    /// A key goes to the transaction that comes first, not to the oldest one; no engine begins two with one key.
    const KEYS_ARE_CLAIMED: bool = false;

    /// So many random histories.
    const HISTORIES: u32 = 64;

    /// An empty medium, and the store on it.
    fn create() -> (Self, Self::Store);

    /// What a crash at this moment leaves, opened again. The old store plays no part any more.
    fn crash(self, store: Self::Store, how: Crash) -> (Self, Self::Store);

    /// The store on the same medium, opened again after it was closed.
    fn reopen(&self, store: Self::Store) -> Self::Store;

    /// Appends queue up from now on.
    fn hold(store: &Self::Store);

    /// And no more.
    fn release(store: &Self::Store);

    /// The next sync fails.
    fn fail_next_sync(store: &Self::Store);
}

impl Subject for () {
    type Store = MemoryStore;

    fn create() -> (Self, MemoryStore) {
        ((), MemoryStore::new())
    }

    fn crash(self, store: MemoryStore, how: Crash) -> (Self, MemoryStore) {
        let survivors = match how {
            Crash::Kill => usize::MAX,
            Crash::Power(part) => store.unsynced() * usize::from(part) / 255,
        };
        ((), store.crash(survivors))
    }

    fn reopen(&self, store: MemoryStore) -> MemoryStore {
        store.crash(0)
    }

    fn hold(store: &MemoryStore) {
        store.pause();
    }

    fn release(store: &MemoryStore) {
        store.resume();
    }

    fn fail_next_sync(store: &MemoryStore) {
        store.fail_next("injected");
    }
}

pub(super) fn gtid(n: u64) -> Gtid {
    Gtid::compose(1_000 + n / 3, Epoch(1), n)
}

pub(super) fn begun(n: u64, name: &str, key: &str) -> Entry {
    entry(n, n, Kind::Begun(Begun { name: name.into(), idempotency_key: key.into(), ..Default::default() }))
}

pub(super) fn registered(n: u64, branch_id: u32) -> Entry {
    let branch = BranchSpec { branch_id, participant: "bank".into(), ..Default::default() };
    entry(n, n, Kind::Registered(Registered { branch: Some(branch) }))
}

pub(super) fn decided(n: u64, commit: bool) -> Entry {
    entry(n, n, Kind::Decided(Decided { commit, branches: vec![1, 2], ..Default::default() }))
}

pub(super) fn ended(n: u64, at: u64, committed: bool) -> Entry {
    entry(n, at, Kind::Ended(Ended { committed, ..Default::default() }))
}

fn entry(n: u64, at: u64, kind: Kind) -> Entry {
    Entry { gtid: gtid(n), at: UnixMillis(at), record: Record { kind: Some(kind) } }
}

/// What `get` should answer when these were appended.
fn stored(n: u64, entries: &[Entry]) -> Option<Stored> {
    let gtid = gtid(n);
    let own = entries.iter().filter(|entry| entry.gtid == gtid);
    let records: Vec<_> = own.map(|entry| (entry.at, entry.record.clone())).collect();
    (!records.is_empty()).then_some(Stored { gtid, records })
}

fn all() -> Filter {
    Filter { limit: usize::MAX, ..Filter::default() }
}

pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(120);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(limit, test).await.expect("the test hangs") })
}

macro_rules! conformance {
    ($store:ident, $subject:ty: $($file:ident { $($test:ident)* })*) => {
        mod $store {
            use super::*;
            $($(
                #[test]
                fn $test() {
                    run($file::$test::<$subject>());
                }
            )*)*

            #[test]
            fn random_histories_match_the_model() {
                histories::run_all::<$subject>();
            }
        }
    };
}

/// The list stands here once, so that no store can leave one out.
macro_rules! conformance_of {
    ($($store:ident: $subject:ty),* $(,)?) => {
        $(conformance! { $store, $subject:
            rules {
                rule_1_records_come_back_in_the_order_of_append
                rule_1_a_forced_append_makes_earlier_lazy_ones_durable
                rule_1_so_does_an_empty_one
                rule_2_forced_appends_survive_every_crash
                rule_3_lazy_appends_can_be_read
                rule_3_lazy_appends_cost_no_sync
                rule_3_lazy_appends_are_lost_only_as_a_suffix
                rule_4_an_append_is_there_as_a_whole_or_not_at_all
                rule_5_appends_that_wait_share_one_sync
                rule_5_one_forced_append_is_one_sync
                rule_6_failure_is_final
                rule_6_what_was_acknowledged_before_a_failure_is_kept
                rule_7_dropping_a_future_changes_nothing
                rule_9_epochs_grow
                close_keeps_lazy_appends
                close_refuses_what_comes_later
            }
            queries {
                unknown_transactions_are_not_found
                live_ones_are_loaded_in_order_until_they_end
                a_record_without_a_beginning_is_kept
                a_record_after_the_end_does_not_revive
                keys_are_found_until_purged
                thousands_are_paged_newest_first
                every_filter_selects_what_it_says
                purge_deletes_the_oldest_up_to_its_limit
                purge_leaves_the_live_ones
                a_large_record_comes_back
            }
        })*
    };
}

conformance_of! {
    memory: (),
    sqlite: SqliteSubject,
    mysql: SqlSubject<sql::MySql>,
    mariadb: SqlSubject<sql::MariaDb>,
    postgres: SqlSubject<sql::PostgreSql>,
}
