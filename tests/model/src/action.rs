//! What can happen in a world.

use std::fmt;

use concord_protocol::{Decision, Event, Kind, Millis, Record, Timer};

use crate::configuration::{Configuration, Mode};
use crate::message::{Index, Message, branch_id, index_of};
use crate::mutant::Mutant;
use crate::participant::Choice;
use crate::world::World;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The next participant asks to join.
    Register,
    /// A message arrives.
    Deliver(Message, Choice),
    /// A call fails before it leaves.
    NeverSent(Message),
    /// The coordinator waits no longer for a call. It may still arrive, or have arrived.
    GiveUp(Message),
    /// A message will arrive twice.
    Duplicate(Message),
    /// The oldest forced record becomes durable.
    Sync,
    /// A timer fires.
    Fire(Timer),
    /// The initiator asks to commit.
    Commit,
    /// The initiator, or an operator, asks to roll back.
    Rollback,
    /// An operator has everything retried.
    Retry,
    /// An operator wants the transaction left alone.
    Park,
    /// An operator ends a branch by hand, and says so.
    Resolve(Index, Decision),
    /// The coordinator is killed and comes back; so many records of its log are found.
    Crash { kept: usize },
    /// A participant is killed and comes back.
    CrashParticipant(Index),
    /// A participant asks what has become of its prepared branch, and ends it.
    Inquire(Index),
    /// The coordinator ends a branch on its resource.
    Sweep(Index),
    /// A participant gives up a branch that was never asked for its vote.
    Expire(Index),
}

impl Action {
    /// Everything that can happen next.
    pub(crate) fn all(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
        if world.broken.is_some() {
            return;
        }
        log_and_timers(world, actions);
        requests(world, rules, actions);
        messages(world, actions);
        crashes(world, rules, actions);
        sweeps(world, rules, actions);
        orders(world, actions);
    }
}

fn log_and_timers(world: &World, actions: &mut Vec<Action>) {
    if !world.log.waiting.is_empty() {
        actions.push(Action::Sync);
    }
    actions.extend(world.timers.iter().copied().map(Action::Fire));
}

fn requests(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
    // Nobody has heard of it before its beginning is told.
    let is_told = rules.mode != Mode::StaysOpen || world.log.is_durable(|record| *record == Record::Begun);
    if usize::from(world.registered) < rules.kinds.len() && is_told {
        actions.push(Action::Register);
    }
    let Some(transaction) = &world.transaction else { return };
    // Both may be asked for again at any time, and the one after the other.
    if transaction.branches().len() > 0 && !transaction.state().is_terminal() {
        actions.extend([Action::Commit, Action::Rollback]);
    }
    if world.is_parked() {
        actions.push(Action::Retry);
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
        if world.left.lost > 0
            && let Message::Call { orphan: false, doubled, .. } = message
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
    if world.left.crashes > 0 && world.transaction.is_some() {
        let least = if rules.mutant == Some(Mutant::LosesSynced) { 0 } else { world.log.synced };
        actions.extend((least..=world.log.records.len()).map(|kept| Action::Crash { kept }));
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

fn sweeps(world: &World, rules: &Configuration, actions: &mut Vec<Action>) {
    if world.left.sweeps == 0 {
        return;
    }
    let answered = |index: &Index| world.is_in_doubt(*index) && world.verdict(*index, rules).is_some();
    actions.extend(world.indices().filter(answered).map(Action::Inquire));
    let Some(transaction) = &world.transaction else { return };
    if transaction.decision().is_some() {
        let unfinished =
            |index: &Index| transaction.branch(branch_id(*index)).is_some_and(|b| !b.state().has_ended());
        actions.extend(
            world
                .indices()
                .filter(unfinished)
                .filter(|index| world.participant(*index).kind == Kind::Xa)
                .map(Action::Sweep),
        );
    }
}

fn orders(world: &World, actions: &mut Vec<Action>) {
    let Some(transaction) = world.transaction.as_ref().filter(|_| world.left.orders > 0) else { return };
    let mut parked = transaction.clone();
    if parked.step(Event::Park, Millis(0)).is_ok() && parked != *transaction {
        actions.push(Action::Park);
    }
    for (id, branch) in transaction.branches() {
        if world.takes_orders() && (!branch.state().has_ended() || branch.is_parked()) {
            let index = index_of(id);
            actions.extend([Decision::Commit, Decision::Rollback].map(|how| Action::Resolve(index, how)));
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Register => write!(f, "the next participant asks to join"),
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
            Action::Sync => write!(f, "the log answers: synced"),
            Action::Fire(Timer::Deadline) => write!(f, "the deadline passes"),
            Action::Fire(Timer::Retry { branch, attempts }) => {
                write!(f, "time to try branch {branch} again, after failure {attempts}")
            }
            Action::Commit => write!(f, "initiator: commit"),
            Action::Rollback => write!(f, "initiator: roll back"),
            Action::Retry => write!(f, "operator: retry"),
            Action::Park => write!(f, "operator: leave it alone"),
            Action::Resolve(index, how) => {
                write!(f, "operator: has ended branch {} by hand ({how:?})", index + 1)
            }
            Action::Crash { kept } => write!(f, "KILL -9 of the coordinator; its log has {kept} records"),
            Action::CrashParticipant(index) => write!(f, "KILL -9 of participant {}", index + 1),
            Action::Inquire(index) => write!(f, "participant {} asks about its prepared branch", index + 1),
            Action::Sweep(index) => write!(f, "the sweeper ends branch {}", index + 1),
            Action::Expire(index) => write!(f, "participant {} gives up its open branch", index + 1),
        }
    }
}
