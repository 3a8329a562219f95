//! One run: sets the stage, lets everything happen, mends it, waits for quiet, and looks whether the claims hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concord_coordinator::engine::Engine;
use concord_protocol::{ClusterId, Gtid};
use concord_xa::Xid;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::{self, Told};
use crate::coordinator::Coordinator;
use crate::database::Host;
use crate::dice::Dice;
use crate::figures::{Counts, Faults};
use crate::mutant::Mutant;
use crate::network::{self, Delivered, Lost, Message, Network, Place};
use crate::participant::{Job, Participant};
use crate::scenario::{BranchPlan, Disaster, Moment, Scenario};
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
    pub(crate) coordinator: Coordinator,
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
        World {
            network: Network::new(dice.of(1), scenario.weather),
            figures: Counts::default(),
            coordinator: Coordinator::new(),
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
        let world = Arc::clone(self);
        tokio::spawn(async move { world.coordinator.supervise(&world).await });
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
        self.coordinator.stop();
        outcome
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

    /// Whether the coordinator dies at this moment, and for how long.
    pub(crate) fn dies(&self, at: Moment) -> Option<u64> {
        if self.is_healed() {
            return None;
        }
        self.scenario.disasters.iter().find_map(|disaster| match disaster {
            Disaster::Coordinator { moment, down_ms } if *moment == at => Some(*down_ms),
            _ => None,
        })
    }

    /// Whether the store fails at this commit, and whether the commit is on disk all the same.
    pub(crate) fn store_fails_at(&self, at: u64) -> Option<bool> {
        if self.is_healed() {
            return None;
        }
        self.scenario.disasters.iter().find_map(|disaster| match disaster {
            Disaster::Store { commit, survives } if *commit == at => Some(*survives),
            _ => None,
        })
    }

    /// Asks the coordinator something, from `from`.
    pub(crate) async fn ask<T, F, Fut>(
        self: &Arc<Self>,
        from: Place,
        about: u64,
        what: u64,
        limit: Duration,
        question: F,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: Fn(Arc<Engine>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let message = Message { from, to: Place::Coordinator, about, what, repeatable: true };
        self.ask_with(message, limit, question).await
    }

    pub(crate) async fn ask_with<T, F, Fut>(
        self: &Arc<Self>,
        message: Message,
        limit: Duration,
        question: F,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: Fn(Arc<Engine>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let world = Arc::clone(self);
        network::call(self, message, limit, move || {
            let answer = world.coordinator.door().map(|(life, engine)| (life, question(engine)));
            async move {
                match answer {
                    Some((life, answer)) => life.within(answer).await.into(),
                    None => Delivered::Nobody,
                }
            }
        })
        .await
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
