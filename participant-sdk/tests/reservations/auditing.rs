//! The audit finds what does not add up, and says where.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn nothing_adds_up_to_nothing(flavor) {
        let shop = Shop::new(flavor).await;
        let audit = shop.audit().await;
        assert!(audit.is_clean());
        assert_eq!((audit.skus, audit.totals), (0, Figures::default()));
    }

    async fn figures_are_summed_and_told(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 20).await;
        shop.split("T2", 4).await.unwrap();
        let (pending, confirmed) = (gtid(), gtid());
        shop.reserve(pending, &[("T1", 3), ("T2", 4)]).await.unwrap();
        shop.reserve(confirmed, &[("T1", 1), ("T2", 5)]).await.unwrap();
        shop.confirm(confirmed).await.unwrap();
        let audit = shop.audit().await;
        assert_eq!(
            audit.to_string(),
            "stock: 2 SKUs, on_hand 24, available 17, frozen 7, received 30, sold 6; \
             reservations: pending 7, confirmed 6: everything adds up"
        );
        assert_eq!(audit.pending_rows, 2);
        let json = serde_json::to_string(&audit).unwrap();
        assert_eq!(serde_json::from_str::<Audit>(&json).unwrap(), audit);
        assert!(json.contains(r#""frozen":7"#), "{json}");
    }

    async fn each_rule_is_checked(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 10).await.with("T3", 10).await;
        shop.split("T2", 2).await.unwrap();
        for _ in 0..2 {
            let (pending, confirmed) = (gtid(), gtid());
            shop.reserve(pending, &[("T1", 1), ("T2", 1)]).await.unwrap();
            shop.reserve(confirmed, &[("T1", 1), ("T2", 1)]).await.unwrap();
            shop.confirm(confirmed).await.unwrap();
        }
        for constraint in ["stock_available", "stock_frozen", "stock_on_hand"] {
            shop.sql(&format!("ALTER TABLE stock DROP CONSTRAINT {constraint}")).await.unwrap();
        }
        let first = "sku = 'T2' AND bucket = 0";
        for (damage, repair, bucket, rules) in [
            ("on_hand = on_hand + 1, received = received + 1", "on_hand = on_hand - 1, received = received - 1", Some(0), vec![Rule::OnHand]),
            ("frozen = frozen + 1, available = available - 1", "frozen = frozen - 1, available = available + 1", Some(0), vec![Rule::Frozen]),
            ("frozen = frozen - 9, available = available + 9", "frozen = frozen + 9, available = available - 9", Some(0), vec![Rule::NotNegative, Rule::Frozen]),
            ("received = received + 1", "received = received - 1", None, vec![Rule::Received]),
            ("sold = sold - 1, received = received - 1", "sold = sold + 1, received = received + 1", None, vec![Rule::Sold]),
        ] {
            shop.sql(&format!("UPDATE stock SET {damage} WHERE {first}")).await.unwrap();
            let audit = shop.audit().await;
            let found: Vec<_> = audit.violations.iter().map(|one| (one.sku.as_str(), one.bucket, one.rules.clone())).collect();
            assert_eq!(found, [("T2", bucket, rules)], "{audit}");
            shop.sql(&format!("UPDATE stock SET {repair} WHERE {first}")).await.unwrap();
            shop.audit_is_clean().await;
        }
    }

    async fn what_is_missing_is_noticed(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T1", 1)]).await.unwrap();
        shop.sql("DELETE FROM stock WHERE sku = 'T1'").await.unwrap();
        let audit = shop.audit().await;
        assert_eq!(
            audit.to_string(),
            "stock: 2 SKUs, on_hand 10, available 10, frozen 0, received 10, sold 0; \
             reservations: pending 1, confirmed 0: 1 violation\n  \
             T1 bucket 0 breaks frozen = pending: on_hand 0, available 0, frozen 0, received 0, sold 0; \
             reservations: pending 1, confirmed 0"
        );
        // Such a reservation cannot be ended, and that is said.
        let error = shop.confirm(order).await.unwrap_err();
        assert!(matches!(error, ReservationError::Corrupt(_)), "{error}");
    }

    async fn what_others_have_not_committed_is_not_seen(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let mut tx = shop.database.begin().await.unwrap();
        shop.stock.reserve(&mut within(&mut tx, gtid()), &[("T1", 1)]).await.unwrap();
        let audit = shop.audit().await;
        assert!(audit.is_clean(), "{audit}");
        assert_eq!(audit.totals.frozen, 0);
        tx.commit().await.unwrap();
        assert_eq!(shop.audit().await.totals.frozen, 1);
    }
}
