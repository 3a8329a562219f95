//! The contract's rules, by number. Rules 8 and 10 concern files: see `sqlite/tests.rs`.

use super::*;
use crate::store::Counters;
use futures_util::future::join_all;

const CUTS: [Crash; 6] =
    [Crash::Power(0), Crash::Power(1), Crash::Power(100), Crash::Power(200), Crash::Power(254), Crash::Kill];

pub(super) async fn rule_1_records_come_back_in_the_order_of_append<S: Subject>() {
    let (_medium, store) = S::create();
    let entries: Vec<Entry> = (0..300).map(|i| registered(i % 7, i as u32)).collect();
    // Nothing is awaited before everything is appended, and forced and lazy are mixed.
    let appends: Vec<_> = (entries.chunks(3).enumerate())
        .map(|(i, chunk)| {
            store.append(chunk.to_vec(), if i % 5 == 0 { Durability::Forced } else { Durability::Lazy })
        })
        .collect();
    for result in join_all(appends).await {
        result.unwrap();
    }
    for n in 0..7 {
        assert_eq!(store.get(gtid(n)).await.unwrap(), stored(n, &entries));
    }
}

pub(super) async fn rule_1_a_forced_append_makes_earlier_lazy_ones_durable<S: Subject>() {
    let (medium, store) = S::create();
    // Written long before the forced one, and queued together with it.
    store.append(vec![begun(1, "", "")], Durability::Lazy).await.unwrap();
    let lazy = store.append(vec![begun(2, "", "")], Durability::Lazy);
    store.append(vec![begun(3, "", "")], Durability::Forced).await.unwrap();
    lazy.await.unwrap();
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    assert_eq!(store.load_live().await.unwrap().len(), 3);
}

pub(super) async fn rule_1_so_does_an_empty_one<S: Subject>() {
    let (medium, store) = S::create();
    store.append(vec![begun(1, "", "")], Durability::Lazy).await.unwrap();
    store.append(vec![], Durability::Forced).await.unwrap();
    assert_eq!(store.counters().syncs, 1);
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    assert_eq!(store.load_live().await.unwrap().len(), 1);
}

pub(super) async fn rule_2_forced_appends_survive_every_crash<S: Subject>() {
    let (mut medium, mut store) = S::create();
    for (n, how) in (1..).zip(CUTS) {
        let entries = [begun(n, "transfer", "key"), decided(n, true)];
        store.append(entries.to_vec(), Durability::Forced).await.unwrap();
        (medium, store) = medium.crash(store, how);
        assert_eq!(store.get(gtid(n)).await.unwrap(), stored(n, &entries), "{how:?}");
        assert_eq!(store.load_live().await.unwrap().len() as u64, n);
    }
    drop(medium);
}

pub(super) async fn rule_3_lazy_appends_can_be_read<S: Subject>() {
    let (_medium, store) = S::create();
    store.append(vec![begun(1, "", "")], Durability::Lazy).await.unwrap();
    assert_eq!(store.get(gtid(1)).await.unwrap(), stored(1, &[begun(1, "", "")]));
}

pub(super) async fn rule_3_lazy_appends_cost_no_sync<S: Subject>() {
    let (_medium, store) = S::create();
    for n in 0..5 {
        store.append(vec![begun(n, "", ""), decided(n, false)], Durability::Lazy).await.unwrap();
    }
    let counters = store.counters();
    assert_eq!(counters.records, 10);
    assert!(!S::LAZY_IS_FREE || counters.syncs == 0, "{counters:?}");
    assert!(counters.commits >= 1);
}

pub(super) async fn rule_3_lazy_appends_are_lost_only_as_a_suffix<S: Subject>() {
    for how in CUTS {
        let (medium, store) = S::create();
        for n in 0..20 {
            let durability = if n == 7 { Durability::Forced } else { Durability::Lazy };
            // Large enough that each is written to pages of its own.
            store.append(vec![begun(n, &"x".repeat(3_000), "")], durability).await.unwrap();
        }
        let (_medium, store) = medium.crash(store, how);
        let found: Vec<_> = store.load_live().await.unwrap().into_iter().map(|live| live.gtid).collect();
        let expected: Vec<_> = (0..20).map(gtid).take(found.len()).collect();
        assert_eq!(found, expected, "{how:?}");
        assert!(found.len() >= 8, "{how:?}: a forced one is lost");
        match how {
            _ if !S::LAZY_IS_FREE => assert_eq!(found.len(), 20),
            Crash::Power(0) => assert_eq!(found.len(), 8, "nothing more was synced"),
            Crash::Power(_) => assert!(found.len() < 20, "{how:?}: the crash lost nothing"),
            Crash::Kill => assert_eq!(found.len(), 20),
        }
    }
}

pub(super) async fn rule_4_an_append_is_there_as_a_whole_or_not_at_all<S: Subject>() {
    let mut lost = 0;
    for part in (0..=255).step_by(15) {
        let (medium, store) = S::create();
        store.append(vec![begun(100, "", "")], Durability::Forced).await.unwrap();
        let entries: Vec<Entry> = (0..60).map(|i| begun(i, &"x".repeat(500), "")).collect();
        store.append(entries, Durability::Lazy).await.unwrap();
        let (_medium, store) = medium.crash(store, Crash::Power(part));
        let found = store.load_live().await.unwrap().len();
        assert!(found == 1 || found == 61, "{found} of 61 after losing all but {part}/255");
        lost += usize::from(found == 1);
    }
    let some = if S::LAZY_IS_FREE { 1..18 } else { 0..1 };
    assert!(some.contains(&lost), "the crashes must lose it sometimes, and not always: {lost} of 18");
}

pub(super) async fn rule_5_appends_that_wait_share_one_sync<S: Subject>() {
    let (_medium, store) = S::create();
    S::hold(&store);
    let appends: Vec<_> = (0..64).map(|n| store.append(vec![begun(n, "", "")], Durability::Forced)).collect();
    assert_eq!(store.counters().syncs, 0);
    S::release(&store);
    for result in join_all(appends).await {
        result.unwrap();
    }
    assert_eq!(store.counters(), Counters { syncs: 1, records: 64, commits: 1 });
}

pub(super) async fn rule_5_one_forced_append_is_one_sync<S: Subject>() {
    let (_medium, store) = S::create();
    for n in 0..10 {
        store.append(vec![begun(n, "", ""), decided(n, true)], Durability::Forced).await.unwrap();
        store.append(vec![ended(n, n, true)], Durability::Lazy).await.unwrap();
    }
    let syncs = store.counters().syncs;
    assert!(syncs == 10 || !S::LAZY_IS_FREE && (10..=20).contains(&syncs), "{syncs}");
}

pub(super) async fn rule_6_failure_is_final<S: Subject>() {
    let (medium, store) = S::create();
    store.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
    let before = store.counters();
    S::hold(&store);
    S::fail_next_sync(&store);
    let waiting = [
        store.append(vec![begun(2, "", "")], Durability::Lazy),
        store.append(vec![begun(3, "", "")], Durability::Forced),
        store.append(vec![begun(4, "", "")], Durability::Forced),
    ];
    S::release(&store);
    for result in join_all(waiting).await {
        assert!(matches!(result, Err(StoreError::Failed(_))), "{result:?}");
    }
    for durability in [Durability::Forced, Durability::Lazy] {
        let later = store.append(vec![begun(5, "", "")], durability).await;
        assert!(matches!(later, Err(StoreError::Failed(_))), "{later:?}");
    }
    let purge = store.purge(UnixMillis(u64::MAX), 10).await;
    assert!(matches!(purge, Err(StoreError::Failed(_))), "{purge:?}");
    assert_eq!(store.counters(), before, "nothing counts that failed");
    let closed = store.close().await;
    assert!(matches!(closed, Err(StoreError::Failed(_))), "{closed:?}");
    // What failed may be there or not; what came after the failure must not.
    let (_medium, store) = medium.crash(store, Crash::Kill);
    assert_eq!(store.get(gtid(5)).await.unwrap(), None);
}

pub(super) async fn rule_6_what_was_acknowledged_before_a_failure_is_kept<S: Subject>() {
    for how in CUTS {
        let (medium, store) = S::create();
        store.append(vec![begun(1, "", "")], Durability::Forced).await.unwrap();
        S::fail_next_sync(&store);
        store.append(vec![begun(2, "", "")], Durability::Forced).await.unwrap_err();
        let (_medium, store) = medium.crash(store, how);
        assert!(store.get(gtid(1)).await.unwrap().is_some(), "{how:?}");
        store.append(vec![begun(6, "", "")], Durability::Forced).await.unwrap();
    }
}

pub(super) async fn rule_7_dropping_a_future_changes_nothing<S: Subject>() {
    let (medium, store) = S::create();
    S::hold(&store);
    for n in 0..10 {
        drop(
            store.append(
                vec![begun(n, "", "")],
                if n % 2 == 0 { Durability::Forced } else { Durability::Lazy },
            ),
        );
    }
    S::release(&store);
    store.append(vec![begun(10, "", "")], Durability::Forced).await.unwrap();
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    assert_eq!(store.load_live().await.unwrap().len(), 11);
}

pub(super) async fn rule_9_epochs_grow<S: Subject>() {
    let (mut medium, mut store) = S::create();
    let (cluster_id, first) = (store.cluster_id(), store.epoch());
    for n in 1..5 {
        if n % 2 == 0 {
            store.close().await.unwrap();
            store = medium.reopen(store);
        } else {
            // With nothing written at all: opening alone made it durable.
            (medium, store) = medium.crash(store, Crash::Power(0));
        }
        assert_eq!(store.epoch(), Epoch(first.0 + n));
        assert_eq!(store.cluster_id(), cluster_id);
    }
    let (_other_medium, other) = S::create();
    assert_ne!(other.cluster_id(), cluster_id, "drawn at random");
}

pub(super) async fn close_keeps_lazy_appends<S: Subject>() {
    let (medium, store) = S::create();
    store.append(vec![begun(1, "", "")], Durability::Lazy).await.unwrap();
    drop(store.append(vec![begun(2, "", "")], Durability::Lazy));
    store.close().await.unwrap();
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    assert_eq!(store.load_live().await.unwrap().len(), 2);
}

pub(super) async fn close_refuses_what_comes_later<S: Subject>() {
    let (medium, store) = S::create();
    store.close().await.unwrap();
    let append = store.append(vec![begun(1, "", "")], Durability::Lazy).await;
    assert!(matches!(append, Err(StoreError::Closed)), "{append:?}");
    let purge = store.purge(UnixMillis(9), 9).await;
    assert!(matches!(purge, Err(StoreError::Closed)), "{purge:?}");
    let read = store.get(gtid(1)).await;
    assert!(matches!(read, Err(StoreError::Closed)), "{read:?}");
    store.close().await.expect("closing twice is no error");
    let store = medium.reopen(store);
    assert_eq!(store.get(gtid(1)).await.unwrap(), None);
}
