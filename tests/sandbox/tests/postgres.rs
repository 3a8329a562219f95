//! The life of private PostgreSQL servers.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use concord_sandbox::{
    Environment, Error, Postgres, PostgresInstallation, PostgresOptions, Source, fetch_postgres,
    locate_postgres, locate_postgres_cached,
};
use tokio_postgres::{Client, NoTls};

async fn connect(server: &Postgres, database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(database), NoTls).await.unwrap();
    // It ends with the client, or with an error that the client's calls report, too.
    tokio::spawn(async move { connection.await.ok() });
    client
}

async fn setting(client: &Client, name: &str) -> String {
    client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
}

async fn values(server: &Postgres) -> Vec<i32> {
    let rows = connect(server, "bank").await.query("SELECT v FROM t ORDER BY v", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Of a segment in the system's list, if there is such a list.
fn segment_exists(number: &str) -> Option<bool> {
    let list = fs::read_to_string("/proc/sysvipc/shm").ok()?;
    Some(list.lines().any(|line| line.split_whitespace().nth(1) == Some(number)))
}

fn segment_of(server: &Postgres) -> String {
    let file = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

/// Processes whose current directory is this data directory: all that belong to a server.
fn processes_in(data: &Path) -> Vec<PathBuf> {
    let data = data.canonicalize().unwrap_or_else(|_| data.to_path_buf());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&data)))
        .collect()
}

/// Answers queries, is durable, and keeps committed data over a crash, a clean stop and a restart while running.
async fn lives(env: &Environment, installation: PostgresInstallation) {
    let version = installation.version;
    let server = Postgres::start_installed(env, installation, PostgresOptions::default()).unwrap();
    assert_eq!(server.version(), version);
    assert_eq!(server.url(""), format!("postgres://postgres@127.0.0.1:{}/postgres", server.port()));
    server.create_database("bank").await.unwrap();
    server.create_database("bank").await.unwrap();
    let mut client = connect(&server, "bank").await;
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    assert!(setting(&client, "server_version").await.starts_with(&version.major.to_string()));
    for (name, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("max_connections", "300"),
        ("listen_addresses", "127.0.0.1"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(setting(&client, name).await, value, "{name}");
    }
    client.batch_execute("CREATE TABLE t (v INT PRIMARY KEY); INSERT INTO t VALUES (10)").await.unwrap();
    let open = client.transaction().await.unwrap();
    open.execute("INSERT INTO t VALUES (500)", &[]).await.unwrap();

    let (port, pid) = (server.port(), server.pid().unwrap());
    if cfg!(target_os = "linux") {
        assert!(processes_in(&server.data_dir()).len() > 3, "a server is several processes");
    }
    server.kill9();
    assert_eq!(processes_in(&server.data_dir()), Vec::<PathBuf>::new(), "processes survived SIGKILL");
    assert_eq!(server.pid(), None);
    assert!(open.commit().await.is_err(), "the server survived SIGKILL");
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), Some(pid));
    assert!(server.log_tail().contains("automatic recovery in progress"), "{}", server.log_tail());
    assert_eq!(values(&server).await, [10], "committed data lost, or uncommitted data kept");

    server.stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(server.log_tail().contains("database system is shut down"), "{}", server.log_tail());
    server.restart().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(values(&server).await, [10]);

    let (data, segment) = (server.data_dir(), segment_of(&server));
    let run = data.parent().unwrap().to_path_buf();
    assert!(run.is_dir());
    assert_ne!(segment_exists(&segment), Some(false));
    drop(server);
    assert!(!run.exists(), "{} is left behind", run.display());
    assert_eq!(processes_in(&data), Vec::<PathBuf>::new(), "processes are left behind");
    assert_ne!(segment_exists(&segment), Some(true), "segment {segment} is left behind");
}

#[tokio::test]
async fn what_the_machine_has_lives() {
    let env = Environment::from_process();
    let installation = locate_postgres(&env).unwrap();
    lives(&env, installation).await;
}

#[tokio::test]
async fn what_was_unpacked_lives() {
    let env = Environment::from_process();
    let installation = fetch_postgres(&env).unwrap();
    assert!(installation.program.starts_with(&env.cache_dir));
    lives(&env, installation).await;
}

#[tokio::test]
async fn own_arguments_win_and_servers_started_at_the_same_time_are_different_ones() {
    let options = PostgresOptions::default().max_connections(17).arg("--synchronous_commit=off");
    let start = || Postgres::start(options.clone());
    let (a, b) = tokio::join!(start(), start());
    let (a, b) = (a.unwrap(), b.unwrap());
    for server in [&a, &b] {
        let client = connect(server, "").await;
        assert_eq!(setting(&client, "max_connections").await, "17");
        assert_eq!(setting(&client, "synchronous_commit").await, "off");
        assert_eq!(Path::new(&setting(&client, "data_directory").await), server.data_dir());
    }
    assert_ne!(a.data_dir(), b.data_dir());
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_goes_on() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let client = connect(&server, "").await;
    server.pause().unwrap();
    server.pause().unwrap();
    {
        let query = client.query_one("SELECT 1", &[]);
        tokio::pin!(query);
        let early = tokio::time::timeout(Duration::from_millis(500), &mut query).await;
        assert!(early.is_err(), "a frozen server answered");
        server.resume().unwrap();
        assert_eq!(query.await.unwrap().get::<_, i32>(0), 1);
    }
    // A frozen server can be stopped, killed and dropped, too.
    server.pause().unwrap();
    server.stop().await.unwrap();
    assert!(matches!(server.pause(), Err(Error::NotRunning { .. })));
    server.restart().await.unwrap();
    server.pause().unwrap();
    server.kill9();
    server.restart().await.unwrap();
    server.pause().unwrap();
    let run = server.data_dir().parent().unwrap().to_path_buf();
    drop(server);
    assert!(!run.exists());
}

#[test]
fn a_killed_server_that_is_dropped_leaves_no_shared_memory() {
    let server = Postgres::start_blocking(PostgresOptions::default()).unwrap();
    let segment = segment_of(&server);
    server.kill9();
    server.kill9();
    server.stop_blocking().unwrap();
    assert_ne!(segment_exists(&segment), Some(false), "this test shows nothing");
    drop(server);
    assert_ne!(segment_exists(&segment), Some(true), "segment {segment} is left behind");
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let started = Instant::now();
    let options = PostgresOptions::default().arg("--no_such_setting=1");
    let error = Postgres::start(options).await.unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("the PostgreSQL server on port") && text.contains("no_such_setting"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(20), "it waited although the server was gone");
}

#[tokio::test]
async fn a_refused_statement_is_an_error_with_the_servers_words() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let error = server.create_database("").await.unwrap_err();
    assert!(error.to_string().contains("zero-length delimited identifier"), "{error}");
    server.kill9();
    assert!(matches!(server.create_database("bank").await, Err(Error::Postgres(_))));
}

#[tokio::test]
async fn a_killed_server_waits_for_its_own_port() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    server.kill9();
    let foreign = tokio::net::TcpListener::bind(("127.0.0.1", server.port())).await.unwrap();
    let waiting = server.clone();
    let restart = tokio::spawn(async move { waiting.restart().await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!restart.is_finished(), "it took another program for its own, or gave up at once");
    drop(foreign);
    restart.await.unwrap().unwrap();
    assert_eq!(connect(&server, "").await.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

/// A machine with nothing on it.
fn empty(dir: &Path) -> Environment {
    Environment {
        external_url: None,
        mysqld: None,
        mariadbd: None,
        postgres: None,
        program_dirs: vec![dir.join("bin")],
        cache_dir: dir.join("cache"),
        run_dir: dir.join("run"),
        apt_dir: None,
        os_release: dir.join("os-release"),
    }
}

/// Written by another process: if this one had the file open for writing while another thread forks, running the
/// script would fail with "text file busy".
fn fake_postgres(dir: &Path, banner: &str) -> PathBuf {
    let script = "mkdir -p \"$1\" && cd \"$1\" && printf '#!/bin/sh\\n[ \"$1\" = --version ] && echo \"%s\" || exit 7\\n' \
                  \"$2\" >postgres && cp postgres initdb && chmod 755 postgres initdb";
    assert!(Command::new("sh").args(["-c", script, "sh"]).arg(dir).arg(banner).status().unwrap().success());
    dir.join("postgres")
}

#[test]
fn nothing_anywhere_is_one_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let error = Postgres::start_in(&empty(dir.path()), PostgresOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NoServer { .. }), "{error:?}");
    let text = error.to_string();
    for part in
        ["PostgreSQL", "Debian", "Fedora", "macOS", "CONCORD_SANDBOX_POSTGRES", "CONCORD_SANDBOX_OFFLINE"]
    {
        assert!(text.contains(part), "no {part} in: {text}");
    }
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_program_named_by_the_user_is_used_or_refused_but_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let on_path = fake_postgres(&dir.path().join("bin"), "postgres (PostgreSQL) 14.1");
    let good = fake_postgres(&dir.path().join("opt"), "postgres (PostgreSQL) 16.3 (Debian 16.3-1)");
    let named = |program: &Path| Environment { postgres: Some(program.to_path_buf()), ..empty(dir.path()) };
    let found = locate_postgres_cached(&named(&good)).unwrap();
    assert_eq!((found.source, found.program), (Source::Explicit, good.clone()));

    let old = fake_postgres(&dir.path().join("old"), "postgres (PostgreSQL) 9.6.24");
    let strange = fake_postgres(&dir.path().join("strange"), "mysqld  Ver 9.1.0 for Linux");
    let alone = fake_postgres(&dir.path().join("alone"), "postgres (PostgreSQL) 16.3");
    fs::remove_file(alone.with_file_name("initdb")).unwrap();
    for (program, reason) in [
        (old, "PostgreSQL 9.6 is too old: 13 or newer"),
        (strange, "--version gave"),
        (alone, "there is no initdb beside"),
        (dir.path().join("nowhere"), "No such file"),
    ] {
        let error = locate_postgres_cached(&named(&program)).unwrap_err();
        assert!(matches!(error, Error::BadSetting { variable: "CONCORD_SANDBOX_POSTGRES", .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let found = locate_postgres_cached(&empty(dir.path())).unwrap();
    assert_eq!((found.source, found.program), (Source::System, on_path.canonicalize().unwrap()));
}

#[test]
fn an_installed_server_that_cannot_make_a_data_directory_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fake_postgres(&dir.path().join("bin"), "postgres (PostgreSQL) 16.3");
    let text = locate_postgres(&empty(dir.path())).unwrap_err().to_string();
    assert!(text.contains("could not make a data directory (exit status: 7)"), "{text}");
    assert!(text.contains("the cache has none"), "{text}");
}
