//! What handlers do wrong, and what comes of it.

use super::shop::*;
use crate::support::*;
use crate::{on_both, on_every_driver};

on_every_driver! {
    /// A refusal is recorded, before anybody is told: a refused branch gets no Cancel.
    async fn a_refused_try_stays_refused(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        for (mode, qty, why) in [
            (None, "500", "out of stock"),
            (None, "many", "invalid digit"),
            (Some(Mode::Refuse), "5", "not today"),
            (Some(Mode::Panic), "5", "the author's mistake"),
            (Some(Mode::Reply(65_537)), "5", "65537 bytes"),
        ] {
            let gtid = gtid();
            if let Some(mode) = mode {
                shop.plan(gtid, Phase::Try, mode);
            }
            if qty == "many" {
                // Not a refusal, but a failure that will not go away: the coordinator gives up at the deadline.
                assert!(node.attempt(gtid, qty).await.unwrap_err().message().contains(why));
                continue;
            }
            let answer = node.attempt(gtid, qty).await.unwrap();
            assert!(!answer.reserved && answer.reason.contains(why), "{}", answer.reason);
            // A duplicate that comes later, when the work would succeed; in another process too.
            shop.no_plan(gtid);
            let other = shop.node().await;
            let late = other.attempt(gtid, "5").await.unwrap();
            assert_eq!((late.reserved, &late.reason), (false, &answer.reason));
            assert_eq!(other.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
            assert_eq!(other.cancel_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
            assert_eq!(shop.runs_of_all(gtid), 1);
        }
        assert_eq!(shop.stock().await, (100, 0, 0));
        assert_eq!(shop.barrier().await, [6, 6, 6, 6]);
        shop.no_transaction_stays_open().await;
    }

    /// A failure is no answer: the coordinator asks again.
    async fn a_failed_try_may_be_tried_again(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        shop.plan(gtid, Phase::Try, Mode::Fail);
        for _ in 0..3 {
            let status = node.attempt(gtid, "5").await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "out of order"));
            assert_eq!(shop.stock().await, (100, 0, 0));
        }
        shop.no_plan(gtid);
        assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        assert_eq!(shop.stock().await, (95, 5, 0));
    }

    /// Confirm and Cancel have no business "no": a refusal waits for an operator, and never turns into the other;
    /// a failure and a panic are tried again.
    async fn what_confirm_and_cancel_refuse_has_not_happened(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let (confirmed, cancelled) = (gtid(), gtid());
        for gtid in [confirmed, cancelled] {
            assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        }
        for (mode, why) in [(Mode::Refuse, "not today"), (Mode::Reply(65_537), "65537 bytes")] {
            shop.plan(confirmed, Phase::Confirm, mode);
            let answer = node.confirm_once(confirmed, "5").await.unwrap();
            assert_eq!(answer.outcome(), BranchOutcome::Refused);
            assert!(answer.reason.contains(why), "{}", answer.reason);
        }
        shop.plan(cancelled, Phase::Cancel, Mode::Refuse);
        let answer = node.cancel_once(cancelled, "5").await.unwrap();
        assert_eq!((answer.outcome(), &answer.reason[..]), (BranchOutcome::Refused, "not today"));
        for (mode, why) in [(Mode::Fail, "out of order"), (Mode::Panic, "the author's mistake")] {
            shop.plan(confirmed, Phase::Confirm, mode);
            shop.plan(cancelled, Phase::Cancel, mode);
            let statuses = [
                node.confirm_once(confirmed, "5").await.unwrap_err(),
                node.cancel_once(cancelled, "5").await.unwrap_err(),
            ];
            for status in statuses {
                assert!(status.code() == Code::Unavailable && status.message().contains(why), "{status}");
            }
        }
        assert_eq!((shop.stock().await, shop.barrier().await), ((90, 10, 0), vec![3, 3]));
        shop.no_plan(confirmed);
        shop.no_plan(cancelled);
        assert_eq!(node.confirm_once(confirmed, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        assert_eq!(node.cancel_once(cancelled, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        assert_eq!(shop.stock().await, (95, 0, 5));
    }

    async fn the_largest_reply_is_kept_whole(flavor, driver) {
        let shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        shop.plan(gtid, Phase::Try, Mode::Reply(65_536));
        shop.plan(gtid, Phase::Confirm, Mode::Reply(65_535));
        for _ in 0..2 {
            assert_eq!(node.attempt(gtid, "5").await.unwrap().reply, vec![7u8; 65_536]);
        }
        for _ in 0..2 {
            assert_eq!(node.confirm_once(gtid, "5").await.unwrap().reply, vec![7u8; 65_535]);
        }
    }

    /// Cut off in the middle of a statement: nothing remains of it, neither in the database nor in the pool.
    async fn a_handler_is_cut_off_at_the_deadline(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        for mode in [Mode::Hold, Mode::Stay] {
            let gtid = gtid();
            shop.plan(gtid, Phase::Try, mode);
            let request = TryRequest { remaining_ms: 100, ..try_of(gtid, "5") };
            let status = node.client.clone().r#try(request).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            shop.no_plan(gtid);
            if mode == Mode::Stay {
                shop.end_statements().await;
            }
            assert_eq!(node.cancel(gtid, "5").await.outcome(), BranchOutcome::RolledBack);
            assert_eq!(shop.runs(gtid, Phase::Cancel), 0, "an empty Cancel");
        }
        // More than the pool has connections.
        for _ in 0..12 {
            let gtid = gtid();
            assert_eq!(&node.attempt(gtid, "1").await.unwrap().reply[..], b"Try 1");
            assert_eq!(node.cancel(gtid, "1").await.outcome(), BranchOutcome::RolledBack);
        }
        assert_eq!(shop.stock().await, (100, 0, 0));
        shop.no_transaction_stays_open().await;
    }

    /// The caller's connection breaks while the handler is at work: the call goes on to its end.
    async fn a_caller_that_goes_away_does_not_cut_the_branch_off(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let gtid = gtid();
        for phase in [Phase::Try, Phase::Confirm] {
            shop.plan(gtid, phase, Mode::Hold);
            let client = node.client.clone();
            let call = tokio::spawn(async move {
                match phase {
                    Phase::Try => _ = client.clone().r#try(try_of(gtid, "5")).await,
                    _ => {
                        let request = ConfirmRequest { branch: context(gtid), work: job("order", "5") };
                        _ = client.clone().confirm(request).await;
                    }
                }
            });
            shop.probe.entered.notified().await;
            call.abort();
            let _ = call.await;
            shop.leave();
            match phase {
                Phase::Try => assert!(node.attempt(gtid, "5").await.unwrap().reserved),
                _ => assert_eq!(node.confirm(gtid, "5").await.outcome(), BranchOutcome::Committed),
            }
            assert_eq!(shop.runs(gtid, phase), 1);
        }
        assert_eq!(shop.stock().await, (95, 0, 5));
    }

    /// A handler that does not let go of its branch: nothing is committed, and nobody else is held up.
    async fn a_handler_that_keeps_its_branch_has_failed(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let (kept, other) = (gtid(), gtid());
        shop.plan(kept, Phase::Try, Mode::Keep);
        let status = node.attempt(kept, "5").await.unwrap_err();
        assert!(status.code() == Code::Unavailable && status.message().contains("kept its branch"), "{status}");
        assert_eq!(node.cancel_once(other, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        assert_eq!(shop.stock().await, (100, 0, 0));
    }
}

async fn typed_try(
    mut tcc: TccBranch<MySql>,
    Json((sku, qty)): Json<(u32, u32)>,
) -> Result<Reply, HandlerError> {
    assert!(!tcc.remaining().is_zero());
    assert_eq!(tcc.branch_id(), BranchId(1));
    // The driver's own methods.
    let left: Option<i64> =
        tcc.exec_first("SELECT available - ? FROM stock WHERE sku = ?", (qty, sku)).await?;
    Reply::json(&left)
}

async fn typed_confirm(
    tcc: TccBranch<MySql>,
    Proto(request): Proto<BeginRequest>,
) -> Result<(), HandlerError> {
    assert!(tcc.remaining().is_zero());
    assert_eq!(request, BeginRequest::default());
    Ok(())
}

async fn typed_cancel(mut tcc: TccBranch<sqlx::MySqlPool>, _: Bytes) -> Result<String, HandlerError> {
    let (sold,): (i64,) = sqlx::query_as("SELECT CAST(sold AS SIGNED) FROM stock WHERE sku = ?")
        .bind(1)
        .fetch_one(&mut *tcc)
        .await?;
    // A transaction in the transaction is a savepoint of it.
    let mut inner = sqlx::Connection::begin(&mut *tcc).await?;
    sqlx::query("UPDATE stock SET sold = 77").execute(&mut *inner).await?;
    inner.rollback().await?;
    sqlx::query("UPDATE stock SET available = available + ?").bind(sold + 1).execute(&mut *tcc).await?;
    Ok(sold.to_string())
}

async fn nothing<D: LocalDatabase>(_: TccBranch<D>, _: Bytes) -> Result<(), HandlerError> {
    Ok(())
}

on_both! {
    async fn arguments_and_replies_have_types_and_drivers_their_own_methods(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let pool = sqlx::MySqlPool::connect_lazy(&shop.world.url).unwrap();
        let builder = shop
            .builder()
            .tcc("typed", typed_try, typed_confirm, nothing)
            .tcc_on(pool, "sqlx", nothing, nothing, typed_cancel);
        let node = shop.world.node_of(builder).await;
        let gtid = gtid();
        let request = TryRequest { work: job("typed", "[1, 30]"), ..try_of(gtid, "") };
        assert_eq!(&node.client.clone().r#try(request).await.unwrap().get_ref().reply[..], b"70");
        let request = ConfirmRequest { branch: context(gtid), work: job("typed", "") };
        let answer = node.client.clone().confirm(request).await.unwrap().into_inner();
        assert_eq!((answer.outcome(), answer.reply.len()), (BranchOutcome::Committed, 0));
        let gtid = self::gtid();
        assert!(node.client.clone().r#try(TryRequest { work: job("sqlx", ""), ..try_of(gtid, "") }).await.unwrap().get_ref().reserved);
        let request = CancelRequest { branch: context(gtid), work: job("sqlx", "") };
        assert_eq!(node.client.clone().cancel(request).await.unwrap().get_ref().outcome(), BranchOutcome::RolledBack);
        assert_eq!(shop.stock().await, (101, 0, 0), "and nothing of the inner one");
        // What is not as it should be is a refusal, and never will be otherwise.
        let bad = TryRequest { work: job("typed", "{"), ..try_of(self::gtid(), "") };
        let answer = node.client.clone().r#try(bad).await.unwrap().into_inner();
        assert!(!answer.reserved && answer.reason.contains("not as expected"), "{}", answer.reason);
    }

    async fn an_action_that_is_not_there(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let node = shop.node().await;
        let elsewhere = shop.world.node_of(shop.world.builder()).await;
        // The one without the action: Try is refused for good, and so Cancel has nothing to do.
        let (refused, tried) = (gtid(), gtid());
        for _ in 0..2 {
            let answer = elsewhere.attempt(refused, "5").await.unwrap();
            assert!(!answer.reserved && answer.reason.contains("no TCC action \"order\""), "{}", answer.reason);
        }
        assert!(!node.attempt(refused, "5").await.unwrap().reserved, "on record for the next version too");
        assert_eq!(elsewhere.cancel_once(refused, "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        assert_eq!(elsewhere.cancel_once(gtid(), "5").await.unwrap().outcome(), BranchOutcome::RolledBack);
        // What was tried by a version that has it waits for one.
        assert!(node.attempt(tried, "5").await.unwrap().reserved);
        let statuses = [
            elsewhere.confirm_once(tried, "5").await.unwrap_err(),
            elsewhere.cancel_once(tried, "5").await.unwrap_err(),
        ];
        for status in statuses {
            assert!(status.code() == Code::Unavailable && status.message().contains("no TCC action"), "{status}");
        }
        assert_eq!(shop.stock().await, (95, 5, 0));
        assert_eq!(node.confirm_once(tried, "5").await.unwrap().outcome(), BranchOutcome::Committed);
    }

    /// One branch has one kind.
    async fn calls_of_the_other_protocol_are_turned_away(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let builder = shop.builder().xa("debit", async |mut xa: XaBranch, _: Bytes| {
            xa.exec("UPDATE account SET balance = balance - 1 WHERE id = 1", ()).await?;
            Ok(())
        });
        let node = shop.world.node_of(builder).await;
        let xa = gtid();
        let tried: [Gtid; 5] = std::array::from_fn(|_| gtid());
        for gtid in tried {
            assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        }
        let one_phase = |gtid| CommitBranchRequest { one_phase: true, work: job("debit", ""), ..commit(gtid) };
        let again = |gtid| PrepareRequest { repeated_call: true, ..prepare(gtid, job("debit", "")) };
        let mut client = node.client.clone();
        let statuses = [
            client.commit(commit(tried[0])).await.unwrap_err(),
            client.commit(one_phase(tried[1])).await.unwrap_err(),
            client.rollback(RollbackBranchRequest { branch: context(tried[2]) }).await.unwrap_err(),
            client.prepare(again(tried[3])).await.unwrap_err(),
        ];
        for status in statuses {
            assert!(status.message().contains("is a TCC branch"), "{status}");
        }
        let vote = node.prepare(prepare(tried[4], job("debit", ""))).await;
        assert_eq!(vote.vote(), Vote::No, "the row is there that its marker would need");
        for gtid in tried {
            assert_eq!(node.confirm_once(gtid, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        }

        assert_eq!(node.prepare(prepare(xa, job("debit", ""))).await.vote(), Vote::Yes);
        assert_eq!(node.commit(commit(xa)).await.outcome(), BranchOutcome::Committed);
        let statuses = [
            node.attempt(xa, "5").await.unwrap_err(),
            node.confirm_once(xa, "5").await.unwrap_err(),
            node.cancel_once(xa, "5").await.unwrap_err(),
        ];
        for status in statuses {
            assert!(status.message().contains("is an XA branch"), "{status}");
        }
        assert_eq!((shop.world.balance().await, shop.stock().await), (99, (75, 0, 25)));
    }

    async fn bad_calls_are_refused_with_a_reason(flavor) {
        let shop = Shop::new(flavor, Driver::Own).await;
        let node = shop.world.node_of(shop.builder().payload_max_bytes(1_000)).await;
        node.participant.recover().await.unwrap();
        let good = try_of(gtid(), "5");
        let branch = good.branch.clone().unwrap();
        let with = |branch| TryRequest { branch, ..good.clone() };
        let work = |action: &str, payload: usize| TryRequest { work: job(action, &"x".repeat(payload)), ..good.clone() };
        for (request, reason) in [
            (with(None), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { gtid: "nonsense".into(), ..branch.clone() })), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { branch_id: 0, ..branch.clone() })), "INVALID_ARGUMENT"),
            (with(Some(BranchContext { cluster_id: 7, ..branch.clone() })), "WRONG_CLUSTER"),
            (TryRequest { work: None, ..good.clone() }, "INVALID_ARGUMENT"),
            (work("", 1), "INVALID_ARGUMENT"),
            (work(&"x".repeat(129), 1), "INVALID_ARGUMENT"),
            (work("order", 1_001), "INVALID_ARGUMENT"),
        ] {
            let mut client = node.client.clone();
            let TryRequest { branch, work, .. } = request.clone();
            let statuses = [
                client.r#try(request).await.unwrap_err(),
                client.confirm(ConfirmRequest { branch: branch.clone(), work: work.clone() }).await.unwrap_err(),
                client.cancel(CancelRequest { branch, work }).await.unwrap_err(),
            ];
            for status in statuses {
                assert_eq!(concord_proto::status::reason(&status).as_deref(), Some(reason), "{status}");
            }
        }
    }

    /// With a pool of its own for TCC, a service needs no database() for XA.
    async fn a_participant_without_xa_says_so(flavor) {
        let mut shop = Shop::new(flavor, Driver::Sqlx).await;
        let node = shop.node().await;
        let mut client = node.client.clone();
        let statuses = [
            client.prepare(prepare(gtid(), job("debit", ""))).await.unwrap_err(),
            client.commit(commit(gtid())).await.unwrap_err(),
            client.rollback(RollbackBranchRequest { branch: context(gtid()) }).await.unwrap_err(),
            client.work(WorkRequest { branch: context(gtid()), work: job("debit", ""), repeated_call: false, remaining_ms: 0 }).await.unwrap_err(),
        ];
        for status in statuses {
            assert_eq!(status.code(), Code::Unimplemented);
            assert_eq!(concord_proto::status::reason(&status).as_deref(), Some("XA_NOT_SUPPORTED"));
        }
        let joined = node.participant.branch(gtid()).run(async |_| Ok(())).await;
        assert!(matches!(&joined, Err(BranchError::Failed(why)) if why.contains("database()")), "{joined:?}");
        assert_eq!(node.participant.recover().await.unwrap(), Swept::default());
        assert!(node.participant.database().is_none() && node.participant.server_info().is_none());
        assert!(node.attempt(gtid(), "5").await.unwrap().reserved);
        assert_eq!(shop.stock().await, (95, 5, 0));
    }

    async fn a_participant_that_cannot_work_does_not_start(flavor) {
        let mut shop = Shop::new(flavor, Driver::Sqlx).await;
        let url = shop.world.url.clone();
        let bare = || ParticipantServer::builder().coordinator("http://127.0.0.1:1").address("http://a.test:1");
        let nowhere = url.rsplit_once('/').unwrap().0.to_owned() + "/";
        for (builder, words) in [
            (bare(), "nothing to take part with"),
            (bare().xa("x", async |_: XaBranch, _: Bytes| Ok(())), "database() is needed"),
            (bare().tcc("x", nothing, nothing, nothing), "database() is needed"),
            (shop.builder().tcc_on(mysql_async::Pool::new(url.as_str()), "order", nothing, nothing, nothing), "two handlers"),
            (shop.builder().tcc_on(mysql_async::Pool::new(url.as_str()), "", nothing, nothing, nothing), "from 1 to 128 bytes"),
            (bare().tcc_on(mysql_async::Pool::new(nowhere.as_str()), "x", nothing, nothing, nothing), "default database"),
            (bare().tcc_on(mysql_async::Pool::new("mysql://root@127.0.0.1:1/x"), "x", nothing, nothing, nothing), "connection"),
        ] {
            let error = builder.build().await.err().expect("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
        shop.world.plain.query_drop("CREATE TABLE log (id INT) ENGINE=MyISAM").await.unwrap();
        for driver in [Driver::MysqlAsync, Driver::Sqlx] {
            shop.driver = driver;
            let error = shop.builder().build().await.err().expect("refused").to_string();
            assert!(error.contains("log") && error.contains("MyISAM"), "{error}");
            shop.builder().ignore_table("log").build().await.unwrap();
        }
    }
}
