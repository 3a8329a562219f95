//! The page, `index.html`: one file with its style in it, that fetches nothing but the plots beside it.

use maud::{Markup, PreEscaped, html};

use super::faults::Fault;
use super::summary::{Faults, Operations, Summary};
use super::{Report, Run, grouped, without_controls};
use crate::Anomaly;
use crate::verdict::{Claim, Verdict};

/// Elements without an end are written as XML has them: then any XML parser can read the page.
const HEAD: &str = concat!(
    "<meta charset=\"utf-8\"/>",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>",
    "<style>",
    include_str!("style.css"),
    "</style>",
);

/// The page. `logs` are the names and sizes of the files in `logs/`.
pub(super) fn html(run: &Run<'_>, summary: &Summary<'_>, logs: &[(String, u64)]) -> String {
    let report = run.report;
    let page = html! {
        (PreEscaped("<!DOCTYPE html>\n"))
        html lang="en" {
            head {
                (PreEscaped(HEAD))
                title { (report.verdict) ": " (report.title) }
            }
            body {
                (verdict(run))
                main {
                    (wrong(report))
                    (claims(&report.claims))
                    (plots())
                    (operations(&summary.operations))
                    (faults(&summary.faults, &run.faults))
                    (how(report))
                    (files(logs))
                }
            }
        }
    };
    without_controls(&page.into_string())
}

fn verdict(run: &Run<'_>) -> Markup {
    let report = run.report;
    let word = report.verdict.to_string();
    html! {
        header class=(word) {
            p.title { (report.title) }
            h1 { (word.to_uppercase()) }
            p { (reason(report)) }
            @if !report.vacuous.is_empty() {
                @if report.verdict == Verdict::Invalid { p { "Besides, the run did too little:" } }
                ul { @for reason in &report.vacuous { li { (reason) } } }
            }
            p.facts {
                (seconds(run.end_s)) " · " (counted(run.calls.len() as u64, "operation"))
                " · " (counted(run.faults.len() as u64, "fault"))
            }
        }
    }
}

fn reason(report: &Report<'_>) -> String {
    let checked = report.claims.iter().map(|claim| claim.checked).sum();
    let violations: usize = report.claims.iter().map(|claim| claim.violations.len()).sum();
    let found = (violations + report.anomalies.len()) as u64;
    match report.verdict {
        Verdict::Valid => format!("All that was looked at is as it must be: {}.", counted(checked, "check")),
        Verdict::Invalid => format!("What must not happen has happened: {}.", counted(found, "violation")),
        Verdict::Vacuous => {
            "Nothing was found wrong, but the run did too little to say that all is right:".into()
        }
    }
}

/// Every violation and every anomaly, in full.
fn wrong(report: &Report<'_>) -> Markup {
    let violated: Vec<&Claim> = report.claims.iter().filter(|claim| !claim.violations.is_empty()).collect();
    html! {
        @if !violated.is_empty() || !report.anomalies.is_empty() {
            h2 { "What went wrong" }
        }
        @for claim in violated {
            h3 { (claim.id) " " (claim.title) }
            p { (claim.statement) }
            (explained(&claim.violations))
        }
        @if !report.anomalies.is_empty() {
            h3 { "Isolation" }
            (explained(&report.anomalies))
        }
    }
}

fn explained(anomalies: &[Anomaly]) -> Markup {
    html! {
        @for anomaly in anomalies {
            div.violation {
                strong { (anomaly.name) }
                pre { (anomaly.explanation) }
            }
        }
    }
}

fn claims(claims: &[Claim]) -> Markup {
    html! {
        h2 { "Claims" }
        div.wide { table {
            thead { tr { th {} th { "Claim" } th.number { "Checked" } th.number { "Violations" } } }
            tbody {
                @for claim in claims {
                    tr class=(state(claim)) {
                        td { strong { (claim.id) } }
                        td { strong { (claim.title) } div.statement { (claim.statement) } }
                        td.number { (grouped(claim.checked)) }
                        td.number { (grouped(claim.violations.len() as u64)) }
                    }
                }
            }
        } }
    }
}

/// A claim that does not hold, one that was not put to the test, or one that holds.
fn state(claim: &Claim) -> &'static str {
    match (claim.violations.is_empty(), claim.checked) {
        (false, _) => "broken",
        (true, 0) => "untested",
        (true, _) => "holds",
    }
}

fn plots() -> Markup {
    html! {
        h2 { "Over time" }
        @for (file, what) in [
            ("latency.svg", "latency of each operation by outcome, over time"),
            ("rate.svg", "operations per second by outcome, over time"),
        ] {
            div.wide.plot {
                a href=(file) { (PreEscaped(format!("<img src=\"{file}\" alt=\"{what}; faults are shaded\"/>"))) }
            }
        }
    }
}

fn operations(operations: &[Operations<'_>]) -> Markup {
    html! {
        h2 { "Operations" }
        @if operations.is_empty() { p { "None." } } @else {
            div.wide { table {
                thead { tr {
                    th { "Operation" }
                    @for column in ["ok", "fail", "info", "p50 ms", "p99 ms", "max ms"] { th.number { (column) } }
                } }
                tbody {
                    @for one in operations {
                        tr {
                            td { code { (one.f) } }
                            @for count in [one.ok, one.fail, one.info] { td.number { (grouped(count)) } }
                            @if let Some(of) = one.latency_ms {
                                @for value in [of.p50, of.p99, of.max] { td.number { (decimal(value)) } }
                            } @else {
                                @for _ in 0..3 { td.number { "–" } }
                            }
                        }
                    }
                }
            } }
            p.note { "info: nobody knows whether it was done. Latencies are of operations that are ok." }
        }
    }
}

fn faults(kinds: &[Faults<'_>], faults: &[Fault]) -> Markup {
    html! {
        h2 { "Faults" }
        @if faults.is_empty() { p { "None." } } @else {
            div.wide { table {
                thead { tr { th { "Fault" } th.number { "How many" } th.number { "Together" } } }
                tbody {
                    @for kind in kinds {
                        tr {
                            td.kind { code { (kind.kind) } }
                            td.number { (grouped(kind.count as u64)) }
                            td.number { (seconds(kind.seconds)) }
                        }
                    }
                }
            } }
            details {
                summary { "One by one" }
                div.wide { (timeline(faults)) }
            }
        }
    }
}

fn timeline(faults: &[Fault]) -> Markup {
    html! {
        table {
            thead { tr {
                th.number { "At" } th.number { "For" } th { "Fault" } th { "Target" } th { "Details" }
            } }
            tbody {
                @for fault in faults {
                    tr {
                        td.number { (seconds(fault.start_s)) }
                        td.number {
                            @if fault.open { "to the end" } @else { (seconds(fault.end_s - fault.start_s)) }
                        }
                        td.kind { code { (fault.kind) } }
                        td.kind { (fault.target) }
                        td { (fault.details) }
                    }
                }
            }
        }
    }
}

fn how(report: &Report<'_>) -> Markup {
    html! {
        h2 { "How it was run" }
        @if !report.parameters.is_empty() {
            div.wide { table { tbody {
                @for (name, value) in &report.parameters {
                    tr { td { (name) } td { code { (value) } } }
                }
            } } }
        }
        p { "To repeat it:" }
        pre { (report.command) }
    }
}

fn files(logs: &[(String, u64)]) -> Markup {
    html! {
        h2 { "Files" }
        ul {
            @for (file, what) in [
                ("history.edn", "everything that happened, as Jepsen writes it"),
                ("result.json", "the verdict and the figures, for programs"),
                ("result.edn", "the same"),
                ("latency.svg", "the first plot"),
                ("rate.svg", "the second"),
            ] {
                li { a href=(file) { (file) } ": " (what) }
            }
            @for (log, bytes) in logs {
                li { a href={ "logs/" (log) } { "logs/" (log) } ": " (grouped(bytes.div_ceil(1024))) " KiB" }
            }
        }
    }
}

fn seconds(seconds: f64) -> String {
    format!("{} s", decimal(seconds))
}

/// With one digit after the point.
fn decimal(value: f64) -> String {
    let tenths = (value * 10.0).round() as u64;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

/// `1 fault`, `1,200 faults`.
fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}
