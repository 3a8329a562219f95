//! `model`: explores the protocol core exhaustively, within bounds, and prints what it has seen.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use concord_model::{Configuration, Extent, Mutant, Report, check, configurations};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Explores the protocol core exhaustively: every order of messages, losses and crashes, within bounds.
#[derive(Debug, Parser)]
struct Options {
    /// One and two branches only: seconds
    #[arg(long, conflicts_with = "long")]
    small: bool,

    /// More faults in each run: hours, and tens of gigabytes
    #[arg(long)]
    long: bool,

    /// Puts a bug into what surrounds the core; the run must fail then
    #[arg(long, value_name = "NAME")]
    mutant: Option<Mutant>,

    /// Only configurations whose line contains this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Threads [default: one per processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let extent = match (options.small, options.long) {
        (true, _) => Extent::Small,
        (_, true) => Extent::Long,
        _ => Extent::Usual,
    };
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
    println!("{}", Line::HEAD);
    let (mut states, mut seconds, mut good) = (0, Duration::ZERO, true);
    for mut rules in configurations(extent) {
        rules.mutant = options.mutant;
        let line = Line::of(&rules);
        if options.only.as_ref().is_some_and(|text| !line.0.contains(text.as_str())) {
            continue;
        }
        let report = check(rules, threads);
        line.print(&report);
        states += report.states;
        seconds += report.elapsed;
        good &= report.is_good();
        if let Some(trace) = &report.broken {
            println!("\n{trace}");
            break;
        }
    }
    println!("{states} states in {:.1} s", seconds.as_secs_f64());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line of the table.
struct Line(String);

impl Line {
    const HEAD: &str = "branches      driven by   faults                                                          states      steps  depth  seconds";

    fn of(rules: &Configuration) -> Self {
        Line(format!(
            "{:<13} {:<11} {:<58}",
            rules.kinds_text(),
            rules.mode.to_string(),
            rules.faults.to_string()
        ))
    }

    fn print(&self, report: &Report) {
        println!(
            "{} {:>11} {:>10} {:>6} {:>8.1}",
            self.0,
            report.states,
            report.steps,
            report.depth,
            report.elapsed.as_secs_f64()
        );
        for missing in &report.missing {
            println!("   VACUOUS: never seen: {missing}");
        }
    }
}
