//! Makes a failing run smaller: fewer transactions, fewer disasters, calm weather, as long as the same claim fails.

use crate::scenario::{Keep, Scenario};
use crate::{Options, Outcome, run};

/// Runs at the most.
const RUNS: usize = 300;

/// The smallest failing run found, and what came of it.
pub fn shrink(scenario: &Scenario, outcome: Outcome, options: Options) -> (Keep, Outcome) {
    let claims: Vec<&str> = outcome.violations.iter().map(|violation| violation.claim).collect();
    let mut shrinker = Shrinker { scenario, options, claims, runs: 0, keep: Keep::default(), best: outcome };
    shrinker.try_keep(Keep { calm: true, ..Keep::default() });
    let numbers = scenario.transactions.iter().map(|plan| plan.number).collect();
    shrinker.leave_out(numbers, |keep, transactions| Keep { transactions: Some(transactions), ..keep });
    let indices = (0..scenario.disasters.len()).collect();
    shrinker.leave_out(indices, |keep, disasters| Keep { disasters: Some(disasters), ..keep });
    let calm = Keep { calm: true, ..shrinker.keep.clone() };
    shrinker.try_keep(calm);
    (shrinker.keep, shrinker.best)
}

struct Shrinker<'a> {
    scenario: &'a Scenario,
    options: Options,
    claims: Vec<&'a str>,
    runs: usize,
    keep: Keep,
    best: Outcome,
}

impl Shrinker<'_> {
    /// Keeps this if one of the claims still fails.
    fn try_keep(&mut self, keep: Keep) -> bool {
        if self.runs >= RUNS {
            return false;
        }
        self.runs += 1;
        let outcome = run(&self.scenario.reduced(&keep), self.options);
        let fails = outcome.violations.iter().any(|violation| self.claims.contains(&violation.claim));
        if fails {
            (self.keep, self.best) = (keep, outcome);
        }
        fails
    }

    /// Leaves out as many as possible: halves first, then smaller pieces, then one by one.
    fn leave_out<T: Clone>(&mut self, all: Vec<T>, with: impl Fn(Keep, Vec<T>) -> Keep) {
        let mut left = all;
        let mut piece = left.len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < left.len() {
                let mut fewer = left.clone();
                fewer.drain(at..(at + piece).min(left.len()));
                if self.try_keep(with(self.keep.clone(), fewer.clone())) {
                    left = fewer;
                } else {
                    at += piece;
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
    }
}
