//! What must hold in the end, looked up in the databases and in the coordinator.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use concord_participant::reservations;
use concord_proto::v1::TransactionState;
use concord_sandbox::PATIENCE;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::Options;
use super::books::Taken;
use super::catalog::{CUSTOMER, HOT, POOR, PRICES, opening_balance, opening_stock};
use super::part::Part;
use super::record::Outcome;
use super::say::{self, count, money};
use super::stage::Stage;
use crate::order::desk::Order;
use crate::payment::account;

/// One thing that must hold.
#[derive(Debug, Serialize)]
pub(crate) struct Invariant {
    /// What.
    pub name: &'static str,
    /// Whether it does.
    pub holds: bool,
    /// Figures, or what is wrong.
    pub detail: String,
}

/// What the audit found.
#[derive(Debug, Serialize)]
pub(crate) struct Audit {
    /// Every SKU.
    pub goods: Vec<Line>,
    /// All accounts together, in cents.
    pub money: Line,
    /// Branches that XA RECOVER lists, at the order, the stock and the payment service's database.
    pub in_doubt: [usize; 3],
    /// All that must hold.
    pub invariants: Vec<Invariant>,
}

/// An SKU or an account, or a sum of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// Its name.
    pub sku: String,
    /// What there was at first.
    pub opening: i64,
    /// What the orders say is gone.
    pub ordered: i64,
    /// What is left, frozen or not.
    pub left: i64,
    /// What is frozen of it.
    pub frozen: i64,
}

impl Audit {
    /// Whether everything holds.
    pub(crate) fn passed(&self) -> bool {
        self.invariants.iter().all(|invariant| invariant.holds)
    }
}

/// What the three databases, the coordinator and the customers say.
struct Evidence {
    orders: Vec<Order>,
    goods: Vec<Line>,
    accounts: Vec<Line>,
    goods_taken: Vec<Taken>,
    money_taken: Vec<Taken>,
    /// Gtids of what the coordinator has committed.
    committed: HashSet<String>,
}

/// Looks everything up and compares it with what customers were told.
///
/// # Errors
/// When a database or the coordinator cannot be read.
pub(crate) async fn run(stage: &Stage, options: &Options, record: &[Outcome]) -> Result<Audit> {
    // Waits for what is still being delivered, so what comes after is final.
    let unfinished = stage.observer.unfinished().await?;
    let in_doubt = settled_in_doubt(stage).await?;
    let audits = [
        stage.books(Part::Stock).audit(&stage.stock).await?,
        stage.books(Part::Payment).audit(&stage.balance).await?,
    ];
    let evidence = gather(stage, options).await?;
    let mut invariants = evidence.check(record);
    invariants.push(adds_up(&audits));
    let unfinished: Vec<_> = unfinished.iter().map(|one| one.gtid.as_str()).collect();
    invariants.push(invariant("no transaction is unfinished", unfinished.is_empty(), || {
        match unfinished.len() {
            0 => "none in the coordinator".to_owned(),
            number => format!("{number} after {} s, such as {}", PATIENCE.as_secs(), unfinished[0]),
        }
    }));
    invariants.push(invariant("no branch is in doubt", in_doubt == [0; 3], || {
        let [order, stock, payment] = in_doubt;
        format!(
            "XA RECOVER lists {order} at the order, {stock} at the stock, {payment} at the payment service"
        )
    }));
    let money = sum("money", &evidence.accounts);
    Ok(Audit { goods: evidence.goods, money, in_doubt, invariants })
}

async fn gather(stage: &Stage, options: &Options) -> Result<Evidence> {
    let [order, stock, payment] = &stage.books;
    let orders = order.orders().await?;
    let lines =
        |opening: Vec<(String, i64)>, items: Vec<(String, i64, i64)>, ordered: HashMap<String, i64>| {
            let items: HashMap<_, _> =
                items.into_iter().map(|(sku, left, frozen)| (sku, (left, frozen))).collect();
            let line = |(sku, opening): (String, i64)| {
                let (left, frozen) = items.get(&sku).copied().unwrap_or_default();
                Line { opening, ordered: ordered.get(&sku).copied().unwrap_or(0), left, frozen, sku }
            };
            opening.into_iter().map(line).collect::<Vec<_>>()
        };
    let mut qty: HashMap<String, i64> = HashMap::new();
    let mut cents: HashMap<String, i64> = HashMap::new();
    for order in &orders {
        *qty.entry(order.sku.clone()).or_default() += order.qty;
        *cents.entry(account(order.user)).or_default() += order.cents;
    }
    let goods = PRICES.map(|(sku, _)| (sku.to_owned(), opening_stock(sku, options.orders)));
    let users = (1..=options.buyers.max(CUSTOMER)).chain([POOR]);
    let accounts = users.map(|user| (account(user), opening_balance(user)));
    let committed = stage.observer.list(&[TransactionState::Committed]).await?;
    Ok(Evidence {
        orders,
        goods: lines(goods.into(), stock.items(&stage.stock).await?, qty),
        accounts: lines(accounts.collect(), payment.items(&stage.balance).await?, cents),
        goods_taken: stock.taken(&stage.stock).await?,
        money_taken: payment.taken(&stage.balance).await?,
        committed: committed.into_iter().map(|transaction| transaction.gtid).collect(),
    })
}

fn sum(name: &str, lines: &[Line]) -> Line {
    let sum = |figure: fn(&Line) -> i64| lines.iter().map(figure).sum();
    Line {
        sku: name.to_owned(),
        opening: sum(|line| line.opening),
        ordered: sum(|line| line.ordered),
        left: sum(|line| line.left),
        frozen: sum(|line| line.frozen),
    }
}

fn invariant(name: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Invariant {
    Invariant { name, holds, detail: detail() }
}

/// From a list of violations.
fn verdict(name: &'static str, fine: String, wrong: Vec<String>) -> Invariant {
    match wrong.first() {
        None => Invariant { name, holds: true, detail: fine },
        Some(first) => Invariant { name, holds: false, detail: format!("{} times: {first}", wrong.len()) },
    }
}

/// Branches in doubt, once there are none or too much time has passed. With `--chaos`, some were left by a
/// coordinator that died before it had decided; the order service asks about these by itself.
async fn settled_in_doubt(stage: &Stage) -> Result<[usize; 3]> {
    let started = Instant::now();
    loop {
        let [order, stock, payment] = &stage.books;
        let in_doubt = [order.in_doubt().await?, stock.in_doubt().await?, payment.in_doubt().await?];
        if in_doubt == [0; 3] || started.elapsed() > PATIENCE {
            return Ok(in_doubt);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What the reservations say of themselves.
fn adds_up(audits: &[reservations::Audit]) -> Invariant {
    let wrong = audits
        .iter()
        .flat_map(|audit| audit.violations.iter().map(|violation| format!("{}: {violation}", audit.name)));
    let fine = "on hand = available + frozen, and frozen = all that is reserved, row by row".to_owned();
    verdict("stock and balances add up", fine, wrong.collect())
}

impl Evidence {
    fn check(&self, record: &[Outcome]) -> Vec<Invariant> {
        vec![
            self.goods_are_sold_once(),
            self.nothing_is_oversold(),
            self.money_is_paid_once(),
            self.nothing_is_frozen(),
            self.orders_are_everywhere(),
            self.customers_were_told_the_truth(record),
            self.coordinator_agrees(),
        ]
    }

    /// Sold units are the sum of all orders.
    fn goods_are_sold_once(&self) -> Invariant {
        let wrong = self.goods.iter().filter(|line| line.opening - line.left != line.ordered);
        let wrong = wrong.map(|line| {
            let gone = say::thousands(line.opening - line.left);
            format!("{gone} of {} are gone, {} were ordered", line.sku, say::thousands(line.ordered))
        });
        let fine = format!("{} sold, {0} ordered", say::thousands(sum("", &self.goods).ordered));
        verdict("what is gone from the stock was ordered", fine, wrong.collect())
    }

    fn nothing_is_oversold(&self) -> Invariant {
        let wrong = self.goods.iter().filter(|line| line.left < 0 || line.ordered > line.opening);
        let wrong = wrong.map(|line| format!("{} of {} {}", line.ordered, line.opening, line.sku));
        let hot = self.goods.iter().find(|line| line.sku == HOT);
        let fine = hot.map(|line| format!("{} of {} {HOT} sold", line.ordered, line.opening));
        verdict("nothing was oversold", fine.unwrap_or_default(), wrong.collect())
    }

    /// Money taken is the sum of all orders.
    fn money_is_paid_once(&self) -> Invariant {
        let wrong = self.accounts.iter().filter(|line| line.opening - line.left != line.ordered);
        let wrong = wrong.map(|line| {
            let gone = money(line.opening - line.left);
            format!("{} has paid {gone} for orders of {}", line.sku, money(line.ordered))
        });
        let fine = format!("{} paid, {0} ordered", money(sum("", &self.accounts).ordered));
        verdict("what is gone from the accounts was ordered", fine, wrong.collect())
    }

    fn nothing_is_frozen(&self) -> Invariant {
        let wrong = self.goods.iter().chain(&self.accounts).filter(|line| line.frozen != 0);
        let wrong = wrong.map(|line| format!("{} of {}", line.frozen, line.sku)).collect();
        verdict("nothing is frozen", "neither goods nor money".to_owned(), wrong)
    }

    /// Every order is in all three databases, and nothing else is there.
    fn orders_are_everywhere(&self) -> Invariant {
        let by_gtid = |taken: &[Taken]| {
            let mut all: HashMap<String, Vec<Taken>> = HashMap::new();
            taken.iter().for_each(|one| all.entry(one.gtid.clone()).or_default().push(one.clone()));
            all
        };
        let (mut goods, mut money) = (by_gtid(&self.goods_taken), by_gtid(&self.money_taken));
        let mut wrong = Vec::new();
        for order in &self.orders {
            let taken = |sku: String, quantity| vec![Taken { gtid: order.id.clone(), sku, quantity }];
            let found = (goods.remove(&order.id), money.remove(&order.id));
            let goods = taken(order.sku.clone(), order.qty);
            let expected = (Some(goods), Some(taken(account(order.user), order.cents)));
            if found != expected {
                wrong.push(format!("{order:?}: {found:?}, not {expected:?}"));
            }
        }
        wrong.extend(goods.values().chain(money.values()).map(|stray| format!("nobody ordered {stray:?}")));
        let fine = format!("{} orders", count(self.orders.len()));
        verdict("every order is in all three databases, once", fine, wrong)
    }

    fn customers_were_told_the_truth(&self, record: &[Outcome]) -> Invariant {
        let orders: HashMap<&str, &Order> =
            self.orders.iter().map(|order| (order.id.as_str(), order)).collect();
        let wrong =
            record.iter().filter(|outcome| orders.get(&*outcome.id).copied() != outcome.order.as_ref());
        let mut wrong: Vec<_> = wrong.map(|outcome| format!("{outcome:?} is not so")).collect();
        let told = record.iter().filter(|outcome| outcome.order.is_some()).count();
        if told != orders.len() {
            wrong.push(format!("{told} orders were told of, there are {}", orders.len()));
        }
        let fine = format!("{} placed, {} refused", count(told), count(record.len() - told));
        verdict("what customers were told is so", fine, wrong)
    }

    fn coordinator_agrees(&self) -> Invariant {
        let orders: HashSet<String> = self.orders.iter().map(|order| order.id.clone()).collect();
        let wrong = orders.symmetric_difference(&self.committed);
        let wrong = wrong.map(|gtid| format!("{gtid} on one side only")).collect();
        let fine = format!("{} committed", count(self.committed.len()));
        verdict("the coordinator has on record what there is", fine, wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::desk::Wish;

    fn line(sku: &str, opening: i64, ordered: i64) -> Line {
        Line { sku: sku.to_owned(), opening, ordered, left: opening - ordered, frozen: 0 }
    }

    fn taken(gtid: &str, sku: &str, quantity: i64) -> Taken {
        Taken { gtid: gtid.to_owned(), sku: sku.to_owned(), quantity }
    }

    fn outcome(id: &str, order: Option<Order>) -> Outcome {
        let wish = Wish { sku: HOT.to_owned(), qty: 2, user: 5, request_id: None };
        Outcome { wish, id: id.to_owned(), order, reason: String::new() }
    }

    /// One order of 2 was placed, one was refused.
    fn fine() -> (Evidence, Vec<Outcome>) {
        let order = Order { id: "x".to_owned(), sku: HOT.to_owned(), qty: 2, user: 5, cents: 998 };
        let evidence = Evidence {
            orders: vec![order.clone()],
            goods: vec![line("T00101", 10, 0), line(HOT, 3, 2)],
            accounts: vec![line("user-4", 1_000, 0), line("user-5", 1_000, 998)],
            goods_taken: vec![taken("x", HOT, 2)],
            money_taken: vec![taken("x", "user-5", 998)],
            committed: HashSet::from(["x".to_owned()]),
        };
        (evidence, vec![outcome("x", Some(order)), outcome("y", None)])
    }

    fn broken(change: impl FnOnce(&mut Evidence, &mut Vec<Outcome>)) -> Vec<&'static str> {
        let (mut evidence, mut record) = fine();
        change(&mut evidence, &mut record);
        evidence.check(&record).into_iter().filter(|one| !one.holds).map(|one| one.name).collect()
    }

    #[test]
    fn nothing_is_wrong_when_nothing_is_wrong() {
        assert!(broken(|_, _| {}).is_empty());
    }

    #[test]
    fn lost_and_invented_goods_are_found() {
        let name = "what is gone from the stock was ordered";
        assert_eq!(broken(|evidence, _| evidence.goods[0].left -= 1), [name]);
        assert_eq!(broken(|evidence, _| evidence.goods[1].left += 1), [name]);
    }

    #[test]
    fn oversold_goods_are_found() {
        let found = broken(|evidence, _| {
            evidence.goods[1].ordered = 4;
            evidence.goods[1].left = -1;
        });
        assert_eq!(found, ["nothing was oversold"]);
    }

    #[test]
    fn money_paid_twice_is_found() {
        let name = "what is gone from the accounts was ordered";
        assert_eq!(broken(|evidence, _| evidence.accounts[1].left -= 998), [name]);
    }

    #[test]
    fn what_stays_frozen_is_found() {
        assert_eq!(broken(|evidence, _| evidence.goods[0].frozen = 1), ["nothing is frozen"]);
        assert_eq!(broken(|evidence, _| evidence.accounts[0].frozen = 1), ["nothing is frozen"]);
    }

    #[test]
    fn an_order_that_is_not_everywhere_once_is_found() {
        type Change = fn(&mut Evidence, &mut Vec<Outcome>);
        let changes: [Change; 6] = [
            |evidence, _| drop(evidence.goods_taken.pop()),
            |evidence, _| drop(evidence.money_taken.pop()),
            |evidence, _| evidence.goods_taken.push(taken("x", HOT, 2)),
            |evidence, _| evidence.goods_taken.push(taken("y", HOT, 2)),
            |evidence, _| evidence.money_taken[0].quantity = 997,
            |evidence, _| evidence.money_taken[0].sku = "user-4".to_owned(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(broken(change), ["every order is in all three databases, once"], "{index}");
        }
    }

    #[test]
    fn a_customer_who_was_told_a_lie_is_found() {
        type Change = fn(&mut Evidence, &mut Vec<Outcome>);
        let changes: [Change; 4] = [
            |_, record| record[0].order = None,
            |_, record| record[1].order = record[0].order.clone(),
            |_, record| record[0].order.iter_mut().for_each(|order| order.qty = 1),
            |_, record| drop(record.remove(0)),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(broken(change), ["what customers were told is so"], "{index}");
        }
    }

    #[test]
    fn an_order_that_the_coordinator_has_not_on_record_is_found() {
        let name = "the coordinator has on record what there is";
        assert_eq!(broken(|evidence, _| evidence.committed.clear()), [name]);
        assert_eq!(broken(|evidence, _| evidence.committed.extend(["y".to_owned()])), [name]);
    }
}
