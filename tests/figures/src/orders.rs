//! Orders per second through Concord, an XA branch and two TCC branches each, against the same local SQL
//! transactions by a bare client; and what they cost in processor time.

use anyhow::{Result, ensure};
use concord_participant::reservations::{Reservations, ReserveItem, ReserveItems};
use concord_participant::{LocalDatabase as _, LocalTransaction as _, MySql, Options};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, GetStatusRequest};
use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service};
use hdrhistogram::Histogram;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::bare_orders::Clients;
use crate::contest::Contestant;
use crate::load;
use crate::shop::{Order, Part};
use crate::stage::{Cost, channel, coordinator};
use crate::{Bound, Line};

const CONCURRENCY: usize = 64;
/// SKUs, and users. Many, so that orders seldom wait for each other: this measures what coordination costs.
const SKUS: u32 = 10_000;
/// Of each SKU, and in each account: never too little.
const PLENTY: i64 = 1_000_000_000;

/// Everything that the figure needs. Fields are dropped in this order.
struct Shop {
    services: Vec<Service>,
    coordinator: Service,
    databases: Vec<Server>,
    _directory: tempfile::TempDir,
}

impl Shop {
    async fn open(flavor: Flavor, binlog: bool) -> Result<Shop> {
        // Not the system's temporary directory: that may be memory, where syncs cost nothing.
        let directory = tempfile::Builder::new().prefix("concord-figures-").tempdir_in("/var/tmp")?;
        let coordinator = coordinator(directory.path()).await?;
        let (mut services, mut databases) = (Vec::new(), Vec::new());
        for part in Part::ALL {
            let slug = part.slug();
            let server = Server::start(ServerOptions::new(flavor).binlog(binlog)).await?;
            server.create_database(slug).await?;
            let address = Address::reserve()?;
            let arguments = [
                "shop".to_owned(),
                format!("--part={slug}"),
                format!("--listen={address}"),
                format!("--database={}", server.url(slug)),
                format!("--coordinator={}", coordinator.url()),
            ];
            let log = directory.path().join(format!("{slug}.log"));
            let mut service = Service::new(slug, std::env::current_exe()?, arguments, address, log);
            service.start().await?;
            fill(part, &server.url(slug)).await?;
            services.push(service);
            databases.push(server);
        }
        Ok(Shop { services, coordinator, databases, _directory: directory })
    }

    fn client(&self) -> Result<CoordinatorClient<tonic::transport::Channel>> {
        Ok(CoordinatorClient::new(channel(&self.coordinator.url())?))
    }

    async fn log_syncs(&self) -> Result<u64> {
        let mut operator = OperatorClient::new(channel(&self.coordinator.url())?);
        Ok(operator.get_status(GetStatusRequest {}).await?.into_inner().log_syncs)
    }

    fn url(&self, part: Part) -> String {
        self.databases[part as usize].url(part.slug())
    }

    fn cost(&self) -> Result<Cost> {
        Cost::so_far(&self.databases, &self.services, &self.coordinator)
    }

    fn request(&self) -> Result<ExecuteRequest> {
        let order = random_order();
        let reserve = |sku: &str, quantity| {
            serde_json::to_vec(&ReserveItems { items: vec![ReserveItem { sku: sku.to_owned(), quantity }] })
        };
        let branch = |part: Part, kind: BranchKind, action: &str, payload: Vec<u8>| BranchRequest {
            kind: kind.into(),
            participant: self.services[part as usize].url(),
            action: action.into(),
            payload: payload.into(),
        };
        let branches = vec![
            branch(Part::Order, BranchKind::Xa, "place", serde_json::to_vec(&order)?),
            branch(Part::Stock, BranchKind::Tcc, "reserve", reserve(&order.sku, order.qty)?),
            branch(Part::Payment, BranchKind::Tcc, "reserve", reserve(&order.user, order.cents)?),
        ];
        Ok(ExecuteRequest { branches, timeout_ms: 60_000, ..ExecuteRequest::default() })
    }
}

async fn fill(part: Part, url: &str) -> Result<()> {
    if part == Part::Order {
        let mut connection = Conn::from_url(url).await?;
        let sql = "CREATE TABLE orders (id CHAR(36) CHARACTER SET ascii PRIMARY KEY, sku VARCHAR(64) NOT NULL, \
                   qty BIGINT NOT NULL, user VARCHAR(64) NOT NULL, cents BIGINT NOT NULL) ENGINE = InnoDB";
        connection.query_drop(sql).await?;
        return Ok(connection.disconnect().await?);
    }
    let (goods, database) = (Reservations::named(part.slug())?, MySql::connect(url, &Options::default())?);
    let mut tx = database.begin().await?;
    for number in 1..=SKUS {
        goods.add(&mut tx, &sku(number), PLENTY).await?;
    }
    Ok(tx.commit().await?)
}

fn sku(number: u32) -> String {
    format!("T{number:05}")
}

/// For a piece or a few of anything.
pub(crate) fn random_order() -> Order {
    let sku = || sku(rand::random_range(1..=SKUS));
    Order { sku: sku(), qty: rand::random_range(1..4), user: sku(), cents: rand::random_range(1..5_000) }
}

pub(crate) async fn measure(flavor: Flavor, binlog: bool, orders: usize, rounds: usize) -> Result<Vec<Line>> {
    let shop = Shop::open(flavor, binlog).await?;
    let mut clients = Clients::connect(&Part::ALL.map(|part| shop.url(part)), CONCURRENCY).await?;
    // Everything is warm and connected after this.
    through(&shop, orders / 2).await?;
    clients.run(orders / 2, true).await?;
    let mut latency = Histogram::<u64>::new(3)?;
    let [mut concord, mut same, mut plain] = <[Contestant; 3]>::default();
    let mut syncs = 0;
    for _ in 0..rounds {
        let (before, synced) = (shop.cost()?, shop.log_syncs().await?);
        let run = through(&shop, orders).await?;
        latency.add(&run.latency)?;
        concord.rates.push(run.per_second);
        syncs += shop.log_syncs().await? - synced;
        let second = shop.cost()?;
        same.rates.push(clients.run(orders, true).await?);
        let third = shop.cost()?;
        plain.rates.push(clients.run(orders, false).await?);
        concord.cost.add(before, second);
        same.cost.add(second, third);
        plain.cost.add(third, shop.cost()?);
    }
    check(&shop, orders * (rounds * 3 + 1)).await?;
    let count = (rounds * orders) as f64;
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let line = |figure: &str, value, unit, wanted, detail| Line {
        figure: figure.to_owned(),
        database: flavor.to_string(),
        value,
        unit,
        wanted,
        detail,
    };
    let (ratio_same, detail_same) = concord.against(&same);
    let (ratio_plain, detail_plain) = concord.against(&plain);
    let costs = [("through Concord", &concord), ("bare", &same), ("without barrier", &plain)];
    let costs = costs.map(|(name, one)| format!("{name} {}", one.cost.per_transfer(count)));
    Ok(vec![
        line(
            "orders, Concord / bare client, same SQL",
            ratio_same,
            "ratio",
            Some(Bound::AtLeast(0.6)),
            detail_same,
        ),
        line("orders, Concord / bare, no barrier rows", ratio_plain, "ratio", None, detail_plain),
        line("log syncs per order, 64 at a time", syncs as f64 / count, "syncs", None, String::new()),
        line("p99 latency of orders at 64 at a time", ms(0.99), "ms", None, format!("p50 {:.1} ms", ms(0.5))),
        line(
            "processor time of an order, bare / Concord",
            same.cost.total() / concord.cost.total(),
            "ratio",
            None,
            format!("per order: {}", costs.join("; ")),
        ),
    ])
}

/// Both sides have done what they were measured at.
async fn check(shop: &Shop, orders: usize) -> Result<()> {
    let mut connection = Conn::from_url(shop.url(Part::Order)).await?;
    let placed: Option<usize> = connection.query_first("SELECT COUNT(*) FROM orders").await?;
    connection.disconnect().await?;
    ensure!(placed == Some(orders), "{orders} orders were placed, {placed:?} are there");
    for part in [Part::Stock, Part::Payment] {
        let mut tx = MySql::connect(&shop.url(part), &Options::default())?.begin().await?;
        let audit = Reservations::named(part.slug())?.audit(&mut tx).await?;
        ensure!(audit.is_clean() && audit.pending_rows == 0 && audit.totals.sold > 0, "{audit}");
    }
    Ok(())
}

/// Places orders through the coordinator.
async fn through(shop: &Shop, orders: usize) -> Result<load::Run> {
    let requests: Result<Vec<_>> = (0..orders).map(|_| shop.request()).collect();
    load::execute(&shop.client()?, CONCURRENCY, requests?).await
}
