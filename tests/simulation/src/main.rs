//! `simulate`: runs the real engine in a simulated world, once per seed.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum as _};
use concord_simulation::campaign::{Campaign, Figures};
use concord_simulation::mutant::Mutant;
use concord_simulation::scenario::{Keep, Scenario};
use concord_simulation::{Found, Options, Outcome, hunt, run, shrink};
use indicatif::{ProgressBar, ProgressStyle};

/// Allocations are most of what a simulation does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the coordinator's engine in a simulated world: network, disks, databases, participants, clocks, and all that
/// goes wrong with them. After each run everything is mended, and the claims I1 to I8 are checked.
///
/// Exit status 1: a claim did not hold.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many runs.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this run, with its transcript.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Of that run, only these transactions; "none" for none.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    transactions: Option<Vec<String>>,
    /// Of that run, only these disasters; "none" for none.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    disasters: Option<Vec<String>>,
    /// Of that run, nothing that happens to messages.
    #[arg(long, requires = "seed")]
    calm: bool,
    /// With this bug, to see it found.
    #[arg(long, value_enum)]
    mutant: Option<Mutant>,
    /// Every bug in turn, each with so many runs at the most: which run finds it. Exit status 1: one was not found.
    #[arg(long, conflicts_with_all = ["seed", "from", "mutant"])]
    mutants: bool,
    /// Also demand that an initiator that was told "rolled back" is never told "committed" for the same key.
    #[arg(long)]
    strict_keys: bool,
    /// Threads; as many as there are cores, if not given.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Do not make a failing run smaller.
    #[arg(long)]
    no_shrink: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn options(&self, transcript: bool) -> Options {
        Options { mutant: self.mutant, strict_keys: self.strict_keys, transcript }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => replay(seed, &arguments),
        None if arguments.mutants => hunt_all(arguments.seeds),
        None => search(&arguments),
    }
}

/// One run, told line by line.
fn replay(seed: u64, arguments: &Arguments) -> ExitCode {
    let keep = Keep {
        transactions: arguments.transactions.as_deref().map(numbers),
        disasters: arguments.disasters.as_deref().map(numbers),
        calm: arguments.calm,
    };
    let scenario = Scenario::new(seed).reduced(&keep);
    let outcome = run(&scenario, arguments.options(true));
    println!("{scenario:#?}\n\n{}", outcome.transcript);
    verdict(&outcome)
}

/// Anything that is not a number stands for none.
fn numbers<T: std::str::FromStr>(texts: &[String]) -> Vec<T> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn verdict(outcome: &Outcome) -> ExitCode {
    for violation in &outcome.violations {
        println!("{}: {}", violation.claim, violation.what);
    }
    if outcome.violations.is_empty() {
        println!("every claim holds");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Looks for every bug there is.
fn hunt_all(seeds: u64) -> ExitCode {
    let mut survivors = 0;
    for mutant in Mutant::value_variants() {
        let started = Instant::now();
        let found = hunt(*mutant, seeds);
        let seconds = started.elapsed().as_secs_f64();
        match &found {
            Some(Found { seed, runs, outcome }) => {
                let claims: BTreeSet<_> =
                    outcome.violations.iter().map(|violation| violation.claim).collect();
                let claims = Vec::from_iter(claims).join(" ");
                println!("{:<28} seed {seed:<6} {runs:>6} runs {seconds:>7.1} s   {claims}", name(*mutant));
            }
            None => println!("{:<28} NOT FOUND   {seeds:>6} runs {seconds:>7.1} s", name(*mutant)),
        }
        survivors += usize::from(found.is_none());
    }
    println!("{} bugs, {survivors} not found", Mutant::value_variants().len());
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As it is given on the command line.
fn name(mutant: Mutant) -> String {
    mutant.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Many runs; the first that fails is made smaller and told.
fn search(arguments: &Arguments) -> ExitCode {
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok());
    let campaign = Campaign {
        seeds: arguments.from..arguments.from.saturating_add(arguments.seeds),
        options: arguments.options(false),
        jobs: jobs.map_or(1, NonZeroUsize::get),
        failures_max: 1,
    };
    let bar = ProgressBar::new(arguments.seeds);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} seeds, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let report = campaign.run(&|done| bar.set_position(done));
    bar.finish_and_clear();
    if let Some((seed, outcome)) = report.failures.first() {
        tell(*seed, outcome.clone(), arguments);
    }
    print(&report.figures, arguments.json);
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(figures: &Figures, json: bool) {
    match json.then(|| serde_json::to_string(figures)) {
        Some(Ok(text)) => println!("{text}"),
        _ => println!("{figures}"),
    }
}

/// Tells a failing run, and how to see it again.
fn tell(seed: u64, outcome: Outcome, arguments: &Arguments) {
    let scenario = Scenario::new(seed);
    let keep = match arguments.no_shrink {
        true => Keep::default(),
        false => shrink::shrink(&scenario, outcome, arguments.options(false)).0,
    };
    let outcome = run(&scenario.reduced(&keep), arguments.options(true));
    eprintln!("{}", excerpt(&outcome.transcript));
    for violation in &outcome.violations {
        eprintln!("{}: {}", violation.claim, violation.what);
    }
    eprintln!("\nsee it again:\n  {}\n", command(seed, &keep, arguments));
}

/// The beginning and the end of a long text.
fn excerpt(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0..=400 => text.to_owned(),
        count => {
            let left_out = format!("  … {} lines left out …", count - 350);
            [&lines[..300], &[left_out.as_str()], &lines[count - 50..]].concat().join("\n")
        }
    }
}

fn command(seed: u64, keep: &Keep, arguments: &Arguments) -> String {
    let mut command = format!("cargo run --release --bin simulate -- --seed {seed}");
    let mut list = |name: &str, numbers: Vec<String>| {
        let numbers = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        command.push_str(&format!(" --{name} {numbers}"));
    };
    if let Some(transactions) = &keep.transactions {
        list("transactions", transactions.iter().map(u32::to_string).collect());
    }
    if let Some(disasters) = &keep.disasters {
        list("disasters", disasters.iter().map(usize::to_string).collect());
    }
    if keep.calm {
        command.push_str(" --calm");
    }
    if arguments.strict_keys {
        command.push_str(" --strict-keys");
    }
    if let Some(mutant) = arguments.mutant {
        command.push_str(&format!(" --mutant {}", name(mutant)));
    }
    command
}
