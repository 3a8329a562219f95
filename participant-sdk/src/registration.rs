//! Branches that a service of one's own begins: the author's handler is called by an initiator that carries
//! the gtid in the request metadata, and joins the transaction by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use concord_proto::status::{reason, with_reason};
use concord_proto::v1::Vote;
use concord_proto::{GTID_METADATA, TraceContext};
use concord_protocol::Gtid;
use concord_xa::Xid;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::handler::{HandlerError, Reply};
use crate::link::{Link, Registration};
use crate::participant::{Answer, Job, Kind, Xa};
use crate::service::NO_XA;
use crate::slots::State;
use crate::tcc::{Key, Tcc, Tried};
use crate::trace::span;
use crate::xa_branch::XaBranch;

/// The gtid that an initiator sent along.
///
/// # Errors
/// INVALID_ARGUMENT / GTID_MISSING or GTID_INVALID.
pub fn gtid_of(metadata: &MetadataMap) -> Result<Gtid, Status> {
    let Some(value) = metadata.get(GTID_METADATA) else {
        let message =
            format!("the request has no {GTID_METADATA} metadata: call it inside a global transaction");
        return Err(with_reason(Code::InvalidArgument, "GTID_MISSING", message));
    };
    let gtid = value.to_str().ok().and_then(|text| text.parse().ok());
    gtid.ok_or_else(|| {
        with_reason(Code::InvalidArgument, "GTID_INVALID", format!("{GTID_METADATA} is not a gtid"))
    })
}

/// Why a branch was not joined to its transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BranchError {
    /// The work was refused by the closure, or a statement matched another number of rows than it should.
    #[error("refused: {0}")]
    Refused(String),
    /// The work failed.
    #[error("failed: {0}")]
    Failed(String),
    /// The coordinator would not take the branch, most likely because the transaction is over.
    #[error("the coordinator: {0}")]
    Coordinator(Box<Status>),
    /// Whether the branch is prepared, or tried, is not known; the coordinator will find out.
    #[error("the outcome of the branch is not known: {0}")]
    Unknown(String),
}

impl From<BranchError> for Status {
    fn from(error: BranchError) -> Self {
        let message = error.to_string();
        match error {
            BranchError::Refused(_) => with_reason(Code::FailedPrecondition, "BRANCH_REFUSED", message),
            BranchError::Failed(_) => with_reason(Code::Aborted, "BRANCH_FAILED", message),
            BranchError::Coordinator(status) => *status,
            BranchError::Unknown(_) => with_reason(Code::Unavailable, "OUTCOME_UNKNOWN", message),
        }
    }
}

/// A branch about to be joined to a transaction.
#[must_use]
pub struct BranchBuilder {
    xa: Option<Arc<Xa>>,
    gtid: Gtid,
    key: Option<String>,
    strict: bool,
    read_only: bool,
    trace: Option<TraceContext>,
}

impl BranchBuilder {
    pub(crate) fn new(xa: Option<Arc<Xa>>, gtid: Gtid) -> Self {
        BranchBuilder { xa, gtid, key: None, strict: false, read_only: false, trace: None }
    }

    /// A name for this branch, unique in the transaction, from 1 to 64 bytes. With one, a repeated request
    /// does its work once: the second is refused. Without, each call is another branch.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Keeps the branch open, its locks held, until the coordinator asks for its vote; needed for global
    /// serializability (docs/xa.md rule 5). By default it prepares at once.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The work only reads; the database refuses writes.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Where the work belongs in a trace: what came with the request, [`TraceContext::of`] its metadata.
    pub fn trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        self
    }

    /// Registers the branch, runs `work` in it, prepares it, and reports the vote.
    ///
    /// `Ok` means that the work is done and will take effect if the transaction commits.
    ///
    /// # Errors
    /// [`BranchError`]. The transaction can then only roll back.
    pub async fn run<T, F, Fut>(self, work: F) -> Result<T, BranchError>
    where
        F: FnOnce(XaBranch) -> Fut,
        Fut: Future<Output = Result<T, HandlerError>>,
    {
        let Some(xa) = &self.xa else { return Err(BranchError::Failed(NO_XA.into())) };
        let (xid, remaining) = self.register(xa).await?;
        let span = span("join", (xid.gtid, xid.branch), self.trace.as_ref());
        self.join(xa, xid, remaining, work).instrument(span).await
    }

    /// All but the registration.
    async fn join<T, F, Fut>(&self, xa: &Xa, xid: Xid, remaining: Duration, work: F) -> Result<T, BranchError>
    where
        F: FnOnce(XaBranch) -> Fut,
        Fut: Future<Output = Result<T, HandlerError>>,
    {
        let slot = xa.slots.get(&xid);
        // Should this call be cancelled, nothing else would.
        xa.slots.may_forget(&xid);
        let mut state = slot.state.lock().await;
        if !matches!(*state, State::New) || slot.is_fenced() {
            return Err(BranchError::Refused("this branch has run already, or was rolled back".into()));
        }
        let kind = Kind { read_only: self.read_only, watch: true, trace: self.trace.clone() };
        let work = |branch| async { work(branch).await.map(|value| (value, Reply::empty())) };
        let value = match xa.run_in_branch(&xid, &slot, &mut state, kind, remaining, work).await {
            Ok(value) => value,
            Err(error) => {
                drop(state);
                xa.link.report(&xid, Vote::No, &error.reason(), self.trace.as_ref()).await.ok();
                let reason = error.reason();
                let refused = error.is_refusal();
                return Err(if refused { BranchError::Refused(reason) } else { BranchError::Failed(reason) });
            }
        };
        if self.strict {
            return Ok(value);
        }
        xa.vote(&xid, &slot, &mut state).await;
        let answer = xa.standing(&xid, &slot, &mut state).await;
        drop(state);
        let answer = answer.map_err(|unsettled| BranchError::Unknown(unsettled.0))?;
        conclude(xa, &xid, answer, self.trace.as_ref()).await.map(|()| value)
    }

    async fn register(&self, xa: &Xa) -> Result<(Xid, Duration), BranchError> {
        let key = self.key.clone().unwrap_or_else(random_key);
        let registered = xa.link.register(self.gtid, key, Registration::Xa, self.trace.as_ref()).await;
        registered.map_err(|status| BranchError::Coordinator(Box::new(status)))
    }
}

async fn conclude(
    xa: &Xa,
    xid: &Xid,
    answer: Answer,
    trace: Option<&TraceContext>,
) -> Result<(), BranchError> {
    let (vote, why) = match answer {
        Answer::Yes { .. } => (Vote::Yes, String::new()),
        Answer::ReadOnly { .. } => (Vote::ReadOnly, String::new()),
        Answer::No { reason } => (Vote::No, reason),
    };
    let reported = xa.link.report(xid, vote, &why, trace).await;
    if vote == Vote::No {
        return Err(BranchError::Refused(why));
    }
    match reported {
        Err(status) if is_gone(&status) => {
            // It was rolled back in the meantime: do not wait for the coordinator to say so again.
            let _ = xa.rollback(*xid).await;
            Err(BranchError::Coordinator(Box::new(status)))
        }
        // The coordinator will ask for the vote itself.
        Err(status) => {
            tracing::warn!(%status, "the vote could not be reported");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A TCC branch about to be joined to a transaction.
#[must_use]
pub struct TccBuilder {
    tcc: Arc<Tcc>,
    link: Arc<Link>,
    gtid: Gtid,
    key: Option<String>,
    trace: Option<TraceContext>,
}

impl TccBuilder {
    pub(crate) fn new(tcc: Arc<Tcc>, link: Arc<Link>, gtid: Gtid) -> Self {
        TccBuilder { tcc, link, gtid, key: None, trace: None }
    }

    /// A name for this branch, unique in the transaction, from 1 to 64 bytes. With one, a repeated request answers
    /// with the reply that was recorded. Without, each call is another branch.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Where the work belongs in a trace: what came with the request, [`TraceContext::of`] its metadata.
    pub fn trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        self
    }

    /// Registers the branch with the payload, runs the action's Try behind the barrier, and reports the vote.
    /// Answers what Try replied.
    ///
    /// From the registration on the branch is on record: whatever becomes of this call, the coordinator will
    /// confirm the branch or cancel it, and if Try has not been done when the initiator commits, it calls for it.
    ///
    /// # Errors
    /// [`BranchError::Refused`] when Try refuses: the transaction can then only roll back.
    /// [`BranchError::Unknown`] when Try failed, or whether it was done is not known: the same call with the same
    /// key may be repeated. [`BranchError::Coordinator`], [`BranchError::Failed`]: nothing was tried.
    pub async fn run(self, action: &str, payload: impl Into<Bytes>) -> Result<Reply, BranchError> {
        if !self.tcc.has(action) {
            return Err(BranchError::Failed(format!("this participant has no TCC action {action:?}")));
        }
        let (action, payload) = (action.to_owned(), payload.into());
        let registration = Registration::Tcc { action: action.clone(), payload: payload.clone() };
        let key = self.key.clone().unwrap_or_else(random_key);
        let registered = self.link.register(self.gtid, key, registration, self.trace.as_ref()).await;
        let (xid, remaining) = registered.map_err(|status| BranchError::Coordinator(Box::new(status)))?;
        let span = span("join", (xid.gtid, xid.branch), self.trace.as_ref());
        let job = Job { action, payload, remaining, trace: self.trace.clone() };
        self.join(xid, job).instrument(span).await
    }

    /// All but the registration.
    async fn join(&self, xid: Xid, job: Job) -> Result<Reply, BranchError> {
        let trace = self.trace.as_ref();
        let tried = self.tcc.attempt(Key { gtid: xid.gtid, branch: xid.branch }, job).await;
        match tried.map_err(|unsettled| BranchError::Unknown(unsettled.0))? {
            Tried::Reserved { reply } => {
                match self.link.report(&xid, Vote::Yes, "", trace).await {
                    // Its Cancel has come, or is on its way.
                    Err(status) if is_gone(&status) => Err(BranchError::Coordinator(Box::new(status))),
                    // The coordinator will ask for Try itself, and find it done.
                    Err(status) => {
                        tracing::warn!(%status, "the vote could not be reported");
                        Ok(Reply(reply))
                    }
                    Ok(()) => Ok(Reply(reply)),
                }
            }
            Tried::Refused { reason } => {
                self.link.report(&xid, Vote::No, &reason, trace).await.ok();
                Err(BranchError::Refused(reason))
            }
        }
    }
}

/// The key of a branch that nobody will repeat.
fn random_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn is_gone(status: &Status) -> bool {
    reason(status).is_some_and(|reason| GONE.contains(&reason.as_str()))
}

/// Reasons of a coordinator for which the transaction has no use for a yes any more.
const GONE: [&str; 4] = ["TRANSACTION_NOT_ACTIVE", "UNKNOWN_GTID", "UNKNOWN_BRANCH", "ROLLED_BACK"];
