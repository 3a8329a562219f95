//! The end of the story, as text and as data.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use tabwriter::{Alignment, TabWriter};

use super::audit::Audit;
use super::say::{self, thousands};
use super::scenarios::Scenario;
use super::storm::Storm;

/// Everything that the demo found out; `--json` writes it as it stands here.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether every invariant holds.
    pub ok: bool,
    /// What the banks' money was kept in.
    pub database: Database,
    /// The four scenarios.
    pub scenarios: Vec<Scenario>,
    /// The random transfers.
    pub storm: Storm,
    /// What holds in the end.
    pub audit: Audit,
}

/// A kind of database server.
#[derive(Debug, Serialize)]
pub(crate) struct Database {
    /// "mysql" or "mariadb".
    pub flavor: &'static str,
    /// Its version.
    pub version: String,
}

/// A run that did not get to its end.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    /// Always false.
    pub ok: bool,
    /// Why.
    pub error: String,
}

/// Writes data to a file.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_json(path: &Path, data: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(data)?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

impl Report {
    /// Prints it.
    ///
    /// # Errors
    /// Only when a table cannot be laid out.
    pub(crate) fn print(&self) -> Result<()> {
        self.print_events()?;
        self.print_money()?;
        self.print_speed();
        self.print_invariants()
    }

    fn print_events(&self) -> Result<()> {
        say::headline("What happened");
        let mut rows = vec!["\tTransfer\tAmount\tOutcome\tWhat was done to it".to_owned()];
        for (index, one) in self.scenarios.iter().enumerate() {
            let (number, amount) = (index + 1, thousands(one.amount));
            rows.push(format!("{number}\t{}\t{amount}\t{}\t{}", one.transfer, one.state, one.name));
        }
        let storm = &self.storm;
        let (committed, refused) = (thousands(signed(storm.committed)), thousands(signed(storm.refused)));
        rows.push(format!(
            "5\t{} random\t\t{committed} COMMITTED, {refused} ROLLED_BACK\trefused for lack of funds, the latter",
            thousands(signed(storm.transfers))
        ));
        table(&rows, Alignment::Left)
    }

    fn print_money(&self) -> Result<()> {
        say::headline("Where the money is");
        let Audit { balances: now, balances_at_opening: opening, in_doubt, .. } = &self.audit;
        let row = |name: &str, sums: [i64; 2]| {
            format!(
                "{name}\t{}\t{}\t{}",
                thousands(sums[0]),
                thousands(sums[1]),
                thousands(sums[0] + sums[1])
            )
        };
        table(
            &[
                "\tBank A\tBank B\tTogether".to_owned(),
                row("accounts opened with", [opening.bank_a, opening.bank_b]),
                row("now", [now.bank_a, now.bank_b]),
                row("XA RECOVER", in_doubt.map(|count| count as i64)),
            ],
            Alignment::Right,
        )
    }

    fn print_speed(&self) {
        let storm = &self.storm;
        say::headline("How fast the random transfers were");
        say::line(format!(
            "{:.0} transfers/s with {} at a time, {:.0} of them committed",
            storm.transfers_per_second, storm.concurrency, storm.committed_per_second
        ));
        say::line(format!(
            "a committed one took: p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            storm.latency_ms.p50, storm.latency_ms.p99, storm.latency_ms.max
        ));
        if let Some(syncs) = storm.log_syncs_per_transaction {
            say::line(format!("{syncs:.2} syncs of the coordinator's log per transaction"));
        }
        say::line(format!(
            "{} tried anew after a rollback that was nobody's fault, {} calls repeated for an unknown outcome",
            storm.tried_anew, storm.calls_repeated
        ));
    }

    fn print_invariants(&self) -> Result<()> {
        say::headline("What must hold");
        let row = |one: &super::audit::Invariant| {
            format!("{}\t{}\t{}", if one.holds { "ok" } else { "BROKEN" }, one.name, one.detail)
        };
        table(&self.audit.invariants.iter().map(row).collect::<Vec<_>>(), Alignment::Left)
    }
}

fn table(rows: &[String], alignment: Alignment) -> Result<()> {
    let mut writer = TabWriter::new(Vec::new()).padding(3).alignment(alignment);
    for row in rows {
        writeln!(writer, "{row}")?;
    }
    writer.flush()?;
    let text = String::from_utf8(
        writer.into_inner().map_err(|error| anyhow!("lay out a table: {}", error.error()))?,
    )?;
    text.lines().for_each(|line| say::line(line.trim_end()));
    Ok(())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
