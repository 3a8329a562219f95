//! Runs the demo as its reader does, in a short form, and looks at what it says and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The demo, with everything that it makes below `dir`.
fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bank-transfer"));
    command.args(arguments).env("TMPDIR", dir);
    command
}

/// Processes of the demo's own that have `dir` on their command line: banks and coordinators. Database servers
/// are the sandbox's to end, and have their own tests.
fn left_running(dir: &Path) -> Vec<String> {
    let listing = Command::new("ps").args(["-ww", "-A", "-o", "args="]).output().unwrap();
    let dir = format!("{}/concord-bank-transfer-", dir.display());
    let lines = String::from_utf8_lossy(&listing.stdout).into_owned();
    lines.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

fn assert_nothing_left(dir: &Path) {
    assert_eq!(left_running(dir), Vec::<String>::new());
    for entry in dir.read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("concord-bank-transfer-"), "{name} was left behind");
        if name.starts_with("concord-sandbox-") {
            let runs = dir.join(name).join("runs").read_dir().unwrap();
            let runs: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
            assert!(runs.is_empty(), "{runs:?} was left behind");
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// All of it, on one kind of server.
fn shows_what_it_promises(db: &str, more: &[&str]) -> Value {
    let dir = TempDir::new().unwrap();
    let json = dir.path().join("report.json");
    let arguments =
        ["--db", db, "--transfers", "100", "--concurrency", "16", "--json", json.to_str().unwrap()];
    let output = demo(dir.path(), &[&arguments, more].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report = read_json(&json);
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["database"]["flavor"], db);
    let states: Vec<_> =
        report["scenarios"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["COMMITTED", "ROLLED_BACK", "COMMITTED", "COMMITTED"]);
    assert!(report["scenarios"][1]["reason"].as_str().unwrap().contains("insufficient funds"), "{report:#}");
    let storm = &report["storm"];
    let (committed, refused) = (storm["committed"].as_u64().unwrap(), storm["refused"].as_u64().unwrap());
    assert_eq!(committed + refused, 100);
    assert!(committed > 0 && storm["committed_per_second"].as_f64().unwrap() > 0.0);
    let audit = &report["audit"];
    assert_eq!(audit["balances"]["total"], audit["balances_at_opening"]["total"]);
    assert_eq!(audit["in_doubt"], serde_json::json!([0, 0]));
    let invariants = audit["invariants"].as_array().unwrap();
    assert_eq!(invariants.len(), 7);
    assert!(invariants.iter().all(|one| one["holds"] == true), "{report:#}");
    assert_nothing_left(dir.path());
    report
}

#[test]
fn money_moves_atomically_on_mariadb() {
    shows_what_it_promises("mariadb", &[]);
}

#[test]
fn money_moves_atomically_on_mysql() {
    shows_what_it_promises("mysql", &[]);
}

#[test]
fn it_still_does_when_processes_die_in_the_middle_and_accounts_are_few() {
    let report = shows_what_it_promises("mariadb", &["--chaos", "--accounts", "20"]);
    assert_eq!(report["storm"]["log_syncs_per_transaction"], Value::Null, "the coordinator was not killed");
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

/// Starts the demo, and waits until it has printed this.
fn running_until(dir: &Path, arguments: &[&str], seen: &str) -> Child {
    let mut child = demo(dir, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.find(|line| line.as_ref().unwrap().contains(seen));
    assert!(found.is_some(), "the demo ended before it said {seen:?}");
    // Nobody reads on; the little that is still printed fits into the pipe, which must stay open for it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--transfers", "10000000"];
    let mut child = running_until(dir.path(), &arguments, "10,000,000 random transfers");
    assert_eq!(left_running(dir.path()).len(), 3, "two banks and a coordinator");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_left(dir.path());
}

#[test]
fn keep_leaves_everything_running_until_ctrl_c() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--transfers", "10", "--keep"];
    let mut child = running_until(dir.path(), &arguments, "turns commits away");
    assert_eq!(left_running(dir.path()).len(), 3, "two banks and a coordinator");
    interrupt(&child);
    assert!(child.wait().unwrap().success());
    assert_nothing_left(dir.path());
}

#[test]
fn the_services_end_when_the_demo_is_killed() {
    let dir = TempDir::new().unwrap();
    let arguments = ["--db", "mariadb", "--transfers", "10000000"];
    let mut child = running_until(dir.path(), &arguments, "10,000,000 random transfers");
    assert_eq!(left_running(dir.path()).len(), 3, "two banks and a coordinator");
    child.kill().unwrap();
    child.wait().unwrap();
    let started = Instant::now();
    while !left_running(dir.path()).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", left_running(dir.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
}
