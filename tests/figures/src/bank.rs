//! A bank service, as small as can be: one update and one ledger row per branch, in one round trip.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_participant::{HandlerError, Json, ParticipantServer, XaBranch};
use concord_sandbox::parent_gone;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tower::filter::FilterLayer;

/// The statements of a branch; the bare client runs the same.
pub(crate) const UPDATE: &str = "UPDATE account SET balance = balance + ? WHERE id = ? AND balance + ? >= 0";
pub(crate) const LEDGER: &str = "INSERT INTO ledger (account, amount) VALUES (?, ?)";

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

async fn book(mut branch: XaBranch, Json(share): Json<Share>) -> Result<(), HandlerError> {
    branch.queue_any(LEDGER, (share.account, share.amount))?;
    // Last, so that the number of rows is checked together with the marker row.
    branch.queue_or_refuse(UPDATE, (share.amount, share.account, share.amount), 1, "insufficient funds")?;
    Ok(())
}

pub(crate) async fn serve(args: BankArgs) -> Result<()> {
    let bank = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(format!("http://{}", args.listen))
        .sessions_max(args.sessions_max)
        .xa("book", book)
        .build()
        .await?;
    let hold = args.hold;
    // Looked at once in a while rather than once a call: a file system call per commit would be measured too.
    let held = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(hold.exists()));
    let watched = std::sync::Arc::clone(&held);
    tokio::spawn(async move {
        loop {
            watched.store(hold.exists(), std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let turn_commits_away = move |request: Request<_>| match request.uri().path() == COMMIT
        && held.load(std::sync::atomic::Ordering::Relaxed)
    {
        true => Err(Status::unavailable("commits are held back")),
        false => Ok(request),
    };
    Server::builder()
        .tcp_nodelay(true)
        .layer(FilterLayer::new(turn_commits_away))
        .add_service(bank.service())
        .serve_with_shutdown(args.listen, parent_gone())
        .await?;
    bank.shutdown().await;
    Ok(())
}
