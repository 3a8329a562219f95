//! `mutants`: switches on one seeded bug after the other, and runs the layers of tests that contain its code. A bug
//! that no layer catches fails the run.

mod hunt;
mod layer;
mod programs;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use concord_seeded_bugs::{BUGS, Bug};

use crate::hunt::Hunt;
use crate::layer::Layer;
use crate::programs::Programs;

/// Switches on one seeded bug after the other, and runs the layers of tests against each
#[derive(Debug, Parser)]
struct Options {
    /// Only these bugs
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Only these layers, the cheapest first
    #[arg(long, value_enum, value_delimiter = ',')]
    layers: Vec<Layer>,

    /// All layers for each bug, also when one has caught it
    #[arg(long)]
    all: bool,

    /// A layer that takes longer has caught a bug: it hangs. In seconds
    #[arg(long, value_name = "S", default_value = "600")]
    limit: u64,

    /// Writes the table as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Lists the bugs, and runs nothing
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let bugs = bugs(&options.only)?;
    if options.list {
        print!("{}", table::of_bugs(&bugs)?);
        return Ok(ExitCode::SUCCESS);
    }
    let layers = match options.layers.as_slice() {
        [] => Layer::ALL.to_vec(),
        some => Layer::ALL.into_iter().filter(|layer| some.contains(layer)).collect(),
    };
    let programs = Programs::build(&layers)?;
    let hunt = Hunt { programs, layers, all: options.all, limit: Duration::from_secs(options.limit) };
    hunt.without_bugs()?;
    let results = hunt.run(&bugs)?;
    print!("{}", table::of_results(&results)?);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let survivors: Vec<_> = results.iter().filter(|result| !result.is_caught()).map(|one| one.bug).collect();
    if survivors.is_empty() {
        println!("{} seeded bugs, all caught", results.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} seeded bugs, {} not caught: {}", results.len(), survivors.len(), survivors.join(", "));
    Ok(ExitCode::FAILURE)
}

fn bugs(only: &[String]) -> Result<Vec<&'static Bug>> {
    for name in only {
        ensure!(BUGS.iter().any(|bug| bug.name == name), "there is no seeded bug {name:?}; see --list");
    }
    let wanted = |bug: &&Bug| only.is_empty() || only.iter().any(|name| name == bug.name);
    let bugs: Vec<_> = BUGS.iter().filter(wanted).collect();
    if bugs.is_empty() {
        bail!("no bugs to look for");
    }
    Ok(bugs)
}
