//! What goes wrong around a transfer between two banks, on both databases: after each fault everything ends, the
//! same way everywhere, and no money is made or lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

/// Tests of scenarios, each on MySQL and on MariaDB.
macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        mod mysql {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(concord_sandbox::Flavor::MySql).await.unwrap();
            })*
        }
        mod mariadb {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(concord_sandbox::Flavor::MariaDb).await.unwrap();
            })*
        }
    };
}

mod faults {
    mod answers;
    mod chaos;
    mod databases;
    mod overtaking;
    mod processes;
    mod support;
}
