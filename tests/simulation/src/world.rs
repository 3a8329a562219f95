//! One run: sets the stage, lets everything happen, mends it, waits for quiet, and looks whether the claims hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concord_protocol::{ClusterId, Gtid};
use concord_xa::Xid;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::{self, Told};
use crate::coordinator::Coordinator;
use crate::database::Host;
use crate::dice::Dice;
use crate::figures::{Counts, Fault, Faults};
use crate::mutant::Mutant;
use crate::network::Network;
use crate::participant::{Job, Participant};
use crate::scenario::{BranchPlan, Disaster, Moment, Scenario};
use crate::store::Server;
use crate::{initiator, nemesis};

/// The coordinator's identity.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xC0);

/// Everything that takes part in one run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) dice: Dice,
    pub(crate) network: Network,
    pub(crate) figures: Counts,
    pub(crate) databases: Vec<Arc<Host>>,
    pub(crate) participants: Vec<Arc<Participant>>,
    /// One; or two, which share the store of this server.
    coordinators: Vec<Coordinator>,
    pub(crate) server: Option<Arc<Server>>,
    pub(crate) options: Options,
    start: Instant,
    healed: AtomicBool,
    /// Told to initiators, in this order.
    told: Mutex<Vec<Told>>,
    /// The transactions behind the gtids.
    names: Mutex<BTreeMap<Gtid, u32>>,
    violations: Mutex<Vec<Violation>>,
    /// Branches of another coordinator, which nobody may touch.
    foreigners: Mutex<Vec<(u8, Xid)>>,
    transcript: Option<Mutex<String>>,
}

/// A claim that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one, e.g. "I1".
    pub claim: &'static str,
    /// What was seen.
    pub what: String,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Claims that do not hold.
    pub violations: Vec<Violation>,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Transactions whose effects are there.
    pub committed: u64,
    /// Transactions that left no effects.
    pub rolled_back: u64,
    /// What happened, line by line; empty unless it was asked for.
    pub transcript: String,
}

/// How a scenario is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// With this bug.
    pub mutant: Option<Mutant>,
    /// Written down, line by line.
    pub transcript: bool,
    /// An initiator that was told "rolled back" must not be told "committed" when it asks again with the same key.
    /// As yet it may be, if the coordinator crashed in between: the record of a rollback is not forced.
    pub strict_keys: bool,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, options: Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("no runtime: {error}");
            return Outcome { violations: vec![Violation { claim: "start", what }], ..Outcome::default() };
        }
    };
    runtime.block_on(async {
        let world = Arc::new(World::new(scenario.clone(), options));
        world.play().await
    })
}

impl World {
    fn new(scenario: Scenario, options: Options) -> Self {
        let dice = Dice::new(scenario.seed).of(7);
        let hosts = scenario.servers.iter().zip(0u8..);
        let databases: Vec<_> = hosts.map(|(flavor, number)| Host::new(number, *flavor)).collect();
        let mut participants = Vec::new();
        for (server, number) in scenario.participants.iter().zip(0u8..) {
            let Some(host) = databases.get(usize::from(*server)) else { continue };
            host.inspect(|server| {
                for account in 0..scenario.accounts {
                    server.open_account(number, account, scenario.opening_balance);
                }
            });
            participants.push(Participant::new(number, Arc::clone(host)));
        }
        let numbers = 0..scenario.coordinator.count;
        let server = (scenario.coordinator.count > 1).then(Arc::<Server>::default);
        World {
            network: Network::new(dice.of(1), scenario.weather),
            figures: Counts::default(),
            coordinators: numbers.map(|number| Coordinator::new(number, server.as_ref())).collect(),
            server,
            start: Instant::now(),
            healed: AtomicBool::new(false),
            told: Mutex::default(),
            names: Mutex::default(),
            violations: Mutex::default(),
            foreigners: Mutex::default(),
            transcript: options.transcript.then(Mutex::default),
            databases,
            participants,
            options,
            dice,
            scenario,
        }
    }

    async fn play(self: &Arc<Self>) -> Outcome {
        for number in 0..self.scenario.coordinator.count {
            let world = Arc::clone(self);
            tokio::spawn(async move { world.coordinator(number).supervise(&world).await });
        }
        self.participants.iter().for_each(|participant| participant.start(self));
        let mut initiators = JoinSet::new();
        for plan in &self.scenario.transactions {
            initiators.spawn(initiator::act(Arc::clone(self), plan.clone()));
        }
        let rage = nemesis::rage(self);
        self.pause(self.scenario.heal_at_ms).await;
        rage.end();
        nemesis::mend(self);
        self.say(|| "everything is mended".into());
        initiators.join_all().await;
        check::until_quiet(self).await;
        check::all(self).await;
        let summary = check::summary(self);
        if let Some(server) = &self.server {
            let counts = server.counts();
            self.figures.add(Fault::TakeOver, counts.take_overs);
            self.figures.add(Fault::Fenced, counts.fenced);
        }
        let outcome = Outcome {
            violations: std::mem::take(&mut *locked(&self.violations)),
            faults: self.figures.total(),
            simulated_ms: self.now_ms(),
            committed: summary.committed,
            rolled_back: summary.rolled_back,
            transcript: self
                .transcript
                .as_ref()
                .map(|text| std::mem::take(&mut *locked(text)))
                .unwrap_or_default(),
        };
        self.coordinators.iter().for_each(Coordinator::stop);
        outcome
    }

    /// The coordinator of this number; the first if there is no such.
    pub(crate) fn coordinator(&self, number: u8) -> &Coordinator {
        self.coordinators.get(usize::from(number)).unwrap_or(&self.coordinators[0])
    }

    pub(crate) fn coordinators(&self) -> &[Coordinator] {
        &self.coordinators
    }

    /// Milliseconds since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets time pass.
    pub(crate) async fn pause(&self, ms: u64) {
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }

    /// A line of the transcript, if there is one.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if let Some(transcript) = &self.transcript {
            let now = self.now_ms();
            // Writing to a String cannot fail.
            let _ = writeln!(locked(transcript), "{:>6}.{:03}  {}", now / 1_000, now % 1_000, line());
        }
    }

    /// Notes that a claim does not hold.
    pub(crate) fn violation(&self, claim: &'static str, what: String) {
        self.say(|| format!("VIOLATION of {claim}: {what}"));
        locked(&self.violations).push(Violation { claim, what });
    }

    /// Notes what an initiator was told.
    pub(crate) fn tell(&self, told: Told) {
        self.say(|| format!("initiator {}: told {:?} of {:?}", told.transaction, told.answer, told.gtid));
        locked(&self.told).push(told);
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        locked(&self.told).clone()
    }

    pub(crate) fn add_foreigner(&self, schema: u8, xid: Xid) {
        locked(&self.foreigners).push((schema, xid));
    }

    pub(crate) fn foreigners(&self) -> Vec<(u8, Xid)> {
        locked(&self.foreigners).clone()
    }

    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        self.options.mutant == Some(mutant)
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_healed(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    /// Learns which transaction a gtid belongs to.
    pub(crate) fn name(&self, gtid: Gtid, transaction: u32) {
        locked(&self.names).insert(gtid, transaction);
    }

    pub(crate) fn names(&self) -> BTreeMap<Gtid, u32> {
        locked(&self.names).clone()
    }

    /// What messages about a gtid are about: its transaction.
    pub(crate) fn about(&self, gtid: Gtid) -> u64 {
        locked(&self.names).get(&gtid).copied().map_or(2_000_000, u64::from)
    }

    /// What a branch is to do.
    pub(crate) fn branch_plan(&self, job: &Job) -> Option<&BranchPlan> {
        let plan = self.scenario.transactions.iter().find(|plan| plan.number == job.transaction)?;
        plan.branches.get(job.branch)
    }

    /// Whether a coordinator dies at this moment, and for how long.
    pub(crate) fn dies(&self, number: u8, at: Moment) -> Option<u64> {
        if self.is_healed() {
            return None;
        }
        self.scenario.disasters.iter().find_map(|disaster| match disaster {
            Disaster::Coordinator { who, moment, down_ms } if *who == number && *moment == at => {
                Some(*down_ms)
            }
            _ => None,
        })
    }

    /// Whether a coordinator's store fails at this commit, and whether the commit is on disk all the same.
    pub(crate) fn store_fails_at(&self, number: u8, at: u64) -> Option<bool> {
        if self.is_healed() {
            return None;
        }
        self.scenario.disasters.iter().find_map(|disaster| match disaster {
            Disaster::Store { who, commit, survives } if *who == number && *commit == at => Some(*survives),
            _ => None,
        })
    }

    /// Of the coordinators, the one that is called next about this.
    pub(crate) fn any_coordinator(&self, about: u64, what: u64) -> u8 {
        let count = self.coordinators.len();
        if count == 1 {
            return 0;
        }
        let number = self.network.number(about, 20_000 + what);
        let mut roll = self.dice.of(0xA4B).of(about).of(what).of(number).roll();
        u8::try_from(roll.index(count)).unwrap_or(0)
    }
}

/// Where a participant listens.
pub(crate) fn address(participant: u8) -> String {
    format!("http://participant-{participant}")
}

pub(crate) fn participant_number(address: &str) -> Option<u8> {
    address.strip_prefix("http://participant-")?.parse().ok()
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
