//! An SKU over several rows.

use std::collections::BTreeSet;

use crate::on_both;
use crate::support::*;

impl<D: LocalDatabase> Shop<D> {
    /// Number, available and frozen of each row.
    async fn rows(&self) -> Vec<(i64, i64, i64)> {
        let sql = "SELECT bucket, available, frozen FROM stock WHERE sku = 'T1' ORDER BY bucket";
        let number = |value: &SqlValue| value.as_i64().unwrap();
        let rows = self.query(sql).await;
        rows.iter().map(|row| (number(&row[0]), number(&row[1]), number(&row[2]))).collect()
    }
}

on_both! {
    async fn a_split_is_even_and_can_be_undone(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 12).await.with("T2", 7).await;
        shop.split("T1", 4).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 2, 0), (-3, 2, 0), (-2, 2, 0), (-1, 3, 0), (0, 3, 0)]);
        assert_eq!(shop.item("T1").await.unwrap().buckets, 4);
        shop.add("T1", 4).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 3, 0), (-3, 3, 0), (-2, 3, 0), (-1, 3, 0), (0, 4, 0)]);
        shop.remove("T1", 15).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 0, 0), (-3, 0, 0), (-2, 0, 0), (-1, 0, 0), (0, 1, 0)]);
        shop.audit_is_clean().await;
        shop.add("T1", 5).await.unwrap();
        shop.split("T1", 2).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 0, 0), (-3, 0, 0), (-2, 2, 0), (-1, 2, 0), (0, 2, 0)]);
        shop.split("T1", 1).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 0, 0), (-3, 0, 0), (-2, 0, 0), (-1, 0, 0), (0, 6, 0)]);
        let wanted = Item { buckets: 1, on_hand: 6, available: 6, frozen: 0, received: 6, sold: 0 };
        assert_eq!(shop.item("T1").await, Some(wanted));
        assert_eq!(shop.item("T2").await.unwrap().buckets, 1);
        shop.audit_is_clean().await;
    }

    async fn an_order_may_take_from_several(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 17).await;
        shop.split("T1", 16).await.unwrap();
        let (large, rest) = (gtid(), gtid());
        shop.reserve(large, &[("T1", 10)]).await.unwrap();
        assert_eq!(shop.history(large).await.len(), 10);
        let refused = refusal(shop.reserve(rest, &[("T1", 8)]).await);
        assert_eq!(refused, "not enough of T1: 8 wanted, 7 available");
        shop.reserve(rest, &[("T1", 7)]).await.unwrap();
        assert_eq!(shop.figures("T1").await, (0, 17));
        shop.audit_is_clean().await;
        // Half of what was taken out of ten rows.
        shop.confirm_part(large, &[("T1", 5)]).await.unwrap();
        shop.confirm(rest).await.unwrap();
        let wanted = Item { buckets: 16, on_hand: 5, available: 5, frozen: 0, received: 17, sold: 12 };
        assert_eq!(shop.item("T1").await, Some(wanted));
        shop.audit_is_clean().await;
    }

    async fn every_last_unit_is_sold(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 100).await;
        shop.split("T1", 6).await.unwrap();
        for _ in 0..100 {
            shop.reserve(gtid(), &[("T1", 1)]).await.unwrap();
        }
        assert_eq!(refusal(shop.reserve(gtid(), &[("T1", 1)]).await), "not enough of T1: 1 wanted, 0 available");
        shop.audit_is_clean().await;
    }

    /// The home has a share that nobody draws on while the lanes have plenty. Found low, they get theirs of it.
    async fn low_lanes_are_filled_from_the_home(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 3_000).await;
        shop.split("T1", 2).await.unwrap();
        shop.sql("UPDATE stock SET available = IF(bucket = 0, 2980, 10), on_hand = available").await.unwrap();
        // One finds out, the next one does it.
        for _ in 0..2 {
            shop.reserve(gtid(), &[("T1", 1)]).await.unwrap();
        }
        let available: Vec<_> = shop.rows().await.iter().map(|(_, available, _)| *available).collect();
        assert!(available.iter().all(|available| *available >= 998), "{available:?}");
        shop.audit_is_clean().await;
    }

    /// Another process splits, joins and splits again; ours has not heard of it.
    async fn a_process_need_not_be_told(flavor) {
        let ours = Shop::new(flavor).await.with("T1", 100_000).await;
        let another = ours.another_process();
        for buckets in [16, 1, 8, 1, 3] {
            another.split("T1", buckets).await.unwrap();
            // More than the home has, so that it finds out.
            let large = gtid();
            ours.reserve(large, &[("T1", 50_000)]).await.unwrap();
            ours.cancel(large).await.unwrap();
            let mut used = BTreeSet::new();
            for _ in 0..40 {
                let order = gtid();
                ours.reserve(order, &[("T1", 1)]).await.unwrap();
                used.extend(ours.history(order).await.iter().map(|row| row.bucket));
                ours.confirm(order).await.unwrap();
            }
            assert!(used.len() > usize::from(buckets / 2), "{used:?} of {buckets}");
            ours.audit_is_clean().await;
        }
        assert_eq!(ours.figures("T1").await, (100_000 - 200, 0));
    }

    /// Its home has enough for every order, so nothing but a look tells it of the lanes.
    async fn a_process_that_is_never_short_looks_now_and_then(flavor) {
        let ours = Shop::new(flavor).await.with("T1", 100_000).await;
        ours.another_process().split("T1", 4).await.unwrap();
        let mut orders = 0;
        loop {
            let order = gtid();
            ours.reserve(order, &[("T1", 1)]).await.unwrap();
            orders += 1;
            match ours.history(order).await[0].bucket {
                0 => assert!(orders < 100),
                _ => break,
            }
        }
        assert!(orders > 1, "it cannot know at once");
    }

    /// Frozen in a row that is then taken away: it comes back there, and can be sold.
    async fn what_was_frozen_in_a_row_that_is_no_more_comes_back(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        shop.split("T1", 4).await.unwrap();
        let all = gtid();
        shop.reserve(all, &[("T1", 10)]).await.unwrap();
        shop.split("T1", 1).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 0, 2), (-3, 0, 2), (-2, 0, 2), (-1, 0, 2), (0, 0, 2)]);
        shop.audit_is_clean().await;
        shop.cancel(all).await.unwrap();
        assert_eq!(shop.figures("T1").await, (10, 0));
        // A process that knows nothing of it, and one that does.
        let (one, other) = (gtid(), gtid());
        shop.another_process().reserve(one, &[("T1", 3)]).await.unwrap();
        shop.reserve(other, &[("T1", 7)]).await.unwrap();
        shop.cancel(other).await.unwrap();
        shop.cancel(one).await.unwrap();
        shop.split("T1", 4).await.unwrap();
        assert_eq!(shop.rows().await, [(-4, 2, 0), (-3, 2, 0), (-2, 2, 0), (-1, 2, 0), (0, 2, 0)]);
        shop.audit_is_clean().await;
    }

    async fn as_many_buckets_as_there_can_be(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 1_000).await;
        shop.split("T1", BUCKETS_MAX).await.unwrap();
        let order = gtid();
        shop.reserve(order, &[("T1", 999)]).await.unwrap();
        shop.confirm_part(order, &[("T1", 998)]).await.unwrap();
        assert_eq!(shop.figures("T1").await, (2, 0));
        shop.audit_is_clean().await;
        shop.split("T1", 1).await.unwrap();
        assert_eq!(shop.rows().await.last(), Some(&(0, 2, 0)));
        shop.audit_is_clean().await;
    }

    async fn rows_that_are_missing_are_noticed(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 100).await;
        shop.split("T1", 4).await.unwrap();
        shop.sql("DELETE FROM stock WHERE bucket = -2").await.unwrap();
        for error in [shop.split("T1", 1).await.unwrap_err(), shop.add("T1", 1).await.unwrap_err()] {
            assert_eq!(error.to_string(), "`stock` lacks rows of T1");
        }
        assert!(!shop.audit().await.is_clean());
    }

    /// Whoever is refused holds nothing that others wait for, even before it has rolled back.
    async fn a_refusal_locks_nothing(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        shop.split("T1", 2).await.unwrap();
        let mut refused = shop.database.begin().await.unwrap();
        let short = shop.stock.reserve(&mut within(&mut refused, gtid()), &[("T1", 11)]).await;
        assert!(matches!(short, Err(ReservationError::Short { .. })), "{short:?}");
        shop.reserve(gtid(), &[("T1", 10)]).await.unwrap();
        refused.rollback().await.unwrap();
    }

    /// Somebody holds a lower row: to wait for it, perhaps holding one above, might be a deadlock.
    async fn what_cannot_be_waited_for_is_busy(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 5).await;
        let another = shop.another_process();
        another.split("T1", 4).await.unwrap();
        let mut holder = shop.database.begin().await.unwrap();
        holder.query("SELECT 1 FROM stock WHERE sku = 'T1' AND bucket = -4 FOR UPDATE", vec![]).await.unwrap();
        // It takes the SKU for one that is not split, and finds one unit in the only row it knows of.
        let (order, again) = (gtid(), gtid());
        let busy = shop.reserve(order, &[("T1", 5)]).await.unwrap_err();
        assert!(matches!(busy, ReservationError::Busy(_)) && !busy.is_refusal(), "{busy}");
        assert!(shop.history(order).await.is_empty());
        holder.rollback().await.unwrap();
        shop.reserve(again, &[("T1", 5)]).await.unwrap();
        shop.audit_is_clean().await;
    }

    /// It waits for the home, and meanwhile lanes come into being that it has passed already.
    async fn rows_that_appear_while_waiting_are_not_lost(flavor) {
        // A name of its own, by which its statements are found among those of other tests.
        let shop = Shop::new(flavor).await;
        let shop = Shop::on(shop.database, "appearing").await.with("T1", 100).await;
        for late in ["split", "add", "remove", "reserve"] {
            let mut splitter = shop.database.begin().await.unwrap();
            splitter.query("SELECT 1 FROM appearing WHERE sku = 'T1' AND bucket = 0 FOR UPDATE", vec![]).await.unwrap();
            let waiting = tokio::spawn({
                let shop = shop.clone();
                async move {
                    match late {
                        "split" => shop.split("T1", 3).await,
                        "add" => shop.add("T1", 7).await,
                        "remove" => shop.remove("T1", 7).await,
                        _ => shop.reserve(gtid(), &[("T1", 90)]).await,
                    }
                }
            });
            let waits = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' \
                         AND trx_query LIKE '%`appearing`%'";
            while shop.query(waits).await.is_empty() {
                assert!(!waiting.is_finished(), "{late}: {:?}", waiting.await);
                // Asked more often, the server answers from its cache.
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            shop.another_process().stock.split(&mut splitter, "T1", 8).await.unwrap();
            splitter.commit().await.unwrap();
            match waiting.await.unwrap() {
                Ok(()) | Err(ReservationError::Busy(_)) => {}
                Err(error) => panic!("{late}: {error}"),
            }
            shop.audit_is_clean().await;
            shop.sql("DELETE FROM appearing").await.unwrap();
            shop.sql("DELETE FROM appearing_reservation").await.unwrap();
            shop.add("T1", 100).await.unwrap();
        }
    }
}
