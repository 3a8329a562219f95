//! Branches that a service begins by itself, when an initiator calls it with a gtid (as
//! `participant-sdk/src/registration.rs`).

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::{EngineError, Kind, RegisterRequest};
use concord_protocol::{Gtid, Vote};
use concord_xa::Xid;

use super::slots::State;
use super::tcc::Tried;
use super::xa::Answer;
use super::{Job, Process};
use crate::transport::Route;
use crate::world::{CLUSTER, World, address};

/// What an initiator asks of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) gtid: Gtid,
    pub(crate) transaction: u32,
    pub(crate) branch: usize,
    /// Keep an XA branch open until the coordinator asks for its vote.
    pub(crate) strict: bool,
}

/// What the service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Served {
    /// The work is done, and will take effect if the transaction commits.
    Done,
    /// It is not, or nobody knows: the transaction can only roll back.
    No(String),
}

impl Process {
    /// Registers a branch, does its work, and reports its vote.
    pub(super) async fn join(&self, world: &Arc<World>, request: Request) -> Served {
        let result = self.run(world, request).await;
        world.say(|| format!("participant {}: {request:?} -> {result:?}", self.number));
        match result {
            Ok(()) => Served::Done,
            Err(reason) => Served::No(reason),
        }
    }

    async fn run(&self, world: &Arc<World>, request: Request) -> Result<(), String> {
        let Request { transaction, branch, .. } = request;
        let job = Job { transaction, branch, remaining: Duration::ZERO };
        let plan = world.branch_plan(&job).ok_or("no such work")?;
        let (xid, remaining) = self.register(world, &request, plan.kind).await?;
        let job = Job { remaining, ..job };
        match plan.kind {
            Kind::Tcc => match self.attempt(world, xid, job).await {
                Ok(Tried::Reserved) => self.report(world, &xid, &request, Vote::Yes, String::new()).await,
                Ok(Tried::Refused(reason)) => self.refused(world, &xid, &request, reason).await,
                // The coordinator will ask again.
                Err(unsettled) => Err(unsettled.0),
            },
            Kind::Xa => self.run_xa(world, &request, xid, job).await,
        }
    }

    async fn run_xa(&self, world: &Arc<World>, request: &Request, xid: Xid, job: Job) -> Result<(), String> {
        let slot = self.slots.get(&xid);
        // Should this call be cancelled, nothing else would.
        self.slots.may_forget(&xid);
        let mut state = slot.state.lock().await;
        if !matches!(*state, State::New) || slot.is_fenced() {
            return Err("this branch has run already, or was rolled back".into());
        }
        self.run_job(world, &xid, &slot, &mut state, job).await;
        if !matches!(*state, State::Open { .. }) {
            drop(state);
            return self.refused(world, &xid, request, "its work failed".into()).await;
        }
        if request.strict {
            return Ok(());
        }
        self.vote(world, &xid, &slot, &mut state).await;
        let answer = self.standing(world, &xid, &slot, &mut state).await;
        drop(state);
        match answer.map_err(|unsettled| unsettled.0)? {
            Answer::Yes => self.report(world, &xid, request, Vote::Yes, String::new()).await,
            Answer::ReadOnly => self.report(world, &xid, request, Vote::ReadOnly, String::new()).await,
            Answer::No(reason) => self.refused(world, &xid, request, reason).await,
        }
    }

    async fn refused(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        request: &Request,
        reason: String,
    ) -> Result<(), String> {
        let _ = self.report(world, xid, request, Vote::No, reason.clone()).await;
        Err(reason)
    }

    /// Answers the branch's name, and how long the transaction still has.
    async fn register(
        &self,
        world: &Arc<World>,
        request: &Request,
        kind: Kind,
    ) -> Result<(Xid, Duration), String> {
        let Request { gtid, transaction, branch, .. } = *request;
        let (action, payload) = match kind {
            Kind::Xa => (String::new(), Default::default()),
            Kind::Tcc => ("move".to_owned(), Job::payload(transaction, branch)),
        };
        let registration = RegisterRequest {
            gtid,
            kind,
            participant: address(self.number),
            action,
            payload,
            registration_key: format!("branch {branch}"),
        };
        let asked =
            self.ask(world, transaction.into(), 50 + branch as u64, Route::Owner(gtid), move |engine| {
                let registration = registration.clone();
                async move { engine.register(registration).await }
            });
        let admitted = asked.await.map_err(|_| "the coordinator did not answer")?;
        let admitted = admitted.map_err(|error| error.to_string())?;
        let xid = Xid { cluster: CLUSTER, gtid, branch: admitted.id };
        Ok((xid, Duration::from_millis(admitted.remaining_ms.into())))
    }

    /// Reports a vote. A yes that comes too late is rolled back at once, rather than waiting to be told again.
    async fn report(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        request: &Request,
        vote: Vote,
        reason: String,
    ) -> Result<(), String> {
        let (gtid, branch) = (xid.gtid, xid.branch);
        let what = 60 + request.branch as u64;
        let asked = self.ask(world, request.transaction.into(), what, Route::Owner(gtid), move |engine| {
            let reason = reason.clone();
            async move { engine.vote(gtid, branch, vote, reason).await }
        });
        match asked.await {
            // The coordinator will ask for the vote itself.
            Err(_) | Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let gone = matches!(
                    error,
                    EngineError::RolledBack { .. }
                        | EngineError::UnknownGtid(_)
                        | EngineError::Refused { .. }
                );
                let kind = world.scenario.transactions.iter().find(|plan| plan.number == request.transaction);
                let kind = kind.and_then(|plan| plan.branches.get(request.branch)).map(|plan| plan.kind);
                if gone && vote != Vote::No && kind == Some(Kind::Xa) {
                    let _ = self.rollback(world, *xid).await;
                    return Err(error.to_string());
                }
                if gone { Err(error.to_string()) } else { Ok(()) }
            }
        }
    }
}
