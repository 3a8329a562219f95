//! The report of a run, for people and for programs, as a function of its history and of what the checkers say.
//!
//! | file | what it is |
//! |---|---|
//! | `index.html` | all of it on one page, with links to the other files |
//! | `latency.svg`, `rate.svg` | how long operations took, how many ended in a second; faults are shaded |
//! | `result.json`, `result.edn` | the verdict, the claims, the counts |

mod faults;
mod page;
mod plot;
mod summary;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use crate::Anomaly;
use crate::history::{self, Call, Operation};
use crate::verdict::{Claim, Verdict};

use faults::Fault;
use summary::Summary;

/// What a report is made of.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Everything that happened.
    pub history: &'a [Operation],
    /// What was run: `bank, kill -9 of everything`.
    pub title: String,
    /// How it was run, in the order of the page: workload, nemesis, database, seed …
    pub parameters: Vec<(String, String)>,
    /// The command that repeats it.
    pub command: String,
    /// What the run has shown.
    pub verdict: Verdict,
    /// The claims that were checked.
    pub claims: Vec<Claim>,
    /// What was found wrong with the isolation of transactions.
    pub anomalies: Vec<Anomaly>,
    /// Why the run says too little, if it does.
    pub vacuous: Vec<String>,
}

/// A run as the plots and tables need it.
struct Run<'a> {
    report: &'a Report<'a>,
    calls: Vec<Call<'a>>,
    faults: Vec<Fault>,
    /// When the history ends.
    end_s: f64,
}

/// Writes the report into the directory of a run, which has `history.edn` already, and `logs/` if there are any.
///
/// # Errors
/// A file that cannot be written, or a history in which ends and beginnings do not belong together.
pub fn write(directory: &Path, report: &Report<'_>) -> Result<()> {
    let run = Run::new(report)?;
    let summary = Summary::of(&run);
    let logs = logs(directory)?;
    let edn = clojure_reader::to_string_pretty(&summary).map_err(|error| anyhow!("result.edn: {error}"))?;
    for (name, text) in [
        ("latency.svg", plot::latency(&run)?),
        ("rate.svg", plot::rate(&run)?),
        ("result.json", serde_json::to_string_pretty(&summary)? + "\n"),
        ("result.edn", edn + "\n"),
        ("index.html", page::html(&run, &summary, &logs)),
    ] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl<'a> Run<'a> {
    fn new(report: &'a Report<'a>) -> Result<Run<'a>> {
        let calls = history::calls(report.history)
            .map_err(|index| anyhow!("operation {index} does not belong to what came before"))?;
        let end_ns = report.history.iter().map(|operation| operation.time_ns).max().unwrap_or(0);
        Ok(Run { report, calls, faults: faults::of(report.history, end_ns), end_s: seconds(end_ns) })
    }

    /// How long the plots are. An axis needs a length: the library never returns from one that has none.
    fn span_s(&self) -> f64 {
        if self.end_s > 0.001 { self.end_s } else { 1.0 }
    }
}

/// A time of a history in seconds.
fn seconds(time_ns: i64) -> f64 {
    time_ns.max(0) as f64 / 1e9
}

/// How long an operation took; none when it never ended.
fn latency_s(call: &Call<'_>) -> Option<f64> {
    let end = call.completed?;
    Some(seconds(end.time_ns) - seconds(call.invoked.time_ns))
}

/// What control characters become that neither HTML nor SVG can hold, such as the colours in a log's lines.
fn without_controls(text: &str) -> String {
    let allowed = |c| matches!(c, '\n' | '\t' | '\r');
    text.replace(|c: char| c.is_control() && !allowed(c) || matches!(c, '\u{FFFE}' | '\u{FFFF}'), "\u{FFFD}")
}

/// With a comma at each thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The names of the files in `logs/`, sorted, with their sizes in bytes.
fn logs(directory: &Path) -> Result<Vec<(String, u64)>> {
    let logs = directory.join("logs");
    if !logs.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&logs).with_context(|| format!("cannot list {}", logs.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            found.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
        }
    }
    found.sort();
    Ok(found)
}
