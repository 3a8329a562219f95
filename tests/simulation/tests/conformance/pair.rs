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
use super::step::{ACCOUNTS, Names, OPENING, SLOTS, Step, Verb};

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
    /// The real server's answer, once it is there.
    outcome: Option<Result<Answer, u16>>,
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
        let answered = self.slots[at].real.send(sql::of(&statement));
        self.slots[at].waiting = Some(Waiting { statement, answered, outcome: None });
        let expected = self.model.clone().execute(self.slots[at].id, &statement);
        self.settle(expected == Err(Stop::Error(code::DEADLOCK))).await?;
        if expected == Err(Stop::Error(code::DEADLOCK)) {
            self.follow_victim(at);
        }
        let outcome = self.check(at)?;
        self.check_others().await?;
        Ok(outcome.is_ok())
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

    /// Waits until every statement that has been sent is answered or waits for a lock; after a deadlock also until
    /// the server has chosen its victim, which takes MySQL a moment.
    async fn settle(&mut self, deadlock: bool) -> Result<(), Difference> {
        let started = Instant::now();
        loop {
            self.collect();
            let victim = self.answers().any(|(_, outcome)| *outcome == Err(code::DEADLOCK));
            let asked: Vec<u32> = self.unanswered().map(|slot| slot.real.thread).collect();
            if asked.is_empty() {
                return Ok(());
            }
            let waiting = self.real.waiting().await;
            if asked.iter().all(|thread| waiting.contains(thread)) && (victim || !deadlock) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("a statement neither ends nor waits; deadlock expected: {deadlock}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn collect(&mut self) {
        for slot in &mut self.slots {
            if let Some(waiting) = &mut slot.waiting
                && waiting.outcome.is_none()
                && let Ok(reply) = waiting.answered.try_recv()
            {
                waiting.outcome = Some(reply.map(|reply| as_simulated(&waiting.statement, reply)));
            }
        }
    }

    fn unanswered(&self) -> impl Iterator<Item = &Slot> {
        let unanswered =
            |slot: &&Slot| slot.waiting.as_ref().is_some_and(|waiting| waiting.outcome.is_none());
        self.slots.iter().filter(unanswered)
    }

    fn answers(&self) -> impl Iterator<Item = (usize, &Result<Answer, u16>)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| Some((at, slot.waiting.as_ref()?.outcome.as_ref()?)))
    }

    /// Servers choose a deadlock's victim: if it is another than the one whose statement closed the circle, the
    /// simulation follows.
    fn follow_victim(&mut self, closing: usize) {
        let victim = self.answers().find(|(_, outcome)| **outcome == Err(code::DEADLOCK)).map(|(at, _)| at);
        if let Some(victim) = victim.filter(|victim| *victim != closing) {
            self.say(format!("session {victim} is the deadlock's victim"));
            self.model.fall_victim(self.slots[victim].id);
            self.slots[victim].waiting = None;
        }
    }

    /// Runs a slot's statement in the simulation, and compares.
    fn check(&mut self, at: usize) -> Result<Outcome, Difference> {
        let slot = &mut self.slots[at];
        let Some(waiting) = &slot.waiting else { return Ok(Err(Stop::Blocked)) };
        let statement = waiting.statement;
        let real = waiting.outcome.clone().map_or(Err(Stop::Blocked), |outcome| outcome.map_err(Stop::Error));
        let snapshot =
            self.model.is_in_branch(slot.id) && matches!(statement, Statement::Read(_) | Statement::Look(..));
        let simulated = self.model.execute(slot.id, &statement).map(comparable);
        self.model.set_at_work(slot.id, simulated == Err(Stop::Blocked));
        if real != Err(Stop::Blocked) {
            slot.waiting = None;
        }
        self.say(format!("session {at}: {} -> {real:?}", sql::of(&statement)));
        let alike = real == simulated || (snapshot && real.is_ok() && simulated.is_ok());
        if alike { Ok(real) } else { Err(format!("simulated: {simulated:?}; real: {real:?}")) }
    }

    /// Statements of others that were waiting and have been answered meanwhile, in whatever order suits; and that
    /// those that still wait have to.
    async fn check_others(&mut self) -> Result<(), Difference> {
        self.settle(false).await?;
        let inserts = self.slots.iter().filter(|slot| slot.waits_to_insert()).count();
        loop {
            let mut answered: Vec<usize> = self.answers().map(|(at, _)| at).collect();
            // Who keeps no locks stands in nobody's way, and so may have been first.
            answered.sort_by_key(|at| !self.model.is_idle(self.slots[*at].id));
            let Some(first) = answered.first().copied() else { break };
            // Two that waited for a third's rollback get in each other's way, as real servers have it.
            let victim =
                self.answers().find(|(_, outcome)| **outcome == Err(code::DEADLOCK)).map(|(at, _)| at);
            if let Some(victim) = victim.filter(|at| inserts > 1 && self.slots[*at].waits_to_insert()) {
                self.say(format!("session {victim} is the victim of a deadlock between inserts"));
                self.model.fall_victim(self.slots[victim].id);
                self.slots[victim].waiting = None;
                continue;
            }
            let goes_on = |at: &usize| {
                let slot = &self.slots[*at];
                let statement = slot.waiting.as_ref().map(|waiting| waiting.statement);
                statement.is_some_and(|one| self.model.clone().execute(slot.id, &one) != Err(Stop::Blocked))
            };
            let next = answered.iter().find(|at| goes_on(at)).copied().unwrap_or(first);
            let _ = self.check(next)?;
        }
        let waiting: Vec<usize> = (0..SLOTS).filter(|at| self.slots[*at].waiting.is_some()).collect();
        for at in waiting {
            let slot = &self.slots[at];
            let Some(waiting) = &slot.waiting else { continue };
            let simulated = self.model.execute(slot.id, &waiting.statement);
            if simulated != Err(Stop::Blocked) {
                return Err(format!(
                    "session {at} waits for {:?}; simulated: {simulated:?}",
                    waiting.statement
                ));
            }
        }
        Ok(())
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
        self.check_others().await
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
