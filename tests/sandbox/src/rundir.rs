//! A directory per running server, and the sweep of those whose owner died.
//!
//! ```text
//! <run dir>/sweep.lock          held while a run directory is made, and during a sweep
//!          /ports/25123         held while that port is in use by one of our servers
//!          /runs/<name>/owner   held by the owner for as long as it lives; inside: its pid
//!                      /server  the server's pid, while there is one
//!                      /keep    if it exists, the data outlives the owner
//!                      /data/   the data directory
//!                      /server.log
//! ```
//!
//! A lock is a better witness of life than a pid: the kernel releases it however the owner dies, and it cannot
//! be mistaken for another process that was given the same number later.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    Environment,
    error::{IoContext, Result},
    installation::with_path,
};

/// How long a killed server may take to disappear: it may be writing.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A server that a sweep found without an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// The process that was killed; `None` if only its directory was left.
    pub killed_pid: Option<u32>,
    /// Its run directory, removed unless the owner had asked to keep the data.
    pub dir: PathBuf,
}

/// Kills the servers of dead owners and removes their directories. Every start does this first; call it
/// directly to clean up without starting anything. Blocking.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the run directory cannot be read. A directory that cannot be removed is left to the next sweep.
pub fn sweep(env: &Environment) -> Result<Vec<Swept>> {
    let runs = env.run_dir.join("runs");
    if !runs.is_dir() {
        return Ok(Vec::new());
    }
    let _lock = sweep_lock(env)?;
    let mut swept = Vec::new();
    for entry in fs::read_dir(&runs).context(|| format!("list {}", runs.display()))?.flatten() {
        let dir = entry.path();
        let owner = File::options().write(true).open(dir.join("owner"));
        if owner.as_ref().is_ok_and(|owner| owner.try_lock().is_err()) {
            continue;
        }
        let kept = dir.join("keep").exists();
        let pid = fs::read_to_string(dir.join("server")).ok().and_then(|text| text.trim().parse().ok());
        let killed_pid = pid.filter(|pid| kill_if_ours(*pid, &dir));
        if kept {
            fs::remove_file(dir.join("server")).ok();
        } else {
            fs::remove_dir_all(&dir).ok();
        }
        if killed_pid.is_some() || !kept {
            tracing::info!(?killed_pid, dir = %dir.display(), "swept away a server without an owner");
            swept.push(Swept { killed_pid, dir });
        }
    }
    Ok(swept)
}

/// Makes the directory of run directories. Its servers have no password and its name can be guessed, so nobody
/// else may look inside, and nobody else may have put it there.
fn private_dir(env: &Environment) -> Result<PathBuf> {
    fs::create_dir_all(&env.run_dir).context(|| format!("create {}", env.run_dir.display()))?;
    let runs = env.run_dir.join("runs");
    match DirBuilder::new().mode(0o700).create(&runs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).context(|| format!("create {}", runs.display()));
        }
        _ => {}
    }
    for dir in [&env.run_dir, &runs] {
        let meta = fs::symlink_metadata(dir).context(|| format!("stat {}", dir.display()))?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
            let foreign = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it belongs to another user; set CONCORD_SANDBOX_DIR to a directory of your own",
            );
            return Err(foreign).context(|| format!("use {}", dir.display()));
        }
    }
    Ok(runs)
}

fn sweep_lock(env: &Environment) -> Result<File> {
    let path = env.run_dir.join("sweep.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    lock.lock().context(|| format!("lock {}", path.display()))?;
    Ok(lock)
}

/// Ends the process and waits until it is gone, if it is a server on this run directory's data.
fn kill_if_ours(pid: u32, dir: &Path) -> bool {
    // PostgreSQL's first process ends its others at once when it gets this signal, and takes its shared memory along.
    let ways = [(data_dir_arg(dir), Signal::KILL), (postgres_data_arg(dir), Signal::QUIT)];
    let Some((data, signal)) = ways.into_iter().find(|(data, _)| runs_with(pid, data)) else { return false };
    signal_group(pid, signal);
    // A frozen process takes its signals when it goes on.
    signal_group(pid, Signal::CONT);
    let deadline = Instant::now() + GONE_WITHIN;
    while runs_with(pid, &data) {
        if Instant::now() > deadline {
            signal_group(pid, Signal::KILL);
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Whether the process exists, is no zombie, and has this argument. Pids are used again, so a pid alone is no
/// reason to kill.
fn runs_with(pid: u32, argument: &OsString) -> bool {
    if let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) {
        return command_line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes());
    }
    if Path::new("/proc/self").exists() {
        return false;
    }
    // macOS has no /proc.
    let listing = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    listing.is_ok_and(|output| {
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        line.contains(argument.to_string_lossy().as_ref())
    })
}

/// Servers lead their own process group, so its number is their pid. A process that is gone is no error.
pub(crate) fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process_group(pid, signal).ok();
    }
}

fn data_dir_arg(dir: &Path) -> OsString {
    with_path("--datadir=", &dir.join("data"))
}

fn postgres_data_arg(dir: &Path) -> OsString {
    with_path("-D", &dir.join("data"))
}

/// The run directory of one server of ours. Dropping it removes it, unless the data is to be kept.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    keep: bool,
    /// Held for its lock.
    _owner: File,
}

impl RunDir {
    pub(crate) fn create(env: &Environment, keep: bool) -> Result<RunDir> {
        let runs = private_dir(env)?;
        let _lock = sweep_lock(env)?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&runs)
            .context(|| format!("create a directory in {}", runs.display()))?;
        let owner = dir.path().join("owner");
        let mut owner = File::create_new(&owner).context(|| format!("create {}", owner.display()))?;
        owner.lock().context(|| "lock a new run directory".into())?;
        writeln!(owner, "{}", std::process::id()).context(|| "write the owner's pid".into())?;
        if keep {
            File::create_new(dir.path().join("keep")).context(|| "mark a run directory as kept".into())?;
        }
        Ok(RunDir { path: dir.keep(), keep, _owner: owner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn data_dir_arg(&self) -> OsString {
        data_dir_arg(&self.path)
    }

    /// As `postgres` takes it.
    pub(crate) fn postgres_data_arg(&self) -> OsString {
        postgres_data_arg(&self.path)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(crate) fn write_server_pid(&self, pid: u32) -> Result<()> {
        let path = self.path.join("server");
        fs::write(&path, format!("{pid}\n")).context(|| format!("write {}", path.display()))
    }

    pub(crate) fn forget_server_pid(&self) {
        fs::remove_file(self.path.join("server")).ok();
    }

    /// Starts a watcher for this server process, which is known by one of its arguments and ended by a signal.
    pub(crate) fn watch(&self, pid: u32, data_arg: &OsStr, signal: Signal) -> Watcher {
        let arguments = [OsString::from(pid.to_string()), data_arg.into(), self.path.clone().into()];
        let child = Command::new("sh")
            .args(["-c", WATCHER, "concord-sandbox-watcher"])
            .args(arguments)
            .arg(if self.keep { "keep" } else { "remove" })
            .arg(signal.as_raw().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        if let Err(error) = &child {
            tracing::debug!(%error, "no watcher; the next sweep must do its work");
        }
        Watcher { child: child.ok() }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "a run directory is left for the next sweep");
        }
    }
}

/// Waits on a pipe whose other end only the owner holds. A line means that the server has ended as it should;
/// the end of the pipe without a line means that the owner died. Arguments: pid, the argument that names its data
/// directory, the run directory, `keep` or `remove`, the number of the signal that ends it.
const WATCHER: &str = r#"
trap '' HUP INT TERM
read -r line && exit 0
ours() {
    if [ -d /proc/self ]; then tr '\000' '\n' <"/proc/$1/cmdline" | grep -qxF -- "$2"
    else ps -ww -o command= -p "$1" | grep -qF -- "$2"; fi
}
if ours "$1" "$2"; then kill -"$5" "$1"; kill -CONT "$1"; fi
tries=0
while ours "$1" "$2" && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
if ours "$1" "$2"; then kill -9 "$1"; fi
if [ "$4" = remove ]; then rm -rf -- "$3"; fi
"#;

/// A process that kills the server if this process dies without doing so.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Option<Child>,
}

impl Drop for Watcher {
    /// Sends it home: the server is known to have ended.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(b"done\n").ok();
        }
        child.wait().ok();
    }
}
