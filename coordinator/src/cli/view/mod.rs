//! What the client commands show: records for JSON, and the same records as text.
//!
//! The records' field names and values are an interface: scripts read them. They follow the messages of
//! `concord.v1`; times are RFC 3339 in UTC, what is unset is null, and states are in snake_case.

mod ages;
mod doctor;
mod overview;
mod store;
mod table;
mod transaction;

use std::io;

use prost_types::Timestamp;
use serde::Serialize;

pub(super) use ages::span;
#[cfg(test)]
pub(super) use doctor::Level;
pub(super) use doctor::{DoctorReport, Finding};
pub(super) use overview::{DrainReport, InDoubtListing, ResourceListing, StatusReport};
pub(super) use store::{BackupReport, StoreReport, size};
pub(super) use table::harmless;
pub(super) use transaction::{BranchRecord, TransactionRecord, TransactionsListing};

/// A record that people can read as well as programs.
pub(super) trait View: Serialize {
    /// As people read it; with a line end.
    fn text(&self, look: &Look) -> String;
}

/// How text is to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether to use colours.
    pub(super) colour: bool,
    /// From when ages are counted; milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    /// Characters of a line, where a terminal shows it: lines are cut to fit. Elsewhere nothing is cut.
    pub(super) width: Option<usize>,
}

/// Where a command's result goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) look: Look,
}

impl Output {
    /// Shows one record: as an indented JSON document, or as text.
    pub(super) fn show(&self, view: &impl View) -> io::Result<()> {
        let mut text = if self.json { serde_json::to_string_pretty(view)? } else { view.text(&self.look) };
        if self.json {
            text.push('\n');
        }
        print(&text)
    }

    /// Shows one of several records that follow each other, with an empty line between texts.
    pub(super) fn show_next(&self, view: &impl View) -> io::Result<()> {
        match self.json {
            true => self.show_line(view, |_, _| String::new()),
            false => print(&format!("{}\n", view.text(&self.look))),
        }
    }

    /// Shows one record of a stream: as a line of JSON, or as the text that `line` makes of it.
    pub(super) fn show_line<V: Serialize>(
        &self,
        view: &V,
        line: impl Fn(&V, &Look) -> String,
    ) -> io::Result<()> {
        let mut text = if self.json { serde_json::to_string(view)? } else { line(view, &self.look) };
        text.push('\n');
        print(&text)
    }
}

/// Writes to standard output; an error instead of the panic that `print!` has in store for a closed pipe.
pub(super) fn print(text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// `1 resource`, `2 resources`.
pub(super) fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

/// A text that may be missing, where the message has an empty one.
fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn rfc3339(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

/// Of a time that came as a message; milliseconds since the Unix epoch.
fn unix_ms(at: &Timestamp) -> i64 {
    at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos / 1_000_000))
}
