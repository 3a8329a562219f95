//! Branches that a service of one's own begins.

use std::sync::atomic::Ordering;

use crate::on_both;
use crate::support::*;

const TAKE: &str = "UPDATE account SET balance = balance - ? WHERE id = 1 AND balance >= ?";

async fn take(mut xa: XaBranch, amount: u32) -> Result<u32, HandlerError> {
    xa.update_exactly(TAKE, (amount, amount), 1).await?;
    Ok(amount)
}

on_both! {
    async fn a_branch_registers_works_prepares_and_votes(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let mut request = Request::new(());
        request.metadata_mut().insert("concord-gtid", gtid.to_string().parse().unwrap());
        assert_eq!(gtid_of(request.metadata()).unwrap(), gtid);
        let amount = node.participant.branch(gtid).key("order-7").run(|xa| take(xa, 10)).await.unwrap();
        assert_eq!(amount, 10);
        {
            let registered = world.script.registered.lock().unwrap();
            assert_eq!(registered[0].participant, "http://participant.test:7101");
            assert_eq!((registered[0].registration_key.as_str(), registered[0].kind()), ("order-7", BranchKind::Xa));
            let votes = world.script.votes.lock().unwrap();
            assert_eq!((votes.len(), votes[0].vote(), votes[0].branch_id), (1, Vote::Yes, 1));
        }
        // Asked all the same, it says yes; a repeat of the request does nothing twice.
        assert_eq!(node.prepare(prepare(gtid, None)).await.vote(), Vote::Yes);
        let again = node.participant.branch(gtid).key("order-7").run(|xa| take(xa, 10)).await;
        assert!(matches!(again, Err(BranchError::Refused(_))), "{again:?}");
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
    }

    async fn rule_5_a_strict_branch_waits_to_be_asked(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        node.participant.branch(gtid).strict().run(|xa| take(xa, 10)).await.unwrap();
        assert!(world.script.votes.lock().unwrap().is_empty());
        assert_eq!(node.prepare(prepare(gtid, None)).await.vote(), Vote::Yes);
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
    }

    async fn rule_18_a_branch_that_only_reads_says_so(flavor) {
        let world = World::new(flavor).await;
        let node = world.node().await;
        let read = async |mut xa: XaBranch| xa.query_first::<i32>("SELECT balance FROM account WHERE id = 1", ()).await;
        assert_eq!(node.participant.branch(gtid()).run(read).await.unwrap(), Some(100));
        assert_eq!(node.participant.branch(gtid()).read_only().run(read).await.unwrap(), Some(100));
        assert!(world.script.votes.lock().unwrap().iter().all(|vote| vote.vote() == Vote::ReadOnly));
    }

    async fn refusals_and_failures_are_reported_and_told_apart(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let refused = node.participant.branch(gtid()).run(|xa| take(xa, 500)).await.unwrap_err();
        assert!(matches!(&refused, BranchError::Refused(why) if why.contains("matched 0 rows")), "{refused}");
        let status = Status::from(refused);
        assert_eq!(concord_proto::status::reason(&status).as_deref(), Some("BRANCH_REFUSED"));
        let failed = node.participant.branch(gtid()).run(async |mut xa| Ok(xa.exec("nonsense", ()).await?)).await;
        assert!(matches!(&failed, Err(BranchError::Failed(_))), "{failed:?}");
        let panicked = node.participant.branch(gtid()).run(async |_| {
            let none: Option<u32> = std::hint::black_box(None);
            Ok(none.unwrap())
        }).await;
        assert!(matches!(&panicked, Err(BranchError::Failed(why)) if why.contains("panicked")), "{panicked:?}");
        assert!(world.script.votes.lock().unwrap().iter().all(|vote| vote.vote() == Vote::No && !vote.reason.is_empty()));
        assert_eq!(world.script.votes.lock().unwrap().len(), 3);
        assert_eq!(world.balance().await, 100);
    }

    async fn a_transaction_that_is_over_takes_no_branch(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        world.script.over.store(true, Ordering::SeqCst);
        let result = node.participant.branch(gtid()).run(|xa| take(xa, 10)).await;
        assert!(matches!(&result, Err(BranchError::Coordinator(_))), "{result:?}");
        // Over by the time of the vote: rolled back here, without waiting to be told.
        world.script.over.store(false, Ordering::SeqCst);
        world.script.vote_over.store(true, Ordering::SeqCst);
        let gtid = gtid();
        let result = node.participant.branch(gtid).run(|xa| take(xa, 10)).await;
        assert!(matches!(&result, Err(BranchError::Coordinator(_))), "{result:?}");
        assert_eq!(node.prepare(prepare(gtid, None)).await.vote(), Vote::No);
        assert_eq!(world.barrier().await, [2]);
        assert_eq!(world.balance().await, 100);
    }

    /// The author's own call is cancelled (its client went away): nothing remains, and the vote is no.
    async fn a_cancelled_call_leaves_nothing(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let probe = world.probe.clone();
        let participant = node.participant.clone();
        let call = tokio::spawn(async move {
            participant.branch(gtid).run(async |mut xa| {
                xa.exec("UPDATE account SET balance = 0 WHERE id = 1", ()).await?;
                probe.entered.notify_one();
                std::future::pending::<()>().await;
                Ok(())
            }).await
        });
        world.probe.entered.notified().await;
        call.abort();
        let _ = call.await;
        assert_eq!(node.prepare(prepare(gtid, None)).await.vote(), Vote::No);
        assert_eq!(world.balance().await, 100);
    }
}

#[test]
fn a_request_without_a_gtid_is_refused() {
    let mut metadata = tonic::metadata::MetadataMap::new();
    let reason = |status: Status| concord_proto::status::reason(&status);
    assert_eq!(reason(gtid_of(&metadata).unwrap_err()).as_deref(), Some("GTID_MISSING"));
    metadata.insert("concord-gtid", "0192f6a0".parse().unwrap());
    assert_eq!(reason(gtid_of(&metadata).unwrap_err()).as_deref(), Some("GTID_INVALID"));
}
