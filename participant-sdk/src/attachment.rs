//! Being called on a stream of one's own: the participant opens it, and calls and answers travel on it, many in one
//! message.

use std::collections::HashSet;
use std::time::Duration;

use concord_proto::TraceContext;
use concord_proto::v1::answer::Response as Answered;
use concord_proto::v1::attachment_client::AttachmentClient;
use concord_proto::v1::call::Request as Asked;
use concord_proto::v1::participant_server::Participant;
use concord_proto::v1::{Answer, AttachRequest, AttachResponse, Call, CallError};
use concord_proto::{Coordinators, Place};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tonic::{Code, Status, Streaming};

use crate::trace::traced;

/// A message with answers is closed when it has grown to this, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The longest answer, in bytes; handlers may answer 64 KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The pause before attaching again, first and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Keeps a participant attached under `address` to each of the coordinators, and answers their calls, until `stop` is
/// ready; then takes no new calls, and finishes those under way. A stream that breaks is opened again.
///
/// [`crate::ParticipantServer`] does this by itself. It is here for services that implement
/// `concord.v1.Participant` on their own.
pub async fn attach<S: Participant + Clone>(
    service: S,
    coordinators: impl Into<Coordinators>,
    address: String,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let (mut coordinators, stop) = (coordinators.into(), stop.shared());
    // Tasks, because the caller's may have a thread of its own (that of `main`), which every message would have to wake.
    let mut streams = JoinSet::new();
    let mut attached = HashSet::new();
    loop {
        for Place { url, channel } in coordinators.places().iter().cloned() {
            if attached.insert(url.clone()) {
                let place = Place { url, channel };
                let stream =
                    Attachment { place, coordinators: coordinators.clone(), address: address.clone() };
                streams.spawn(stream.keep(service.clone(), stop.clone()));
            }
        }
        tokio::select! {
            () = coordinators.changed() => {}
            Some(ended) = streams.join_next() => {
                attached.remove(&url_of(ended));
            }
            () = stop.clone() => break,
        }
    }
    while let Some(ended) = streams.join_next().await {
        url_of(ended);
    }
}

/// Of a stream that has ended. A panic goes on here.
fn url_of(ended: Result<String, JoinError>) -> String {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(url) => url,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Nobody aborts them.
        Err(Err(_)) => String::new(),
    }
}

/// A stream to one coordinator.
struct Attachment {
    place: Place,
    /// Those that there are.
    coordinators: Coordinators,
    address: String,
}

impl Attachment {
    /// Until `stop` is ready, or the stream breaks and the coordinator is none any more; answers its URL.
    async fn keep<S: Participant + Clone>(self, service: S, stop: impl Future<Output = ()> + Send) -> String {
        let Attachment { place, coordinators, address } = self;
        tokio::pin!(stop);
        let client = AttachmentClient::new(coordinators.only(place.clone()));
        let client = client.max_decoding_message_size(usize::MAX);
        let (mut pause, mut warned) = (PAUSE.0, Code::Ok);
        // One that is about to leave is called no more by its name, and may still have to call us.
        while coordinators.places().iter().any(|other| other.url == place.url) {
            let (answers, queue) = mpsc::unbounded_channel();
            let outgoing = outgoing(address.clone(), queue);
            let mut client = client.clone();
            let opened = tokio::select! {
                opened = client.attach(outgoing) => opened,
                () = &mut stop => break,
            };
            let ended = match opened {
                Ok(incoming) => {
                    tracing::info!(%address, "attached to the coordinator");
                    (pause, warned) = (PAUSE.0, Code::Ok);
                    match serve(&service, incoming.into_inner(), answers, &mut stop).await {
                        End::Left => break,
                        End::Broken(status) => status,
                    }
                }
                Err(status) => status,
            };
            // Once, not at every attempt while the coordinator is down.
            if ended.code() != warned {
                warned = ended.code();
                tracing::warn!(%address, code = ?warned, "not attached to the coordinator: {}", ended.message());
            }
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
                () = &mut stop => break,
            }
            pause = (pause * 2).min(PAUSE.1);
        }
        place.url
    }
}

/// How a stream ended.
enum End {
    /// We had said that we leave.
    Left,
    Broken(Status),
}

/// What goes to the coordinator.
enum Outgoing {
    Answer(Answer),
    Leaving,
}

/// Answers calls until the stream ends.
async fn serve<S: Participant + Clone>(
    service: &S,
    mut incoming: Streaming<AttachResponse>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    mut stop: impl Future<Output = ()> + Unpin,
) -> End {
    // Given away when the coordinator sends nothing more: the stream ends with the last answer.
    let (mut outgoing, mut leaving) = (Some(outgoing), false);
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = &mut stop, if !leaving => {
                leaving = true;
                // Fails if the stream has broken, which the next message tells.
                outgoing.as_ref().map(|outgoing| outgoing.send(Outgoing::Leaving));
                continue;
            }
        };
        let message = match message {
            Ok(Some(message)) => message,
            _ if leaving => return End::Left,
            Ok(None) => return End::Broken(Status::unavailable("it has ended the stream")),
            Err(status) => return End::Broken(status),
        };
        for call in message.calls {
            let (service, outgoing) = (service.clone(), outgoing.clone());
            // To its end even if the stream breaks: a repeated call finds the result.
            tokio::spawn(async move {
                let answer = answer(&service, call).await;
                outgoing.map(|outgoing| outgoing.send(Outgoing::Answer(answer)));
            });
        }
        if message.last {
            outgoing = None;
        }
    }
}

/// Who we are, and then what is ready, as much as there is in one message.
fn outgoing(
    address: String,
    queue: mpsc::UnboundedReceiver<Outgoing>,
) -> impl Stream<Item = AttachRequest> + Send + 'static {
    let first = AttachRequest { participant: address, ..AttachRequest::default() };
    let rest = stream::unfold(queue, |mut queue| async move {
        let mut message = AttachRequest::default();
        let mut bytes = 0;
        let mut next = Some(queue.recv().await?);
        while let Some(one) = next {
            match one {
                Outgoing::Leaving => message.leaving = true,
                Outgoing::Answer(answer) => {
                    bytes += answer.encoded_len();
                    message.answers.push(answer);
                }
            }
            next = if bytes < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        Some((message, queue))
    });
    stream::once(std::future::ready(first)).chain(rest)
}

async fn answer<S: Participant>(service: &S, call: Call) -> Answer {
    let trace = TraceContext::parse(&call.traceparent, &call.tracestate);
    let response = match carry_out(service, call.request, trace.as_ref()).await {
        Ok(response) => response,
        Err(status) => {
            Answered::Error(CallError { code: status.code().into(), message: status.message().to_owned() })
        }
    };
    let answer = Answer { number: call.number, response: Some(response) };
    match answer.encoded_len() {
        length if length > ANSWER_BYTES_MAX => {
            let message = format!("the answer of {length} bytes is over the limit of {ANSWER_BYTES_MAX}");
            let error = CallError { code: Code::OutOfRange.into(), message };
            Answer { number: call.number, response: Some(Answered::Error(error)) }
        }
        _ => answer,
    }
}

async fn carry_out<S: Participant>(
    service: &S,
    request: Option<Asked>,
    trace: Option<&TraceContext>,
) -> Result<Answered, Status> {
    Ok(match request {
        Some(Asked::Work(call)) => Answered::Work(service.work(traced(call, trace)).await?.into_inner()),
        Some(Asked::Prepare(call)) => {
            Answered::Prepare(service.prepare(traced(call, trace)).await?.into_inner())
        }
        Some(Asked::Commit(call)) => {
            Answered::Commit(service.commit(traced(call, trace)).await?.into_inner())
        }
        Some(Asked::Rollback(call)) => {
            Answered::Rollback(service.rollback(traced(call, trace)).await?.into_inner())
        }
        Some(Asked::Try(call)) => Answered::Try(service.r#try(traced(call, trace)).await?.into_inner()),
        Some(Asked::Confirm(call)) => {
            Answered::Confirm(service.confirm(traced(call, trace)).await?.into_inner())
        }
        Some(Asked::Cancel(call)) => {
            Answered::Cancel(service.cancel(traced(call, trace)).await?.into_inner())
        }
        // A coordinator newer than this participant.
        None => return Err(Status::unimplemented("this participant does not know the call")),
    })
}
