//! The life of private servers of both products.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::time::{Duration, Instant};

use concord_sandbox::{Error, Flavor, Server, ServerOptions};
use mysql_async::{Conn, Opts, prelude::Queryable};

async fn connect(server: &Server, database: &str) -> Conn {
    Conn::new(Opts::from_url(&server.url(database)).unwrap()).await.unwrap()
}

async fn variable(conn: &mut Conn, name: &str) -> String {
    let value: String = conn.query_first(format!("SELECT CONCAT('', @@{name})")).await.unwrap().unwrap();
    // The products print switches differently.
    match value.as_str() {
        "ON" => "1".into(),
        "OFF" => "0".into(),
        _ => value,
    }
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

#[tokio::test]
async fn without_binlog_and_with_own_arguments() {
    for flavor in Flavor::ALL {
        let options = ServerOptions::new(flavor)
            .binlog(false)
            .max_connections(77)
            .arg("--innodb-lock-wait-timeout=3")
            .arg("--innodb-flush-log-at-trx-commit=2");
        let server = Server::start(options).await.unwrap();
        let mut conn = connect(&server, "").await;
        for (name, value) in [
            ("log_bin", "0"),
            ("max_connections", "77"),
            ("innodb_lock_wait_timeout", "3"),
            // The caller's word is the last.
            ("innodb_flush_log_at_trx_commit", "2"),
        ] {
            assert_eq!(variable(&mut conn, name).await, value, "{flavor} {name}");
        }
    }
}

#[tokio::test]
async fn servers_started_at_the_same_time_are_different_ones() {
    let start = || Server::start(ServerOptions::new(Flavor::MariaDb));
    let (a, b, c) = tokio::join!(start(), start(), start());
    let servers = [a.unwrap(), b.unwrap(), c.unwrap()];
    let mut identities = Vec::new();
    for server in &servers {
        let mut conn = connect(server, "").await;
        identities.push((variable(&mut conn, "server_id").await, variable(&mut conn, "datadir").await));
    }
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), 3, "{identities:?}");
}

#[tokio::test]
async fn two_mysql_servers_do_not_share_an_identity() {
    let start = || Server::start(ServerOptions::new(Flavor::MySql));
    let (a, b) = tokio::join!(start(), start());
    let (a, b) = (a.unwrap(), b.unwrap());
    let one = variable(&mut connect(&a, "").await, "server_uuid").await;
    let other = variable(&mut connect(&b, "").await, "server_uuid").await;
    assert_ne!(one, other);
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_goes_on() {
    let server = Server::start(ServerOptions::new(Flavor::MariaDb)).await.unwrap();
    let mut conn = connect(&server, "").await;
    server.pause().unwrap();
    server.pause().unwrap();
    {
        let query = conn.query_first::<u8, _>("SELECT 1");
        tokio::pin!(query);
        let early = tokio::time::timeout(Duration::from_millis(500), &mut query).await;
        assert!(early.is_err(), "a frozen server answered");
        server.resume().unwrap();
        assert_eq!(query.await.unwrap(), Some(1));
    }
    // A frozen server can be stopped, too.
    server.pause().unwrap();
    server.stop().await.unwrap();
    assert!(matches!(server.pause(), Err(Error::NotRunning { .. })));
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    for flavor in Flavor::ALL {
        let started = Instant::now();
        let error = Server::start(ServerOptions::new(flavor).arg("--no-such-option=1")).await.unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error:?}");
        assert!(error.to_string().contains("no-such-option"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "it waited although the server was gone");
    }
}

#[test]
fn a_plain_main_needs_no_runtime() {
    let server = Server::start_blocking(ServerOptions::new(Flavor::MariaDb)).unwrap();
    server.kill9().unwrap();
    server.kill9().unwrap();
    server.stop_blocking().unwrap();
    server.restart_blocking().unwrap();
    assert!(server.pid().is_some());
}

#[tokio::test]
async fn a_foreign_listener_on_the_port_of_a_killed_server_is_an_error_and_not_an_answer() {
    let options = ServerOptions::new(Flavor::MariaDb);
    let (ours, other) =
        (Server::start(options.clone()).await.unwrap(), Server::start(options).await.unwrap());
    ours.kill9().unwrap();
    let proxy = tokio::net::TcpListener::bind(("127.0.0.1", ours.port())).await.unwrap();
    let target = other.port();
    // The port now leads to another server, which answers queries, but has not our data.
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut inbound, _) = proxy.accept().await.unwrap();
            tokio::spawn(async move {
                let mut outbound = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await.ok();
            });
        }
    });
    let waiting = ours.clone();
    let restart = tokio::spawn(async move { waiting.restart().await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!restart.is_finished(), "it took another server for its own, or gave up at once");
    forwarding.abort();
    restart.await.unwrap().unwrap();
    assert_eq!(variable(&mut connect(&ours, "").await, "server_id").await, ours.port().to_string());
}
