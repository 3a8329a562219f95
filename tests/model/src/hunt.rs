//! Whether a bug is found.

use crate::check::check;
use crate::extent::{Extent, configurations};
use crate::mutant::Mutant;
use crate::trace::Trace;

/// Puts the bug into each of the small configurations, until one of them breaks a claim; answers with the run that
/// does. `None`: the bug has survived them all. [`Trace::claim`] says what is broken; printed, a trace is the whole
/// run, step by step.
///
/// Takes a second or two, without optimization ten times as long.
pub fn hunt(mutant: Mutant, threads: usize) -> Option<Trace> {
    configurations(Extent::Small).into_iter().find_map(|mut rules| {
        rules.mutant = Some(mutant);
        check(rules, threads).broken
    })
}
