//! The engine against the store in memory and participants that do as they are told.

mod bad_input;
mod faults;
mod listing;
mod metrics;
mod outcomes;
mod tcc;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use concord_protocol::{BranchId, Gtid, Outcome, Reply, State, Verb, Vote};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{
    Backoff, BeginRequest, BranchCall, BranchRequest, CallResult, Engine, EngineError, Grade, Kind,
    Participants, RegisterRequest, Settings, Snapshot, Wait,
};
use crate::store::{MemoryStore, Store};

/// What a participant does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// As a healthy one would.
    Agree,
    /// Votes no.
    Refuse,
    /// Votes read-only.
    ReadOnly,
    /// Never answers a call of this verb, until told to do otherwise.
    HangOn(Verb),
    /// Never answers, until told to do otherwise.
    Hang,
    /// Calls of this verb have no answer.
    FailOn(Verb),
    /// Answers calls of this verb with what belongs to another.
    Misunderstand(Verb),
    /// Says that it has rolled back when asked to commit.
    BreakPromise,
    /// Will not confirm.
    RefuseConfirm,
}

/// Participants by address; those without a script agree.
#[derive(Default)]
struct Actors {
    scripts: Mutex<HashMap<String, Script>>,
    calls: Mutex<Vec<(Gtid, BranchId, Verb)>>,
    /// What came with the calls that take a payload.
    work: Mutex<Vec<(Verb, String, Bytes)>>,
    changed: Notify,
}

impl Actors {
    fn script(&self, participant: &str, script: Script) {
        self.scripts.lock().unwrap().insert(participant.to_owned(), script);
        self.changed.notify_waiters();
    }

    fn calls(&self, gtid: Gtid) -> Vec<(u32, Verb)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.0 == gtid).map(|(_, branch, verb)| (branch.0, *verb)).collect()
    }

    fn of(&self, participant: &str) -> Script {
        self.scripts.lock().unwrap().get(participant).copied().unwrap_or(Script::Agree)
    }
}

struct Stage(Arc<Actors>);

impl Participants for Stage {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let actors = Arc::clone(&self.0);
        actors.calls.lock().unwrap().push((call.gtid, call.branch, call.verb));
        if call.verb.takes_payload() {
            let work = (call.verb, call.action.to_string(), call.payload.clone());
            actors.work.lock().unwrap().push(work);
        }
        async move {
            let script = loop {
                let changed = actors.changed.notified();
                match actors.of(&call.participant) {
                    Script::HangOn(verb) if verb == call.verb => changed.await,
                    Script::Hang => changed.await,
                    script => break script,
                }
            };
            let reply = match (call.verb, script) {
                (verb, Script::FailOn(failing)) if verb == failing => Reply::Failed { maybe_arrived: true },
                (verb, Script::Misunderstand(other)) if verb == other => Reply::Worked,
                (Verb::Work, Script::Refuse) => Reply::Vote(Vote::No),
                (Verb::Work, _) => Reply::Worked,
                (Verb::WorkAndPrepare | Verb::Prepare | Verb::Try, Script::Refuse) => Reply::Vote(Vote::No),
                (Verb::WorkAndPrepare | Verb::Prepare, Script::ReadOnly) => Reply::Vote(Vote::ReadOnly),
                (Verb::WorkAndPrepare | Verb::Prepare | Verb::Try, _) => Reply::Vote(Vote::Yes),
                (Verb::WorkAndCommit | Verb::CommitOnePhase, Script::Refuse) => {
                    Reply::Ended(Outcome::RolledBack)
                }
                (Verb::Commit, Script::BreakPromise) => Reply::Ended(Outcome::RolledBack),
                (Verb::Confirm, Script::RefuseConfirm) => Reply::Refused,
                (Verb::WorkAndCommit | Verb::CommitOnePhase | Verb::Commit | Verb::Confirm, _) => {
                    Reply::Ended(Outcome::Committed)
                }
                (Verb::Rollback | Verb::Cancel, _) => Reply::Ended(Outcome::RolledBack),
            };
            let reason = match script {
                Script::Refuse => "insufficient funds",
                Script::RefuseConfirm => "the warehouse has burnt down",
                Script::FailOn(_) => "no answer",
                Script::Misunderstand(_) => "what?",
                _ => "",
            };
            let reason = reason.to_owned();
            CallResult { reply, reason, payload: call.payload }
        }
        .boxed()
    }

    fn permits(&self, participant: &str) -> bool {
        participant.starts_with("http://")
    }
}

/// An engine, what it stands on, and what it plays with.
struct World {
    engine: Engine,
    store: Arc<MemoryStore>,
    actors: Arc<Actors>,
}

fn settings() -> Settings {
    Settings {
        live_transactions_max: 2_000,
        branches_max: 1_000,
        payload_bytes_max: 1 << 20,
        timeout_default: Duration::from_secs(30),
        timeout_max: Duration::from_secs(86_400),
        backoff: Backoff { first: Duration::from_millis(50), max: Duration::from_secs(30) },
        park_after_attempts: None,
        tenants: Default::default(),
    }
}

impl World {
    async fn new() -> Self {
        World::on(MemoryStore::new(), Arc::default()).await
    }

    async fn on(store: MemoryStore, actors: Arc<Actors>) -> Self {
        let store = Arc::new(store);
        let stage = Arc::new(Stage(Arc::clone(&actors)));
        let engine = Engine::start(Arc::clone(&store) as Arc<dyn Store>, stage, settings()).await.unwrap();
        World { engine, store, actors }
    }

    /// kill -9 and a new start: what was not synced is lost.
    async fn crash(self) -> Self {
        self.crash_keeping(0).await
    }

    /// As [`World::crash`], but of what was not synced so many appends are found on the disk.
    async fn crash_keeping(self, survivors: usize) -> Self {
        let World { engine, store, actors } = self;
        let survivor = store.crash(survivors);
        drop(engine);
        World::on(survivor, actors).await
    }

    async fn execute(&self, participants: &[&str]) -> Result<Snapshot, EngineError> {
        self.execute_keyed(participants, "", Wait::Completed).await
    }

    async fn execute_keyed(
        &self,
        participants: &[&str],
        key: &str,
        wait: Wait,
    ) -> Result<Snapshot, EngineError> {
        let request = BeginRequest { idempotency_key: key.to_owned(), ..BeginRequest::default() };
        self.engine.execute(request, Grade::EarlyVote, branches(participants), wait, None).await
    }

    /// An initiator-driven transaction that these have joined.
    async fn joined(&self, participants: &[&str]) -> Gtid {
        let gtid = self.engine.begin(BeginRequest::default()).await.unwrap().id;
        for participant in participants {
            self.register(gtid, participant).await.unwrap();
        }
        gtid
    }

    async fn register(&self, gtid: Gtid, participant: &str) -> Result<BranchId, EngineError> {
        Ok(self.engine.register(joining(gtid, participant)).await?.id)
    }

    /// Waits until a transaction is in this state; memory and history may both answer.
    async fn reaches(&self, gtid: Gtid, state: State) -> Snapshot {
        use futures_util::StreamExt as _;
        let mut changes = Box::pin(self.engine.watch(gtid).await.unwrap());
        while let Some(snapshot) = changes.next().await {
            if snapshot.state == state {
                return snapshot;
            }
        }
        panic!("{gtid} ended without reaching {state:?}");
    }
}

/// The participants of TCC branches say so in their address.
fn kind_of(participant: &str) -> Kind {
    if participant.starts_with("http://tcc") { Kind::Tcc } else { Kind::Xa }
}

fn joining(gtid: Gtid, participant: &str) -> RegisterRequest {
    let kind = kind_of(participant);
    let (action, payload) = match kind {
        Kind::Xa => Default::default(),
        Kind::Tcc => ("reserve".into(), Bytes::from_static(b"payload")),
    };
    let registration_key = format!("key of {participant}");
    RegisterRequest { gtid, kind, participant: participant.to_owned(), action, payload, registration_key }
}

fn branches(participants: &[&str]) -> Vec<BranchRequest> {
    let branch = |participant: &&str| BranchRequest {
        kind: kind_of(participant),
        participant: (*participant).to_owned(),
        action: "work".into(),
        payload: Bytes::from_static(b"payload"),
    };
    participants.iter().map(branch).collect()
}

const A: &str = "http://a";
const B: &str = "http://b";
const T: &str = "http://tcc-1";
const U: &str = "http://tcc-2";
