//! A participant process.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Result, bail};
use concord_sandbox::Address;

use crate::control::Answers;
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
    /// Whether it attaches to the coordinator, under its name, instead of listening.
    pub attached: bool,
    /// How often it purges the barrier table, and by how much rows are older then than the newest.
    pub purge_ms: Option<(u64, u64)>,
}

impl Default for ParticipantOptions {
    fn default() -> Self {
        ParticipantOptions {
            recovery_interval_ms: 100,
            recovery_safety_ms: 1_000,
            sessions_max: 128,
            session_wait_ms: 5_000,
            attached: false,
            purge_ms: None,
        }
    }
}

/// A participant that can be killed and started again at the same address.
#[derive(Debug)]
pub struct Participant {
    process: Process,
    arguments: Vec<OsString>,
    address: String,
    _port: Option<Address>,
    answers: Answers,
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
        let port = if options.attached { None } else { Some(Address::reserve()?) };
        let address = port.as_ref().map_or_else(|| format!("attached://{name}"), Address::url);
        let process = Process::new(name, programs.participant, directory);
        let mut flags = vec![
            ("--address", address.clone()),
            ("--database", database.to_owned()),
            ("--coordinator", coordinator.to_owned()),
            ("--recovery-interval-ms", options.recovery_interval_ms.to_string()),
            ("--recovery-safety-ms", options.recovery_safety_ms.to_string()),
            ("--sessions-max", options.sessions_max.to_string()),
            ("--session-wait-ms", options.session_wait_ms.to_string()),
        ];
        if let Some((interval, retention)) = options.purge_ms {
            flags.push(("--purge-interval-ms", interval.to_string()));
            flags.push(("--retention-ms", retention.to_string()));
        }
        let arguments = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value.into()]);
        let arguments = arguments.collect();
        let mut participant =
            Participant { process, arguments, address, _port: port, answers: Answers::default() };
        participant.restart().await?;
        Ok(participant)
    }

    /// Starts it again, without faults, and returns when it is ready. Before that it must not be running.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.set_arguments(self.arguments.clone());
        self.started().await
    }

    /// As [`Participant::restart`], with a crash point armed from the start.
    ///
    /// # Errors
    /// When it ends instead, as it may.
    pub async fn restart_to_crash(&mut self, order: &str) -> Result<()> {
        let mut arguments = self.arguments.clone();
        arguments.extend(["--crash-at".into(), order.into()]);
        self.process.set_arguments(arguments);
        self.started().await
    }

    async fn started(&mut self) -> Result<()> {
        self.answers = Answers::of(self.process.start()?);
        match self.answers.line().await {
            Ok(line) if line == "ready" => Ok(()),
            other => bail!("{} did not start ({other:?}): {}", self.process.name(), self.process.log()),
        }
    }

    /// Its address, as the coordinator calls it.
    pub fn url(&self) -> String {
        self.address.clone()
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

    /// Joins a transaction of an initiator's with an XA branch that prepares only when asked to.
    ///
    /// # Errors
    /// When the branch was refused; when it is not running.
    pub async fn open(&mut self, gtid: &str, action: &str, entry: &crate::Entry) -> Result<()> {
        let entry = serde_json::to_string(entry)?;
        self.ask(&format!("open {gtid} {action} {entry}")).await.map(drop)
    }

    /// Has a line obeyed: see the program. Answers what comes after `ok`.
    ///
    /// # Errors
    /// When it answers with an error, or is not running.
    pub async fn ask(&mut self, line: &str) -> Result<String> {
        self.answers.ask(&mut self.process, line).await
    }
}
