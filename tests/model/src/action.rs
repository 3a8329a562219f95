//! What can happen in a world.

use std::fmt;

use concord_protocol::{Decision, Event, Kind, Millis, Record, Timer};

use crate::configuration::{Configuration, Mode};
use crate::coordinator::{Coordinator, Who};
use crate::message::{Index, Message, branch_id, index_of};
use crate::mutant::Mutant;
use crate::participant::Choice;
use crate::world::World;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The next participant asks to join.
    Register(Who),
    /// A participant that has no answer asks again to join. Its branch is on record.
    RegisterAgain(Index),
    /// A message arrives.
    Deliver(Message, Choice),
    /// A vote arrives at the late one.
    DeliverLate(Message),
    /// A call fails before it leaves.
    NeverSent(Message),
    /// The coordinator waits no longer for a call. It may still arrive, or have arrived.
    GiveUp(Message),
    /// A message will arrive twice.
    Duplicate(Message),
    /// The oldest forced record becomes durable. To the late one: it was so before the take-over, and is told only now.
    Sync(Who),
    /// A timer fires.
    Fire(Who, Timer),
    /// The initiator asks to commit.
    Commit(Who),
    /// The initiator, or an operator, asks to roll back.
    Rollback(Who),
    /// An operator has everything retried.
    Retry(Who),
    /// An operator wants the transaction left alone.
    Park(Who),
    /// An operator ends a branch by hand, and says so.
    Resolve(Who, Index, Decision),
    /// The coordinator is killed and comes back; so many records of its log are found.
    Crash { kept: usize },
    /// Another coordinator takes over; so many records of the log are found. The one before it goes on.
    TakeOver { kept: usize },
    /// The late one finds out that it has been taken over, or dies.
    LateEnds,
    /// A participant is killed and comes back.
    CrashParticipant(Index),
    /// A participant asks what has become of its prepared branch, and ends it.
    Inquire(Who, Index),
    /// The coordinator ends a branch on its resource.
    Sweep(Who, Index),
    /// A participant gives up a branch that was never asked for its vote.
    Expire(Index),
}

impl Action {
    /// Everything that can happen next.
    pub(crate) fn all(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        for (who, coordinator) in world.coordinators() {
            log_and_timers(who, coordinator, actions);
            requests(world, who, coordinator, rules, actions);
            sweeps(world, who, coordinator, rules, actions);
            orders(world, who, coordinator, actions);
        }
        registers_again(world, rules, actions);
        messages(world, actions);
        crashes(world, rules, actions);
    }
}

fn log_and_timers(who: Who, coordinator: &Coordinator, actions: &mut Vec<Action>) {
    if !coordinator.waiting.is_empty() {
        actions.push(Action::Sync(who));
    }
    actions.extend(coordinator.timers.iter().map(|timer| Action::Fire(who, *timer)));
}

fn requests(
    world: &World,
    who: Who,
    coordinator: &Coordinator,
    rules: &Configuration,
    actions: &mut Vec<Action>,
) {
    // Nobody has heard of it before its beginning is told.
    let is_told = rules.mode != Mode::StaysOpen || world.log.is_durable(|record| *record == Record::Begun);
    if usize::from(world.next_to_register(who)) < rules.kinds.len() && is_told {
        actions.push(Action::Register(who));
    }
    let Some(transaction) = &coordinator.transaction else { return };
    // Both may be asked for again at any time, and the one after the other.
    if transaction.branches().len() > 0 && !transaction.state().is_terminal() {
        actions.extend([Action::Commit(who), Action::Rollback(who)]);
    }
    // That one more order is on record is all that comes of it where every parked branch has ended.
    let mut retried = transaction.clone();
    if coordinator.is_parked() && retried.step(Event::RetryNow, Millis(0)).is_ok() && retried != *transaction
    {
        actions.push(Action::Retry(who));
    }
}

fn registers_again(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
    if rules.mode == Mode::StaysOpen {
        actions
            .extend(world.indices().filter(|index| world.has_no_answer(*index)).map(Action::RegisterAgain));
    }
}

fn messages(world: &World, actions: &mut Vec<Action>) {
    for (place, message) in world.network.iter().copied().enumerate() {
        // Two that are the same make no difference.
        if world.network[..place].contains(&message) {
            continue;
        }
        for choice in world.choices(message) {
            actions.push(Action::Deliver(message, *choice));
        }
        if world.late.is_some() && matches!(message, Message::Report { .. }) {
            actions.push(Action::DeliverLate(message));
        }
        if world.left.lost > 0
            && let Message::Call { caller: Some(_), doubled, .. } = message
        {
            actions.push(Action::GiveUp(message));
            if !doubled {
                actions.push(Action::NeverSent(message));
            }
        }
        // A participant starts its work once: it asked to join, and has one answer.
        if world.left.duplicated > 0 && !matches!(message, Message::Start { .. }) {
            actions.push(Action::Duplicate(message));
        }
    }
}

fn crashes(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
    let least = if rules.mutant == Some(Mutant::LosesSynced) { 0 } else { world.log.synced };
    let found = least..=world.log.records.len();
    if world.owner.transaction.is_some() {
        if world.left.crashes > 0 {
            actions.extend(found.clone().map(|kept| Action::Crash { kept }));
        }
        if world.left.take_overs > 0 && world.late.is_none() {
            actions.extend(found.map(|kept| Action::TakeOver { kept }));
        }
    }
    if world.late.is_some() {
        actions.push(Action::LateEnds);
    }
    if world.left.participant_crashes > 0 {
        for index in world.indices() {
            let participant = world.participant(index);
            let mut crashed = *participant;
            crashed.crash(rules.mutant);
            if crashed != *participant {
                actions.push(Action::CrashParticipant(index));
            }
        }
    }
}

fn sweeps(
    world: &World,
    who: Who,
    coordinator: &Coordinator,
    rules: &Configuration,
    actions: &mut Vec<Action>,
) {
    if world.left.sweeps == 0 {
        return;
    }
    let answered = |index: &Index| world.is_in_doubt(*index) && world.verdict(who, *index, rules).is_some();
    actions.extend(world.indices().filter(answered).map(|index| Action::Inquire(who, index)));
    let Some(transaction) = &coordinator.transaction else { return };
    if transaction.decision().is_some() {
        let unfinished =
            |index: &Index| transaction.branch(branch_id(*index)).is_some_and(|b| !b.state().has_ended());
        actions.extend(
            world
                .indices()
                .filter(unfinished)
                .filter(|index| world.participant(*index).kind == Kind::Xa)
                .map(|index| Action::Sweep(who, index)),
        );
    }
}

fn orders(world: &World, who: Who, coordinator: &Coordinator, actions: &mut Vec<Action>) {
    let Some(transaction) = coordinator.transaction.as_ref().filter(|_| world.left.orders > 0) else {
        return;
    };
    let mut parked = transaction.clone();
    if parked.step(Event::Park, Millis(0)).is_ok() && parked != *transaction {
        actions.push(Action::Park(who));
    }
    for (id, branch) in transaction.branches() {
        if world.takes_orders(who) && (!branch.state().has_ended() || branch.is_parked()) {
            let index = index_of(id);
            actions
                .extend([Decision::Commit, Decision::Rollback].map(|how| Action::Resolve(who, index, how)));
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Register(who) => write!(f, "{who}the next participant asks to join"),
            Action::RegisterAgain(index) => write!(f, "participant {} asks again to join", index + 1),
            Action::DeliverLate(message) => write!(f, "arrives at the late one: {message}"),
            Action::Deliver(message, Choice::Yes) => write!(f, "arrives: {message}"),
            Action::Deliver(message, choice) => {
                let choice = match choice {
                    Choice::Yes => "it does as it is told",
                    Choice::ReadOnly => "it has only read",
                    Choice::No => "it votes no",
                    Choice::Work => "it works, and waits to be asked",
                    Choice::Refuse => "its handler refuses",
                };
                write!(f, "arrives: {message}; {choice}")
            }
            Action::NeverSent(message) => write!(f, "cannot be sent: {message}"),
            Action::GiveUp(message) => write!(f, "no answer in time: {message}"),
            Action::Duplicate(message) => write!(f, "is duplicated: {message}"),
            Action::Sync(who) => write!(f, "{who}the log answers: synced"),
            Action::Fire(who, Timer::Deadline) => write!(f, "{who}the deadline passes"),
            Action::Fire(who, Timer::Retry { branch, attempts }) => {
                write!(f, "{who}time to try branch {branch} again, after failure {attempts}")
            }
            Action::Commit(who) => write!(f, "{who}initiator: commit"),
            Action::Rollback(who) => write!(f, "{who}initiator: roll back"),
            Action::Retry(who) => write!(f, "{who}operator: retry"),
            Action::Park(who) => write!(f, "{who}operator: leave it alone"),
            Action::Resolve(who, index, how) => {
                write!(f, "{who}operator: has ended branch {} by hand ({how:?})", index + 1)
            }
            Action::Crash { kept } => write!(f, "KILL -9 of the coordinator; its log has {kept} records"),
            Action::TakeOver { kept } => {
                write!(f, "ANOTHER COORDINATOR takes over, and finds {kept} records; the late one goes on")
            }
            Action::LateEnds => write!(f, "the late one ends"),
            Action::CrashParticipant(index) => write!(f, "KILL -9 of participant {}", index + 1),
            Action::Inquire(who, index) => {
                write!(f, "{who}participant {} asks about its prepared branch", index + 1)
            }
            Action::Sweep(who, index) => write!(f, "{who}the sweeper ends branch {}", index + 1),
            Action::Expire(index) => write!(f, "participant {} gives up its open branch", index + 1),
        }
    }
}
