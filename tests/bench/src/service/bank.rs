//! A bank service, as small as can be: one update and one ledger row per branch, in one round trip.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use concord_participant::{HandlerError, Json, ParticipantServer, XaBranch};
use concord_sandbox::parent_gone;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tower::filter::FilterLayer;

/// Accounts of each bank. Many, so that transfers seldom wait for each other: this measures the coordinator.
pub(crate) const ACCOUNTS: u32 = 100_000;

/// The statements of a branch; the bare clients run the same.
const UPDATE: &str = "UPDATE account SET balance = balance + ? WHERE id = ? AND balance + ? >= 0";
const LEDGER: &str = "INSERT INTO ledger (account, amount) VALUES (?, ?)";

/// How often the bank looks for branches left prepared, the SDK's default, and how old it lets them become before it ends
/// them by itself: never here, where the coordinator's part in it is measured.
const RECOVERY_EVERY: Duration = Duration::from_secs(10);
const RECOVERY_AFTER: Duration = Duration::from_secs(3_600);

/// The path under which gRPC calls the method.
const COMMIT: &str = "/concord.v1.Participant/Commit";

#[derive(Debug, Args)]
pub(crate) struct BankArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    database: String,
    #[arg(long)]
    coordinator: String,
    /// While this file exists, commits are turned away
    #[arg(long)]
    hold: PathBuf,
    #[arg(long)]
    sessions_max: usize,
}

/// A branch's share of a transfer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) account: u32,
    pub(crate) amount: i64,
}

impl Share {
    /// Of a random transfer: what each bank has to do.
    pub(crate) fn random_pair() -> [Share; 2] {
        let account = || rand::random_range(1..=ACCOUNTS);
        Share::pair([account(), account()])
    }

    /// Of a transfer from an account of one bank to an account of the other.
    pub(crate) fn pair([from, to]: [u32; 2]) -> [Share; 2] {
        let amount = rand::random_range(1..10);
        [Share { account: from, amount: -amount }, Share { account: to, amount }]
    }
}

/// What a branch runs, as text.
pub(crate) fn book_sql(Share { account, amount }: &Share) -> String {
    let ledger = fill(LEDGER, &[i64::from(*account), *amount]);
    format!("{ledger}; {}", fill(UPDATE, &[*amount, i64::from(*account), *amount]))
}

fn fill(sql: &str, values: &[i64]) -> String {
    values.iter().fold(sql.to_owned(), |sql, value| sql.replacen('?', &value.to_string(), 1))
}

async fn book(mut branch: XaBranch, Json(share): Json<Share>) -> Result<(), HandlerError> {
    branch.queue_any(LEDGER, (share.account, share.amount))?;
    // Last, so that the number of rows is checked together with the marker row.
    branch.queue_or_refuse(UPDATE, (share.amount, share.account, share.amount), 1, "insufficient funds")?;
    Ok(())
}

pub(super) async fn serve(args: BankArgs) -> Result<()> {
    let bank = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(format!("http://{}", args.listen))
        .sessions_max(args.sessions_max)
        .recovery(RECOVERY_EVERY, RECOVERY_AFTER)
        .xa("book", book)
        .build()
        .await?;
    let held = watch::Sender::new(args.hold.exists());
    let turn_commits_away = {
        let held = held.subscribe();
        move |request: Request<_>| match request.uri().path() == COMMIT && *held.borrow() {
            true => Err(Status::unavailable("commits are held back")),
            false => Ok(request),
        }
    };
    let server = Server::builder()
        .tcp_nodelay(true)
        .layer(FilterLayer::new(turn_commits_away))
        .add_service(bank.service())
        .serve_with_shutdown(args.listen, parent_gone());
    let held = &held;
    tokio::select! {
        served = server => served?,
        // Looked at once in a while rather than once a call: a file system call per commit would be measured too.
        () = async {
            loop {
                held.send_if_modified(|held| std::mem::replace(held, args.hold.exists()) != *held);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } => {}
        () = attach_unless_held(&bank, held) => {}
    }
    bank.shutdown().await;
    Ok(())
}

/// Commits can be turned away at the bank's address only, so it leaves its stream meanwhile.
async fn attach_unless_held(bank: &ParticipantServer, held: &watch::Sender<bool>) {
    let until = |wanted: bool| {
        let mut held = held.subscribe();
        async move {
            // The sender outlives this.
            held.wait_for(|held| *held == wanted).await.ok();
        }
    };
    loop {
        until(false).await;
        bank.attach_until(until(true)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_clients_statements_are_the_banks() {
        assert_eq!(
            book_sql(&Share { account: 7, amount: -3 }),
            "INSERT INTO ledger (account, amount) VALUES (7, -3); \
             UPDATE account SET balance = balance + -3 WHERE id = 7 AND balance + -3 >= 0"
        );
    }
}
