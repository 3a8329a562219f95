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
}
