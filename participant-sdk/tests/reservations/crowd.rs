//! Many buyers at once: no deadlock, no oversell, nothing unsold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::Pool;
use rand::seq::SliceRandom as _;
use tokio::task::JoinSet;

use crate::on_both;
use crate::support::*;

const BUYERS: usize = 64;

/// An order of several SKUs, in no order.
fn order(skus: &[String]) -> Vec<(&str, i64)> {
    let mut items: Vec<_> = skus.iter().map(|sku| (sku.as_str(), rand::random_range(1..=3))).collect();
    items.shuffle(&mut rand::rng());
    items.truncate(rand::random_range(1..=5));
    items
}

/// Reserves, beginning again when told to, as the coordinator does. False: short. No error of the database is let
/// pass, and so no deadlock.
async fn reserve(shop: &Shop<Pool>, gtid: Gtid, items: &[(&str, i64)]) -> bool {
    loop {
        match shop.reserve(gtid, items).await {
            Ok(()) => return true,
            Err(ReservationError::Short { wanted, available, .. }) => {
                assert!(available < wanted);
                return false;
            }
            Err(ReservationError::Busy(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Audits and rearranges until told to stop.
fn disturb(shop: &Shop<Pool>, sku: &'static str) -> (Arc<AtomicBool>, JoinSet<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..3 {
        let (shop, stop) = (shop.another_process(), Arc::clone(&stop));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if task == 0 {
                    shop.audit_is_clean().await;
                } else {
                    match shop.split(sku, [1, 2, 16, 5][rand::random_range(0..4)]).await {
                        Ok(()) | Err(ReservationError::Busy(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    (stop, tasks)
}

async fn all(mut tasks: JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

on_both! {
    async fn orders_of_many_skus_in_any_order(flavor) {
        const EACH: i64 = 400;
        let shop = Shop::new(flavor).await;
        let skus: Vec<String> = (0..10).map(|number| format!("T{number}")).collect();
        for sku in &skus {
            shop.add(sku, EACH).await.unwrap();
        }
        shop.split("T3", 4).await.unwrap();
        let (stop, disturbers) = disturb(&shop, "T7");
        let mut buyers = JoinSet::new();
        let another = shop.another_process();
        for buyer in 0..BUYERS {
            let shop = if buyer % 2 == 0 { shop.clone() } else { another.clone() };
            let skus = skus.clone();
            buyers.spawn(async move {
                for _ in 0..20 {
                    let (gtid, items) = (gtid(), order(&skus));
                    if !reserve(&shop, gtid, &items).await {
                        continue;
                    }
                    match rand::random_range(0..10) {
                        0..3 => shop.cancel(gtid).await.unwrap(),
                        3 => shop.confirm_part(gtid, &[(items[0].0, 1)]).await.unwrap(),
                        _ => shop.confirm(gtid).await.unwrap(),
                    }
                }
            });
        }
        all(buyers).await;
        stop.store(true, Ordering::Relaxed);
        all(disturbers).await;
        let audit = shop.audit().await;
        assert!(audit.is_clean(), "{audit}");
        let totals = audit.totals;
        assert_eq!((totals.frozen, totals.available + totals.sold), (0, 10 * i128::from(EACH)));
        // Without orders and refusals there was no crowd.
        assert!(totals.sold > 1_000, "{audit}");
    }

    /// Nobody gives anything back here, so a refusal of one means that there is none left.
    async fn the_last_units_of_a_hot_sku_are_sold(flavor) {
        const UNITS: i64 = 2_000;
        let shop = Shop::new(flavor).await.with("T1", UNITS).await;
        shop.split("T1", 16).await.unwrap();
        let (stop, disturbers) = disturb(&shop, "T1");
        let mut buyers = JoinSet::new();
        let another = shop.another_process();
        for buyer in 0..BUYERS {
            let shop = if buyer % 2 == 0 { shop.clone() } else { another.clone() };
            buyers.spawn(async move {
                loop {
                    let (gtid, wanted) = (gtid(), rand::random_range(1..=4));
                    if reserve(&shop, gtid, &[("T1", wanted)]).await {
                        shop.confirm(gtid).await.unwrap();
                    } else if wanted == 1 {
                        break;
                    }
                }
            });
        }
        all(buyers).await;
        stop.store(true, Ordering::Relaxed);
        all(disturbers).await;
        let audit = shop.audit().await;
        assert!(audit.is_clean(), "{audit}");
        assert_eq!((audit.totals.sold, audit.totals.on_hand), (i128::from(UNITS), 0));
    }

    /// Here there may be deadlocks, as the documentation says; nothing is oversold.
    async fn another_isolation_does_no_harm(flavor) {
        const UNITS: i64 = 300;
        let pool = pool(&database(flavor).await, "REPEATABLE READ");
        let shop = Shop::on(pool, "stock").await.with("T1", UNITS).await.with("T2", UNITS).await;
        shop.split("T1", 16).await.unwrap();
        let mut buyers = JoinSet::new();
        for _ in 0..16 {
            let shop = shop.clone();
            buyers.spawn(async move {
                for _ in 0..30 {
                    let gtid = gtid();
                    if shop.reserve(gtid, &[("T1", 2), ("T2", 1)]).await.is_err() {
                        continue;
                    }
                    // Until it is done, as the coordinator would.
                    while let Err(error) = shop.confirm(gtid).await {
                        assert!(!error.is_refusal(), "{error}");
                    }
                }
            });
        }
        all(buyers).await;
        let audit = shop.audit().await;
        assert!(audit.is_clean(), "{audit}");
        assert_eq!(audit.totals.frozen, 0);
        assert!(audit.totals.sold > 0);
    }
}
