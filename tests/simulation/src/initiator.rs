//! Initiators: they begin transactions, wait for the outcome, and ask again when they do not hear it.

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::{BeginRequest, BranchRequest, EngineError, Grade, Snapshot};
use concord_protocol::{Decision, Gtid, Refusal};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::check::{self, Answer, Told};
use crate::dice::Roll;
use crate::network::{self, Delivered, Message, Place};
use crate::participant::{Job, Request, Served};
use crate::scenario::{Ending, TransactionPlan, Way};
use crate::transport::{self, Route};
use crate::world::{World, address};

/// How often an initiator asks again before it gives up.
const TRIES: u32 = 8;

/// Does what the plan says.
pub(crate) async fn act(world: Arc<World>, plan: TransactionPlan) {
    world.pause(plan.at_ms).await;
    let roll = world.dice.of(0x1217).of(plan.number.into()).roll();
    let mut initiator = Initiator { world, plan, roll };
    match initiator.plan.way {
        Way::Execute(grade) => initiator.execute(grade).await,
        Way::Initiated { strict, end } => initiator.drive(strict, end).await,
    }
}

struct Initiator {
    world: Arc<World>,
    plan: TransactionPlan,
    roll: Roll,
}

/// What an answer of the coordinator's means to an initiator.
enum Heard {
    /// This is the outcome.
    Outcome(Gtid, Answer),
    /// Nothing has begun; it may be tried again.
    NotBegun,
    /// Nobody knows.
    Unknown,
}

impl Initiator {
    fn message(&self, to: Place, what: u64, repeatable: bool) -> Message {
        Message { from: Place::Initiators, to, about: self.plan.number.into(), what, repeatable }
    }

    /// The one that is called next.
    fn coordinator(&self, what: u64) -> Place {
        Place::Coordinator(self.world.any_coordinator(self.plan.number.into(), what))
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.plan.patience_ms)
    }

    fn request(&self) -> BeginRequest {
        let number = self.plan.number;
        BeginRequest {
            name: format!("transaction {number}"),
            timeout_ms: self.plan.timeout_ms,
            idempotency_key: if self.plan.keyed { format!("key {number}") } else { String::new() },
            tenant: String::new(),
            trace: None,
        }
    }

    fn tell(&self, gtid: Option<Gtid>, answer: Answer) {
        self.world.tell(Told { transaction: self.plan.number, gtid, answer });
    }

    async fn think(&mut self) {
        let ms = self.roll.mostly_short(5_000);
        self.world.pause(ms).await;
    }

    // ---- the coordinator drives ----

    async fn execute(&mut self, grade: Grade) {
        let mut repeats = self.plan.repeats;
        for _ in 0..TRIES {
            match self.execute_once(grade).await {
                Heard::Outcome(gtid, answer) => {
                    self.tell(Some(gtid), answer);
                    if repeats == 0 {
                        return;
                    }
                    repeats -= 1;
                }
                Heard::NotBegun if !self.plan.keyed => return self.tell(None, Answer::NotBegun),
                // Without a key, asking again would be another transaction.
                Heard::Unknown if !self.plan.keyed => return,
                Heard::NotBegun | Heard::Unknown => {}
            }
            self.think().await;
        }
    }

    async fn execute_once(&self, grade: Grade) -> Heard {
        let (request, wait, patience) = (self.request(), self.plan.wait, self.patience());
        let number = self.plan.number;
        let branches = self.plan.branches.iter().enumerate().map(|(index, branch)| BranchRequest {
            kind: branch.kind,
            participant: address(branch.participant),
            action: "move".into(),
            payload: Job::payload(number, index),
        });
        let branches: Vec<_> = branches.collect();
        // Without a key a second copy is another request.
        let message = self.message(self.coordinator(10), 10, self.plan.keyed);
        let answer = transport::ask(&self.world, message, Route::Key, patience, move |engine| {
            let (request, branches) = (request.clone(), branches.clone());
            let until = Some(Instant::now() + patience / 2);
            async move { engine.execute(request, grade, branches, wait, until).await }
        });
        match answer.await {
            Ok(Ok(snapshot)) => self.outcome(&snapshot),
            Ok(Err(error)) => self.refused(&error),
            Err(_) => Heard::Unknown,
        }
    }

    fn outcome(&self, snapshot: &Snapshot) -> Heard {
        check::ended(&self.world, &self.plan, snapshot);
        match snapshot.decision() {
            Some(Decision::Commit) => Heard::Outcome(snapshot.gtid, Answer::Committed),
            Some(Decision::Rollback) => Heard::Outcome(snapshot.gtid, Answer::RolledBack),
            None => {
                self.world.violation("answer", format!("{} was answered undecided", snapshot.gtid));
                Heard::Unknown
            }
        }
    }

    fn refused(&self, error: &EngineError) -> Heard {
        match error {
            EngineError::RolledBack { gtid, .. } => Heard::Outcome(*gtid, Answer::RolledBack),
            EngineError::Refused { gtid, refusal: Refusal::AlreadyCommitted } => {
                Heard::Outcome(*gtid, Answer::Committed)
            }
            EngineError::TooManyLive(_) | EngineError::ShuttingDown => Heard::NotBegun,
            EngineError::Store(_)
            | EngineError::StillUndecided(_)
            | EngineError::UnknownGtid(_)
            | EngineError::Refused { .. } => Heard::Unknown,
            EngineError::Elsewhere(_) if self.world.server.is_some() => Heard::Unknown,
            EngineError::Elsewhere(_)
            | EngineError::KeyReused { .. }
            | EngineError::Invalid { .. }
            | EngineError::NotAllowed(_)
            | EngineError::TenantTooMany { .. }
            | EngineError::TenantTooFast { .. } => {
                self.world.violation("answer", format!("transaction {}: {error}", self.plan.number));
                Heard::Unknown
            }
        }
    }

    // ---- the initiator drives ----

    async fn drive(&mut self, strict: bool, end: Ending) {
        let Some(gtid) = self.begin().await else { return };
        self.world.name(gtid, self.plan.number);
        let done = self.call_services(gtid, strict).await;
        self.think().await;
        match end {
            Ending::Abandon => {}
            Ending::Commit if done => self.commit(gtid).await,
            Ending::Commit | Ending::Rollback => self.end(gtid, false).await,
        }
    }

    async fn begin(&mut self) -> Option<Gtid> {
        for _ in 0..TRIES {
            let request = self.request();
            let message = self.message(self.coordinator(11), 11, self.plan.keyed);
            let answer = transport::ask(&self.world, message, Route::Key, self.patience(), move |engine| {
                let request = request.clone();
                async move { engine.begin(request).await }
            });
            match answer.await {
                Ok(Ok(admitted)) => return Some(admitted.id),
                Ok(Err(EngineError::TooManyLive(_))) if !self.plan.keyed => {
                    self.tell(None, Answer::NotBegun);
                    return None;
                }
                Ok(Err(error)) => drop(self.refused(&error)),
                Err(_) => {}
            }
            if !self.plan.keyed {
                return None;
            }
            self.think().await;
        }
        None
    }

    /// Calls every service; answers whether all have done their work.
    async fn call_services(&mut self, gtid: Gtid, strict: bool) -> bool {
        let calls = (0..self.plan.branches.len()).map(|branch| {
            let request = Request { gtid, transaction: self.plan.number, branch, strict };
            self.call_service(request)
        });
        join_all(calls).await.into_iter().all(|served| served == Some(Served::Done))
    }

    async fn call_service(&self, request: Request) -> Option<Served> {
        let number = self.plan.branches.get(request.branch)?.participant;
        let message = self.message(Place::Participant(number), 20 + request.branch as u64, true);
        let world = Arc::clone(&self.world);
        let answer = network::call(&self.world, message, self.patience(), move || {
            let world = Arc::clone(&world);
            async move {
                match world.participants.get(usize::from(number)) {
                    Some(participant) => participant.serve(&world, request).await,
                    None => Delivered::Nobody,
                }
            }
        });
        answer.await.ok()
    }

    /// Commits; perhaps while somebody else wants it rolled back.
    async fn commit(&mut self, gtid: Gtid) {
        let Some(after_ms) = self.plan.rival_ms else { return self.end(gtid, true).await };
        let (world, plan, roll) = (Arc::clone(&self.world), self.plan.clone(), self.roll.clone());
        let mut rival = Initiator { world, plan, roll };
        let rolled_back = async {
            rival.world.pause(after_ms).await;
            rival.end(gtid, false).await;
        };
        tokio::join!(self.end(gtid, true), rolled_back);
    }

    async fn end(&mut self, gtid: Gtid, commit: bool) {
        let (wait, patience) = (self.plan.wait, self.patience());
        for _ in 0..TRIES {
            let what = if commit { 12 } else { 13 };
            let message = self.message(self.coordinator(what), what, true);
            let answer = transport::ask(&self.world, message, Route::Owner(gtid), patience, move |engine| {
                let until = Some(Instant::now() + patience / 2);
                async move {
                    match commit {
                        true => engine.commit(gtid, wait, until).await,
                        false => engine.rollback(gtid, "changed my mind".into(), wait, until).await,
                    }
                }
            });
            let heard = match answer.await {
                Ok(Ok(snapshot)) => self.outcome(&snapshot),
                Ok(Err(error)) => self.refused(&error),
                Err(_) => Heard::Unknown,
            };
            if let Heard::Outcome(gtid, answer) = heard {
                return self.tell(Some(gtid), answer);
            }
            self.think().await;
        }
    }
}
