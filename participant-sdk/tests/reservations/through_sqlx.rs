//! The same through sqlx.

use sqlx::mysql::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;

use crate::on_both;
use crate::support::*;

async fn shop(flavor: Flavor) -> Shop<MySqlPool> {
    let read_committed = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    let options = MySqlPoolOptions::new().max_connections(32).after_connect(move |conn, _| {
        Box::pin(async move { sqlx::query(read_committed).execute(conn).await.map(|_| ()) })
    });
    let pool = options.connect(&database(flavor).await).await.expect("a pool");
    Shop::on(pool, "stock").await
}

on_both! {
    async fn reservations_live_and_end(flavor) {
        let shop = shop(flavor).await.with("T1", 10).await.with("ä🦀", 10).await;
        shop.split("T1", 4).await.unwrap();
        let (confirmed, part, cancelled, expired) = (gtid(), gtid(), gtid(), gtid());
        for order in [confirmed, part, cancelled, expired] {
            shop.reserve(order, &[("ä🦀", 2), ("T1", 2)]).await.unwrap();
        }
        let refused = refusal(shop.reserve(gtid(), &[("T1", 3)]).await);
        assert_eq!(refused, "not enough of T1: 3 wanted, 2 available");
        shop.confirm(confirmed).await.unwrap();
        shop.confirm_part(part, &[("T1", 1)]).await.unwrap();
        shop.cancel(cancelled).await.unwrap();
        assert!(refusal(shop.confirm(confirmed).await).contains("is confirmed, not pending"));
        assert!(refusal(shop.expire(expired).await).contains("is not overdue"));
        shop.sql("UPDATE stock_reservation SET expires_at = reserved_at").await.unwrap();
        assert_eq!(shop.overdue(10).await[0].gtid, expired);
        shop.expire(expired).await.unwrap();
        assert!(refusal(shop.reserve(expired, &[("ä🦀", 1)]).await).contains("is expired, not pending"));
        assert_eq!(shop.history(part).await.last().unwrap().state, State::Confirmed);
        assert_eq!(shop.figures("T1").await, (7, 0));
        assert_eq!(shop.figures("ä🦀").await, (8, 0));
        shop.audit_is_clean().await;
    }

    async fn buyers_at_once(flavor) {
        let shop = shop(flavor).await.with("T1", 100).await;
        shop.split("T1", 8).await.unwrap();
        let buyers = (0..16).map(|_| {
            let shop = shop.clone();
            tokio::spawn(async move {
                loop {
                    let gtid = gtid();
                    match shop.reserve(gtid, &[("T1", 1)]).await {
                        Ok(()) => shop.confirm(gtid).await.unwrap(),
                        Err(ReservationError::Short { .. }) => break,
                        Err(ReservationError::Busy(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        for buyer in buyers.collect::<Vec<_>>() {
            buyer.await.unwrap();
        }
        let audit = shop.audit().await;
        assert!(audit.is_clean() && audit.totals.sold == 100, "{audit}");
    }
}
