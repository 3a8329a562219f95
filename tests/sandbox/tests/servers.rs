//! The life of private servers of both products.

use std::time::{Duration, Instant};

use concord_sandbox::{Environment, Error, Flavor, Server, ServerOptions};
use mysql_async::{Conn, Opts, prelude::Queryable};

async fn connect(server: &Server, database: &str) -> Conn {
    Conn::new(Opts::from_url(&server.url(database)).unwrap()).await.unwrap()
}

async fn variable(conn: &mut Conn, name: &str) -> String {
    let value: String = conn.query_first(format!("SELECT CONCAT('', @@{name})")).await.unwrap().unwrap();
    // The products print switches differently.
    if value == "ON" { "1".into() } else { value }
}

async fn sum(server: &Server) -> Option<i64> {
    let mut conn = connect(server, "bank").await;
    conn.query_first("SELECT CAST(SUM(v) AS SIGNED) FROM t").await.unwrap().unwrap()
}

/// Answers queries, is durable, and keeps committed data over a crash, a clean stop and a restart while running.
async fn lives(flavor: Flavor) {
    let server = Server::start(ServerOptions::new(flavor)).await.unwrap();
    assert_eq!(server.flavor(), flavor);
    assert!(server.version() >= flavor.oldest_supported());
    server.create_database("bank").await.unwrap();
    server.create_database("bank").await.unwrap();
    let mut conn = connect(&server, "bank").await;
    let version = variable(&mut conn, "version").await;
    assert_eq!(version.contains("MariaDB"), flavor == Flavor::MariaDb, "{version}");
    for (name, value) in [
        ("innodb_flush_log_at_trx_commit", "1"),
        ("sync_binlog", "1"),
        ("log_bin", "1"),
        ("max_connections", "2000"),
        ("bind_address", "127.0.0.1"),
    ] {
        assert_eq!(variable(&mut conn, name).await, value, "{name}");
    }
    conn.query_drop("CREATE TABLE t (k INT PRIMARY KEY, v INT)").await.unwrap();
    conn.query_drop("INSERT INTO t VALUES (1, 10)").await.unwrap();
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop("INSERT INTO t VALUES (2, 500)").await.unwrap();

    let (port, pid) = (server.port(), server.pid().unwrap());
    server.kill9().unwrap();
    assert_eq!(server.pid(), None);
    assert!(conn.query_drop("COMMIT").await.is_err(), "the server survived SIGKILL");
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), Some(pid));
    assert_eq!(sum(&server).await, Some(10), "committed data lost, or uncommitted data kept");

    server.stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(server.log_tail().to_lowercase().contains("shutdown complete"), "{}", server.log_tail());
    server.restart().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(sum(&server).await, Some(10));

    let data = server.data_dir().unwrap();
    let (run, pid) = (data.parent().unwrap().to_path_buf(), server.pid().unwrap());
    assert!(run.is_dir());
    drop(server);
    assert!(!run.exists(), "{} is left behind", run.display());
    assert!(!is_running(pid), "process {pid} is left behind");
}

#[tokio::test]
async fn mysql_lives() {
    lives(Flavor::MySql).await;
}

#[tokio::test]
async fn mariadb_lives() {
    lives(Flavor::MariaDb).await;
}

#[cfg(target_os = "linux")]
fn is_running(pid: u32) -> bool {
    // A zombie has an empty command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[cfg(not(target_os = "linux"))]
fn is_running(_: u32) -> bool {
    false
}
