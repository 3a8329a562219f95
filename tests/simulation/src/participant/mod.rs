//! Participants: processes that follow the SDK's contract step by step, over simulated databases.

mod branch;
mod joining;
mod phase_two;
mod recovery;
mod slots;
mod tcc;
mod xa;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concord_coordinator::engine::{BranchCall, CallResult, Engine, EngineError};
use concord_protocol::{Outcome, Reply, Verb, Vote};
use concord_xa::Xid;

use self::slots::Slots;
use self::tcc::{Finished, Locks, Tried};
use self::xa::Answer;
use crate::database::{Deed, Host, Note, Own};
use crate::life::Life;
use crate::network::{Delivered, Lost, Message, Place};
use crate::resource::Resource;
use crate::transport::{self, Route};
use crate::world::{CLUSTER, World};

pub(crate) use joining::{Request, Served};

/// How long a participant waits for a coordinator.
const PATIENCE: Duration = Duration::from_secs(5);

/// The outcome is not known; the caller repeats the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsettled(String);

/// How a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Committed,
    RolledBack,
}

/// What a branch is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// The number of the transaction in the scenario.
    pub(crate) transaction: u32,
    /// Which of its branches, from 0.
    pub(crate) branch: usize,
    remaining: Duration,
}

impl Job {
    /// As it travels in a payload.
    pub(crate) fn payload(transaction: u32, branch: usize) -> bytes::Bytes {
        let branch = u32::try_from(branch).unwrap_or(u32::MAX);
        [transaction.to_be_bytes(), branch.to_be_bytes()].concat().into()
    }

    /// A line for the ledger.
    fn note(&self, xid: Xid, deed: Deed, account: (u8, u32), (balance, frozen): (i64, i64)) -> Note {
        let part = u32::try_from(self.branch).unwrap_or(u32::MAX);
        Note { xid, transaction: self.transaction, part, deed, account, balance, frozen }
    }

    /// Reads a payload.
    pub(crate) fn read(payload: &[u8], remaining_ms: u32) -> Option<Self> {
        let (transaction, branch) = payload.split_first_chunk::<4>()?;
        let branch = u32::from_be_bytes(branch.try_into().ok()?);
        let remaining = match remaining_ms {
            0 => Duration::from_secs(30),
            ms => Duration::from_millis(ms.into()),
        };
        let transaction = u32::from_be_bytes(*transaction);
        Some(Job { transaction, branch: usize::try_from(branch).ok()?, remaining })
    }
}

/// A participant: its address, and whatever process answers there.
#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) number: u8,
    pub(crate) host: Arc<Host>,
    process: Mutex<Option<Arc<Process>>>,
}

/// One life of it.
#[derive(Debug)]
pub(crate) struct Process {
    number: u8,
    life: Arc<Life>,
    resource: Resource,
    slots: Slots,
    locks: Locks,
}

impl Participant {
    pub(crate) fn new(number: u8, host: Arc<Host>) -> Arc<Self> {
        Arc::new(Participant { number, host, process: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn place(&self) -> Place {
        Place::Participant(self.number)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().is_some()
    }

    /// Starts a process, and its recovery.
    pub(crate) fn start(&self, world: &Arc<World>) {
        let resource = Resource {
            host: Arc::clone(&self.host),
            from: self.place(),
            schema: self.number,
            own: Arc::new(Own::default()),
        };
        let process = Arc::new(Process {
            number: self.number,
            life: Life::begin(),
            resource,
            slots: Slots::new(Duration::from_millis(world.scenario.participant.remember_ms)),
            locks: Locks::default(),
        });
        *self.lock() = Some(Arc::clone(&process));
        let world = Arc::clone(world);
        tokio::spawn(async move { process.life.within(process.recover_for_ever(&world)).await });
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.lock().take() {
            process.life.end();
        }
    }

    /// Starts another process, which gets all calls from now on. Answers the life of the old one, which goes on.
    pub(crate) fn replace(&self, world: &Arc<World>) -> Option<Arc<Life>> {
        let old = self.lock().as_ref().map(|process| Arc::clone(&process.life))?;
        self.start(world);
        Some(old)
    }

    /// A call of the coordinator's.
    pub(crate) async fn handle(&self, world: &Arc<World>, call: &BranchCall) -> Delivered<CallResult> {
        let Some(process) = self.lock().clone() else { return Delivered::Nobody };
        process.life.within(process.answer(world, call)).await.into()
    }

    /// A call of an initiator's.
    pub(crate) async fn serve(&self, world: &Arc<World>, request: Request) -> Delivered<Served> {
        let Some(process) = self.lock().clone() else { return Delivered::Nobody };
        process.life.within(process.join(world, request)).await.into()
    }
}

impl Process {
    /// Asks a coordinator something.
    async fn ask<T, F, Fut>(
        &self,
        world: &Arc<World>,
        about: u64,
        what: u64,
        route: Route,
        question: F,
    ) -> Result<Result<T, EngineError>, Lost>
    where
        T: Send + 'static,
        F: Fn(Arc<Engine>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let to = Place::Coordinator(world.any_coordinator(about, what));
        let message = Message { from: self.resource.from, to, about, what, repeatable: true };
        transport::ask(world, message, route, PATIENCE, question).await
    }

    async fn answer(&self, world: &Arc<World>, call: &BranchCall) -> CallResult {
        let result = self.dispatch(world, call).await.unwrap_or_else(|Unsettled(reason)| CallResult {
            reply: Reply::Failed { maybe_arrived: true },
            reason,
            payload: Default::default(),
        });
        world.say(|| {
            let BranchCall { gtid, branch, verb, .. } = call;
            let CallResult { reply, reason, .. } = &result;
            format!("participant {}: {gtid} branch {branch}: {verb:?} -> {reply:?} {reason}", self.number)
        });
        result
    }

    async fn dispatch(&self, world: &Arc<World>, call: &BranchCall) -> Result<CallResult, Unsettled> {
        let xid = Xid { cluster: CLUSTER, gtid: call.gtid, branch: call.branch };
        let job = Job::read(&call.payload, call.remaining_ms);
        let needed = || job.ok_or_else(|| Unsettled("the payload cannot be read".into()));
        Ok(match call.verb {
            Verb::Work => match self.work(world, xid, needed()?, call.repeated).await? {
                Answer::Yes | Answer::ReadOnly => reply(Reply::Worked, String::new()),
                Answer::No(reason) => reply(Reply::Vote(Vote::No), reason),
            },
            Verb::WorkAndPrepare | Verb::Prepare => {
                let job = if call.verb == Verb::Prepare { None } else { Some(needed()?) };
                match self.prepare(world, xid, job, call.repeated).await? {
                    Answer::Yes => reply(Reply::Vote(Vote::Yes), String::new()),
                    Answer::ReadOnly => reply(Reply::Vote(Vote::ReadOnly), String::new()),
                    Answer::No(reason) => reply(Reply::Vote(Vote::No), reason),
                }
            }
            Verb::WorkAndCommit | Verb::CommitOnePhase => {
                let job = if call.verb == Verb::CommitOnePhase { None } else { Some(needed()?) };
                ended(self.commit_one_phase(world, xid, job).await?)
            }
            Verb::Commit => ended(self.commit(world, xid).await?),
            Verb::Rollback => ended(self.rollback(world, xid).await?),
            Verb::Try => match self.attempt(world, xid, needed()?).await? {
                Tried::Reserved => reply(Reply::Vote(Vote::Yes), String::new()),
                Tried::Refused(reason) => reply(Reply::Vote(Vote::No), reason),
            },
            Verb::Confirm => finished(self.confirm(world, xid, needed()?).await?),
            Verb::Cancel => finished(self.cancel(world, xid, needed()?).await?),
        })
    }
}

fn reply(reply: Reply, reason: String) -> CallResult {
    CallResult { reply, reason, payload: Default::default() }
}

fn ended(ending: Ending) -> CallResult {
    let outcome = match ending {
        Ending::Committed => Outcome::Committed,
        Ending::RolledBack => Outcome::RolledBack,
    };
    reply(Reply::Ended(outcome), String::new())
}

fn finished(finished: Finished) -> CallResult {
    match finished {
        Finished::Confirmed => reply(Reply::Ended(Outcome::Committed), String::new()),
        Finished::Cancelled => reply(Reply::Ended(Outcome::RolledBack), String::new()),
        Finished::Refused(reason) => reply(Reply::Refused, reason),
    }
}
