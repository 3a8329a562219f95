//! Spans of transactions: one for each transaction, one for each phase of it, one for each call to a branch.
//!
//! The types of OpenTelemetry stay in here. Without an exporter nothing is made; what an initiator has sent is passed on to
//! the branches as it came.

mod export;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::SystemTime;

use concord_proto::TraceContext;
use concord_proto::trace::{SpanId, TraceId};
use concord_protocol::{BranchId, Decision, Gtid, Outcome, Reply, Verb, Vote};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};

pub use export::{ExportError, Tracer};

use crate::metrics::Label as _;

/// The attributes of spans.
mod attribute {
    pub(super) const GTID: &str = "concord.gtid";
    pub(super) const NAME: &str = "concord.name";
    pub(super) const RECOVERED: &str = "concord.recovered";
    pub(super) const BRANCH_ID: &str = "concord.branch_id";
    pub(super) const PARTICIPANT: &str = "concord.participant";
    pub(super) const ACTION: &str = "concord.action";
    pub(super) const VERB: &str = "concord.verb";
    pub(super) const REPEATED: &str = "concord.repeated";
    pub(super) const OUTCOME: &str = "concord.outcome";
    pub(super) const ERROR: &str = "concord.error";
}

/// The trace that a live transaction belongs to.
#[derive(Debug)]
pub(crate) struct Trace {
    /// What those are called with that have no span of their own.
    context: TraceContext,
    /// None where nothing is exported.
    spans: Option<Box<Spans>>,
}

#[derive(Debug)]
struct Spans {
    tracer: SdkTracer,
    gtid: Gtid,
    transaction: Span,
    /// Of phase one and of phase two.
    phases: [Option<Span>; 2],
}

/// What is known of a transaction when its span begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    pub(crate) gtid: Gtid,
    /// For people.
    pub(crate) name: &'a str,
    /// None: in an earlier life of the coordinator.
    pub(crate) begun_at: Option<SystemTime>,
}

impl Tracer {
    /// The trace of a transaction: the caller's, or one of its own. None: it has none, and nothing is exported.
    pub(crate) fn trace<'a>(
        &self,
        caller: Option<TraceContext>,
        beginning: impl FnOnce() -> Beginning<'a>,
    ) -> Option<Trace> {
        let Some(tracer) = self.exporting() else {
            return caller.map(|context| Trace { context, spans: None });
        };
        let beginning = beginning();
        let kind = if caller.is_some() { SpanKind::Server } else { SpanKind::Internal };
        let mut builder = SpanBuilder::from_name("transaction").with_kind(kind);
        builder.start_time = beginning.begun_at;
        let parent = caller.as_ref().map(|caller| Context::new().with_remote_span_context(remote(caller)));
        let mut transaction = tracer.build_with_context(builder, &parent.unwrap_or_default());
        if transaction.is_recording() {
            transaction.set_attribute(KeyValue::new(attribute::GTID, beginning.gtid.to_string()));
            if !beginning.name.is_empty() {
                transaction.set_attribute(KeyValue::new(attribute::NAME, beginning.name.to_owned()));
            }
            if beginning.begun_at.is_none() {
                transaction.set_attribute(KeyValue::new(attribute::RECOVERED, true));
            }
        }
        let context = match caller {
            Some(caller) => below(&caller, &transaction),
            None => {
                let own = transaction.span_context();
                let (trace_id, span_id) =
                    (TraceId::new(own.trace_id().to_bytes()), SpanId::new(own.span_id().to_bytes()));
                TraceContext::new(trace_id?, span_id?, own.is_sampled())
            }
        };
        let spans = Spans { tracer: tracer.clone(), gtid: beginning.gtid, transaction, phases: [None, None] };
        Some(Trace { context, spans: Some(Box::new(spans)) })
    }
}

impl Trace {
    /// For log lines.
    pub(crate) fn id(&self) -> TraceId {
        self.context.trace_id()
    }

    /// A branch is about to be called: what it is called with, and the span of the call.
    pub(crate) fn call(
        &mut self,
        (branch, verb): (BranchId, Verb),
        participant: &str,
        action: &str,
        repeated: bool,
    ) -> (TraceContext, Option<CallSpan>) {
        let Some(spans) = &mut self.spans else { return (self.context.clone(), None) };
        let Spans { tracer, gtid, transaction, phases } = &mut **spans;
        let (phase, name) = match verb.is_phase_two() {
            false => (&mut phases[0], "phase one"),
            true => (&mut phases[1], "phase two"),
        };
        let phase = phase.get_or_insert_with(|| child(tracer, transaction, name, SpanKind::Internal, *gtid));
        let mut span = child(tracer, phase, verb.value(), SpanKind::Client, *gtid);
        if span.is_recording() {
            span.set_attributes([
                KeyValue::new(attribute::BRANCH_ID, i64::from(branch.0)),
                KeyValue::new(attribute::PARTICIPANT, participant.to_owned()),
                KeyValue::new(attribute::VERB, verb.value()),
                KeyValue::new(attribute::REPEATED, repeated),
            ]);
            if !action.is_empty() {
                span.set_attribute(KeyValue::new(attribute::ACTION, action.to_owned()));
            }
        }
        (below(&self.context, &span), Some(CallSpan(Box::new(span))))
    }

    /// The decision may be told.
    pub(crate) fn decided(&mut self, decision: Decision) {
        let Some(spans) = &mut self.spans else { return };
        let outcome = Outcome::from(decision).value();
        spans.transaction.add_event("decided", vec![KeyValue::new(attribute::OUTCOME, outcome)]);
        if let Some(phase) = &mut spans.phases[0] {
            phase.set_attribute(KeyValue::new(attribute::OUTCOME, outcome));
            phase.end();
        }
    }

    /// Every branch has ended. `error`: what is wrong with that, for people; empty: nothing, or it was asked for.
    pub(crate) fn ended(&mut self, outcome: Outcome, error: &str) {
        let Some(spans) = &mut self.spans else { return };
        let Spans { transaction, phases, .. } = &mut **spans;
        for span in phases.iter_mut().flatten().chain([transaction]) {
            span.set_attribute(KeyValue::new(attribute::OUTCOME, outcome.value()));
        }
        if let Some(phase) = &mut phases[1] {
            phase.end();
        }
        fail(&mut spans.transaction, error);
        spans.transaction.end();
    }
}

/// The span of one call to a branch. Dropped, it has no outcome.
#[derive(Debug)]
pub(crate) struct CallSpan(Box<Span>);

impl CallSpan {
    /// The call has come to this. `reason`: why it was refused or has failed.
    pub(crate) fn end(mut self, reply: Reply, reason: &str) {
        let outcome = match reply {
            Reply::Worked => "worked",
            Reply::Vote(Vote::Yes) => "yes",
            Reply::Vote(Vote::ReadOnly) => "read_only",
            Reply::Vote(Vote::No) => "no",
            Reply::Ended(outcome) => outcome.value(),
            Reply::Refused => "refused",
            Reply::Failed { .. } => "failed",
        };
        self.0.set_attribute(KeyValue::new(attribute::OUTCOME, outcome));
        match reply {
            Reply::Refused | Reply::Failed { .. } => fail(&mut self.0, reason),
            // An answer like any other.
            _ if reason.is_empty() => {}
            _ => self.0.set_attribute(KeyValue::new(attribute::ERROR, reason.to_owned())),
        }
        self.0.end();
    }
}

fn fail(span: &mut Span, error: &str) {
    if !error.is_empty() && span.is_recording() {
        span.set_attribute(KeyValue::new(attribute::ERROR, error.to_owned()));
        span.set_status(Status::error(error.to_owned()));
    }
}

fn child(tracer: &SdkTracer, parent: &Span, name: &'static str, kind: SpanKind, gtid: Gtid) -> Span {
    let builder = SpanBuilder::from_name(Cow::Borrowed(name)).with_kind(kind);
    let parent = Context::new().with_remote_span_context(parent.span_context().clone());
    let mut span = tracer.build_with_context(builder, &parent);
    if span.is_recording() {
        span.set_attribute(KeyValue::new(attribute::GTID, Value::from(gtid.to_string())));
    }
    span
}

/// A caller's place, as OpenTelemetry has it.
fn remote(caller: &TraceContext) -> SpanContext {
    SpanContext::new(
        opentelemetry::trace::TraceId::from_bytes(caller.trace_id().to_bytes()),
        opentelemetry::trace::SpanId::from_bytes(caller.span_id().to_bytes()),
        TraceFlags::new(caller.flags()),
        true,
        caller.tracestate().parse().unwrap_or(TraceState::NONE),
    )
}

/// A span's place in the same trace.
fn below(context: &TraceContext, span: &Span) -> TraceContext {
    let own = span.span_context();
    match SpanId::new(own.span_id().to_bytes()) {
        Some(span_id) => context.with_span(span_id, own.is_sampled()),
        // The exporter has stopped.
        None => context.clone(),
    }
}
