//! A bank's service: all that a service needs to take part in transactions that span databases.
//!
//! Nothing here knows of XIDs, votes, retries or recovery: the handlers run inside an XA branch, and what they
//! do is committed or rolled back together with what the other services did.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use concord_participant::{HandlerError, Json, ParticipantServer, XaBranch};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use serde::{Deserialize, Serialize};

use crate::hold;

/// Why a debit is refused.
pub(crate) const INSUFFICIENT_FUNDS: &str = "insufficient funds";

/// What an account holds when it is opened.
pub(crate) const OPENING_BALANCE: i64 = 1_000;

/// What the bank is told at its start.
#[derive(Debug, Args)]
pub(crate) struct BankArgs {
    /// The bank's name, for its log
    #[arg(long)]
    name: String,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where the coordinator reaches it [default: http:// and where it listens]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// URL of the bank's own database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Open so many accounts, with 1,000 in each, if there are none
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    open_accounts: u32,
    /// Test switch: while this file exists, turn the coordinator's commits away; and end when standard input does
    #[arg(long, value_name = "FILE")]
    hold_commits_while: Option<PathBuf>,
}

/// What is asked of a bank: the payload of `debit` and `credit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The initiator's name for the transfer.
    pub transfer: String,
    /// The account's number.
    pub account: u32,
    /// More than zero.
    pub amount: i64,
}

async fn debit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
    record(&mut branch, &entry, -entry.amount)?;
    // Queued statements travel to the database together with the vote, in one round trip. This one must match
    // one row, else the whole transaction is rolled back, and its initiator is told why.
    branch.queue_or_refuse(
        "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?",
        (entry.amount, entry.account, entry.amount),
        1,
        format!("{INSUFFICIENT_FUNDS} in account {}", entry.account),
    )?;
    Ok(())
}

async fn credit(mut branch: XaBranch, Json(entry): Json<Entry>) -> Result<(), HandlerError> {
    record(&mut branch, &entry, entry.amount)?;
    branch.queue_or_refuse(
        "UPDATE account SET balance = balance + ? WHERE id = ?",
        (entry.amount, entry.account),
        1,
        format!("there is no account {}", entry.account),
    )?;
    Ok(())
}

/// Writes the bank's own ledger, in the same branch.
fn record(branch: &mut XaBranch, entry: &Entry, amount: i64) -> Result<(), HandlerError> {
    let gtid = branch.gtid().map(|gtid| gtid.to_string());
    let sql = "INSERT INTO transfer (gtid, transfer, account, amount) VALUES (?, ?, ?, ?)";
    Ok(branch.queue_any(sql, (gtid, &entry.transfer, entry.account, amount))?)
}

/// Runs the service.
pub(crate) async fn serve(args: BankArgs) -> Result<()> {
    prepare(&args.database, args.open_accounts).await?;
    let bank = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(args.address.unwrap_or_else(|| format!("http://{}", args.listen)))
        .xa("debit", debit)
        .xa("credit", credit)
        // Impatient, for a demo: how often to look for branches left in doubt, and how old they must be.
        .recovery(Duration::from_secs(1), Duration::from_secs(5))
        .build()
        .await?;
    tracing::info!(name = args.name, listen = %args.listen, "bank ready");
    match args.hold_commits_while {
        // What any service says.
        None => Ok(bank.serve(args.listen).await?),
        Some(hold) => hold::serve(bank, args.listen, hold).await,
    }
}

/// Makes the tables, and opens accounts if there are none.
async fn prepare(url: &str, accounts: u32) -> Result<()> {
    let mut connection = Conn::from_url(url).await?;
    create_tables(&mut connection).await?;
    let is_open: Option<u32> = connection.query_first("SELECT id FROM account LIMIT 1").await?;
    if is_open.is_none() {
        open_accounts(&mut connection, accounts, OPENING_BALANCE).await?;
    }
    Ok(connection.disconnect().await?)
}

/// Opens accounts 1 to `count`, with as much money in each.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn open_accounts(connection: &mut Conn, count: u32, balance: i64) -> Result<()> {
    let rows: Vec<String> = (1..=count).map(|number| format!("({number}, {balance})")).collect();
    for some in rows.chunks(1_000) {
        let sql = format!("INSERT INTO account (id, balance) VALUES {}", some.join(", "));
        connection.query_drop(sql).await?;
    }
    Ok(())
}

async fn create_tables(connection: &mut Conn) -> Result<()> {
    connection
        .query_drop(
            "CREATE TABLE IF NOT EXISTS account (
                 id INT UNSIGNED PRIMARY KEY,
                 balance BIGINT NOT NULL,
                 CONSTRAINT never_overdrawn CHECK (balance >= 0)
             ) ENGINE = InnoDB",
        )
        .await?;
    connection
        .query_drop(
            "CREATE TABLE IF NOT EXISTS transfer (
                 id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
                 gtid CHAR(36) CHARACTER SET ascii NOT NULL,
                 transfer VARCHAR(128) NOT NULL,
                 account INT UNSIGNED NOT NULL,
                 amount BIGINT NOT NULL
             ) ENGINE = InnoDB",
        )
        .await?;
    Ok(())
}
