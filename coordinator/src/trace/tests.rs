//! Spans as an exporter gets them, and what branches are called with.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use concord_protocol::Epoch;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanProcessor};

use super::*;
use crate::config::Tracing;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What was exported, in the order in which it ended.
#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Ended {
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|span| span.name.to_string()).collect()
    }

    fn find(&self, name: &str) -> SpanData {
        self.0.lock().unwrap().iter().find(|span| span.name == name).cloned().unwrap()
    }
}

fn told(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|one| one.key.as_str() == name).map(|one| one.value.to_string())
}

fn exporting(sampled_per_million: u32) -> (Tracer, Ended) {
    let ended = Ended::default();
    let config = Tracing { sampled_per_million, ..Tracing::default() };
    (Tracer::through(ended.clone(), &config), ended)
}

fn gtid() -> Gtid {
    Gtid::compose(1, Epoch(1), 1)
}

fn beginning() -> Beginning<'static> {
    Beginning { gtid: gtid(), name: "order", begun_at: Some(SystemTime::now()) }
}

fn caller() -> TraceContext {
    TraceContext::parse(CALLER, "a=1").unwrap()
}

fn call(trace: &mut Trace, branch: u32, verb: Verb) -> (TraceContext, Option<CallSpan>) {
    trace.call((BranchId(branch), verb), "http://shop", "reserve", false)
}

#[test]
fn without_an_exporter_the_callers_place_is_passed_on_and_nothing_else() {
    let tracer = Tracer::default();
    let never = || -> Beginning<'static> { panic!("nobody wants to know") };
    assert!(tracer.trace(None, never).is_none());
    let mut trace = tracer.trace(Some(caller()), never).unwrap();
    let (passed, span) = call(&mut trace, 1, Verb::Try);
    assert_eq!((passed, span.is_none()), (caller(), true));
}

#[test]
fn spans_are_a_tree_below_the_callers() {
    let (tracer, ended) = exporting(0);
    let mut trace = tracer.trace(Some(caller()), beginning).unwrap();
    let (first, first_span) = call(&mut trace, 1, Verb::Try);
    first_span.unwrap().end(Reply::Vote(Vote::Yes), "");
    trace.decided(Decision::Commit);
    let (second, second_span) = call(&mut trace, 1, Verb::Confirm);
    second_span.unwrap().end(Reply::Ended(Outcome::Committed), "");
    trace.ended(Outcome::Committed, "");
    assert_eq!(ended.names(), ["try", "phase one", "confirm", "phase two", "transaction"]);
    let id = |name: &str| ended.find(name).span_context.span_id();
    let parent = |name: &str| ended.find(name).parent_span_id;
    assert_eq!(parent("transaction").to_string(), caller().span_id().to_string());
    assert_eq!((parent("phase one"), parent("phase two")), (id("transaction"), id("transaction")));
    assert_eq!((parent("try"), parent("confirm")), (id("phase one"), id("phase two")));
    for (name, passed) in [("try", first), ("confirm", second)] {
        assert_eq!(passed.span_id().to_string(), id(name).to_string(), "the branch is a child of its call");
        assert_eq!((passed.trace_id(), passed.tracestate()), (caller().trace_id(), "a=1"));
        assert!(passed.is_sampled());
    }
    for span in &*ended.0.lock().unwrap() {
        assert_eq!(span.span_context.trace_id().to_string(), caller().trace_id().to_string());
        assert_eq!(span.span_context.trace_state().header(), "a=1");
        assert_eq!(told(span, "concord.gtid"), Some(gtid().to_string()), "{}", span.name);
        assert_eq!(span.status, Status::Unset, "{}", span.name);
    }
    let confirm = ended.find("confirm");
    let what = ["branch_id", "participant", "action", "verb", "repeated", "outcome"]
        .map(|name| told(&confirm, &format!("concord.{name}")).unwrap());
    assert_eq!(what, ["1", "http://shop", "reserve", "confirm", "false", "committed"]);
    let transaction = ended.find("transaction");
    assert_eq!(told(&transaction, "concord.outcome").as_deref(), Some("committed"));
    assert_eq!(told(&transaction, "concord.name").as_deref(), Some("order"));
    assert_eq!(told(&transaction, "concord.recovered"), None);
    assert_eq!(transaction.events.events[0].name, "decided");
}

#[test]
fn what_goes_wrong_is_an_error_and_a_refusal_is_an_answer() {
    let (tracer, ended) = exporting(1_000_000);
    let mut trace = tracer.trace(None, beginning).unwrap();
    call(&mut trace, 1, Verb::Try).1.unwrap().end(Reply::Vote(Vote::No), "sold out");
    call(&mut trace, 2, Verb::Prepare)
        .1
        .unwrap()
        .end(Reply::Failed { maybe_arrived: true }, "UNAVAILABLE: busy");
    trace.decided(Decision::Rollback);
    trace.ended(Outcome::RolledBack, "branch 1 refused: sold out");
    let refused = ended.find("try");
    assert_eq!(
        (refused.status.clone(), told(&refused, "concord.error").as_deref()),
        (Status::Unset, Some("sold out"))
    );
    assert_eq!(told(&refused, "concord.outcome").as_deref(), Some("no"));
    assert_eq!(ended.find("prepare").status, Status::error("UNAVAILABLE: busy"));
    assert_eq!(ended.find("transaction").status, Status::error("branch 1 refused: sold out"));
}

#[test]
fn the_caller_decides_whether_its_trace_is_exported_and_the_ratio_about_others() {
    let unsampled = TraceContext::parse(&CALLER.replace("-01", "-00"), "").unwrap();
    let (tracer, ended) = exporting(1_000_000);
    let mut trace = tracer.trace(Some(unsampled), beginning).unwrap();
    let (passed, span) = call(&mut trace, 1, Verb::Try);
    span.unwrap().end(Reply::Vote(Vote::Yes), "");
    trace.ended(Outcome::Committed, "");
    assert_eq!((ended.names().len(), passed.is_sampled()), (0, false));
    assert_eq!(passed.trace_id(), caller().trace_id());

    let (tracer, ended) = exporting(0);
    let mut trace = tracer.trace(None, beginning).unwrap();
    let (passed, _) = call(&mut trace, 1, Verb::Try);
    trace.ended(Outcome::Committed, "");
    assert_eq!(
        (ended.names().len(), passed.is_sampled()),
        (0, false),
        "participants are told, and export nothing too"
    );

    let (tracer, ended) = exporting(500_000);
    for _ in 0..1_000 {
        tracer.trace(None, beginning).unwrap().ended(Outcome::Committed, "");
    }
    let exported = ended.names().len();
    assert!((350..650).contains(&exported), "{exported} of 1000");
}

#[test]
fn what_was_begun_before_a_restart_says_so_and_what_is_left_behind_has_no_outcome() {
    let (tracer, ended) = exporting(1_000_000);
    let mut trace = tracer.trace(None, || Beginning { begun_at: None, ..beginning() }).unwrap();
    let (_, span) = call(&mut trace, 1, Verb::Commit);
    drop((trace, span));
    let transaction = ended.find("transaction");
    assert_eq!(told(&transaction, "concord.recovered").as_deref(), Some("true"));
    assert_eq!((ended.names().len(), told(&transaction, "concord.outcome")), (3, None));
}
