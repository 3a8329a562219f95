//! What `concord serve` writes to its log: the ids by which lines are found, and never a secret.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use concord_proto::TraceContext;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{
    BeginRequest, BranchKind, BranchRequest, CommitRequest, ExecuteRequest, InquireRequest, Outcome, Wait,
};
use concord_sandbox::{Flavor, Server, ServerOptions};
use serde_json::Value;
use sqlx::Connection as _;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpIncoming;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Every key that takes a secret, with one; `SECRET` and a number stand for it, and `PORT` for that of somebody who has no
/// use for it. A key that is added to the configuration comes here too: a test below looks for that.
const SECRETS: &[(&str, &str)] = &[
    ("store.url", "mysql://concord:SECRET1@127.0.0.1:PORT/concord"),
    ("resource.url", "mysql://sweeper:SECRET2@127.0.0.1:PORT/shop"),
    ("alert.url", "http://127.0.0.1:PORT/alerts/SECRET3?key=SECRET4"),
    // Not taken with a password; but somebody may try.
    ("tracing.otlp_endpoint", "http://collector:SECRET7@127.0.0.1:PORT"),
];
/// In the environment, for the collector, and in what a caller sends.
const COLLECTORS: usize = 5;
const CALLERS: usize = 6;

/// A number so unlike anything else that whoever shows it shows a secret.
fn secret(number: usize) -> String {
    format!("hunter{}", 7_740_000 + number)
}

fn filled_in(text: &str, port: u16) -> String {
    let text = text.replace("PORT", &port.to_string());
    (1..=9).fold(text, |text, number| text.replace(&format!("SECRET{number}"), &secret(number)))
}

/// The program, with nothing of this process's environment that could change what it does.
fn concord() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concord"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCORD_") {
            command.env_remove(name);
        }
    }
    command
}

/// `concord serve`, with everything it writes in a file; killed when dropped.
struct Serving {
    process: Child,
    log: PathBuf,
    _dir: TempDir,
}

impl Serving {
    fn start(config: &str, format: &str, filter: &str) -> Serving {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("concord.toml"), config).unwrap();
        let log = dir.path().join("log");
        let output = File::create(&log).unwrap();
        let mut command = concord();
        command
            .args(["serve", "--config", "concord.toml", "--listen", "127.0.0.1:0"])
            .args(["--log-format", format, "--log-filter", filter])
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{}", secret(COLLECTORS)))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        Serving { process: command.spawn().unwrap(), log, _dir: dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has written a line like this.
    fn wait_for(&self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(line) = self.lines().into_iter().find(&found) {
                return line;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} never comes: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn url(&self) -> String {
        let ready = self.wait_for("ready", |line| line["fields"]["message"] == "coordinator ready");
        format!("http://{}", ready["fields"]["listening"].as_str().unwrap())
    }

    fn ended(&mut self) {
        let begun = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended();
    }

    #[track_caller]
    fn keeps_its_secrets(&self) {
        has_no_secret(&self.log());
    }
}

#[track_caller]
fn has_no_secret(log: &str) {
    assert!(!log.is_empty(), "that is no log");
    for number in 1..=9 {
        let shown = log.lines().find(|line| line.contains(&secret(number)));
        assert_eq!(shown, None, "SECRET{number}");
    }
}

/// Everything that commands which look at this configuration write.
fn looked_at(config: &str) -> String {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("concord.toml"), config).unwrap();
    let mut said = String::new();
    for args in [&["config", "check"][..], &["config", "show"], &["doctor"], &["doctor", "--json"]] {
        let output = concord().args(args).current_dir(dir.path()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        said.push_str(&format!("{args:?}\n{out}{err}"));
    }
    said
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Answers everybody with rubbish, until the test ends.
fn rubbish() -> u16 {
    use std::io::Write as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // It is of no account whether anybody listens.
        listener
            .incoming()
            .flatten()
            .for_each(|mut stream| drop(stream.write_all(b"HTTP/1.0 500 rubbish\r\n\r\n")));
    });
    port
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Speaks gRPC, and takes no spans.
async fn no_collector() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    port
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    TraceContext::parse(PARENT, "").unwrap().add_to(request.metadata_mut());
    request
}

/// A transaction that is rolled back soon, because its participant is not there.
fn refused() -> ExecuteRequest {
    let branch = BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant: "http://127.0.0.1:1".into(),
        action: "take".into(),
        ..Default::default()
    };
    let wait = Wait::Decided.into();
    ExecuteRequest { timeout_ms: 300, branches: vec![branch], wait, ..Default::default() }
}

#[test]
fn lines_about_a_transaction_carry_its_ids() {
    let mut serving = Serving::start("shutdown.grace_ms = 0", "json", "info,concord_coordinator=debug");
    let url = serving.url();
    let gtid = runtime().block_on(async {
        let mut client = CoordinatorClient::connect(url).await.unwrap();
        client.execute(traced(refused())).await.unwrap().into_inner().transaction.unwrap().gtid
    });
    let trace_id = TraceContext::parse(PARENT, "").unwrap().trace_id().to_string();
    for message in ["a call failed", "rolling back"] {
        let line = serving.wait_for(message, |line| line["fields"]["message"] == message);
        assert_eq!(line["fields"]["gtid"], gtid.as_str(), "{line}");
        assert_eq!(line["fields"]["trace_id"], trace_id.as_str(), "{line}");
    }
    serving.stop();
    // Wherever the id is said, it is in its place.
    for line in serving.lines().iter().filter(|line| line.to_string().contains(&gtid)) {
        assert_eq!(line["fields"]["gtid"], gtid.as_str(), "{line}");
        assert_eq!(line["fields"]["trace_id"], trace_id.as_str(), "{line}");
    }
}

#[test]
fn questions_about_what_is_not_known_do_not_fill_the_log() {
    let mut serving = Serving::start("shutdown.grace_ms = 0", "json", "info");
    let url = serving.url();
    // Of a later life of the coordinator than this one: whoever asks can make up as many as they like.
    let gtids: Vec<_> =
        (0..100).map(|number| format!("0192f6a0-8c00-8fff-8000-0000000000{number:02}")).collect();
    let answer = runtime().block_on(async {
        let mut client = CoordinatorClient::connect(url).await.unwrap();
        client
            .inquire(InquireRequest { gtids: gtids.clone(), ..Default::default() })
            .await
            .unwrap()
            .into_inner()
    });
    assert!(answer.outcomes.iter().all(|outcome| *outcome == i32::from(Outcome::Undecided)), "{answer:?}");
    serving.stop();
    let log = serving.log();
    assert!(!gtids.iter().any(|gtid| log.contains(gtid)), "{log}");
}

#[test]
fn no_secret_is_logged() {
    let (rubbish, runtime) = (rubbish(), runtime());
    // It knows nobody by the names above.
    let database = Server::start_blocking(ServerOptions::new(Flavor::MySql)).unwrap();
    let value = |key: &str, port: u16| {
        let (_, value) = SECRETS.iter().find(|(known, _)| *known == key).expect("a key with a secret");
        filled_in(value, port)
    };
    // A store that cannot be opened.
    for (format, port) in [("text", database.port()), ("json", database.port()), ("text", rubbish)] {
        let config = format!("store.url = {:?}", value("store.url", port));
        let mut serving = Serving::start(&config, format, "trace");
        serving.ended();
        serving.keeps_its_secrets();
    }
    // And one that can.
    runtime.block_on(async {
        let mut root = sqlx::MySqlConnection::connect(&database.url("")).await.unwrap();
        for statement in [
            "CREATE DATABASE concord".to_owned(),
            format!("CREATE USER concord IDENTIFIED BY '{}'", secret(1)),
            "GRANT ALL ON concord.* TO concord".to_owned(),
        ] {
            sqlx::raw_sql(&statement).execute(&mut root).await.unwrap();
        }
    });
    let config = format!("shutdown.grace_ms = 0\nstore.url = {:?}\n", value("store.url", database.port()));
    let mut serving = Serving::start(&config, "json", "trace");
    let coordinator = serving.url();
    runtime.block_on(async {
        let mut client = CoordinatorClient::connect(coordinator).await.unwrap();
        client.execute(traced(refused())).await.unwrap();
    });
    let said = looked_at(&config);
    assert!(said.contains("mysql://concord:***@") && said.contains("coordinators alive: 1"), "{said}");
    has_no_secret(&said);
    serving.stop();
    serving.keeps_its_secrets();
    // All the others, while there is trouble everywhere.
    let mut config =
        "shutdown.grace_ms = 0\nsweeper.interval_ms = 100\nalert.older_than_ms = 1000\n".to_owned();
    let collector = runtime.block_on(no_collector());
    config.push_str(&format!("tracing.otlp_endpoint = \"http://127.0.0.1:{collector}\"\n"));
    let apart = ["store.url", "resource.url", "tracing.otlp_endpoint"];
    for (key, _) in SECRETS.iter().filter(|(key, _)| !apart.contains(key)) {
        config.push_str(&format!("{key} = {:?}\n", value(key, rubbish)));
    }
    let url = value("resource.url", database.port());
    config.push_str(&format!(
        "[[resource]]\nname = \"shop\"\nurl = {url:?}\nparticipants = [\"http://127.0.0.1:1\"]\n"
    ));
    has_no_secret(&looked_at(&config));
    let mut serving = Serving::start(&config, "json", "trace");
    let coordinator = serving.url();
    runtime.block_on(async {
        let channel = Endpoint::from_shared(coordinator).unwrap().connect().await.unwrap();
        let mut client = CoordinatorClient::with_interceptor(channel, |mut request: Request<()>| {
            let token = format!("Bearer {}", secret(CALLERS));
            request.metadata_mut().insert("authorization", token.parse().unwrap());
            Ok(request)
        });
        client.execute(traced(refused())).await.unwrap();
        client.begin(BeginRequest { timeout_ms: 60_000, ..Default::default() }).await.unwrap();
        client.commit(CommitRequest { gtid: "none".into(), ..Default::default() }).await.unwrap_err();
    });
    for message in
        ["an alert could not be told", "cannot look for in-doubt branches", "spans could not be exported"]
    {
        serving.wait_for(message, |line| line["fields"]["message"] == message);
    }
    serving.stop();
    serving.keeps_its_secrets();
}

#[test]
fn what_is_refused_is_not_repeated_with_its_password() {
    for wrong in [
        format!("tracing.otlp_endpoint = {:?}", SECRETS[3].1),
        "participants.allow = [\"http://ann:SECRET8@127.0.0.1:1\"]".to_owned(),
        "[[service]]\nname = \"a\"\naddresses = [\"http://ann:SECRET9@127.0.0.1:1/api\"]".to_owned(),
        "[[resource]]\nname = \"a\"\nurl = \"postgres://ann:SECRET2@127.0.0.1:1/api\"".to_owned(),
    ] {
        let config = filled_in(&wrong, 1);
        has_no_secret(&looked_at(&config));
        let mut serving = Serving::start(&config, "json", "trace");
        serving.ended();
        assert!(serving.log().starts_with("error: concord.toml:"), "{}", serving.log());
        serving.keeps_its_secrets();
    }
}

#[test]
fn every_key_that_takes_a_secret_is_tried() {
    let taking: Vec<String> = concord_coordinator::config::secret_keys().collect();
    for key in taking.iter().map(String::as_str).chain(["resource.url"]) {
        assert!(SECRETS.iter().any(|(known, _)| *known == key), "{key} takes a secret");
    }
    assert!(taking.len() >= 2, "{taking:?}");
}
