//! Random calls against a model that fits on a page; after each the audit, and every figure.

use std::collections::BTreeMap;

use mysql_async::Pool;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::*;

const SKUS: [&str; 3] = ["T1", "T2", "T3"];
const ORDERS: usize = 6;
const CALLS: usize = 40;
const CASES: u32 = 24;

type Goods = BTreeMap<usize, i64>;

#[derive(Debug, Clone)]
enum Call {
    Add(usize, i64),
    Remove(usize, i64),
    Split(usize, u16),
    Reserve(usize, Vec<(usize, i64)>),
    Confirm(usize),
    ConfirmPart(usize, Vec<(usize, i64)>),
    Cancel(usize),
    /// Once the hour has come.
    Expire(usize),
}

fn call() -> impl Strategy<Value = Call> {
    let sku = || 0..SKUS.len();
    let order = || 0..ORDERS;
    let items = || prop::collection::vec((sku(), 0..8i64), 1..4);
    prop_oneof![
        2 => (sku(), 1..30i64).prop_map(|(sku, quantity)| Call::Add(sku, quantity)),
        1 => (sku(), 1..10i64).prop_map(|(sku, quantity)| Call::Remove(sku, quantity)),
        2 => (sku(), 1..6u16).prop_map(|(sku, buckets)| Call::Split(sku, buckets)),
        6 => (order(), items()).prop_map(|(order, items)| Call::Reserve(order, items)),
        2 => order().prop_map(Call::Confirm),
        2 => (order(), items()).prop_map(|(order, items)| Call::ConfirmPart(order, items)),
        2 => order().prop_map(Call::Cancel),
        1 => order().prop_map(Call::Expire),
    ]
}

fn sum(items: &[(usize, i64)]) -> Goods {
    let mut sums = Goods::new();
    for (sku, quantity) in items {
        *sums.entry(*sku).or_default() += quantity;
    }
    sums
}

/// What should be.
#[derive(Debug, Default)]
struct Model {
    /// Of the SKUs that there are.
    available: Goods,
    sold: Goods,
    /// What each order has frozen or, once it has ended, how.
    orders: BTreeMap<usize, std::result::Result<Goods, State>>,
}

impl Model {
    /// Makes the call. None: it is refused, and nothing changes.
    fn make(&mut self, call: &Call) -> Option<()> {
        match call {
            Call::Add(sku, quantity) => *self.available.entry(*sku).or_default() += quantity,
            Call::Remove(sku, quantity) => {
                let available = self.available.get_mut(sku)?;
                *available = Some(*available - quantity).filter(|left| *left >= 0)?;
            }
            Call::Split(sku, _) => {
                self.available.get(sku)?;
            }
            Call::Reserve(order, items) => {
                let mut available = self.available.clone();
                for (sku, quantity) in sum(items) {
                    let left = available.get_mut(&sku)?;
                    *left = Some(*left - quantity).filter(|left| *left >= 0)?;
                }
                if items.iter().any(|(_, quantity)| *quantity == 0) {
                    return None;
                }
                let frozen = self.orders.entry(*order).or_insert_with(|| Ok(Goods::new())).as_mut().ok()?;
                for (sku, quantity) in sum(items) {
                    *frozen.entry(sku).or_default() += quantity;
                }
                self.available = available;
            }
            Call::Confirm(order) => {
                let all = self.orders.get(order)?.clone().ok()?;
                self.end(*order, State::Confirmed, &all)?;
            }
            Call::ConfirmPart(order, items) => {
                if items.iter().any(|(_, quantity)| *quantity == 0) {
                    return None;
                }
                self.end(*order, State::Confirmed, &sum(items))?;
            }
            Call::Cancel(order) => {
                if self.orders.get(order) != Some(&Err(State::Expired)) {
                    self.end(*order, State::Cancelled, &Goods::new())?;
                }
            }
            Call::Expire(order) => self.end(*order, State::Expired, &Goods::new())?,
        }
        Some(())
    }

    fn end(&mut self, order: usize, state: State, confirmed: &Goods) -> Option<()> {
        let frozen = self.orders.get(&order)?.as_ref().ok()?;
        let of = |goods: &Goods, sku| goods.get(&sku).copied().unwrap_or(0);
        if confirmed.iter().any(|(sku, quantity)| *quantity > of(frozen, *sku)) {
            return None;
        }
        for (sku, quantity) in frozen {
            *self.available.entry(*sku).or_default() += quantity - of(confirmed, *sku);
            *self.sold.entry(*sku).or_default() += of(confirmed, *sku);
        }
        self.orders.insert(order, Err(state));
        Some(())
    }

    fn frozen(&self, sku: usize) -> i64 {
        self.orders.values().flatten().filter_map(|goods| goods.get(&sku)).sum()
    }
}

/// Makes the call on the database. False: it was refused.
async fn make(shop: &Shop<Pool>, orders: &[Gtid], call: &Call) -> bool {
    let named = |items: &[(usize, i64)]| items.iter().map(|(sku, n)| (SKUS[*sku], *n)).collect::<Vec<_>>();
    let result = match call {
        Call::Add(sku, quantity) => shop.add(SKUS[*sku], *quantity).await,
        Call::Remove(sku, quantity) => shop.remove(SKUS[*sku], *quantity).await,
        Call::Split(sku, buckets) => shop.split(SKUS[*sku], *buckets).await,
        Call::Reserve(order, items) => shop.reserve(orders[*order], &named(items)).await,
        Call::Confirm(order) => shop.confirm(orders[*order]).await,
        Call::ConfirmPart(order, items) => shop.confirm_part(orders[*order], &named(items)).await,
        Call::Cancel(order) => shop.cancel(orders[*order]).await,
        Call::Expire(order) => shop.expire(orders[*order]).await,
    };
    match result {
        Ok(()) => true,
        Err(error) if error.is_refusal() => false,
        Err(error) => panic!("{error}"),
    }
}

async fn agree(pool: &Pool, name: &str, calls: &[(bool, Call)]) {
    let mut shop = Shop::on(pool.clone(), name).await;
    // Overdue at once, so that Expire can be called at any time.
    shop.stock = shop.stock.hold(std::time::Duration::ZERO);
    let another = Shop {
        database: shop.database.clone(),
        stock: shop.another_process().stock.hold(std::time::Duration::ZERO),
    };
    let orders: Vec<_> = (0..ORDERS).map(|_| gtid()).collect();
    let mut model = Model::default();
    for (ours, call) in calls {
        // The barrier's business: a Try after its end.
        if matches!(call, Call::Reserve(order, _) if matches!(model.orders.get(order), Some(Err(_)))) {
            continue;
        }
        let done = make(if *ours { &shop } else { &another }, &orders, call).await;
        assert_eq!(done, model.make(call).is_some(), "{call:?}: {model:?}");
        shop.audit_is_clean().await;
        for (sku, name) in SKUS.iter().enumerate() {
            let found = shop.item(name).await.map(|item| (item.available, item.frozen, item.sold));
            let available = model.available.get(&sku);
            let wanted = available
                .map(|available| (*available, model.frozen(sku), model.sold.get(&sku).copied().unwrap_or(0)));
            assert_eq!(found, wanted, "{name} after {call:?}");
        }
    }
}

fn run(flavor: Flavor) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(async { pool(&database(flavor).await, "READ COMMITTED") });
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let calls = prop::collection::vec((any::<bool>(), call()), 1..CALLS);
    let cases = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&calls, |calls| {
            // Tables of its own for each case.
            cases.set(cases.get() + 1);
            let name = format!("stock_{}", cases.get());
            runtime.block_on(agree(&pool, &name, &calls));
            Ok(())
        })
        .unwrap();
}

#[test]
fn mysql() {
    run(Flavor::MySql);
}

#[test]
fn mariadb() {
    run(Flavor::MariaDb);
}
