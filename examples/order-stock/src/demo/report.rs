//! The end of the story, as text and as data.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use tabwriter::{Alignment, TabWriter};

use super::audit::{Audit, Invariant, Line};
use super::say::{self, money, thousands};
use super::scenarios::Scenario;
use super::storm::Storm;

/// Everything that the demo found out; `--json` writes it as it stands here.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether every invariant holds.
    pub ok: bool,
    /// What orders, stock and money were kept in.
    pub database: Database,
    /// The seven scenarios.
    pub scenarios: Vec<Scenario>,
    /// The random orders.
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
        self.print_goods()?;
        self.print_speed();
        self.print_invariants()
    }

    fn print_events(&self) -> Result<()> {
        say::headline("What happened");
        let mut rows = vec!["\tOrder\tOutcome\tWhat was done to it".to_owned()];
        for (index, one) in self.scenarios.iter().enumerate() {
            let (number, qty) = (index + 1, thousands(one.qty));
            rows.push(format!("{number}\t{qty} {}\t{}\t{}", one.sku, one.state, one.name));
        }
        let Storm { orders, placed, refused, refused_for_stock, .. } = &self.storm;
        let [orders, placed, stock, money, refused] =
            [*orders, *placed, *refused_for_stock, refused - refused_for_stock, *refused]
                .map(|number| thousands(i64::try_from(number).unwrap_or(i64::MAX)));
        rows.push(format!(
            "8\t{orders} random\t{placed} COMMITTED, {refused} ROLLED_BACK\t\
             refused: {stock} for want of stock, {money} for want of money"
        ));
        table(&rows, Alignment::Left)
    }

    fn print_goods(&self) -> Result<()> {
        say::headline("Where goods and money are");
        let row = |line: &Line, show: fn(i64) -> String| {
            let Line { sku, opening, ordered, left, frozen } = line;
            let [opening, ordered, left, frozen] =
                [opening, ordered, left, frozen].map(|figure| show(*figure));
            format!("{sku}\t{opening}\t{ordered}\t{left}\t{frozen}")
        };
        let mut rows = vec!["\tat first\tordered\tleft\tfrozen".to_owned()];
        rows.extend(self.audit.goods.iter().map(|line| row(line, thousands)));
        rows.push(row(&self.audit.money, money));
        table(&rows, Alignment::Right)
    }

    fn print_speed(&self) {
        let storm = &self.storm;
        say::headline("How fast the random orders were");
        say::line(format!(
            "{:.0} orders/s by {} buyers, {:.0} of them placed",
            storm.orders_per_second, storm.buyers, storm.placed_per_second
        ));
        say::line(format!(
            "to place one took: p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            storm.latency_ms.p50, storm.latency_ms.p99, storm.latency_ms.max
        ));
        if let Some(syncs) = storm.log_syncs_per_order {
            say::line(format!("{syncs:.2} syncs of the coordinator's log per order"));
        }
        say::line(format!("{} requests repeated for an unknown outcome", storm.requests_repeated));
    }

    fn print_invariants(&self) -> Result<()> {
        say::headline("What must hold");
        let row = |one: &Invariant| {
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
