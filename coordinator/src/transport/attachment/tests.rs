//! One stream, without a network: what is polled is what would be sent.

use std::collections::HashSet;

use concord_proto::v1::{CallError, CancelResponse, TryRequest, Work};
use concord_protocol::{ClusterId, Epoch, Verb};
use futures_util::{FutureExt as _, StreamExt as _};

use super::*;
use crate::engine::BranchCall;
use crate::metrics::Metrics;
use crate::transport::{BreakerSettings, OutboundSettings};

const ADDRESS: &str = "attached://shop";
const IN_FLIGHT_MAX: usize = 3;

fn participants() -> Arc<GrpcParticipants> {
    let settings = OutboundSettings {
        in_flight_max: IN_FLIGHT_MAX,
        breaker: BreakerSettings { failures_before_open: 0, open_for: Duration::from_secs(1) },
        ..OutboundSettings::default()
    };
    Arc::new(GrpcParticipants::new(ClusterId(7), settings, &Metrics::default()))
}

fn attached(participants: &Arc<GrpcParticipants>) -> (Arc<Attachment>, Outgoing) {
    let attachment = Arc::new(Attachment::new(ADDRESS.into()));
    assert!(participants.attach(&attachment).unwrap());
    let outgoing = Outgoing { attachment: Arc::clone(&attachment), participants: Arc::clone(participants) };
    (attachment, outgoing)
}

fn asked(payload: usize) -> Asked {
    let work = Work { action: "order".into(), payload: vec![0; payload].into() };
    Asked::Try(TryRequest { work: Some(work), ..TryRequest::default() })
}

/// The next message, if there is one at once.
fn sent(outgoing: &mut Outgoing) -> Option<AttachResponse> {
    outgoing.next().now_or_never().map(|message| message.unwrap().unwrap())
}

/// A call that has been queued.
fn queued(attachment: &Arc<Attachment>, request: Asked) -> Pin<Box<dyn Future<Output = Outcome>>> {
    let mut call = Box::pin(Arc::clone(attachment).call(request, None));
    assert!(call.as_mut().now_or_never().is_none());
    call
}

fn yes(number: u64) -> Answer {
    Answer { number, response: Some(Answered::Cancel(CancelResponse::default())) }
}

#[test]
fn the_first_stream_of_a_participant_says_that_it_answers_again() {
    let participants = participants();
    let returned = || participants.returned().now_or_never();
    assert_eq!(returned(), None);
    let first = attached(&participants);
    assert_eq!(returned(), Some(HashSet::from([ADDRESS.into()])));
    let second = attached(&participants);
    assert_eq!(returned(), None, "it was there");
    drop((first, second));
    let _again = attached(&participants);
    assert_eq!(returned(), Some(HashSet::from([ADDRESS.into()])));
}

#[test]
fn calls_that_are_ready_share_a_message_and_each_gets_its_own_answer() {
    let (attachment, mut outgoing) = attached(&participants());
    assert_eq!(sent(&mut outgoing), Some(AttachResponse { cluster_id: 7, ..AttachResponse::default() }));
    let mut calls: Vec<_> = (0..3).map(|_| queued(&attachment, asked(1))).collect();
    let numbers: Vec<u64> = sent(&mut outgoing).unwrap().calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(sent(&mut outgoing), None);
    let error = CallError { code: Code::NotFound.into(), message: "no such action".into() };
    attachment.answered(Answer { number: 2, response: Some(Answered::Error(error)) });
    attachment.answered(Answer { number: 3, response: None });
    let mut answer = |index: usize| calls[index].as_mut().now_or_never();
    assert!(answer(0).is_none());
    assert_eq!(answer(1).unwrap().unwrap_err().code(), Code::NotFound);
    assert_eq!(answer(2).unwrap().unwrap_err().code(), Code::Internal);
    attachment.answered(yes(1));
    assert_eq!(answer(0).unwrap().unwrap(), Answered::Cancel(CancelResponse::default()));
}

#[test]
fn an_error_is_never_ok_and_an_answer_to_nothing_is_ignored() {
    let (attachment, mut outgoing) = attached(&participants());
    let mut call = queued(&attachment, asked(1));
    sent(&mut outgoing);
    attachment.answered(yes(99));
    let error = CallError { code: Code::Ok.into(), message: String::new() };
    attachment.answered(Answer { number: 1, response: Some(Answered::Error(error)) });
    assert_eq!(call.as_mut().now_or_never().unwrap().unwrap_err().code(), Code::Unknown);
    attachment.answered(yes(1));
}

#[test]
fn a_message_is_closed_when_it_is_large() {
    let (attachment, mut outgoing) = attached(&participants());
    let _calls: Vec<_> = (0..5).map(|_| queued(&attachment, asked(BATCH_BYTES / 2))).collect();
    let sizes: Vec<usize> = std::iter::from_fn(|| sent(&mut outgoing)).map(|one| one.calls.len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn a_call_that_nobody_waits_for_any_more_does_not_leave() {
    let (attachment, mut outgoing) = attached(&participants());
    sent(&mut outgoing);
    let first = queued(&attachment, asked(1));
    let _second = queued(&attachment, asked(1));
    drop(first);
    let numbers: Vec<u64> = sent(&mut outgoing).unwrap().calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, [2]);
}

#[test]
fn a_call_carries_its_place_in_a_trace_if_it_has_one() {
    let (attachment, mut outgoing) = attached(&participants());
    sent(&mut outgoing);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traces = [TraceContext::parse(parent, "a=1"), None];
    let mut calls = traces.map(|trace| Box::pin(Arc::clone(&attachment).call(asked(1), trace)));
    assert!(calls.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
    let calls = sent(&mut outgoing).unwrap().calls;
    let carried = calls.iter().map(|call| (call.traceparent.as_str(), call.tracestate.as_str()));
    assert_eq!(carried.collect::<Vec<_>>(), [(parent, "a=1"), ("", "")]);
}

#[test]
fn what_waits_when_the_stream_breaks_may_have_arrived_and_what_comes_after_has_not() {
    let participants = participants();
    let (attachment, mut outgoing) = attached(&participants);
    let mut call = queued(&attachment, asked(1));
    sent(&mut outgoing);
    drop(outgoing);
    let status = call.as_mut().now_or_never().unwrap().unwrap_err();
    assert!(!crate::transport::call::never_left(&status), "{status}");
    let status = Arc::clone(&attachment).call(asked(1), None).now_or_never().unwrap().unwrap_err();
    assert!(crate::transport::call::never_left(&status), "{status}");
    assert!(participants.attached_to(ADDRESS).is_empty());
}

#[test]
fn who_leaves_gets_what_is_queued_and_then_the_last_message_and_its_answers_count() {
    let participants = participants();
    let (attachment, mut outgoing) = attached(&participants);
    sent(&mut outgoing);
    let mut calls: Vec<_> = (0..3).map(|_| queued(&attachment, asked(BATCH_BYTES))).collect();
    attachment.leave();
    let messages: Vec<_> = std::iter::from_fn(|| sent(&mut outgoing)).collect();
    let shape: Vec<_> = messages.iter().map(|message| (message.calls.len(), message.last)).collect();
    assert_eq!(shape, [(1, false), (1, false), (1, true)]);
    assert!(Arc::clone(&attachment).call(asked(1), None).now_or_never().unwrap().is_err());
    attachment.answered(yes(1));
    assert!(calls[0].as_mut().now_or_never().unwrap().is_ok());
    assert!(calls[1].as_mut().now_or_never().is_none());
}

#[tokio::test]
async fn more_calls_than_a_participant_may_have_wait_for_their_turn_and_phase_two_not_for_phase_one() {
    let participants = participants();
    let (attachment, mut outgoing) = attached(&participants);
    sent(&mut outgoing);
    let call = |verb| {
        let mut call = participants.call(BranchCall {
            gtid: Gtid::compose(1, Epoch(1), 1),
            branch: BranchId(1),
            participant: ADDRESS.into(),
            verb,
            action: "order".into(),
            payload: Default::default(),
            repeated: false,
            remaining_ms: 1_000,
            trace: None,
        });
        assert!(call.as_mut().now_or_never().is_none());
        call
    };
    let mut tries: Vec<_> = (0..IN_FLIGHT_MAX + 2).map(|_| call(Verb::Try)).collect();
    assert_eq!(sent(&mut outgoing).unwrap().calls.len(), IN_FLIGHT_MAX);
    let _confirm = call(Verb::Confirm);
    let confirm = sent(&mut outgoing).unwrap().calls.remove(0).request;
    assert!(matches!(confirm, Some(Asked::Confirm(_))), "{confirm:?}");
    // The next has its turn when one has been answered, whatever the answer.
    attachment.answered(yes(1));
    assert!(tries[0].as_mut().now_or_never().is_some());
    assert!(tries[IN_FLIGHT_MAX].as_mut().now_or_never().is_none());
    assert_eq!(sent(&mut outgoing).unwrap().calls.len(), 1);
}

#[test]
fn a_branch_keeps_to_its_stream_when_others_come_and_all_get_their_share() {
    let streams: Vec<_> = (0..4).map(|_| Attachment::new(ADDRESS.into())).collect();
    let chosen = |among: &[Attachment], gtid: Gtid| {
        among.iter().max_by_key(|one| one.weight(gtid, BranchId(1))).map(|one| one.id)
    };
    let mut counts = HashMap::new();
    for number in 0..1_000 {
        let gtid = Gtid::compose(1, Epoch(1), number);
        let (before, after) = (chosen(&streams[..3], gtid), chosen(&streams, gtid));
        assert!(before == after || after == Some(streams[3].id));
        *counts.entry(after).or_insert(0) += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count > 150), "{counts:?}");
}

#[test]
fn a_coordinator_that_stops_ends_its_streams_and_takes_no_more() {
    let participants = participants();
    let (attachment, mut outgoing) = attached(&participants);
    let mut call = queued(&attachment, asked(1));
    participants.detach_all();
    assert!(outgoing.next().now_or_never().unwrap().is_none());
    assert!(call.as_mut().now_or_never().unwrap().is_err());
    assert!(!participants.attach(&Arc::new(Attachment::new(ADDRESS.into()))).unwrap());
}
