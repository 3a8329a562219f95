//! Calls to participants over gRPC.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::v1::{self, BranchOutcome, Vote as VoteMessage};
use concord_protocol::{ClusterId, Outcome, Reply, Verb, Vote};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, TimeoutExpired};

use super::breaker::{Breaker, BreakerSettings};
use crate::config::AllowList;
use crate::engine::{BranchCall, CallResult, Participants};

/// Connections kept; past it those that nobody uses at the moment are closed.
const CONNECTIONS_MAX: usize = 1024;
/// A reply larger than this is refused: handlers may answer 64 KiB.
const REPLY_BYTES_MAX: usize = 256 << 10;

/// How participants are called.
#[derive(Debug, Clone)]
pub struct OutboundSettings {
    /// Whom the coordinator may call.
    pub allow: AllowList,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// One per participant.
    pub breaker: BreakerSettings,
}

/// Participants, by address, each with one connection and one breaker.
pub struct GrpcParticipants {
    settings: OutboundSettings,
    cluster_id: ClusterId,
    known: Mutex<HashMap<Arc<str>, Arc<Participant>>>,
}

struct Participant {
    client: ParticipantClient<Channel>,
    breaker: Breaker,
}

impl GrpcParticipants {
    /// Connects to nobody yet.
    pub fn new(cluster_id: ClusterId, settings: OutboundSettings) -> Self {
        GrpcParticipants { settings, cluster_id, known: Mutex::default() }
    }

    fn participant(&self, address: &Arc<str>) -> Result<Arc<Participant>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(participant) = known.get(address) {
            return Ok(Arc::clone(participant));
        }
        if known.len() >= CONNECTIONS_MAX {
            known.retain(|_, participant| Arc::strong_count(participant) > 1);
        }
        let endpoint = Endpoint::from_shared(address.to_string())
            .map_err(|error| error.to_string())?
            .connect_timeout(self.settings.connect_timeout)
            .tcp_nodelay(true)
            // A peer that vanished without closing is noticed by its silence.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        let client =
            ParticipantClient::new(endpoint.connect_lazy()).max_decoding_message_size(REPLY_BYTES_MAX);
        let participant = Arc::new(Participant { client, breaker: Breaker::new(self.settings.breaker) });
        known.insert(Arc::clone(address), Arc::clone(&participant));
        Ok(participant)
    }
}

impl Participants for GrpcParticipants {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let participant = match self.participant(&call.participant) {
            Ok(participant) => participant,
            Err(error) => return std::future::ready(CallResult::failed(false, error)).boxed(),
        };
        if !participant.breaker.admits(Instant::now()) {
            let result =
                CallResult::failed(false, "not called: it has not answered for a while (breaker open)");
            return std::future::ready(result).boxed();
        }
        let (cluster_id, limit) = (self.cluster_id, self.settings.call_timeout);
        async move {
            let (verb, repeated) = (call.verb, call.repeated);
            crash_point!("coordinator/send", format!("{verb:?}"));
            let answer =
                tokio::time::timeout(limit, send(participant.client.clone(), call, cluster_id)).await;
            let answer = answer.unwrap_or_else(|_| {
                let mut status =
                    Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
                status.set_source(Arc::new(TimeoutExpired(())));
                Err(status)
            });
            match &answer {
                Err(status) if tells_of_absence(status) => participant.breaker.failed(Instant::now()),
                _ => participant.breaker.succeeded(),
            }
            answer.unwrap_or_else(|status| failure(verb, repeated, &status))
        }
        .boxed()
    }

    fn permits(&self, participant: &str) -> bool {
        self.settings.allow.permits(participant)
    }
}

async fn send(
    mut client: ParticipantClient<Channel>,
    call: BranchCall,
    cluster_id: ClusterId,
) -> Result<CallResult, Status> {
    let BranchCall { gtid, branch, verb, action, payload, repeated, remaining_ms, participant: _ } = call;
    let context = v1::BranchContext { gtid: gtid.to_string(), branch_id: branch.0, cluster_id: cluster_id.0 };
    let branch = Some(context);
    let work = Some(v1::Work { action: action.to_string(), payload });
    let none = None::<v1::Work>;
    match verb {
        Verb::Work => {
            let request = v1::WorkRequest { branch, work, repeated_call: repeated, remaining_ms };
            let answer = client.work(request).await?.into_inner();
            let reply = if answer.done { Reply::Worked } else { Reply::Vote(Vote::No) };
            Ok(CallResult { reply, reason: answer.reason, payload: answer.reply })
        }
        Verb::WorkAndPrepare | Verb::Prepare => {
            let work = if verb == Verb::WorkAndPrepare { work } else { none };
            let request = v1::PrepareRequest { branch, work, repeated_call: repeated, remaining_ms };
            let answer = client.prepare(request).await?.into_inner();
            let reply = Reply::Vote(vote(answer.vote())?);
            Ok(CallResult { reply, reason: answer.reason, payload: answer.reply })
        }
        Verb::WorkAndCommit | Verb::CommitOnePhase | Verb::Commit => {
            let one_phase = verb != Verb::Commit;
            let work = if verb == Verb::WorkAndCommit { work } else { none };
            let request = v1::CommitBranchRequest { branch, one_phase, work, remaining_ms };
            let answer = client.commit(request).await?.into_inner();
            Ok(CallResult { reply: ending(answer.outcome())?, reason: answer.reason, payload: answer.reply })
        }
        Verb::Rollback => {
            let answer = client.rollback(v1::RollbackBranchRequest { branch }).await?.into_inner();
            let reply = ending(answer.outcome())?;
            Ok(CallResult { reply, reason: String::new(), payload: answer.reply })
        }
        Verb::Try => {
            let answer = client.r#try(v1::TryRequest { branch, work, remaining_ms }).await?.into_inner();
            let reply = Reply::Vote(if answer.reserved { Vote::Yes } else { Vote::No });
            Ok(CallResult { reply, reason: answer.reason, payload: answer.reply })
        }
        Verb::Confirm => {
            let answer = client.confirm(v1::ConfirmRequest { branch, work }).await?.into_inner();
            let reply = ending(answer.outcome())?;
            Ok(CallResult { reply, reason: answer.reason, payload: answer.reply })
        }
        Verb::Cancel => {
            let answer = client.cancel(v1::CancelRequest { branch, work }).await?.into_inner();
            let reply = ending(answer.outcome())?;
            Ok(CallResult { reply, reason: answer.reason, payload: Bytes::new() })
        }
    }
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
fn tells_of_absence(status: &Status) -> bool {
    status.source().is_some()
}

/// What the protocol is told about a call without an answer.
fn failure(verb: Verb, repeated: bool, status: &Status) -> CallResult {
    let reason = format!("{}: {}", name(status.code()), status.message());
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

/// Whether the failure was to connect: then the participant has seen nothing.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
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

#[cfg(test)]
mod tests;
