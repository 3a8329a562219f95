//! Try.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn items_are_frozen_together(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T2", 2), ("T1", 3), ("T2", 1)]).await.unwrap();
        assert_eq!(shop.figures("T1").await, (7, 3));
        assert_eq!(shop.figures("T2").await, (7, 3));
        let history = shop.history(order).await;
        let rows: Vec<_> = history.iter().map(|row| (row.sku.as_str(), row.quantity, row.state)).collect();
        assert_eq!(rows, [("T1", 3, State::Pending), ("T2", 3, State::Pending)]);
        assert_eq!(history[0].ended_at, None);
        shop.audit_is_clean().await;
    }

    async fn short_or_unknown_is_a_refusal_and_changes_nothing(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 2).await;
        let refused = refusal(shop.reserve(gtid(), &[("T1", 3), ("T2", 3)]).await);
        assert_eq!(refused, "not enough of T2: 3 wanted, 2 available");
        let refused = refusal(shop.reserve(gtid(), &[("T1", 6), ("T1", 5)]).await);
        assert_eq!(refused, "not enough of T1: 11 wanted, 10 available");
        let refused = refusal(shop.reserve(gtid(), &[("T1", 3), ("T3", 1)]).await);
        assert_eq!(refused, "there is no SKU T3");
        assert_eq!(shop.figures("T1").await, (10, 0));
        assert_eq!(shop.audit().await.pending_rows, 0);
        // The last one is sold.
        shop.reserve(gtid(), &[("T2", 2)]).await.unwrap();
        assert_eq!(refusal(shop.reserve(gtid(), &[("T2", 1)]).await), "not enough of T2: 1 wanted, 0 available");
    }

    /// The bad input of the issue.
    async fn bad_input_is_refused_before_anything_happens(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = gtid();
        for quantity in [0, -1, i64::MIN, QUANTITY_MAX + 1, i64::MAX] {
            let wanted = format!("the quantity of T1 is {quantity}, which is not from 1 to {QUANTITY_MAX}");
            assert_eq!(refusal(shop.reserve(order, &[("T1", 1), ("T1", quantity)]).await), wanted);
            assert_eq!(refusal(shop.confirm_part(order, &[("T1", quantity)]).await), wanted);
        }
        for items in [&[("T1", i64::MAX), ("T1", i64::MAX)][..], &[("T1", QUANTITY_MAX), ("T1", 1)]] {
            assert!(refusal(shop.reserve(order, items).await).contains("which is not from 1 to"));
        }
        assert_eq!(refusal(shop.reserve(order, &[]).await), "there are no items");
        assert!(refusal(shop.reserve(order, &[("", 1)]).await).contains("is no SKU"));
        assert!(refusal(shop.reserve(order, &[("T1", 1); 1_001]).await).contains("1000 at most"));
        assert_eq!(shop.figures("T1").await, (10, 0));
        assert!(shop.history(order).await.is_empty());
    }

    async fn a_second_call_adds_to_the_first(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T1", 3)]).await.unwrap();
        shop.reserve(order, &[("T1", 2)]).await.unwrap();
        assert_eq!(shop.history(order).await[0].quantity, 5);
        assert_eq!(shop.figures("T1").await, (5, 5));
        shop.audit_is_clean().await;
        shop.cancel(order).await.unwrap();
        let refused = refusal(shop.reserve(order, &[("T1", 1)]).await);
        assert_eq!(refused, format!("the reservation of branch 1 of {order} is cancelled, not pending"));
        assert_eq!(shop.figures("T1").await, (10, 0));
        shop.audit_is_clean().await;
    }

    async fn branches_of_one_transaction_are_told_apart(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = gtid();
        let second = BranchId(u32::MAX);
        let mut tx = shop.database.begin().await.unwrap();
        shop.stock.reserve(&mut within(&mut tx, order), &[("T1", 1)]).await.unwrap();
        let mut other = Within { transaction: &mut tx, gtid: order, branch: second };
        shop.stock.reserve(&mut other, &[("T1", 2)]).await.unwrap();
        shop.stock.confirm(&mut other).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(shop.figures("T1").await, (7, 1));
        shop.cancel(order).await.unwrap();
        assert_eq!(shop.figures("T1").await, (8, 0));
        shop.audit_is_clean().await;
    }

    /// Stock and balances side by side, with a name that SQL has a use for.
    async fn money_is_frozen_with_the_same_code(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = Shop::on(shop.database.clone(), "order").await.with("alice", 10_000).await;
        let bought = gtid();
        order.reserve(bought, &[("alice", 9_999)]).await.unwrap();
        shop.reserve(bought, &[("T1", 1)]).await.unwrap();
        order.confirm(bought).await.unwrap();
        assert_eq!(order.figures("alice").await, (1, 0));
        assert_eq!(shop.figures("T1").await, (9, 1));
        order.audit_is_clean().await;
        shop.audit_is_clean().await;
    }
}
