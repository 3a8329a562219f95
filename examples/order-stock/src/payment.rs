//! The payment service: Try freezes money of a user, Confirm takes it, Cancel gives it back.
//!
//! Money is reserved with the same module as stock: an account is an SKU, and cents are its quantity. Its
//! handlers are written out here, for they have a payload and refusals of their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_participant::reservations::{ReservationError, Reservations};
use concord_participant::{HandlerError, Json, MySql, ParticipantServer, TccBranch};
use mysql_async::Pool;
use serde::{Deserialize, Serialize};

use crate::fill::{fill, money};
use crate::switches;

/// What the service is told at its start.
#[derive(Debug, Args)]
pub(crate) struct PaymentArgs {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where the coordinator reaches it [default: http:// and where it listens]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// URL of the service's own database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Open the demo's accounts, where there are none
    #[arg(long)]
    fill: bool,
    /// Where the demo's test switches are; with them it ends when standard input does
    #[arg(long, value_name = "DIR")]
    switches: Option<PathBuf>,
}

/// What is asked of the service: the payload of `pay`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payment {
    /// Whose money.
    pub user: u32,
    /// How much. More than zero.
    pub cents: i64,
}

/// The name of a user's account.
pub(crate) fn account(user: u32) -> String {
    format!("user-{user}")
}

async fn freeze(
    balance: Reservations,
    mut branch: TccBranch<MySql>,
    payment: Payment,
) -> Result<(), HandlerError> {
    let Payment { user, cents } = payment;
    match balance.reserve(&mut branch, &[(account(user), cents)]).await {
        // A refusal ends the whole order, with these words. Any other error is tried again.
        Err(ReservationError::UnknownSku(_)) => {
            Err(HandlerError::refused(format!("there is no user {user}")))
        }
        Err(ReservationError::Short { available, .. }) => {
            Err(HandlerError::refused(format!("user {user} has {available} cents, not {cents}")))
        }
        other => Ok(other?),
    }
}

async fn take(balance: Reservations, mut branch: TccBranch<MySql>) -> Result<(), HandlerError> {
    Ok(balance.confirm(&mut branch).await?)
}

async fn give_back(balance: Reservations, mut branch: TccBranch<MySql>) -> Result<(), HandlerError> {
    Ok(balance.cancel(&mut branch).await?)
}

/// Runs the service.
pub(crate) async fn serve(args: PaymentArgs) -> Result<()> {
    let balance = Reservations::named("balance")?;
    let database = Pool::from_url(&args.database)?;
    balance.migrate(&database).await?;
    if args.fill {
        fill(&database, &balance, money()).await?;
    }
    let [first, second, third] = [balance.clone(), balance.clone(), balance];
    let service = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(args.address.unwrap_or_else(|| format!("http://{}", args.listen)))
        .tcc(
            "pay",
            move |branch, Json(payment)| freeze(first.clone(), branch, payment),
            move |branch, Json::<Payment>(_)| take(second.clone(), branch),
            move |branch, Json::<Payment>(_)| give_back(third.clone(), branch),
        )
        .build()
        .await?;
    tracing::info!(listen = %args.listen, "payment ready");
    switches::serve(service, args.listen, args.switches).await
}
