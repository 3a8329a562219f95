//! Drives live transactions: carries out what the protocol asks for. The duties are numbered in
//! [`concord_protocol`]; this is the only place that calls the store and the participants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_proto::TraceContext;
use concord_protocol::{
    BranchId, BranchState, Cause, Decision, Effect, Event, Gtid, Milestone, Millis, Outcome, Record, Refusal,
    Reply, Timer, Verb,
};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock::Clock;
use super::failure::Failure;
use super::live::{Answer, Live, LiveState};
use super::participants::{BranchCall, CallResult, Participants};
use super::rates::Rates;
use super::record::to_store;
use super::registry::Registry;
use super::settings::Settings;
use super::timers::{TimerKey, Timers};
use crate::metrics::{Label as _, Metrics};
use crate::store::{Durability, Entry, Store, StoreError, UnixMillis};
use crate::trace::{Beginning, CallSpan, Trace, Tracer};

/// An append whose transaction leaves memory once it can be read back from the store.
pub(crate) type Leaving = (Gtid, BoxFuture<'static, Result<(), StoreError>>);

/// What every live transaction shares.
pub(crate) struct Driver {
    /// How it behaves from the next event on.
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) participants: Arc<dyn Participants>,
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    pub(crate) timers: Timers,
    pub(crate) leaving: mpsc::UnboundedSender<Leaving>,
    pub(crate) failed: Failure,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
    /// Transactions that only wait for votes.
    pub(crate) voting: AtomicUsize,
    pub(crate) rates: Rates,
}

impl Driver {
    /// Steps a transaction.
    pub(crate) fn step(self: &Arc<Self>, live: &Arc<Live>, event: Event) -> Result<(), Refusal> {
        self.step_locked(live, &mut live.lock(), event)
    }

    /// Steps a transaction whose lock the caller holds.
    pub(crate) fn step_locked(
        self: &Arc<Self>,
        live: &Arc<Live>,
        state: &mut LiveState,
        event: Event,
    ) -> Result<(), Refusal> {
        let awaits_votes = state.transaction.awaits_votes();
        let awaited = matches!(event, Event::TimerFired(Timer::Deadline)).then(|| state.awaited());
        let effects = state.transaction.step(event, self.clock.now())?;
        self.count_voting(awaits_votes, state);
        if effects.is_empty() {
            return Ok(());
        }
        state.steps += 1;
        state.explain(&live.header, awaited);
        // All of a step's records go first and together: nothing it tells or calls can overtake them in the log.
        self.append(live, state, &effects);
        for effect in effects {
            match effect {
                Effect::Append { record: Record::BranchEnded { heuristic: true, .. }, .. } => {
                    self.metrics.engine.heuristic.inc();
                }
                Effect::Append { .. } => {}
                Effect::Call { branch, verb, repeated } => self.call(live, state, branch, verb, repeated),
                Effect::SetTimer(timer) => self.set_timer(live, timer, state),
                Effect::Tell(milestone) => self.tell(live, state, milestone),
                Effect::Alarm(branch) => self.alarm(live, state, branch),
            }
        }
        live.changed.notify_waiters();
        Ok(())
    }

    /// Tells the store how many decisions are about to come. `awaited`: whether votes were awaited before the step.
    fn count_voting(&self, awaited: bool, state: &mut LiveState) {
        let voting = match (awaited, state.transaction.awaits_votes()) {
            (false, true) => {
                state.phase_since = Some(Instant::now());
                self.voting.fetch_add(1, Ordering::Relaxed) + 1
            }
            (true, false) => self.voting.fetch_sub(1, Ordering::Relaxed) - 1,
            _ => return,
        };
        self.store.expect(voting);
    }

    fn append(self: &Arc<Self>, live: &Arc<Live>, state: &LiveState, effects: &[Effect]) {
        let (at, context) = (self.clock.wall(), state.context(&live.header));
        let (mut entries, mut forced, mut ended) = (Vec::new(), None, false);
        for effect in effects {
            if let Effect::Append { record, forced: this } = effect {
                entries.push(Entry { gtid: live.gtid, at, record: to_store(record, &context) });
                // A step forces one record at the most.
                forced = forced.or(*this);
                ended |= matches!(record, Record::Ended(_));
            }
        }
        if entries.is_empty() {
            return;
        }
        let durability = if forced.is_some() { Durability::Forced } else { Durability::Lazy };
        crash_point!("coordinator/log-before", each super::crash::records(effects));
        // Queued here, under the transaction's lock: the log keeps the order of the steps.
        let written = self.store.append(entries, durability);
        crash_point!("coordinator/log-queued", each super::crash::records(effects));
        if let Some(record) = forced {
            let queued = Instant::now();
            let (driver, live) = (Arc::clone(self), Arc::clone(live));
            tokio::spawn(async move {
                let written = written.await;
                crash_point!("coordinator/log-durable", super::crash::forced(record));
                match written {
                    Ok(()) => {
                        driver.metrics.engine.forced.observe(queued.elapsed().as_secs_f64());
                        driver.step_or_log(&live, Event::Logged(record));
                    }
                    Err(error) => return driver.fail(error),
                }
                if ended {
                    driver.registry.remove(live.gtid);
                }
            });
        } else if ended {
            // The receiver lives as long as the engine.
            let _ = self.leaving.send((live.gtid, written));
        }
    }

    /// The store takes no more records: whoever waits for an outcome is told, and the process ends.
    pub(crate) fn fail(&self, error: StoreError) {
        self.failed.report(error);
    }

    fn call(
        self: &Arc<Self>,
        live: &Arc<Live>,
        state: &mut LiveState,
        id: BranchId,
        verb: Verb,
        repeated: bool,
    ) {
        let Some(spec) = state.spec(id).cloned() else { return };
        if verb.is_phase_two() {
            state.ending_since.get_or_insert(self.clock.now());
        }
        let mut payload = Bytes::new();
        if let Some(extra) = state.extra(id) {
            extra.retry_at = None;
            if verb.takes_payload() {
                payload = extra.payload.clone();
            } else if matches!(verb, Verb::Commit | Verb::Rollback) {
                // From phase two of XA on nobody asks for it again.
                extra.payload = Bytes::new();
            }
        }
        let remaining = state.transaction.options().deadline.minus(self.clock.now());
        let mut call = BranchCall {
            gtid: live.gtid,
            branch: id,
            participant: spec.participant,
            verb,
            action: spec.action,
            payload,
            repeated,
            remaining_ms: u32::try_from(remaining.0).unwrap_or(u32::MAX),
            trace: None,
        };
        let mut span = None;
        if let Some(trace) = self.trace(live, state, None) {
            let (context, own) = trace.call((id, verb), &call.participant, &call.action, repeated);
            (call.trace, span) = (Some(context), own);
        }
        self.metrics.engine.calls.at(verb).inc();
        let answer = self.participants.call(call);
        let (driver, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            let result = answer.await;
            driver.answered(&live, id, verb, result, span);
        });
    }

    /// The trace of a transaction. One that has none belongs to the caller's from now on; and to one of its own, where spans
    /// are exported.
    pub(crate) fn trace<'a>(
        &self,
        live: &Live,
        state: &'a mut LiveState,
        caller: Option<TraceContext>,
    ) -> Option<&'a mut Trace> {
        if state.trace.is_none() {
            let begun_since = state.begun_since;
            let trace = self.tracer.trace(caller, || Beginning {
                gtid: live.gtid,
                name: &live.header.name,
                begun_at: begun_since.map(|begun| SystemTime::now() - begun.elapsed()),
            });
            state.trace = trace.map(Box::new);
        }
        state.trace.as_deref_mut()
    }

    fn answered(
        self: &Arc<Self>,
        live: &Arc<Live>,
        branch: BranchId,
        verb: Verb,
        result: CallResult,
        span: Option<CallSpan>,
    ) {
        crash_point!("coordinator/reply", format!("{verb:?}"));
        let CallResult { reply, reason, payload } = result;
        if let Some(span) = span {
            span.end(reply, &reason);
        }
        let mut state = live.lock();
        if matches!(reply, Reply::Failed { .. }) {
            self.metrics.engine.calls_failed.at(verb).inc();
            tracing::debug!(gtid = %live.gtid, trace_id = state.trace_id(), branch_id = %branch, participant = state.spec(branch).map(|spec| &*spec.participant), verb = verb.value(), reason = &*reason, "a call failed");
        }
        if state.is_notable(branch, reply) {
            state.note(Answer { at: self.clock.wall(), branch, verb, reply, reason: reason.as_str().into() });
        }
        // What comes after the decision does not take the place of what has led to it.
        let is_late = state.told.is_some() && !verb.is_phase_two();
        if let Some(extra) = state.extra(branch) {
            if !reason.is_empty() && (!is_late || extra.last_error.is_empty()) {
                extra.last_error = reason.into();
            }
            if !payload.is_empty() {
                extra.reply = payload;
            }
        }
        self.measure_answer(&state, branch, verb, reply);
        let failed =
            |state: &LiveState| state.transaction.branch(branch).map_or(0, |branch| branch.attempts());
        let failed_before = failed(&state);
        let event = Event::Reply { branch, verb, reply };
        if let Err(refusal) = self.step_locked(live, &mut state, event) {
            tracing::error!(
                gtid = %live.gtid, trace_id = state.trace_id(), branch_id = %branch, verb = verb.value(), %refusal,
                "a reply was refused"
            );
        }
        // Those too that answered something else than was asked.
        let has_failed = failed(&state) > failed_before;
        if let Some(extra) = state.extra(branch) {
            extra.failed_calls += u32::from(has_failed);
        }
    }

    fn set_timer(&self, live: &Live, timer: Timer, state: &mut LiveState) {
        let (at, key) = match timer {
            Timer::Deadline => (state.transaction.options().deadline, TimerKey::Deadline),
            Timer::Retry { branch, attempts } => {
                let pause = Millis::from(self.settings.load().backoff.pause(attempts, self.clock.chance()));
                if let Some(extra) = state.extra(branch) {
                    extra.retry_at = Some(UnixMillis(self.clock.wall().0.saturating_add(pause.0)));
                }
                (self.clock.now().plus(pause), TimerKey::Retry(branch, attempts))
            }
        };
        self.timers.set((at, live.gtid, key));
    }

    fn tell(&self, live: &Live, state: &mut LiveState, milestone: Milestone) {
        match milestone {
            Milestone::Begun => state.begun = true,
            // Whoever waits looks at the branch itself.
            Milestone::Joined(_) => {}
            Milestone::Decided(decision) => {
                state.told = Some(decision);
                state.decided_at = Some(self.clock.wall());
                self.measure_decision(state, decision);
                if let Some(trace) = self.trace(live, state, None) {
                    trace.decided(decision);
                }
                if decision == Decision::Rollback {
                    tracing::debug!(gtid = %live.gtid, trace_id = state.trace_id(), reason = &*state.reason, "rolling back");
                }
            }
            Milestone::Completed => {
                state.completed = true;
                state.ended_at = Some(self.clock.wall());
                self.timers.cancel(&(state.transaction.options().deadline, live.gtid, TimerKey::Deadline));
                self.measure_end(state);
                self.end_trace(state);
            }
        }
    }

    fn end_trace(&self, state: &mut LiveState) {
        let Some(outcome) = state.told.map(Outcome::from) else { return };
        let error = match state.transaction.cause() {
            _ if state.transaction.is_heuristic() => "a branch ended against the decision",
            None | Some(Cause::Requested) => "",
            Some(_) => &state.reason,
        };
        if let Some(trace) = &mut state.trace {
            trace.ended(outcome, error);
        }
    }

    fn alarm(&self, live: &Live, state: &mut LiveState, branch: BranchId) {
        let branch_state = state.transaction.branch(branch).map(|branch| branch.state());
        let decision = state.told.map(|decision| Outcome::from(decision).value());
        let participant = state.spec(branch).map(|spec| spec.participant.to_string());
        if !branch_state.is_some_and(BranchState::has_ended) {
            self.metrics.engine.refused.inc();
            let reason = state.extra(branch).map(|extra| extra.last_error.to_string());
            tracing::error!(
                gtid = %live.gtid, trace_id = state.trace_id(), branch_id = %branch, participant, decision, reason,
                "REFUSED: a TCC branch will not do what was decided and waits for an operator (concord tx retry, concord tx resolve)"
            );
            return;
        }
        let outcome = match branch_state {
            Some(BranchState::Committed) => Some(Outcome::Committed.value()),
            Some(BranchState::RolledBack) => Some(Outcome::RolledBack.value()),
            _ => None,
        };
        tracing::error!(
            gtid = %live.gtid, trace_id = state.trace_id(), branch_id = %branch, participant, outcome, decision,
            "HEURISTIC OUTCOME: a branch ended against the decision and waits for an operator (concord tx resolve)"
        );
    }

    /// Steps where a refusal would be a defect of ours.
    pub(crate) fn step_or_log(self: &Arc<Self>, live: &Arc<Live>, event: Event) {
        if let Err(refusal) = self.step(live, event) {
            let trace_id = live.lock().trace_id();
            tracing::error!(gtid = %live.gtid, trace_id, ?event, %refusal, "an internal event was refused");
        }
    }

    /// Fires timers, until the engine is dropped.
    pub(crate) async fn run_timers(self: Arc<Self>) {
        loop {
            for (_, gtid, key) in self.timers.next_due(&self.clock).await {
                if let Some(live) = self.registry.get(gtid) {
                    self.step_or_log(&live, Event::TimerFired(key.into()));
                }
            }
        }
    }

    /// Lets ended transactions leave memory, once the store can show them. Appends are done in the order in
    /// which they were made, so waiting for one after the other loses no time.
    pub(crate) async fn run_leaving(self: Arc<Self>, mut leaving: mpsc::UnboundedReceiver<Leaving>) {
        while let Some((gtid, written)) = leaving.recv().await {
            match written.await {
                Ok(()) => self.registry.remove(gtid),
                Err(error) => self.fail(error),
            }
        }
    }

    /// Tells a live transaction that the sweeper has ended one of its branches.
    pub(crate) fn swept(self: &Arc<Self>, gtid: Gtid, branch: BranchId, outcome: Outcome) {
        if let Some(live) = self.registry.get(gtid) {
            self.step_or_log(&live, Event::Swept { branch, outcome });
        }
    }

    /// How long until `at`.
    pub(crate) fn until(&self, at: Millis) -> Duration {
        at.minus(self.clock.now()).into()
    }
}
