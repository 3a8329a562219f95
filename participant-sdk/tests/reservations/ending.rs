//! Confirm and Cancel.

use crate::on_both;
use crate::support::*;

/// Sku, quantity, confirmed, state.
fn rows(history: &[Reservation]) -> Vec<(&str, i64, i64, State)> {
    history.iter().map(|row| (row.sku.as_str(), row.quantity, row.confirmed, row.state)).collect()
}

on_both! {
    async fn confirm_takes_what_is_frozen(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 10).await;
        let (order, other) = (gtid(), gtid());
        shop.reserve(order, &[("T1", 3), ("T2", 1)]).await.unwrap();
        shop.reserve(other, &[("T1", 2)]).await.unwrap();
        shop.confirm(order).await.unwrap();
        let wanted = Item { buckets: 1, on_hand: 7, available: 5, frozen: 2, received: 10, sold: 3 };
        assert_eq!(shop.item("T1").await, Some(wanted));
        let history = shop.history(order).await;
        assert_eq!(rows(&history), [("T1", 3, 3, State::Confirmed), ("T2", 1, 1, State::Confirmed)]);
        assert!(history[0].ended_at.as_ref() >= Some(&history[0].reserved_at));
        assert_eq!(rows(&shop.history(other).await), [("T1", 2, 0, State::Pending)]);
        shop.audit_is_clean().await;
    }

    async fn cancel_gives_back_what_is_frozen(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T1", 3)]).await.unwrap();
        shop.cancel(order).await.unwrap();
        let wanted = Item { buckets: 1, on_hand: 10, available: 10, frozen: 0, received: 10, sold: 0 };
        assert_eq!(shop.item("T1").await, Some(wanted));
        assert_eq!(rows(&shop.history(order).await), [("T1", 3, 0, State::Cancelled)]);
        shop.audit_is_clean().await;
    }

    async fn a_part_is_confirmed_and_the_rest_returned(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await.with("T2", 10).await.with("T3", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T1", 3), ("T2", 4), ("T3", 5)]).await.unwrap();
        let refused = refusal(shop.confirm_part(order, &[("T1", 4)]).await);
        assert_eq!(refused, "4 of T1 to confirm, but 3 reserved");
        let refused = refusal(shop.confirm_part(order, &[("T4", 1)]).await);
        assert_eq!(refused, "1 of T4 to confirm, but 0 reserved");
        let refused = refusal(shop.confirm_part(order, &[("T1", 1), ("T1", 3)]).await);
        assert_eq!(refused, "4 of T1 to confirm, but 3 reserved");
        assert_eq!(shop.figures("T1").await, (7, 3));
        shop.confirm_part(order, &[("T2", 1), ("T1", 1), ("T1", 2)]).await.unwrap();
        let item = |on_hand, sold| Item { buckets: 1, on_hand, available: on_hand, frozen: 0, received: 10, sold };
        assert_eq!(shop.item("T1").await, Some(item(7, 3)));
        assert_eq!(shop.item("T2").await, Some(item(9, 1)));
        assert_eq!(shop.item("T3").await, Some(item(10, 0)));
        let confirmed = |sku, quantity, confirmed| (sku, quantity, confirmed, State::Confirmed);
        let wanted = [confirmed("T1", 3, 3), confirmed("T2", 4, 1), confirmed("T3", 5, 0)];
        assert_eq!(rows(&shop.history(order).await), wanted);
        shop.audit_is_clean().await;
    }

    async fn what_is_not_pending_is_not_ended_again(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let (unknown, confirmed, cancelled) = (gtid(), gtid(), gtid());
        for order in [confirmed, cancelled] {
            shop.reserve(order, &[("T1", 3)]).await.unwrap();
        }
        shop.confirm(confirmed).await.unwrap();
        shop.cancel(cancelled).await.unwrap();
        let before = shop.item("T1").await;
        let is = |order, state| format!("the reservation of branch 1 of {order} is {state}, not pending");
        let nothing = format!("branch 1 of {unknown} has reserved nothing");
        for (order, wanted) in
            [(unknown, nothing), (confirmed, is(confirmed, "confirmed")), (cancelled, is(cancelled, "cancelled"))]
        {
            assert_eq!(refusal(shop.confirm(order).await), wanted);
            assert_eq!(refusal(shop.confirm_part(order, &[("T1", 1)]).await), wanted);
            assert_eq!(refusal(shop.cancel(order).await), wanted);
            assert_eq!(refusal(shop.expire(order).await), wanted);
        }
        assert_eq!(shop.item("T1").await, before);
        shop.audit_is_clean().await;
    }

    /// Many at once end the same reservation: one does. Behind the barrier they would wait for each other; here
    /// some may have to begin again.
    async fn a_race_to_end_has_one_winner(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 100).await;
        for _ in 0..10 {
            let order = gtid();
            shop.reserve(order, &[("T1", 3)]).await.unwrap();
            let race = (0..16).map(|number| {
                let shop = shop.clone();
                tokio::spawn(async move {
                    loop {
                        let ended = match number % 3 {
                            0 => shop.confirm(order).await,
                            1 => shop.cancel(order).await,
                            _ => shop.confirm_part(order, &[("T1", 1)]).await,
                        };
                        match ended {
                            Err(ReservationError::Database(error)) if error.code() == Some(1213) => {}
                            other => return other,
                        }
                    }
                })
            });
            let mut won = 0;
            for racer in race.collect::<Vec<_>>() {
                match racer.await.unwrap() {
                    Ok(()) => won += 1,
                    Err(error) => assert!(matches!(error, ReservationError::NotPending { .. }), "{error}"),
                }
            }
            assert_eq!(won, 1);
        }
        assert_eq!(shop.item("T1").await.unwrap().frozen, 0);
        shop.audit_is_clean().await;
    }
}
