//! Chance, from one seed.
//!
//! Every choice has a name, and its numbers come from the seed and that name alone. So a choice stays the same when
//! others are left out, and a failing run can be made smaller without turning into another run.

use std::ops::RangeInclusive;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The root of some random numbers. Cheap to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// All the chance of one run.
    pub fn new(seed: u64) -> Self {
        Dice(mix(seed))
    }

    /// The numbers of one thing among many.
    #[must_use]
    pub fn of(self, name: u64) -> Self {
        Dice(mix(self.0.rotate_left(17) ^ mix(name)))
    }

    /// The numbers themselves.
    pub fn roll(self) -> Roll {
        Roll(Xoshiro256PlusPlus::seed_from_u64(self.0))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input changes half of the output's.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A sequence of random numbers.
#[derive(Debug, Clone)]
pub struct Roll(Xoshiro256PlusPlus);

impl Roll {
    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_range(0.0..1.0) < probability
    }

    /// Any number of the range.
    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// A number from 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        self.0.random_range(0.0..=1.0)
    }

    /// An index below `count`; 0 when there is nothing to choose from.
    pub fn index(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.0.random_range(0..count) }
    }

    /// One of these; the first of none is a defect of the caller's, answered by the type's default.
    pub fn pick<T: Copy + Default>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.0).copied().unwrap_or_default()
    }

    /// A span that is mostly short and now and then as long as `max`.
    pub fn mostly_short(&mut self, max: u64) -> u64 {
        let fraction = self.fraction();
        // Lossless enough: spans are below a day in milliseconds.
        (max as f64 * fraction * fraction * fraction) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_give_the_same_numbers_and_others_give_others() {
        let numbers = |dice: Dice| {
            let mut roll = dice.roll();
            [roll.between(0..=u64::MAX), roll.between(0..=u64::MAX)]
        };
        let (one, other) = (Dice::new(1), Dice::new(2));
        assert_eq!(numbers(one.of(3).of(4)), numbers(one.of(3).of(4)));
        assert_ne!(numbers(one.of(3).of(4)), numbers(one.of(4).of(3)));
        assert_ne!(numbers(one), numbers(other));
    }
}
