//! Tables for people.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use concord_seeded_bugs::Bug;
use tabwriter::TabWriter;

use crate::hunt::Hunted;

pub(crate) fn of_bugs(bugs: &[&Bug]) -> Result<String> {
    aligned(bugs.iter().map(|bug| format!("{}\t{:?}\t{}", bug.name, bug.home, bug.what)))
}

/// A line for each bug, as Markdown.
pub(crate) fn of_results(results: &[Hunted]) -> Result<String> {
    let heads = ["| bug\t| what is wrong\t| caught by\t| after\t|".into(), "|-\t|-\t|-\t|-\t|".into()];
    let rows = results.iter().map(|result| {
        let caught = result.runs.iter().find_map(|run| Some((run, run.caught_by.as_ref()?)));
        let (by, after) = match caught {
            Some((run, what)) => (format!("{:?}: `{what}`", run.layer), format!("{:.1} s", run.seconds)),
            None => ("**nothing**".into(), String::new()),
        };
        format!("| {}\t| {}\t| {by}\t| {after}\t|", result.bug, result.what)
    });
    aligned(heads.into_iter().chain(rows))
}

fn aligned(rows: impl Iterator<Item = String>) -> Result<String> {
    let mut writer = TabWriter::new(Vec::new()).padding(1);
    for row in rows {
        writeln!(writer, "{row}")?;
    }
    let bytes = writer.into_inner().ok().context("the table could not be written")?;
    Ok(String::from_utf8(bytes)?)
}
