//! What is run in turn, on the same databases, and how one compares with the other.

use crate::load::median;
use crate::stage::Cost;

/// One of those that are run in turn.
#[derive(Default)]
pub(crate) struct Contestant {
    /// So many a second, by round.
    pub(crate) rates: Vec<f64>,
    pub(crate) cost: Cost,
}

impl Contestant {
    /// The median of the rounds' ratios to another's, and what it was made of.
    pub(crate) fn against(&self, other: &Contestant) -> (f64, String) {
        let ratios: Vec<f64> = self.rates.iter().zip(&other.rates).map(|(one, other)| one / other).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let rates = format!("{:.0}/s against {:.0}/s", median(&self.rates), median(&other.rates));
        (median(&ratios), format!("{rates}; rounds {least:.2} … {most:.2}"))
    }
}
