//! For people. What does not fit in a column stands below its line.

use std::io::Write as _;

use anyhow::Result;
use tabwriter::TabWriter;

use crate::outcome::{Bound, Of, Outcome, Wanted};

const HEAD: &str = "name\tdatabase\tat a time\tours\tbaseline\tunit\tratio\tp50, p99 (ms)\tbaseline's\tsyncs/tx\t\
                    baseline's\twanted";

/// The outcomes of a scenario.
pub(crate) fn table(outcomes: &[Outcome]) -> Result<String> {
    let mut table = TabWriter::new(Vec::new());
    writeln!(table, "{HEAD}")?;
    for outcome in outcomes {
        writeln!(table, "{}", row(outcome))?;
    }
    let table = String::from_utf8(table.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?)?;
    let details = outcomes.iter().map(|outcome| outcome.detail.as_str());
    // The first line is the head.
    let mut lines = table.lines();
    let mut text = format!("\n{}\n", lines.next().unwrap_or_default().trim_end());
    for (line, detail) in lines.zip(details) {
        text += &format!("{}\n", line.trim_end());
        if !detail.is_empty() {
            text += &format!("    {detail}\n");
        }
    }
    Ok(text)
}

fn row(outcome: &Outcome) -> String {
    let ms = |p50: Option<f64>, p99: Option<f64>| {
        p50.zip(p99).map(|(p50, p99)| format!("{}, {}", number(p50), number(p99))).unwrap_or_default()
    };
    let count = |value: Option<f64>| value.map(number).unwrap_or_default();
    [
        outcome.name.clone(),
        outcome.database.map(|flavor| flavor.to_string()).unwrap_or_default(),
        outcome.concurrency.map(|count| count.to_string()).unwrap_or_default(),
        number(outcome.ours),
        count(outcome.baseline),
        outcome.unit.to_owned(),
        outcome.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        ms(outcome.p50, outcome.p99),
        ms(outcome.baseline_p50, outcome.baseline_p99),
        count(outcome.syncs_per_tx),
        count(outcome.baseline_syncs_per_tx),
        verdict(outcome),
    ]
    .join("\t")
}

/// To three digits, or to the unit.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// `ratio at least 0.7, ours at least 5000: ok`
fn verdict(outcome: &Outcome) -> String {
    if outcome.wanted.is_empty() {
        return String::new();
    }
    let wanted: Vec<String> = outcome.wanted.iter().map(in_words).collect();
    let verdict = if outcome.reached() { "ok" } else { "MISSED" };
    format!("{}: {verdict}", wanted.join(", "))
}

fn in_words(wanted: &Wanted) -> String {
    let of = match wanted.of {
        Of::Ours => "ours",
        Of::Ratio => "ratio",
        Of::SyncsPerTx => "syncs/tx",
    };
    match wanted.bound {
        Bound::AtMost(bound) => format!("{of} at most {bound}"),
        Bound::AtLeast(bound) => format!("{of} at least {bound}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_figure_is_called_so_and_has_its_detail_below() {
        let missed = Outcome::figure("slow", 1234.5, "tx/s").ours_wanted(Bound::AtLeast(5_000.0));
        let text = table(&[missed.detail("why"), Outcome::figure("plain", 0.25, "ms")]).unwrap();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].starts_with("slow") && lines[0].contains("1234"), "{text}");
        assert!(lines[0].ends_with("ours at least 5000: MISSED"), "{text}");
        assert_eq!(lines[1], "    why");
        assert!(lines[2].starts_with("plain") && lines[2].contains("0.250"), "{text}");
    }
}
