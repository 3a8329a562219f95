//! The world in which one scenario is played again and again, with another death each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use concord_crash_points::Order;
use concord_proto::v1::RetryRequest;
use concord_tests::{Fault, Outcome, Pair, Process, Programs, Transfer, Verb, World, until};

use super::attempt::{Attempt, Finished};
use super::case::{Case, Moment, Role};
use super::scenario::{End, Scenario};

const PROGRAMS: Programs = concord_tests::programs!();
/// Accounts of each bank; the first is used, or one after the other.
const ACCOUNTS: u32 = 200;
/// The balance that each begins with.
pub(super) const BALANCE: i64 = 1_000_000;
/// Transactions run for one death at the most: the point may be one that only the next one reaches.
const TRANSACTIONS_MAX: usize = 3;
/// See [`Scenario::ends_sessions`].
const PLAIN_TRIES_MAX: usize = 5;

pub(super) struct Stage {
    pub(super) scenario: Scenario,
    pub(super) world: World,
    /// Of all transactions that anybody ever asked for.
    pub(super) names: BTreeSet<String>,
    /// The account of the last transaction.
    account: u32,
    /// Of the plain transfer after the last case.
    plain: Vec<Finished>,
}

impl Stage {
    pub(super) async fn set(scenario: Scenario, pair: &Pair) -> Result<Stage> {
        let banks = pair.banks(ACCOUNTS, BALANCE).await?;
        let world = World::start(PROGRAMS, banks, scenario.options()).await?;
        let mut stage = Stage { scenario, world, names: BTreeSet::new(), account: 1, plain: Vec::new() };
        // What happens only once, such as learning who the coordinator is, happens now.
        stage.plain_transfer().await?;
        Ok(stage)
    }

    pub(super) fn process(&mut self, role: Role) -> &mut Process {
        match role {
            Role::Coordinator => self.world.coordinator.process(),
            Role::One => self.world.one.process(),
            Role::Two => self.world.two.process(),
        }
    }

    async fn ask(&mut self, role: Role, line: &str) -> Result<String> {
        match role {
            Role::Coordinator => self.world.coordinator.ask(line).await,
            Role::One => self.world.one.ask(line).await,
            Role::Two => self.world.two.ask(line).await,
        }
    }

    /// Whether a process is not running.
    pub(super) fn is_gone(&mut self, role: Role) -> Result<bool> {
        let process = self.process(role);
        Ok(process.pid().is_none() || process.exited()?.is_some())
    }

    pub(super) fn is_any_gone(&mut self) -> Result<bool> {
        Role::ALL.into_iter().try_fold(false, |any, role| Ok(any | self.is_gone(role)?))
    }

    /// Plays the scenario without a death: how often each process comes to each point.
    pub(super) async fn rehearse(&mut self) -> Result<BTreeMap<(Role, String), u32>> {
        for role in Role::ALL {
            self.ask(role, "reached").await?;
        }
        let attempts = self.start(None).await?;
        until("the scenario is over", async || Ok(self.is_over(&attempts).await?.then_some(()))).await?;
        self.heal(true).await?;
        let told = self.scenario.outcome();
        for attempt in &attempts {
            let outcome = attempt.answer().await?;
            ensure!(told.is_none_or(|told| told == outcome), "told {outcome:?} and not {told:?}");
        }
        let finished = self.finish(attempts, false).await?;
        self.audit(finished).await?;
        let mut reached = BTreeMap::new();
        for role in Role::ALL {
            for word in self.ask(role, "reached").await?.split_whitespace() {
                let (name, times) = word.split_once('=').context("NAME=TIMES")?;
                reached.insert((role, name.to_owned()), times.parse()?);
            }
        }
        Ok(reached)
    }

    /// Plays the scenario with a death; then everything comes back, ends, and is looked at. `again`: initiators that
    /// were told nothing ask again. Answers whether anybody has died: a point that was reached in the rehearsal may be
    /// one that is reached by chance.
    pub(super) async fn play(&mut self, case: &Case, again: bool) -> Result<bool> {
        let order = self.order(case)?;
        if let (Some((at, order)), false) = (&order, self.scenario.arms_at_restart()) {
            self.ask(*at, &format!("crash-at {order}")).await?;
        }
        let order = order.as_ref().map(|(_, order)| order);
        let (mut attempts, mut transactions) = (Vec::new(), 0);
        while !self.is_gone(case.victim)? && transactions < TRANSACTIONS_MAX {
            transactions += 1;
            let went = self.go(case, order, &mut attempts).await;
            // Whoever has just died answers no more.
            if went.is_err() && !self.is_dying(case.victim).await? {
                return went.map(|()| false);
            }
        }
        let died = self.is_gone(case.victim)?;
        self.heal(true).await?;
        let finished = self.finish(attempts, again).await?;
        self.audit(finished).await?;
        self.plain_transfer().await?;
        Ok(died)
    }

    /// One transaction, until somebody dies or it is over.
    async fn go(&mut self, case: &Case, order: Option<&Order>, attempts: &mut Vec<Attempt>) -> Result<()> {
        if !attempts.is_empty() {
            self.heal(false).await?;
            self.world.settled().await?;
        }
        let begun = self.start(order).await?;
        if case.moment == Moment::Answered {
            begun[0].answer().await?;
            self.process(case.victim).kill9()?;
        }
        attempts.extend(begun);
        until("somebody dies, or the scenario is over", async || {
            Ok((self.is_gone(case.victim)? || self.is_over(attempts).await?).then_some(()))
        })
        .await
    }

    /// Whether a process is gone, or will be when the system has cleared it away.
    async fn is_dying(&mut self, role: Role) -> Result<bool> {
        for _ in 0..100 {
            if self.is_gone(role)? {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(false)
    }

    fn order(&mut self, case: &Case) -> Result<Option<(Role, Order)>> {
        let Moment::Point { name, at, nth, linger } = &case.moment else { return Ok(None) };
        let victim = match case.victim == *at {
            true => None,
            false => Some(self.process(case.victim).pid().context("the victim is running")?),
        };
        Ok(Some((*at, Order { name: name.clone(), nth: *nth, linger: *linger, victim })))
    }

    /// Starts again what has died, and undoes what the scenario did to the others; disarms what is still armed.
    async fn heal(&mut self, disarm: bool) -> Result<()> {
        for role in Role::ALL {
            if self.is_gone(role)? {
                match role {
                    Role::Coordinator => self.world.coordinator.restart().await?,
                    Role::One => self.world.one.restart().await?,
                    Role::Two => self.world.two.restart().await?,
                }
            } else if disarm {
                self.ask(role, "crash-at none").await?;
            }
        }
        if self.scenario.has_faults() {
            for verb in Verb::ALL {
                self.world.one.fault(verb, Fault::None).await?;
                self.world.two.fault(verb, Fault::None).await?;
            }
        }
        if let Scenario::Operated { .. } = self.scenario {
            for gtid in self.parked().await? {
                let order = RetryRequest { gtid, operator: "grace".into() };
                self.world.coordinator.operator().retry(order).await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self, attempts: Vec<Attempt>, again: bool) -> Result<Vec<Finished>> {
        let mut finished = std::mem::take(&mut self.plain);
        for attempt in attempts {
            finished.push(attempt.finish(again.then(|| self.world.coordinator.api())).await?);
        }
        Ok(finished)
    }

    /// Everything ends, and as it was told; nothing is left over, nothing was made or lost (I1 to I4, I7, I8).
    async fn audit(&mut self, transactions: Vec<Finished>) -> Result<()> {
        self.world.settled().await?;
        let [one, two] = self.world.banks();
        let ledgers = [one.ledger().await?, two.ledger().await?];
        for Finished { transfer, takes_part } in &transactions {
            self.world.agreed(transfer, *takes_part, &ledgers).await?;
        }
        let booked = ledgers.iter().flat_map(|ledger| ledger.keys());
        let strangers: Vec<_> = booked.filter(|name| !self.names.contains(*name)).collect();
        ensure!(strangers.is_empty(), "nobody asked for {strangers:?}");
        self.world.conserved().await
    }

    /// A transfer succeeds as if nothing had been. It is looked at with the next case.
    async fn plain_transfer(&mut self) -> Result<()> {
        for tries in 1.. {
            let request = self.request(self.scenario.kinds(), End::Commit);
            let name = request.name.clone();
            let answer = self.world.coordinator.api().execute(request).await.map(tonic::Response::into_inner);
            let outcome = Outcome::of(&answer);
            self.plain.push(Finished { transfer: Transfer { name, outcome }, takes_part: [true; 2] });
            if outcome == Outcome::Committed {
                break;
            }
            let may =
                self.scenario.ends_sessions() && outcome == Outcome::RolledBack && tries < PLAIN_TRIES_MAX;
            ensure!(may, "a plain transfer afterwards: {answer:?}");
        }
        // Else the next point that is armed would be one of this transfer's.
        self.world.coordinator.drained().await
    }

    /// The last look. Nothing is locked any more.
    pub(super) async fn close(mut self) -> Result<()> {
        let plain = std::mem::take(&mut self.plain);
        self.audit(plain).await?;
        for bank in self.world.banks() {
            until("no account is locked", async || {
                Ok(bank.run("SELECT id FROM account FOR UPDATE NOWAIT").await.ok())
            })
            .await?;
        }
        Ok(())
    }

    /// The account of the next transaction.
    pub(super) fn account(&mut self) -> u32 {
        if self.scenario.leaves_locks() {
            self.account = self.account % ACCOUNTS + 1;
        }
        self.account
    }

    /// Of a transaction that is begun now.
    pub(super) fn note(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }
}
