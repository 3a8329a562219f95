//! Runs the demo as its reader does, in a short form, and looks at what it says and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

mod running;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use running::{Running, assert_nothing_left, demo, left_running};
use serde_json::Value;
use tempfile::TempDir;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Names of the invariants that are broken.
fn broken(report: &Value) -> Vec<&str> {
    let invariants = report["audit"]["invariants"].as_array().unwrap();
    assert_eq!(invariants.len(), 10, "{report:#}");
    let broken = invariants.iter().filter(|one| one["holds"] != true);
    broken.map(|one| one["name"].as_str().unwrap()).collect()
}

/// All of it, on one kind of server.
fn shows_what_it_promises(db: &str, more: &[&str]) -> Value {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    let arguments = ["--db", db, "--orders", "120", "--buyers", "16", "--json", json.to_str().unwrap()];
    let output = demo(dir.path(), &[&arguments, more].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report = read_json(&json);
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["database"]["flavor"], db);
    let states: Vec<_> =
        report["scenarios"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    let placed = "COMMITTED";
    assert_eq!(states, [placed, "ROLLED_BACK", placed, placed, "ROLLED_BACK", placed, placed]);
    assert!(
        report["scenarios"][1]["reason"].as_str().unwrap().contains("not enough of T00110"),
        "{report:#}"
    );
    assert_eq!(report["scenarios"][4]["reason"], "user 10001 has 1000 cents, not 1999");
    let storm = &report["storm"];
    let (placed, refused) = (storm["placed"].as_u64().unwrap(), storm["refused"].as_u64().unwrap());
    assert_eq!(placed + refused, 120);
    assert!(storm["placed_per_second"].as_f64().unwrap() > 0.0);
    let goods = report["audit"]["goods"].as_array().unwrap();
    let hot = goods.iter().find(|line| line["sku"] == "T00110").unwrap();
    // Nobody's payment is refused, so what is frozen once is sold.
    assert_eq!([&hot["opening"], &hot["ordered"], &hot["left"], &hot["frozen"]], [20, 20, 0, 0], "{hot:#}");
    assert!(refused > 0 && storm["refused_for_stock"] == refused, "{report:#}");
    assert_eq!(report["audit"]["in_doubt"], serde_json::json!([0, 0, 0]));
    assert_eq!(broken(&report), Vec::<&str>::new());
    assert_nothing_left(dir.path());
    report
}

#[test]
fn orders_stock_and_money_stay_together_on_mariadb() {
    let report = shows_what_it_promises("mariadb", &["--seed", "7"]);
    assert_eq!(report["storm"]["seed"], 7);
}

#[test]
fn orders_stock_and_money_stay_together_on_mysql() {
    shows_what_it_promises("mysql", &[]);
}

#[test]
fn they_still_do_when_processes_die_in_the_middle() {
    let report = shows_what_it_promises("mariadb", &["--chaos"]);
    assert_eq!(report["storm"]["log_syncs_per_order"], Value::Null, "the coordinator was not killed");
}

/// Takes one piece from the shelf, past the stock service, without breaking any of the table's constraints.
#[tokio::test]
async fn a_piece_that_vanishes_from_the_stock_is_found() {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    let arguments = ["--db", "mariadb", "--orders", "100", "--json", json.to_str().unwrap()];
    let mut demo = Running::until(dir.path(), &arguments, "3  A request that comes twice");
    let url = format!("mysql://root@127.0.0.1:{}/stock", demo.database_port("stock"));
    let mut stock = mysql_async::Conn::from_url(url).await.unwrap();
    stock
        .query_drop("UPDATE stock SET available = available - 1, on_hand = on_hand - 1 WHERE sku = 'T00109'")
        .await
        .unwrap();
    assert_eq!(stock.affected_rows(), 1);
    drop(stock);
    assert_eq!(demo.wait().code(), Some(1));
    let report = read_json(&json);
    assert_eq!(report["ok"], false);
    assert_eq!(broken(&report), ["what is gone from the stock was ordered", "stock and balances add up"]);
    assert_nothing_left(dir.path());
}

#[test]
fn a_failure_shows_the_logs_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    // This test's own program does not know what a coordinator's flags mean, and says so.
    let no_coordinator = std::env::current_exe().unwrap();
    let arguments = ["--db", "mariadb", "--json", json.to_str().unwrap(), "--concord"];
    let output =
        demo(dir.path(), &[&arguments, &[no_coordinator.to_str().unwrap()][..]].concat()).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the coordinator ended while starting"), "{text}");
    assert!(text.contains("the end of the log: coordinator.log") && text.contains("listen"), "{text}");
    assert_eq!(read_json(&json)["ok"], false);
    assert_nothing_left(dir.path());
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--orders", "10000000"];
    let mut demo = Running::until(dir.path(), &arguments, "10,000,000 random orders");
    assert_eq!(left_running(dir.path()).len(), 4, "three services and a coordinator");
    demo.interrupt();
    assert_eq!(demo.wait().code(), Some(130));
    assert_nothing_left(dir.path());
}

#[test]
fn keep_leaves_everything_running_until_ctrl_c() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--orders", "10", "--keep"];
    let mut demo = Running::until(dir.path(), &arguments, running::KEPT);
    assert_eq!(left_running(dir.path()).len(), 4, "three services and a coordinator");
    demo.interrupt();
    assert!(demo.wait().success());
    assert_nothing_left(dir.path());
}

#[test]
fn the_services_end_when_the_demo_is_killed() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--orders", "10000000"];
    let mut demo = Running::until(dir.path(), &arguments, "10,000,000 random orders");
    assert_eq!(left_running(dir.path()).len(), 4, "three services and a coordinator");
    demo.kill();
    let started = Instant::now();
    while !left_running(dir.path()).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", left_running(dir.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
}
