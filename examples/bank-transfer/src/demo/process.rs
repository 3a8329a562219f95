//! A service in a process of its own, whose log goes to a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;

use super::wait::until;

/// A service that can be killed and started again at the same address. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    address: SocketAddr,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes it; [`start`](Self::start) starts it.
    pub(crate) fn new(
        name: impl Into<String>,
        program: PathBuf,
        arguments: Vec<OsString>,
        address: SocketAddr,
        log: PathBuf,
    ) -> Process {
        Process { name: name.into(), program, arguments, address, log, child: None }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as participants and clients are named.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id; 0 while it is not running.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it and returns when it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or does not listen.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log).context("open a log file")?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // What the reader has configured for a coordinator of their own is not meant for this one.
            .current_dir(self.log.parent().unwrap_or(Path::new(".")))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !is_of_concord(name)))
            .stdin(Stdio::piped()) // Its end tells the child that its parent is gone.
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C in the terminal is for the demo alone, which ends its children itself.
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        let (address, name) = (self.address, self.name.clone());
        until(&format!("{name} listens on {address}"), async || {
            if let Some(status) = self.exited()? {
                bail!("{name} ended while starting: {status}");
            }
            Ok(TcpStream::connect(address).await.ok().map(drop))
        })
        .await
    }

    /// Ends it with SIGKILL, as a crash would, and returns when it is gone.
    ///
    /// # Errors
    /// When the system refuses, or it had ended by itself, which it must not.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} has ended by itself: {status}", self.name);
        }
        let Some(mut child) = self.child.take() else { bail!("{} is not running", self.name) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn is_of_concord(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("CONCORD_")
}
