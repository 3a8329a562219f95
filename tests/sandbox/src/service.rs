//! Services beside the databases: coordinators and participants in processes of their own, to be killed and
//! started again at the same address.
//!
//! A program usually starts itself again with other arguments; [`parent_gone`] then ends the child when its
//! parent is gone, however that came about.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Environment;
use crate::error::Result;
use crate::port::ReservedPort;

/// How long [`until`] waits: far beyond what anything here takes, so that only what never happens runs into it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much of a log a message shows.
const TAIL_BYTES: usize = 4_000;

/// A loopback port, kept for one service while this value lives, also while the service is down.
#[derive(Debug)]
pub struct Address(ReservedPort);

impl Address {
    /// Takes a port that is free now, outside the range from which clients get theirs.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve() -> Result<Self> {
        Ok(Address(ReservedPort::take(&Environment::from_process().run_dir)?))
    }

    /// As a socket address.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.number))
    }

    /// As participants and coordinators are named: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.socket())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

/// A service in a process of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    address: Address,
    log: PathBuf,
    child: Option<Child>,
}

impl Service {
    /// Describes a service; [`start`](Self::start) starts it. Its arguments must make it listen at `address`;
    /// its output is appended to the file `log`, whose directory is its working directory.
    pub fn new<A: Into<OsString>>(
        name: &str,
        program: PathBuf,
        arguments: impl IntoIterator<Item = A>,
        address: Address,
        log: PathBuf,
    ) -> Service {
        let arguments = arguments.into_iter().map(Into::into).collect();
        let environment = Vec::new();
        Service { name: name.to_owned(), program, arguments, environment, address, log, child: None }
    }

    /// Sets a variable of its environment, from its next start on. It has this program's, but for those that begin
    /// with `CONCORD_`.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Service {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its address as participants and coordinators are named.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Its process id; 0 while it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it, and returns when it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or does not listen; with the end of its log.
    pub async fn start(&mut self) -> io::Result<()> {
        let child = self.spawn()?;
        self.child = Some(child);
        let (address, what) = (self.address.socket(), format!("{} listens", self.name));
        let outcome = until(&what, async || {
            if let Some(status) = self.exited()? {
                return Err(io::Error::other(format!("{} ended while starting: {status}", self.name)));
            }
            Ok(TcpStream::connect(address).await.ok().map(drop))
        })
        .await;
        outcome
            .map_err(|error| io::Error::other(format!("{error}; the end of its log:\n{}", self.log_tail())))
    }

    /// Starts it and does not wait.
    fn spawn(&self) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // What the reader has configured for a coordinator of their own is not meant for this one.
        let of_concord = |name: &OsString| name.to_string_lossy().starts_with("CONCORD_");
        let mut command = Command::new(&self.program);
        if let Some(directory) = self.log.parent() {
            command.current_dir(directory);
        }
        command
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !of_concord(name)))
            .envs(self.environment.iter().cloned())
            // Its end tells the child that its parent is gone.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for the parent alone, which ends its children itself.
            .process_group(0)
            .spawn()
    }

    /// Ends it with SIGKILL, as a crash would, and returns when it is gone.
    ///
    /// # Errors
    /// When it is not running, or has ended by itself, which it must not.
    pub fn kill9(&mut self) -> io::Result<()> {
        if let Some(status) = self.exited()? {
            return Err(io::Error::other(format!("{} has ended by itself: {status}", self.name)));
        }
        let Some(mut child) = self.child.take() else {
            return Err(io::Error::other(format!("{} is not running", self.name)));
        };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it is not running.
    pub fn tell(&mut self, line: &str) -> io::Result<()> {
        let input = self.child.as_mut().and_then(|child| child.stdin.as_mut());
        let input =
            input.ok_or_else(|| io::Error::other(format!("{} cannot be told anything", self.name)))?;
        writeln!(input, "{line}")?;
        input.flush()
    }

    /// Freezes it (SIGSTOP). It may take a moment until all of its threads stand still.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self) -> io::Result<()> {
        Ok(kill_process(self.raw_pid()?, Signal::STOP)?)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.raw_pid()?, Signal::CONT)?)
    }

    /// From now on, until `None` lifts it, none of its files may grow beyond so many bytes (RLIMIT_FSIZE): what a
    /// full disk is to a program, if it takes the signal SIGXFSZ lightly.
    ///
    /// # Errors
    /// When it is not running; when the system refuses.
    pub fn limit_file_size(&self, bytes: Option<u64>) -> io::Result<()> {
        let limit = Rlimit { current: bytes, maximum: None };
        Ok(prlimit(Some(self.raw_pid()?), Resource::Fsize, limit).map(drop)?)
    }

    fn raw_pid(&self) -> io::Result<Pid> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        pid.ok_or_else(|| io::Error::other(format!("{} is not running", self.name)))
    }

    /// How it ended by itself; `None` while it runs, or was killed here, or has not been started.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// The last lines of its log.
    fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Looks until there is something to see: never by a fixed sleep.
///
/// # Errors
/// Those of `look`, and that nothing was seen within [`PATIENCE`].
pub async fn until<T, E: From<io::Error>>(
    what: &str,
    mut look: impl AsyncFnMut() -> std::result::Result<Option<T>, E>,
) -> std::result::Result<T, E> {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if started.elapsed() > PATIENCE {
            let message = format!("waited {} s in vain: {what}", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the process that started this one as a [`Service`] is gone: it holds the other end of standard
/// input.
pub async fn parent_gone() {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    // Not tokio's stdin: its thread would keep the runtime from shutting down.
    std::thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        drop(end);
    });
    // The sender sends nothing; it is dropped.
    ended.await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &std::path::Path, script: &str) -> Service {
        let address = Address::reserve().unwrap();
        Service::new("sleeper", "/bin/sh".into(), ["-c", script], address, directory.join("sleeper.log"))
    }

    #[tokio::test]
    async fn a_service_that_ends_while_starting_is_an_error_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let error = sleeper(directory.path(), "echo no luck; exit 7").start().await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("no luck"), "{error}");
    }

    #[tokio::test]
    async fn a_service_that_ended_by_itself_cannot_be_killed_unnoticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut service = sleeper(directory.path(), "exit 0");
        service.child = Some(service.spawn().unwrap());
        until("it ends", async || service.exited()).await.unwrap();
        assert!(service.kill9().unwrap_err().to_string().contains("by itself"));
    }
}
