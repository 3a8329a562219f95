//! A call to a branch as the wire has it, on a connection of ours or on a participant's stream alike.

use std::error::Error as _;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use concord_proto::v1::answer::Response;
use concord_proto::v1::call::Request;
use concord_proto::v1::{self, BranchOutcome, Vote as VoteMessage};
use concord_protocol::{BranchId, ClusterId, Gtid, Outcome, Reply, Verb, Vote};
use tonic::{Code, Status, TimeoutExpired};

use crate::engine::{BranchCall, CallResult};
use crate::metrics::CallFailure;

/// What is sent.
pub(super) fn request(call: BranchCall, cluster_id: ClusterId) -> Request {
    let BranchCall { gtid, branch, verb, action, payload, repeated, remaining_ms, participant: _, trace: _ } =
        call;
    let context = v1::BranchContext { gtid: gtid.to_string(), branch_id: branch.0, cluster_id: cluster_id.0 };
    let branch = Some(context);
    let work = || Some(v1::Work { action: action.to_string(), payload });
    match verb {
        Verb::Work => {
            Request::Work(v1::WorkRequest { branch, work: work(), repeated_call: repeated, remaining_ms })
        }
        Verb::WorkAndPrepare | Verb::Prepare => {
            let work = (verb == Verb::WorkAndPrepare).then(work).flatten();
            Request::Prepare(v1::PrepareRequest { branch, work, repeated_call: repeated, remaining_ms })
        }
        Verb::WorkAndCommit | Verb::CommitOnePhase | Verb::Commit => {
            let one_phase = verb != Verb::Commit;
            let work = (verb == Verb::WorkAndCommit).then(work).flatten();
            Request::Commit(v1::CommitBranchRequest { branch, one_phase, work, remaining_ms })
        }
        Verb::Rollback => Request::Rollback(v1::RollbackBranchRequest { branch }),
        Verb::Try => Request::Try(v1::TryRequest { branch, work: work(), remaining_ms }),
        Verb::Confirm => Request::Confirm(v1::ConfirmRequest { branch, work: work() }),
        Verb::Cancel => Request::Cancel(v1::CancelRequest { branch, work: work() }),
    }
}

/// Of several ways to a participant, a branch is called on the one that weighs most for it (rendezvous hashing): as long as
/// that is there it keeps to it, whichever others come and go.
pub(super) fn weight(way: impl Hash, gtid: Gtid, branch: BranchId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (way, gtid, branch).hash(&mut hasher);
    hasher.finish()
}

/// What has come back, for the protocol.
///
/// # Errors
/// INTERNAL when it is no answer to `verb`.
pub(super) fn result(verb: Verb, response: Response) -> Result<CallResult, Status> {
    let (reply, reason, payload) = match (verb, response) {
        (Verb::Work, Response::Work(answer)) => {
            let reply = if answer.done { Reply::Worked } else { Reply::Vote(Vote::No) };
            (reply, answer.reason, answer.reply)
        }
        (Verb::WorkAndPrepare | Verb::Prepare, Response::Prepare(answer)) => {
            (Reply::Vote(vote(answer.vote())?), answer.reason, answer.reply)
        }
        (Verb::WorkAndCommit | Verb::CommitOnePhase | Verb::Commit, Response::Commit(answer)) => {
            (ending(answer.outcome())?, answer.reason, answer.reply)
        }
        (Verb::Rollback, Response::Rollback(answer)) => {
            (ending(answer.outcome())?, String::new(), answer.reply)
        }
        (Verb::Try, Response::Try(answer)) => {
            (Reply::Vote(if answer.reserved { Vote::Yes } else { Vote::No }), answer.reason, answer.reply)
        }
        (Verb::Confirm, Response::Confirm(answer)) => {
            (ending(answer.outcome())?, answer.reason, answer.reply)
        }
        (Verb::Cancel, Response::Cancel(answer)) => (ending(answer.outcome())?, answer.reason, Bytes::new()),
        _ => return Err(Status::internal("the participant has answered another question")),
    };
    Ok(CallResult { reply, reason, payload })
}

fn vote(vote: VoteMessage) -> Result<Vote, Status> {
    match vote {
        VoteMessage::Yes => Ok(Vote::Yes),
        VoteMessage::ReadOnly => Ok(Vote::ReadOnly),
        VoteMessage::No => Ok(Vote::No),
        VoteMessage::Unspecified => Err(Status::internal("the participant's answer holds no vote")),
    }
}

/// The protocol takes a refusal from TCC branches only.
fn ending(outcome: BranchOutcome) -> Result<Reply, Status> {
    match outcome {
        BranchOutcome::Committed => Ok(Reply::Ended(Outcome::Committed)),
        BranchOutcome::RolledBack => Ok(Reply::Ended(Outcome::RolledBack)),
        BranchOutcome::Refused => Ok(Reply::Refused),
        BranchOutcome::Unspecified => Err(Status::internal("the participant's answer holds no outcome")),
    }
}

/// Whether a failure says that nobody is there, rather than that somebody did not like the call: what the
/// participant itself has answered, UNAVAILABLE included, comes without a cause of ours.
pub(super) fn tells_of_absence(status: &Status) -> bool {
    status.source().is_some()
}

/// What was in the way of an answer.
pub(super) fn what_failed(status: &Status) -> CallFailure {
    let is_late = status.source().is_some_and(|cause| cause.is::<TimeoutExpired>());
    match (never_left(status), is_late, tells_of_absence(status)) {
        (true, ..) => CallFailure::Unreachable,
        (_, true, _) => CallFailure::TimedOut,
        (.., true) => CallFailure::Broken,
        _ => CallFailure::Error,
    }
}

/// What the protocol is told about a call without an answer.
pub(super) fn failure(verb: Verb, repeated: bool, status: &Status) -> CallResult {
    let reason = told(status);
    // The participant is there and says that it cannot do this, ever. If an earlier call may have arrived, it
    // may have done something all the same, and is asked again.
    let never = matches!(
        status.code(),
        Code::Unimplemented
            | Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
    );
    let reply = match verb {
        Verb::Work | Verb::WorkAndPrepare | Verb::Try if never && !repeated => Reply::Vote(Vote::No),
        Verb::WorkAndCommit if never && !repeated => Reply::Ended(Outcome::RolledBack),
        _ => Reply::Failed { maybe_arrived: !never_left(status) },
    };
    CallResult { reply, reason, payload: Default::default() }
}

/// A failure, for people.
pub(super) fn told(status: &Status) -> String {
    format!("{}: {}", name(status.code()), status.message())
}

/// The cause of a failure to send a call that has not left this process.
#[derive(Debug, thiserror::Error)]
#[error("not sent")]
pub(super) struct NeverSent;

impl NeverSent {
    pub(super) fn status(message: &str) -> Status {
        let mut status = Status::unavailable(message);
        status.set_source(Arc::new(NeverSent));
        status
    }
}

/// Whether the participant has seen nothing of it.
pub(super) fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() || error.is::<NeverSent>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The code as gRPC spells it.
fn name(code: Code) -> String {
    format!("{code:?}").chars().fold(String::new(), |mut name, letter| {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
        name
    })
}
