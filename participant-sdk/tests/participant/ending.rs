//! Commit, one-phase commit and rollback.

use crate::on_both;
use crate::support::*;

on_both! {
    /// A rollback that overtakes its branch: refused, in this process and in the next.
    async fn rule_9_a_rollback_that_overtakes_its_branch(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        assert_eq!(node.rollback(gtid).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(node.rollback(gtid).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::No);
        assert_eq!(world.runs(), 0, "refused before it ran");
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::No);
        assert_eq!(world.balance().await, 100);
        assert_eq!(world.barrier().await, [2]);
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::RolledBack);
    }

    /// A branch that only read is rolled back, and a duplicate of its one-phase commit arrives in the next life,
    /// in which it would find something to write.
    async fn rule_9_a_tombstone_for_what_only_read(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let answer = node.prepare(prepare(gtid, job("read", ""))).await;
        assert_eq!(answer.vote(), Vote::ReadOnly);
        assert_eq!(node.rollback(gtid).await.outcome(), BranchOutcome::RolledBack);
        node.stop().await;
        let node = world.node().await;
        let late = one_phase(gtid, job("debit", "10"));
        assert_eq!(node.commit(late).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(world.balance().await, 100);
    }

    /// The fence goes up first: work under way is stopped, and its vote is never counted.
    async fn rule_4_a_rollback_stops_work_under_way(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let mut client = node.client.clone();
        let call = tokio::spawn(async move { client.prepare(prepare(gtid, job("held", ""))).await.unwrap().into_inner() });
        world.probe.entered.notified().await;
        assert_eq!(node.rollback(gtid).await.outcome(), BranchOutcome::RolledBack);
        let answer = call.await.unwrap();
        assert!(answer.vote() == Vote::No && answer.reason.contains("rolled back"), "{}", answer.reason);
        assert_eq!(world.balance().await, 100);
        assert_eq!(world.barrier().await, [2]);
    }

    /// The caller's connection breaks while the handler is at work: the branch goes on to its vote.
    async fn a_caller_that_goes_away_does_not_cut_the_branch_off(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let mut client = node.client.clone();
        let call = tokio::spawn(async move { client.prepare(prepare(gtid, job("held", ""))).await });
        world.probe.entered.notified().await;
        call.abort();
        let _ = call.await;
        world.probe.leave.notify_one();
        let again = PrepareRequest { repeated_call: true, ..prepare(gtid, job("held", "")) };
        let answer = node.prepare(again).await;
        assert_eq!(answer.vote(), Vote::Yes, "{}", answer.reason);
        assert_eq!(world.runs(), 1);
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 0);
    }

    async fn rule_8_commit_after_a_restart_and_twice(flavor) {
        let mut world = World::new(flavor).await;
        let gtid = gtid();
        let node = world.node().await;
        assert_eq!(node.prepare(prepare(gtid, job("debit", "10"))).await.vote(), Vote::Yes);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        let answer = node.rollback(gtid).await;
        assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"took 10"[..]));
        assert_eq!(world.balance().await, 90);
    }

    /// Of a branch that never prepared, a commit must not be answered with success.
    async fn rule_8_a_commit_of_nothing_is_a_heuristic_rollback(flavor) {
        let world = World::new(flavor).await;
        let node = world.node().await;
        let answer = node.commit(commit(gtid())).await;
        assert!(answer.outcome() == BranchOutcome::RolledBack && !answer.reason.is_empty());
    }

    /// Two processes of one service on one database: either can finish what the other prepared.
    async fn rule_8_another_process_finishes_the_branch(flavor) {
        let mut world = World::new(flavor).await;
        let (one, two) = (world.node().await, world.node().await);
        let (first, second) = (gtid(), gtid());
        assert_eq!(one.prepare(prepare(first, job("debit", "10"))).await.vote(), Vote::Yes);
        assert_eq!(two.commit(commit(first)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(one.commit(commit(first)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(one.prepare(prepare(second, job("debit", "10"))).await.vote(), Vote::Yes);
        assert_eq!(two.rollback(second).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(one.rollback(second).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(world.balance().await, 90);
    }

    async fn rule_14_one_phase_runs_once_and_repeats_its_answer(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let request = one_phase(gtid, job("debit", "10"));
        for _ in 0..2 {
            let answer = node.commit(request.clone()).await;
            assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"took 10"[..]), "{}", answer.reason);
        }
        node.stop().await;
        let node = world.node().await;
        let answer = node.commit(request).await;
        assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"took 10"[..]));
        assert_eq!(world.runs(), 1);
        assert_eq!(world.balance().await, 90);
        let answer = node.rollback(gtid).await;
        assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"took 10"[..]));
    }

    async fn rule_14_a_refused_one_phase_branch_stays_refused(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        for (action, payload) in [("debit", "500"), ("refuse", "no"), ("panic", "late"), ("nothing", "")] {
            let gtid = gtid();
            let answer = node.commit(one_phase(gtid, job(action, payload))).await;
            assert_eq!(answer.outcome(), BranchOutcome::RolledBack, "{action}");
            assert!(!answer.reason.is_empty());
            // A delayed duplicate in the next process, when the work would succeed.
            let other = world.node().await;
            let answer = other.commit(one_phase(gtid, job("debit", "10"))).await;
            assert_eq!(answer.outcome(), BranchOutcome::RolledBack, "{action}");
            other.stop().await;
        }
        assert_eq!(world.balance().await, 100);
        assert_eq!(world.barrier().await, [2, 2, 2, 2]);
    }

    async fn rule_14_one_phase_of_work_done_before(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let (done, lost) = (gtid(), gtid());
        assert!(node.work(done, job("slow-debit", "")).await.done);
        let answer = node.commit(one_phase(done, None)).await;
        assert_eq!((answer.outcome(), &answer.reply[..]), (BranchOutcome::Committed, &b"left 90"[..]));
        // The process that had the work is gone.
        assert!(node.work(lost, job("slow-debit", "")).await.done);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.commit(one_phase(lost, None)).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(world.balance().await, 90);
    }

    async fn rule_14_one_phase_and_rollback_race_to_one_end(flavor) {
        let mut world = World::new(flavor).await;
        let (one, two) = (world.node().await, world.node().await);
        for _ in 0..8 {
            let (gtid, before) = (gtid(), world.balance().await);
            let commit = async { one.commit(one_phase(gtid, job("debit", "1"))).await.outcome() };
            let rollback = async { two.rollback(gtid).await.outcome() };
            let (committed, rolled_back) = tokio::join!(commit, rollback);
            assert_eq!(committed, rolled_back);
            let taken = before - world.balance().await;
            assert_eq!(taken == 1, committed == BranchOutcome::Committed);
        }
    }

    /// What is prepared outlives an orderly stop; what is open does not, and its locks are free at once.
    async fn a_stop_leaves_prepared_branches_to_the_database(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let (prepared, open) = (gtid(), gtid());
        assert_eq!(node.prepare(prepare(prepared, job("debit", "10"))).await.vote(), Vote::Yes);
        assert!(node.work(open, job("second", "")).await.done);
        node.stop().await;
        world.plain.query_drop("UPDATE account SET balance = balance + 1 WHERE id = 2").await.unwrap();
        let node = world.node().await;
        let listed = node.participant.database().unwrap().recover().await.unwrap();
        let of = |gtid| listed.iter().filter(|branch| branch.xid.is_some_and(|xid| xid.gtid == gtid)).count();
        assert_eq!((of(prepared), of(open)), (1, 0));
        assert_eq!(node.rollback(prepared).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(world.balance().await, 100);
    }

    /// A branch that is never asked for its vote does not hold its locks for ever.
    async fn an_open_branch_expires_with_its_transaction(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node_of(world.builder().recovery(std::time::Duration::from_millis(10), std::time::Duration::ZERO)).await;
        let branch = context(gtid());
        let request = WorkRequest { branch: branch.clone(), work: job("second", ""), repeated_call: false, remaining_ms: 1 };
        // A handler that gets no time at all may be cut off; either way the row comes free.
        let _ = node.client.clone().work(request).await.unwrap();
        world.plain.query_drop("SET innodb_lock_wait_timeout = 30; UPDATE account SET balance = 7 WHERE id = 2").await.unwrap();
        let request = PrepareRequest { branch, work: None, repeated_call: false, remaining_ms: 1_000 };
        assert_eq!(node.prepare(request).await.vote(), Vote::No);
    }
}
