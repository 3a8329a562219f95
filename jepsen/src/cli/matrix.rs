//! `jepsen matrix`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use jepsen::nemesis::Kind;
use jepsen::verdict::Verdict;
use jepsen::workload::Workload;

use super::run::{Common, Nemesis, make};

/// Options of `matrix`.
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    common: Common,
    /// Only these workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// Only these nemeses, each by itself; "all" is all at once
    #[arg(long, value_delimiter = ',')]
    nemesis: Vec<Nemesis>,
    /// Where a directory for each run goes
    #[arg(long, default_value = "target/jepsen")]
    output: PathBuf,
}

/// Runs every workload with every nemesis.
pub(crate) async fn matrix(args: MatrixArgs) -> Result<ExitCode> {
    args.common.enter_network()?;
    let workloads = if args.workload.is_empty() { Workload::ALL.to_vec() } else { args.workload };
    let every =
        || Kind::ALL.iter().map(|kind| kind.name()).chain(["all"]).filter_map(|name| name.parse().ok());
    let nemeses: Vec<Nemesis> = if args.nemesis.is_empty() { every().collect() } else { args.nemesis };
    let mut verdicts = Vec::new();
    for workload in workloads {
        for nemesis in &nemeses {
            let Ok(options) = args.common.options(workload, nemesis) else {
                println!("{:<7} {:<22} not applicable", workload.name(), nemesis.name());
                continue;
            };
            let directory = args.output.join(
                jepsen::run::default_directory(&options, nemesis.name()).file_name().unwrap_or_default(),
            );
            let findings = make(&options, nemesis.name(), &directory).await?;
            let verdict = findings.verdict();
            println!("{:<7} {:<22} {verdict:<8} {}", workload.name(), nemesis.name(), directory.display());
            if verdict != Verdict::Valid {
                print!("{}", super::check::told(&findings));
            }
            verdicts.push(verdict);
        }
    }
    let worst = [Verdict::Invalid, Verdict::Vacuous].into_iter().find(|verdict| verdicts.contains(verdict));
    Ok(super::check::exit_code(worst.unwrap_or(Verdict::Valid)))
}
