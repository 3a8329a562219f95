//! The tables: creating them, and what they refuse whoever asks.

use crate::on_both;
use crate::support::*;

on_both! {
    async fn migrations_can_be_repeated_and_raced(flavor) {
        let pool = pool(&database(flavor).await, "READ COMMITTED");
        let racers = (0..16).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { Reservations::named("stock").unwrap().migrate(&pool).await })
        });
        for racer in racers.collect::<Vec<_>>() {
            racer.await.unwrap().unwrap();
        }
        let shop = Shop::on(pool.clone(), "stock").await.with("T1", 1).await;
        let again = Shop::on(pool, "stock").await;
        assert_eq!(again.figures("T1").await, (1, 0));
        drop(shop);
    }

    async fn tables_that_are_not_ours_are_refused(flavor) {
        let pool = pool(&database(flavor).await, "READ COMMITTED");
        let shop = Shop { database: pool.clone(), stock: Reservations::named("stock").unwrap() };
        let migrate = async || shop.stock.migrate(&pool).await.unwrap_err().to_string();
        shop.sql("CREATE TABLE stock (id INT PRIMARY KEY) ENGINE=InnoDB").await.unwrap();
        assert_eq!(migrate().await, "there is a table `stock` that is not Concord's: give the reservations another name");
        shop.sql("DROP TABLE stock").await.unwrap();
        shop.sql("CREATE TABLE stock (id INT PRIMARY KEY) ENGINE=MyISAM").await.unwrap();
        assert_eq!(migrate().await, "the table `stock` is of the engine \"MyISAM\"; it must be InnoDB");
        shop.sql("DROP TABLE stock").await.unwrap();
        shop.stock.migrate(&pool).await.unwrap();
        shop.sql("ALTER TABLE stock_reservation COMMENT 'concord reservations, version 2'").await.unwrap();
        assert_eq!(
            migrate().await,
            "the table `stock_reservation` is of version 2, this program knows version 1: update the program"
        );
    }

    async fn without_tables_the_error_says_so(flavor) {
        let pool = pool(&database(flavor).await, "READ COMMITTED");
        let shop = Shop { database: pool, stock: Reservations::named("stock").unwrap() };
        let error = shop.reserve(gtid(), &[("T1", 1)]).await.unwrap_err();
        assert!(!error.is_refusal());
        assert!(matches!(&error, ReservationError::Database(error) if error.code() == Some(1146)), "{error}");
    }

    /// By SQL from elsewhere, or by a mistake in this library.
    async fn constraints_hold_when_the_code_is_bypassed(flavor) {
        let shop = Shop::new(flavor).await.with("T1", 10).await;
        let order = gtid();
        shop.reserve(order, &[("T1", 4)]).await.unwrap();
        let before = (shop.item("T1").await, shop.history(order).await);
        for (sql, constraint) in [
            ("UPDATE stock SET available = available - 7, on_hand = on_hand - 7", "stock_available"),
            ("UPDATE stock SET available = available - 7, frozen = frozen + 7", "stock_available"),
            ("UPDATE stock SET available = available + 5, frozen = frozen - 5", "stock_frozen"),
            ("UPDATE stock SET available = available + 1", "stock_on_hand"),
            ("UPDATE stock SET frozen = 0", "stock_on_hand"),
            ("UPDATE stock SET on_hand = 11", "stock_on_hand"),
            ("INSERT INTO stock VALUES ('T2', 0, 1, 0, 1, 0, 0, 1, 0)", "stock_on_hand"),
            ("UPDATE stock_reservation SET quantity = 0", "stock_quantity"),
            ("UPDATE stock_reservation SET confirmed = 5", "stock_confirmed"),
            ("UPDATE stock_reservation SET confirmed = -1", "stock_confirmed"),
            ("UPDATE stock_reservation SET state = 'cancelled'", "stock_ended"),
            ("UPDATE stock_reservation SET ended_at = reserved_at", "stock_ended"),
        ] {
            let error = shop.sql(sql).await.expect_err(sql);
            assert!(matches!(error.code(), Some(3819 | 4025)), "{sql}: {error}");
            assert!(error.to_string().contains(constraint), "{sql}: {error}");
        }
        assert_eq!((shop.item("T1").await, shop.history(order).await), before);
    }
}
