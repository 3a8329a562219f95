//! Which fault when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::Kind;
use super::fault::{Cut, Fault, Side};
use crate::cluster::LEASE;
use crate::cluster::network::{End, Node};

/// Before the first fault, so that there is something for it to hit.
const LEAD: Duration = Duration::from_secs(2);

/// What a plan depends on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The same seed gives the same plan.
    pub seed: u64,
    /// Which kinds, in equal parts.
    pub kinds: Vec<Kind>,
    /// For how long clients are at work.
    pub time: Duration,
    /// From one fault to the next, on average; less where not every kind would have its turn.
    pub interval: Duration,
    /// How many databases, and participants, there are.
    pub databases: usize,
    /// How many coordinators share a store; none where there is one with a store of its own.
    pub sharing: Option<usize>,
}

/// A fault to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// When, after the beginning.
    pub at: Duration,
    /// Of which kind.
    pub kind: Kind,
    /// What.
    pub fault: Fault,
    /// For how long.
    pub lasts: Duration,
}

/// Draws the faults of a run. None lasts beyond its end, but for a participant that is buried.
pub fn plan(settings: &Settings) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut plan = Vec::new();
    let lasting: Vec<Kind> = settings.kinds.iter().copied().filter(|kind| *kind != Kind::Bury).collect();
    let mut deck = Vec::new();
    let mut at = LEAD.min(settings.time / 4);
    // So short that every kind has its turn.
    let turns = u32::try_from(lasting.len()).unwrap_or(1).max(1);
    let interval = settings.interval.min((settings.time - at).div_f64(1.5) / turns);
    while !lasting.is_empty() && at < settings.time {
        if deck.is_empty() {
            deck = lasting.clone();
            deck.shuffle(&mut random);
        }
        let Some(kind) = deck.pop() else { break };
        let left = settings.time.saturating_sub(at);
        let least = if kind == Kind::PauseCoordinator { LEASE } else { Duration::ZERO };
        let lasts = (least + interval.mul_f64(random.random_range(0.2..1.6))).min(left);
        plan.push(Planned { at, kind, fault: draw(kind, settings, &mut random), lasts });
        at += interval.mul_f64(random.random_range(0.5..1.5));
    }
    if settings.kinds.contains(&Kind::Bury) {
        // Among others late, because little is left to do without the participant.
        let share = if lasting.is_empty() { 0.5 } else { 0.9 };
        let fault = Fault::Bury(random.random_range(0..settings.databases));
        let (at, lasts) = (settings.time.mul_f64(share), Duration::ZERO);
        plan.push(Planned { at, kind: Kind::Bury, fault, lasts });
    }
    plan
}

fn draw(kind: Kind, settings: &Settings, random: &mut StdRng) -> Fault {
    match kind {
        Kind::Kill => Fault::Kill(node(settings, random)),
        Kind::Pause => Fault::Pause(node(settings, random)),
        Kind::Partition => {
            let cut = cut(random);
            Fault::Partition(side(settings, random), cut)
        }
        Kind::Slow => Fault::Slow(side(settings, random), random.random_range(5..=150)),
        Kind::DropReply => Fault::DropReplies(random.random_range(5..=30)),
        Kind::Duplicate => Fault::Duplicates(random.random_range(20..=80)),
        Kind::Restart => Fault::Restart(server(settings, random)),
        Kind::Clock => {
            let ms = random.random_range(-3_600_000..=3_600_000);
            Fault::Clock(coordinator(settings, random), ms)
        }
        Kind::DiskFull => Fault::DiskFull,
        Kind::Bury => Fault::Bury(random.random_range(0..settings.databases)),
        Kind::KillCoordinator => Fault::Kill(Node::Coordinator(coordinator(settings, random))),
        Kind::PauseCoordinator => Fault::Pause(Node::Coordinator(coordinator(settings, random))),
        Kind::PartitionStore => Fault::Partition(Side::Store(coordinator(settings, random)), cut(random)),
        Kind::PartitionParticipants => {
            Fault::Partition(Side::Participants(coordinator(settings, random)), cut(random))
        }
        Kind::KillStore => Fault::Kill(Node::Store),
    }
}

fn cut(random: &mut StdRng) -> Cut {
    match random.random_range(0..4) {
        0 => Cut::Whole,
        1 => Cut::Deaf(end(random)),
        2 => Cut::HalfOpen(end(random)),
        _ => Cut::Flapping,
    }
}

/// Coordinators, participants, databases and, where there is one, the shared store are hit equally often.
fn node(settings: &Settings, random: &mut StdRng) -> Node {
    let number = random.random_range(0..settings.databases);
    let kinds = if settings.sharing.is_some() { 4 } else { 3 };
    match random.random_range(0..kinds) {
        0 => Node::Coordinator(coordinator(settings, random)),
        1 => Node::Participant(number),
        2 => Node::Database(number),
        _ => Node::Store,
    }
}

fn coordinator(settings: &Settings, random: &mut StdRng) -> usize {
    settings.sharing.map_or(0, |coordinators| random.random_range(0..coordinators))
}

/// A database server, or that of the store.
fn server(settings: &Settings, random: &mut StdRng) -> Node {
    let servers = settings.databases + usize::from(settings.sharing.is_some());
    match random.random_range(0..servers) {
        number if number < settings.databases => Node::Database(number),
        _ => Node::Store,
    }
}

/// Half of the time a node, else one link.
fn side(settings: &Settings, random: &mut StdRng) -> Side {
    if random.random() {
        Side::Node(node(settings, random))
    } else {
        Side::Link(random.random_range(0..usize::MAX))
    }
}

fn end(random: &mut StdRng) -> End {
    if random.random() { End::Caller } else { End::Callee }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn settings(seed: u64) -> Settings {
        let (time, interval) = (Duration::from_secs(60), Duration::from_secs(4));
        Settings { seed, kinds: Kind::ALL.to_vec(), time, interval, databases: 2, sharing: Some(3) }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        assert_eq!(plan(&settings(3)), plan(&settings(3)));
        assert_ne!(plan(&settings(3)), plan(&settings(4)));
    }

    #[test]
    fn every_kind_comes_and_nothing_lasts_beyond_the_end() {
        for seed in 0..100 {
            let time = Duration::from_secs(10 + seed);
            let settings = Settings { time, ..settings(seed) };
            let plan = plan(&settings);
            for kind in Kind::ALL {
                assert!(plan.iter().any(|one| one.kind == kind), "seed {seed}: no {}", kind.name());
            }
            assert!(plan.iter().all(|one| one.at + one.lasts <= settings.time), "seed {seed}");
        }
    }

    #[test]
    fn every_coordinator_is_hit_and_so_is_the_store() {
        let (mut killed, mut restarted) = (BTreeSet::new(), BTreeSet::new());
        for planned in (0..20).flat_map(|seed| plan(&settings(seed))) {
            match planned.fault {
                Fault::Kill(node) => drop(killed.insert(node)),
                Fault::Restart(node) => drop(restarted.insert(node)),
                _ => {}
            }
        }
        let coordinators = (0..3).map(Node::Coordinator);
        assert!(coordinators.chain([Node::Store]).all(|node| killed.contains(&node)), "{killed:?}");
        assert_eq!(restarted, [Node::Database(0), Node::Database(1), Node::Store].into());
    }
}
