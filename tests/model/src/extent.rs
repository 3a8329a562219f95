//! Which configurations are explored, and when.

use concord_protocol::Kind::{self, Tcc, Xa};

use crate::configuration::Mode::{self, EarlyVote, Initiator, StaysOpen, Strict};
use crate::configuration::{Configuration, Faults};

/// How much is explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Seconds, also without optimization: one and two branches.
    Small,
    /// Three minutes on two processors: two branches with faults of every kind, three, and take-overs.
    Usual,
    /// Many minutes, and gigabytes: three branches with two crashes of the coordinator, two with faults of every kind.
    Long,
}

/// The configurations of an extent.
pub fn configurations(extent: Extent) -> Vec<Configuration> {
    match extent {
        Extent::Small => small(),
        Extent::Usual => [alone(), pairs(), threes(), taken_over()].concat(),
        Extent::Long => long(),
    }
}

/// One fault of every kind.
const EVERYTHING: Faults = Faults {
    crashes: 1,
    take_overs: 0,
    participant_crashes: 1,
    lost: 1,
    duplicated: 1,
    refusals: 1,
    sweeps: 1,
    orders: 1,
};

/// What machines and networks do, without people and sweepers.
const ACCIDENTS: Faults = Faults { refusals: 0, sweeps: 0, orders: 0, ..EVERYTHING };

/// A transaction of one branch. XA commits it in one phase.
fn alone() -> Vec<Configuration> {
    each(&[&[Xa], &[Tcc]], &[EarlyVote, Initiator, StaysOpen], EVERYTHING)
}

fn small() -> Vec<Configuration> {
    let none = Faults::default();
    let reader = Faults { participant_crashes: 1, duplicated: 1, ..none };
    [
        each(&[&[Xa], &[Tcc]], &[StaysOpen], Faults { crashes: 1, take_overs: 1, ..none }),
        each(&[&[Xa, Tcc]], &[EarlyVote, Strict], Faults { take_overs: 1, ..none }),
        alone(),
        each(&[&[Xa, Tcc]], &[EarlyVote], Faults { crashes: 1, lost: 1, ..none }),
        each(&[&[Xa, Xa]], &[EarlyVote], reader),
        each(&[&[Xa, Xa]], &[Strict], Faults { crashes: 1, lost: 1, ..none }),
        each(&[&[Tcc, Tcc]], &[Initiator], Faults { crashes: 1, ..none }),
        each(&[&[Xa, Tcc]], &[StaysOpen], Faults { crashes: 1, ..none }),
    ]
    .concat()
}

const PAIRS: [&[Kind]; 3] = [&[Xa, Xa], &[Xa, Tcc], &[Tcc, Tcc]];

fn pairs() -> Vec<Configuration> {
    // A branch is left alone after its first failure in phase two, and goes on by an operator's order.
    let mut parking =
        each(&PAIRS, &[EarlyVote], Faults { crashes: 1, lost: 2, sweeps: 1, orders: 1, ..Faults::default() });
    parking.iter_mut().for_each(|rules| rules.park_after_attempts = Some(1));
    [
        each(&PAIRS, &[EarlyVote], EVERYTHING),
        each(&PAIRS[..2], &[Strict], Faults { orders: 0, ..EVERYTHING }),
        each(&PAIRS, &[Initiator], Faults { orders: 0, ..EVERYTHING }),
        each(&PAIRS, &[StaysOpen], Faults { orders: 0, sweeps: 0, duplicated: 0, ..EVERYTHING }),
        parking,
    ]
    .concat()
}

const THREES: [&[Kind]; 4] = [&[Xa, Xa, Xa], &[Tcc, Tcc, Tcc], &[Xa, Xa, Tcc], &[Xa, Tcc, Tcc]];

fn threes() -> Vec<Configuration> {
    [
        each(&THREES, &[EarlyVote], ACCIDENTS),
        // Of TCC branches alone it would be the same.
        each(&[THREES[0], THREES[2], THREES[3]], &[Strict], ACCIDENTS),
        each(&THREES, &[Initiator], Faults { duplicated: 0, ..ACCIDENTS }),
    ]
    .concat()
}

/// A second coordinator, while the first goes on.
fn taken_over() -> Vec<Configuration> {
    let once = Faults { take_overs: 1, ..Faults::default() };
    let accidents = Faults { take_overs: 1, crashes: 0, ..ACCIDENTS };
    [
        each(&[&[Xa], &[Tcc]], &[EarlyVote], Faults { take_overs: 1, ..EVERYTHING }),
        each(
            &[&[Xa], &[Tcc]],
            &[StaysOpen],
            Faults { take_overs: 1, duplicated: 0, refusals: 0, ..EVERYTHING },
        ),
        each(&PAIRS, &[EarlyVote], accidents),
        each(&[&[Xa, Tcc]], &[EarlyVote], Faults { lost: 1, sweeps: 1, orders: 1, ..once }),
        each(&PAIRS[..2], &[Strict], Faults { duplicated: 0, ..accidents }),
        each(&PAIRS, &[StaysOpen], Faults { participant_crashes: 1, ..once }),
        // On a shared store every such transaction stays open; the core need not rely on it.
        each(&PAIRS, &[Initiator], Faults { crashes: 1, participant_crashes: 1, ..once }),
    ]
    .concat()
}

fn long() -> Vec<Configuration> {
    let once = Faults { take_overs: 1, ..Faults::default() };
    let twice = Faults { crashes: 2, ..ACCIDENTS };
    [
        each(&THREES, &[EarlyVote], twice),
        each(&[THREES[0], THREES[2], THREES[3]], &[Strict], twice),
        each(&THREES, &[Initiator], Faults { duplicated: 0, ..twice }),
        each(&PAIRS, &[EarlyVote], Faults { crashes: 2, ..EVERYTHING }),
        each(&PAIRS[..2], &[Strict], EVERYTHING),
        each(&PAIRS, &[Initiator], EVERYTHING),
        each(&PAIRS, &[StaysOpen], Faults { crashes: 2, ..EVERYTHING }),
        each(&[&[Xa], &[Tcc]], &[EarlyVote, StaysOpen], Faults { take_overs: 2, ..EVERYTHING }),
        each(&PAIRS, &[EarlyVote], Faults { take_overs: 1, orders: 0, ..EVERYTHING }),
        each(&PAIRS, &[EarlyVote], Faults { lost: 1, sweeps: 1, orders: 1, ..once }),
        each(&PAIRS[..2], &[Strict], Faults { take_overs: 1, ..ACCIDENTS }),
        each(&PAIRS, &[StaysOpen], Faults { participant_crashes: 1, lost: 1, ..once }),
        each(&PAIRS, &[StaysOpen], Faults { sweeps: 1, orders: 1, ..once }),
        each(&PAIRS, &[StaysOpen], Faults { take_overs: 2, ..once }),
        each(&THREES, &[EarlyVote], Faults { participant_crashes: 1, ..once }),
    ]
    .concat()
}

fn each(kinds: &[&[Kind]], modes: &[Mode], faults: Faults) -> Vec<Configuration> {
    let pairs = modes.iter().flat_map(|mode| kinds.iter().map(move |kinds| (kinds, *mode)));
    pairs.map(|(kinds, mode)| Configuration::new(kinds, mode).with(faults)).collect()
}
