//! `model`: explores the protocol core exhaustively, within bounds, and prints what it has seen.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use concord_model::{Configuration, Extent, Faults, Mode, Mutant, Report, check, configurations};
use concord_protocol::Kind;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Explores the protocol core exhaustively: every order of messages, losses and crashes, within bounds.
#[derive(Debug, Parser)]
struct Options {
    /// One and two branches only: a second
    #[arg(long, conflicts_with = "long")]
    small: bool,

    /// Two crashes of the coordinator; two branches with faults of every kind: many minutes, and gigabytes
    #[arg(long)]
    long: bool,

    /// Puts a bug into what surrounds the core: the run must fail then
    #[arg(long, value_name = "NAME")]
    mutant: Option<Mutant>,

    /// Only configurations whose line contains this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Threads [default: one per processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    #[command(flatten)]
    own: Own,
}

/// One configuration of one's own, instead of the usual ones.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One configuration of your own")]
struct Own {
    /// Its branches, up to three: xa,xa,tcc
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind, conflicts_with_all = ["small", "long"])]
    branches: Vec<Kind>,

    /// Who drives it
    #[arg(long, value_enum, default_value = "early-vote")]
    driven_by: Mode,

    /// Crashes of the coordinator
    #[arg(long, value_name = "N", default_value = "0")]
    crashes: u8,

    /// Take-overs by another coordinator, while the one before it goes on
    #[arg(long, value_name = "N", default_value = "0")]
    take_overs: u8,

    /// Crashes of a participant
    #[arg(long, value_name = "N", default_value = "0")]
    participant_crashes: u8,

    /// Calls without an answer, that may still arrive
    #[arg(long, value_name = "N", default_value = "0")]
    lost: u8,

    /// Messages that arrive twice
    #[arg(long, value_name = "N", default_value = "0")]
    duplicated: u8,

    /// Confirms and Cancels that are refused
    #[arg(long, value_name = "N", default_value = "0")]
    refusals: u8,

    /// Branches that recovery ends
    #[arg(long, value_name = "N", default_value = "0")]
    sweeps: u8,

    /// Orders of an operator
    #[arg(long, value_name = "N", default_value = "0")]
    orders: u8,

    /// Failed calls of phase two after which a branch is parked
    #[arg(long, value_name = "N")]
    park_after: Option<u32>,
}

fn kind(text: &str) -> Result<Kind, &'static str> {
    match text {
        "xa" => Ok(Kind::Xa),
        "tcc" => Ok(Kind::Tcc),
        _ => Err("neither xa nor tcc"),
    }
}

impl Own {
    fn configuration(&self) -> Option<Configuration> {
        let faults = Faults {
            crashes: self.crashes,
            take_overs: self.take_overs,
            participant_crashes: self.participant_crashes,
            lost: self.lost,
            duplicated: self.duplicated,
            refusals: self.refusals,
            sweeps: self.sweeps,
            orders: self.orders,
        };
        let mut rules = Configuration::new(&self.branches, self.driven_by).with(faults);
        rules.park_after_attempts = self.park_after;
        Some(rules).filter(|rules| !rules.kinds.is_empty())
    }
}

impl Options {
    /// What to explore.
    fn configurations(&self) -> Vec<Configuration> {
        let extent = match (self.small, self.long) {
            (true, _) => Extent::Small,
            (_, true) => Extent::Long,
            _ => Extent::Usual,
        };
        let mut all = self.own.configuration().map_or_else(|| configurations(extent), |own| vec![own]);
        all.iter_mut().for_each(|rules| rules.mutant = self.mutant);
        let wanted = |rules: &Configuration| {
            self.only.as_ref().is_none_or(|text| Line::of(rules).0.contains(text.as_str()))
        };
        all.retain(wanted);
        all
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
    let configurations = options.configurations();
    println!("{}", Line::head());
    let (mut held, mut states, mut steps, mut seconds) = (0, 0, 0, Duration::ZERO);
    for rules in &configurations {
        let line = Line::of(rules);
        let report = check(rules.clone(), threads);
        line.print(&report);
        states += report.states;
        steps += report.steps;
        seconds += report.elapsed;
        held += usize::from(report.is_good());
        if let Some(trace) = &report.broken {
            println!("\n{trace}");
            break;
        }
    }
    println!(
        "\n{held} of {} configurations held: {states} states, {steps} steps, {:.1} s",
        configurations.len(),
        seconds.as_secs_f64()
    );
    // Nothing explored is nothing proved.
    if held == configurations.len() && held > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line of the table.
struct Line(String);

impl Line {
    fn head() -> String {
        format!(
            "{:<12} {:<10} {:<76} {:>11} {:>11} {:>5} {:>8}",
            "branches", "driven by", "faults, at most", "states", "steps", "depth", "seconds"
        )
    }

    fn of(rules: &Configuration) -> Self {
        let mut faults = rules.faults.to_string();
        if let Some(attempts) = rules.park_after_attempts {
            faults.push_str(&format!("; parks after {attempts}"));
        }
        Line(format!("{:<12} {:<10} {faults:<76}", rules.kinds_text(), rules.mode.to_string()))
    }

    fn print(&self, report: &Report) {
        println!(
            "{} {:>11} {:>11} {:>5} {:>8.1}",
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
