//! Streams that participants have opened, to be called on.
//!
//! What is queued while a message is on its way leaves together in the next one: the busier a participant is, the
//! more calls share a message, and a call to one that is idle leaves at once.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use concord_proto::TraceContext;
use concord_proto::v1::answer::Response as Answered;
use concord_proto::v1::attachment_server;
use concord_proto::v1::call::Request as Asked;
use concord_proto::v1::{Answer, AttachRequest, AttachResponse, Call};
use concord_protocol::{BranchId, Gtid};
use futures_util::Stream;
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::{Code, Request, Response, Status, Streaming};

use super::call::{NeverSent, weight};
use super::convert::{invalid, required, status};
use super::coordinator::bytes_max;
use super::guard::{caller, check_name};
use super::outbound::GrpcParticipants;
use crate::engine::{EngineError, Participants as _};

/// A message with calls is closed when it has grown to this, in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// How long a participant may take to say who it is.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

type Outcome = Result<Answered, Status>;

/// One stream.
pub(super) struct Attachment {
    address: Arc<str>,
    /// Unlike that of any other.
    id: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queued: VecDeque<Call>,
    /// Calls without an answer, by number.
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    /// Calls so far.
    numbered: u64,
    /// Woken when there is something to send.
    sender: Option<Waker>,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    New,
    /// The participant has been told who calls.
    Open,
    /// The participant leaves, and is to be told when it has had the last call.
    Leaving,
    /// It has been told.
    Left,
    Closed,
}

impl State {
    fn wake(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// What is ready to be sent, as far as one message holds it.
    fn batch(&mut self) -> Vec<Call> {
        let (mut calls, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(call) = self.queued.pop_front()
        {
            // Nobody waits any more: it took too long.
            if !self.waiting.contains_key(&call.number) {
                continue;
            }
            bytes += call.encoded_len();
            calls.push(call);
        }
        calls
    }
}

impl Attachment {
    fn new(address: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Attachment { address, id, state: Mutex::default() }
    }

    /// Under which it is called.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Of several streams, the one on which a branch weighs most is called.
    pub(super) fn weight(&self, gtid: Gtid, branch: BranchId) -> u64 {
        weight(self.id, gtid, branch)
    }

    /// Queues a call, and waits for its answer, however long. Dropped, it waits no more; a call that has not left
    /// until then never does.
    pub(super) async fn call(self: Arc<Self>, request: Asked, trace: Option<TraceContext>) -> Outcome {
        let told = |trace: TraceContext| (trace.traceparent(), trace.tracestate().to_owned());
        let (traceparent, tracestate) = trace.map(told).unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut state = self.lock();
            if state.phase >= Phase::Leaving {
                return Err(NeverSent::status("the participant's stream has ended"));
            }
            state.numbered += 1;
            let number = state.numbered;
            state.waiting.insert(number, answer);
            state.queued.push_back(Call { number, request: Some(request), traceparent, tracestate });
            state.wake();
            number
        };
        let _forgotten = Forget { attachment: &self, number };
        let broken = || Status::unavailable("the participant's stream broke before it answered");
        answered.await.unwrap_or_else(|_| Err(broken()))
    }

    /// Ends the stream. Whoever waits learns that there is no answer.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.queued.clear();
        state.waiting.clear();
        state.wake();
    }

    /// Takes no more calls; those that are queued leave, and then the message that there are no more.
    fn leave(&self) {
        let mut state = self.lock();
        if state.phase < Phase::Leaving {
            state.phase = Phase::Leaving;
            state.wake();
        }
    }

    fn answered(&self, answer: Answer) {
        let outcome = match answer.response {
            Some(Answered::Error(error)) => {
                let code = match Code::from(error.code) {
                    Code::Ok => Code::Unknown,
                    code => code,
                };
                Err(Status::new(code, error.message))
            }
            Some(response) => Ok(response),
            None => Err(Status::internal("the participant's answer is empty")),
        };
        // Not waited for: it took too long.
        if let Some(waiting) = self.lock().waiting.remove(&answer.number) {
            let _ = waiting.send(outcome);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a call off the list of those that wait.
struct Forget<'a> {
    attachment: &'a Attachment,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.attachment.lock().waiting.remove(&self.number);
    }
}

/// The coordinator's half of a stream: calls, as many in a message as are ready. Dropped, the stream is over.
pub(super) struct Outgoing {
    attachment: Arc<Attachment>,
    participants: Arc<GrpcParticipants>,
}

impl Stream for Outgoing {
    type Item = Result<AttachResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.attachment.lock();
        let calls = state.batch();
        let more = !state.queued.is_empty();
        let mut message = AttachResponse { calls, ..AttachResponse::default() };
        match state.phase {
            Phase::Closed => return Poll::Ready(None),
            Phase::New => {
                state.phase = Phase::Open;
                message.cluster_id = self.participants.cluster_id().0;
            }
            Phase::Leaving if !more => {
                state.phase = Phase::Left;
                message.last = true;
            }
            _ if message.calls.is_empty() => {
                state.sender = Some(context.waker().clone());
                return Poll::Pending;
            }
            _ => {}
        }
        Poll::Ready(Some(Ok(message)))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.participants.detach(&self.attachment);
        self.attachment.close();
    }
}

/// The `Attachment` service: what participants call to be called.
pub(super) struct AttachmentService {
    pub(super) participants: Arc<GrpcParticipants>,
}

#[tonic::async_trait]
impl attachment_server::Attachment for AttachmentService {
    type AttachStream = Outgoing;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = caller(request.extensions()).cloned();
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the first message has not come"))??;
        let address = first.map(|message| message.participant).unwrap_or_default();
        let address = required("participant", address, bytes_max::PARTICIPANT)?;
        if !self.participants.permits(&address) {
            return Err(status(EngineError::NotAllowed(address)));
        }
        check_name(caller.as_ref(), &address)?;
        let attachment = Arc::new(Attachment::new(address.into()));
        let participants = Arc::clone(&self.participants);
        let outgoing = Outgoing { attachment: Arc::clone(&attachment), participants };
        let attached = self.participants.attach(&attachment);
        if !attached.map_err(|problem| invalid("participant", problem))? {
            return Err(status(EngineError::ShuttingDown));
        }
        tracing::info!(participant = %attachment.address, "attached");
        tokio::spawn(listen(incoming, attachment, Arc::clone(&self.participants)));
        Ok(Response::new(outgoing))
    }
}

/// Takes answers until the stream ends.
async fn listen(
    mut incoming: Streaming<AttachRequest>,
    attachment: Arc<Attachment>,
    participants: Arc<GrpcParticipants>,
) {
    loop {
        match incoming.message().await {
            Ok(Some(message)) => {
                message.answers.into_iter().for_each(|answer| attachment.answered(answer));
                if message.leaving {
                    participants.detach(&attachment);
                    attachment.leave();
                }
            }
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(participant = %attachment.address, %status, "a participant's stream broke");
                break;
            }
        }
    }
    participants.detach(&attachment);
    attachment.close();
    tracing::info!(participant = %attachment.address, "detached");
}

#[cfg(test)]
mod tests;
