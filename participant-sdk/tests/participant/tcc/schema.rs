//! The barrier table: created, upgraded, missing.

use super::shop::*;
use crate::on_every_driver;
use crate::support::*;

/// As it was before there was TCC.
const OLD: &str = "CREATE TABLE concord_barrier (gtid BINARY(16) NOT NULL, branch INT UNSIGNED NOT NULL, \
    state TINYINT UNSIGNED NOT NULL, connection_id BIGINT UNSIGNED NOT NULL, reply MEDIUMBLOB NOT NULL, \
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), PRIMARY KEY (gtid, branch)) ENGINE=InnoDB";

impl Shop {
    /// As a user that may read and write, and nothing else.
    async fn as_clerk(&mut self) {
        let (database, clerk) = (self.database(), format!("clerk_{}", self.database()));
        let sql = format!(
            "CREATE USER '{clerk}'@'%' IDENTIFIED BY 'clerk'; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO '{clerk}'@'%'"
        );
        self.world.plain.query_drop(sql).await.unwrap();
        let (_, rest) = self.world.url.rsplit_once('@').unwrap();
        self.world.url = format!("mysql://{clerk}:clerk@{rest}");
    }

    fn database(&self) -> String {
        self.world.url.rsplit_once('/').unwrap().1.to_owned()
    }
}

on_every_driver! {
    async fn a_table_that_vanishes_is_named_and_nothing_is_lost(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        let node = shop.node().await;
        let (tried, new) = (gtid(), gtid());
        assert!(node.attempt(tried, "5").await.unwrap().reserved);
        shop.world.plain.query_drop("RENAME TABLE concord_barrier TO mislaid").await.unwrap();
        let statuses = [
            node.attempt(new, "5").await.unwrap_err(),
            node.confirm_once(tried, "5").await.unwrap_err(),
            node.cancel_once(tried, "5").await.unwrap_err(),
        ];
        for status in statuses {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("concord_barrier is missing"), "{status}");
        }
        assert_eq!((shop.stock().await, shop.runs_of_all(new)), ((95, 5, 0), 0));
        shop.world.plain.query_drop("RENAME TABLE mislaid TO concord_barrier").await.unwrap();
        assert_eq!(node.confirm_once(tried, "5").await.unwrap().outcome(), BranchOutcome::Committed);
        assert!(node.attempt(new, "5").await.unwrap().reserved);
        assert_eq!(shop.stock().await, (90, 5, 5));
        shop.no_transaction_stays_open().await;
    }

    async fn an_older_table_gets_what_it_lacks(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        shop.world.plain.query_drop(OLD).await.unwrap();
        let row = "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES (REPEAT('a', 16), 1, 1, 0, 'kept')";
        shop.world.plain.query_drop(row).await.unwrap();
        // Several processes that start at the same time.
        let (node, _other) = tokio::join!(shop.node(), shop.node());
        let gtid = gtid();
        assert!(node.attempt(gtid, "5").await.unwrap().reserved);
        for _ in 0..2 {
            assert_eq!(&node.confirm_once(gtid, "5").await.unwrap().reply[..], b"Confirm 5");
        }
        let kept: Option<String> = shop.world.plain.query_first("SELECT CAST(reply AS CHAR) FROM concord_barrier WHERE state = 1").await.unwrap();
        assert_eq!(kept.as_deref(), Some("kept"));
    }

    /// The user may not create tables, and need not when they are there. Told so, with what an administrator is to
    /// do, when they are not.
    async fn a_user_that_may_not_create_tables(flavor, driver) {
        let mut shop = Shop::new(flavor, driver).await;
        shop.as_clerk().await;
        let error = shop.builder().build().await.err().expect("refused").to_string();
        assert!(error.contains("cannot create the table concord_barrier"), "{error}");
        let (_, statement) = error.split_once("an administrator can, once: ").expect("what to do");
        shop.world.plain.query_drop(statement).await.unwrap();
        let node = shop.node().await;
        assert!(node.attempt(gtid(), "5").await.unwrap().reserved);
        shop.world.plain.query_drop(format!("DROP TABLE concord_barrier; {OLD}")).await.unwrap();
        let error = shop.builder().build().await.err().expect("refused").to_string();
        assert!(error.contains("cannot change the table concord_barrier"), "{error}");
    }
}
