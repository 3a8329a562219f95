//! What the databases and the coordinator must look like in the end.

use std::collections::HashSet;

use anyhow::Result;
use clojure_reader::edn::Edn;

use super::End;
use super::claims::{Judge, numbers};
use crate::cluster::DatabaseAudit;
use crate::history::{Call, Type};
use crate::run::DRAIN_MAX;

/// I7: money and stock.
pub(super) fn conservation(end: &End, calls: &[Call<'_>]) -> Result<Judge> {
    let mut judge = Judge::default();
    let opening: i64 = end.audits.iter().map(money_at_the_beginning).sum();
    for call in calls.iter().filter(|call| call.invoked.f == "read" && call.outcome() == Type::Ok) {
        let sums = match &call.said().value {
            Edn::Vector(sums) => numbers(sums).unwrap_or_default(),
            _ => Vec::new(),
        };
        let total: i64 = sums.iter().sum();
        let wrong = total != opening || sums.len() != end.audits.len();
        let story = || format!("operation {}: {sums:?} is {total}, not {opening}", call.said().index);
        judge.look("wrong-total", wrong.then(story));
    }
    let balances = |audit: &DatabaseAudit| audit.accounts.iter().map(|account| account.1).sum::<i64>();
    let total: i64 = end.audits.iter().map(balances).sum();
    let wrong = total != opening;
    if opening != 0 || wrong {
        judge.look("wrong-total", wrong.then(|| format!("in the end there is {total}, not {opening}")));
    }
    for audit in &end.audits {
        let database = audit.database;
        for account in missing(audit.opening.accounts, audit.accounts.iter().map(|account| account.0)) {
            judge.look("unbooked", Some(format!("account {account} of database {database} has gone")));
        }
        for (account, balance, held, promised) in &audit.accounts {
            let negative = *balance < 0 || *held < 0 || *promised < 0;
            let story = || {
                format!(
                    "account {account} of database {database}: {balance}, held {held}, promised {promised}"
                )
            };
            judge.look("overdrawn", negative.then(story));
            let booked = booked(audit, *account);
            let opening = audit.opening.balance;
            let story = || {
                format!(
                    "account {account} of database {database}: {balance}, and not {opening} and {booked} booked"
                )
            };
            judge.look("unbooked", (*balance != opening + booked).then(story));
        }
        goods(audit, &mut judge);
    }
    Ok(judge)
}

fn money_at_the_beginning(audit: &DatabaseAudit) -> i64 {
    i64::from(audit.opening.accounts) * audit.opening.balance
}

/// Which of those numbered from 1 are not there.
fn missing(count: u32, there: impl Iterator<Item = u32>) -> Vec<u32> {
    let there: HashSet<u32> = there.collect();
    (1..=count).filter(|number| !there.contains(number)).collect()
}

/// What the journal says became of an account.
fn booked(audit: &DatabaseAudit, account: u32) -> i64 {
    audit.journal.iter().filter(|row| row.5 == account).map(|row| row.6).sum()
}

/// Of stock: the SDK's own audit, and the journal.
fn goods(audit: &DatabaseAudit, judge: &mut Judge) {
    let database = audit.database;
    for sku in missing(audit.opening.skus, audit.goods.iter().map(|one| one.sku)) {
        judge.look("stock", Some(format!("database {database}: SKU {sku} has gone")));
    }
    for one in &audit.goods {
        let changes = || audit.journal.iter().filter(|row| row.5 == one.sku).map(|row| row.6);
        let received = audit.opening.quantity + changes().filter(|change| *change > 0).sum::<i64>();
        let sold = -changes().filter(|change| *change < 0).sum::<i64>();
        let wrong = one.available < 0
            || one.frozen < 0
            || one.received != received
            || one.sold != sold
            || one.available + one.frozen != received - sold;
        let story = || {
            format!("database {database}: {one:?}, but {received} received and {sold} sold by the journal")
        };
        judge.look("stock", wrong.then(story));
    }
    for violation in &audit.stock_violations {
        judge.look("stock", Some(format!("database {database}: {violation}")));
    }
}

/// I8: nothing is left.
pub(super) fn resolution(end: &End) -> Judge {
    let mut judge = Judge::default();
    let status = &end.status;
    let unended = || format!("{} transactions have not ended: {}", status.live, status.unended.join(", "));
    judge.look("unended", (status.live > 0).then(unended));
    let orphaned = || format!("the shared store has {} transactions that have not ended", status.orphaned);
    judge.look("orphaned", (status.orphaned > 0).then(orphaned));
    judge.look(
        "parked",
        (status.parked > 0).then(|| format!("{} transactions wait for an operator", status.parked)),
    );
    judge.look(
        "refused",
        (status.refused > 0).then(|| format!("{} branches refused phase two", status.refused)),
    );
    let late = || {
        format!("not everything had ended after {DRAIN_MAX:?}; {} ms were needed, or more", status.drained_ms)
    };
    judge.look("late", (u128::from(status.drained_ms) > DRAIN_MAX.as_millis()).then(late));
    for silent in &status.silent {
        judge.look("silent", Some(silent.clone()));
    }
    for audit in &end.audits {
        let database = audit.database;
        let in_doubt = || format!("database {database}: XA RECOVER lists {}", audit.in_doubt.join(", "));
        judge.look("in-doubt", (!audit.in_doubt.is_empty()).then(in_doubt));
        let open = audit.open_branches;
        judge.look(
            "open-branch",
            (open > 0).then(|| format!("database {database}: {open} open TCC branches")),
        );
        let orders = audit.pending_orders;
        judge.look(
            "pending-order",
            (orders > 0).then(|| format!("database {database}: {orders} pending orders")),
        );
        for (account, _, held, promised) in
            audit.accounts.iter().filter(|account| (account.2, account.3) != (0, 0))
        {
            let story = format!("account {account} of database {database}: {held} held, {promised} promised");
            judge.look("held", Some(story));
        }
        for one in audit.goods.iter().filter(|one| one.frozen != 0) {
            judge.look("frozen", Some(format!("database {database}: {one:?}")));
        }
    }
    judge
}
