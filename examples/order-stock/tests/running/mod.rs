//! The demo as a process.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// What is printed last with `--keep`.
pub(crate) const KEPT: &str = "While there is a file";

/// The demo, with everything that it makes below `dir`.
pub(crate) fn demo(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-stock"));
    command.args(arguments).env("TMPDIR", dir);
    command
}

/// Processes of the demo's own that have `dir` on their command line: services and coordinators. Database servers
/// are the sandbox's to end, and have their own tests.
pub(crate) fn left_running(dir: &Path) -> Vec<String> {
    let listing = Command::new("ps").args(["-ww", "-A", "-o", "args="]).output().unwrap();
    let dir = format!("{}/concord-order-stock-", dir.display());
    let lines = String::from_utf8_lossy(&listing.stdout).into_owned();
    lines.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

pub(crate) fn assert_nothing_left(dir: &Path) {
    assert_eq!(left_running(dir), Vec::<String>::new());
    for entry in dir.read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("concord-order-stock-"), "{name} was left behind");
        if name.starts_with("concord-sandbox-") {
            let runs = dir.join(name).join("runs").read_dir().unwrap();
            let runs: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
            assert!(runs.is_empty(), "{runs:?} was left behind");
        }
    }
}

/// A demo under way. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    /// What it has printed so far.
    said: Vec<String>,
}

impl Running {
    /// Starts the demo, and waits until it has printed this.
    pub(crate) fn until(dir: &Path, arguments: &[&str], seen: &str) -> Running {
        let mut demo = demo(dir, arguments);
        // Whoever looks at it while it runs wants to find its databases under their usual names.
        demo.env_remove("CONCORD_TEST_MYSQL_URL").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = demo.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        while said.last().is_none_or(|line: &String| !line.contains(seen)) {
            said.push(lines.next().unwrap_or_else(|| panic!("it ended before it said {seen:?}: {said:#?}")));
        }
        // Nobody looks at the rest, but it must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child, said }
    }

    /// What it said about one of its processes, such as "order", when it had started it.
    fn about(&self, process: &str) -> &str {
        let start = format!("   {process:<13} process ");
        self.said.iter().find(|line| line.starts_with(&start)).unwrap()
    }

    /// The port of a service's database server.
    pub(crate) fn database_port(&self, service: &str) -> u16 {
        self.about(service).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Where a service listens.
    pub(crate) fn url(&self, service: &str) -> String {
        let words = self.about(service).split([' ', ',', ';']);
        format!("http://{}", words.into_iter().find(|word| word.starts_with("127.0.0.1:")).unwrap())
    }

    /// Ends one of its processes. Only with `--keep`, which says what they are in the end: some were restarted.
    pub(crate) fn kill9(&self, process: &str) {
        let list = self.said.iter().find_map(|line| line.strip_prefix("   Processes: ")).unwrap();
        let pid = list.split(", ").find_map(|one| one.strip_prefix(process));
        send("KILL", pid.unwrap().trim_start());
    }

    pub(crate) fn interrupt(&self) {
        send("INT", &self.child.id().to_string());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

fn send(signal: &str, pid: &str) {
    assert!(Command::new("kill").args(["-s", signal, pid]).status().unwrap().success());
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
