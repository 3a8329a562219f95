//! The database dies, by SIGKILL, between calls and during them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::shop::*;
use crate::support::*;

async fn on_a_server_of_its_own(flavor: Flavor, driver: Driver) -> (Server, Shop) {
    let server = Server::start(ServerOptions::new(flavor)).await.expect("a server of its own");
    let shop = Shop::on(World::on(&server).await, driver).await;
    (server, shop)
}

async fn kill_and_restart(server: &mut Server, shop: &mut Shop) {
    server.kill9().expect("SIGKILL");
    server.restart().await.expect("the server is back");
    shop.world.plain = mysql_async::Conn::from_url(shop.world.url.clone()).await.expect("a connection");
}

/// Killed after each call and in the middle of each: while its handler has done its work and has not returned.
async fn between_and_during(flavor: Flavor, driver: Driver) {
    let (mut server, mut shop) = on_a_server_of_its_own(flavor, driver).await;
    let node = shop.node().await;
    let (confirmed, cancelled) = (gtid(), gtid());
    for (gtid, phase) in [
        (confirmed, Phase::Try),
        (confirmed, Phase::Confirm),
        (cancelled, Phase::Try),
        (cancelled, Phase::Cancel),
    ] {
        let before = shop.stock().await;
        shop.plan(gtid, phase, Mode::Hold);
        let call = tokio::spawn({
            let mut client = node.client.clone();
            let (branch, work) = (context(gtid), job("order", "5"));
            async move {
                match phase {
                    Phase::Try => client.r#try(try_of(gtid, "5")).await.map(drop),
                    Phase::Confirm => client.confirm(ConfirmRequest { branch, work }).await.map(drop),
                    Phase::Cancel => client.cancel(CancelRequest { branch, work }).await.map(drop),
                }
            }
        });
        shop.probe.entered.notified().await;
        kill_and_restart(&mut server, &mut shop).await;
        shop.leave();
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(shop.stock().await, before, "nothing of it remains");
        shop.no_plan(gtid);
        // Again, and once more after another crash.
        let mut after = None;
        for crashed in [false, true] {
            if crashed {
                kill_and_restart(&mut server, &mut shop).await;
            }
            match phase {
                Phase::Try => assert!(patiently(|| node.attempt(gtid, "5")).await.reserved),
                Phase::Confirm => {
                    let answer = patiently(|| node.confirm_once(gtid, "5")).await;
                    assert_eq!(
                        (answer.outcome(), &answer.reply[..]),
                        (BranchOutcome::Committed, &b"Confirm 5"[..])
                    );
                }
                Phase::Cancel => {
                    let answer = patiently(|| node.cancel_once(gtid, "5")).await;
                    assert_eq!(answer.outcome(), BranchOutcome::RolledBack);
                }
            }
            let stock = shop.stock().await;
            assert_eq!(*after.get_or_insert(stock), stock, "once");
        }
        assert_eq!(shop.runs(gtid, phase), 2, "the first without effect");
    }
    assert_eq!(shop.stock().await, (95, 0, 5));
    shop.no_transaction_stays_open().await;
}

/// Killed at any moment, with 16 branches under way, COMMITs among them.
async fn at_any_moment(flavor: Flavor, driver: Driver) {
    let (mut server, mut shop) = on_a_server_of_its_own(flavor, driver).await;
    shop.world.plain.query_drop("UPDATE stock SET available = 1000000").await.unwrap();
    let node = shop.node().await;
    let stop = Arc::new(AtomicBool::new(false));
    let buyers: Vec<_> = (0..16_usize)
        .map(|buyer| {
            let (node, stop) = (node.caller(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut sold, mut cancelled) = (0_i64, 0_i64);
                while !stop.load(Ordering::SeqCst) {
                    let gtid = gtid();
                    assert!(patiently(|| node.attempt(gtid, "1")).await.reserved);
                    if (buyer + usize::try_from(sold + cancelled).unwrap()) % 3 == 0 {
                        let answer = patiently(|| node.cancel_once(gtid, "1")).await;
                        assert_eq!(answer.outcome(), BranchOutcome::RolledBack);
                        cancelled += 1;
                    } else {
                        let answer = patiently(|| node.confirm_once(gtid, "1")).await;
                        assert_eq!(answer.outcome(), BranchOutcome::Committed);
                        sold += 1;
                    }
                }
                (sold, cancelled)
            })
        })
        .collect();
    for _ in 0..3 {
        shop.sold_at_least(100).await;
        kill_and_restart(&mut server, &mut shop).await;
    }
    shop.sold_at_least(100).await;
    stop.store(true, Ordering::SeqCst);
    let (mut sold, mut cancelled) = (0, 0);
    for buyer in buyers {
        let counts = buyer.await.unwrap();
        (sold, cancelled) = (sold + counts.0, cancelled + counts.1);
    }
    assert_eq!(shop.stock().await, (1_000_000 - sold, 0, sold), "every branch took effect once");
    assert!(cancelled > 0);
    let states = shop.barrier().await;
    let of = |wanted| i64::try_from(states.iter().filter(|state| **state == wanted).count()).unwrap();
    assert_eq!((of(4), of(5), of(3)), (sold, cancelled, 0));
    shop.no_transaction_stays_open().await;
}

impl Shop {
    /// Waits until so many more pieces have been sold.
    async fn sold_at_least(&mut self, more: i64) {
        let (_, _, before) = self.stock().await;
        while self.stock().await.2 < before + more {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

macro_rules! on_servers_of_their_own {
    ($($name:ident: $flavor:ident $driver:ident;)*) => {$(
        mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn killed_between_and_during_calls() {
                between_and_during(Flavor::$flavor, Driver::$driver).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn killed_at_any_moment() {
                at_any_moment(Flavor::$flavor, Driver::$driver).await;
            }
        }
    )*};
}

on_servers_of_their_own! {
    mysql: MySql Own;
    mysql_sqlx: MySql Sqlx;
    mariadb: MariaDb MysqlAsync;
    mariadb_sqlx: MariaDb Sqlx;
}
