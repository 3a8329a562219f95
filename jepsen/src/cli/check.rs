//! `jepsen check`, and what is said of findings.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use jepsen::check::Findings;
use jepsen::history;
use jepsen::verdict::Verdict;

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// One EDN map in a line
    file: PathBuf,
}

/// Checks a stored history.
pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?;
    let history = history::read(&text).with_context(|| format!("cannot use {name}"))?;
    let findings = jepsen::check::check(&history).with_context(|| format!("cannot use {name}"))?;
    print!("{}", told(&findings));
    Ok(exit_code(findings.verdict()))
}

/// The exit status of a verdict.
pub(crate) fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Valid => ExitCode::SUCCESS,
        Verdict::Invalid => ExitCode::from(super::INVALID),
        Verdict::Vacuous => ExitCode::from(super::VACUOUS),
    }
}

/// Findings, for people.
pub(crate) fn told(findings: &Findings) -> String {
    let mut text = String::new();
    for claim in &findings.claims {
        let found = match claim.violations.len() {
            0 if claim.checked == 0 => "not put to the test".to_owned(),
            0 => "holds".to_owned(),
            violations => format!("VIOLATED ({violations})"),
        };
        let _ = writeln!(text, "{} {:<13} {:>8} looked at  {found}", claim.id, claim.title, claim.checked);
    }
    let violations =
        findings.claims.iter().flat_map(|claim| claim.violations.iter().map(|one| (claim.id, one)));
    for (claim, anomaly) in violations.chain(findings.anomalies.iter().map(|one| ("isolation", one))) {
        let _ =
            write!(text, "\n{claim}: {}\n  {}\n", anomaly.name, anomaly.explanation.replace('\n', "\n  "));
    }
    for reason in &findings.vacuous {
        let _ = write!(text, "\nvacuous: {reason}\n");
    }
    let _ = writeln!(text, "\n{}", findings.verdict().to_string().to_uppercase());
    text
}
