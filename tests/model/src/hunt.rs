//! Whether a bug is found.

use crate::check::check;
use crate::extent::{Extent, configurations};
use crate::mutant::Mutant;
use crate::trace::Trace;

/// Looks for a run that breaks a claim in each of the small configurations, with this bug in what surrounds the core.
/// `None` as the bug: the core is as it is, seeded bugs included. Answers with the run; `None`: there is none, the bug
/// has survived.
///
/// [`Trace::claim`] says what is broken; printed, a trace is the whole run, step by step. Takes about a second, without
/// optimization ten.
pub fn hunt(mutant: Option<Mutant>, threads: usize) -> Option<Trace> {
    configurations(Extent::Small).into_iter().find_map(|mut rules| {
        rules.mutant = mutant;
        check(rules, threads).broken
    })
}
