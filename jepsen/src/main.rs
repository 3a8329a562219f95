//! `jepsen`: checks histories. (To make them, with real processes and real faults, comes next.)

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use jepsen::{append, history};

/// Checks histories of Concord, or of anyone
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a stored history of list-append transactions, in Jepsen's format
    ///
    /// Exit status 1: an anomaly was found. 2: the history cannot be used.
    Check {
        /// One EDN map in a line
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Check { file } = Options::parse().command;
    match check(&file) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn check(file: &Path) -> Result<bool> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let history = history::read(&text).with_context(|| format!("cannot use {name}"))?;
    let verdict = append::check(&history).with_context(|| format!("cannot use {name}"))?;
    let append::Verdict { ok, failed, unknown, keys, dependencies, anomalies } = verdict;
    println!(
        "{ok} transactions ok, {failed} failed, {unknown} unknown; {keys} lists, {dependencies} dependencies"
    );
    for anomaly in &anomalies {
        println!("\n{}\n  {}", anomaly.name, anomaly.explanation.replace('\n', "\n  "));
    }
    println!("\n{}", if anomalies.is_empty() { "no anomalies" } else { "ANOMALIES" });
    Ok(anomalies.is_empty())
}
