//! The world around the core: its driver, its log, the network, and the participants.

use concord_protocol::{
    BranchId, Decision, Effect, Event, Forced, Kind, Milestone, Millis, Outcome, Record, Refusal, Reply,
    State, Timer, Transaction, Verb,
};

use crate::action::Action;
use crate::claim::Claim;
use crate::configuration::{Configuration, DEADLINE, Faults, Mode};
use crate::coordinator::{Coordinator, Who};
use crate::log::{Acknowledgement, Log};
use crate::message::{Index, Message, branch_id, index_of};
use crate::mutant::Mutant;
use crate::participant::{Choice, Participant, Rm};

/// More than any transaction here needs; one that writes more goes round in circles.
const RECORDS_MAX: usize = 40;

/// Everything there is, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct World {
    pub(crate) owner: Coordinator,
    /// The one before it, which has been taken over and does not know. What it appends is refused.
    pub(crate) late: Option<Coordinator>,
    pub(crate) participants: [Participant; 3],
    /// How many of them take part in this configuration.
    pub(crate) size: u8,
    /// How many have asked to join, or came with the request.
    pub(crate) registered: u8,
    pub(crate) network: Vec<Message>,
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
        let branches = rules.kinds.iter().copied().filter(|_| driven);
        let mut owner = Coordinator::of(Transaction::with_branches(rules.options(), branches));
        owner.timers.push(Timer::Deadline);
        let mut world = World {
            owner,
            late: None,
            participants: [0, 1, 2].map(|index| Participant::new(kind(index), driven)),
            size,
            registered: if driven { size } else { 0 },
            network: Vec::new(),
            log: Log::default(),
            told: None,
            left: rules.faults,
            broken: None,
            transcript: None,
        };
        match rules.mode {
            Mode::Initiator => {}
            Mode::StaysOpen => world.step(Who::Owner, Event::Begin, rules),
            Mode::EarlyVote | Mode::Strict => world.step(Who::Owner, Event::Execute, rules),
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

    /// Those that are there.
    pub(crate) fn coordinators(&self) -> impl Iterator<Item = (Who, &Coordinator)> {
        std::iter::once((Who::Owner, &self.owner)).chain(self.late.iter().map(|late| (Who::Late, late)))
    }

    fn coordinator(&self, who: Who) -> Option<&Coordinator> {
        match who {
            Who::Owner => Some(&self.owner),
            Who::Late => self.late.as_ref(),
        }
    }

    fn coordinator_mut(&mut self, who: Who) -> Option<&mut Coordinator> {
        match who {
            Who::Owner => Some(&mut self.owner),
            Who::Late => self.late.as_mut(),
        }
    }

    fn transaction(&self, who: Who) -> Option<&Transaction> {
        self.coordinator(who)?.transaction.as_ref()
    }

    /// Who would be the next to join at this coordinator.
    pub(crate) fn next_to_register(&self, who: Who) -> Index {
        match (who, self.transaction(who)) {
            // It numbers the branches that it knows of.
            (Who::Late, Some(transaction)) => u8::try_from(transaction.branches().len()).unwrap_or(u8::MAX),
            _ => self.registered,
        }
    }

    /// Whether its registration is on record, and has not been answered.
    pub(crate) fn has_no_answer(&self, index: Index) -> bool {
        let known = self.transaction(Who::Owner).and_then(|transaction| transaction.branch(branch_id(index)));
        !self.participant(index).joined
            && known.is_some_and(|branch| branch.is_enlisted())
            && self.owner.decision() != Some(Decision::Rollback)
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
            Action::Register(who) => {
                let kind = self.participant(self.next_to_register(who)).kind;
                self.registered += u8::from(who == Who::Owner);
                self.step(who, Event::Register(kind), rules);
            }
            Action::RegisterAgain(index) => self.join(index, rules),
            Action::Deliver(message, choice) => self.deliver(message, choice, rules),
            Action::DeliverLate(message) => {
                self.take(message);
                self.report(Who::Late, message, rules);
            }
            Action::NeverSent(message) => {
                self.left.lost -= 1;
                self.take(message);
                self.fail(message, false, rules);
            }
            Action::GiveUp(message) => {
                self.left.lost -= 1;
                self.take(message);
                self.network.push(message.abandoned());
                self.fail(message, true, rules);
            }
            Action::Duplicate(message) => {
                self.left.duplicated -= 1;
                self.take(message);
                self.network.extend([message.doubled(), message.abandoned()]);
            }
            Action::Sync(who) => self.sync(who, rules),
            Action::Fire(who, timer) => self.fire(who, timer, rules),
            Action::Commit(who) => self.step(who, Event::Commit, rules),
            Action::Rollback(who) => self.step(who, Event::Rollback, rules),
            Action::Retry(who) => self.step(who, Event::RetryNow, rules),
            Action::Park(who) => {
                self.left.orders -= 1;
                self.step(who, Event::Park, rules);
            }
            Action::Resolve(who, index, how) => self.resolve(who, index, how, rules),
            Action::Crash { kept } => self.crash(kept, rules),
            Action::TakeOver { kept } => self.take_over(kept, rules),
            Action::LateEnds => self.late_ends(),
            Action::CrashParticipant(index) => {
                self.left.participant_crashes -= 1;
                self.participant_mut(index).crash(rules.mutant);
            }
            Action::Inquire(who, index) => self.inquire(who, index, rules),
            Action::Sweep(who, index) => self.sweep(who, index, rules),
            Action::Expire(index) => self.participant_mut(index).expire(),
        }
        if self.late.as_ref().is_some_and(Coordinator::is_spent) {
            self.late_ends();
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
            Message::Call { to, verb, repeated, caller, .. } => {
                self.left.refusals -= u8::from(choice == Choice::Refuse);
                let reply = self.participant_mut(to).answer(verb, repeated, choice, rules.mutant);
                self.network.extend(caller.map(|caller| Message::Reply {
                    from: to,
                    to: caller,
                    verb,
                    reply,
                }));
            }
            Message::Reply { from, to, verb, reply } => {
                self.step(to, Event::Reply { branch: branch_id(from), verb, reply }, rules);
            }
            Message::Start { to } => {
                let vote = self.participant_mut(to).start(choice, rules.mutant);
                self.network.extend(vote.map(|vote| Message::Report { from: to, vote }));
            }
            Message::Report { .. } => self.report(Who::Owner, message, rules),
        }
    }

    fn report(&mut self, to: Who, message: Message, rules: &Configuration) {
        if let Message::Report { from, vote } = message {
            self.step(to, Event::Voted { branch: branch_id(from), vote }, rules);
        }
    }

    /// A call gets no answer.
    fn fail(&mut self, message: Message, maybe_arrived: bool, rules: &Configuration) {
        let Message::Call { to, verb, caller: Some(caller), .. } = message else { return };
        if maybe_arrived
            && matches!(verb, Verb::Work | Verb::WorkAndPrepare)
            && let Some(coordinator) = self.coordinator_mut(caller)
        {
            coordinator.given_up[usize::from(to)] = true;
        }
        if rules.mutant != Some(Mutant::LosesFailures) {
            let reply = Reply::Failed { maybe_arrived };
            self.step(caller, Event::Reply { branch: branch_id(to), verb, reply }, rules);
        }
    }

    fn fire(&mut self, who: Who, timer: Timer, rules: &Configuration) {
        if let Some(coordinator) = self.coordinator_mut(who) {
            coordinator.timers.retain(|other| *other != timer);
        }
        self.step(who, Event::TimerFired(timer), rules);
    }

    // ---- the driver ----

    /// Steps the core, and does what it asks for, in order.
    fn step(&mut self, who: Who, event: Event, rules: &Configuration) {
        let Some(coordinator) = self.coordinator_mut(who) else { return };
        let Some(transaction) = &mut coordinator.transaction else {
            // Refused: rolled back.
            return self.tell(Decision::Rollback);
        };
        let before = transaction.decision();
        // Only the deadline's timer looks at the clock; it may fire early, which does nothing.
        let now = if event == Event::TimerFired(Timer::Deadline) { DEADLINE } else { Millis(0) };
        let effects = match transaction.step(event, now) {
            Ok(effects) => effects,
            Err(Refusal::AlreadyRolledBack) => return self.tell(Decision::Rollback),
            Err(Refusal::AlreadyCommitted) if !self.nobody_wrote(who) => return self.tell(Decision::Commit),
            Err(_) => return,
        };
        if before.is_some() && transaction.decision() != before {
            self.fail_claim(Claim::OneDecision);
        }
        for effect in effects {
            self.perform(who, effect, rules);
        }
    }

    fn perform(&mut self, who: Who, effect: Effect, rules: &Configuration) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(format!("{who}{effect:?}"));
        }
        match effect {
            Effect::Append { record, forced } => self.append(who, record, forced, rules),
            Effect::Call { branch, verb, repeated } => {
                self.check_call(who, branch, verb, repeated, rules);
                let to = index_of(branch);
                self.network.push(Message::Call { to, verb, repeated, caller: Some(who), doubled: false });
            }
            Effect::SetTimer(Timer::Retry { .. }) if rules.mutant == Some(Mutant::ForgetsTimers) => {}
            Effect::SetTimer(timer) => {
                if let Some(coordinator) = self.coordinator_mut(who)
                    && !coordinator.timers.contains(&timer)
                {
                    coordinator.timers.push(timer);
                }
            }
            Effect::Tell(Milestone::Begun) => {}
            Effect::Tell(Milestone::Joined(branch)) => self.join(index_of(branch), rules),
            Effect::Tell(Milestone::Decided(decision)) => self.tell_decision(who, decision, rules),
            Effect::Tell(Milestone::Completed) => self.check_completed(who),
            Effect::Alarm(branch) => {
                let participant = self.participant(index_of(branch));
                if !participant.refused && !participant.forced {
                    self.fail_claim(Claim::NoFalseAlarm);
                }
            }
        }
    }

    fn append(&mut self, who: Who, record: Record, forced: Option<Forced>, rules: &Configuration) {
        let commit = is_commit(&record);
        let is_refused = who == Who::Late && rules.mutant != Some(Mutant::NoFence);
        let acknowledgement = match is_refused {
            false => self.log.append(record.clone(), forced),
            true if rules.mutant == Some(Mutant::RefusalIsAck) => {
                forced.map(|forced| Acknowledgement { length: self.log.synced, forced })
            }
            true => None,
        };
        if let Some(coordinator) = self.coordinator_mut(who) {
            coordinator.note_what_is_parked(&record);
            coordinator.waiting.extend(acknowledgement);
        }
        if commit && rules.mutant == Some(Mutant::TellsBeforeDurable) {
            self.tell(Decision::Commit);
        }
    }

    /// Its participant is told that a branch has joined. The first to say so has it start its work.
    fn join(&mut self, index: Index, rules: &Configuration) {
        self.check_enlisted(branch_id(index), rules);
        if !self.participant(index).joined {
            self.participant_mut(index).joined = true;
            self.network.push(Message::Start { to: index });
        }
    }

    fn check_completed(&mut self, who: Who) {
        let state = self.transaction(who).map(Transaction::state);
        if state == Some(State::Committed) && !self.indices().all(|index| self.needs_no_commit(who, index)) {
            self.fail_claim(Claim::LastEnd);
        }
    }

    fn check_call(&mut self, who: Who, branch: BranchId, verb: Verb, repeated: bool, rules: &Configuration) {
        let index = usize::from(index_of(branch));
        let (parked, given_up) = match self.coordinator(who) {
            Some(coordinator) => (coordinator.parked[index], coordinator.given_up[index]),
            None => (false, false),
        };
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

    fn tell_decision(&mut self, who: Who, decision: Decision, rules: &Configuration) {
        let one_phase = self.log.is_durable(|record| matches!(record, Record::Delegated(_)));
        if decision == Decision::Commit {
            if self.nobody_wrote(who) && (one_phase || rules.mode != Mode::StaysOpen) {
                return;
            }
            let durable = self.log.is_durable(says_commit) || one_phase && self.one_has_committed();
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

    /// Whether all that have joined have only read: then the outcome is nothing to anybody.
    fn nobody_wrote(&self, who: Who) -> bool {
        let Some(transaction) = self.transaction(who) else { return false };
        let is_branch = |index| transaction.branch(branch_id(index)).is_some();
        self.indices()
            .filter(|index| is_branch(*index) || self.participant(*index).joined)
            .all(|index| self.has_only_read(who, index))
    }

    /// Whether a branch has only read, and the decision does not count on it. The only branch commits in one phase:
    /// nobody counts its vote.
    fn has_only_read(&self, who: Who, index: Index) -> bool {
        let id = branch_id(index);
        let told = |record: &Record| match record {
            Record::Decided { decision: Decision::Commit, branches, .. } => branches.contains(&id),
            _ => false,
        };
        self.is_counted_as_reader(who, index)
            || self.participant(index).read_only && !self.log.records.iter().any(told)
    }

    fn is_counted_as_reader(&self, who: Who, index: Index) -> bool {
        self.coordinator(who).is_some_and(|coordinator| coordinator.counts_as_reader(index))
    }

    fn one_has_committed(&self) -> bool {
        self.indices().any(|index| self.participant(index).rm == Rm::Committed)
    }

    fn sync(&mut self, who: Who, rules: &Configuration) {
        let Some(coordinator) = self.coordinator_mut(who).filter(|one| !one.waiting.is_empty()) else {
            return;
        };
        let Acknowledgement { length, forced } = coordinator.waiting.remove(0);
        if rules.mutant != Some(Mutant::AckBeforeSync) {
            self.log.sync(length);
        }
        self.step(who, Event::Logged(forced), rules);
    }

    // ---- crashes and take-overs ----

    /// kill -9 of the coordinator, and its restart.
    fn crash(&mut self, kept: usize, rules: &Configuration) {
        self.left.crashes -= 1;
        self.cut_log(kept);
        self.nobody_waits(Who::Owner);
        self.resume(self.log.read(rules.mutant), rules);
    }

    /// Another coordinator fences the log, and goes on from it. The one before it has not noticed: of what is in the log
    /// it may yet hear that it is durable, and of nothing else.
    fn take_over(&mut self, kept: usize, rules: &Configuration) {
        self.left.take_overs -= 1;
        let late = std::mem::take(&mut self.owner);
        for message in &mut self.network {
            *message = message.taken_over();
        }
        let mut found = self.log.read(rules.mutant);
        found.truncate(kept);
        self.late = Some(late);
        match rules.mutant {
            Some(Mutant::ReadsBeforeItFences) => self.log.sync(kept),
            _ => self.cut_log(kept),
        }
        if rules.mutant == Some(Mutant::KeepsItsTerm) {
            self.log.taken_over_at = self.log.records.len();
        }
        self.resume(found, rules);
    }

    /// Of what is lost nobody hears any more that it is durable.
    fn cut_log(&mut self, kept: usize) {
        self.log.crash(kept);
        if let Some(late) = &mut self.late {
            late.waiting.retain(|waiting| waiting.length <= kept);
        }
    }

    fn late_ends(&mut self) {
        self.late = None;
        self.nobody_waits(Who::Late);
    }

    /// Calls under way go on; this coordinator does not wait for them any more.
    fn nobody_waits(&mut self, who: Who) {
        self.network.retain(|message| !matches!(message, Message::Reply { to, .. } if *to == who));
        for message in &mut self.network {
            if matches!(message, Message::Call { caller, .. } if *caller == Some(who)) {
                *message = message.abandoned();
            }
        }
    }

    /// A new owner goes on where these records say.
    fn resume(&mut self, records: Vec<Record>, rules: &Configuration) {
        self.owner = Coordinator::default();
        records.iter().for_each(|record| self.owner.note_what_is_parked(record));
        if records.is_empty() {
            // Whoever asks from now on hears so.
            return self.tell(if rules.mutant == Some(Mutant::PresumesCommit) {
                Decision::Commit
            } else {
                Decision::Rollback
            });
        }
        let kinds = rules.kinds.iter().copied().filter(|_| rules.is_driven());
        match Transaction::recover(rules.options(), kinds, records) {
            Err(_) => self.fail_claim(Claim::OwnLog),
            Ok(transaction) => {
                let decision = transaction.decision();
                if rules.mode == Mode::StaysOpen {
                    // Those who have no answer ask again to join.
                    self.registered = u8::try_from(transaction.branches().len()).unwrap_or(u8::MAX);
                }
                self.owner.transaction = Some(transaction);
                if let Some(decision) = decision.filter(|_| !self.nobody_wrote(Who::Owner)) {
                    self.tell(decision);
                }
                self.step(Who::Owner, Event::Resume, rules);
            }
        }
    }

    // ---- recovery by participants, and the sweeper ----

    /// What the coordinator says when asked about a branch in doubt: of one that only read, that it is rolled back,
    /// whatever the others do.
    pub(crate) fn verdict(&self, who: Who, index: Index, rules: &Configuration) -> Option<Decision> {
        let guess = Some(Decision::Rollback).filter(|_| rules.mutant == Some(Mutant::GuessesWhenAsked));
        let only_read = self.is_counted_as_reader(who, index) && rules.mutant != Some(Mutant::AnswersForAll);
        match self.transaction(who) {
            Some(transaction) => match transaction.decision() {
                Some(_) if only_read => Some(Decision::Rollback),
                decision => decision.or(guess),
            },
            None if rules.mutant == Some(Mutant::PresumesCommit) => Some(Decision::Commit),
            None => Some(Decision::Rollback),
        }
    }

    fn inquire(&mut self, who: Who, index: Index, rules: &Configuration) {
        self.left.sweeps = self.left.sweeps.saturating_sub(1);
        let Some(verdict) = self.verdict(who, index, rules) else { return };
        // Of one that only read, the answer says nothing about the transaction.
        if !self.is_counted_as_reader(who, index) {
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

    fn sweep(&mut self, who: Who, index: Index, rules: &Configuration) {
        self.left.sweeps -= 1;
        let Some(decision) = self.verdict(who, index, rules) else { return };
        let branch = branch_id(index);
        match (decision, self.end_on_resource(index, decision, rules)) {
            // No trace of a branch to be committed: that the participant itself must say.
            (Decision::Commit, Reply::Ended(Outcome::RolledBack)) => {}
            (_, Reply::Ended(outcome)) => self.step(who, Event::Swept { branch, outcome }, rules),
            _ => {}
        }
    }

    // ---- operators ----

    /// Whether the core lets an operator say how a branch has ended.
    pub(crate) fn takes_orders(&self, who: Who) -> bool {
        let resolve = Event::Resolve { branch: BranchId::FIRST, outcome: Outcome::Committed };
        let refusal = self.transaction(who).map(|transaction| transaction.clone().step(resolve, DEADLINE));
        refusal.is_some_and(|answer| answer != Err(Refusal::NotDecided))
    }

    /// An operator ends a branch by hand, by the participant's own means, and tells the coordinator how it ended.
    /// That there is nothing to commit is no proof that there will not be: about that he says nothing.
    fn resolve(&mut self, who: Who, index: Index, how: Decision, rules: &Configuration) {
        self.left.orders = self.left.orders.saturating_sub(1);
        let before = *self.participant(index);
        let reply = self.end_on_resource(index, how, rules);
        if let Reply::Ended(outcome) = reply
            && (how, outcome) != (Decision::Commit, Outcome::RolledBack)
        {
            let decision = self.coordinator(who).and_then(Coordinator::decision).map(Outcome::from);
            let against = decision.is_some_and(|decision| decision != outcome);
            self.participant_mut(index).forced |= against && *self.participant(index) != before;
            self.step(who, Event::Resolve { branch: branch_id(index), outcome }, rules);
        }
    }

    // ---- small things ----

    /// Drops what can make no difference any more, so that worlds that differ only in that are one.
    fn forget_what_is_moot(&mut self, rules: &Configuration) {
        let participants = &self.participants;
        self.network.retain(|message| match *message {
            Message::Call { to, verb, repeated, caller: None, .. } => {
                let participant = participants[usize::from(to)];
                let mut called = participant;
                called.answer(verb, repeated, Choice::Yes, rules.mutant);
                !participant.is_final() || called != participant
            }
            Message::Start { to } => !participants[usize::from(to)].is_final(),
            _ => true,
        });
        self.owner.forget_timers();
        self.late.iter_mut().for_each(Coordinator::forget_timers);
        let (owner, late) = (&self.owner, self.late.as_ref());
        self.network.retain(|message| match *message {
            Message::Reply { from, to, verb, reply } => {
                let event = Event::Reply { branch: branch_id(from), verb, reply };
                match to {
                    Who::Owner => owner.may_heed_reply(verb, event),
                    Who::Late => late.is_some_and(|late| late.may_heed_reply(verb, event)),
                }
            }
            Message::Report { from, vote } => {
                let event = Event::Voted { branch: branch_id(from), vote };
                owner.may_heed(event) || late.is_some_and(|late| late.may_heed(event))
            }
            _ => true,
        });
    }

    fn check(&mut self) {
        for index in self.indices() {
            let counted = self.coordinators().any(|(_, coordinator)| coordinator.counts_as_reader(index));
            self.participant_mut(index).counted_as_reader |= counted;
        }
        let everyone = &self.participants[..usize::from(self.size)];
        let committed = everyone.iter().any(Participant::has_committed);
        let lost = || {
            self.indices().any(|index| {
                self.participant(index).cannot_commit() && !self.has_only_read(Who::Owner, index)
            })
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
    fn needs_no_commit(&self, who: Who, index: Index) -> bool {
        let one = self.participant(index);
        !one.joined || one.has_committed() || one.forced || self.has_only_read(who, index)
    }

    /// Whether everything has ended, and ended well.
    pub(crate) fn has_ended_well(&self) -> bool {
        let outcome = self.transaction(Who::Owner).map_or(State::RolledBack, Transaction::state);
        let all = |good: fn(&Participant) -> bool| self.indices().all(|index| good(self.participant(index)));
        let agreed = match outcome {
            State::Committed => self.indices().all(|index| self.needs_no_commit(Who::Owner, index)),
            State::RolledBack => all(|one| !one.has_committed()),
            _ => false,
        };
        agreed
            && !self.owner.is_parked()
            && self.forced_are_on_record()
            && all(|one| !matches!(one.rm, Rm::Worked | Rm::Prepared))
    }

    /// Whether what an operator forced is known to be so. Of a transaction that is unknown nothing is known.
    fn forced_are_on_record(&self) -> bool {
        let Some(transaction) = self.transaction(Who::Owner) else { return true };
        transaction
            .branches()
            .all(|(id, branch)| branch.is_heuristic() || !self.participant(index_of(id)).forced)
    }

    fn fail_claim(&mut self, claim: Claim) {
        self.broken = self.broken.or(Some(claim));
    }
}

fn is_commit(record: &Record) -> bool {
    matches!(record, Record::Decided { decision: Decision::Commit, .. })
}

/// Whether nothing but a commit can come of it any more: the decision, or the end where no decision was needed.
fn says_commit(record: &Record) -> bool {
    is_commit(record) || *record == Record::Ended(Outcome::Committed)
}
