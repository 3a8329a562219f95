//! The command line of a PostgreSQL server, and how to tell that it is ready.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{PostgresOptions, account, installation::PostgresInstallation};
use crate::{
    error::{IoContext, Result},
    launch::log_handles,
    rundir::RunDir,
};

/// Loopback only, and no socket file: a client that prefers it would not measure what a network client does.
const SETTINGS: [&str; 12] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    // Durable: every commit is on disk when it is acknowledged. These are its defaults; here they are a promise.
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "superuser_reserved_connections=0",
    // In the data directory, so that it goes when that goes.
    "dynamic_shared_memory_type=mmap",
    "huge_pages=off",
    // The compiler of queries is not among what is unpacked.
    "jit=off",
    "ssl=off",
    "timezone=GMT",
    "log_timezone=GMT",
];

/// Starts the server in a process group of its own, so that a Ctrl-C meant for its owner does not reach it.
pub(super) fn spawn(
    installation: &PostgresInstallation,
    options: &PostgresOptions,
    run: &RunDir,
    port: u16,
) -> Result<Child> {
    let mut command = installation.command("postgres");
    command.arg(run.postgres_data_arg());
    let sizes = [format!("port={port}"), format!("max_connections={}", options.max_connections)];
    for setting in SETTINGS.map(str::to_string).into_iter().chain(sizes) {
        command.args(["-c", &setting]);
    }
    // The caller's arguments come last, because the last of two equal settings wins.
    command.args(&options.args);
    let mut command: Command = account::unprivileged(command)?;
    let (out, err) = log_handles(&run.log())?;
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    command.spawn().context(|| format!("start {}", installation.program.display()))
}

/// What a server writes about itself into its data directory, one thing per line.
pub(super) struct PidFile(String);

impl PidFile {
    /// `None` if no server runs there, or it was killed and has not been started again.
    pub(super) fn read(data: &Path) -> Option<PidFile> {
        fs::read_to_string(data.join("postmaster.pid")).ok().map(PidFile)
    }

    /// Whether this process has bound its port and takes connections: it says so itself, so no other server on the
    /// port can be taken for it.
    pub(super) fn is_ready(&self, pid: u32) -> bool {
        self.line(1).parse() == Ok(pid) && self.line(8) == "ready"
    }

    /// The number of the System V shared memory segment by which it keeps a second server off its data.
    pub(super) fn segment(&self) -> Option<u32> {
        self.line(7).split_whitespace().nth(1)?.parse().ok()
    }

    fn line(&self, number: usize) -> &str {
        self.0.lines().nth(number - 1).unwrap_or_default().trim()
    }
}

/// In English because of `LC_ALL=C`.
pub(super) fn is_port_taken(log: &str) -> bool {
    log.contains("could not bind") && log.contains("Address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_tells_who_is_ready_and_which_segment_is_theirs() {
        let file = |last: &str| {
            PidFile(format!("4321\n/data\n1790000000\n25123\n\n127.0.0.1\n  25123001         7\n{last}\n"))
        };
        assert!(file("ready   ").is_ready(4321));
        assert!(!file("ready   ").is_ready(4322), "a file that a killed server left");
        assert!(!file("starting").is_ready(4321));
        assert_eq!(file("ready").segment(), Some(7));
        assert_eq!(PidFile("4321\n".into()).segment(), None);
    }
}
