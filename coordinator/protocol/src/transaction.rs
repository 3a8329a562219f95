//! The state machine of one global transaction.
//!
//! ```text
//!                     Commit, one branch
//!          ┌───────────────────────────────► Delegating ──Logged──► Delegated ──Ended──► Committed
//!          │                                                            │                   ▲
//! Active ──┤ Commit / Execute                                        Ended                │ last ack
//!          ├──────────────────► Working ──all worked──► Preparing ──all yes──► Deciding ──Logged──► Committing
//!          │                  (Strict only)                 │
//!          │   (a TCC branch not on disk yet: Enlisting ──Logged──► from here on as above)
//!          │ Rollback, deadline, a vote of no               │ a vote of no, Rollback, deadline
//!          └───────────────────────► RollingBack ◄──────────┘
//!                                        │ last ack
//!                                        ▼
//!                                    RolledBack
//! ```
//!
//! | phase | event | next | effects |
//! |---|---|---|---|
//! | Active | Begin | Active | **force** Begun |
//! | Active | Logged (Begun) | Active | tell |
//! | Active | Register XA | Active | append Registered, tell |
//! | Active | Register TCC | Active | **force** Registered |
//! | any | Logged (Registered) | same | tell |
//! | Active | Voted no · Rollback · deadline | RollingBack | append Decided(rollback), tell, call Rollback |
//! | Active | Commit, several branches | Preparing | call Prepare (TCC: Try) on those that have not voted |
//! | Active | Commit, a TCC branch not on disk | Enlisting | |
//! | Active | Commit / Execute, one XA branch | Delegating | **force** Delegated |
//! | Active | Execute, XA only | Preparing (Strict: Working) | append Begun, call WorkAndPrepare (Strict: Work) on all |
//! | Active | Execute, a TCC branch | Enlisting | **force** Begun |
//! | Enlisting | Logged, all TCC branches on disk | Preparing or Working | as Commit or Execute; Try on TCC branches |
//! | Working | last Worked, last TCC vote | Preparing | call Prepare on those that worked |
//! | Enlisting, Working, Preparing | vote no · Rollback · deadline | RollingBack | append Decided(rollback), tell, call Rollback |
//! | Working, Preparing | call failed | same | set a retry timer; then the same call, marked repeated |
//! | Preparing | last vote, some yes | Deciding | **force** Decided(commit) |
//! | Preparing | last vote, all read-only | Committed | append Ended, tell |
//! | Preparing | the same, of one that stays open | Deciding | **force** Ended |
//! | Deciding, DecidingRollback | Logged (Ended) | Committed, RolledBack | tell |
//! | Deciding | Logged | Committing | tell, call Commit (TCC: Confirm) on those that voted yes |
//! | Delegating | Logged | Delegated | call the one-phase commit |
//! | Delegated | Rollback · deadline | Delegated | call Rollback: the participant says which came first |
//! | Delegated | ended, or the sweeper has found out | Committed or RolledBack | append Ended, tell |
//! | Delegated | an operator says how it has ended | Deciding or DecidingRollback | append BranchEnded, **force** Ended |
//! | Committing, RollingBack | last branch ended | Committed / RolledBack | append Ended, tell |
//! | Committing, RollingBack | a branch ended the other way | same, parked | append BranchEnded(heuristic), alarm |
//! | Committing, RollingBack | a Confirm or Cancel refused | same, parked | append BranchParked, alarm |
//! | Committing, RollingBack | call failed | same | set a retry timer |
//!
//! Rolling back calls Rollback, or Cancel on TCC branches.
//!
//! A transaction that stays open ([`Options::stays_open`]) is Active again after a restart, whatever had been asked of it, unless
//! more is on record. So what is appended above is **forced** there: Registered of XA branches, and Decided(rollback), until which
//! is durable it is DecidingRollback: nobody hears of it, neither the initiator nor a branch. A Rollback still on its way when another
//! coordinator commits the transaction would find it prepared. And that all have only read is forced: whoever has been taken
//! over does not know of the branches that have joined since.
//!
//! Deciding can neither be left for RollingBack nor told to anyone: the record is in the log's hands.

use crate::ids::{BranchId, Millis};
use crate::types::{
    BranchState, Cause, Decision, Effect, Event, Forced, Grade, Kind, Milestone, Options, Outcome, Record,
    Refusal, State, Timer, Verb, Vote,
};
use concord_seeded_bugs::seeded_bug;

/// The steps that [`State`] does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Active,
    /// Phase one is asked for; TCC branches are on their way to the disk.
    Enlisting,
    Working,
    Preparing,
    Deciding,
    /// Of a transaction that stays open: the rollback is on its way to the disk.
    DecidingRollback,
    Delegating,
    Delegated,
    Committing,
    Committed,
    RollingBack,
    RolledBack,
}

/// The call that a branch is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Idle,
    /// Under way.
    Made(Verb),
    /// To be made again when its timer fires.
    Waiting(Verb),
}

/// One branch, as the coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Branch {
    pub(crate) kind: Kind,
    /// It may be called: an XA branch always, a TCC branch once it is on disk.
    pub(crate) enlisted: bool,
    pub(crate) state: BranchState,
    pub(crate) call: Call,
    pub(crate) attempts: u32,
    pub(crate) maybe_arrived: bool,
    pub(crate) parked: bool,
    pub(crate) heuristic: bool,
}

impl Branch {
    pub(crate) fn new(kind: Kind) -> Self {
        Branch {
            kind,
            enlisted: kind == Kind::Xa,
            state: BranchState::Active,
            call: Call::Idle,
            attempts: 0,
            maybe_arrived: false,
            parked: false,
            heuristic: false,
        }
    }

    /// Which protocol it follows.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its participant may be told that it has joined.
    pub fn is_enlisted(&self) -> bool {
        self.enlisted
    }

    /// How far it has come.
    pub fn state(&self) -> BranchState {
        self.state
    }

    /// Failed calls of the verb that it is asked now.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether it waits for an operator.
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Whether it ended against the decision.
    pub fn is_heuristic(&self) -> bool {
        self.heuristic
    }

    /// Nobody waits for the answer to the call under way any more, but it may still arrive.
    pub(crate) fn give_up_call(&mut self) {
        self.maybe_arrived |= matches!(self.call, Call::Made(_));
        self.call = Call::Idle;
    }

    pub(crate) fn needs_phase_two(&self) -> bool {
        !self.state.has_ended() || self.parked
    }
}

/// One global transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub(crate) options: Options,
    pub(crate) phase: Phase,
    pub(crate) branches: Vec<Branch>,
    pub(crate) cause: Option<Cause>,
    /// Whether `Begun` has been appended.
    pub(crate) begun: bool,
}

impl Transaction {
    /// A new transaction, in which nobody has joined.
    pub fn begin(options: Options) -> Self {
        Transaction { options, phase: Phase::Active, branches: Vec::new(), cause: None, begun: false }
    }

    /// A new transaction with branches of these kinds that the coordinator will run on [`Event::Execute`].
    pub fn with_branches(options: Options, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let branches = kinds.into_iter().map(Branch::new).collect();
        Transaction { branches, ..Transaction::begin(options) }
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Active => State::Active,
            Phase::Enlisting
            | Phase::Working
            | Phase::Preparing
            | Phase::Deciding
            | Phase::DecidingRollback
            | Phase::Delegating
            | Phase::Delegated => State::Preparing,
            Phase::Committing => State::Committing,
            Phase::Committed => State::Committed,
            Phase::RollingBack => State::RollingBack,
            Phase::RolledBack => State::RolledBack,
        }
    }

    /// The decision, once it may be told: durable, or a rollback that nobody could take for open any more.
    pub fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Committing | Phase::Committed => Some(Decision::Commit),
            Phase::RollingBack | Phase::RolledBack => Some(Decision::Rollback),
            _ => None,
        }
    }

    /// Whether its only branch has been asked, or is about to be asked, to decide: a restart does not roll it back any more.
    pub fn is_delegated(&self) -> bool {
        matches!(self.phase, Phase::Delegating | Phase::Delegated)
    }

    /// Whether a rollback can still be asked for with effect, or a deadline matters.
    pub fn is_undecided(&self) -> bool {
        matches!(
            self.phase,
            Phase::Active | Phase::Enlisting | Phase::Working | Phase::Preparing | Phase::Delegated
        )
    }

    /// Whether what comes next is in the log's hands: it can be told when that is on disk.
    pub fn awaits_log(&self) -> bool {
        matches!(self.phase, Phase::Deciding | Phase::DecidingRollback | Phase::Delegating)
    }

    /// Whether nothing but the branches' work and votes keeps it from its decision.
    pub fn awaits_votes(&self) -> bool {
        matches!(self.phase, Phase::Working | Phase::Preparing)
    }

    /// Why it was rolled back.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// How it was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The branches, with their ids, in order.
    pub fn branches(&self) -> impl ExactSizeIterator<Item = (BranchId, &Branch)> {
        self.branches.iter().enumerate().map(|(index, branch)| (id_of(index), branch))
    }

    /// One branch.
    pub fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.branches.get(index_of(id)?)
    }

    /// Whether a branch waits for an operator.
    pub fn is_parked(&self) -> bool {
        self.branches.iter().any(|branch| branch.parked)
    }

    /// Whether a branch ended against the decision.
    pub fn is_heuristic(&self) -> bool {
        self.branches.iter().any(|branch| branch.heuristic)
    }

    /// Takes one event.
    ///
    /// # Errors
    /// A [`Refusal`], with the transaction unchanged, when the event asks for something that cannot be.
    /// Replies, timers and acknowledgements that come too late are not refused: they have no effects.
    pub fn step(&mut self, event: Event, now: Millis) -> Result<Vec<Effect>, Refusal> {
        let mut out = Vec::new();
        match event {
            Event::Register(kind) => self.register(kind, &mut out)?,
            Event::Begin => self.begin_on_record(&mut out),
            Event::Execute => self.execute(&mut out)?,
            Event::Voted { branch, vote } => self.voted(branch, vote, &mut out)?,
            Event::Commit => self.commit(&mut out)?,
            Event::Rollback => self.rollback(&mut out)?,
            Event::Logged(record) => self.logged(record, &mut out),
            Event::Reply { branch, verb, reply } => self.replied(branch, verb, reply, &mut out)?,
            Event::TimerFired(Timer::Deadline) => self.deadline_passed(now, &mut out),
            Event::TimerFired(Timer::Retry { branch, attempts }) => self.retry(branch, attempts, &mut out)?,
            Event::Swept { branch, outcome } => self.swept(branch, outcome, &mut out)?,
            Event::RetryNow => self.retry_now(&mut out),
            Event::Park => self.park(&mut out)?,
            Event::Resolve { branch, outcome } => self.resolve(branch, outcome, &mut out)?,
            Event::Resume => self.resume(&mut out),
        }
        Ok(out)
    }

    // ---- before the decision ----

    fn begin_on_record(&mut self, out: &mut Vec<Effect>) {
        self.begun = true;
        out.push(Effect::Append { record: Record::Begun, forced: Some(Forced::Begun) });
    }

    fn register(&mut self, kind: Kind, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.phase != Phase::Active {
            return Err(Refusal::NotActive);
        }
        self.branches.push(Branch::new(kind));
        let branch = id_of(self.branches.len() - 1);
        let record = Record::Registered { branch, kind };
        if kind == Kind::Tcc || self.options.stays_open && !seeded_bug!("open-branch-not-forced") {
            if let Some(branch) = self.branches.last_mut() {
                branch.enlisted = false;
            }
            self.force(record, Forced::Registered(branch), out);
        } else {
            self.append(record, out);
            out.push(Effect::Tell(Milestone::Joined(branch)));
        }
        if seeded_bug!("tries-before-the-log") {
            self.logged(Forced::Registered(branch), out);
        }
        Ok(())
    }

    fn execute(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if self.phase != Phase::Active {
            return Err(Refusal::NotActive);
        }
        match self.branches.as_slice() {
            [] => return Err(Refusal::NoBranches),
            [only] if only.kind == Kind::Xa => self.delegate(out),
            branches if branches.iter().all(|branch| branch.enlisted) => {
                // Lazy: an XA branch of a transaction that was lost with its records is rolled back by inquiry.
                self.append_begun(out);
                self.start_phase_one(out);
            }
            _ => {
                self.phase = Phase::Enlisting;
                self.begin_on_record(out);
                if seeded_bug!("tries-before-the-log") {
                    self.logged(Forced::Begun, out);
                }
            }
        }
        Ok(())
    }

    /// Every branch may be called.
    fn start_phase_one(&mut self, out: &mut Vec<Effect>) {
        if !self.options.coordinator_driven {
            self.phase = Phase::Preparing;
            self.ask_for_votes(out);
            self.decide_if_all_voted(out);
            return;
        }
        let (phase, xa_verb) = match self.options.grade {
            Grade::EarlyVote => (Phase::Preparing, Verb::WorkAndPrepare),
            Grade::Strict => (Phase::Working, Verb::Work),
        };
        self.phase = phase;
        for index in 0..self.branches.len() {
            let verb = if self.branches[index].kind == Kind::Tcc { Verb::Try } else { xa_verb };
            self.call(index, verb, out);
        }
    }

    fn voted(&mut self, id: BranchId, vote: Vote, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let index = self.index(id)?;
        match (self.phase, self.branches[index].state, vote) {
            (Phase::Active | Phase::Enlisting | Phase::Preparing, BranchState::Active, _) => {
                self.count_vote(index, vote, out);
            }
            // It will hear of the rollback when that may be told.
            (Phase::DecidingRollback, ..) => {}
            // Fenced: whoever votes now is told to roll back (presumed abort).
            (Phase::RollingBack | Phase::RolledBack, _, Vote::Yes) => return Err(Refusal::AlreadyRolledBack),
            (Phase::RollingBack | Phase::RolledBack, ..) => {}
            // A repeat of the vote that was counted.
            (_, BranchState::Prepared | BranchState::Committed, Vote::Yes)
            | (_, BranchState::ReadOnly, Vote::ReadOnly) => {}
            _ => return Err(Refusal::VoteConflict),
        }
        Ok(())
    }

    pub(crate) fn count_vote(&mut self, index: usize, vote: Vote, out: &mut Vec<Effect>) {
        let branch = &mut self.branches[index];
        branch.call = Call::Idle;
        branch.attempts = 0;
        branch.state = match vote {
            Vote::Yes => BranchState::Prepared,
            Vote::ReadOnly => BranchState::ReadOnly,
            Vote::No if seeded_bug!("no-is-yes") => BranchState::Prepared,
            Vote::No => BranchState::Refused,
        };
        if vote == Vote::No && !seeded_bug!("no-is-yes") {
            self.decide_rollback(Cause::Refused(id_of(index)), out);
        } else if self.phase == Phase::Preparing {
            self.decide_if_all_voted(out);
        } else if self.phase == Phase::Working {
            self.prepare_if_all_worked(out);
        }
    }

    fn commit(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        match self.phase {
            Phase::Active => {}
            Phase::RollingBack if seeded_bug!("commit-after-abort") => {
                self.phase = Phase::Committing;
                self.call_all(Decision::Commit, out);
                return Ok(());
            }
            Phase::RollingBack | Phase::RolledBack => return Err(Refusal::AlreadyRolledBack),
            // Under way, or done: a repeat waits for the same outcome.
            _ => return Ok(()),
        }
        match self.branches.as_slice() {
            [] => return Err(Refusal::NoBranches),
            [only] if only.kind == Kind::Xa && only.state == BranchState::Active => self.delegate(out),
            branches if branches.iter().all(|branch| branch.enlisted) => self.start_phase_one(out),
            _ => self.phase = Phase::Enlisting,
        }
        Ok(())
    }

    fn rollback(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        match self.phase {
            Phase::Active | Phase::Enlisting | Phase::Working | Phase::Preparing => {
                self.decide_rollback(Cause::Requested, out);
            }
            Phase::Deciding if seeded_bug!("rollback-in-the-logs-hands") => {
                self.decide_rollback(Cause::Requested, out);
            }
            Phase::Delegated => self.fence(Cause::Requested, out),
            Phase::Committing | Phase::Committed => return Err(Refusal::AlreadyCommitted),
            // Deciding (either way), Delegating: in the log's hands; the caller waits for the outcome.
            _ => {}
        }
        Ok(())
    }

    fn deadline_passed(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if now < self.options.deadline {
            // The driver's clock was set back, or it fired early: that may delay a rollback, no more.
            if self.is_undecided() {
                out.push(Effect::SetTimer(Timer::Deadline));
            }
            return;
        }
        match self.phase {
            Phase::Active | Phase::Enlisting | Phase::Working | Phase::Preparing => {
                self.decide_rollback(Cause::TimedOut, out);
            }
            Phase::Committing if seeded_bug!("deadline-beats-decision") => {
                self.decide_rollback(Cause::TimedOut, out);
            }
            Phase::Delegated => self.fence(Cause::TimedOut, out),
            _ => {}
        }
    }

    fn ask_for_votes(&mut self, out: &mut Vec<Effect>) {
        for index in 0..self.branches.len() {
            if matches!(self.branches[index].state, BranchState::Active | BranchState::Worked) {
                let verb = if self.branches[index].kind == Kind::Tcc { Verb::Try } else { Verb::Prepare };
                self.call(index, verb, out);
            }
        }
    }

    pub(crate) fn prepare_if_all_worked(&mut self, out: &mut Vec<Effect>) {
        if self.branches.iter().all(|branch| branch.state != BranchState::Active) {
            self.phase = Phase::Preparing;
            self.ask_for_votes(out);
            self.decide_if_all_voted(out);
        }
    }

    fn decide_if_all_voted(&mut self, out: &mut Vec<Effect>) {
        let waiting = |branch: &Branch| matches!(branch.state, BranchState::Active | BranchState::Worked);
        let missing = self.branches.iter().filter(|branch| waiting(branch)).count();
        if missing > usize::from(seeded_bug!("a-vote-is-missing")) {
            return;
        }
        let prepared = self.ids_where(|branch| branch.state == BranchState::Prepared);
        if prepared.is_empty() {
            self.end_with_nothing_written(out);
            return;
        }
        self.phase = Phase::Deciding;
        let record = Record::Decided { decision: Decision::Commit, branches: prepared, cause: None };
        self.force(record, Forced::Decided, out);
        if seeded_bug!("decision-not-forced") {
            self.logged(Forced::Decided, out);
        }
    }

    fn end_with_nothing_written(&mut self, out: &mut Vec<Effect>) {
        if self.options.stays_open && !seeded_bug!("open-commit-not-forced") {
            // Another coordinator may have taken over, and have let branches join that are not known here.
            self.phase = Phase::Deciding;
            self.force(Record::Ended(Outcome::Committed), Forced::Ended, out);
        } else {
            // So nothing needs to be durable before the answer.
            self.end(Outcome::Committed, out);
        }
    }

    pub(crate) fn decide_rollback(&mut self, cause: Cause, out: &mut Vec<Effect>) {
        self.cause = Some(cause);
        for index in 0..self.branches.len() {
            if self.never_called(&self.branches[index]) {
                self.branches[index].state = BranchState::RolledBack;
            }
            self.branches[index].give_up_call();
        }
        let branches = self.ids_where(|branch| !branch.state.has_ended());
        let record = Record::Decided { decision: Decision::Rollback, branches, cause: Some(cause) };
        if self.options.stays_open && !seeded_bug!("open-rollback-not-forced") {
            self.phase = Phase::DecidingRollback;
            self.force(record, Forced::Decided, out);
        } else {
            self.append(record, out);
            self.roll_back(out);
        }
    }

    /// Tells the initiator and the branches.
    fn roll_back(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::RollingBack;
        out.push(Effect::Tell(Milestone::Decided(Decision::Rollback)));
        self.call_all(Decision::Rollback, out);
        self.end_if_all_ended(out);
    }

    // ---- the log has answered ----

    fn logged(&mut self, record: Forced, out: &mut Vec<Effect>) {
        match (record, self.phase) {
            (Forced::Begun, _) if self.options.stays_open => out.push(Effect::Tell(Milestone::Begun)),
            (Forced::Begun, _) => {
                self.branches.iter_mut().for_each(|branch| branch.enlisted = true);
                self.start_if_enlisted(out);
            }
            (Forced::Registered(id), _) => {
                if let Ok(index) = self.index(id) {
                    self.branches[index].enlisted = true;
                    out.push(Effect::Tell(Milestone::Joined(id)));
                    self.start_if_enlisted(out);
                }
            }
            (Forced::Ended, Phase::Deciding) => self.tell_end(Outcome::Committed, out),
            (Forced::Ended, Phase::DecidingRollback) => self.tell_end(Outcome::RolledBack, out),
            (Forced::Decided, Phase::Deciding) => {
                self.phase = Phase::Committing;
                out.push(Effect::Tell(Milestone::Decided(Decision::Commit)));
                self.call_all(Decision::Commit, out);
            }
            (Forced::Decided, Phase::DecidingRollback) => self.roll_back(out),
            (Forced::Delegated, Phase::Delegating) => {
                self.phase = Phase::Delegated;
                let verb = match self.options.coordinator_driven {
                    true => Verb::WorkAndCommit,
                    false => Verb::CommitOnePhase,
                };
                self.call(0, verb, out);
                // It may have passed while the record was in the log's hands.
                out.push(Effect::SetTimer(Timer::Deadline));
            }
            _ => {}
        }
    }

    fn start_if_enlisted(&mut self, out: &mut Vec<Effect>) {
        if self.phase == Phase::Enlisting && self.branches.iter().all(|branch| branch.enlisted) {
            self.start_phase_one(out);
        }
    }

    // ---- small things ----

    /// Appends a lazy record, after `Begun` if that is still missing.
    pub(crate) fn append(&mut self, record: Record, out: &mut Vec<Effect>) {
        self.append_begun(out);
        out.push(Effect::Append { record, forced: None });
    }

    /// Appends a record that something waits for.
    pub(crate) fn force(&mut self, record: Record, forced: Forced, out: &mut Vec<Effect>) {
        self.append_begun(out);
        out.push(Effect::Append { record, forced: Some(forced) });
    }

    /// Begin itself writes nothing: a transaction that nobody joins leaves no trace until it ends.
    pub(crate) fn append_begun(&mut self, out: &mut Vec<Effect>) {
        if !self.begun {
            self.begun = true;
            out.push(Effect::Append { record: Record::Begun, forced: None });
        }
    }

    /// Whether no call has ever reached the branch: then it has nothing to undo, and a rollback need not wait
    /// for its participant.
    pub(crate) fn never_called(&self, branch: &Branch) -> bool {
        self.options.coordinator_driven
            && !branch.maybe_arrived
            && branch.state == BranchState::Active
            && matches!(branch.call, Call::Waiting(_) | Call::Idle)
            || seeded_bug!("retry-without-fence") && self.phase == Phase::Delegated
    }

    pub(crate) fn index(&self, id: BranchId) -> Result<usize, Refusal> {
        index_of(id).filter(|&index| index < self.branches.len()).ok_or(Refusal::UnknownBranch)
    }

    fn ids_where(&self, keep: impl Fn(&Branch) -> bool) -> Vec<BranchId> {
        self.branches().filter(|(_, branch)| keep(branch)).map(|(id, _)| id).collect()
    }
}

pub(crate) fn id_of(index: usize) -> BranchId {
    // Branches are limited to a thousand at the door.
    BranchId(u32::try_from(index).unwrap_or(u32::MAX - 1) + 1)
}

fn index_of(id: BranchId) -> Option<usize> {
    usize::try_from(id.0.checked_sub(1)?).ok()
}
