//! Orders through Concord, an XA branch and two TCC branches each on three databases, against the same local SQL
//! transactions by a bare client.

use anyhow::{Context as _, Result, ensure};
use concord_participant::reservations::{Reservations, ReserveItem, ReserveItems};
use concord_participant::{LocalDatabase as _, LocalTransaction as _, MySql, Options};
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, GetStatusRequest};
use concord_sandbox::{Flavor, Server, ServerOptions, Service};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use serde_json::json;
use tempfile::TempDir;

use crate::baseline::bare_orders::{bare_orders, placed};
use crate::contest::contest;
use crate::load::{Load, Shape, through};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::service::shop::{Order, Part, SKUS, sku};
use crate::service::{self, channel};
use crate::setup::{MANY, Setup};

const NAME: &str = "order-stock";
/// Of each SKU, and in each account: never too little.
const PLENTY: i64 = 1_000_000_000;

pub(crate) async fn measure_on(setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
    setup.progress.stage(&format!("{NAME}, {flavor} starts"), 0);
    let shop = Shop::open(flavor, setup.binlog).await?;
    let (orders, urls) = (shop.orders(), Part::ALL.map(|part| shop.url(part)));
    let mut concord = through("Concord", &shop.coordinator.url(), MANY, move || orders.random())?;
    let mut same = bare_orders("bare client", &urls, MANY, true).await?;
    let mut plain = bare_orders("bare client, no barrier rows", &urls, MANY, false).await?;
    let load = Load { shape: Shape::Closed(MANY), span: setup.span() };
    let (before, watched) = (placed(), shop.watched()?);
    let what = format!("{NAME}, {MANY} at a time");
    let sides =
        contest(setup, &what, [&mut concord, &mut same, &mut plain], load, setup.rounds(), &watched).await?;
    shop.check(placed() - before).await?;
    let [ours, same, plain] = &sides;
    let outcomes = [
        Outcome::throughput(NAME, ours, same)?.ratio_wanted(Bound::AtLeast(0.6)),
        Outcome::throughput(&format!("{NAME}, bare without barrier rows"), ours, plain)?,
        Outcome::processor_time(NAME, ours, same)
            .detail(&format!("without barrier rows {}", plain.processor_time())),
    ];
    Ok(outcomes.into_iter().map(|outcome| outcome.on(flavor).at(MANY)).collect())
}

/// Services, databases, a coordinator. Fields are dropped in this order.
struct Shop {
    services: Vec<Service>,
    coordinator: Service,
    databases: Vec<Server>,
    _directory: TempDir,
}

impl Shop {
    async fn open(flavor: Flavor, binlog: bool) -> Result<Shop> {
        let directory = Setup::directory()?;
        let coordinator = service::coordinator(directory.path()).await?;
        let (mut services, mut databases) = (Vec::new(), Vec::new());
        for part in Part::ALL {
            let slug = part.slug();
            let server = Server::start(ServerOptions::new(flavor).binlog(binlog)).await?;
            server.create_database(slug).await?;
            let arguments = [
                format!("--part={slug}"),
                format!("--database={}", server.url(slug)),
                format!("--coordinator={}", coordinator.url()),
            ];
            let service = service::start("shop", slug, directory.path(), &arguments).await?;
            fill(part, &server.url(slug)).await?;
            services.push(service);
            databases.push(server);
        }
        Ok(Shop { services, coordinator, databases, _directory: directory })
    }

    fn url(&self, part: Part) -> String {
        self.databases[part as usize].url(part.slug())
    }

    fn watched(&self) -> Result<Watched> {
        let databases: Option<Vec<u32>> = self.databases.iter().map(Server::pid).collect();
        Ok(Watched::new([
            ("databases", databases.context("a private server")?),
            ("services", self.services.iter().map(Service::pid).collect()),
            ("coordinator", vec![self.coordinator.pid()]),
        ]))
    }

    /// Makes orders.
    fn orders(&self) -> Orders {
        Orders { services: self.services.iter().map(Service::url).collect() }
    }

    /// All have done what they were measured at: the coordinator what it says, and bare clients so much.
    async fn check(&self, bare: u64) -> Result<()> {
        let mut operator = OperatorClient::new(channel(&self.coordinator.url())?);
        let orders = operator.get_status(GetStatusRequest {}).await?.into_inner().committed + bare;
        let mut connection = Conn::from_url(self.url(Part::Order)).await?;
        let placed: Option<u64> = connection.query_first("SELECT COUNT(*) FROM orders").await?;
        connection.disconnect().await?;
        ensure!(placed == Some(orders), "{orders} orders were placed, {placed:?} are there");
        for part in [Part::Stock, Part::Payment] {
            let mut tx = MySql::connect(&self.url(part), &Options::default())?.begin().await?;
            let audit = Reservations::named(part.slug())?.audit(&mut tx).await?;
            ensure!(audit.is_clean() && audit.pending_rows == 0 && audit.totals.sold > 0, "{audit}");
        }
        Ok(())
    }
}

/// Makes orders.
struct Orders {
    services: Vec<String>,
}

impl Orders {
    fn random(&self) -> ExecuteRequest {
        let order = Order::random();
        let reserve = |sku: &str, quantity| {
            json!(ReserveItems { items: vec![ReserveItem { sku: sku.to_owned(), quantity }] })
        };
        let branch = |part: Part, kind: BranchKind, action: &str, payload: serde_json::Value| BranchRequest {
            kind: kind.into(),
            participant: self.services[part as usize].clone(),
            action: action.into(),
            payload: payload.to_string().into(),
        };
        let branches = vec![
            branch(Part::Order, BranchKind::Xa, "place", json!(order)),
            branch(Part::Stock, BranchKind::Tcc, "reserve", reserve(&order.sku, order.qty)),
            branch(Part::Payment, BranchKind::Tcc, "reserve", reserve(&order.user, order.cents)),
        ];
        ExecuteRequest { branches, timeout_ms: 60_000, ..ExecuteRequest::default() }
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
