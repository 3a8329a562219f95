//! `concord serve` with a configuration file.

use std::path::{Path, PathBuf};

use concord_proto::Credentials;
use concord_proto::v1::attachment_client::AttachmentClient;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::*;
use concord_sandbox::Address;
use concord_tests::{Process, until};
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

type Way = InterceptedService<Channel, Credentials>;

pub(crate) struct Concord {
    pub(crate) directory: TempDir,
    pub(crate) address: Address,
    pub(crate) process: Process,
    scheme: &'static str,
}

/// The program that people run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_concord");

impl Concord {
    /// Describes one, and does not start it.
    pub(crate) fn new() -> Concord {
        let directory = TempDir::new().unwrap();
        let process = Process::new("coordinator", PROGRAM, directory.path());
        Concord { directory, address: Address::reserve().unwrap(), process, scheme: "http" }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes its configuration, which speaks of files beside it.
    pub(crate) fn configure(&mut self, config: &str) {
        self.scheme = if config.contains("[server]\ntls_certificate") { "https" } else { "http" };
        std::fs::write(self.path("concord.toml"), config).unwrap();
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start(&mut self, credentials: &Credentials) {
        let config = self.path("concord.toml");
        let own = [
            format!("server.listen={}", self.address.socket()),
            format!("store.data_dir={}", self.path("data").display()),
        ];
        let mut arguments = vec!["serve".into(), "--config".into(), config.into()];
        own.iter().for_each(|set| arguments.extend(["--set".into(), set.into()]));
        self.process.set_arguments(arguments);
        drop(self.process.start().unwrap());
        until("it answers", async || {
            if let Some(status) = self.process.exited()? {
                anyhow::bail!("it ended ({status}): {}", self.process.log());
            }
            // Who is turned away has been answered.
            let answered = match self.status(credentials).await {
                Ok(_) => true,
                Err(status) => concord_proto::status::reason(&status).is_some(),
            };
            Ok(answered.then_some(()))
        })
        .await
        .unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address.socket())
    }

    fn way(&self, credentials: &Credentials) -> Way {
        let channel = credentials.endpoint(&self.url(), None).unwrap().connect_lazy();
        InterceptedService::new(channel, credentials.clone())
    }

    pub(crate) fn api(&self, credentials: &Credentials) -> CoordinatorClient<Way> {
        CoordinatorClient::new(self.way(credentials))
    }

    pub(crate) fn operator(&self, credentials: &Credentials) -> OperatorClient<Way> {
        OperatorClient::new(self.way(credentials))
    }

    pub(crate) fn attachment(&self, credentials: &Credentials) -> AttachmentClient<Way> {
        AttachmentClient::new(self.way(credentials))
    }

    /// The page of metrics, where anybody may read it.
    pub(crate) async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.url())).await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn status(&self, credentials: &Credentials) -> Result<GetStatusResponse, Status> {
        Ok(self.operator(credentials).get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// Runs a transaction with two TCC branches at a participant.
    pub(crate) async fn execute(
        &self,
        credentials: &Credentials,
        participant: &str,
    ) -> Result<ExecuteResponse, Status> {
        let branch = BranchRequest {
            kind: BranchKind::Tcc.into(),
            participant: participant.to_owned(),
            action: "anything".into(),
            payload: Default::default(),
        };
        let request = ExecuteRequest {
            branches: vec![branch.clone(), branch],
            timeout_ms: 30_000,
            ..ExecuteRequest::default()
        };
        Ok(self.api(credentials).execute(request).await?.into_inner())
    }

    /// Runs another command of the program, without whatever the environment says.
    pub(crate) async fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.directory.path());
        command.env_remove("CONCORD_TOKEN").env_remove("CONCORD_OPERATOR").env_remove("USER");
        command.output().await.unwrap()
    }
}

/// A token that was added to a file of tokens.
pub(crate) async fn token(tokens: &Path, name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    let made = command.args(["token", "new", name]).args(arguments).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let before = std::fs::read_to_string(tokens).unwrap_or_default();
    std::fs::write(tokens, format!("{before}\n{}", String::from_utf8(made.stdout).unwrap())).unwrap();
    String::from_utf8(made.stderr).unwrap().trim().to_owned()
}
