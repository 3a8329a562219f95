//! What must hold in the end, looked up in the databases and in the coordinator.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use concord_proto::v1::TransactionState;
use concord_sandbox::PATIENCE;
use serde::Serialize;

use super::account::{Account, Bank};
use super::books::LedgerRow;
use super::record::Outcome;
use super::say::thousands;
use super::stage::Stage;
use crate::bank::OPENING_BALANCE;

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
    /// Money at each bank, and together.
    pub balances: Sums,
    /// The same when the accounts were opened.
    pub balances_at_opening: Sums,
    /// Branches that XA RECOVER lists, at each bank.
    pub in_doubt: [usize; 2],
    /// All that must hold.
    pub invariants: Vec<Invariant>,
}

/// Sums of money.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    /// At bank A.
    pub bank_a: i64,
    /// At bank B.
    pub bank_b: i64,
    /// Together.
    pub total: i64,
}

impl Sums {
    fn new([bank_a, bank_b]: [i64; 2]) -> Sums {
        Sums { bank_a, bank_b, total: bank_a + bank_b }
    }
}

impl Audit {
    /// Whether everything holds.
    pub(crate) fn passed(&self) -> bool {
        self.invariants.iter().all(|invariant| invariant.holds)
    }
}

/// Both banks' accounts and ledgers.
struct Evidence {
    balances: [Vec<(u32, i64)>; 2],
    ledgers: [Vec<LedgerRow>; 2],
}

/// Looks everything up and compares it with what the initiator was told.
///
/// # Errors
/// When a database or the coordinator cannot be read.
pub(crate) async fn run(stage: &Stage, accounts: u32, record: &[Outcome]) -> Result<Audit> {
    // Waits for what is still being delivered, so what comes after is final.
    let unfinished = stage.initiator.unfinished().await?;
    let in_doubt = settled_in_doubt(stage).await?;
    let [a, b] = &stage.books;
    let evidence = Evidence {
        balances: [a.balances().await?, b.balances().await?],
        ledgers: [a.ledger().await?, b.ledger().await?],
    };
    let committed = stage.initiator.list(&[TransactionState::Committed]).await?;
    let committed: HashSet<&str> = committed.iter().map(|transaction| transaction.gtid.as_str()).collect();
    let opening = Sums::new([i64::from(accounts) * OPENING_BALANCE; 2]);
    let now = Sums::new(evidence.balances.each_ref().map(|list| list.iter().map(|(_, sum)| sum).sum()));
    let unfinished: Vec<_> = unfinished.iter().map(|one| one.gtid.as_str()).collect();
    let invariants = vec![
        invariant("no money was made or lost", opening.total == now.total, || {
            format!("{} before, {} after", thousands(opening.total), thousands(now.total))
        }),
        no_negative_balance(&evidence),
        balances_follow_from_ledgers(&evidence),
        every_transfer_exactly_once(&evidence, record),
        coordinator_agrees(&committed, record),
        invariant("no transaction is unfinished", unfinished.is_empty(), || match unfinished.len() {
            0 => "none in the coordinator".to_owned(),
            count => format!("{count} after {} s, such as {}", PATIENCE.as_secs(), unfinished[0]),
        }),
        invariant("no branch is in doubt", in_doubt == [0, 0], || {
            format!("XA RECOVER lists {} at bank A, {} at bank B", in_doubt[0], in_doubt[1])
        }),
    ];
    Ok(Audit { balances: now, balances_at_opening: opening, in_doubt, invariants })
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
/// coordinator that died before it had decided; the banks ask about these by themselves.
async fn settled_in_doubt(stage: &Stage) -> Result<[usize; 2]> {
    let started = tokio::time::Instant::now();
    loop {
        let in_doubt = stage.in_doubt().await?;
        if in_doubt == [0, 0] || started.elapsed() > PATIENCE {
            return Ok(in_doubt);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn no_negative_balance(evidence: &Evidence) -> Invariant {
    let all = Bank::ALL.into_iter().flat_map(|bank| {
        evidence.balances[bank.index()].iter().map(move |&(number, sum)| (Account { bank, number }, sum))
    });
    let lowest = all.clone().map(|(_, sum)| sum).min().unwrap_or(0);
    let wrong =
        all.filter(|(_, sum)| *sum < 0).map(|(account, sum)| format!("{account} has {sum}")).collect();
    verdict("no balance is negative", format!("the lowest is {lowest}"), wrong)
}

fn balances_follow_from_ledgers(evidence: &Evidence) -> Invariant {
    let mut wrong = Vec::new();
    for bank in Bank::ALL {
        let mut moved: HashMap<u32, i64> = HashMap::new();
        for row in &evidence.ledgers[bank.index()] {
            *moved.entry(row.account).or_default() += row.amount;
        }
        for &(number, balance) in &evidence.balances[bank.index()] {
            let expected = OPENING_BALANCE + moved.remove(&number).unwrap_or(0);
            if balance != expected {
                wrong.push(format!("{} has {balance}, its ledger says {expected}", Account { bank, number }));
            }
        }
    }
    verdict("every balance follows from its ledger", "at both banks".to_owned(), wrong)
}

/// Each transfer that the initiator was told of stands in both ledgers once, or in neither if it was refused;
/// and nothing else stands there.
fn every_transfer_exactly_once(evidence: &Evidence, record: &[Outcome]) -> Invariant {
    let mut rows: [HashMap<&str, Vec<&LedgerRow>>; 2] = Default::default();
    for (found, ledger) in rows.iter_mut().zip(&evidence.ledgers) {
        for row in ledger {
            found.entry(&row.gtid).or_default().push(row);
        }
    }
    let mut wrong = Vec::new();
    for outcome in record.iter() {
        let transfer = &outcome.transfer;
        for (account, amount) in [(transfer.from, -transfer.amount), (transfer.to, transfer.amount)] {
            let row = LedgerRow {
                gtid: outcome.gtid.clone(),
                transfer: transfer.key.clone(),
                account: account.number,
                amount,
            };
            let expected = if outcome.committed { vec![&row] } else { Vec::new() };
            let found = rows[account.bank.index()].remove(outcome.gtid.as_str()).unwrap_or_default();
            if found != expected {
                wrong.push(format!("{} at bank {}: {found:?}, not {expected:?}", transfer.key, account.bank));
            }
        }
    }
    wrong
        .extend(rows.iter().flat_map(HashMap::values).map(|unknown| format!("nobody asked for {unknown:?}")));
    let committed = record.iter().filter(|outcome| outcome.committed).count();
    let fine = format!("{} committed, {} refused", count(committed), count(record.len() - committed));
    verdict("every transfer is in both ledgers once, or in neither", fine, wrong)
}

fn coordinator_agrees(committed: &HashSet<&str>, record: &[Outcome]) -> Invariant {
    let told: HashSet<&str> =
        record.iter().filter(|outcome| outcome.committed).map(|outcome| outcome.gtid.as_str()).collect();
    let wrong = told.symmetric_difference(committed).map(|gtid| format!("{gtid} on one side only")).collect();
    verdict(
        "the coordinator has on record what it told",
        format!("{} committed", count(committed.len())),
        wrong,
    )
}

fn count(number: usize) -> String {
    thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::account::Transfer;

    fn outcome(gtid: &str, amount: i64, committed: bool) -> Outcome {
        let account = |bank| Account { bank, number: 1 };
        let (from, to) = (account(Bank::A), account(Bank::B));
        let transfer = Transfer { key: format!("key of {gtid}"), from, to, amount };
        Outcome { transfer, gtid: gtid.to_owned(), committed }
    }

    fn row(gtid: &str, amount: i64) -> LedgerRow {
        LedgerRow { gtid: gtid.to_owned(), transfer: format!("key of {gtid}"), account: 1, amount }
    }

    /// One transfer of 100 happened, one was refused.
    fn fine() -> (Evidence, Vec<Outcome>) {
        let evidence = Evidence {
            balances: [vec![(1, OPENING_BALANCE - 100)], vec![(1, OPENING_BALANCE + 100)]],
            ledgers: [vec![row("x", -100)], vec![row("x", 100)]],
        };
        (evidence, vec![outcome("x", 100, true), outcome("y", 5_000, false)])
    }

    fn broken(change: impl FnOnce(&mut Evidence, &mut Vec<Outcome>)) -> Vec<&'static str> {
        let (mut evidence, mut record) = fine();
        change(&mut evidence, &mut record);
        let committed = HashSet::from(["x"]);
        let all = [
            no_negative_balance(&evidence),
            balances_follow_from_ledgers(&evidence),
            every_transfer_exactly_once(&evidence, &record),
            coordinator_agrees(&committed, &record),
        ];
        all.into_iter().filter(|one| !one.holds).map(|one| one.name).collect()
    }

    #[test]
    fn nothing_is_wrong_when_nothing_is_wrong() {
        assert!(broken(|_, _| {}).is_empty());
    }

    #[test]
    fn an_overdrawn_account_is_found() {
        let found = broken(|evidence, _| {
            evidence.balances[0][0].1 = -1;
            evidence.ledgers[0][0].amount = -1_001;
        });
        assert!(found.contains(&"no balance is negative"), "{found:?}");
    }

    #[test]
    fn a_balance_without_a_ledger_row_is_found() {
        assert_eq!(
            broken(|evidence, _| evidence.balances[1][0].1 += 1),
            ["every balance follows from its ledger"]
        );
    }

    #[test]
    fn a_transfer_done_twice_halfway_wrongly_or_unasked_is_found() {
        type Change = fn(&mut Evidence, &mut Vec<Outcome>);
        let changes: [Change; 5] = [
            |evidence, _| evidence.ledgers[0].push(row("x", -100)),
            |evidence, _| drop(evidence.ledgers[1].pop()),
            |evidence, _| evidence.ledgers[1][0].amount = 99,
            |evidence, _| evidence.ledgers[0].push(row("y", -5_000)),
            |evidence, _| evidence.ledgers[0].push(row("z", -1)),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let found = broken(change);
            assert!(
                found.contains(&"every transfer is in both ledgers once, or in neither"),
                "{index}: {found:?}"
            );
        }
    }

    #[test]
    fn an_outcome_that_the_coordinator_has_not_on_record_is_found() {
        let found = broken(|_, record| record[0].committed = false);
        assert!(found.contains(&"the coordinator has on record what it told"), "{found:?}");
        let found = broken(|_, record| record[1].committed = true);
        assert!(found.contains(&"the coordinator has on record what it told"), "{found:?}");
    }
}
