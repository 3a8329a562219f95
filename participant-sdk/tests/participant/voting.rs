//! Work and Prepare.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn work_and_vote_in_one_call_then_commit(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        for (action, reply, left) in [("debit", "took 10", 90), ("slow-debit", "left 80", 80)] {
            let gtid = gtid();
            let answer = node.prepare(prepare(gtid, job(action, "10"))).await;
            assert_eq!((answer.vote(), &answer.reply[..]), (Vote::Yes, reply.as_bytes()), "{}", answer.reason);
            assert_eq!(world.balance().await, left + 10);
            let answer = node.commit(commit(gtid)).await;
            assert_eq!(answer.outcome(), BranchOutcome::Committed);
            assert_eq!(world.balance().await, left);
            // Again, and again.
            assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
            assert_eq!(world.balance().await, left);
        }
        node.stop().await;
    }

    async fn whatever_goes_wrong_in_a_handler_is_a_no(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        for (action, payload, why) in [
            ("debit", "500", "matched 0 rows, not 1"),
            ("broke", "", "insufficient funds"),
            ("broke", "flush", "insufficient funds"),
            ("debit", "many", "invalid digit"),
            ("refuse", "no such account", "no such account"),
            ("panic", "early", "the author's mistake"),
            ("panic", "late", "the author's mistake"),
            ("keep", "", "kept its branch"),
            ("json", "{", "the payload is not as expected"),
            ("nothing", "", "no action \"nothing\""),
            ("big-reply", "65537", "65537 bytes"),
        ] {
            let gtid = gtid();
            let answer = node.prepare(prepare(gtid, job(action, payload))).await;
            assert_eq!(answer.vote(), Vote::No, "{action}");
            assert!(answer.reason.contains(why), "{action}: {}", answer.reason);
            // Asked again, it says the same, and does not run again.
            let again = PrepareRequest { repeated_call: true, ..prepare(gtid, job(action, payload)) };
            assert_eq!(node.prepare(again).await.reason, answer.reason);
        }
        assert_eq!(world.balance().await, 100);
        assert!(node.participant.database().unwrap().recover().await.unwrap().iter().all(|b| b.xid.is_none_or(|x| x.cluster.0 != 1)));
        let answer = node.prepare(prepare(gtid(), job("json", "[\"a\", \"b\"]"))).await;
        assert_eq!((answer.vote(), &answer.reply[..]), (Vote::ReadOnly, &b"2"[..]));
        node.stop().await;
    }

    async fn rule_18_reading_branches_leave_at_the_vote(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        for (action, payload) in [("read", ""), ("declared-read", "SELECT 100"), ("read", "")] {
            let gtid = gtid();
            let answer = node.prepare(prepare(gtid, job(action, payload))).await;
            assert_eq!(answer.vote(), Vote::ReadOnly, "{action} {}", answer.reason);
            assert!(answer.reply.starts_with(b"100") || answer.reply.starts_with(b"[100"));
        }
        let answer = node.prepare(prepare(gtid(), job("declared-read", "UPDATE account SET balance = 0"))).await;
        assert!(answer.vote() == Vote::No && answer.reason.contains("1792"), "{}", answer.reason);
        assert!(world.barrier().await.is_empty());
        assert_eq!(world.balance().await, 100);
    }

    /// Copies of one call wait for the first and share its result.
    async fn rule_7_concurrent_duplicates_run_once(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let copies: Vec<_> = (0..8).map(|index| {
            let mut client = node.client.clone();
            let request = PrepareRequest { repeated_call: index > 0, ..prepare(gtid, job("slow-debit", "")) };
            // The first is not marked as repeated; let it be the first.
            tokio::spawn(async move { client.prepare(request).await.unwrap().into_inner() })
        }).collect();
        let mut answers = Vec::new();
        for copy in copies {
            answers.push(copy.await.unwrap());
        }
        // Whichever came first decided: all say the same.
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        assert!(world.runs() <= 1);
        let expected = if answers[0].vote() == Vote::Yes { 90 } else { 100 };
        if expected == 90 {
            assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        }
        assert_eq!(world.balance().await, expected);
    }

    async fn rule_7_a_copy_that_comes_while_the_first_is_at_work_waits_for_it(flavor) {
        let world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        let call = |repeated_call| {
            let mut client = node.client.clone();
            let request = PrepareRequest { repeated_call, ..prepare(gtid, job("held", "")) };
            tokio::spawn(async move { client.prepare(request).await.unwrap().into_inner() })
        };
        let first = call(false);
        world.probe.entered.notified().await;
        let second = call(true);
        world.probe.leave.notify_one();
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!(first.vote(), Vote::Yes, "{}", first.reason);
        assert_eq!(first, second);
        assert_eq!(world.runs(), 1);
        node.rollback(gtid).await;
    }

    /// The process that prepared is gone; the next one finds the branch and its reply.
    async fn rule_7_a_repeated_prepare_after_a_restart_finds_the_vote(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let (done, never) = (gtid(), gtid());
        assert_eq!(node.prepare(prepare(done, job("debit", "10"))).await.vote(), Vote::Yes);
        node.stop().await;
        let node = world.node().await;
        let again = |gtid| PrepareRequest { repeated_call: true, ..prepare(gtid, job("debit", "10")) };
        let answer = node.prepare(again(done)).await;
        assert_eq!((answer.vote(), &answer.reply[..]), (Vote::Yes, &b"took 10"[..]), "{}", answer.reason);
        // Of the other the first call may still come: it is refused before it is answered.
        assert_eq!(node.prepare(again(never)).await.vote(), Vote::No);
        assert_eq!(world.runs(), 1);
        assert_eq!(node.commit(commit(done)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.prepare(prepare(never, job("debit", "10"))).await.vote(), Vote::No);
        assert_eq!(world.balance().await, 90);
    }

    /// Grade STRICT: work first, the vote later.
    async fn rule_5_strict_works_first_and_prepares_when_asked(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let gtid = gtid();
        for _ in 0..2 {
            let answer = node.work(gtid, job("slow-debit", "")).await;
            assert!(answer.done && &answer.reply[..] == b"left 90", "{}", answer.reason);
        }
        let listed = node.participant.database().unwrap().recover().await.unwrap();
        assert!(listed.iter().all(|branch| branch.xid.is_none_or(|xid| xid.gtid != gtid)), "not prepared yet");
        let answer = node.prepare(prepare(gtid, None)).await;
        assert_eq!((answer.vote(), &answer.reply[..]), (Vote::Yes, &b"left 90"[..]));
        assert_eq!(world.runs(), 1);
        assert_eq!(node.commit(commit(gtid)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.balance().await, 90);
        // Refused work has ended; open work can be rolled back, and does not come back with a restart.
        let refused = self::gtid();
        assert!(!node.work(refused, job("refuse", "no")).await.done);
        assert_eq!(node.prepare(prepare(refused, None)).await.vote(), Vote::No);
        let (dropped, lost) = (self::gtid(), self::gtid());
        assert!(node.work(dropped, job("slow-debit", "")).await.done);
        assert_eq!(node.rollback(dropped).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(node.prepare(prepare(dropped, None)).await.vote(), Vote::No);
        assert!(node.work(lost, job("slow-debit", "")).await.done);
        node.stop().await;
        let node = world.node().await;
        assert_eq!(node.prepare(prepare(lost, None)).await.vote(), Vote::No);
        assert_eq!(world.balance().await, 90);
    }

    async fn a_handler_is_cut_off_at_the_transactions_deadline(flavor) {
        let mut world = World::new(flavor).await;
        let node = world.node().await;
        let request = PrepareRequest { remaining_ms: 50, ..prepare(gtid(), job("held", "")) };
        let answer = node.prepare(request).await;
        assert!(answer.vote() == Vote::No && answer.reason.contains("timed out"), "{}", answer.reason);
        assert_eq!(world.balance().await, 100);
        assert_eq!(node.prepare(prepare(gtid(), job("debit", "10"))).await.vote(), Vote::Yes);
    }

    async fn bad_calls_are_refused_with_a_reason(flavor) {
        let world = World::new(flavor).await;
        let node = world.node_of(world.builder().payload_max_bytes(1_000)).await;
        node.participant.recover().await.unwrap();
        let good = prepare(gtid(), job("debit", "1"));
        let branch = good.branch.clone().unwrap();
        let with = |branch| PrepareRequest { branch, ..good.clone() };
        let work = |action: &str, payload: usize| PrepareRequest { work: job(action, &"x".repeat(payload)), ..good.clone() };
        for (request, reason) in [
            (with(None), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { gtid: "nonsense".into(), ..branch.clone() })), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { branch_id: 0, ..branch.clone() })), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { cluster_id: 7, ..branch.clone() })), "WRONG_CLUSTER"),
            (work("", 1), "INVALID_ARGUMENT"),
            (work(&"x".repeat(129), 1), "INVALID_ARGUMENT"),
            (work("debit", 1_001), "INVALID_ARGUMENT"),
        ] {
            let status = node.client.clone().prepare(request).await.unwrap_err();
            assert_eq!(concord_proto::status::reason(&status).as_deref(), Some(reason), "{status}");
        }
        let tcc = TryRequest { branch: context(gtid()), work: None, remaining_ms: 0 };
        let status = node.client.clone().r#try(tcc).await.unwrap_err();
        assert_eq!(concord_proto::status::reason(&status).as_deref(), Some("INVALID_ARGUMENT"));
        assert_eq!(world.runs(), 0);
    }

    async fn branches_past_the_sessions_are_refused(flavor) {
        let world = World::new(flavor).await;
        let options = Options { sessions_max: 1, session_wait: std::time::Duration::from_millis(1), ..Options::default() };
        let node = world.node_of(world.builder().database_options(options)).await;
        let strict = gtid();
        assert!(node.work(strict, job("slow-debit", "")).await.done);
        let answer = node.prepare(prepare(gtid(), job("debit", "1"))).await;
        assert!(answer.vote() == Vote::No && answer.reason.contains("all 1 database sessions"), "{}", answer.reason);
        node.rollback(strict).await;
        assert_eq!(node.prepare(prepare(gtid(), job("debit", "1"))).await.vote(), Vote::Yes);
    }

    async fn a_participant_that_cannot_work_does_not_start(flavor) {
        let mut world = World::new(flavor).await;
        let nowhere = world.url.rsplit_once('/').unwrap().0.to_owned() + "/";
        for (builder, words) in [
            (world.builder().database(nowhere), "must name a database"),
            (world.builder().database("postgres://x/y"), "database URL"),
            (world.builder().address(""), "address()"),
            (world.builder().coordinator("not a url"), "coordinator"),
            (world.builder().xa("debit", async |_: XaBranch, _: Bytes| Ok(())), "two handlers"),
        ] {
            let error = builder.build().await.err().expect("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
        world.plain.query_drop("CREATE TABLE audit (id INT) ENGINE=MyISAM").await.unwrap();
        let error = world.builder().build().await.err().expect("refused").to_string();
        assert!(error.contains("audit") && error.contains("MyISAM"), "{error}");
        world.builder().ignore_table("audit").build().await.unwrap();
    }
}
