//! A coordinator process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use concord_proto::status::reason;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{GetStatusRequest, GetStatusResponse};
use concord_sandbox::Address;
use tonic::transport::{Channel, Endpoint};

use crate::control::Answers;
use crate::process::{Process, Programs};
use crate::wait::until;

/// A call to the coordinator that takes longer has failed the test.
const CALL_MAX: Duration = Duration::from_secs(60);

/// What a coordinator is told beyond the tests' short times.
#[derive(Debug, Clone, Default)]
pub struct CoordinatorOptions {
    settings: Vec<(String, String)>,
    resources: String,
}

impl CoordinatorOptions {
    /// Short times, so that tests are quick.
    pub fn new() -> Self {
        CoordinatorOptions::default()
            .set("phase_two.backoff_first_ms", 10)
            .set("phase_two.backoff_max_ms", 200)
            .set("calls.timeout_ms", 2_000)
            .set("calls.connect_timeout_ms", 1_000)
            .set("breaker.open_ms", 100)
            .set("sweeper.interval_ms", 100)
            .set("sweeper.safety_interval_ms", 200)
            .set("log.filter", "info,concord_coordinator=debug")
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Configures a database that the coordinator reaches itself.
    #[must_use]
    pub fn resource(mut self, name: &str, url: &str, participants: &[String]) -> Self {
        self.resources.push_str(&format!(
            "[[resource]]\nname = {name:?}\nurl = {url:?}\nparticipants = {participants:?}\n"
        ));
        self
    }
}

/// A coordinator that can be killed and started again on the same data and at the same address.
#[derive(Debug)]
pub struct Coordinator {
    process: Process,
    answers: Answers,
    crash_at: Option<String>,
    address: Address,
    channel: Channel,
    data_dir: PathBuf,
    config: PathBuf,
    options: CoordinatorOptions,
}

impl Coordinator {
    /// Starts one whose data, configuration and log are in `directory`, and returns when it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(programs: Programs, directory: &Path, options: CoordinatorOptions) -> Result<Self> {
        let mut coordinator = Coordinator::new("coordinator", programs, directory, options)?;
        coordinator.restart().await?;
        Ok(coordinator)
    }

    /// Describes one, and does not start it.
    ///
    /// # Errors
    /// When there is no port for it.
    pub fn new(
        name: &str,
        programs: Programs,
        directory: &Path,
        options: CoordinatorOptions,
    ) -> Result<Self> {
        let address = Address::reserve()?;
        let channel = Endpoint::from_shared(address.url())?
            .connect_timeout(Duration::from_secs(5))
            .timeout(CALL_MAX)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Coordinator {
            process: Process::new(name, programs.coordinator, directory),
            answers: Answers::default(),
            crash_at: None,
            address,
            channel,
            data_dir: directory.join("data"),
            config: directory.join(format!("{name}.toml")),
            options,
        })
    }

    /// Uses another data directory from the next start on.
    pub fn set_data_dir(&mut self, data_dir: impl Into<PathBuf>) {
        self.data_dir = data_dir.into();
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Changes what it is told from the next start on.
    pub fn options_mut(&mut self) -> &mut CoordinatorOptions {
        &mut self.options
    }

    /// Starts it, and does not wait.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn launch(&mut self) -> Result<()> {
        std::fs::write(&self.config, &self.options.resources).context("write its configuration")?;
        let mut arguments: Vec<OsString> = vec!["--config".into(), self.config.clone().into()];
        let own = [
            ("server.listen".to_owned(), self.address.socket().to_string()),
            ("store.data_dir".to_owned(), self.data_dir.display().to_string()),
        ];
        for (key, value) in self.options.settings.iter().chain(&own) {
            arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        if let Some(order) = self.crash_at.take() {
            arguments.extend(["--crash-at".into(), order.into()]);
        }
        self.process.set_arguments(arguments);
        self.answers = Answers::of(self.process.start()?);
        Ok(())
    }

    /// Has a crash point armed from its next start on, for that life.
    pub fn crash_at_start(&mut self, order: impl Into<String>) {
        self.crash_at = Some(order.into());
    }

    /// Has a line obeyed: see the program. Answers what comes after `ok`.
    ///
    /// # Errors
    /// When it answers with an error, or is not running.
    pub async fn ask(&mut self, line: &str) -> Result<String> {
        self.answers.ask(&mut self.process, line).await
    }

    /// Starts it, and returns when it answers. Before that it must not be running.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn restart(&mut self) -> Result<()> {
        self.launch()?;
        let mut operator = self.operator();
        until("the coordinator answers", async || {
            if let Some(status) = self.process.exited()? {
                bail!("the coordinator ended while it started ({status}): {}", self.process.log());
            }
            let answer = operator.get_status(GetStatusRequest {}).await;
            // Who shows no token is answered, if not as they would like.
            let answered = answer.map_or_else(|status| reason(&status).is_some(), |_| true);
            Ok(answered.then_some(()))
        })
        .await
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

    /// Stops it with SIGTERM, and waits.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate()?;
        self.process.ended().await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.socket()
    }

    /// Its address as participants name it.
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// A connection to it, which comes back when it does.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What applications and participants call.
    pub fn api(&self) -> CoordinatorClient<Channel> {
        // Larger than what it takes, so that it is the one that refuses.
        CoordinatorClient::new(self.channel()).max_encoding_message_size(64 << 20)
    }

    /// What operators call.
    pub fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel())
    }

    /// Its own account of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<GetStatusResponse> {
        Ok(self.operator().get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// Waits until no transaction is live.
    ///
    /// # Errors
    /// When one does not end; it is named.
    pub async fn drained(&self) -> Result<()> {
        let drained = until("no transaction is live", async || {
            let live = self.status().await.map(|status| status.live_transactions);
            // It may be on its way up.
            Ok(matches!(live, Ok(0)).then_some(()))
        })
        .await;
        if drained.is_err() {
            let left = self.api().list(concord_proto::v1::ListRequest::default()).await?.into_inner();
            bail!("transactions do not end: {:#?}", left.transactions);
        }
        Ok(())
    }
}
