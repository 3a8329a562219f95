//! Recovery by the participant itself.

use crate::on_both;
use crate::support::*;
use mysql_async::prelude::Queryable as _;

on_both! {
    /// Left prepared by a process that is gone: ended as the coordinator says, and not otherwise.
    async fn rule_10_what_was_left_prepared_is_ended_as_decided(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let decided = gtid();
        assert_eq!(node.prepare(prepare(decided, job("debit", "1"))).await.vote(), Vote::Yes);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.participant.recover().await.unwrap().committed, 0);
        assert_eq!(world.balance().await, 100, "undecided: left alone");
        world.says(decided, Outcome::Committed);
        node.participant.recover().await.unwrap();
        world.balance_becomes(99).await;
        assert_eq!(node.commit(commit(decided)).await.outcome(), BranchOutcome::Committed);
        // And the other verdict.
        let aborted = gtid();
        assert_eq!(node.prepare(prepare(aborted, job("debit", "5"))).await.vote(), Vote::Yes);
        world.says(aborted, Outcome::RolledBack);
        node.participant.recover().await.unwrap();
        world.balance_becomes(99).await;
        assert_eq!(node.prepare(prepare(aborted, job("debit", "5"))).await.vote(), Vote::No);
    }

    /// Branches of another cluster are not touched, though the coordinator would have an opinion.
    async fn rule_20_branches_of_another_cluster_are_left_alone(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        world.says(gtid, Outcome::RolledBack);
        // Before the participant knows its cluster, such a branch can be made.
        let foreign = Some(BranchContext { cluster_id: 7, ..context(gtid).unwrap() });
        let fresh = world.node_of(world.builder().coordinator("http://127.0.0.1:1")).await;
        let answer = fresh.prepare(PrepareRequest { branch: foreign.clone(), ..prepare(gtid, job("debit", "10")) }).await;
        assert_eq!(answer.vote(), Vote::Yes, "{}", answer.reason);
        fresh.stop().await;
        node.participant.recover().await.unwrap();
        let listed = node.participant.database().unwrap().recover().await.unwrap();
        let ours = listed.iter().filter_map(|branch| branch.xid).find(|xid| xid.gtid == gtid);
        assert_eq!(ours.map(|xid| xid.cluster.0), Some(7), "still there");
        let cleaner = world.node_of(world.builder().coordinator("http://127.0.0.1:1")).await;
        let request = RollbackBranchRequest { branch: foreign };
        cleaner.client.clone().rollback(request).await.unwrap();
        assert_eq!(world.balance().await, 100);
    }

    /// A server lists the branches of all its databases. A neighbour's is neither ended nor barred here: our
    /// barrier table says nothing about it.
    async fn rule_20_a_neighbours_branch_is_left_alone(flavor) {
        let (mut ours, mut theirs) = (World::new(flavor).await, World::new(flavor).await);
        let (node, neighbour) = (ours.node().await, theirs.node().await);
        let gtid = gtid();
        assert_eq!(neighbour.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        neighbour.stop().await;
        for verdict in [Outcome::RolledBack, Outcome::Committed] {
            ours.says(gtid, verdict);
            let swept = node.participant.recover().await.unwrap();
            assert_eq!((swept.committed, swept.rolled_back), (0, 0));
        }
        let rows: Option<u32> = ours.plain.query_first("SELECT COUNT(*) FROM concord_barrier").await.unwrap();
        assert_eq!(rows, Some(0), "no tombstone in the wrong database");
        let neighbour = theirs.node().await;
        theirs.says(gtid, Outcome::Committed);
        neighbour.participant.recover().await.unwrap();
        theirs.balance_becomes(90).await;
    }

    /// Another process on the same database has just prepared: its coordinator is about to end it.
    async fn rule_4_a_young_branch_of_another_process_is_not_swept(flavor) {
        let mut world = World::new(flavor).await;
        let hour = std::time::Duration::from_secs(3_600);
        let (replica, node) = (world.node().await, world.node_of(world.builder().recovery(hour, hour)).await);
        let gtid = gtid();
        assert_eq!(replica.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        world.says(gtid, Outcome::RolledBack);
        let swept = node.participant.recover().await.unwrap();
        assert!(swept.left >= 1 && swept.rolled_back == 0, "{swept:?}");
        assert_eq!(replica.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
    }

    /// A branch in flight is the coordinator's business; only an old one is swept.
    async fn rule_4_branches_in_flight_are_not_swept(flavor) {
        let mut world = World::new(flavor).await;
        let hour = std::time::Duration::from_secs(3_600);
        let node = world.node_of(world.builder().recovery(hour, hour)).await;
        let gtid = gtid();
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        world.says(gtid, Outcome::RolledBack);
        node.participant.recover().await.unwrap();
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
    }

    async fn a_coordinator_that_is_down_is_reported_and_harmless(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node_of(world.builder().coordinator("http://127.0.0.1:1")).await;
        let gtid = gtid();
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        assert!(matches!(node.participant.recover().await, Err(SweepError::Coordinator(_))));
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
    }

    /// Recovery runs by itself at the start.
    async fn rule_10_recovery_runs_at_the_start(flavor) {
        let mut world = World::new(flavor).await;
        let gtid = gtid();
        let node = world.node().await;
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        node.stop().await;
        world.says(gtid, Outcome::Committed);
        let _node = world.node().await;
        world.balance_becomes(90).await;
    }
}
