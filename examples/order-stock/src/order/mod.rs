//! The order service: takes orders by HTTP and gRPC, and places each in one global transaction.
//!
//! [`desk`] is the heart: one call to the coordinator. [`http`] and [`grpc`] are its doors. The order's row is
//! written by the service itself, in an XA branch; goods and money are other services' business, by TCC.

pub(crate) mod desk;
pub(crate) mod grpc;
mod http;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use axum::serve::ListenerExt as _;
use clap::Args;
use concord_participant::{HandlerError, Json, ParticipantServer, XaBranch};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use tokio::net::TcpListener;

use crate::demo::catalog::PRICES;
use crate::switches;
use desk::{Desk, NewOrder, Services};

/// What the service is told at its start.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// Where to listen for orders, by HTTP and by gRPC
    #[arg(long)]
    listen: SocketAddr,
    /// Where to listen for the coordinator
    #[arg(long)]
    listen_participant: SocketAddr,
    /// Where the coordinator reaches it there [default: http:// and where it listens for it]
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// URL of the service's own database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// URL of the stock service
    #[arg(long)]
    stock: String,
    /// URL of the payment service
    #[arg(long)]
    payment: String,
    /// Set the demo's prices, where there are none
    #[arg(long)]
    fill: bool,
    /// Where the demo's test switches are; with them it ends when standard input does
    #[arg(long, value_name = "DIR")]
    switches: Option<PathBuf>,
}

/// The XA branch. An order is called after its global transaction.
async fn place(mut branch: XaBranch, Json(order): Json<NewOrder>) -> Result<(), HandlerError> {
    let id = branch.gtid().map(|gtid| gtid.to_string());
    // Queued, so that it goes to the database together with the vote, in one round trip.
    branch.queue(
        "INSERT INTO orders (id, sku, qty, user, cents) VALUES (?, ?, ?, ?, ?)",
        (id, &order.sku, order.qty, order.user, order.cents),
        1,
    )?;
    Ok(())
}

/// Runs the service.
pub(crate) async fn serve(args: OrderArgs) -> Result<()> {
    let database = Pool::from_url(&args.database)?;
    create_tables(&database).await?;
    if args.fill {
        set_prices(&database).await?;
    }
    let address = args.address.unwrap_or_else(|| format!("http://{}", args.listen_participant));
    let participant = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(&address)
        .xa("place", place)
        .build()
        .await?;
    let services = Services { order: address, stock: args.stock, payment: args.payment };
    let desk = Desk::new(&args.coordinator, services, database)?;
    // One port for both doors.
    let doors = grpc::routes(desk.clone())?.merge(http::routes(desk)).fallback(http::not_found);
    let listener = TcpListener::bind(args.listen).await?.tap_io(|tcp| {
        tcp.set_nodelay(true).ok();
    });
    tracing::info!(listen = %args.listen, "order ready");
    let stop = switches::told_to_stop(args.switches.is_some());
    let doors = async { Ok(axum::serve(listener, doors).with_graceful_shutdown(stop).await?) };
    let participant = switches::serve(participant, args.listen_participant, args.switches);
    tokio::try_join!(doors, participant)?;
    Ok(())
}

async fn create_tables(database: &Pool) -> Result<()> {
    let mut connection = database.get_conn().await?;
    connection
        .query_drop(
            "CREATE TABLE IF NOT EXISTS orders (
                 id CHAR(36) CHARACTER SET ascii PRIMARY KEY,
                 sku VARCHAR(64) NOT NULL,
                 qty BIGINT NOT NULL,
                 user INT UNSIGNED NOT NULL,
                 cents BIGINT NOT NULL
             ) ENGINE = InnoDB",
        )
        .await?;
    connection
        .query_drop(
            "CREATE TABLE IF NOT EXISTS price (
                 sku VARCHAR(64) COLLATE utf8mb4_bin PRIMARY KEY,
                 cents BIGINT NOT NULL,
                 CHECK (cents > 0)
             ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
        )
        .await?;
    Ok(())
}

/// Sets those that are missing.
async fn set_prices(database: &Pool) -> Result<()> {
    let sql = "INSERT INTO price (sku, cents) VALUES (?, ?) ON DUPLICATE KEY UPDATE cents = cents";
    Ok(database.get_conn().await?.exec_batch(sql, PRICES).await?)
}
