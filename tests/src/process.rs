//! A program in a process of its own, whose log goes to a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use concord_sandbox::PATIENCE;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::wait::until;

/// Lines of a log that a failing test shows.
const TAIL_LINES: usize = 60;

/// Where the programs of this crate are; see [`crate::programs`].
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    /// `test-coordinator`.
    pub coordinator: &'static str,
    /// `test-participant`.
    pub participant: &'static str,
}

/// A process that can be killed and started again. Dropped, it is killed, and the end of its log is printed: the
/// test runner shows that of a test that failed.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    /// In blocks of 512 bytes; `None`: files may be as long as they will.
    file_blocks_max: Option<u64>,
    child: Option<Child>,
}

impl Process {
    /// Describes it; [`start`](Self::start) starts it.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, directory: &Path) -> Process {
        let name = name.into();
        let log = directory.join(format!("{name}.log"));
        Process {
            name,
            program: program.into(),
            arguments: Vec::new(),
            log,
            file_blocks_max: None,
            child: None,
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is started with, from the next start on.
    pub fn set_arguments(&mut self, arguments: Vec<OsString>) {
        self.arguments = arguments;
    }

    /// From the next start on, no file may grow beyond so many blocks of 512 bytes: what a full disk is to a
    /// program, without needing to fill one.
    pub fn limit_files(&mut self, blocks: Option<u64>) {
        self.file_blocks_max = blocks;
    }

    /// Its process id; `None` while it is not running.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it. Answers with its standard output.
    ///
    /// # Errors
    /// When it is running, or the system refuses.
    pub fn start(&mut self) -> Result<ChildStdout> {
        if self.exited()?.is_none() && self.child.is_some() {
            bail!("{} is running already", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log).context("open a log file")?;
        let mut command = self.command();
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_for_children(name)))
            .stdin(Stdio::piped()) // Its end tells the process that the test is gone.
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0); // Ctrl-C is for the test alone, which ends its processes itself.
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        let output = child.stdout.take().context("its standard output")?;
        self.child = Some(child);
        Ok(output)
    }

    fn command(&self) -> Command {
        let Some(blocks) = self.file_blocks_max else {
            let mut command = Command::new(&self.program);
            command.args(&self.arguments);
            return command;
        };
        // Beyond the limit comes a signal, whose default is to end the process; ignored, the write fails instead.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&self.program).args(&self.arguments);
        command
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it is not running.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.as_mut().and_then(|child| child.stdin.as_mut());
        let input = input.with_context(|| format!("{} is not running", self.name))?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// Ends it with SIGKILL, as a crash would, and returns when it is gone. Does nothing when it is not running.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM); [`ended`](Self::ended) waits for that.
    ///
    /// # Errors
    /// When it is not running.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Freezes it (SIGSTOP), and returns when all of its threads stand still.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self) -> Result<()> {
        let pid = self.raw_pid()?;
        self.signal(Signal::STOP)?;
        let started = Instant::now();
        // Asks about stops only, so that the exit status stays where the standard library expects it.
        while waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("{} does not stand still", self.name);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn raw_pid(&self) -> Result<Pid> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("{} is not running", self.name))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.raw_pid()?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// How it has ended; `None` while it runs, and when it was never started or killed by us.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let status = until(&what, async || self.exited()).await?;
        self.child = None;
        Ok(status)
    }

    /// Everything that it has written to its log, over all of its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        println!("---- the end of the log of {} ----\n{}", self.name, tail.join("\n"));
    }
}

/// Settings of a coordinator of one's own are not meant for this one; the switch of seeded bugs is.
fn is_for_children(name: &OsStr) -> bool {
    name == concord_seeded_bugs::SWITCH || !name.to_string_lossy().starts_with("CONCORD_")
}
