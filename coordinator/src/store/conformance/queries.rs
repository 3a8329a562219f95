//! Reading and purging.

use super::*;

async fn append_all(store: &impl Store, entries: Vec<Entry>) {
    store.append(entries, Durability::Forced).await.unwrap();
}

fn gtids(list: &[Stored]) -> Vec<Gtid> {
    list.iter().map(|stored| stored.gtid).collect()
}

pub(super) async fn unknown_transactions_are_not_found<S: Subject>() {
    let (_medium, store) = S::create();
    assert_eq!(store.get(gtid(1)).await.unwrap(), None);
    assert_eq!(store.find_key("key".into()).await.unwrap(), None);
    assert_eq!(store.load_live().await.unwrap(), []);
    assert_eq!(store.list_ended(all()).await.unwrap(), []);
    assert_eq!(store.purge(UnixMillis(u64::MAX), 10).await.unwrap(), 0);
}

pub(super) async fn live_ones_are_loaded_in_order_until_they_end<S: Subject>() {
    let (medium, store) = S::create();
    for n in [5, 1, 3, 2, 4] {
        append_all(&store, vec![begun(n, "", ""), decided(n, true)]).await;
    }
    append_all(&store, vec![ended(3, 30, true)]).await;
    append_all(&store, vec![ended(1, 10, false), registered(2, 9)]).await;
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    let live = store.load_live().await.unwrap();
    assert_eq!(gtids(&live), [2, 4, 5].map(gtid));
    assert_eq!(Some(live[0].clone()), stored(2, &[begun(2, "", ""), decided(2, true), registered(2, 9)]));
    assert_eq!(gtids(&store.list_ended(all()).await.unwrap()), [3, 1].map(gtid));
}

pub(super) async fn a_record_without_a_beginning_is_kept<S: Subject>() {
    let (_medium, store) = S::create();
    append_all(&store, vec![decided(1, true), registered(2, 1), decided(1, true)]).await;
    append_all(&store, vec![begun(2, "late", "k")]).await;
    append_all(&store, vec![ended(3, 3, true)]).await;
    assert_eq!(gtids(&store.load_live().await.unwrap()), [1, 2].map(gtid));
    assert_eq!(gtids(&store.list_ended(all()).await.unwrap()), [3].map(gtid));
    assert_eq!(store.find_key("k".into()).await.unwrap(), Some(gtid(2)));
}

pub(super) async fn a_record_after_the_end_does_not_revive<S: Subject>() {
    let (_medium, store) = S::create();
    append_all(&store, vec![begun(1, "a", ""), ended(1, 10, true)]).await;
    append_all(&store, vec![registered(1, 1)]).await;
    append_all(&store, vec![ended(1, 99, false)]).await;
    assert_eq!(store.load_live().await.unwrap(), []);
    let committed = Filter { committed: Some(true), ..all() };
    assert_eq!(store.list_ended(committed).await.unwrap().len(), 1, "the first end counts");
    assert_eq!(store.purge(UnixMillis(11), 10).await.unwrap(), 1, "and its time");
}

pub(super) async fn keys_are_found_until_purged<S: Subject>() {
    let (medium, store) = S::create();
    append_all(&store, vec![begun(1, "", "a"), begun(2, "", "b"), begun(3, "", "")]).await;
    append_all(&store, vec![ended(1, 5, true), ended(3, 6, true)]).await;
    let (_medium, store) = medium.crash(store, Crash::Kill);
    assert_eq!(store.find_key("a".into()).await.unwrap(), Some(gtid(1)));
    assert_eq!(store.find_key("b".into()).await.unwrap(), Some(gtid(2)));
    for unknown in ["", "A", "a ", "ab", "a' OR '1'='1"] {
        assert_eq!(store.find_key(unknown.into()).await.unwrap(), None, "{unknown:?}");
    }
    assert_eq!(store.purge(UnixMillis(100), 100).await.unwrap(), 2);
    assert_eq!(store.find_key("a".into()).await.unwrap(), None);
    assert_eq!(store.find_key("b".into()).await.unwrap(), Some(gtid(2)));
}

pub(super) async fn thousands_are_paged_newest_first<S: Subject>() {
    let (_medium, store) = S::create();
    let count = 3_000;
    for n in 0..count {
        drop(store.append(vec![begun(n, "", ""), ended(n, n, n % 10 != 0)], Durability::Lazy));
    }
    append_all(&store, vec![begun(count, "", "")]).await;
    for (committed, expected) in [(None, count), (Some(true), count - count / 10), (Some(false), count / 10)]
    {
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let filter = Filter { committed, before, limit: 171, ..Filter::default() };
            let page = gtids(&store.list_ended(filter).await.unwrap());
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 171);
            before = Some(*last);
            seen.extend(page);
        }
        assert_eq!(seen.len() as u64, expected);
        assert!(seen.is_sorted_by(|a, b| a > b), "newest first, none twice");
    }
}

pub(super) async fn every_filter_selects_what_it_says<S: Subject>() {
    let (_medium, store) = S::create();
    // Every combination of name and outcome, several times, and live ones between them.
    let names = ["", "transfer", "order", "Transfer"];
    let facts: Vec<(u64, &str, Option<bool>)> = (0..60)
        .map(|n| (n, names[n as usize % 4], [None, Some(true), Some(false)][n as usize / 4 % 3]))
        .collect();
    for (n, name, outcome) in &facts {
        append_all(&store, vec![begun(*n, name, "")]).await;
        if let Some(committed) = outcome {
            append_all(&store, vec![ended(*n, *n, *committed)]).await;
        }
    }
    for committed in [None, Some(true), Some(false)] {
        for name in [None, Some(""), Some("transfer"), Some("order"), Some("none")] {
            for before in [None, Some(0), Some(33), Some(1_000)] {
                for limit in [0, 1, 4, usize::MAX] {
                    let expected: Vec<Gtid> = (facts.iter().rev())
                        .filter(|fact| {
                            fact.2.is_some() && committed.is_none_or(|wanted| fact.2 == Some(wanted))
                        })
                        .filter(|fact| name.is_none_or(|name| name == fact.1))
                        .filter(|fact| before.is_none_or(|before| fact.0 < before))
                        .map(|fact| gtid(fact.0))
                        .take(limit)
                        .collect();
                    let filter =
                        Filter { committed, name: name.map(str::to_owned), before: before.map(gtid), limit };
                    let found = store.list_ended(filter.clone()).await.unwrap();
                    assert_eq!(gtids(&found), expected, "{filter:?}");
                }
            }
        }
    }
}

pub(super) async fn purge_deletes_the_oldest_up_to_its_limit<S: Subject>() {
    let (_medium, store) = S::create();
    // In one order by gtid, in the other by the time they ended.
    for n in 0..1_000 {
        drop(store.append(vec![begun(n, "x", "k"), ended(n, 1_000 - n, true)], Durability::Lazy));
    }
    append_all(&store, vec![]).await;
    assert_eq!(store.purge(UnixMillis(901), 0).await.unwrap(), 0);
    assert_eq!(store.purge(UnixMillis(901), 300).await.unwrap(), 300);
    let left = gtids(&store.list_ended(all()).await.unwrap());
    assert_eq!(left, (0..700).rev().map(gtid).collect::<Vec<_>>());
    assert_eq!(store.purge(UnixMillis(901), 9_999).await.unwrap(), 600);
    assert_eq!(store.list_ended(all()).await.unwrap().len(), 100);
    assert_eq!(store.get(gtid(500)).await.unwrap(), None);
    // "Before" does not include.
    assert_eq!(store.purge(UnixMillis(901), 9_999).await.unwrap(), 0);
    assert_eq!(store.purge(UnixMillis(u64::MAX), usize::MAX).await.unwrap(), 100);
}

pub(super) async fn purge_leaves_the_live_ones<S: Subject>() {
    let (_medium, store) = S::create();
    append_all(&store, vec![begun(1, "", ""), decided(1, true), begun(2, "", ""), ended(2, 2, false)]).await;
    assert_eq!(store.purge(UnixMillis(u64::MAX), 100).await.unwrap(), 1);
    assert_eq!(gtids(&store.load_live().await.unwrap()), [gtid(1)]);
    assert_eq!(store.get(gtid(1)).await.unwrap(), stored(1, &[begun(1, "", ""), decided(1, true)]));
}

pub(super) async fn a_large_record_comes_back<S: Subject>() {
    let (medium, store) = S::create();
    // Larger than one commit takes: it is committed alone.
    let large = begun(1, &"n".repeat(5 << 20), "");
    let appends = [
        store.append(vec![begun(0, "", "")], Durability::Lazy),
        store.append(vec![large.clone()], Durability::Lazy),
        store.append(vec![begun(2, "", "")], Durability::Forced),
    ];
    for append in appends {
        append.await.unwrap();
    }
    let (_medium, store) = medium.crash(store, Crash::Power(0));
    assert_eq!(store.get(gtid(1)).await.unwrap(), stored(1, &[large]));
    assert_eq!(store.load_live().await.unwrap().len(), 3);
}
