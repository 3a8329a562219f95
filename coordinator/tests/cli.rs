//! The `concord` program from the outside: what it prints, how it exits, and that it stops when told to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/store.rs"]
mod store;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use concord_proto::v1;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use serde_json::Value;
use tempfile::TempDir;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
const UNKNOWN_GTID: &str = "0192f6a0-8c00-8000-8000-040000000001";

/// The program, with nothing of this process's environment that could change what it does.
fn concord(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concord"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCORD_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("USER", "tester").env("TERM", "dumb").args(args).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    concord(dir, args).output().unwrap()
}

/// Runs it and expects an exit code; standard output and standard error.
#[track_caller]
fn expect(code: i32, dir: &Path, args: &[&str]) -> (String, String) {
    let output = run(dir, args);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}\nout: {out}\nerr: {err}");
    (out, err)
}

#[test]
fn help_and_usage() {
    let dir = TempDir::new().unwrap();
    for args in
        [&["--help"][..], &["serve", "--help"], &["tx", "resolve", "--help"], &["config", "show", "--help"]]
    {
        let (out, _) = expect(0, dir.path(), args);
        assert!(out.contains("Usage: concord"), "{out}");
    }
    let (out, _) = expect(0, dir.path(), &["--version"]);
    assert_eq!(out, format!("concord {}\n", env!("CARGO_PKG_VERSION")));
    for args in [
        &[][..],
        &["tx", "lst"],
        &["tx", "get"],
        &["tx", "get", "no-gtid"],
        &["tx", "list", "--state", "asleep"],
        &["tx", "list", "--limit", "0"],
        &["tx", "list", "--watch=0"],
        &["tx", "park", UNKNOWN_GTID],
        &["serve", "--set", "no-equals-sign"],
        &["status", "--address", "ftp://127.0.0.1:1"],
        &["tx", "resolve", UNKNOWN_GTID, "--outcome", "committed", "--reason", "x"],
    ] {
        let (_, err) = expect(2, dir.path(), args);
        assert!(!err.is_empty(), "{args:?}");
    }
    let (out, _) = expect(0, dir.path(), &["completions", "bash"]);
    assert!(out.contains("_concord()"));
    let (out, _) = expect(0, dir.path(), &["man"]);
    assert!(out.contains(".TH concord 1"), "{out}");
    expect(0, dir.path(), &["man", "pages/man1"]);
    for page in ["concord.1", "concord-doctor.1", "concord-store-backup.1", "concord-tx-list.1"] {
        let text = std::fs::read_to_string(dir.path().join("pages/man1").join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
        assert!(text.contains(".SH EXAMPLES\n.nf\n  concord ") && !text.contains("EXTRA"), "{page}: {text}");
    }
    let (help, _) = expect(0, dir.path(), &["store", "check", "--help"]);
    assert!(
        help.contains("--data-dir") && !help.contains("--listen") && !help.contains("--log-format"),
        "{help}"
    );
}

#[test]
fn nobody_to_talk_to() {
    let dir = TempDir::new().unwrap();
    let (out, err) = expect(1, dir.path(), &["tx", "list", "--address", "127.0.0.1:1"]);
    assert_eq!(out, "");
    assert!(err.starts_with("error: cannot connect to http://127.0.0.1:1: "), "{err}");
    assert!(err.contains("\nhint: is `concord serve` running"), "{err}");
}

#[test]
fn configuration() {
    let dir = TempDir::new().unwrap();
    let (example, _) = expect(0, dir.path(), &["config", "example"]);
    std::fs::write(dir.path().join("concord.toml"), example).unwrap();
    let (out, _) = expect(0, dir.path(), &["config", "check"]);
    assert_eq!(out, "concord.toml: no problems found\n");
    let (out, _) = expect(0, dir.path(), &["config", "show", "--allow", "http://a.example:1"]);
    assert!(out.contains("allow = [\"http://a.example:1\"]  # --allow\n"), "{out}");
    assert!(out.contains("# concord.toml:"), "./concord.toml is read when it is there: {out}");

    std::fs::write(dir.path().join("wrong.toml"), "[server]\nliste = 1\n[calls]\ntimeout_ms = 0\n").unwrap();
    let expected = "\
error: wrong.toml:2: unknown key \"liste\" in [server]; did you mean \"listen\"?
error: wrong.toml:4: calls.timeout_ms = 0: must be an integer from 1 to 600000
";
    for args in [&["config", "check", "wrong.toml"][..], &["serve", "--config", "wrong.toml"]] {
        assert_eq!(expect(2, dir.path(), args).1, expected);
    }
    // A check sees what serve would see.
    let output =
        concord(dir.path(), &["config", "check"]).env("CONCORD_PARTICIPANTS_ALLOW", "a").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("CONCORD_PARTICIPANTS_ALLOW: participants.allow")
    );
    let output = concord(dir.path(), &["serve"]).env("CONCORD_SERVER_LISTN", "x").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean CONCORD_SERVER_LISTEN?"));
    assert_eq!(expect(2, dir.path(), &["config", "check", "none.toml"]).0, "");
    assert_eq!(expect(2, dir.path(), &["serve", "--config", "none.toml"]).0, "");
}

#[test]
fn a_check_needs_a_file_no_more_than_a_coordinator_does() {
    let dir = TempDir::new().unwrap();
    let subject = "no file (there is no ./concord.toml), environment and flags only";
    let (out, _) = expect(0, dir.path(), &["config", "check"]);
    assert_eq!(out, format!("{subject}: no problems found\n"));
    let check = |name: &str, value: &str| {
        let mut check = concord(dir.path(), &["config", "check"]);
        let output = check.env(name, value).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("CONCORD_SERVER_LISTEN", "[::1]:7600"), (Some(0), String::new()));
    let (code, err) = check("CONCORD_SERVER_LISTEN", "nowhere");
    assert_eq!(code, Some(2));
    assert!(err.starts_with("error: CONCORD_SERVER_LISTEN: server.listen"), "{err}");
    // A file that is named has to be there.
    let (code, err) = check("CONCORD_CONFIG", "none.toml");
    assert_eq!(code, Some(2));
    assert!(err.starts_with("error: none.toml: cannot be read"), "{err}");
}

#[test]
fn coordinators_that_share_a_store_need_an_address_and_that_is_known_before() {
    let dir = TempDir::new().unwrap();
    let config = "server.listen = \"0.0.0.0:0\"\nsecurity.allow_insecure = true\n\
                  store.url = \"mysql://concord@127.0.0.1:1/concord\"\n";
    std::fs::write(dir.path().join("concord.toml"), config).unwrap();
    let why =
        "it listens on 0.0.0.0:0, which is no address that other coordinators can reach: set cluster.address";
    assert!(expect(2, dir.path(), &["config", "check"]).1.contains(why));
    assert!(expect(1, dir.path(), &["serve"]).1.contains(why));
    let (out, _) = expect(1, dir.path(), &["doctor"]);
    assert!(out.contains(&format!("FAIL  cluster.address: {why}")), "{out}");
    let address = ["config", "check", "--set", "cluster.address=10.0.0.1:7600"];
    assert_eq!(expect(0, dir.path(), &address).0, "concord.toml: no problems found\n");
    // Nobody else asks for that of a store in a directory.
    let alone = ["config", "check", "--store", "sqlite:data"];
    assert_eq!(expect(0, dir.path(), &alone).0, "concord.toml: no problems found\n");
}

#[test]
fn a_check_takes_what_a_service_has_besides_its_file() {
    let dir = TempDir::new().unwrap();
    let file = "[server]\ntls_certificate = \"tls.crt\"\n[[resource]]\nname = \"bank-a\"\n";
    std::fs::write(dir.path().join("c.toml"), file).unwrap();
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("tls.crt"), authority.cert.pem()).unwrap();
    std::fs::write(dir.path().join("tls.key"), authority.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(dir.path().join("tls.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (_, err) = expect(2, dir.path(), &["config", "check", "c.toml"]);
    assert!(err.contains("server.tls_certificate needs server.tls_key"), "{err}");
    assert!(
        err.contains("CONCORD_RESOURCE_BANK_A_URL; a file of variables is named by --environment-file"),
        "{err}"
    );

    let secrets =
        "# for systemd\nCONCORD_RESOURCE_BANK_A_URL='mysql://bank:s3cret@127.0.0.1:1/bank'\nOTHER=1\n";
    std::fs::write(dir.path().join("secrets.env"), secrets).unwrap();
    let service = ["--environment-file", "secrets.env", "--set", "server.tls_key=tls.key"];
    let (out, _) = expect(0, dir.path(), &[&["config", "check", "c.toml"], &service[..]].concat());
    assert_eq!(out, "c.toml: no problems found\n");
    let (out, _) = expect(0, dir.path(), &[&["config", "show", "--config", "c.toml"], &service[..]].concat());
    assert!(out.contains("mysql://bank:***@127.0.0.1:1/bank\"  # CONCORD_RESOURCE_BANK_A_URL"), "{out}");
    // Its database is not there; but now it is known which one.
    let doctor = ["doctor", "--config", "c.toml", "--listen", "127.0.0.1:0"];
    let (out, _) = expect(1, dir.path(), &[&doctor[..], &service[..]].concat());
    assert!(out.contains("OK    configuration: no problems found"), "{out}");
    assert!(out.contains("FAIL  resource bank-a: "), "{out}");

    // The file that is named counts, whatever the shell has for other commands.
    let mut check = concord(dir.path(), &[&["config", "check", "c.toml"], &service[..]].concat());
    assert!(check.env("CONCORD_CONFIG", "none.toml").output().unwrap().status.success());

    std::fs::write(dir.path().join("secrets.env"), "CONCORD_STORE_URL=x\ns3cret\n").unwrap();
    let (_, err) = expect(2, dir.path(), &[&["config", "check", "c.toml"], &service[..]].concat());
    assert_eq!(err, "error: secrets.env:2: must be NAME=value, or begin with #\n");
    std::fs::write(dir.path().join("secrets.env"), "CONCORD_CONFIG=c.toml\n").unwrap();
    let (_, err) = expect(2, dir.path(), &["config", "show", "--environment-file", "secrets.env"]);
    assert!(err.contains("name the configuration file with --config"), "{err}");
    let (_, err) = expect(2, dir.path(), &["status", "--ca", "tls.key", "--address", "https://127.0.0.1:1"]);
    assert!(err.contains("tls.key has no certificate in it"), "{err}");
    let (_, err) = expect(2, dir.path(), &["config", "show", "--environment-file", "none.env"]);
    assert!(err.starts_with("error: none.env: cannot be read: "), "{err}");
}

/// A coordinator as a process of its own; killed when dropped.
struct Serving {
    process: Child,
    address: String,
    dir: TempDir,
}

impl Serving {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), "127.0.0.1:0", args)
    }

    /// As after `kill -9`: another process with the same store, at the same address.
    fn killed_and_started_again(mut self, meanwhile: impl FnOnce()) -> Self {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        meanwhile();
        let dir = std::mem::replace(&mut self.dir, TempDir::new().unwrap());
        Self::start_in(dir, self.address.strip_prefix("http://").unwrap(), &[])
    }

    fn start_in(dir: TempDir, listen: &str, args: &[&str]) -> Self {
        let common = ["serve", "--listen", listen, "--log-format", "json", "--log-filter", "info"];
        let args = [&common[..], args].concat();
        let mut process = concord(dir.path(), &args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find_map(|line| line["fields"]["listening"].as_str().map(str::to_owned))
            .expect("the coordinator says where it listens");
        // Somebody has to read on, or the coordinator would block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Serving { process, address: format!("http://{address}"), dir }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        exit_code(&mut self.process)
    }

    #[track_caller]
    fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        let args: Vec<_> = args.iter().copied().chain(["--address", &self.address]).collect();
        expect(code, self.dir.path(), &args)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.expect(0, &args).0).unwrap()
    }

    /// Begins transactions of this name; their gtids, in order.
    fn begin(&self, name: &str, count: usize) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = CoordinatorClient::connect(self.address.clone()).await.unwrap();
            let mut gtids = Vec::new();
            for _ in 0..count {
                let request = v1::BeginRequest { name: name.into(), ..Default::default() };
                gtids.push(client.begin(request).await.unwrap().into_inner().gtid);
            }
            gtids
        })
    }
}

impl Serving {
    /// What the port answers to HTTP/1.1: the status, the headers, the body.
    fn http(&self, request: &str) -> (u16, String, String) {
        self.http_to("localhost", request)
    }

    /// The same, from somebody who calls this machine by that name.
    fn http_to(&self, host: &str, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address.strip_prefix("http://").unwrap()).unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for the end of a process.
fn exit_code(process: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn gtids(listing: &Value) -> Vec<&str> {
    listing["transactions"].as_array().unwrap().iter().map(|t| t["gtid"].as_str().unwrap()).collect()
}

#[test]
fn transactions_are_listed_in_pages_newest_first() {
    let serving = Serving::start();
    let mut begun = serving.begin("cli-test", 5);
    begun.reverse();
    let other = serving.begin("other", 1);

    let all = serving.json(&["tx", "list", "--all"]);
    assert_eq!(gtids(&all).len(), 6);
    assert_eq!(all["next_page_token"], Value::Null);
    assert_eq!(gtids(&serving.json(&["tx", "list", "--name", "other"])), other);

    assert_eq!(gtids(&serving.json(&["tx", "list", "--text", &other[0][..18]])), other);
    assert_eq!(gtids(&serving.json(&["tx", "list", "--since", "1h", "--all"])), gtids(&all));
    for nothing in [["--before", "1h"], ["--protocol", "xa"], ["--participant", "http://127.0.0.1:1"]] {
        let listed = serving.json(&[&["tx", "list"], &nothing[..]].concat());
        assert_eq!(gtids(&listed), [""; 0], "{nothing:?}");
    }

    let first = serving.json(&["tx", "list", "--name", "cli-test", "--limit", "2"]);
    assert_eq!(gtids(&first), begun[..2]);
    let token = first["next_page_token"].as_str().unwrap();
    let rest = serving.json(&["tx", "list", "--name", "cli-test", "--page-token", token]);
    assert_eq!(gtids(&rest), begun[2..]);

    let (text, _) = serving.expect(0, &["tx", "list", "--name", "cli-test", "--limit", "2"]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("GTID "), "{text}");
    assert!(
        lines[1].starts_with(&begun[0]) && lines[1].contains("active") && lines[1].contains("cli-test"),
        "{text}"
    );
    assert!(lines[4].contains("--page-token"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours without a terminal");

    assert_eq!(serving.expect(0, &["tx", "list", "--state", "committed"]).0, "no transactions\n");
    assert_eq!(serving.expect(0, &["tx", "list", "--parked"]).0, "no transactions\n");
}

#[test]
fn a_list_that_is_watched_shows_what_is_new() {
    let serving = Serving::start();
    let args = ["tx", "list", "--watch", "--json", "--address", &serving.address];
    let mut watch = concord(serving.dir.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lists = BufReader::new(watch.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(gtids(&lists.next().unwrap()), [""; 0]);
    let begun = serving.begin("seen", 1);
    let begun_at = Instant::now();
    while gtids(&lists.next().unwrap()) != begun {
        assert!(begun_at.elapsed() < PATIENCE);
    }
    // Whoever reads it has had enough.
    drop(lists);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_list_that_is_watched_outlives_the_coordinator() {
    let serving = Serving::start();
    let dir = TempDir::new().unwrap();
    let args = ["tx", "list", "--watch", "--json", "--address", &serving.address];
    let mut watch = concord(dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut complaints = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut lists = BufReader::new(watch.stdout.take().unwrap()).lines();
    lists.next().unwrap().unwrap();
    let serving = serving.killed_and_started_again(|| {
        let complaint = complaints.next().unwrap().unwrap();
        let complaint: Value = serde_json::from_str(&complaint).unwrap();
        assert_eq!(complaint["error"]["code"], "UNAVAILABLE", "{complaint}");
    });
    let begun = serving.begin("seen", 1);
    let begun_at = Instant::now();
    while gtids(&serde_json::from_str(&lists.next().unwrap().unwrap()).unwrap()) != begun {
        assert!(begun_at.elapsed() < PATIENCE);
    }
    drop(lists);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

/// A command on a terminal of its own, and what it has written there.
struct OnTerminal {
    process: Child,
    written: Arc<Mutex<String>>,
}

impl OnTerminal {
    fn start(args: &[&str]) -> OnTerminal {
        // Without `exec` some shells wait for it, and die of a Ctrl-C that it takes.
        let command = [&["exec", env!("CARGO_BIN_EXE_concord")], args].concat().join(" ");
        // Of util-linux, as everywhere on Linux.
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = script.spawn().unwrap();
        let mut out = process.stdout.take().unwrap();
        let written = Arc::<Mutex<String>>::default();
        let read = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut part) {
                read.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        OnTerminal { process, written }
    }

    fn shows(&self, text: &str) {
        let begun = Instant::now();
        while !self.written.lock().unwrap().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text:?} is not shown: {}", self.written.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn types(&mut self, key: &[u8]) {
        let keyboard = self.process.stdin.as_mut().unwrap();
        keyboard.write_all(key).unwrap();
        keyboard.flush().unwrap();
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // With the terminal goes what runs on it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn on_a_terminal_a_watched_list_stays_until_a_key_ends_it() {
    let mut serving = Serving::start();
    for key in [&b"q"[..], b"\x03"] {
        let begun = serving.begin("seen", 1);
        let mut watch = OnTerminal::start(&["tx", "list", "--watch", "--address", &serving.address]);
        watch.shows(&begun[0]);
        serving = serving.killed_and_started_again(|| watch.shows("this is how it was before"));
        let begun = serving.begin("seen", 1);
        watch.shows(&begun[0]);
        // Others mean nothing.
        watch.types(b"x");
        watch.types(key);
        assert_eq!(exit_code(&mut watch.process), Some(0), "{key:?}");
    }
}

#[test]
fn one_transaction_from_beginning_to_end() {
    let serving = Serving::start();
    let gtid = &serving.begin("one", 1)[0];
    assert_eq!(serving.json(&["tx", "get", gtid])["state"], "active");
    let (text, _) = serving.expect(0, &["tx", "get", gtid]);
    assert!(text.starts_with(&format!("gtid     {gtid}\nstate    active\n")), "{text}");

    let mut watch =
        concord(serving.dir.path(), &["tx", "watch", gtid, "--json", "--address", &serving.address]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut changes = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&changes.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["state"], "active");

    let ended = serving.json(&["tx", "rollback", gtid, "--reason", "enough"]);
    assert_eq!((ended["state"].as_str(), ended["gtid"].as_str()), (Some("rolled_back"), Some(gtid.as_str())));
    let last = changes.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).last().unwrap();
    assert_eq!(last["state"], "rolled_back");
    assert_eq!(watch.wait().unwrap().code(), Some(0), "the stream ends with the transaction");
}

#[test]
fn what_is_not_there() {
    let serving = Serving::start();
    for command in ["get", "watch", "rollback", "retry"] {
        let (out, err) = serving.expect(4, &["tx", command, UNKNOWN_GTID]);
        assert_eq!(out, "");
        assert!(err.contains("UNKNOWN_GTID"), "{command}: {err}");
    }
    let resolve = ["tx", "resolve", UNKNOWN_GTID, "--outcome", "rolled-back", "--reason", "x", "--yes"];
    assert!(serving.expect(4, &resolve).1.contains("UNKNOWN_GTID"));
    assert!(serving.expect(1, &["tx", "list", "--page-token", "garbage"]).1.starts_with("error: "));
    let (out, err) = serving.expect(4, &["tx", "get", UNKNOWN_GTID, "--json"]);
    assert!(out.is_empty() && err.lines().count() == 1, "{err}");
    let error = &serde_json::from_str::<Value>(&err).unwrap()["error"];
    assert_eq!((&error["reason"], &error["code"]), (&"UNKNOWN_GTID".into(), &"NOT_FOUND".into()));
}

#[test]
fn nothing_is_resolved_where_nothing_is_decided() {
    let serving = Serving::start();
    let gtid = &serving.begin("one", 1)[0];
    let resolve = ["tx", "resolve", gtid, "--outcome", "committed", "--reason", "x", "--yes"];
    assert!(serving.expect(1, &resolve).1.contains("NOT_DECIDED"));
}

#[test]
fn a_coordinator_that_hangs_is_told_from_none() {
    let serving = Serving::start();
    let gtid = &serving.begin("one", 1)[0];
    serving.signal("-STOP");
    let (_, err) = serving.expect(1, &["status", "--timeout-ms", "200"]);
    assert!(err.starts_with(&format!("error: {} has not answered in 200ms\n", serving.address)), "{err}");
    assert!(err.contains("hung or overloaded") && !err.contains("order"), "{err}");
    let (_, err) = serving.expect(1, &["tx", "retry", gtid, "--timeout-ms", "200"]);
    assert!(err.contains("\nhint: the order may have been carried out"), "{err}");
    for endless in [&["tx", "watch", gtid][..], &["drain"]] {
        let (_, err) = serving.expect(1, &[endless, &["--timeout-ms", "200"]].concat());
        assert!(err.contains("has not answered in 200ms"), "{endless:?}: {err}");
    }
    let address = serving.address.trim_start_matches("http://");
    let (out, _) = expect(1, serving.dir.path(), &["doctor", "--listen", address]);
    assert!(out.contains("FAIL  server.listen: something listens at"), "{out}");
    serving.signal("-CONT");
}

#[test]
fn status_and_resources() {
    let serving = Serving::start();
    serving.begin("status", 2);
    let status = serving.json(&["status"]);
    assert_eq!((status["epoch"].as_u64(), status["begun"].as_u64()), (Some(1), Some(2)));
    assert!(serving.expect(0, &["status"]).0.starts_with("coordinator          up for "));
    assert_eq!(serving.json(&["resource", "list"]), serde_json::json!({"resources": []}));
    let in_doubt = serving.json(&["resource", "in-doubt"]);
    let nothing = serde_json::json!({"branches": [], "unreachable": [], "asked": [], "branches_in_doubt": 0});
    assert_eq!(in_doubt, nothing);
}

#[test]
fn a_file_of_variables_is_read_again_when_it_changes() {
    let dir = TempDir::new().unwrap();
    let write = |dir: &Path, max| {
        let text = format!("CONCORD_LIMITS_LIVE_TRANSACTIONS_MAX={max}\n");
        std::fs::write(dir.join("secrets.env"), text).unwrap();
    };
    write(dir.path(), 1);
    let serving = Serving::start_in(dir, "127.0.0.1:0", &["--environment-file", "secrets.env"]);
    let begin = || serving.http("POST /v1/transactions").0;
    assert_eq!((begin(), begin()), (200, 429));
    write(serving.dir.path(), 10);
    let written_at = Instant::now();
    while begin() != 200 {
        assert!(written_at.elapsed() < Duration::from_secs(20), "too soon for one to have timed out");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_stops_in_good_order() {
    for signal in ["-TERM", "-INT"] {
        let mut serving = Serving::start();
        serving.signal(signal);
        assert_eq!(serving.exit_code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let mut serving = Serving::start();
    // A live transaction keeps it waiting for the grace period, which is as long as it may be here.
    serving.begin("lasting", 1);
    serving.signal("-TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert!(serving.process.try_wait().unwrap().is_none(), "one signal lets calls in progress finish");
    let begun = Instant::now();
    serving.signal("-TERM");
    assert_eq!(serving.exit_code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_port_answers_machines_and_browsers_too() {
    let serving = Serving::start();
    let gtid = serving.begin("looked at", 1).remove(0);
    assert_eq!(serving.http("GET /livez").0, 200);
    assert_eq!(serving.http("GET /readyz").0, 200);
    let (status, head, metrics) = serving.http("GET /metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(metrics.contains("concord_transactions_live{state=\"active\"} 1"), "{metrics}");
    let (status, head, _) = serving.http("GET /");
    assert_eq!((status, head.contains("location: /console/")), (307, true), "{head}");
    let (status, head, page) = serving.http("GET /console/");
    assert!(status == 200 && page.contains("<title>Concord</title>"), "{page}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    let (status, _, transaction) = serving.http(&format!("GET /v1/transactions/{gtid}"));
    assert!(status == 200 && transaction.contains("looked at"), "{transaction}");
    let (status, head, problem) = serving.http("GET /nothing");
    assert!(status == 404 && head.contains("application/problem+json"), "{head} {problem}");

    for path in ["/v1/status", "/console/", "/metrics"] {
        assert_eq!(serving.http_to("shop.example", &format!("GET {path}")).0, 403, "{path}");
    }

    // One that is to stop is not ready, and lives.
    let args = ["drain", "--grace-ms", "3600000", "--address", &serving.address];
    let mut drain = concord(serving.dir.path(), &args).stdout(Stdio::null()).spawn().unwrap();
    while serving.json(&["status"])["draining"] != true {}
    assert_eq!(serving.http("GET /readyz").0, 503);
    assert_eq!(serving.http("GET /livez").0, 200);
    drain.kill().unwrap();
    drain.wait().unwrap();
}

#[test]
fn the_service_manager_hears_how_it_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hears = |wanted: &str| {
        let wanted = format!("{wanted}\n");
        let mut message = [0; 256];
        loop {
            let length = socket.recv(&mut message).unwrap();
            if &message[..length] == wanted.as_bytes() {
                return;
            }
        }
    };
    let mut serve = concord(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    serve.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").stderr(Stdio::null());
    let mut process = serve.spawn().unwrap();
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    hears("STOPPING=1");
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_drain_waits_for_what_is_live() {
    let mut serving = Serving::start();
    let gtid = &serving.begin("lasting", 1)[0];
    let args = ["drain", "--grace-ms", "3600000", "--json", "--address", &serving.address];
    let mut drain = concord(serving.dir.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
    let mut steps = BufReader::new(drain.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let first = steps.next().unwrap();
    assert_eq!((&first["live_transactions"], &first["stopping"]), (&1.into(), &false.into()), "{first}");
    assert_eq!(first["undecided_transactions"], 1, "{first}");
    assert_eq!(serving.json(&["status"])["draining"], true);
    serving.expect(0, &["tx", "rollback", gtid]);
    let last = steps.last().unwrap();
    assert_eq!((&last["live_transactions"], &last["stopping"]), (&0.into(), &true.into()), "{last}");
    assert_eq!(drain.wait().unwrap().code(), Some(0));
    assert_eq!(serving.exit_code(), Some(0));
}

#[test]
fn the_last_order_to_stop_counts() {
    for hurry in ["drain", "signal"] {
        let mut serving = Serving::start();
        serving.begin("lasting", 1);
        let args = ["drain", "--grace-ms", "3600000", "--address", &serving.address];
        let mut patient = concord(serving.dir.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
        while serving.json(&["status"])["draining"] != true {}
        match hurry {
            "drain" => {
                let (out, _) = serving.expect(0, &["drain", "--grace-ms", "0"]);
                assert!(out.ends_with("left to its next start: 1 (1 undecided, rolled back)\n"), "{out}");
            }
            _ => serving.signal("-TERM"),
        }
        assert_eq!(serving.exit_code(), Some(0), "{hurry}");
        assert_eq!(patient.wait().unwrap().code(), Some(0), "{hurry}");
    }
}

#[test]
fn two_coordinators_do_not_share_a_store() {
    let serving = Serving::start();
    let (_, err) = expect(3, serving.dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert!(err.contains("in use by another coordinator"), "{err}");
}

#[test]
fn a_log_that_cannot_be_written_does_no_harm() {
    let dir = TempDir::new().unwrap();
    // A port of nobody's: without its log the coordinator cannot say which one it has taken.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let args = ["serve", "--listen", &port.to_string(), "--log-filter", "debug"];
    let process = concord(dir.path(), &args).stderr(full).spawn().unwrap();
    let mut serving = Serving { process, address: format!("http://{port}"), dir };
    let begun = Instant::now();
    while run(serving.dir.path(), &["status", "--address", &serving.address]).status.code() != Some(0) {
        assert!(
            serving.process.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE,
            "it does not start"
        );
    }
    assert_eq!(serving.begin("unlogged", 3).len(), 3);
    serving.signal("-TERM");
    serving.signal("-TERM");
    assert!(matches!(serving.exit_code(), Some(0 | 1)), "it ended in good order");
}
