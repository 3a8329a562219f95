//! Looking for transactions.

use super::*;
use crate::engine::TransactionFilter;
use crate::store::UnixMillis;

/// All pages, one after the other.
async fn pages(world: &World, filter: &TransactionFilter) -> Vec<Vec<Gtid>> {
    let (mut filter, mut pages) = (filter.clone(), Vec::new());
    loop {
        let page = world.engine.list(&filter).await.unwrap();
        assert!(page.transactions.len() <= filter.limit);
        pages.push(page.transactions.iter().map(|one| one.gtid).collect());
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return pages,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lists_live_and_ended_transactions_newest_first_page_by_page() {
    let world = World::new().await;
    let mut gtids = Vec::new();
    for _ in 0..10 {
        gtids.push(world.execute(&[A, B]).await.unwrap().gtid);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        gtids.push(world.joined(&[A]).await);
    }
    gtids.reverse();
    let mut filter = TransactionFilter { limit: 4, ..TransactionFilter::default() };
    assert_eq!(pages(&world, &filter).await.concat(), gtids);
    filter.states = vec![State::Active];
    assert_eq!(world.engine.list(&filter).await.unwrap().transactions.len(), 4);
    filter.states = vec![State::RolledBack];
    assert!(world.engine.list(&filter).await.unwrap().transactions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_what_is_live_oldest_first() {
    let world = World::new().await;
    world.actors.script(B, Script::FailOn(Verb::Commit));
    let mut gtids = Vec::new();
    for _ in 0..10 {
        world.execute(&[A]).await.unwrap();
        gtids.push(world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap().gtid);
    }
    let mut filter = TransactionFilter { limit: 4, oldest_first: true, ..TransactionFilter::default() };
    assert_eq!(pages(&world, &filter).await.concat(), gtids);
    filter.begun_before = Some(UnixMillis(gtids[0].unix_ms()));
    assert!(world.engine.list(&filter).await.unwrap().transactions.is_empty());
    filter.begun_before = None;
    filter.begun_after = Some(UnixMillis(gtids[9].unix_ms() + 1));
    assert!(world.engine.list(&filter).await.unwrap().transactions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_what_is_looked_for() {
    let world = World::new().await;
    let one = world.execute(&[A, B]).await.unwrap().gtid;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = UnixMillis(one.unix_ms());
    while UnixMillis::now() <= first {
        std::thread::yield_now();
    }
    let live = world.joined(&[A]).await;
    let list = |filter| {
        let engine = &world.engine;
        async move {
            let page = engine.list(&TransactionFilter { limit: 9, ..filter }).await.unwrap();
            page.transactions.into_iter().map(|one| one.gtid).collect::<Vec<_>>()
        }
    };
    let all = TransactionFilter::default;
    let at = |participant: &str| TransactionFilter { participant: Some(participant.to_owned()), ..all() };
    assert_eq!(list(at(A)).await, [live, one]);
    assert_eq!(list(at(B)).await, [one]);
    assert_eq!(list(at(&B[1..])).await, [], "letter for letter");
    assert_eq!(list(TransactionFilter { kind: Some(Kind::Xa), ..all() }).await, [live, one]);
    assert_eq!(list(TransactionFilter { kind: Some(Kind::Tcc), ..all() }).await, []);
    let with = |text: &str| TransactionFilter { text: Some(text.to_owned()), ..all() };
    assert_eq!(list(with(&one.to_string()[10..])).await, [one]);
    assert_eq!(list(with(&B[1..].to_lowercase())).await, [one]);
    assert_eq!(list(with("nowhere")).await, []);
    let second = UnixMillis(live.unix_ms());
    assert_eq!(list(TransactionFilter { begun_after: Some(first), ..all() }).await, [live, one]);
    assert_eq!(list(TransactionFilter { begun_after: Some(second), ..all() }).await, [live]);
    assert_eq!(list(TransactionFilter { begun_before: Some(second), ..all() }).await, [one]);
    assert_eq!(list(TransactionFilter { begun_before: Some(first), ..all() }).await, []);
    assert_eq!(
        list(TransactionFilter { begun_before: Some(UnixMillis(u64::MAX)), ..all() }).await,
        [live, one]
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_search_is_given_in_short_pages_and_finds_everything() {
    let world = World::new().await;
    let mut wanted = vec![world.execute(&[A, B]).await.unwrap().gtid];
    for _ in 0..5_200 {
        world.execute(&[A]).await.unwrap();
    }
    wanted.insert(0, world.execute(&[A, B]).await.unwrap().gtid);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let filter =
        TransactionFilter { limit: 4, participant: Some(B.to_owned()), ..TransactionFilter::default() };
    let pages = pages(&world, &filter).await;
    assert_eq!((pages.concat(), pages.len()), (wanted, 2));
}
