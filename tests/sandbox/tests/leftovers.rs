//! Servers do not outlive their owner.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use concord_sandbox::{Environment, Flavor, Server, ServerOptions, sweep};

/// A `sandbox up` with one server, which can be killed in all ways.
struct Owner {
    process: Child,
    server_pid: u32,
    run: PathBuf,
}

/// The directory keeps these servers apart from those of other tests.
fn environment(dir: &Path) -> Environment {
    Environment { run_dir: dir.to_path_buf(), ..Environment::from_process() }
}

fn up(dir: &Path, db: &str, args: &[&str]) -> Owner {
    let mut process = Command::new(env!("CARGO_BIN_EXE_sandbox"))
        .args(["up", "--json", "--db", db])
        .args(args)
        .env("CONCORD_SANDBOX_DIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server: serde_json::Value = serde_json::from_str(&line).unwrap();
    let data = PathBuf::from(server["data_dir"].as_str().unwrap());
    let server_pid = u32::try_from(server["pid"].as_u64().unwrap()).unwrap();
    assert!(is_running(server_pid));
    Owner { process, server_pid, run: data.parent().unwrap().to_path_buf() }
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn is_running(pid: u32) -> bool {
    !command_line(pid).is_empty()
}

/// What a server has in the system besides its files.
struct Traces {
    processes: Vec<u32>,
    /// Lines of the system's list of shared memory begin with a key, which is different for each directory.
    shared_memory: Option<String>,
}

impl Traces {
    fn of(owner: &Owner, db: &str) -> Traces {
        let pid = owner.server_pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children = children.split_whitespace().map(|child| child.parse().unwrap());
        let processes = std::iter::once(pid).chain(children).collect();
        let file = fs::read_to_string(owner.run.join("data/postmaster.pid")).unwrap_or_default();
        let shared_memory =
            file.lines().nth(6).map(|line| line.split_whitespace().next().unwrap().to_owned());
        let traces = Traces { processes, shared_memory };
        let expected = if db == "postgres" { traces.processes.len() + 1 } else { 1 };
        assert_eq!(traces.left().len(), expected, "{:?}", traces.left());
        traces
    }

    fn left(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|pid| is_running(**pid)).map(u32::to_string);
        let list = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        let keys = list.lines().filter_map(|line| line.split_whitespace().next());
        let ours = keys.filter(|key| Some(*key) == self.shared_memory.as_deref()).map(str::to_owned);
        processes.chain(ours).collect()
    }
}

fn watchers_of(run: &Path) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let run = run.to_str().unwrap();
    pids.filter(|pid| {
        let line = command_line(*pid);
        line.contains("concord-sandbox-watcher") && line.contains(run)
    })
    .collect()
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap().success());
}

fn a_killed_owner_takes_its_server_along(db: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = up(dir.path(), db, &[]);
    let traces = Traces::of(&owner, db);
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    wait_until("the removal of its data", || !owner.run.exists());
    wait_until("the end of the server", || traces.left().is_empty());
}

#[test]
fn an_owner_that_is_killed_takes_its_server_along() {
    a_killed_owner_takes_its_server_along("mariadb");
}

#[test]
fn an_owner_that_is_killed_takes_all_processes_of_its_postgres_along() {
    a_killed_owner_takes_its_server_along("postgres");
}

#[test]
fn data_that_is_to_be_kept_outlives_a_killed_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = up(dir.path(), "mariadb", &["--keep-data"]);
    let watchers = watchers_of(&owner.run);
    assert_eq!(watchers.len(), 1);
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    wait_until("the end of the server", || !is_running(owner.server_pid));
    wait_until("the end of its watcher", || !is_running(watchers[0]));
    sweep(&environment(dir.path())).unwrap();
    assert!(owner.run.join("data").is_dir());
}

#[test]
fn ctrl_c_ends_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = up(dir.path(), "mariadb", &[]);
    let watchers = watchers_of(&owner.run);
    assert_eq!(watchers.len(), 1);
    kill(owner.process.id(), "INT");
    assert!(owner.process.wait().unwrap().success());
    assert!(!is_running(owner.server_pid));
    assert!(!is_running(watchers[0]), "the watcher is left");
    assert!(!owner.run.exists());
}

fn the_next_start_sweeps(db: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = up(dir.path(), db, &[]);
    let traces = Traces::of(&owner, db);
    // While its owner lives, a server is safe from the sweeps of others.
    let env = environment(dir.path());
    assert_eq!(sweep(&env).unwrap(), []);
    assert!(is_running(owner.server_pid));

    for watcher in watchers_of(&owner.run) {
        kill(watcher, "KILL");
    }
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(is_running(owner.server_pid), "something else ended it: this test shows nothing");

    let server = Server::start_in(&env, ServerOptions::new(Flavor::MariaDb)).unwrap();
    assert_eq!(traces.left(), Vec::<String>::new(), "the leftover server is still there");
    assert!(!owner.run.exists());
    assert!(server.pid().is_some());
}

#[test]
fn what_the_watcher_missed_the_next_start_sweeps() {
    the_next_start_sweeps("mariadb");
}

#[test]
fn what_the_watcher_missed_of_a_postgres_the_next_start_sweeps() {
    the_next_start_sweeps("postgres");
}

#[test]
fn a_sweep_does_not_kill_a_process_that_only_has_the_same_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut innocent = Command::new("sleep").arg("60").spawn().unwrap();
    let run = dir.path().join("runs/1234-abc");
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("owner"), "1234\n").unwrap();
    fs::write(run.join("server"), format!("{}\n", innocent.id())).unwrap();
    let swept = sweep(&environment(dir.path())).unwrap();
    assert_eq!(swept.len(), 1);
    assert_eq!(swept[0].killed_pid, None);
    assert!(!run.exists());
    assert!(innocent.try_wait().unwrap().is_none(), "an innocent process was killed");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}
