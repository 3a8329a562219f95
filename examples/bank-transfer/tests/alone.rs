//! A bank without the demo around it: as deploy/compose starts it.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, TransactionState};
use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service, until};
use mysql_async::prelude::Queryable as _;
use tempfile::TempDir;

/// The user of the compose files, with the rights that they give.
const RIGHTS: [&str; 3] = [
    "CREATE USER bank@'%' IDENTIFIED BY 'secret'",
    "GRANT ALL ON bank.* TO bank@'%'",
    "GRANT XA_RECOVER_ADMIN ON *.* TO bank@'%'",
];

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_bank-transfer").into()
}

async fn coordinator(dir: &Path) -> Service {
    let (address, data) = (Address::reserve().unwrap(), dir.join("data"));
    let listen = address.to_string();
    let arguments = ["serve", "--listen", &listen, "--data-dir", data.to_str().unwrap()];
    let log = dir.join("coordinator.log");
    let mut coordinator = Service::new("the coordinator", program(), arguments, address, log);
    coordinator.start().await.unwrap();
    coordinator
}

/// Under another name than the one that it listens by.
fn bank(dir: &Path, server: &Server, coordinator: &Service) -> (Service, String) {
    let address = Address::reserve().unwrap();
    let (listen, port) = (address.to_string(), address.socket().port());
    let url = format!("http://localhost:{port}");
    // By TCP, as from another machine: MySQL is particular about passwords on it.
    let database = format!("mysql://bank:secret@127.0.0.1:{}/bank?prefer_socket=false", server.port());
    let (name, by_url) = (format!("--address={url}"), format!("--coordinator={}", coordinator.url()));
    let (listen, database) = (format!("--listen={listen}"), format!("--database={database}"));
    let arguments = ["bank", "--name=A", "--open-accounts=3", &listen, &name, &database, &by_url];
    (Service::new("the bank", program(), arguments, address, dir.join("bank.log")), url)
}

async fn balances(server: &Server) -> Vec<i64> {
    let mut connection = mysql_async::Conn::from_url(server.url("bank")).await.unwrap();
    connection.query("SELECT balance FROM account ORDER BY id").await.unwrap()
}

fn entry(participant: &str, action: &str, account: u32) -> BranchRequest {
    let payload = format!(r#"{{"transfer": "first", "account": {account}, "amount": 100}}"#);
    BranchRequest {
        kind: BranchKind::Xa.into(),
        participant: participant.to_owned(),
        action: action.to_owned(),
        payload: payload.into_bytes().into(),
    }
}

#[tokio::test]
async fn a_bank_stands_alone_with_a_password_and_a_name() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(ServerOptions::new(Flavor::MySql)).await.unwrap();
    server.create_database("bank").await.unwrap();
    let mut root = mysql_async::Conn::from_url(server.url("bank")).await.unwrap();
    for right in RIGHTS {
        root.query_drop(right).await.unwrap();
    }
    let coordinator = coordinator(dir.path()).await;
    let (mut bank, url) = bank(dir.path(), &server, &coordinator);
    bank.start().await.unwrap();
    assert_eq!(balances(&server).await, [1_000; 3]);

    let mut client = CoordinatorClient::connect(coordinator.url()).await.unwrap();
    let branches = vec![entry(&url, "debit", 1), entry(&url, "credit", 2)];
    let request = ExecuteRequest { branches, ..Default::default() };
    let transaction = client.execute(request).await.unwrap().into_inner().transaction.unwrap();
    assert_eq!(transaction.state(), TransactionState::Committed, "{transaction:?}");
    assert_eq!(balances(&server).await, [900, 1_100, 1_000]);

    // A second start opens no accounts; and it ends in good order.
    bank.kill9().unwrap();
    bank.start().await.unwrap();
    assert_eq!(balances(&server).await, [900, 1_100, 1_000]);
    assert!(Command::new("kill").arg(bank.pid().to_string()).status().unwrap().success());
    let status = until("the bank ends", async || bank.exited()).await.unwrap();
    assert!(status.success(), "{status}");
    tokio::time::timeout(Duration::from_secs(60), root.disconnect()).await.unwrap().unwrap();
}
