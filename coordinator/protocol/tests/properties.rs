//! Random runs of the core against modelled participants, a lossy network, a log that loses its unsynced tail,
//! and crashes on both sides. First with faults (safety), then without (liveness).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use concord_protocol::{
    BranchId, Decision, Effect, Event, Forced, Grade, Kind, Milestone, Millis, Options, Outcome, Record,
    Reply, State, Timer, Transaction, Verb, Vote,
};
use proptest::prelude::*;
use std::collections::VecDeque;

const DEADLINE: Millis = Millis(1_000);

/// A participant's branch, as the SDK's contract has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rm {
    /// Nothing of it is known here.
    Fresh,
    Worked,
    /// TCC: tried.
    Prepared,
    ReadOnly,
    Committed,
    /// Rolled back, with a tombstone.
    RolledBack,
}

#[derive(Debug, Clone, Copy)]
struct Participant {
    kind: Kind,
    rm: Rm,
    /// What it will vote when it is first asked.
    vote: Vote,
    commits: u32,
}

/// A call or a reply on its way.
#[derive(Debug, Clone, Copy)]
enum Message {
    Call {
        branch: usize,
        verb: Verb,
        repeated: bool,
        /// A copy of it has been delivered, or its sender is gone: nobody can say that it was not sent.
        left: bool,
    },
    Reply {
        branch: usize,
        verb: Verb,
        reply: Reply,
    },
    /// Initiator-driven: the participant may start its work, and will report its vote.
    Start {
        branch: usize,
    },
}

impl Message {
    fn leave(&mut self) {
        if let Message::Call { left, .. } = self {
            *left = true;
        }
    }
}

struct World {
    options: Options,
    transaction: Transaction,
    participants: Vec<Participant>,
    network: Vec<Message>,
    timers: Vec<Timer>,
    log: Vec<Record>,
    /// How much of the log is synced for certain.
    synced: usize,
    /// Forced records that wait for the log, each with the length of the log that makes it durable.
    in_log: VecDeque<(usize, Forced)>,
    told: Option<Decision>,
    now: Millis,
}

/// Who drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Coordinator,
    Initiator,
    /// As the initiator's, and it outlives the coordinator.
    StaysOpen,
}

impl World {
    fn new(mode: Mode, grade: Grade, branches: &[(Kind, Vote)]) -> Self {
        let (coordinator_driven, stays_open) = (mode == Mode::Coordinator, mode == Mode::StaysOpen);
        let options =
            Options { coordinator_driven, grade, stays_open, deadline: DEADLINE, park_after_attempts: None };
        let participant = |&(kind, vote): &(Kind, Vote)| {
            // A Try reserves or refuses: there is nothing that it could only read.
            let vote = if kind == Kind::Tcc && vote == Vote::ReadOnly { Vote::Yes } else { vote };
            Participant { kind, rm: Rm::Fresh, vote, commits: 0 }
        };
        let kinds = branches.iter().map(|(kind, _)| *kind);
        let mut world = World {
            options,
            transaction: Transaction::with_branches(options, kinds.clone().filter(|_| coordinator_driven)),
            participants: branches.iter().map(participant).collect(),
            network: Vec::new(),
            timers: vec![Timer::Deadline],
            log: Vec::new(),
            synced: 0,
            in_log: VecDeque::new(),
            told: None,
            now: Millis(0),
        };
        match mode {
            Mode::Coordinator => world.step(Event::Execute),
            Mode::Initiator => kinds.for_each(|kind| world.step(Event::Register(kind))),
            // The rest once that is told.
            Mode::StaysOpen => world.step(Event::Begin),
        }
        world
    }

    /// Those join whose registration is not known.
    fn register(&mut self) {
        let known = self.transaction.branches().len();
        for at in known..self.participants.len() {
            self.step(Event::Register(self.participants[at].kind));
        }
    }

    fn step(&mut self, event: Event) {
        let before = self.transaction.decision();
        let effects = self.transaction.step(event, self.now).unwrap_or_default();
        if before.is_some() {
            assert_eq!(self.transaction.decision(), before, "a decision never changes");
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Append { record, forced } => {
                self.log.push(record);
                self.in_log.extend(forced.map(|forced| (self.log.len(), forced)));
            }
            Effect::Call { branch, verb, repeated } => {
                if matches!(verb, Verb::Commit | Verb::Confirm) {
                    let decided = |record: &Record| {
                        matches!(record, Record::Decided { decision: Decision::Commit, .. })
                    };
                    assert!(self.is_durable(decided), "commit left before its decision was durable");
                }
                if verb == Verb::Try {
                    self.assert_enlisted(branch);
                }
                self.network.push(Message::Call { branch: index(branch), verb, repeated, left: false });
            }
            Effect::SetTimer(timer) => self.timers.push(timer),
            Effect::Tell(Milestone::Decided(decision)) => {
                let wrote = self.participants.iter().any(|one| !matches!(one.rm, Rm::ReadOnly));
                if let Some(told) = self.told.filter(|_| wrote) {
                    assert_eq!(told, decision, "the initiator was told otherwise before");
                }
                self.told = Some(decision);
            }
            Effect::Tell(Milestone::Begun) => {
                assert!(self.is_durable(|record| *record == Record::Begun), "told before it is on disk");
                self.register();
            }
            Effect::Tell(Milestone::Joined(branch)) => {
                if self.participants[index(branch)].kind == Kind::Tcc || self.options.stays_open {
                    self.assert_enlisted(branch);
                }
                self.network.push(Message::Start { branch: index(branch) });
            }
            Effect::Tell(Milestone::Completed) => {}
            Effect::Alarm(branch) => panic!("branch {branch} ended against the decision"),
        }
    }

    fn is_durable(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.log[..self.synced].iter().any(wanted)
    }

    /// Whatever a Try reserves must be cancelled even if everything else dies.
    fn assert_enlisted(&self, id: BranchId) {
        let enlisted = self.is_durable(|record| match record {
            Record::Begun => self.options.coordinator_driven,
            Record::Registered { branch, .. } => *branch == id,
            _ => false,
        });
        assert!(enlisted, "branch {id} may be tried before it is on disk");
    }

    /// The oldest forced record becomes durable; without one, everything does.
    fn log_answers(&mut self) {
        match self.in_log.pop_front() {
            Some((length, record)) => {
                self.synced = self.synced.max(length);
                self.step(Event::Logged(record));
            }
            None => self.synced = self.log.len(),
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Call { branch, verb, repeated, .. } => {
                let reply = self.participants[branch].answer(verb, repeated);
                self.network.push(Message::Reply { branch, verb, reply });
            }
            Message::Reply { branch, verb, reply } => self.reply(branch, verb, reply),
            Message::Start { branch } => self.start(branch),
        }
    }

    /// Initiator-driven: the participant works, votes, and reports it.
    fn start(&mut self, branch: usize) {
        let verb = match self.participants[branch].kind {
            Kind::Xa => Verb::WorkAndPrepare,
            Kind::Tcc => Verb::Try,
        };
        let Reply::Vote(vote) = self.participants[branch].answer(verb, false) else { return };
        let id = BranchId(branch as u32 + 1);
        // A refusal means that the coordinator knows better; it, or inquiry, ends the branch.
        if let Ok(effects) = self.transaction.step(Event::Voted { branch: id, vote }, self.now) {
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    fn reply(&mut self, branch: usize, verb: Verb, reply: Reply) {
        self.step(Event::Reply { branch: BranchId(branch as u32 + 1), verb, reply });
    }

    /// A lost message is seen by the coordinator as a failed call; whether it arrived it cannot know.
    fn lose(&mut self, message: Message) {
        if let Message::Call { branch, verb, .. } | Message::Reply { branch, verb, .. } = message {
            self.reply(branch, verb, Reply::Failed { maybe_arrived: true });
        }
    }

    /// A call that could not be sent, and the coordinator knows it.
    fn keep_back(&mut self, message: Message) {
        match message {
            Message::Call { branch, verb, left: false, .. } => {
                self.reply(branch, verb, Reply::Failed { maybe_arrived: false });
            }
            other => self.lose(other),
        }
    }

    /// kill -9 of the coordinator: the unsynced tail is lost from some point on; calls under way go on.
    fn crash(&mut self, keep: usize) {
        let lost = self.log.len() - self.synced;
        self.log.truncate(self.synced + keep % (lost + 1));
        self.synced = self.log.len();
        self.in_log.clear();
        self.network.retain(|message| !matches!(message, Message::Reply { .. }));
        self.network.iter_mut().for_each(Message::leave);
        self.timers.clear();
        if self.log.is_empty() {
            // Unknown, of an epoch that has ended: rolled back, for ever. Nobody may have been told otherwise.
            // What the coordinator then does on inquiry is what a transaction does that has only begun.
            assert_ne!(self.told_a_write(), Some(Decision::Commit), "a commit that was told is lost");
            self.log.push(Record::Begun);
            self.synced = 1;
            self.options.stays_open = false;
        }
        let kinds = self.participants.iter().map(|one| one.kind).filter(|_| self.options.coordinator_driven);
        self.transaction = Transaction::recover(self.options, kinds, self.log.clone()).expect("our own log");
        if let (Some(told), Some(decision)) = (self.told_a_write(), self.transaction.decision()) {
            assert_eq!(told, decision, "recovery contradicts what was told");
        }
        self.step(Event::Resume);
        let stays_open = self.options.stays_open;
        if stays_open && self.transaction.state() == State::Active {
            // Nobody has told them that they have joined: they ask again.
            self.register();
        }
        let is_open =
            self.log.iter().all(|record| matches!(record, Record::Begun | Record::Registered { .. }));
        assert!(
            !(stays_open && is_open) || self.transaction.state() == State::Active,
            "{:?} does not stay open",
            self.transaction
        );
    }

    fn told_a_write(&self) -> Option<Decision> {
        let wrote = self.participants.iter().any(|one| one.rm != Rm::ReadOnly);
        self.told.filter(|_| wrote)
    }

    /// Faults stop: everything must end.
    fn settle(&mut self) {
        if !self.options.coordinator_driven {
            self.step(Event::Commit);
        }
        self.now = DEADLINE;
        for _ in 0..10_000 {
            if !self.in_log.is_empty() {
                self.log_answers();
            } else if let Some(message) = self.network.pop() {
                self.deliver(message);
            } else if let Some(timer) = self.timers.pop() {
                self.step(Event::TimerFired(timer));
            } else {
                break;
            }
        }
        assert!(self.transaction.state().is_terminal(), "stuck: {:?}", self.transaction);
        // Inquiry by the participants (and the sweeper) ends what a late duplicate has left behind.
        let committed = self.transaction.state() == State::Committed;
        for participant in self.participants.iter_mut().filter(|one| one.rm == Rm::Prepared) {
            assert_eq!(participant.kind, Kind::Xa, "something stays reserved, and nobody knows of it");
            participant.rm = if committed { Rm::Committed } else { Rm::RolledBack };
        }
        self.check_agreement();
    }

    fn check_agreement(&self) {
        let committed = self.participants.iter().filter(|one| one.rm == Rm::Committed).count();
        let writers = self.participants.iter().filter(|one| one.rm != Rm::ReadOnly).count();
        match self.transaction.state() {
            State::Committed => assert_eq!(committed, writers, "half committed: {:?}", self.participants),
            State::RolledBack => assert_eq!(committed, 0, "rolled back, but {:?}", self.participants),
            state => panic!("{state:?} is not terminal"),
        }
        assert!(self.participants.iter().all(|one| one.commits <= 1), "committed twice");
    }
}

impl Participant {
    fn answer(&mut self, verb: Verb, repeated: bool) -> Reply {
        match verb {
            Verb::Work | Verb::WorkAndPrepare => match self.rm {
                Rm::Fresh if repeated => Reply::Vote(Vote::No),
                Rm::Fresh | Rm::Worked => self.work(verb),
                Rm::Prepared | Rm::Committed => Reply::Vote(Vote::Yes),
                Rm::ReadOnly => Reply::Vote(Vote::ReadOnly),
                Rm::RolledBack => Reply::Vote(Vote::No),
            },
            Verb::Prepare => match self.rm {
                Rm::Worked => self.vote(),
                Rm::Prepared | Rm::Committed => Reply::Vote(Vote::Yes),
                Rm::ReadOnly => Reply::Vote(Vote::ReadOnly),
                Rm::Fresh | Rm::RolledBack => Reply::Vote(Vote::No),
            },
            Verb::WorkAndCommit | Verb::CommitOnePhase => {
                if matches!(self.rm, Rm::Fresh | Rm::Worked) {
                    let refused = self.vote == Vote::No;
                    self.rm = if refused { Rm::RolledBack } else { Rm::Committed };
                    self.commits += u32::from(!refused);
                }
                Reply::Ended(if self.rm == Rm::Committed { Outcome::Committed } else { Outcome::RolledBack })
            }
            Verb::Commit => {
                if self.rm == Rm::Prepared {
                    self.rm = Rm::Committed;
                    self.commits += 1;
                }
                Reply::Ended(if self.rm == Rm::Committed { Outcome::Committed } else { Outcome::RolledBack })
            }
            Verb::Rollback => {
                if self.rm != Rm::Committed {
                    self.rm = Rm::RolledBack;
                }
                Reply::Ended(if self.rm == Rm::Committed { Outcome::Committed } else { Outcome::RolledBack })
            }
            Verb::Try => {
                if self.rm == Rm::Fresh {
                    // A refusal is remembered: nobody cancels it, and a late duplicate must find it.
                    self.rm = if self.vote == Vote::No { Rm::RolledBack } else { Rm::Prepared };
                }
                Reply::Vote(if self.rm == Rm::RolledBack { Vote::No } else { Vote::Yes })
            }
            Verb::Confirm if self.rm == Rm::Fresh => Reply::Refused,
            Verb::Confirm => self.answer(Verb::Commit, false),
            Verb::Cancel => self.answer(Verb::Rollback, false),
        }
    }

    fn work(&mut self, verb: Verb) -> Reply {
        match (verb, self.vote) {
            (_, Vote::No) => Reply::Vote(Vote::No),
            (Verb::Work, _) => {
                self.rm = Rm::Worked;
                Reply::Worked
            }
            _ => self.vote(),
        }
    }

    fn vote(&mut self) -> Reply {
        self.rm = if self.vote == Vote::ReadOnly { Rm::ReadOnly } else { Rm::Prepared };
        Reply::Vote(self.vote)
    }

    /// kill -9: what was prepared or ended survives, with the rest rolled back by the database.
    fn crash(&mut self) {
        if self.rm == Rm::Worked {
            self.rm = Rm::Fresh;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Deliver(usize),
    Duplicate(usize),
    Lose(usize),
    KeepBack(usize),
    Log,
    Timer(usize),
    Deadline,
    Crash(usize),
    CrashParticipant(usize),
    Rollback,
    Commit,
    Retry,
}

fn index(branch: BranchId) -> usize {
    branch.0 as usize - 1
}

fn action() -> impl Strategy<Value = Action> {
    let any = 0usize..64;
    prop_oneof![
        8 => any.clone().prop_map(Action::Deliver),
        1 => any.clone().prop_map(Action::Duplicate),
        2 => any.clone().prop_map(Action::Lose),
        2 => any.clone().prop_map(Action::KeepBack),
        4 => Just(Action::Log),
        3 => any.clone().prop_map(Action::Timer),
        1 => Just(Action::Deadline),
        1 => any.clone().prop_map(Action::Crash),
        1 => any.prop_map(Action::CrashParticipant),
        1 => Just(Action::Rollback),
        1 => Just(Action::Commit),
        1 => Just(Action::Retry),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Xa), Just(Kind::Tcc)]
}

fn branches() -> impl Strategy<Value = Vec<(Kind, Vote)>> {
    let vote = prop_oneof![6 => Just(Vote::Yes), 1 => Just(Vote::ReadOnly), 1 => Just(Vote::No)];
    prop::collection::vec((kind(), vote), 1..=4)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Coordinator), Just(Mode::Initiator), Just(Mode::StaysOpen)]
}

fn run(mode: Mode, grade: Grade, branches: &[(Kind, Vote)], actions: &[Action]) -> World {
    let mut world = World::new(mode, grade, branches);
    for action in actions {
        let pick = |index: usize, length: usize| (length > 0).then(|| index % length);
        match *action {
            Action::Deliver(index) => {
                if let Some(at) = pick(index, world.network.len()) {
                    let message = world.network.swap_remove(at);
                    world.deliver(message);
                }
            }
            Action::Duplicate(index) => {
                if let Some(at) = pick(index, world.network.len()) {
                    world.network[at].leave();
                    world.deliver(world.network[at]);
                }
            }
            Action::Lose(index) => {
                if let Some(at) = pick(index, world.network.len()) {
                    let message = world.network.swap_remove(at);
                    world.lose(message);
                }
            }
            Action::KeepBack(index) => {
                if let Some(at) = pick(index, world.network.len()) {
                    let message = world.network.swap_remove(at);
                    world.keep_back(message);
                }
            }
            Action::Log => world.log_answers(),
            Action::Timer(index) => {
                if let Some(at) = pick(index, world.timers.len()) {
                    let timer = world.timers.swap_remove(at);
                    world.step(Event::TimerFired(timer));
                }
            }
            Action::Deadline => world.now = DEADLINE,
            Action::Crash(keep) => world.crash(keep),
            Action::CrashParticipant(index) => {
                let at = index % world.participants.len();
                world.participants[at].crash();
            }
            Action::Rollback => world.step(Event::Rollback),
            // Of a coordinator-driven transaction it changes nothing: Execute is under way.
            Action::Commit => world.step(Event::Commit),
            Action::Retry => world.step(Event::RetryNow),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn branches_agree_and_everything_ends(
        mode in mode(),
        strict in any::<bool>(),
        branches in branches(),
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let grade = if strict { Grade::Strict } else { Grade::EarlyVote };
        run(mode, grade, &branches, &actions).settle();
    }

    #[test]
    fn any_log_is_recovered_or_refused(stays_open in any::<bool>(), records in prop::collection::vec(any_record(), 0..8), kinds in prop::collection::vec(kind(), 0..4)) {
        let coordinator_driven = !kinds.is_empty();
        let options = Options {
            coordinator_driven,
            grade: Grade::EarlyVote,
            stays_open: !coordinator_driven && stays_open,
            deadline: DEADLINE,
            park_after_attempts: None,
        };
        if let Ok(mut transaction) = Transaction::recover(options, kinds, records) {
            let _ = transaction.step(Event::Resume, DEADLINE);
        }
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let branch = (0u32..5).prop_map(BranchId);
    let outcome = prop_oneof![Just(Outcome::Committed), Just(Outcome::RolledBack)];
    prop_oneof![
        3 => Just(Record::Begun),
        1 => (branch.clone(), kind()).prop_map(|(branch, kind)| Record::Registered { branch, kind }),
        1 => branch.clone().prop_map(Record::Delegated),
        2 => (any::<bool>(), prop::collection::vec(branch.clone(), 0..4)).prop_map(|(commit, branches)| Record::Decided {
            decision: if commit { Decision::Commit } else { Decision::Rollback },
            branches,
            cause: None,
        }),
        1 => (branch.clone(), outcome.clone(), any::<bool>()).prop_map(|(branch, outcome, heuristic)| {
            Record::BranchEnded { branch, outcome, source: concord_protocol::Source::Sweeper, heuristic }
        }),
        1 => branch.prop_map(Record::BranchParked),
        1 => Just(Record::Retried),
        1 => outcome.prop_map(Record::Ended),
    ]
}
