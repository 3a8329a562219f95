//! A participant process.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStdout, ExitStatus};

use anyhow::{Context as _, Result, bail};
use concord_sandbox::Address;

use crate::fault::{Fault, Verb};
use crate::process::{Process, Programs};

/// What a participant is told.
#[derive(Debug, Clone)]
pub struct ParticipantOptions {
    /// How often it looks for branches left in doubt.
    pub recovery_interval_ms: u64,
    /// How long a branch that it prepared is left to the coordinator.
    pub recovery_safety_ms: u64,
    /// Sessions for branches.
    pub sessions_max: usize,
    /// How long a branch waits for a session.
    pub session_wait_ms: u64,
}

impl Default for ParticipantOptions {
    fn default() -> Self {
        ParticipantOptions {
            recovery_interval_ms: 100,
            recovery_safety_ms: 1_000,
            sessions_max: 128,
            session_wait_ms: 5_000,
        }
    }
}

/// A participant that can be killed and started again at the same address.
#[derive(Debug)]
pub struct Participant {
    process: Process,
    address: Address,
    answers: Option<BufReader<ChildStdout>>,
}

impl Participant {
    /// Starts one on a database, and returns when it is ready.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn start(
        name: &str,
        programs: Programs,
        directory: &Path,
        database: &str,
        coordinator: &str,
        options: &ParticipantOptions,
    ) -> Result<Self> {
        let address = Address::reserve()?;
        let mut process = Process::new(name, programs.participant, directory);
        let flags = [
            ("--listen", address.socket().to_string()),
            ("--database", database.to_owned()),
            ("--coordinator", coordinator.to_owned()),
            ("--recovery-interval-ms", options.recovery_interval_ms.to_string()),
            ("--recovery-safety-ms", options.recovery_safety_ms.to_string()),
            ("--sessions-max", options.sessions_max.to_string()),
            ("--session-wait-ms", options.session_wait_ms.to_string()),
        ];
        let arguments = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value.into()]);
        process.set_arguments(arguments.collect());
        let mut participant = Participant { process, address, answers: None };
        participant.restart().await?;
        Ok(participant)
    }

    /// Starts it again, without faults, and returns when it is ready. Before that it must not be running.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn restart(&mut self) -> Result<()> {
        let output = BufReader::new(self.process.start()?);
        self.answers = Some(output);
        match self.answer().await {
            Ok(line) if line == "ready" => Ok(()),
            other => bail!("{} did not start ({other:?}): {}", self.process.name(), self.process.log()),
        }
    }

    /// Its address, as the coordinator calls it.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Waits until a fault has ended it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.process.ended().await
    }

    /// From now on, this comes of calls of this kind.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn fault(&mut self, verb: Verb, fault: Fault) -> Result<()> {
        self.ask(&format!("fault {verb} {fault}")).await.map(drop)
    }

    /// How many calls of this kind have come in, in this life, whatever became of them.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn calls(&mut self, verb: Verb) -> Result<u64> {
        Ok(self.ask(&format!("calls {verb}")).await?.parse()?)
    }

    /// Waits until more than `before` calls of this kind have come in.
    ///
    /// # Errors
    /// When they do not.
    pub async fn called(&mut self, verb: Verb, before: u64) -> Result<()> {
        let what = format!("{} is called with {verb} more than {before} times", self.process.name());
        crate::wait::until(&what, async || Ok((self.calls(verb).await? > before).then_some(()))).await
    }

    /// Joins a transaction of an initiator's with a branch that prepares at once.
    ///
    /// # Errors
    /// When the branch was refused; when it is not running.
    pub async fn join(&mut self, gtid: &str, action: &str, entry: &crate::Entry) -> Result<()> {
        let entry = serde_json::to_string(entry)?;
        self.ask(&format!("join {gtid} {action} {entry}")).await.map(drop)
    }

    async fn ask(&mut self, line: &str) -> Result<String> {
        self.process.tell(line)?;
        let answer = self.answer().await?;
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            _ => bail!("{} answered {answer:?} to {line:?}", self.process.name()),
        }
    }

    async fn answer(&mut self) -> Result<String> {
        let mut answers = self.answers.take().context("it is not running")?;
        // A pipe can only be read blocking; the end of the process ends it.
        let (answers, line) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = answers.read_line(&mut line).map(|_| line);
            (answers, read)
        })
        .await?;
        self.answers = Some(answers);
        match line?.trim_end() {
            "" => bail!("{} has closed its standard output", self.process.name()),
            line => Ok(line.to_owned()),
        }
    }
}
