//! What the doctor has found.

use std::fmt::Write as _;

use serde::Serialize;

use super::table::{Cell, Tone, harmless};
use super::{Look, View};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Level {
    /// As it should be.
    Ok,
    /// It works, for now or in part.
    Warning,
    /// The coordinator cannot do its work, or cannot keep its promises.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Finding {
    /// What was looked at; stable.
    pub(in crate::cli) check: &'static str,
    /// Of what.
    pub(in crate::cli) subject: String,
    pub(in crate::cli) level: Level,
    pub(in crate::cli) found: String,
    /// How to mend it; null where it is as it should be.
    pub(in crate::cli) mend: Option<String>,
}

impl Finding {
    pub(in crate::cli) fn ok(check: &'static str, subject: &str, found: impl Into<String>) -> Self {
        Finding { check, subject: subject.to_owned(), level: Level::Ok, found: found.into(), mend: None }
    }

    pub(in crate::cli) fn warning(
        check: &'static str,
        subject: &str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Finding { level: Level::Warning, mend: Some(mend.into()), ..Finding::ok(check, subject, found) }
    }

    pub(in crate::cli) fn failure(
        check: &'static str,
        subject: &str,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Finding { level: Level::Failure, ..Finding::warning(check, subject, found, mend) }
    }

    fn line(&self, look: &Look) -> String {
        // All of one width.
        let (word, tone) = match self.level {
            Level::Ok => ("OK  ", Tone::Good),
            Level::Warning => ("WARN", Tone::Quiet),
            Level::Failure => ("FAIL", Tone::Alarm),
        };
        let (word, found) = (Cell::new(word).tone(tone).paint(look), harmless(&self.found));
        let mut line = format!("{word}  {}: {found}\n", harmless(&self.subject));
        if let Some(mend) = &self.mend {
            let label = Cell::new("mend:").tone(Tone::Label).paint(look);
            let _ = writeln!(line, "      {label} {}", harmless(mend));
        }
        line
    }
}

/// `concord doctor`
#[derive(Debug, Serialize)]
pub(in crate::cli) struct DoctorReport {
    failures: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl DoctorReport {
    pub(in crate::cli) fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        DoctorReport { failures: count(Level::Failure), warnings: count(Level::Warning), findings }
    }

    pub(in crate::cli) fn failures(&self) -> usize {
        self.failures
    }
}

impl View for DoctorReport {
    fn text(&self, look: &Look) -> String {
        let lines: String = self.findings.iter().map(|finding| finding.line(look)).collect();
        let DoctorReport { failures, warnings, findings } = self;
        format!("{lines}\nchecks: {}, failed: {failures}, warnings: {warnings}\n", findings.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_how_to_mend_it() {
        let report = DoctorReport::new(vec![
            Finding::ok("room", "disk", "1.0 GiB free"),
            Finding::warning("clock", "bank", "late\u{1b}[2J", "wind it"),
            Finding::failure("server", "bank", "gone", "start it"),
        ]);
        let expected = "\
OK    disk: 1.0 GiB free
WARN  bank: late [2J
      mend: wind it
FAIL  bank: gone
      mend: start it

checks: 3, failed: 1, warnings: 1
";
        assert_eq!(report.text(&Look { colour: false, now_ms: 0, width: None }), expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["failures"], &json["findings"][0]["mend"]), (&1.into(), &serde_json::Value::Null));
        assert_eq!(json["findings"][1]["level"], "warning");
    }
}
