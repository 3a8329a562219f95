//! Four transfers that show what holds, whatever dies.

use anyhow::{Result, ensure};
use concord_proto::v1::{BranchState, Transaction, TransactionState, Wait};
use serde::Serialize;

use super::account::{Account, Bank, Transfer};
use super::initiator::is_committed;
use super::record::Outcome;
use super::say;
use super::stage::Stage;

/// Alice banks at A, Bob at B.
const ALICE: Account = Account { bank: Bank::A, number: 1 };
const BOB: Account = Account { bank: Bank::B, number: 1 };

/// What became of one of them.
#[derive(Debug, Serialize)]
pub(crate) struct Scenario {
    /// In a few words.
    pub name: &'static str,
    /// The global transaction.
    pub gtid: String,
    /// Its state in the end.
    pub state: String,
    /// Why it was rolled back; empty when it was not.
    pub reason: String,
    /// What moved, as text.
    pub transfer: String,
    /// How much.
    pub amount: i64,
}

/// Balances of the two accounts, Alice's first.
type Balances = [i64; 2];

/// Runs all four.
///
/// # Errors
/// When one does not end as it must.
pub(crate) async fn run(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Vec<Scenario>> {
    Ok(vec![
        success(stage, record).await?,
        refusal(stage, record).await?,
        bank_killed(stage, record).await?,
        coordinator_killed(stage, record).await?,
    ])
}

async fn success(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("1  A transfer of 100, from account A-1 to account B-1");
    let before = balances(stage).await?;
    let transfer = transfer("success", 100);
    let ended = stage.initiator.transfer(&transfer, Wait::Completed).await?;
    ensure!(is_committed(&ended), "it should have been committed: {ended:?}");
    say::line("Both banks do their work and vote in one call each, in parallel. Both votes are yes, so the");
    say::line("coordinator writes the decision to its disk; only then does it tell the banks to commit.");
    moved(stage, before, transfer.amount).await?;
    Ok(conclude("successful", &transfer, ended, record))
}

async fn refusal(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("2  A transfer of 5,000: more than there is in A-1");
    let before = balances(stage).await?;
    let transfer = transfer("refusal", 5_000);
    let ended = stage.initiator.transfer(&transfer, Wait::Completed).await?;
    ensure!(!is_committed(&ended), "it should have been refused: {ended:?}");
    say::line("Bank A votes no. Bank B may have credited B-1 by then, but only inside its prepared branch,");
    say::line("which is rolled back.");
    say::line(format!("The reason given: {}", ended.reason));
    moved(stage, before, 0).await?;
    Ok(conclude("refused", &transfer, ended, record))
}

async fn bank_killed(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("3  Bank B is killed -9 after its vote, before the commit reaches it");
    let before = balances(stage).await?;
    let transfer = transfer("bank-killed", 100);
    let (a, b) = (Bank::A.index(), Bank::B.index());
    stage.banks[b].hold_commits()?;
    let decided = stage.initiator.transfer(&transfer, Wait::Decided).await?;
    ensure!(is_committed(&decided), "it should have been committed: {decided:?}");
    say::line("Both have voted yes and the decision is on the coordinator's disk: the initiator is told");
    say::line("\"committed\". Bank A commits; at bank B a test switch turns the commit away at the door.");
    let knocked = |seen: &Transaction| is(seen, a, BranchState::Committed) && seen.branches[b].attempts > 0;
    stage.initiator.watch(&decided.gtid, "A has committed and B was asked to", knocked).await?;
    let pid = stage.banks[b].process.pid();
    stage.banks[b].process.kill9()?;
    let [alice, bob] = balances(stage).await?;
    say::line(format!(
        "kill -9 {pid}. Bank B's database still has the branch, prepared: XA RECOVER lists {}.",
        stage.books[b].in_doubt().await?
    ));
    say::line(format!("Meanwhile A-1 has {}, and B-1 still {}.", say::thousands(alice), say::thousands(bob)));
    stage.banks[b].release_commits()?;
    stage.banks[b].process.start().await?;
    let ended = stage.initiator.watch(&decided.gtid, "it is committed everywhere", has_ended).await?;
    say::line(format!(
        "Bank B is back (process {}), and what it finds prepared is committed as decided: {}.",
        stage.banks[b].process.pid(),
        state_name(&ended)
    ));
    moved(stage, before, transfer.amount).await?;
    Ok(conclude("bank B killed -9 after its vote", &transfer, ended, record))
}

async fn coordinator_killed(stage: &mut Stage, record: &mut Vec<Outcome>) -> Result<Scenario> {
    say::headline("4  The coordinator is killed -9 after the decision");
    let before = balances(stage).await?;
    let transfer = transfer("coordinator-killed", 100);
    for bank in &stage.banks {
        bank.hold_commits()?;
    }
    let decided = stage.initiator.transfer(&transfer, Wait::Decided).await?;
    ensure!(is_committed(&decided), "it should have been committed: {decided:?}");
    let epoch = stage.initiator.status().await?.epoch;
    let pid = stage.coordinator.pid();
    stage.coordinator.kill9()?;
    let [in_a, in_b] = stage.in_doubt().await?;
    say::line("The initiator was told \"committed\", and no bank has heard of it: both turn commits away.");
    say::line(format!(
        "kill -9 {pid}. XA RECOVER lists {in_a} at bank A and {in_b} at bank B: in doubt, with"
    ));
    say::line("their locks held, until somebody who knows the decision comes back.");
    for bank in &stage.banks {
        bank.release_commits()?;
    }
    stage.coordinator.start().await?;
    let epoch_now = stage.initiator.status().await?.epoch;
    let ended = stage.initiator.watch(&decided.gtid, "it is committed everywhere", has_ended).await?;
    say::line(format!(
        "The coordinator is back (process {}, epoch {epoch} -> {epoch_now}), finds the decision on its",
        stage.coordinator.pid()
    ));
    say::line(format!("disk and delivers it: {}.", state_name(&ended)));
    let repeated = stage.initiator.transfer(&transfer, Wait::Completed).await?;
    ensure!(repeated.gtid == ended.gtid, "the key should have led to the same transaction: {repeated:?}");
    say::line(
        "An initiator that is not sure asks again, with the same idempotency key: the same transaction",
    );
    say::line("answers, and no money moves twice.");
    moved(stage, before, transfer.amount).await?;
    Ok(conclude("coordinator killed -9 after the decision", &transfer, ended, record))
}

fn transfer(key: &str, amount: i64) -> Transfer {
    Transfer { key: key.to_owned(), from: ALICE, to: BOB, amount }
}

async fn balances(stage: &Stage) -> Result<Balances> {
    let [a, b] = &stage.books;
    Ok([a.balance(ALICE.number).await?, b.balance(BOB.number).await?])
}

/// Shows the balances, and sees to it that they are right.
async fn moved(stage: &Stage, before: Balances, amount: i64) -> Result<()> {
    let after = balances(stage).await?;
    let shown = |index: usize| match before[index] == after[index] {
        true => format!("{}, unchanged", say::thousands(after[index])),
        false => format!("{} -> {}", say::thousands(before[index]), say::thousands(after[index])),
    };
    say::line(format!("A-1: {}   B-1: {}", shown(0), shown(1)));
    ensure!(
        after == [before[0] - amount, before[1] + amount],
        "{amount} should have moved: {before:?} {after:?}"
    );
    Ok(())
}

fn conclude(
    name: &'static str,
    transfer: &Transfer,
    ended: Transaction,
    record: &mut Vec<Outcome>,
) -> Scenario {
    record.push(Outcome::new(transfer.clone(), &ended));
    Scenario {
        name,
        state: state_name(&ended).to_owned(),
        gtid: ended.gtid,
        reason: ended.reason,
        transfer: format!("{} to {}", transfer.from, transfer.to),
        amount: transfer.amount,
    }
}

fn is(transaction: &Transaction, branch: usize, state: BranchState) -> bool {
    transaction.branches.get(branch).is_some_and(|branch| branch.state() == state)
}

fn has_ended(transaction: &Transaction) -> bool {
    transaction.state() == TransactionState::Committed
}

fn state_name(transaction: &Transaction) -> &'static str {
    transaction.state().as_str_name().trim_start_matches("TRANSACTION_STATE_")
}
