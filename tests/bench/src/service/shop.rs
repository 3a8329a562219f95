//! Three services, as small as can be: orders by XA, stock and money by TCC, each with its own database.

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use concord_participant::reservations::Reservations;
use concord_participant::{HandlerError, Json, MySql, Options, ParticipantServer, XaBranch};
use concord_sandbox::parent_gone;
use serde::{Deserialize, Serialize};

/// The order's own branch; the bare client runs the same.
pub(crate) const INSERT_ORDER: &str = "INSERT INTO orders (id, sku, qty, user, cents) VALUES (?, ?, ?, ?, ?)";

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Order,
    Stock,
    Payment,
}

impl Part {
    pub(crate) const ALL: [Part; 3] = [Part::Order, Part::Stock, Part::Payment];

    pub(crate) fn slug(self) -> &'static str {
        match self {
            Part::Order => "order",
            Part::Stock => "stock",
            Part::Payment => "payment",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ShopArgs {
    #[arg(long)]
    part: Part,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    database: String,
    #[arg(long)]
    coordinator: String,
}

/// The payload of `place`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) sku: String,
    pub(crate) qty: i64,
    pub(crate) user: String,
    pub(crate) cents: i64,
}

/// SKUs, and users. Many, so that orders seldom wait for each other: this measures what coordination costs.
pub(crate) const SKUS: u32 = 10_000;

pub(crate) fn sku(number: u32) -> String {
    format!("T{number:05}")
}

impl Order {
    /// For a piece or a few of anything.
    pub(crate) fn random() -> Order {
        let sku = || sku(rand::random_range(1..=SKUS));
        Order { sku: sku(), qty: rand::random_range(1..4), user: sku(), cents: rand::random_range(1..5_000) }
    }
}

async fn place(mut branch: XaBranch, Json(order): Json<Order>) -> Result<(), HandlerError> {
    let id = branch.gtid().map(|gtid| gtid.to_string());
    branch.queue(INSERT_ORDER, (id, order.sku, order.qty, order.user, order.cents), 1)?;
    Ok(())
}

pub(super) async fn serve(args: ShopArgs) -> Result<()> {
    let builder = ParticipantServer::builder()
        .database(&args.database)
        .coordinator(&args.coordinator)
        .address(format!("http://{}", args.listen));
    let builder = match args.part {
        Part::Order => builder.xa("place", place),
        Part::Stock | Part::Payment => {
            let goods = Reservations::named(args.part.slug())?;
            goods.migrate(&MySql::connect(&args.database, &Options::default())?).await?;
            builder.tcc("reserve", goods.try_handler(), goods.confirm_handler(), goods.cancel_handler())
        }
    };
    builder.build().await?.serve_until(args.listen, parent_gone()).await?;
    Ok(())
}
