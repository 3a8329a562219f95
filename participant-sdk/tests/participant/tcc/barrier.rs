//! What the barrier promises, in order and out of order.

use super::shop::*;
use crate::on_every_driver;
use crate::support::*;

on_every_driver! {
    async fn a_repeated_call_answers_with_what_was_recorded(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let mut node = shop.node().await;
        let gtid = gtid();
        for round in 0..3 {
            let tried = node.attempt(gtid, "5").await.unwrap();
            assert_eq!((tried.reserved, &tried.reply[..]), (true, &b"Try 5"[..]), "{}", tried.reason);
            assert_eq!(shop.stock().await, (95, 5, 0));
            if round == 1 {
                // The next life of the process knows what this one did.
                node.stop().await;
                node = shop.node().await;
            }
        }
        for round in 0..3 {
            let confirmed = node.confirm_once(gtid, "5").await.unwrap();
            assert_eq!((confirmed.outcome(), &confirmed.reply[..]), (BranchOutcome::Committed, &b"Confirm 5"[..]));
            let tried = node.attempt(gtid, "5").await.unwrap();
            assert_eq!((tried.reserved, &tried.reply[..]), (true, &b"Try 5"[..]), "each call gets its own reply");
            assert_eq!(shop.stock().await, (95, 0, 5));
            if round == 1 {
                node.stop().await;
                node = shop.node().await;
            }
        }
        assert_eq!((shop.runs(gtid, Phase::Try), shop.runs(gtid, Phase::Confirm)), (1, 1));
        let late = node.cancel_once(gtid, "5").await.unwrap();
        assert_eq!(late.outcome(), BranchOutcome::Committed, "a heuristic outcome");
        assert_eq!(shop.stock().await, (95, 0, 5));
        assert_eq!(shop.barrier().await, [4]);
    }

    async fn a_cancel_without_a_try_bars_it(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        for _ in 0..2 {
            assert_eq!(node.cancel_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        }
        node.stop().await;
        let node = shop.node().await;
        let late = node.attempt(gtid, "5").await.unwrap();
        assert!(!late.reserved && late.reason.contains("cancelled before it arrived"), "{}", late.reason);
        assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        assert_eq!(shop.stock().await, (100, 0, 0));
        assert_eq!(shop.barrier().await, [2]);
        assert_eq!(shop.runs_of_all(gtid), 0, "no handler was called");
    }

    async fn a_confirm_without_a_try_changes_nothing(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        for _ in 0..2 {
            let answer = node.confirm_once(gtid, "5").await.unwrap();
            assert_eq!((answer.outcome(), &answer.reason[..]), (BranchOutcome::Refused, "no Try is on record"));
        }
        assert!(shop.barrier().await.is_empty());
        assert_eq!(shop.runs_of_all(gtid), 0);
        assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        assert_eq!(shop.stock().await, (95, 0, 5));
    }

    async fn a_cancelled_branch_stays_cancelled(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        for _ in 0..3 {
            assert_eq!(node.cancel_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
            let late = node.attempt(gtid, "5").await.unwrap();
            assert!(!late.reserved && late.reason.contains("cancelled"), "{}", late.reason);
            assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
            assert_eq!(shop.stock().await, (100, 0, 0));
        }
        assert_eq!((shop.runs(gtid, Phase::Try), shop.runs(gtid, Phase::Cancel)), (1, 1));
        assert_eq!(shop.barrier().await, [5]);
    }

    /// From two processes at once.
    async fn of_confirm_and_cancel_one_wins(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let (one, two) = (shop.node().await, shop.node().await);
        let (mut confirmed, mut cancelled) = (0, 0);
        for _ in 0..24 {
            let gtid = gtid();
            assert!(one.attempt(gtid, "1").await.unwrap().reserved);
            let confirm = async { one.confirm(gtid, "1").await.outcome() };
            let cancel = async { two.cancel(gtid, "1").await.outcome() };
            let (first, second) = tokio::join!(confirm, cancel);
            assert_eq!(first, second);
            let runs = (shop.runs(gtid, Phase::Confirm), shop.runs(gtid, Phase::Cancel));
            match first {
                BranchOutcome::Committed => (confirmed, _) = (confirmed + 1, assert_eq!(runs, (1, 0))),
                BranchOutcome::RolledBack => (cancelled, _) = (cancelled + 1, assert_eq!(runs, (0, 1))),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(shop.stock().await, (100 - confirmed, 0, confirmed));
        assert_eq!(confirmed + cancelled, 24);
    }

    /// In one process duplicates wait for the first; between two they wait for the row, or are told to ask again.
    async fn of_64_duplicates_one_runs(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let nodes = [shop.node().await, shop.node().await];
        for spread in [false, true] {
            let gtid = gtid();
            let before = shop.stock().await;
            let calls: Vec<_> = (0..64).map(|index| {
                let client = nodes[if spread { index % 2 } else { 0 }].client.clone();
                tokio::spawn(async move { client.clone().r#try(try_of(gtid, "5")).await })
            }).collect();
            let mut reserved = 0;
            for call in calls {
                match call.await.unwrap() {
                    Ok(answer) => {
                        assert!(answer.get_ref().reserved);
                        assert_eq!(&answer.get_ref().reply[..], b"Try 5");
                        reserved += 1;
                    }
                    Err(status) => assert!(spread && status.code() == Code::Unavailable, "{status}"),
                }
            }
            assert!(reserved == 64 || spread && reserved > 0, "{reserved}");
            assert_eq!(shop.runs(gtid, Phase::Try), 1);
            assert_eq!(shop.stock().await, (before.0 - 5, before.1 + 5, 0));
        }
    }

    /// Between two processes: the first fails, and what waits for its row goes on, once.
    async fn after_a_failure_one_duplicate_takes_over(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let (one, two) = (shop.node().await, shop.node().await);
        let gtid = gtid();
        shop.plan(gtid, Phase::Try, Mode::Hold);
        let held = tokio::spawn({
            let client = one.client.clone();
            async move { client.clone().r#try(TryRequest { remaining_ms: 500, ..try_of(gtid, "5") }).await }
        });
        shop.probe.entered.notified().await;
        shop.no_plan(gtid);
        // It waits for the lock or is told to come again, until the first has been cut off.
        let answer = loop {
            match two.attempt(gtid, "5").await {
                Ok(answer) => break answer,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        };
        assert!(answer.reserved);
        assert_eq!(held.await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert_eq!(shop.stock().await, (95, 5, 0));
        assert_eq!(shop.runs(gtid, Phase::Try), 2, "the first without effect");
    }
}
