//! The command line.

mod check;
mod list;
mod matrix;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use jepsen::node::{coordinator, participant};

/// Exit status: an anomaly, or a violated claim, was found.
const INVALID: u8 = 1;
/// Exit status: nothing could be found out.
pub(crate) const UNUSABLE: u8 = 2;
/// Exit status: too little was tried.
const VACUOUS: u8 = 3;

/// Runs Concord as real processes on real databases, breaks what can be broken, and checks what happened
///
/// Starts private MySQL or MariaDB servers (fetched, without root, when the machine has none), a participant for each
/// and a coordinator; has clients at work while faults are made; mends everything, waits until all has ended, and checks
/// the claims I1 to I8. The history is in Jepsen's format.
#[derive(Debug, Parser)]
#[command(name = "jepsen", version, max_term_width = 110)]
#[command(after_help = "\
Exit codes: 0 valid, 1 a claim was violated or an anomaly found, 2 nothing could be found out, 3 too little was tried \
(vacuous).")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make one run, check it and write its report
    Run(run::RunArgs),
    /// Check a stored history, ours or anyone's, in Jepsen's format
    ///
    /// Of a run of ours all claims are checked; of any other history, list-append transactions.
    Check(check::CheckArgs),
    /// Run every workload with every nemesis, shortly
    Matrix(matrix::MatrixArgs),
    /// Say which workloads, nemeses, claims and anomalies there are
    List,
    /// The coordinator's process
    #[command(hide = true)]
    Coordinator(coordinator::CoordinatorArgs),
    /// A participant's process
    #[command(hide = true)]
    Participant(participant::ParticipantArgs),
}

/// Does as it is told.
pub(crate) async fn obey(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Check(args) => check::check(&args),
        Command::Matrix(args) => matrix::matrix(args).await,
        Command::List => {
            print!("{}", list::text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Coordinator(args) => coordinator::serve(args).await,
        Command::Participant(args) => participant::serve(args).await.map(|()| ExitCode::SUCCESS),
    }
}
