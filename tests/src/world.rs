//! A coordinator, two participants, and their two banks.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, ExecuteResponse};
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tonic::Status;

use crate::audit::{Outcome, Transfer};
use crate::bank::{Bank, Entry};
use crate::coordinator::{Coordinator, CoordinatorOptions};
use crate::participant::{Participant, ParticipantOptions};
use crate::process::Programs;

/// How a world is built.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Of the coordinator.
    pub coordinator: CoordinatorOptions,
    /// Of both participants.
    pub participant: ParticipantOptions,
    /// Whether the coordinator reaches the databases itself.
    pub sweeper: bool,
    /// How many more coordinators there are, which share a store with the first.
    pub peers: usize,
}

impl Default for WorldOptions {
    fn default() -> Self {
        WorldOptions {
            coordinator: CoordinatorOptions::new(),
            participant: ParticipantOptions::default(),
            sweeper: false,
            peers: 0,
        }
    }
}

/// Everything that a transfer between two banks needs. Fields are dropped in order: logs are printed, if at all,
/// before their directory goes.
#[derive(Debug)]
pub struct World {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The others, where it is not alone.
    pub peers: Vec<Coordinator>,
    /// The participant of the first bank.
    pub one: Participant,
    /// The participant of the second bank.
    pub two: Participant,
    banks: [Bank; 2],
    names: AtomicU32,
    _directory: TempDir,
}

impl World {
    /// Starts coordinators and a participant for each bank: the first attaches to them, the second listens.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(programs: Programs, banks: [Bank; 2], options: WorldOptions) -> Result<World> {
        let directory = TempDir::with_prefix("concord-tests-")?;
        let path = directory.path();
        let mut coordinator = Coordinator::new("coordinator", programs, path, options.coordinator.clone())?;
        let peer =
            |number| Coordinator::new(&format!("peer-{number}"), programs, path, options.coordinator.clone());
        let mut peers = (1..=options.peers).map(peer).collect::<Result<Vec<_>>>()?;
        let urls: Vec<_> = std::iter::once(&coordinator).chain(&peers).map(Coordinator::url).collect();
        let urls = urls.join(",");
        let participant = async |name: &str, bank: &Bank, attached: bool| {
            let options = ParticipantOptions { attached, ..options.participant.clone() };
            Participant::start(name, programs, path, &bank.url(), &urls, &options).await
        };
        let (one, two) =
            tokio::try_join!(participant("one", &banks[0], true), participant("two", &banks[1], false))?;
        if options.sweeper {
            for (name, bank, participant) in [("one", &banks[0], &one), ("two", &banks[1], &two)] {
                for coordinator in std::iter::once(&mut coordinator).chain(&mut peers) {
                    let told = std::mem::take(coordinator.options_mut());
                    *coordinator.options_mut() = told.resource(name, &bank.url(), &[participant.url()]);
                }
            }
        }
        try_join_all(std::iter::once(&mut coordinator).chain(&mut peers).map(Coordinator::restart)).await?;
        Ok(World { coordinator, peers, one, two, banks, names: AtomicU32::new(1), _directory: directory })
    }

    /// All coordinators.
    pub fn coordinators(&self) -> impl Iterator<Item = &Coordinator> {
        std::iter::once(&self.coordinator).chain(&self.peers)
    }

    /// The banks of the two participants.
    pub fn banks(&self) -> &[Bank; 2] {
        &self.banks
    }

    /// A transfer from the first bank's account to the same account of the second, with a name of its own.
    pub fn transfer(&self, account: u32, amount: i64) -> (String, ExecuteRequest) {
        let name = format!("transfer-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let request = self.request(&name, [("debit", account), ("credit", account)], amount);
        (name, request)
    }

    /// As [`World::transfer`], each side by its own protocol.
    pub fn transfer_by(&self, kinds: [BranchKind; 2], account: u32, amount: i64) -> (String, ExecuteRequest) {
        let name = format!("transfer-{}", self.names.fetch_add(1, Ordering::Relaxed));
        let [from, to] = actions(kinds);
        let request = self.request(&name, [(from, account), (to, account)], amount);
        (name, request)
    }

    /// What the two participants are to do.
    pub fn request(&self, name: &str, actions: [(&str, u32); 2], amount: i64) -> ExecuteRequest {
        let branches =
            [&self.one, &self.two].into_iter().zip(actions).map(|(participant, (action, account))| {
                let entry = Entry { transfer: name.to_owned(), account, amount };
                branch(&participant.url(), action, &entry)
            });
        ExecuteRequest { name: name.to_owned(), branches: branches.collect(), ..ExecuteRequest::default() }
    }

    /// Runs a transfer in the background: what it is called, and what its initiator is told.
    pub fn spawn(&self, request: ExecuteRequest) -> Running {
        let mut api = self.coordinator.api();
        let name = request.name.clone();
        let answer = tokio::spawn(async move { api.execute(request).await.map(tonic::Response::into_inner) });
        Running { name, answer }
    }
}

/// The actions that take money and bring it, by either protocol.
pub fn actions(kinds: [BranchKind; 2]) -> [&'static str; 2] {
    let [from, to] = kinds.map(|kind| kind == BranchKind::Tcc);
    [if from { "hold" } else { "debit" }, if to { "promise" } else { "credit" }]
}

/// One branch of a request.
pub fn branch(participant: &str, action: &str, entry: &Entry) -> BranchRequest {
    let kind = match action {
        "hold" | "promise" => BranchKind::Tcc,
        _ => BranchKind::Xa,
    };
    BranchRequest {
        kind: kind.into(),
        participant: participant.to_owned(),
        action: action.to_owned(),
        payload: entry.payload().into(),
    }
}

/// A transfer under way.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    answer: tokio::task::JoinHandle<Result<ExecuteResponse, Status>>,
}

impl Running {
    /// What its initiator is told.
    ///
    /// # Errors
    /// When the task was cut off.
    pub async fn answer(self) -> Result<(Transfer, Result<ExecuteResponse, Status>)> {
        let answer = self.answer.await?;
        Ok((Transfer { name: self.name, outcome: Outcome::of(&answer) }, answer))
    }
}
