//! What the checkers say of a run: claim by claim, and all together.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::Anomaly;

/// What Concord claims: number, name, and the claim in words.
pub const CLAIMS: [(&str, &str, &str); 8] = [
    (
        "I1",
        "Agreement",
        "All branches of a global transaction end the same way. No mixed outcome, ever, except one that an operator \
         forced; that one is recorded as heuristic.",
    ),
    (
        "I2",
        "Durability",
        "A commit that was acknowledged is never lost, whatever process or database dies next.",
    ),
    (
        "I3",
        "No ghost",
        "The effects of a transaction reported failed or rolled back are never visible after it ends.",
    ),
    (
        "I4",
        "Exactly once",
        "Confirm and Cancel (Commit and Rollback) take effect at most once each, never both, and exactly one does.",
    ),
    ("I5", "Empty cancel", "Cancel of a Try that never arrived changes nothing and is remembered."),
    (
        "I6",
        "No hanging",
        "A Try (or XA branch) that arrives after its Cancel (Rollback) takes no effect and leaves nothing behind.",
    ),
    ("I7", "Conservation", "Money and stock are conserved; `available >= 0`, `frozen >= 0`, no oversell."),
    (
        "I8",
        "Resolution",
        "After the faults stop, everything ends in bounded time with zero residue: XA RECOVER empty, no frozen stock, \
         no open reservation, no non-terminal transaction.",
    ),
];

/// A claim of Concord's, and what a run says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// `I1` to `I8`.
    pub id: &'static str,
    /// In a word or two: `Agreement`.
    pub title: &'static str,
    /// What is claimed.
    pub statement: &'static str,
    /// How many things were looked at; a claim with none has not been put to the test.
    pub checked: u64,
    /// Where it does not hold.
    pub violations: Vec<Anomaly>,
}

/// What a run has shown, all in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Enough was tried, and everything holds.
    Valid,
    /// Something that must not happen has happened.
    Invalid,
    /// Nothing was found wrong, but too little was tried for that to say anything.
    Vacuous,
}

impl Verdict {
    /// A violation or an anomaly counts for more than the reasons why a run was vacuous: it was found all the same.
    pub fn of(claims: &[Claim], anomalies: &[Anomaly], vacuous: &[String]) -> Verdict {
        if !anomalies.is_empty() || claims.iter().any(|claim| !claim.violations.is_empty()) {
            Verdict::Invalid
        } else if vacuous.is_empty() {
            Verdict::Valid
        } else {
            Verdict::Vacuous
        }
    }
}

/// In a word.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Valid => "valid",
            Verdict::Invalid => "invalid",
            Verdict::Vacuous => "vacuous",
        })
    }
}

/// As the word: EDN would have a tag for each variant.
impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_claims_word_for_word() {
        let readme = include_str!("../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
        for (id, title, statement) in CLAIMS {
            assert!(readme.contains(&format!("- {id} **{title}.** {statement}")), "{id}");
        }
    }

    #[test]
    fn a_violation_outweighs_a_vacuous_run() {
        let anomaly = || Anomaly { name: "mixed", explanation: String::new() };
        let claim = |violations| Claim { id: "I1", title: "", statement: "", checked: 1, violations };
        let vacuous = ["no fault".to_owned()];
        assert_eq!(Verdict::of(&[claim(vec![])], &[], &[]), Verdict::Valid);
        assert_eq!(Verdict::of(&[claim(vec![])], &[], &vacuous), Verdict::Vacuous);
        assert_eq!(Verdict::of(&[claim(vec![]), claim(vec![anomaly()])], &[], &vacuous), Verdict::Invalid);
        assert_eq!(Verdict::of(&[], &[anomaly()], &vacuous), Verdict::Invalid);
    }
}
