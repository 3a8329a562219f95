//! The stock service: Try freezes goods, Confirm takes them out of the stock, Cancel makes them available again.
//!
//! The tables and all three handlers are the SDK's: what is left is to say what they are called.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use concord_participant::ParticipantServer;
use concord_participant::reservations::Reservations;
use mysql_async::Pool;

use crate::fill::{fill, goods};
use crate::switches;

/// What the service is told at its start.
#[derive(Debug, Args)]
pub(crate) struct StockArgs {
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
    /// Bring in the demo's goods, where there are none
    #[arg(long)]
    fill: bool,
    /// Where the demo's test switches are; with them it ends when standard input does
    #[arg(long, value_name = "DIR")]
    switches: Option<PathBuf>,
}

/// Runs the service.
pub(crate) async fn serve(args: StockArgs) -> Result<()> {
    let stock = Reservations::named("stock")?;
    let database = Pool::from_url(&args.database)?;
    stock.migrate(&database).await?;
    if args.fill {
        fill(&database, &stock, goods()).await?;
    }
    let service = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(args.address.unwrap_or_else(|| format!("http://{}", args.listen)))
        .tcc("reserve", stock.try_handler(), stock.confirm_handler(), stock.cancel_handler())
        .build()
        .await?;
    tracing::info!(listen = %args.listen, "stock ready");
    switches::serve(service, args.listen, args.switches).await
}
