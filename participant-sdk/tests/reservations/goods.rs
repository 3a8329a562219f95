//! Goods that come and go.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn goods_are_added_and_removed(flavor) {
        let shop = Shop::new(flavor).await;
        assert_eq!(shop.item("T1").await, None);
        shop.add("T1", 10).await.unwrap();
        shop.add("T1", 5).await.unwrap();
        shop.remove("T1", 3).await.unwrap();
        let wanted = Item { buckets: 1, on_hand: 12, available: 12, frozen: 0, received: 12, sold: 0 };
        assert_eq!(shop.item("T1").await, Some(wanted));
        shop.audit_is_clean().await;
    }

    async fn what_is_frozen_cannot_be_removed(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        shop.reserve(gtid(), &[("T1", 4)]).await.unwrap();
        assert_eq!(refusal(shop.remove("T1", 7).await), "not enough of T1: 7 wanted, 6 available");
        shop.remove("T1", 6).await.unwrap();
        assert_eq!(shop.figures("T1").await, (0, 4));
        shop.audit_is_clean().await;
    }

    async fn bad_goods_are_refused(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 1).await;
        for quantity in [0, -1, i64::MIN, i64::MAX, QUANTITY_MAX + 1] {
            assert!(refusal(shop.add("T1", quantity).await).contains("which is not from 1 to"));
            assert!(refusal(shop.remove("T1", quantity).await).contains("which is not from 1 to"));
        }
        assert_eq!(
            refusal(shop.add("T1", QUANTITY_MAX).await),
            "there would be 1000000000000001 of T1; 1000000000000000 at most"
        );
        assert_eq!(refusal(shop.remove("T2", 1).await), "there is no SKU T2");
        assert_eq!(refusal(shop.split("T2", 2).await), "there is no SKU T2");
        assert_eq!(refusal(shop.split("T1", 0).await), "an SKU has from 1 to 1024 buckets, not 0");
        assert_eq!(refusal(shop.split("T1", 1_025).await), "an SKU has from 1 to 1024 buckets, not 1025");
        assert!(refusal(shop.add("T1 ", 1).await).contains("is no SKU"));
        assert_eq!(shop.audit().await.skus, 1);
        assert_eq!(shop.figures("T1").await, (1, 0));
    }

    async fn the_most_that_can_be_counted(flavor) {
        let shop = Shop::new(flavor).await.with("T1", QUANTITY_MAX).await.with("T2", QUANTITY_MAX).await;
        shop.split("T1", BUCKETS_MAX).await.unwrap();
        let (all, other) = (gtid(), gtid());
        shop.reserve(all, &[("T1", QUANTITY_MAX), ("T2", QUANTITY_MAX)]).await.unwrap();
        assert!(refusal(shop.reserve(other, &[("T1", 1)]).await).contains("0 available"));
        // Every lane and the home of the one, and the other.
        assert_eq!(shop.history(all).await.len(), usize::from(BUCKETS_MAX) + 2);
        shop.confirm(all).await.unwrap();
        let audit = shop.audit().await;
        assert!(audit.is_clean(), "{audit}");
        assert_eq!((audit.totals.sold, audit.totals.on_hand), (2 * i128::from(QUANTITY_MAX), 0));
    }
}

on_both! {
    /// Told apart by case, by accents, or not at all by many a collation.
    async fn skus_that_look_alike_are_told_apart(flavor) {
        let skus = ["a", "A", "ä", "a\u{308}", "ß", "ss", "'", "\\", "日本", "🦀", "'; DROP TABLE stock; --"];
        let shop = Shop::new(flavor).await;
        for (number, sku) in (1..).zip(skus) {
            shop.add(sku, number).await.unwrap();
        }
        let order = gtid();
        shop.reserve(order, &skus.map(|sku| (sku, 1))).await.unwrap();
        for (number, sku) in (1..).zip(skus) {
            assert_eq!(shop.figures(sku).await, (number - 1, 1), "{sku}");
        }
        shop.confirm_part(order, &[("a\u{308}", 1), ("🦀", 1)]).await.unwrap();
        assert_eq!(shop.figures("ä").await, (3, 0));
        assert_eq!(shop.figures("a\u{308}").await, (3, 0));
        shop.audit_is_clean().await;
    }
}
