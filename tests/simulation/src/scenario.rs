//! What is to happen in one run: all of it follows from the seed, and parts of it can be left out.

use std::time::Duration;

use concord_coordinator::engine::{Grade, Kind, Wait};

use crate::database::Flavor;
use crate::dice::{Dice, Roll};
use crate::network::Place;

/// One run, in advance.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// The database servers.
    pub servers: Vec<Flavor>,
    /// The server that each participant has its schema on.
    pub participants: Vec<u8>,
    /// Accounts of each participant.
    pub accounts: u32,
    /// What each begins with.
    pub opening_balance: i64,
    /// What initiators do.
    pub transactions: Vec<TransactionPlan>,
    /// What breaks, apart from messages.
    pub disasters: Vec<Disaster>,
    /// How messages fare.
    pub weather: Weather,
    /// How coordinators are set.
    pub coordinator: CoordinatorPlan,
    /// How participants are set.
    pub participant: ParticipantPlan,
    /// Branches of another coordinator, prepared in a participant's schema at this time and left there.
    pub foreigners: Vec<(u8, u64)>,
    /// Participants that are not there any more when everything else is mended. They have XA branches only: nobody
    /// else can end a TCC branch.
    pub forsaken: Vec<u8>,
    /// When everything is mended, in milliseconds.
    pub heal_at_ms: u64,
}

/// How messages fare. Probabilities are of each message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// A message takes so long at the most, as a rule.
    pub latency_ms: u64,
    /// The same between a client and its database.
    pub database_ms: u64,
    /// It never arrives.
    pub lose: f64,
    /// It arrives twice.
    pub repeat: f64,
    /// It is late.
    pub stall: f64,
    /// By so much at the most; also the second copy.
    pub late_ms: u64,
    /// A connection to a database breaks, before or after the statements were run.
    pub break_connection: f64,
    /// Statements that were sent together are run with pauses between them.
    pub slow_server: f64,
    /// What is sent to the database of a shared store, or comes back, is late, by [`Weather::late_ms`] at the most.
    pub store_stall: f64,
}

impl Weather {
    /// Nothing goes wrong.
    #[must_use]
    pub fn calm(self) -> Self {
        Weather {
            lose: 0.0,
            repeat: 0.0,
            stall: 0.0,
            break_connection: 0.0,
            slow_server: 0.0,
            store_stall: 0.0,
            ..self
        }
    }
}

/// How coordinators are set.
#[derive(Debug, Clone, Copy)]
pub struct CoordinatorPlan {
    /// How many there are. Two share a store.
    pub count: u8,
    /// With a shared store: a coordinator may be silent for so long.
    pub lease_ms: u64,
    /// With a shared store: a read takes so long at the most for each of its round trips.
    pub slow_read_ms: u64,
    /// The longest pause between two phase-two calls.
    pub backoff_max_ms: u64,
    /// How long a call may take.
    pub call_timeout_ms: u64,
    /// After how many failed phase-two calls a branch is parked; 0: never.
    pub park_after: u32,
    /// Transactions in memory at the most.
    pub live_max: usize,
    /// How long lazy records wait for company.
    pub lazy_ms: u64,
    /// How long a write with a sync takes at the most.
    pub sync_ms: u64,
    /// Between two sweeps of a database.
    pub sweep_ms: u64,
    /// The sweeper's safety interval.
    pub safety_ms: u64,
    /// How long ended transactions are kept.
    pub retention_ms: u64,
    /// Whether what initiators drive stays open when it restarts, as on a shared store; true if there are two.
    pub is_shared: bool,
}

/// How participants are set.
#[derive(Debug, Clone, Copy)]
pub struct ParticipantPlan {
    /// Between two looks at their databases.
    pub recover_ms: u64,
    /// What is younger is left alone.
    pub safety_ms: u64,
    /// How long the end of a branch is remembered; after that the database is asked.
    pub remember_ms: u64,
}

/// What one initiator does.
#[derive(Debug, Clone)]
pub struct TransactionPlan {
    /// Names it in the run.
    pub number: u32,
    /// When it begins.
    pub at_ms: u64,
    /// Who drives it.
    pub way: Way,
    /// What it consists of. The balances that it moves add up to nothing.
    pub branches: Vec<BranchPlan>,
    /// When an undecided transaction is rolled back.
    pub timeout_ms: u32,
    /// Whether the initiator brings an idempotency key, and so may ask again.
    pub keyed: bool,
    /// How often it asks again although it has been answered.
    pub repeats: u32,
    /// How long it waits for an answer.
    pub patience_ms: u64,
    /// When it wants to be answered.
    pub wait: Wait,
    /// How long after an initiator's commit somebody else asks for a rollback.
    pub rival_ms: Option<u64>,
}

/// Who drives a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The coordinator: `Execute`.
    Execute(Grade),
    /// The initiator: `Begin`, calls to the services, and then this.
    Initiated {
        /// XA branches stay open until the coordinator asks for their votes.
        strict: bool,
        /// How it ends if all services have done their work.
        end: Ending,
    },
}

/// How an initiator ends its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It commits.
    Commit,
    /// It changes its mind.
    Rollback,
    /// It is never heard of again.
    Abandon,
}

/// One branch.
#[derive(Debug, Clone)]
pub struct BranchPlan {
    /// Its protocol.
    pub kind: Kind,
    /// Where.
    pub participant: u8,
    /// Accounts, and what is added to their balances. A TCC branch has one. None: it only reads.
    pub moves: Vec<(u32, i64)>,
    /// It only reads while the balance that it finds is even, and else writes, without moving anything.
    pub fickle: bool,
    /// TCC: Confirm and Cancel are refused until everything is mended.
    pub stubborn: bool,
}

/// When a coordinator is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At this time.
    At(u64),
    /// Just before the effect of this number: an append, a sync, its acknowledgement, or a call.
    Before(u64),
    /// Just after it.
    After(u64),
}

/// Something that breaks, and is put right later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    /// kill -9 of a coordinator; what its log had not synced is lost from some point on.
    Coordinator {
        /// Which one.
        who: u8,
        /// When.
        moment: Moment,
        /// For how long.
        down_ms: u64,
    },
    /// A coordinator is stopped in good order: it drains for so long, and closes its store.
    Stop {
        /// Which one.
        who: u8,
        /// When.
        at_ms: u64,
        /// For how long it may drain.
        grace_ms: u64,
    },
    /// A new process takes a participant's place, while the old one, to which nobody listens any more, goes on.
    Twin {
        /// Which one.
        who: u8,
        /// When.
        at_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// kill -9 of a participant.
    Participant {
        /// Which one.
        who: u8,
        /// When.
        at_ms: u64,
        /// For how long.
        down_ms: u64,
    },
    /// kill -9 of a database server.
    Database {
        /// Which one.
        who: u8,
        /// When.
        at_ms: u64,
        /// For how long.
        down_ms: u64,
    },
    /// Nothing goes from one place to the other.
    Partition {
        /// From here.
        from: Place,
        /// To here.
        to: Place,
        /// Nor back.
        both: bool,
        /// When.
        at_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// A coordinator's wall clock jumps.
    Clock {
        /// Which one's.
        who: u8,
        /// When.
        at_ms: u64,
        /// By so much.
        by_ms: i64,
    },
    /// Everything stands still, while time goes by.
    Pause {
        /// When.
        at_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// A coordinator stands still, while the others go on.
    Freeze {
        /// Which one.
        who: u8,
        /// When.
        at_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// The database of a shared store is killed, and started again.
    StoreAway {
        /// When.
        at_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// The clock of a shared store's database jumps.
    StoreClock {
        /// When.
        at_ms: u64,
        /// By so much.
        by_ms: i64,
    },
    /// A coordinator's store fails at the commit of this number; the coordinator stops and is started again.
    Store {
        /// Whose.
        who: u8,
        /// Which commit.
        commit: u64,
        /// Whether what was being written is on disk all the same. Not in a shared store.
        survives: bool,
    },
}

impl Scenario {
    /// The run that follows from a seed.
    pub fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let mut roll = dice.of(1).roll();
        let servers: Vec<Flavor> = (0..roll.between(1..=3)).map(|_| flavor(&mut roll)).collect();
        let count = roll.between(2..=4);
        let participants: Vec<u8> =
            (0..count).map(|number| u8::try_from(number as usize % servers.len()).unwrap_or(0)).collect();
        let accounts = u32::try_from(roll.between(1..=4)).unwrap_or(1);
        let span_ms = roll.between(2_000..=15_000);
        let how_many = roll.between(3..=20);
        let transactions = (0..how_many).map(|number| {
            let number = u32::try_from(number).unwrap_or(0);
            TransactionPlan::new(dice.of(2).of(number.into()), number, span_ms, &participants, accounts)
        });
        let transactions: Vec<_> = transactions.collect();
        let theme = Theme::new(&mut roll);
        let bad_luck = roll.between(0..=theme.disasters_max());
        let mut coordinator = coordinator(dice.of(5), dice.of(10));
        let stage = Stage { span_ms, participants: participants.len(), servers: servers.len(), coordinator };
        let mut disasters: Vec<_> =
            (0..bad_luck).map(|number| Disaster::new(dice.of(3).of(number), theme, &stage)).collect();
        disasters.extend(of_two(dice.of(11), &stage));
        let foreigners = foreigners(dice.of(8), participants.len(), span_ms);
        let forsaken = forsaken(dice.of(9), &transactions, participants.len());
        if !forsaken.is_empty() {
            // What is parked waits for an operator, and the sweeper leaves it to him.
            coordinator.park_after = 0;
        }
        Scenario {
            seed,
            weather: weather(dice.of(4)),
            coordinator,
            participant: participant(dice.of(6)),
            forsaken,
            servers,
            participants,
            accounts,
            opening_balance: 60,
            transactions,
            disasters,
            foreigners,
            heal_at_ms: span_ms + roll.between(1_000..=10_000),
        }
    }

    /// The run without all but these transactions and disasters, and in calm weather if wanted.
    #[must_use]
    pub fn reduced(&self, keep: &Keep) -> Self {
        let mut reduced = self.clone();
        if let Some(numbers) = &keep.transactions {
            reduced.transactions.retain(|plan| numbers.contains(&plan.number));
        }
        if let Some(indices) = &keep.disasters {
            let all = std::mem::take(&mut reduced.disasters);
            reduced.disasters = all
                .into_iter()
                .enumerate()
                .filter(|(index, _)| indices.contains(index))
                .map(|(_, one)| one)
                .collect();
        }
        if keep.calm {
            reduced.weather = reduced.weather.calm();
        }
        reduced
    }

    /// How long a call to a participant may take.
    pub fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.coordinator.call_timeout_ms)
    }
}

/// What is left of a run when it is made smaller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Only these transactions; None: all.
    pub transactions: Option<Vec<u32>>,
    /// Only these disasters; None: all.
    pub disasters: Option<Vec<usize>>,
    /// Nothing happens to messages.
    pub calm: bool,
}

fn flavor(roll: &mut Roll) -> Flavor {
    if roll.chance(0.5) { Flavor::MySql } else { Flavor::MariaDb }
}

fn weather(dice: Dice) -> Weather {
    let mut roll = dice.roll();
    let mut sometimes = |often: f64, most: f64| if roll.chance(often) { roll.fraction() * most } else { 0.0 };
    let (lose, repeat, stall) = (sometimes(0.6, 0.15), sometimes(0.6, 0.5), sometimes(0.6, 0.1));
    let (break_connection, slow_server) = (sometimes(0.5, 0.05), sometimes(0.4, 0.3));
    Weather {
        latency_ms: roll.between(0..=20),
        database_ms: roll.between(0..=3),
        lose,
        repeat,
        stall,
        late_ms: roll.between(100..=60_000),
        break_connection,
        slow_server,
        store_stall: stall / 10.0,
    }
}

fn coordinator(dice: Dice, two: Dice) -> CoordinatorPlan {
    let (mut roll, mut two) = (dice.roll(), two.roll());
    let count = if two.chance(1.0 / 3.0) { 2 } else { 1 };
    let lease_ms = two.between(1_000..=6_000);
    CoordinatorPlan {
        count,
        lease_ms,
        slow_read_ms: if two.chance(0.3) { two.between(0..=lease_ms / 3) } else { 0 },
        backoff_max_ms: roll.between(200..=10_000),
        call_timeout_ms: roll.between(200..=5_000),
        park_after: if roll.chance(0.1) { 3 } else { 0 },
        live_max: if roll.chance(0.1) { 3 } else { 10_000 },
        lazy_ms: roll.between(0..=50),
        sync_ms: if roll.chance(0.1) { 500 } else { roll.between(0..=20) },
        sweep_ms: roll.between(1_000..=10_000),
        safety_ms: roll.between(1_000..=10_000),
        retention_ms: 3_600_000,
        is_shared: roll.chance(0.5) || count > 1,
    }
}

fn foreigners(dice: Dice, participants: usize, span_ms: u64) -> Vec<(u8, u64)> {
    let mut roll = dice.roll();
    let count = if roll.chance(0.2) { roll.between(1..=2) } else { 0 };
    let schema = |roll: &mut Roll| u8::try_from(roll.index(participants)).unwrap_or(0);
    (0..count).map(|_| (schema(&mut roll), roll.between(0..=span_ms))).collect()
}

fn forsaken(dice: Dice, transactions: &[TransactionPlan], participants: usize) -> Vec<u8> {
    let mut roll = dice.roll();
    if !roll.chance(0.3) {
        return Vec::new();
    }
    let indispensable = |number: u8| {
        let mut branches = transactions.iter().flat_map(|plan| &plan.branches);
        branches.any(|branch| branch.participant == number && branch.kind == Kind::Tcc)
    };
    let numbers = (0..participants).filter_map(|number| u8::try_from(number).ok());
    numbers.filter(|number| !indispensable(*number)).collect()
}

fn participant(dice: Dice) -> ParticipantPlan {
    let mut roll = dice.roll();
    ParticipantPlan {
        recover_ms: roll.between(1_000..=10_000),
        safety_ms: roll.between(1_000..=10_000),
        remember_ms: if roll.chance(0.5) { 60_000 } else { roll.between(0..=5_000) },
    }
}

impl TransactionPlan {
    fn new(dice: Dice, number: u32, span_ms: u64, participants: &[u8], accounts: u32) -> Self {
        let mut roll = dice.roll();
        let way = way(&mut roll);
        let branches = branches(&mut roll, participants, accounts);
        let keyed = roll.chance(0.6);
        TransactionPlan {
            number,
            at_ms: roll.between(0..=span_ms),
            way,
            branches,
            timeout_ms: roll.pick(&[200, 1_000, 5_000, 30_000]),
            keyed,
            repeats: if keyed && roll.chance(0.3) { 1 } else { 0 },
            patience_ms: roll.pick(&[500, 3_000, 20_000]),
            wait: if roll.chance(0.3) { Wait::Decided } else { Wait::Completed },
            rival_ms: if roll.chance(0.2) { Some(roll.between(0..=60)) } else { None },
        }
    }
}

fn way(roll: &mut Roll) -> Way {
    if roll.chance(0.6) {
        return Way::Execute(if roll.chance(0.3) { Grade::Strict } else { Grade::EarlyVote });
    }
    let end = match roll.between(0..=9) {
        0..=6 => Ending::Commit,
        7..=8 => Ending::Rollback,
        _ => Ending::Abandon,
    };
    Way::Initiated { strict: roll.chance(0.3), end }
}

/// Branches that move money among each other, and now and then one that only reads.
fn branches(roll: &mut Roll, participants: &[u8], accounts: u32) -> Vec<BranchPlan> {
    let tcc = match roll.between(0..=9) {
        0..=3 => 0.0,
        4..=7 => 1.0,
        _ => 0.5,
    };
    let account = |roll: &mut Roll| u32::try_from(roll.index(accounts as usize)).unwrap_or(0);
    let place = |roll: &mut Roll| u8::try_from(roll.index(participants.len())).unwrap_or(0);
    if tcc == 0.0 && roll.chance(0.2) {
        // Alone, it commits in one phase.
        let participant = place(roll);
        let fickle = roll.chance(0.2);
        let amount = amount(roll);
        let moves = if fickle { Vec::new() } else { vec![(account(roll), -amount), (account(roll), amount)] };
        return vec![BranchPlan { kind: Kind::Xa, participant, moves, fickle, stubborn: false }];
    }
    let count = roll.pick(&[2, 2, 2, 3, 4]);
    let mut sum = 0;
    let mut branches: Vec<BranchPlan> = Vec::new();
    for index in 0..count {
        let last = index + 1 == count;
        let delta = if last { -sum } else { -amount(roll) };
        sum += delta;
        let kind = if roll.chance(tcc) { Kind::Tcc } else { Kind::Xa };
        let participant = place(roll);
        let stubborn = kind == Kind::Tcc && roll.chance(0.05);
        let moves = vec![(account(roll), delta)];
        branches.push(BranchPlan { kind, participant, moves, fickle: false, stubborn });
    }
    if roll.chance(0.15) {
        let participant = place(roll);
        let fickle = roll.chance(0.5);
        branches.push(BranchPlan { kind: Kind::Xa, participant, moves: Vec::new(), fickle, stubborn: false });
    }
    branches
}

fn amount(roll: &mut Roll) -> i64 {
    i64::try_from(roll.between(1..=30)).unwrap_or(1)
}

/// What a run's disasters have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Everything,
    Coordinator,
    Participants,
    Databases,
}

impl Theme {
    fn new(roll: &mut Roll) -> Self {
        match roll.between(0..=9) {
            0..=5 => Theme::Everything,
            6..=7 => Theme::Coordinator,
            8 => Theme::Participants,
            _ => Theme::Databases,
        }
    }

    fn disasters_max(self) -> u64 {
        if self == Theme::Everything { 6 } else { 12 }
    }

    /// Picks the kind of a disaster.
    fn kind(self, roll: &mut Roll) -> u64 {
        match self {
            Theme::Everything => roll.between(0..=22),
            Theme::Coordinator => roll.pick(&[0, 0, 0, 17, 19, 22]),
            Theme::Participants => roll.pick(&[8, 8, 14, 20]),
            Theme::Databases => roll.pick(&[11, 11, 14]),
        }
    }
}

/// What disasters may happen to.
struct Stage {
    span_ms: u64,
    participants: usize,
    servers: usize,
    coordinator: CoordinatorPlan,
}

impl Stage {
    fn coordinator(&self, roll: &mut Roll) -> u8 {
        match self.coordinator.count {
            1 => 0,
            count => who(roll, count.into()),
        }
    }
}

fn who(roll: &mut Roll, count: usize) -> u8 {
    u8::try_from(roll.index(count)).unwrap_or(0)
}

/// What happens to coordinators that share a store, besides.
fn of_two(dice: Dice, stage: &Stage) -> Vec<Disaster> {
    if stage.coordinator.count < 2 {
        return Vec::new();
    }
    let count = dice.roll().between(0..=6);
    (1..=count).map(|number| Disaster::of_two(dice.of(number), stage)).collect()
}

impl Disaster {
    fn of_two(dice: Dice, stage: &Stage) -> Self {
        let mut roll = dice.roll();
        let at_ms = roll.between(0..=stage.span_ms);
        let for_ms = roll.between(0..=3 * stage.coordinator.lease_ms);
        let who = stage.coordinator(&mut roll);
        match roll.between(0..=9) {
            0..=3 => Disaster::Freeze { who, at_ms, for_ms },
            4 => Disaster::StoreAway { at_ms, for_ms },
            5 => {
                let (from, to) = (Place::Coordinator(who), Place::Coordinator(1 - who.min(1)));
                Disaster::Partition { from, to, both: roll.chance(0.5), at_ms, for_ms }
            }
            6 => {
                let by = i64::try_from(roll.between(0..=60_000)).unwrap_or(0);
                Disaster::StoreClock { at_ms, by_ms: if roll.chance(0.5) { by } else { -by } }
            }
            7..=8 => {
                let (from, to) = (Place::Coordinator(who), Place::Store);
                let (from, to) = if roll.chance(0.5) { (from, to) } else { (to, from) };
                Disaster::Partition { from, to, both: roll.chance(0.7), at_ms, for_ms }
            }
            _ => Disaster::Coordinator { who, moment: Moment::At(at_ms), down_ms: for_ms },
        }
    }

    fn new(dice: Dice, theme: Theme, stage: &Stage) -> Self {
        let Stage { span_ms, participants, servers, .. } = *stage;
        let mut roll = dice.roll();
        let at_ms = roll.between(0..=span_ms);
        let down_ms = roll.mostly_short(10_000);
        match theme.kind(&mut roll) {
            0..=7 => {
                let effect = roll.between(1..=150);
                let moment = match roll.between(0..=3) {
                    0 => Moment::At(at_ms),
                    1 => Moment::Before(effect),
                    _ => Moment::After(effect),
                };
                Disaster::Coordinator { who: stage.coordinator(&mut roll), moment, down_ms }
            }
            8..=10 => Disaster::Participant { who: who(&mut roll, participants), at_ms, down_ms },
            11..=13 => Disaster::Database { who: who(&mut roll, servers), at_ms, down_ms },
            14..=16 => {
                let participant = Place::Participant(who(&mut roll, participants));
                let coordinator = Place::Coordinator(stage.coordinator(&mut roll));
                let (from, to) = match roll.between(0..=5) {
                    0 => (Place::Initiators, coordinator),
                    1 => (participant, Place::Database(who(&mut roll, servers))),
                    2 => (coordinator, Place::Database(who(&mut roll, servers))),
                    _ => (coordinator, participant),
                };
                let (from, to) = if roll.chance(0.5) { (from, to) } else { (to, from) };
                Disaster::Partition { from, to, both: roll.chance(0.5), at_ms, for_ms: down_ms }
            }
            17 => {
                let by = i64::try_from(roll.between(0..=600_000)).unwrap_or(0);
                let by_ms = if roll.chance(0.5) { by } else { -by };
                Disaster::Clock { who: stage.coordinator(&mut roll), at_ms, by_ms }
            }
            18 => Disaster::Pause { at_ms, for_ms: down_ms },
            19 => Disaster::Stop { who: stage.coordinator(&mut roll), at_ms, grace_ms: down_ms },
            20..=21 => Disaster::Twin { who: who(&mut roll, participants), at_ms, for_ms: down_ms },
            _ => {
                let (commit, survives) = (roll.between(1..=60), roll.chance(0.5));
                Disaster::Store { who: stage.coordinator(&mut roll), commit, survives }
            }
        }
    }
}
