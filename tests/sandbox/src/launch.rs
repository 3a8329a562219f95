//! The command line of a server, and its log.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
};

use crate::{
    Flavor, Installation, ServerOptions, Version,
    error::{IoContext, Result},
    installation::with_path,
    rundir::RunDir,
};

/// Lines of the log that go into an error.
const LOG_TAIL_LINES_MAX: usize = 25;

/// The redo log's size, which must be the same when a template is made and when it is used. Large enough that a
/// bench of a minute is not a bench of checkpoints, small enough to copy.
pub(crate) fn redo_log(installation: &Installation) -> String {
    let capacity_since = Version { major: 8, minor: 0, patch: 30 };
    if installation.flavor == Flavor::MySql && installation.version >= capacity_since {
        "--innodb-redo-log-capacity=64M".into()
    } else {
        "--innodb-log-file-size=64M".into()
    }
}

/// Starts the server in a process group of its own, so that a Ctrl-C meant for its owner does not reach it.
pub(crate) fn spawn(
    installation: &Installation,
    options: &ServerOptions,
    run: &RunDir,
    port: u16,
) -> Result<Child> {
    let mut command = installation.command();
    command
        .arg(run.data_dir_arg())
        .arg(with_path("--pid-file=", &run.path().join("mysqld.pid")))
        // Its own: a MariaDB that starts deletes the temporary tables that it finds, also those of other servers.
        .arg(with_path("--tmpdir=", run.path()))
        .arg(format!("--port={port}"))
        // Loopback only. No socket: a client that prefers it would not measure what a network client does, and
        // its path would have to be shorter than 108 bytes.
        .args(["--bind-address=127.0.0.1", "--socket=", "--skip-name-resolve"])
        .arg(format!("--server-id={port}"))
        .arg(format!("--max-connections={}", options.max_connections))
        .args(["--back-log=1024", "--performance-schema=OFF"])
        // Durable: every commit and prepare is on disk when it is acknowledged.
        .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=ON"])
        .args(["--innodb-buffer-pool-size=128M", "--innodb-buffer-pool-dump-at-shutdown=OFF"])
        .arg("--innodb-buffer-pool-load-at-startup=OFF")
        // Kernels give out a limited number of asynchronous requests; a dozen servers would run dry.
        .arg("--innodb-use-native-aio=OFF")
        .arg(redo_log(installation));
    if options.binlog {
        command.args(["--log-bin=binlog", "--sync-binlog=1"]);
        if installation.flavor == Flavor::MariaDb {
            // MySQL's only format since 8.0 by default; MariaDB's default is MIXED.
            command.arg("--binlog-format=ROW");
        }
    } else {
        command.arg("--skip-log-bin");
    }
    if installation.flavor == Flavor::MySql {
        command.arg("--mysqlx=OFF");
    }
    let (out, err) = log_handles(&run.log())?;
    // The caller's arguments come last, because the last of two equal options wins.
    command.args(&options.args).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    command.spawn().context(|| format!("start {}", installation.program.display()))
}

/// Two handles that append to the same log.
pub(crate) fn log_handles(path: &Path) -> Result<(File, File)> {
    let open = || File::options().create(true).append(true).open(path);
    let out = open().context(|| format!("open {}", path.display()))?;
    let err = out.try_clone().context(|| format!("open {}", path.display()))?;
    Ok((out, err))
}

/// The log from byte `from` on.
pub(crate) fn log_since(path: &Path, from: u64) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// The last lines of the log from byte `from` on.
pub(crate) fn log_tail(path: &Path, from: u64) -> String {
    let text = log_since(path, from);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES_MAX)..].join("\n");
    if tail.is_empty() { "(the log is empty)".into() } else { tail }
}
