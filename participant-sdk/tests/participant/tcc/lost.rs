//! The connection breaks before the database sees a statement, or after it has carried it out.

use super::proxy::{Cut, Proxy};
use super::shop::*;
use crate::on_every_driver;
use crate::support::*;

async fn call(node: &Node, gtid: Gtid, phase: Phase) -> Result<(), Status> {
    match phase {
        Phase::Try => node.attempt(gtid, "5").await.map(|answer| {
            assert_eq!((answer.reserved, &answer.reply[..]), (true, &b"Try 5"[..]));
        }),
        Phase::Confirm => node.confirm_once(gtid, "5").await.map(|answer| {
            assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"Confirm 5"[..]));
        }),
        Phase::Cancel => node.cancel_once(gtid, "5").await.map(|answer| {
            assert_eq!(answer.outcome(), BranchOutcome::RolledBack);
        }),
    }
}

on_every_driver! {
    /// Wherever it breaks: the call is not answered, and asked again it has taken effect once.
    async fn a_connection_that_breaks_at_any_statement(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let direct = shop.world.url.clone();
        let proxy = Proxy::to(server(flavor).port()).await;
        shop.by(proxy.port);
        let node = shop.node().await;
        shop.world.url = direct;
        for phase in [Phase::Try, Phase::Confirm, Phase::Cancel] {
            // Of sqlx the barrier's statement and the others are prepared, and their text is sent once.
            let first = if driver == Driver::Sqlx { "BEGIN" } else { "START TRANSACTION" };
            for (words, cut) in [(first, Cut::Before), (first, Cut::After), ("COMMIT", Cut::Before), ("COMMIT", Cut::After)] {
                let gtid = gtid();
                if phase != Phase::Try {
                    call(&node, gtid, Phase::Try).await.unwrap();
                }
                let before = shop.stock().await;
                proxy.cut(words, cut);
                let status = call(&node, gtid, phase).await.expect_err("no answer");
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(proxy.has_cut());
                patiently(|| call(&node, gtid, phase)).await;
                patiently(|| call(&node, gtid, phase)).await;
                let (available, frozen, sold) = before;
                let expected = match phase {
                    Phase::Try => (available - 5, frozen + 5, sold),
                    Phase::Confirm => (available, frozen - 5, sold + 5),
                    Phase::Cancel => (available + 5, frozen - 5, sold),
                };
                assert_eq!(shop.stock().await, expected, "{phase:?}, {cut:?} {words}");
                let lost_a_run = (words, cut) == ("COMMIT", Cut::Before);
                assert_eq!(shop.runs(gtid, phase), 1 + usize::from(lost_a_run), "{phase:?}, {cut:?} {words}");
                if phase == Phase::Try {
                    patiently(|| call(&node, gtid, Phase::Cancel)).await;
                }
            }
        }
        shop.no_transaction_stays_open().await;
    }
}
