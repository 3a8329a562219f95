//! Which fault when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::Kind;
use super::fault::{Cut, Fault, Side};
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
}

/// A fault to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// When, after the beginning.
    pub at: Duration,
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
        let lasts = interval.mul_f64(random.random_range(0.2..1.6)).min(left);
        plan.push(Planned { at, fault: draw(kind, settings.databases, &mut random), lasts });
        at += interval.mul_f64(random.random_range(0.5..1.5));
    }
    if settings.kinds.contains(&Kind::Bury) {
        // Among others late, because little is left to do without the participant.
        let share = if lasting.is_empty() { 0.5 } else { 0.9 };
        let fault = Fault::Bury(random.random_range(0..settings.databases));
        plan.push(Planned { at: settings.time.mul_f64(share), fault, lasts: Duration::ZERO });
    }
    plan
}

fn draw(kind: Kind, databases: usize, random: &mut StdRng) -> Fault {
    match kind {
        Kind::Kill => Fault::Kill(node(databases, random)),
        Kind::Pause => Fault::Pause(node(databases, random)),
        Kind::Partition => {
            let cut = match random.random_range(0..4) {
                0 => Cut::Whole,
                1 => Cut::Deaf(end(random)),
                2 => Cut::HalfOpen(end(random)),
                _ => Cut::Flapping,
            };
            Fault::Partition(side(databases, random), cut)
        }
        Kind::Slow => Fault::Slow(side(databases, random), random.random_range(5..=150)),
        Kind::DropReply => Fault::DropReplies(random.random_range(5..=30)),
        Kind::Duplicate => Fault::Duplicates(random.random_range(20..=80)),
        Kind::Restart => Fault::Restart(random.random_range(0..databases)),
        Kind::Clock => Fault::Clock(random.random_range(-3_600_000..=3_600_000)),
        Kind::DiskFull => Fault::DiskFull,
        Kind::Bury => Fault::Bury(random.random_range(0..databases)),
    }
}

/// Coordinator, participants and databases are hit equally often.
fn node(databases: usize, random: &mut StdRng) -> Node {
    let number = random.random_range(0..databases);
    match random.random_range(0..3) {
        0 => Node::Coordinator,
        1 => Node::Participant(number),
        _ => Node::Database(number),
    }
}

/// Half of the time a node, else one link.
fn side(databases: usize, random: &mut StdRng) -> Side {
    if random.random() {
        Side::Node(node(databases, random))
    } else {
        Side::Link(random.random_range(0..usize::MAX))
    }
}

fn end(random: &mut StdRng) -> End {
    if random.random() { End::Caller } else { End::Callee }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(seed: u64) -> Settings {
        let (time, interval) = (Duration::from_secs(60), Duration::from_secs(4));
        Settings { seed, kinds: Kind::ALL.to_vec(), time, interval, databases: 2 }
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
                assert!(plan.iter().any(|one| one.fault.kind() == kind), "seed {seed}: no {}", kind.name());
            }
            assert!(plan.iter().all(|one| one.at + one.lasts <= settings.time), "seed {seed}");
        }
    }
}
