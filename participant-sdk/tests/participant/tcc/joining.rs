//! TCC branches that a service of one's own joins to a transaction.

use std::sync::atomic::Ordering;

use super::shop::*;
use crate::on_every_driver;
use crate::support::*;

on_every_driver! {
    async fn a_branch_registers_tries_and_votes(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        // A repeated request is the same branch, and gets the same reply.
        for _ in 0..2 {
            let reply = node.participant.tcc_branch(gtid).key("order-7").run("order", "5").await.unwrap();
            assert_eq!(&reply.0[..], b"Try 5");
        }
        {
            let registered = shop.world.script.registered.lock().unwrap();
            assert_eq!(registered.len(), 1);
            assert_eq!((registered[0].kind(), registered[0].registration_key.as_str()), (BranchKind::Tcc, "order-7"));
            assert_eq!((registered[0].action.as_str(), &registered[0].payload[..]), ("order", &b"5"[..]));
            assert_eq!(registered[0].participant, "http://participant.test:7101");
            let votes = shop.world.script.votes.lock().unwrap();
            assert!(votes.len() == 2 && votes.iter().all(|vote| vote.vote() == Vote::Yes && vote.branch_id == 1));
        }
        // The coordinator may ask for Try all the same.
        assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        assert_eq!(shop.runs(gtid, Phase::Try), 1);
        assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        assert_eq!(shop.stock().await, (95, 0, 5));
    }

    async fn refusals_and_failures_are_told_apart(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let join = |gtid, qty: &'static str| node.participant.tcc_branch(gtid).key("k").run("order", qty);
        let (refused, failed, over) = (gtid(), gtid(), gtid());
        let error = join(refused, "500").await.unwrap_err();
        assert!(matches!(&error, BranchError::Refused(why) if why == "out of stock"), "{error}");
        {
            let votes = shop.world.script.votes.lock().unwrap();
            assert_eq!((votes.len(), votes[0].vote(), votes[0].reason.as_str()), (1, Vote::No, "out of stock"));
        }
        // The coordinator believes it, and sends no Cancel: so it must stay refused.
        assert!(!node.attempt(refused, "1").await.unwrap().reserved);

        // Of a failure the coordinator is not told: the caller may repeat the call, or the coordinator asks itself.
        shop.plan(failed, Phase::Try, Mode::Fail);
        let error = join(failed, "5").await.unwrap_err();
        assert!(matches!(&error, BranchError::Unknown(why) if why == "out of order"), "{error}");
        assert_eq!(Status::from(error).code(), Code::Unavailable);
        assert_eq!(shop.world.script.votes.lock().unwrap().len(), 1);
        shop.no_plan(failed);
        assert_eq!(&join(failed, "5").await.unwrap().0[..], b"Try 5");

        shop.world.script.over.store(true, Ordering::SeqCst);
        let error = join(over, "5").await.unwrap_err();
        assert!(matches!(&error, BranchError::Coordinator(_)), "{error}");
        assert_eq!(shop.runs_of_all(over), 0, "registered first, or not at all");
        shop.world.script.over.store(false, Ordering::SeqCst);

        let registered = shop.world.script.registered.lock().unwrap().len();
        let error = node.participant.tcc_branch(gtid()).run("nothing", "5").await.unwrap_err();
        assert!(matches!(&error, BranchError::Failed(why) if why.contains("no TCC action")), "{error}");
        assert_eq!(shop.world.script.registered.lock().unwrap().len(), registered);
        assert_eq!(shop.stock().await, (95, 5, 0));
    }

    /// The caller's request is cut off in the middle of Try: nothing remains, and the coordinator cancels or asks.
    async fn a_call_that_is_cut_off_leaves_nothing(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        shop.plan(gtid, Phase::Try, Mode::Hold);
        let call = tokio::spawn(node.participant.tcc_branch(gtid).key("k").run("order", "5"));
        shop.probe.entered.notified().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        shop.no_plan(gtid);
        assert_eq!(shop.stock().await, (100, 0, 0));
        // As soon as the server has noticed that the connection is closed.
        assert!(patiently(|| node.attempt(gtid, "5")).await.reserved);
        assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        assert_eq!(shop.stock().await, (95, 0, 5));
        shop.no_transaction_stays_open().await;
    }
}
