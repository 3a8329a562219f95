//! The world around the core: its driver, its log, the network, and the participants.

use concord_protocol::{
    BranchId, BranchState, Decision, Effect, Event, Kind, Milestone, Millis, Outcome, Record, Refusal, Reply,
    State, Timer, Transaction, Verb,
};

use crate::action::Action;
use crate::claim::Claim;
use crate::configuration::{Configuration, DEADLINE, Faults, Mode};
use crate::log::Log;
use crate::message::{Index, Message, branch_id, index_of};
use crate::mutant::Mutant;
use crate::participant::{Choice, Participant, Rm};

/// More than any transaction here needs; one that writes more goes round in circles.
const RECORDS_MAX: usize = 40;

/// Everything there is, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct World {
    /// None: unknown to a coordinator that has lost its log, so rolled back for ever (presumed abort).
    pub(crate) transaction: Option<Transaction>,
    pub(crate) participants: [Participant; 3],
    /// How many of them take part in this configuration.
    pub(crate) size: u8,
    /// How many have asked to join, or came with the request.
    pub(crate) registered: u8,
    pub(crate) network: Vec<Message>,
    pub(crate) timers: Vec<Timer>,
    pub(crate) log: Log,
    /// What anybody has been told. Not told: that a transaction has committed in which nobody wrote anything, for
    /// nothing depends on it.
    pub(crate) told: Option<Decision>,
    /// Faults that may still happen.
    pub(crate) left: Faults,
    pub(crate) broken: Option<Claim>,
    /// When it is to be read: what was done, step by step.
    pub(crate) transcript: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(rules: &Configuration) -> Self {
        let driven = rules.is_driven();
        let size = u8::try_from(rules.kinds.len()).unwrap_or(u8::MAX);
        let kind = |index| rules.kinds.get(index).copied().unwrap_or(Kind::Xa);
        let mut world = World {
            transaction: Some(Transaction::with_branches(
                rules.options(),
                rules.kinds.iter().copied().filter(|_| driven),
            )),
            participants: [0, 1, 2].map(|index| Participant::new(kind(index), driven)),
            size,
            registered: if driven { size } else { 0 },
            network: Vec::new(),
            timers: vec![Timer::Deadline],
            log: Log::default(),
            told: None,
            left: rules.faults,
            broken: None,
            transcript: None,
        };
        match rules.mode {
            Mode::Initiator => {}
            Mode::StaysOpen => world.step(Event::Begin, rules),
            Mode::EarlyVote | Mode::Strict => world.step(Event::Execute, rules),
        }
        world
    }

    pub(crate) fn indices(&self) -> impl Iterator<Item = Index> + use<> {
        0..self.size
    }

    pub(crate) fn participant(&self, index: Index) -> &Participant {
        &self.participants[usize::from(index)]
    }

    fn participant_mut(&mut self, index: Index) -> &mut Participant {
        &mut self.participants[usize::from(index)]
    }

    /// What may come of a message's arrival.
    pub(crate) fn choices(&self, message: Message) -> &'static [Choice] {
        let participant = self.participant(message.participant());
        match message {
            Message::Call { verb, repeated, .. } => {
                participant.choices(verb, repeated, self.left.refusals > 0)
            }
            Message::Start { .. } => participant.choices_at_start(),
            Message::Reply { .. } | Message::Report { .. } => &[Choice::Yes],
        }
    }

    pub(crate) fn is_in_doubt(&self, index: Index) -> bool {
        let participant = self.participant(index);
        participant.kind == Kind::Xa && participant.rm == Rm::Prepared
    }

    /// Lets it happen.
    pub(crate) fn apply(&mut self, action: Action, rules: &Configuration) {
        match action {
            Action::Register => {
                let kind = self.participant(self.registered).kind;
                self.registered += 1;
                self.step(Event::Register(kind), rules);
            }
            Action::Deliver(message, choice) => self.deliver(message, choice, rules),
            Action::NeverSent(message) => {
                self.left.lost -= 1;
                self.take(message);
                self.fail(message, false, rules);
            }
            Action::GiveUp(message) => {
                self.left.lost -= 1;
                self.take(message);
                self.network.push(abandoned(message));
                if let Message::Call { to, verb: Verb::Work | Verb::WorkAndPrepare, .. } = message {
                    self.participant_mut(to).given_up = true;
                }
                self.fail(message, true, rules);
            }
            Action::Duplicate(message) => {
                self.left.duplicated -= 1;
                self.take(message);
                self.network.extend([doubled(message), abandoned(message)]);
            }
            Action::Sync => self.sync(rules),
            Action::Fire(timer) => {
                self.timers.retain(|other| *other != timer);
                self.step(Event::TimerFired(timer), rules);
            }
            Action::Commit => self.step(Event::Commit, rules),
            Action::Rollback => self.step(Event::Rollback, rules),
            Action::Retry => self.step(Event::RetryNow, rules),
            Action::Park => {
                self.left.orders -= 1;
                self.step(Event::Park, rules);
            }
            Action::Resolve(index, how) => self.resolve(index, how, rules),
            Action::Crash { kept } => self.crash(kept, rules),
            Action::CrashParticipant(index) => {
                self.left.participant_crashes -= 1;
                self.participant_mut(index).crash(rules.mutant);
            }
            Action::Inquire(index) => self.inquire(index, rules),
            Action::Sweep(index) => self.sweep(index, rules),
            Action::Expire(index) => self.participant_mut(index).expire(),
        }
        self.forget_what_is_moot(rules);
        self.check();
    }

    fn take(&mut self, message: Message) {
        if let Some(place) = self.network.iter().position(|other| *other == message) {
            self.network.swap_remove(place);
        }
    }

    fn deliver(&mut self, message: Message, choice: Choice, rules: &Configuration) {
        self.take(message);
        match message {
            Message::Call { to, verb, repeated, orphan, .. } => {
                self.left.refusals -= u8::from(choice == Choice::Refuse);
                let reply = self.participant_mut(to).answer(verb, repeated, choice, rules.mutant);
                if !orphan {
                    self.network.push(Message::Reply { from: to, verb, reply });
                }
            }
            Message::Reply { from, verb, reply } => {
                self.step(Event::Reply { branch: branch_id(from), verb, reply }, rules);
            }
            Message::Start { to } => {
                let vote = self.participant_mut(to).start(choice, rules.mutant);
                self.network.extend(vote.map(|vote| Message::Report { from: to, vote }));
            }
            Message::Report { from, vote } => {
                self.step(Event::Voted { branch: branch_id(from), vote }, rules);
            }
        }
    }

    fn fail(&mut self, message: Message, maybe_arrived: bool, rules: &Configuration) {
        if let Message::Call { to, verb, .. } = message
            && rules.mutant != Some(Mutant::LosesFailures)
        {
            let reply = Reply::Failed { maybe_arrived };
            self.step(Event::Reply { branch: branch_id(to), verb, reply }, rules);
        }
    }

    // ---- the driver ----

    /// Steps the core, and does what it asks for, in order.
    fn step(&mut self, event: Event, rules: &Configuration) {
        let Some(transaction) = &mut self.transaction else {
            // Refused: rolled back.
            return self.tell(Decision::Rollback);
        };
        let before = transaction.decision();
        // Only the deadline's timer looks at the clock; it may fire early, which does nothing.
        let now = if event == Event::TimerFired(Timer::Deadline) { DEADLINE } else { Millis(0) };
        let effects = match transaction.step(event, now) {
            Ok(effects) => effects,
            Err(Refusal::AlreadyRolledBack) => return self.tell(Decision::Rollback),
            Err(Refusal::AlreadyCommitted) if !self.nobody_wrote() => return self.tell(Decision::Commit),
            Err(_) => return,
        };
        if before.is_some() && transaction.decision() != before {
            self.fail_claim(Claim::OneDecision);
        }
        for effect in effects {
            self.perform(effect, rules);
        }
    }

    fn perform(&mut self, effect: Effect, rules: &Configuration) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(format!("{effect:?}"));
        }
        match effect {
            Effect::Append { record, forced } => {
                let commit = is_commit(&record);
                self.note_what_is_parked(&record);
                self.log.append(record, forced);
                if commit && rules.mutant == Some(Mutant::TellsBeforeDurable) {
                    self.tell(Decision::Commit);
                }
            }
            Effect::Call { branch, verb, repeated } => {
                self.check_call(branch, verb, repeated, rules);
                let to = index_of(branch);
                self.network.push(Message::Call { to, verb, repeated, orphan: false, doubled: false });
            }
            Effect::SetTimer(Timer::Retry { .. }) if rules.mutant == Some(Mutant::ForgetsTimers) => {}
            Effect::SetTimer(timer) if self.timers.contains(&timer) => {}
            Effect::SetTimer(timer) => self.timers.push(timer),
            Effect::Tell(Milestone::Begun) => {}
            Effect::Tell(Milestone::Joined(branch)) => {
                let index = index_of(branch);
                self.check_enlisted(branch, rules);
                self.participant_mut(index).joined = true;
                self.network.push(Message::Start { to: index });
            }
            Effect::Tell(Milestone::Decided(decision)) => self.tell_decision(decision, rules),
            Effect::Tell(Milestone::Completed) => self.check_completed(),
            Effect::Alarm(branch) => {
                let participant = self.participant(index_of(branch));
                if !participant.refused && !participant.forced {
                    self.fail_claim(Claim::NoFalseAlarm);
                }
            }
        }
    }

    fn note_what_is_parked(&mut self, record: &Record) {
        match record {
            Record::BranchParked(branch) => self.participant_mut(index_of(*branch)).parked = true,
            Record::Retried => self.participants.iter_mut().for_each(|one| one.parked = false),
            _ => {}
        }
    }

    fn check_completed(&mut self) {
        let state = self.transaction.as_ref().map(Transaction::state);
        if state == Some(State::Committed) && !self.indices().all(|index| self.needs_no_commit(index)) {
            self.fail_claim(Claim::LastEnd);
        }
    }

    fn check_call(&mut self, branch: BranchId, verb: Verb, repeated: bool, rules: &Configuration) {
        let Participant { parked, given_up, .. } = *self.participant(index_of(branch));
        if parked {
            self.fail_claim(Claim::LeftAlone);
        }
        if given_up && !repeated && matches!(verb, Verb::Work | Verb::WorkAndPrepare) {
            self.fail_claim(Claim::RepeatSaysSo);
        }
        let committed = self.log.is_durable(is_commit);
        let delegated = self.log.is_durable(|record| *record == Record::Delegated(branch));
        match verb {
            Verb::Commit | Verb::Confirm if !committed => self.fail_claim(Claim::DecisionFirst),
            Verb::WorkAndCommit | Verb::CommitOnePhase if !delegated => {
                self.fail_claim(Claim::DecisionFirst);
            }
            Verb::Rollback | Verb::Cancel if committed => self.fail_claim(Claim::NoChangeOfMind),
            Verb::Try => self.check_enlisted(branch, rules),
            _ => {}
        }
    }

    /// What a Try reserves must be cancelled even if everything else dies.
    fn check_enlisted(&mut self, id: BranchId, rules: &Configuration) {
        let enlisted = self.log.is_durable(|record| match record {
            Record::Begun => rules.is_driven(),
            Record::Registered { branch, .. } => *branch == id,
            _ => false,
        });
        let must_be = self.participant(index_of(id)).kind == Kind::Tcc || rules.mode == Mode::StaysOpen;
        if must_be && !enlisted {
            self.fail_claim(Claim::BranchFirst);
        }
    }

    fn tell_decision(&mut self, decision: Decision, rules: &Configuration) {
        let one_phase = self.log.is_durable(|record| matches!(record, Record::Delegated(_)));
        if decision == Decision::Commit {
            if self.nobody_wrote() {
                return;
            }
            let durable = self.log.is_durable(is_commit) || one_phase && self.one_has_committed();
            if !durable && rules.mutant != Some(Mutant::TellsBeforeDurable) {
                self.fail_claim(Claim::DecisionFirst);
            }
        }
        self.tell(decision);
    }

    /// Whoever is told one thing now must never be told the other.
    fn tell(&mut self, decision: Decision) {
        match (self.told, decision) {
            (Some(Decision::Commit), Decision::Rollback) => self.fail_claim(Claim::Durability),
            (Some(Decision::Rollback), Decision::Commit) => self.fail_claim(Claim::NoGhost),
            _ => self.told = Some(decision),
        }
    }

    /// Whether every branch has only read: then the outcome is nothing to anybody.
    fn nobody_wrote(&self) -> bool {
        match &self.transaction {
            Some(transaction) => transaction.branches().all(|(id, _)| self.has_only_read(index_of(id))),
            None => false,
        }
    }

    /// Whether a branch has only read, and the decision does not count on it. The only branch commits in one phase:
    /// nobody counts its vote.
    fn has_only_read(&self, index: Index) -> bool {
        let id = branch_id(index);
        let told = |record: &Record| match record {
            Record::Decided { decision: Decision::Commit, branches, .. } => branches.contains(&id),
            _ => false,
        };
        self.is_counted_as_reader(index)
            || self.participant(index).read_only && !self.log.records.iter().any(told)
    }

    /// Whether the core has counted a vote of "read-only".
    fn is_counted_as_reader(&self, index: Index) -> bool {
        let branch = self.transaction.as_ref().and_then(|transaction| transaction.branch(branch_id(index)));
        branch.is_some_and(|branch| branch.state() == BranchState::ReadOnly)
    }

    fn one_has_committed(&self) -> bool {
        self.indices().any(|index| self.participant(index).rm == Rm::Committed)
    }

    fn sync(&mut self, rules: &Configuration) {
        let synced = self.log.synced;
        if let Some(forced) = self.log.sync() {
            if rules.mutant == Some(Mutant::AckBeforeSync) {
                self.log.synced = synced;
            }
            self.step(Event::Logged(forced), rules);
        }
    }

    // ---- crashes ----

    /// kill -9 of the coordinator, and its restart. Calls under way go on; nobody waits for them any more.
    fn crash(&mut self, kept: usize, rules: &Configuration) {
        self.left.crashes -= 1;
        self.log.crash(kept);
        self.network.retain(|message| !matches!(message, Message::Reply { .. }));
        for message in &mut self.network {
            *message = abandoned(*message);
        }
        self.timers.clear();
        self.participants.iter_mut().for_each(|one| (one.parked, one.given_up) = (false, false));
        self.log.records.clone().iter().for_each(|record| self.note_what_is_parked(record));
        if self.log.records.is_empty() {
            self.transaction = None;
            // Whoever asks from now on hears so.
            return self.tell(if rules.mutant == Some(Mutant::PresumesCommit) {
                Decision::Commit
            } else {
                Decision::Rollback
            });
        }
        let kinds = rules.kinds.iter().copied().filter(|_| rules.is_driven());
        let records = self.log.records.iter().cloned();
        match Transaction::recover(rules.options(), kinds, records) {
            Err(_) => self.fail_claim(Claim::OwnLog),
            Ok(transaction) => {
                let decision = transaction.decision();
                if rules.mode == Mode::StaysOpen {
                    // Those who have no answer ask again to join.
                    self.registered = u8::try_from(transaction.branches().len()).unwrap_or(u8::MAX);
                }
                self.transaction = Some(transaction);
                if let Some(decision) = decision.filter(|_| !self.nobody_wrote()) {
                    self.tell(decision);
                }
                self.step(Event::Resume, rules);
            }
        }
    }

    // ---- recovery by participants, and the sweeper ----

    /// What the coordinator says when asked about a branch in doubt: of one that only read, that it is rolled back,
    /// whatever the others do.
    pub(crate) fn verdict(&self, index: Index, rules: &Configuration) -> Option<Decision> {
        let guess = Some(Decision::Rollback).filter(|_| rules.mutant == Some(Mutant::GuessesWhenAsked));
        let only_read = self.is_counted_as_reader(index) && rules.mutant != Some(Mutant::AnswersForAll);
        match &self.transaction {
            Some(transaction) => match transaction.decision() {
                Some(_) if only_read => Some(Decision::Rollback),
                decision => decision.or(guess),
            },
            None if rules.mutant == Some(Mutant::PresumesCommit) => Some(Decision::Commit),
            None => Some(Decision::Rollback),
        }
    }

    fn inquire(&mut self, index: Index, rules: &Configuration) {
        self.left.sweeps = self.left.sweeps.saturating_sub(1);
        let Some(verdict) = self.verdict(index, rules) else { return };
        // Of one that only read, the answer says nothing about the transaction.
        if !self.is_counted_as_reader(index) {
            self.tell(verdict);
        }
        self.end_on_resource(index, verdict, rules);
    }

    fn end_on_resource(&mut self, index: Index, decision: Decision, rules: &Configuration) -> Reply {
        let verb = match (self.participant(index).kind, decision) {
            (Kind::Xa, Decision::Commit) => Verb::Commit,
            (Kind::Xa, Decision::Rollback) => Verb::Rollback,
            (Kind::Tcc, Decision::Commit) => Verb::Confirm,
            (Kind::Tcc, Decision::Rollback) => Verb::Cancel,
        };
        self.participant_mut(index).answer(verb, false, Choice::Yes, rules.mutant)
    }

    fn sweep(&mut self, index: Index, rules: &Configuration) {
        self.left.sweeps -= 1;
        let Some(decision) = self.verdict(index, rules) else { return };
        let branch = branch_id(index);
        match (decision, self.end_on_resource(index, decision, rules)) {
            // No trace of a branch to be committed: that the participant itself must say.
            (Decision::Commit, Reply::Ended(Outcome::RolledBack)) => {}
            (_, Reply::Ended(outcome)) => self.step(Event::Swept { branch, outcome }, rules),
            _ => {}
        }
    }

    // ---- operators ----

    /// Whether it waits for an operator. Once it has ended it is history, and takes no orders.
    pub(crate) fn is_parked(&self) -> bool {
        self.transaction.as_ref().is_some_and(|one| one.is_parked() && !one.state().is_terminal())
    }

    /// Whether the core lets an operator say how a branch has ended.
    pub(crate) fn takes_orders(&self) -> bool {
        let delegated = self.log.is_durable(|record| matches!(record, Record::Delegated(_)));
        self.transaction.as_ref().is_some_and(|transaction| transaction.decision().is_some() || delegated)
    }

    /// An operator ends a branch by hand, by the participant's own means, and tells the coordinator how it ended.
    /// That there is nothing to commit is no proof that there will not be: about that he says nothing.
    fn resolve(&mut self, index: Index, how: Decision, rules: &Configuration) {
        self.left.orders = self.left.orders.saturating_sub(1);
        let before = *self.participant(index);
        let reply = self.end_on_resource(index, how, rules);
        if let Reply::Ended(outcome) = reply
            && (how, outcome) != (Decision::Commit, Outcome::RolledBack)
        {
            let decision = self.transaction.as_ref().and_then(Transaction::decision).map(Outcome::from);
            let against = decision.is_some_and(|decision| decision != outcome);
            self.participant_mut(index).forced |= against && *self.participant(index) != before;
            self.step(Event::Resolve { branch: branch_id(index), outcome }, rules);
        }
    }

    // ---- small things ----

    /// Drops what can make no difference any more, so that worlds that differ only in that are one.
    fn forget_what_is_moot(&mut self, rules: &Configuration) {
        let participants = &self.participants;
        self.network.retain(|message| match *message {
            Message::Call { to, verb, repeated, orphan: true, .. } => {
                let participant = participants[usize::from(to)];
                let mut called = participant;
                called.answer(verb, repeated, Choice::Yes, rules.mutant);
                !participant.is_final() || called != participant
            }
            Message::Start { to } => !participants[usize::from(to)].is_final(),
            _ => true,
        });
        let Some(transaction) = &self.transaction else {
            self.network.retain(|message| !matches!(message, Message::Report { .. }));
            return;
        };
        if transaction.decision().is_none() {
            return;
        }
        let over = transaction.state().is_terminal();
        // Not taken on trust: what still has an effect stays.
        let matters = |event| {
            let mut stepped = transaction.clone();
            stepped.step(event, DEADLINE).is_ok_and(|effects| !effects.is_empty()) || stepped != *transaction
        };
        self.timers.retain(|timer| matters(Event::TimerFired(*timer)));
        self.network.retain(|message| {
            let event = match *message {
                Message::Reply { from, verb, reply } if over || !is_phase_two(verb) => {
                    Event::Reply { branch: branch_id(from), verb, reply }
                }
                Message::Report { from, vote } => Event::Voted { branch: branch_id(from), vote },
                _ => return true,
            };
            matters(event)
        });
    }

    fn check(&mut self) {
        for index in self.indices() {
            let counted = self.is_counted_as_reader(index);
            self.participant_mut(index).counted_as_reader |= counted;
        }
        let everyone = &self.participants[..usize::from(self.size)];
        let committed = everyone.iter().any(Participant::has_committed);
        let lost = || {
            self.indices().any(|index| self.participant(index).cannot_commit() && !self.has_only_read(index))
        };
        let claim = if everyone.iter().any(|one| one.commits + one.undone > 1) {
            Claim::Once
        } else if everyone
            .iter()
            .any(|one| one.fenced && matches!(one.rm, Rm::Worked | Rm::Prepared | Rm::Committed))
        {
            Claim::Tombstone
        } else if everyone.iter().any(|one| one.counted_as_reader && one.has_committed()) {
            Claim::Reader
        } else if committed && lost() {
            Claim::Agreement
        } else if self.told == Some(Decision::Commit) && lost() {
            Claim::Durability
        } else if self.told == Some(Decision::Rollback) && committed {
            Claim::NoGhost
        } else if self.log.records.len() > RECORDS_MAX {
            Claim::Resolution
        } else {
            return;
        };
        self.fail_claim(claim);
    }

    /// Whether a branch of a committed transaction needs nothing more.
    fn needs_no_commit(&self, index: Index) -> bool {
        let one = self.participant(index);
        !one.joined || one.has_committed() || one.forced || self.has_only_read(index)
    }

    /// Whether everything has ended, and ended well.
    pub(crate) fn has_ended_well(&self) -> bool {
        let outcome = self.transaction.as_ref().map_or(State::RolledBack, Transaction::state);
        let all = |good: fn(&Participant) -> bool| self.indices().all(|index| good(self.participant(index)));
        let agreed = match outcome {
            State::Committed => self.indices().all(|index| self.needs_no_commit(index)),
            State::RolledBack => all(|one| !one.has_committed()),
            _ => false,
        };
        agreed
            && !self.is_parked()
            && self.forced_are_on_record()
            && all(|one| !matches!(one.rm, Rm::Worked | Rm::Prepared))
    }

    /// Whether what an operator forced is known to be so. Of a transaction that is unknown nothing is known.
    fn forced_are_on_record(&self) -> bool {
        let Some(transaction) = &self.transaction else { return true };
        transaction
            .branches()
            .all(|(id, branch)| branch.is_heuristic() || !self.participant(index_of(id)).forced)
    }

    fn fail_claim(&mut self, claim: Claim) {
        self.broken = self.broken.or(Some(claim));
    }
}

/// A message that nobody waits for any more.
fn abandoned(message: Message) -> Message {
    match message {
        Message::Call { to, verb, repeated, .. } => {
            Message::Call { to, verb, repeated, orphan: true, doubled: false }
        }
        other => other,
    }
}

fn doubled(message: Message) -> Message {
    match message {
        Message::Call { to, verb, repeated, orphan, .. } => {
            Message::Call { to, verb, repeated, orphan, doubled: !orphan }
        }
        other => other,
    }
}

fn is_commit(record: &Record) -> bool {
    matches!(record, Record::Decided { decision: Decision::Commit, .. })
}

fn is_phase_two(verb: Verb) -> bool {
    matches!(verb, Verb::Commit | Verb::Rollback | Verb::Confirm | Verb::Cancel)
}
