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

use crate::switches;

/// What the service is told at its start.
#[derive(Debug, Args)]
pub(crate) struct StockArgs {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// URL of the service's own database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Where the demo's test switches are
    #[arg(long)]
    switches: PathBuf,
}

/// Runs the service.
pub(crate) async fn serve(args: StockArgs) -> Result<()> {
    let stock = Reservations::named("stock")?;
    stock.migrate(&Pool::from_url(&args.database)?).await?;
    let service = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(format!("http://{}", args.listen))
        .tcc("reserve", stock.try_handler(), stock.confirm_handler(), stock.cancel_handler())
        .build()
        .await?;
    tracing::info!(listen = %args.listen, "stock ready");
    // A service without test switches says: service.serve(args.listen).await
    switches::serve(service, args.listen, args.switches).await
}
