//! `concord doctor`, with servers that are set up as they should be and then not.

use concord_sandbox::{Flavor, Postgres, PostgresOptions, Server, ServerOptions};
use concord_xa::{Database, Options, Vote};

use super::*;

/// Each test has a server of its own: what one of them breaks another would find.
fn start(flavor: Flavor) -> Server {
    Server::start_blocking(ServerOptions::new(flavor)).expect("the server starts")
}

fn run_async<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A database of its own; its URL.
fn database(server: &Server, name: &str) -> String {
    run_async(server.create_database(name)).unwrap();
    server.url(name)
}

/// Runs statements as the administrator.
fn execute(server: &Server, sql: &str) {
    use sqlx::{Connection as _, Executor as _};
    run_async(async {
        let mut connection = sqlx::MySqlConnection::connect(&server.url("mysql")).await.unwrap();
        connection.execute(sqlx::raw_sql(sql)).await.unwrap();
        connection.close().await.unwrap();
    });
}

/// A working directory on a disk, which the system's temporary directory may not be.
fn work_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What the doctor finds, with an exit code.
#[track_caller]
fn doctor(code: i32, dir: &Path, args: &[&str]) -> Vec<Value> {
    // A port that nobody has.
    let common = ["doctor", "--json", "--listen", "127.0.0.1:0"];
    let (out, _) = expect(code, dir, &[&common[..], args].concat());
    let report: Value = serde_json::from_str(&out).unwrap();
    let findings = report["findings"].as_array().unwrap().clone();
    let count = |level: &str| findings.iter().filter(|finding| finding["level"] == level).count();
    assert_eq!(
        (&report["failures"], &report["warnings"]),
        (&count("failure").into(), &count("warning").into())
    );
    for finding in &findings {
        assert_eq!(finding["mend"].is_null(), finding["level"] == "ok", "{finding}");
    }
    findings
}

/// What was found by this check of this subject: level and words.
fn of<'f>(findings: &'f [Value], check: &str, subject: &str) -> Vec<(&'f str, &'f str)> {
    let is_it = |finding: &&Value| finding["check"] == check && finding["subject"] == subject;
    let words = |finding: &'f Value| (finding["level"].as_str().unwrap(), finding["found"].as_str().unwrap());
    findings.iter().filter(is_it).map(words).collect()
}

#[track_caller]
fn expect_one(findings: &[Value], check: &str, subject: &str, level: &str, words: &str) {
    let found = of(findings, check, subject);
    assert!(
        matches!(&found[..], [(found_level, found_words)] if *found_level == level && found_words.contains(words)),
        "{check} of {subject}: {found:?}, expected {level}: {words}"
    );
}

/// Writes a configuration with a resource.
fn configure(dir: &Path, url: &str) {
    let text = format!("[[resource]]\nname = \"bank\"\nurl = \"{url}\"\n");
    std::fs::write(dir.join("concord.toml"), text).unwrap();
}

const BANK: &str = "resource bank";

#[test]
fn without_anything_configured_nothing_fails() {
    let dir = work_dir();
    let findings = doctor(0, dir.path(), &[]);
    expect_one(&findings, "configuration", "configuration", "ok", "no problems");
    expect_one(&findings, "directory", "data directory", "ok", "not there yet");
    let (out, _) = expect(0, dir.path(), &["doctor", "--listen", "127.0.0.1:0"]);
    assert!(out.starts_with("OK    configuration: no problems found\n"), "{out}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_wrong_configuration_is_a_finding() {
    let dir = work_dir();
    std::fs::write(dir.path().join("concord.toml"), "[server]\nliste = 1\n").unwrap();
    let findings = doctor(1, dir.path(), &[]);
    expect_one(&findings, "configuration", "configuration", "failure", "did you mean \"listen\"?");
}

#[test]
fn a_coordinator_that_answers_is_asked_how_it_is() {
    let serving = Serving::start();
    let address = serving.address.trim_start_matches("http://");
    let (out, _) = expect(0, serving.dir.path(), &["doctor", "--listen", address]);
    assert!(out.contains("a coordinator answers at"), "{out}");
    assert!(out.contains("a coordinator has its store open"), "{out}");
}

/// What `serve` says of a store that it refuses; the doctor and `store check` have to say the same.
#[track_caller]
fn expect_refused(dir: &Path, words: &str) {
    let (_, refused) = expect(3, dir, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(refused.contains(words), "{refused}");
    let findings = doctor(1, dir, &[]);
    expect_one(&findings, "store", "data directory", "failure", words);
    let found = of(&findings, "store", "data directory")[0].1;
    assert!(refused.contains(found), "{found}\nand serve: {refused}");
    let (out, err) = expect(3, dir, &["store", "check"]);
    assert!(out.contains(found) || err.contains(found), "{out}{err}");
}

#[test]
fn a_store_that_serve_refuses_is_a_finding() {
    let mut serving = Serving::start_in(work_dir(), "127.0.0.1:0", &[]);
    let stop = |serving: &mut Serving| {
        serving.expect(0, &["drain", "--grace-ms", "0"]);
        assert_eq!(serving.exit_code(), Some(0));
    };
    stop(&mut serving);
    let file = |serving: &Serving, name: &str| serving.dir.path().join("concord-data").join(name);
    let older = std::fs::read(file(&serving, "concord.db")).unwrap();
    let dir = std::mem::replace(&mut serving.dir, work_dir());
    let mut serving = Serving::start_in(dir, "127.0.0.1:0", &[]);
    let gtid = serving.begin("one", 1).remove(0);
    serving.expect(0, &["tx", "rollback", &gtid, "--reason", "enough"]);
    stop(&mut serving);
    expect_one(&doctor(0, serving.dir.path(), &[]), "store", "data directory", "ok", "0 live and 1 ended");

    std::fs::write(file(&serving, "concord.db"), older).unwrap();
    expect_refused(serving.dir.path(), "commits were acknowledged, and only");
    std::fs::remove_file(file(&serving, "concord.db")).unwrap();
    expect_refused(serving.dir.path(), "commits were acknowledged, and only 0 are there");

    // Its tables are in its log yet, which is not copied along.
    let mut serving = Serving::start_in(work_dir(), "127.0.0.1:0", &[]);
    serving.process.kill().unwrap();
    serving.process.wait().unwrap();
    assert!(file(&serving, "concord.db").metadata().unwrap().len() >= 4096);
    for name in ["concord.db-wal", "concord.db-shm"] {
        std::fs::remove_file(file(&serving, name)).unwrap();
    }
    expect_refused(serving.dir.path(), "commits were acknowledged, and only 0 are there");
}

fn each_setting_is_found(server: &Server, name: &str) {
    let dir = work_dir();
    configure(dir.path(), &database(server, name));
    let findings = doctor(0, dir.path(), &[]);
    expect_one(&findings, "server", BANK, "ok", &server.flavor().to_string());
    expect_one(&findings, "settings", BANK, "ok", "fit for XA");
    expect_one(&findings, "clock", BANK, "ok", "its clock is");
    expect_one(&findings, "in doubt", BANK, "ok", "no branch");
    for (variable, bad) in [("innodb_flush_log_at_trx_commit", 2), ("sync_binlog", 0)] {
        execute(server, &format!("SET GLOBAL {variable} = {bad}"));
        let findings = doctor(1, dir.path(), &[]);
        execute(server, &format!("SET GLOBAL {variable} = 1"));
        expect_one(&findings, "settings", BANK, "failure", variable);
        expect_one(&findings, "in doubt", BANK, "ok", "no branch");
    }
    execute(server, &format!("CREATE TABLE {name}.cache (id INT) ENGINE = MEMORY"));
    expect_one(&doctor(1, dir.path(), &[]), "settings", BANK, "failure", "cannot be rolled back");
    execute(server, &format!("DROP TABLE {name}.cache"));
}

fn what_is_in_doubt_is_told(server: &Server, name: &str) {
    use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
    let dir = work_dir();
    let url = database(server, name);
    execute(server, &format!("CREATE TABLE {name}.account (id INT PRIMARY KEY) ENGINE = InnoDB"));
    configure(dir.path(), &url);
    let prepared = run_async(async {
        let database = Database::connect(&url, Options::default()).await.unwrap();
        database.migrate().await.unwrap();
        let gtid = Gtid::compose(1, Epoch(1), 1);
        let mut branch = database.begin(ClusterId(1), gtid, BranchId::FIRST).await.unwrap();
        branch.exec("INSERT INTO account VALUES (1)", ()).await.unwrap();
        matches!(branch.prepare(b"").await, Vote::Yes(_))
    });
    assert!(prepared);
    expect_one(&doctor(0, dir.path(), &[]), "in doubt", BANK, "warning", "1 made by Concord");
}

#[test]
fn a_mysql_server_is_examined() {
    let server = start(Flavor::MySql);
    each_setting_is_found(&server, "doctor_settings");
    // A user who may do everything in the database, and nothing else.
    execute(
        &server,
        "CREATE USER limited@'%' IDENTIFIED BY 'word'; GRANT ALL ON doctor_settings.* TO limited@'%'",
    );
    let dir = work_dir();
    let url = |password| format!("mysql://limited:{password}@127.0.0.1:{}/doctor_settings", server.port());
    configure(dir.path(), &url("word"));
    let findings = doctor(1, dir.path(), &[]);
    expect_one(&findings, "in doubt", BANK, "failure", "XA RECOVER");
    assert!(
        findings.iter().any(|one| one["mend"].as_str().is_some_and(|mend| mend.contains("XA_RECOVER_ADMIN")))
    );
    configure(dir.path(), &url("wrong"));
    let findings = doctor(1, dir.path(), &[]);
    expect_one(&findings, "server", BANK, "failure", "Access denied");
    let (text, _) = expect(1, dir.path(), &["doctor", "--listen", "127.0.0.1:0"]);
    assert!(!text.contains("wrong"), "no password is shown: {text}");
    what_is_in_doubt_is_told(&server, "doctor_in_doubt");
}

#[test]
fn a_mariadb_server_is_examined() {
    let server = start(Flavor::MariaDb);
    each_setting_is_found(&server, "doctor_settings");
    what_is_in_doubt_is_told(&server, "doctor_in_doubt");
}

#[test]
fn a_server_that_is_gone_is_found() {
    let dir = work_dir();
    configure(dir.path(), "mysql://u:p@127.0.0.1:1/d");
    expect_one(&doctor(1, dir.path(), &[]), "server", BANK, "failure", "connection to the database failed");
    let gone = ["--store", "postgres://u:p@127.0.0.1:1/d"];
    expect_one(&doctor(1, dir.path(), &gone), "server", "store", "failure", "cannot open the store");
}

fn a_shared_store_is_examined(flavor: Flavor) {
    let server = &start(flavor);
    let dir = work_dir();
    let url = database(server, "doctor_store");
    let args = ["--store", url.as_str()];
    let findings = doctor(0, dir.path(), &args);
    expect_one(&findings, "server", "store", "ok", &server.flavor().to_string());
    expect_one(&findings, "settings", "store", "ok", "durable");
    expect_one(&findings, "coordinators", "store", "ok", "no tables yet");
    let mut serving = Serving::start_with(&args);
    expect_one(&doctor(0, dir.path(), &args), "coordinators", "store", "ok", "coordinators alive: 1");
    // The same store, looked at in another way.
    let (out, _) = expect(0, dir.path(), &["store", "check", &url]);
    assert!(out.starts_with("store                sound\n"), "{out}");
    let (_, err) = expect(1, dir.path(), &["store", "backup", "copy", "--store", &url]);
    assert!(err.contains("the database's own tools"), "{err}");
    serving.expect(0, &["drain", "--grace-ms", "0"]);
    assert_eq!(serving.exit_code(), Some(0));
    execute(server, "SET GLOBAL innodb_flush_log_at_trx_commit = 2");
    let findings = doctor(1, dir.path(), &args);
    execute(server, "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    expect_one(&findings, "settings", "store", "failure", "innodb_flush_log_at_trx_commit");
}

#[test]
fn a_shared_store_in_mariadb_is_examined() {
    a_shared_store_is_examined(Flavor::MariaDb);
}

#[test]
fn a_shared_store_in_mysql_is_examined() {
    a_shared_store_is_examined(Flavor::MySql);
}

#[test]
fn a_shared_store_in_postgresql_is_examined() {
    let dir = work_dir();
    let examine = |code, option: &str| {
        let options = PostgresOptions::default().arg("-c").arg(option);
        let server = Postgres::start_blocking(options).expect("the server starts");
        let url = server.url("postgres");
        doctor(code, dir.path(), &["--store", &url])
    };
    for name in ["fsync", "full_page_writes"] {
        let findings = examine(1, &format!("{name}=off"));
        expect_one(&findings, "settings", "store", "failure", name);
    }
    // Our own sessions set it on.
    let findings = examine(0, "synchronous_commit=off");
    expect_one(&findings, "settings", "store", "ok", "durable");
    expect_one(&findings, "server", "store", "ok", "PostgreSQL");
    expect_one(&findings, "clock", "store", "ok", "its clock is");
}
