//! What a look at a store has found.

use std::fmt::Write as _;
use std::path::Path;

use concord_coordinator::inspection::Inspection;
use serde::Serialize;

use super::table::{Cell, Tone, facts, harmless};
use super::transaction::TransactionRecord;
use super::{Look, View, counted};

/// `concord store check`
#[derive(Debug, Serialize)]
pub(in crate::cli) struct StoreReport {
    sound: bool,
    /// These four are null where the store cannot say.
    cluster_id: Option<String>,
    epoch: Option<u32>,
    schema_version: Option<u32>,
    bytes: Option<u64>,
    live_transactions: u64,
    parked_transactions: u64,
    oldest_live: Option<TransactionRecord>,
    committed: u64,
    rolled_back: u64,
    /// Of which a branch ended against the decision.
    heuristic: u64,
    problem_count: u64,
    /// The first hundred.
    problems: Vec<String>,
}

impl From<Inspection> for StoreReport {
    fn from(found: Inspection) -> Self {
        let facts = found.facts.as_ref();
        StoreReport {
            sound: found.is_sound(),
            cluster_id: facts.map(|facts| facts.cluster_id.to_string()),
            epoch: facts.map(|facts| facts.epoch.0),
            schema_version: facts.map(|facts| facts.schema_version),
            bytes: facts.map(|facts| facts.bytes),
            live_transactions: found.live,
            parked_transactions: found.parked,
            oldest_live: found.oldest_live.map(TransactionRecord::from),
            committed: found.committed,
            rolled_back: found.rolled_back,
            heuristic: found.heuristic,
            problem_count: found.problem_count,
            problems: found.problems,
        }
    }
}

impl View for StoreReport {
    fn text(&self, look: &Look) -> String {
        let alarm = |count: u64| {
            let cell = Cell::new(count.to_string());
            Some(if count > 0 { cell.tone(Tone::Alarm) } else { cell })
        };
        let verdict = match self.problem_count {
            0 => Cell::new("sound").tone(Tone::Good),
            count => Cell::new(format!("damaged: {}", counted(count, "problem"))).tone(Tone::Alarm),
        };
        let oldest = self.oldest_live.as_ref().map(|oldest| oldest.in_words(look));
        let mut out = facts(
            look,
            [
                ("store", Some(verdict)),
                ("cluster", self.cluster_id.as_ref().map(Cell::new)),
                ("epoch", self.epoch.map(|epoch| epoch.to_string().into())),
                ("schema version", self.schema_version.map(|version| version.to_string().into())),
                ("size", self.bytes.map(|bytes| size(bytes).into())),
                ("live transactions", Some(self.live_transactions.to_string().into())),
                ("parked transactions", alarm(self.parked_transactions)),
                ("oldest live", oldest),
                ("committed", Some(self.committed.to_string().into())),
                ("rolled back", Some(self.rolled_back.to_string().into())),
                ("heuristic", alarm(self.heuristic)),
            ],
        );
        for problem in &self.problems {
            let _ = writeln!(
                out,
                "{} {}",
                Cell::new("problem:").tone(Tone::Alarm).paint(look),
                harmless(problem)
            );
        }
        if let Some(more) =
            self.problem_count.checked_sub(self.problems.len() as u64).filter(|more| *more > 0)
        {
            let _ = writeln!(out, "and {more} more");
        }
        out
    }
}

/// `concord store backup`
#[derive(Debug, Serialize)]
pub(in crate::cli) struct BackupReport {
    backup: String,
    #[serde(flatten)]
    store: StoreReport,
}

impl BackupReport {
    pub(in crate::cli) fn new(file: &Path, found: Inspection) -> Self {
        BackupReport { backup: file.display().to_string(), store: found.into() }
    }
}

impl View for BackupReport {
    fn text(&self, look: &Look) -> String {
        format!(
            "{}\n{} holds this. It is for reading (`concord store check`, `concord store export`): no coordinator starts on \
             it, for what is decided from now on is not in it.\n",
            self.store.text(look),
            harmless(&self.backup)
        )
    }
}

/// Bytes as `812 bytes`, `3.4 MiB`.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, now_ms: 0, width: None };

    #[test]
    fn sizes() {
        let said = [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_536, "1.5 KiB"),
            (3_565_158, "3.3 MiB"),
            (1 << 40, "1.0 TiB"),
        ];
        for (bytes, expected) in said {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn problems_stand_below_what_was_found() {
        let found = Inspection {
            committed: 2,
            problems: vec!["one\u{1b}[2J".into(), "two".into()],
            problem_count: 5,
            ..Inspection::default()
        };
        let expected = "\
store                damaged: 5 problems
live transactions    0
parked transactions  0
committed            2
rolled back          0
heuristic            0
problem: one [2J
problem: two
and 3 more
";
        assert_eq!(StoreReport::from(found).text(&PLAIN), expected);
    }
}
