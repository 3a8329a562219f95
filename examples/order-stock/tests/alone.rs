//! The services without the demo around them: as deploy/compose starts them.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::path::{Path, PathBuf};
use std::process::Command;

use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service, until};
use mysql_async::prelude::Queryable as _;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// In one server, but each its own.
const DATABASES: [&str; 3] = ["orders", "stock", "payment"];

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_order-stock").into()
}

fn service(dir: &Path, name: &str, address: Address, arguments: Vec<String>) -> Service {
    let listen = format!("--listen={address}");
    let arguments = [name.to_owned(), listen].into_iter().chain(arguments);
    Service::new(name, program(), arguments, address, dir.join(format!("{name}.log")))
}

/// Under another name than the one that it listens by.
fn name_of(address: &Address) -> String {
    format!("http://localhost:{}", address.socket().port())
}

struct Shop {
    server: Server,
    /// Coordinator, stock, payment, order.
    services: Vec<Service>,
    _dir: TempDir,
    /// Where the order service listens for the coordinator.
    _door: Address,
}

impl Shop {
    async fn open() -> Shop {
        let dir = TempDir::new().unwrap();
        let server = Server::start(ServerOptions::new(Flavor::MariaDb)).await.unwrap();
        for database in DATABASES {
            server.create_database(database).await.unwrap();
        }
        let data_dir = vec!["--data-dir".to_owned(), dir.path().join("data").display().to_string()];
        let coordinator = service(dir.path(), "serve", Address::reserve().unwrap(), data_dir);
        let common = |database: &str| {
            let database = format!("--database={}", server.url(database));
            vec![database, format!("--coordinator={}", coordinator.url()), "--fill".to_owned()]
        };
        let mut names = Vec::new();
        let mut tcc = |name: &str| {
            let address = Address::reserve().unwrap();
            names.push(name_of(&address));
            let mut arguments = common(name);
            arguments.push(format!("--address={}", name_of(&address)));
            service(dir.path(), name, address, arguments)
        };
        let (stock, payment) = (tcc("stock"), tcc("payment"));
        let door = Address::reserve().unwrap();
        let mut arguments = common("orders");
        arguments.push(format!("--listen-participant={door}"));
        arguments.push(format!("--address={}", name_of(&door)));
        arguments.push(format!("--stock={}", names[0]));
        arguments.push(format!("--payment={}", names[1]));
        let order = service(dir.path(), "order", Address::reserve().unwrap(), arguments);
        let mut services = vec![coordinator, stock, payment, order];
        for service in &mut services {
            service.start().await.unwrap();
        }
        Shop { server, services, _dir: dir, _door: door }
    }

    async fn order(&self, qty: i64) -> (StatusCode, Value) {
        let body = json!({"sku": "T00101", "qty": qty, "user": 5}).to_string();
        let url = format!("{}/orders", self.services[3].url());
        let response = Client::new().post(url).body(body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn number(&self, database: &str, sql: &str) -> i64 {
        let mut connection = mysql_async::Conn::from_url(self.server.url(database)).await.unwrap();
        connection.query_first(sql).await.unwrap().unwrap()
    }

    /// What is left of what the orders are about, and of the money.
    async fn left(&self) -> [i64; 2] {
        [
            self.number("stock", "SELECT SUM(available) FROM stock WHERE sku = 'T00101'").await,
            self.number("payment", "SELECT SUM(available) FROM balance WHERE sku = 'user-5'").await,
        ]
    }
}

#[tokio::test]
async fn the_services_stand_alone() {
    let mut shop = Shop::open().await;
    assert_eq!(shop.left().await, [1_000_000, 1_000_000]);
    let (status, order) = shop.order(2).await;
    assert_eq!(status, StatusCode::CREATED, "{order}");
    assert_eq!(shop.left().await, [999_998, 1_000_000 - 2 * 1_999]);
    assert_eq!(shop.number("orders", "SELECT COUNT(*) FROM orders").await, 1);
    let (status, refusal) = shop.order(1_000).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");

    // A second start brings nothing in; and all end in good order.
    for service in &mut shop.services[1..] {
        service.kill9().unwrap();
        service.start().await.unwrap();
    }
    assert_eq!(shop.left().await, [999_998, 1_000_000 - 2 * 1_999]);
    for service in &mut shop.services[1..] {
        assert!(Command::new("kill").arg(service.pid().to_string()).status().unwrap().success());
        let status = until("it ends", async || service.exited()).await.unwrap();
        assert!(status.success(), "{}: {status}", service.name());
    }
}
