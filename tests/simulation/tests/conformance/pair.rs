//! Both databases, side by side: each step is put to the real one first, whose choices the simulation then follows
//! where it has one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use concord_sandbox::Flavor;
use concord_simulation::database::{
    self, Answer, Isolation, Key, Row, Server, SessionId, Statement, Stop, code,
};
use concord_xa::Xid;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::real::{self, Real, Reply, State};
use super::sql;
use super::step::{ACCOUNTS, Names, OPENING, Step, Verb};

/// A real statement that neither ends nor waits for so long has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a session answers, or that it waits.
type Outcome = Result<Answer, Stop>;

/// In what the two differ.
pub(crate) type Difference = String;

pub(crate) struct Pair<'a> {
    flavor: Flavor,
    real: &'a mut Real,
    model: Server,
    slots: Vec<Slot>,
    names: Names,
    started: BTreeSet<Xid>,
    transcript: String,
}

/// One session of each.
struct Slot {
    real: real::Session,
    id: SessionId,
    waiting: Option<Waiting>,
}

/// A statement that has been sent.
struct Waiting {
    statement: Statement,
    answered: oneshot::Receiver<Reply>,
    /// The real server's answer; blocked until it is there.
    real: Outcome,
    /// The simulation's; the same.
    simulated: Outcome,
}

impl Waiting {
    /// Whether the real server has answered, and the simulation has not.
    fn is_behind(&self) -> bool {
        self.real != Err(Stop::Blocked) && self.simulated == Err(Stop::Blocked)
    }
}

impl Slot {
    fn waits_to_insert(&self) -> bool {
        let statement = self.waiting.as_ref().map(|waiting| waiting.statement);
        matches!(statement, Some(Statement::Marker(..) | Statement::Barrier { .. }))
    }
}

impl<'a> Pair<'a> {
    pub(crate) async fn new(flavor: Flavor, real: &'a mut Real) -> Self {
        let mut model = Server::new(match flavor {
            Flavor::MySql => database::Flavor::MySql,
            Flavor::MariaDb => database::Flavor::MariaDb,
        });
        (0..ACCOUNTS).for_each(|account| model.open_account(0, account, OPENING));
        let names = Names::new(real.next_case().await);
        let sessions = real::sessions(real).await;
        let slot = |real| Slot { real, id: model.connect(), waiting: None };
        let slots = sessions.into_iter().map(slot).collect();
        Pair { flavor, real, model, slots, names, started: BTreeSet::new(), transcript: String::new() }
    }

    /// Runs a case, and ends its sessions.
    pub(crate) async fn run(&mut self, steps: &[Step]) -> Result<(), Difference> {
        let mut outcome = Ok(());
        for step in steps {
            outcome = self.step(step).await;
            if outcome.is_err() {
                break;
            }
        }
        // Whatever came of it, the next case finds nobody there.
        for slot in std::mem::take(&mut self.slots) {
            self.real.end(slot.real).await;
        }
        outcome
    }

    /// The difference, and what led to it.
    pub(crate) fn tell(&self, difference: &str) -> String {
        format!("{difference}\n{}", self.transcript)
    }

    fn say(&mut self, line: String) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.transcript, "  {line}");
    }

    async fn step(&mut self, step: &Step) -> Result<(), Difference> {
        match step {
            Step::Run { slot, verbs } => {
                for verb in verbs {
                    if self.slots[*slot].waiting.is_some() || !self.put(*slot, *verb).await? {
                        break;
                    }
                }
            }
            Step::Disconnect { slot } => {
                // The server would not notice before its statement has ended.
                if self.slots[*slot].waiting.is_none() {
                    self.say(format!("session {slot} disconnects"));
                    self.reconnect(*slot).await?;
                }
            }
            Step::Kill { by, whom } => {
                if by != whom && self.slots[*by].waiting.is_none() {
                    self.kill(*by, *whom).await?;
                }
            }
            Step::Crash => self.crash().await?,
        }
        self.compare().await
    }

    /// Puts a statement to both. Answers whether it succeeded.
    async fn put(&mut self, at: usize, verb: Verb) -> Result<bool, Difference> {
        if let Verb::Start(branch) = verb
            && !self.name_is_fit(branch)
        {
            return Ok(false);
        }
        if self.is_landmine(verb) {
            return Ok(false);
        }
        let Some(statement) = verb.statement(self.names) else {
            if let Verb::Process(whom) = verb {
                self.look_at(at, whom).await?;
            }
            return Ok(true);
        };
        let slot = &mut self.slots[at];
        let answered = slot.real.send(sql::of(&statement));
        let simulated = self.model.execute(slot.id, &statement).map(comparable);
        slot.waiting = Some(Waiting { statement, answered, real: Err(Stop::Blocked), simulated });
        self.come_to_rest().await?;
        let succeeded = self.slots[at].waiting.as_ref().is_some_and(|waiting| waiting.real.is_ok());
        self.check(at)?;
        self.check_others()?;
        Ok(succeeded)
    }

    /// Gives a branch that has ended another name. False: there is none left.
    fn name_is_fit(&mut self, branch: usize) -> bool {
        let xid = self.names.xid(branch);
        if self.started.contains(&xid) && !self.model.knows(&xid) && !self.names.renew(branch) {
            return false;
        }
        self.started.insert(self.names.xid(branch));
        true
    }

    /// Whether the server would commit what it must never be asked to: MySQL, in one phase, a branch that another
    /// session has prepared (docs/xa.md, "Landmines").
    fn is_landmine(&self, verb: Verb) -> bool {
        let prepared = |branch| self.model.prepared().contains(&self.names.xid(branch));
        self.flavor == Flavor::MySql && matches!(verb, Verb::CommitOnePhase(branch) if prepared(branch))
    }

    /// Lets both go on until nothing moves any more.
    async fn come_to_rest(&mut self) -> Result<(), Difference> {
        let inserts = self.slots.iter().filter(|slot| slot.waits_to_insert()).count();
        loop {
            let deadlock = self.slots.iter().any(|slot| self.model.is_deadlocked(slot.id));
            self.settle(deadlock).await?;
            // Two that waited for a third's rollback get in each other's way, as real servers have it.
            let victim =
                self.victim().filter(|at| deadlock || (inserts > 1 && self.slots[*at].waits_to_insert()));
            if let Some(victim) = victim {
                self.fall_victim(victim);
            } else if !self.go_on() {
                return Ok(());
            }
        }
    }

    /// Waits until every statement that has been sent is answered or waits for a lock; after a deadlock also until
    /// the server has chosen its victim, which takes MySQL a moment.
    async fn settle(&mut self, deadlock: bool) -> Result<(), Difference> {
        let started = Instant::now();
        loop {
            self.collect();
            let unanswered = self.waiting().filter(|(_, waiting)| waiting.real == Err(Stop::Blocked));
            let asked: Vec<u32> = unanswered.map(|(at, _)| self.slots[at].real.thread).collect();
            let chosen = !deadlock || self.victim().is_some();
            if asked.is_empty() && chosen {
                return Ok(());
            }
            let waiting = self.real.waiting().await;
            if asked.iter().all(|thread| waiting.contains(thread)) && chosen {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("a statement neither ends nor waits; deadlock expected: {deadlock}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn collect(&mut self) {
        for waiting in self.slots.iter_mut().filter_map(|slot| slot.waiting.as_mut()) {
            if waiting.real == Err(Stop::Blocked)
                && let Ok(reply) = waiting.answered.try_recv()
            {
                let real = reply.map(|reply| as_simulated(&waiting.statement, reply));
                waiting.real = real.map_err(Stop::Error);
            }
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, &Waiting)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.waiting.as_ref()?)))
    }

    /// A deadlock's victim by the real server's choice, which the simulation has yet to follow.
    fn victim(&self) -> Option<usize> {
        let mut waiting = self.waiting();
        let is_victim = |one: &Waiting| one.is_behind() && one.real == Err(Stop::Error(code::DEADLOCK));
        Some(waiting.find(|(_, waiting)| is_victim(waiting))?.0)
    }

    fn fall_victim(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        self.model.fall_victim(slot.id);
        if let Some(waiting) = &mut slot.waiting {
            waiting.simulated = Err(Stop::Error(code::DEADLOCK));
        }
    }

    /// Puts what waits in the simulation again: first what has been answered, in whatever order suits. Answers
    /// whether anything has come of it.
    fn go_on(&mut self) -> bool {
        let mut behind: Vec<usize> =
            self.waiting().filter(|(_, waiting)| waiting.is_behind()).map(|(at, _)| at).collect();
        // Who keeps no locks stands in nobody's way, and so may have been first.
        behind.sort_by_key(|at| !self.model.is_idle(self.slots[*at].id));
        if behind.into_iter().any(|at| self.put_again(at)) {
            return true;
        }
        let still = self.waiting().filter(|(_, waiting)| waiting.simulated == Err(Stop::Blocked));
        let still: Vec<usize> = still.map(|(at, _)| at).collect();
        still.into_iter().any(|at| self.put_again(at) || self.model.is_deadlocked(self.slots[at].id))
    }

    /// Answers whether it waits no more.
    fn put_again(&mut self, at: usize) -> bool {
        let slot = &mut self.slots[at];
        let Some(waiting) = &mut slot.waiting else { return false };
        waiting.simulated = self.model.execute(slot.id, &waiting.statement).map(comparable);
        waiting.simulated != Err(Stop::Blocked)
    }

    /// Compares the answers to a slot's statement.
    fn check(&mut self, at: usize) -> Result<(), Difference> {
        let slot = &mut self.slots[at];
        let Some(waiting) = &slot.waiting else { return Ok(()) };
        let (statement, real, simulated) =
            (waiting.statement, waiting.real.clone(), waiting.simulated.clone());
        let snapshot =
            self.model.is_in_branch(slot.id) && matches!(statement, Statement::Read(_) | Statement::Look(..));
        self.model.set_at_work(slot.id, simulated == Err(Stop::Blocked));
        if real != Err(Stop::Blocked) {
            slot.waiting = None;
        }
        self.say(format!("session {at}: {} -> {real:?}", sql::of(&statement)));
        let alike = real == simulated || (snapshot && real.is_ok() && simulated.is_ok());
        if alike { Ok(()) } else { Err(format!("simulated: {simulated:?}; real: {real:?}")) }
    }

    /// The same for all that waits, or has waited until now.
    fn check_others(&mut self) -> Result<(), Difference> {
        let differs = |one: &Waiting| one.real != Err(Stop::Blocked) || one.simulated != Err(Stop::Blocked);
        let others: Vec<usize> =
            self.waiting().filter(|(_, waiting)| differs(waiting)).map(|(at, _)| at).collect();
        others.into_iter().try_for_each(|at| self.check(at))
    }

    async fn look_at(&mut self, at: usize, whom: usize) -> Result<(), Difference> {
        if at == whom {
            return Ok(());
        }
        let thread = self.slots[whom].real.thread;
        let mut at_work = self.real.process(thread).await;
        // A session that has answered is at work for a moment more.
        while at_work == Some(true) && self.slots[whom].waiting.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            at_work = self.real.process(thread).await;
        }
        let real = Ok(Answer::Process(at_work));
        // The real one is looked at by the watcher: the session itself has run nothing.
        let simulated =
            self.model.clone().execute(self.slots[at].id, &Statement::Process(self.slots[whom].id));
        if real == simulated {
            Ok(())
        } else {
            Err(format!("session {whom}: simulated {simulated:?}, real {real:?}"))
        }
    }

    async fn kill(&mut self, by: usize, whom: usize) -> Result<(), Difference> {
        self.say(format!("session {by} kills session {whom}"));
        let reply = self.slots[by].real.send(format!("KILL {}", self.slots[whom].real.thread)).await;
        let real = reply.expect("an answer").map(|_| Answer::Affected(0)).map_err(Stop::Error);
        let simulated = self.model.execute(self.slots[by].id, &Statement::Kill(self.slots[whom].id));
        if real != simulated {
            return Err(format!("KILL: simulated {simulated:?}, real {real:?}"));
        }
        if self.model.take_killed() != [self.slots[whom].id] {
            return Err("KILL: the simulation killed another".into());
        }
        self.model.stop_waiting(self.slots[whom].id);
        self.reconnect(whom).await
    }

    /// Ends a session, and gives its place to another.
    async fn reconnect(&mut self, at: usize) -> Result<(), Difference> {
        let fresh = Slot { real: self.real.session().await, id: self.model.connect(), waiting: None };
        let old = std::mem::replace(&mut self.slots[at], fresh);
        let thread = old.real.thread;
        drop(old.real);
        self.real.until_gone(thread).await;
        self.model.disconnect(old.id);
        self.come_to_rest().await?;
        self.check_others()
    }

    async fn crash(&mut self) -> Result<(), Difference> {
        self.say("the server is killed, and starts again".into());
        self.slots.clear();
        self.real.crash().await;
        let listed = self.real.state().await.prepared;
        // The rollback of a prepared branch is not synced: the real server's disk decides.
        self.model.crash(|xid| listed.contains(xid));
        let sessions = real::sessions(self.real).await;
        let slot = |real| Slot { real, id: self.model.connect(), waiting: None };
        self.slots = sessions.into_iter().map(slot).collect();
        Ok(())
    }

    /// Compares what is stored.
    async fn compare(&mut self) -> Result<(), Difference> {
        let real = self.real.state().await;
        let rows = self.model.visible(Isolation::Uncommitted).into_iter();
        let rows: Vec<(Key, Row)> = rows.map(|(key, row)| (key, without_times(row))).collect();
        let simulated = State { prepared: self.model.prepared(), rows, notes: self.model.notes().len() };
        if real == simulated { Ok(()) } else { Err(format!("simulated {simulated:#?}\nreal {real:#?}")) }
    }
}

/// A real reply to a statement, as the simulation would give it.
fn as_simulated(statement: &Statement, (affected, rows): (u64, Vec<mysql_async::Row>)) -> Answer {
    let row = rows.into_iter().next();
    match statement {
        Statement::Read(_) => Answer::Found(row.map(|row| {
            let (balance, frozen) = mysql_async::from_row(row);
            Row::Account { balance, frozen }
        })),
        Statement::Look(..) => Answer::Found(row.map(|row| {
            let (state, _connection): (u8, u64) = mysql_async::from_row(row);
            Row::Barrier { state, connection: 0, created_ms: 0 }
        })),
        // What it lists is compared after each step.
        Statement::XaRecover => Answer::Prepared(Vec::new()),
        _ => Answer::Affected(affected),
    }
}

fn comparable(answer: Answer) -> Answer {
    match answer {
        Answer::Found(row) => Answer::Found(row.map(without_times)),
        Answer::Prepared(_) => Answer::Prepared(Vec::new()),
        other => other,
    }
}

fn without_times(row: Row) -> Row {
    match row {
        Row::Barrier { state, .. } => Row::Barrier { state, connection: 0, created_ms: 0 },
        account => account,
    }
}
