//! Purging the barrier table, of TCC and XA rows alike.

use std::time::Duration;

use super::shop::*;
use crate::support::*;
use crate::{on_both, on_every_driver};

const HOUR_MS: u64 = 3_600_000;

impl Shop {
    fn has_ended(&self, gtid: Gtid) {
        self.world.script.ended.lock().unwrap().insert(gtid.to_string());
    }

    async fn rows(&mut self) -> Vec<Gtid> {
        let rows: Vec<Vec<u8>> =
            self.world.plain.query("SELECT gtid FROM concord_barrier ORDER BY gtid").await.unwrap();
        rows.into_iter().map(|bytes| Gtid::from_bytes(bytes.try_into().unwrap()).unwrap()).collect()
    }

    /// Rows of branches that were cancelled, one per gtid.
    async fn fill(&mut self, gtids: impl IntoIterator<Item = Gtid>) {
        let rows: Vec<_> = gtids.into_iter().map(|gtid| (gtid.to_bytes().to_vec(),)).collect();
        let sql =
            "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES (?, 1, 5, 0, '')";
        self.world.plain.query_drop("START TRANSACTION").await.unwrap();
        self.world.plain.exec_batch(sql, rows).await.unwrap();
        self.world.plain.query_drop("COMMIT").await.unwrap();
    }
}

on_every_driver! {
    /// What has ended, and is older than the retention before the newest: gone. What has not ended, or is younger:
    /// there. Late duplicates of what is gone: refused.
    async fn old_rows_go_when_their_transactions_have_ended(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let old = BEGUN_MS - 26 * HOUR_MS;
        let [ended, live, barred] = std::array::from_fn(|_| gtid_at(old));
        let [young, newest] = [gtid_at(BEGUN_MS - 24 * HOUR_MS), gtid_at(BEGUN_MS)];
        for gtid in [ended, live, young, newest] {
            assert!(node.attempt(gtid, "1").await.unwrap().reserved);
            shop.has_ended(gtid);
        }
        assert_eq!(node.cancel_once(barred, "1").await.unwrap().outcome(), BranchOutcome::RolledBack);
        assert_eq!(node.confirm_once(ended, "1").await.unwrap().outcome(), BranchOutcome::Committed);
        shop.has_ended(barred);
        shop.world.script.ended.lock().unwrap().remove(&live.to_string());
        assert_eq!(node.participant.purge().await.unwrap(), 2);
        assert_eq!(shop.rows().await, [live, young, newest]);
        for gtid in [ended, barred] {
            let late = node.attempt(gtid, "1").await.unwrap();
            assert!(!late.reserved && late.reason.contains("too old"), "{}", late.reason);
            assert_eq!(shop.runs(gtid, Phase::Try), usize::from(gtid == ended));
        }
        // The live one ends as if nothing had been purged around it.
        assert_eq!(node.confirm_once(live, "1").await.unwrap().outcome(), BranchOutcome::Committed);
        assert_eq!(shop.stock().await, (96, 2, 2));
        shop.has_ended(live);
        // The next process knows from the table what is too old, before it has purged anything.
        let other = shop.node().await;
        assert!(other.attempt(ended, "1").await.unwrap().reason.contains("too old"));
        assert_eq!(node.participant.purge().await.unwrap(), 1);
        assert_eq!(shop.rows().await, [young, newest]);
    }

    /// In steps, in the order of the key: what is stuck at the head does not hold up the rest.
    async fn many_rows_go_in_steps(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.world.node_of(shop.builder().purge(Duration::from_secs(3_600), Duration::from_millis(1))).await;
        let all: Vec<Gtid> = (0..1_234).map(|index| gtid_at(BEGUN_MS - 10_000 + index)).collect();
        let stuck: Vec<Gtid> = all.iter().copied().take(600).chain([all[1_000]]).collect();
        shop.fill(all.iter().copied().chain([gtid_at(BEGUN_MS)])).await;
        all.iter().filter(|gtid| !stuck.contains(gtid)).for_each(|gtid| shop.has_ended(*gtid));
        assert_eq!(node.participant.purge().await.unwrap(), 1_234 - 601);
        assert_eq!(shop.rows().await[..601], stuck[..]);
        stuck.iter().for_each(|gtid| shop.has_ended(*gtid));
        assert_eq!(node.participant.purge().await.unwrap(), 601);
        assert_eq!(shop.rows().await.len(), 1, "the newest stays");
        assert_eq!(node.participant.purge().await.unwrap(), 0);
    }
}

on_both! {
    /// Markers and tombstones of XA branches go the same way; late work of theirs is refused.
    async fn rows_of_xa_branches_go_too(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let builder = shop.builder().xa("debit", async |mut xa: XaBranch, account: Bytes| {
            xa.queue("UPDATE account SET balance = balance - 1 WHERE id = ?", (&account[..],), 1)?;
            Ok(())
        });
        let node = shop.world.node_of(builder).await;
        let old = BEGUN_MS - 26 * HOUR_MS;
        let [committed, rolled_back, prepared] = std::array::from_fn(|_| gtid_at(old));
        for (gtid, account) in [(committed, "1"), (prepared, "2")] {
            let answer = node.prepare(prepare(gtid, job("debit", account))).await;
            assert_eq!(answer.vote(), Vote::Yes, "{}", answer.reason);
        }
        assert_eq!(node.commit(commit(committed)).await.outcome(), BranchOutcome::Committed);
        assert_eq!(node.rollback(rolled_back).await.outcome(), BranchOutcome::RolledBack);
        for gtid in [committed, rolled_back] {
            shop.has_ended(gtid);
        }
        shop.fill([gtid_at(BEGUN_MS)]).await;
        assert_eq!(node.participant.purge().await.unwrap(), 2);
        let work = |gtid| WorkRequest { branch: context(gtid), work: job("debit", ""), repeated_call: false, remaining_ms: 0 };
        for gtid in [committed, rolled_back] {
            // In the next process, which remembers nothing.
            let node = shop.world.node_of(shop.builder().xa("debit", async |_: XaBranch, _: Bytes| Ok(()))).await;
            let reasons = [
                node.prepare(prepare(gtid, job("debit", ""))).await.reason,
                node.client.clone().work(work(gtid)).await.unwrap().into_inner().reason,
                node.commit(one_phase(gtid, job("debit", ""))).await.reason,
            ];
            assert!(reasons.iter().all(|reason| reason.contains("too old")), "{reasons:?}");
        }
        // Prepared before, and decided now: ended as ever.
        assert_eq!(node.commit(commit(prepared)).await.outcome(), BranchOutcome::Committed);
        let balances: Vec<i64> = shop.world.plain.query("SELECT balance FROM account ORDER BY id").await.unwrap();
        assert_eq!(balances, [99, 99]);
    }

    async fn it_runs_by_itself(flavor) {
        let mut shop = Shop::new(flavor, Driver::Sqlx).await;
        let old: Vec<Gtid> = (0..3).map(|_| gtid_at(BEGUN_MS - HOUR_MS)).collect();
        let newest = gtid_at(BEGUN_MS);
        let every = Duration::from_millis(10);
        let node = shop.world.node_of(shop.builder().purge(every, Duration::from_secs(1))).await;
        assert!(node.attempt(newest, "1").await.unwrap().reserved);
        shop.fill(old.iter().copied()).await;
        old.iter().for_each(|gtid| shop.has_ended(*gtid));
        let gone = async {
            while shop.rows().await != [newest] {
                tokio::time::sleep(every).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("purged");
    }

    /// A row that somebody has locked holds up its step, and nothing else.
    async fn a_locked_row_does_not_hold_up_the_rest(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let options = Options { lock_wait: Duration::from_secs(1), ..Options::default() };
        let builder = shop.builder().database_options(options);
        let node = shop.world.node_of(builder.purge(Duration::from_secs(3_600), Duration::from_millis(1))).await;
        let old: Vec<Gtid> = (0..600).map(|index| gtid_at(BEGUN_MS - 10_000 + index)).collect();
        shop.fill(old.iter().copied().chain([gtid_at(BEGUN_MS)])).await;
        old.iter().for_each(|gtid| shop.has_ended(*gtid));
        let lock = "START TRANSACTION; SELECT * FROM concord_barrier ORDER BY gtid LIMIT 1 FOR UPDATE";
        shop.world.plain.query_drop(lock).await.unwrap();
        assert_eq!(node.participant.purge().await.unwrap(), 100);
        shop.world.plain.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(node.participant.purge().await.unwrap(), 500);
    }

    async fn without_the_coordinator_nothing_goes(flavor) {
        let mut shop = Shop::new(flavor, Driver::Own).await;
        let node = shop.world.node_of(shop.builder().coordinator("http://127.0.0.1:1")).await;
        shop.fill([gtid_at(BEGUN_MS - 26 * HOUR_MS), gtid_at(BEGUN_MS)]).await;
        assert!(matches!(node.participant.purge().await, Err(PurgeError::Coordinator(_))));
        assert_eq!(shop.rows().await.len(), 2);
    }

    /// A coordinator whose clock was ahead, restarted with the right time: its new transactions are neither refused
    /// nor purged.
    async fn a_coordinators_clock_set_back(flavor) {
        let mut shop = Shop::new(flavor, Driver::MysqlAsync).await;
        shop.node().await.stop().await;
        let (ahead, before) = (gtid_at(BEGUN_MS + 1_000 * HOUR_MS), gtid_at(BEGUN_MS));
        shop.fill([ahead, before]).await;
        let node = shop.node().await;
        let next = Gtid::compose(BEGUN_MS, Epoch(2), 1);
        assert!(node.attempt(next, "1").await.unwrap().reserved);
        assert!(!node.attempt(gtid_at(BEGUN_MS), "1").await.unwrap().reserved, "of the epoch with the wrong clock");
        [ahead, before, next].into_iter().for_each(|gtid| shop.has_ended(gtid));
        assert_eq!(node.participant.purge().await.unwrap(), 1);
        assert_eq!(shop.rows().await, [next, ahead]);
    }
}
