//! Every point in every scenario that comes there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use concord_crash_points::{MARIADB_ONLY, POINTS, is_known};
use concord_sandbox::Flavor;
use concord_tests::Pair;

use super::case::{Case, Moment, Role};
use super::scenario::Scenario;
use super::stage::Stage;

concord_tests::on_both!(every_point);

/// Worlds at a time: they wait more than they work.
const LANES: usize = 4;
/// After so many failures of a scenario the rest of it is left out.
const FAILURES_MAX: usize = 3;
/// At most one case in so many may end without a death.
const MISSED_PART_MAX: usize = 20;
/// A point that is reached more often is not different any more.
const NTH_MAX: u32 = 2;
/// For the store's writer: as long as anything takes that must not happen before it goes on.
const LINGER: Duration = Duration::from_millis(40);

/// What came of one scenario.
#[derive(Debug, Clone)]
struct Played {
    scenario: Scenario,
    deaths: usize,
    /// Of these, deaths of the coordinator.
    coordinators: usize,
    /// Where nobody died: those points were reached by chance when there was no death.
    missed: Vec<String>,
    points: BTreeSet<String>,
    failures: Vec<String>,
    took: Duration,
}

async fn every_point(flavor: Flavor) -> Result<()> {
    let only = std::env::var("CONCORD_CRASH_CASE").ok();
    let mut scenarios = Scenario::all();
    if let Ok(name) = std::env::var("CONCORD_CRASH_SCENARIO") {
        scenarios.retain(|scenario| scenario.to_string() == name);
    }
    let is_all = only.is_none() && scenarios == Scenario::all();
    let pair = concord_tests::pair(flavor).await?;
    let started = Instant::now();
    let queue = Mutex::new(VecDeque::from(scenarios));
    let lane = async || {
        let mut all = Vec::new();
        loop {
            let next = queue.lock().expect("nobody panics with it").pop_front();
            let Some(scenario) = next else { return all };
            let played = play(scenario, &pair, only.as_deref()).await;
            println!("{flavor:?}: {played}");
            all.push(played);
        }
    };
    let lanes = futures_util::future::join_all((0..LANES).map(|_| lane())).await;
    judge(flavor, &lanes.concat(), started.elapsed(), is_all)
}

/// Nothing has failed, and nothing was left out.
fn judge(flavor: Flavor, all: &[Played], took: Duration, is_all: bool) -> Result<()> {
    let points: BTreeSet<&str> = all.iter().flat_map(|one| &one.points).map(String::as_str).collect();
    let missed: Vec<&String> = all.iter().flat_map(|one| &one.missed).collect();
    let failures: Vec<&String> = all.iter().flat_map(|one| &one.failures).collect();
    let sum = |count: fn(&Played) -> usize| all.iter().map(count).sum::<usize>();
    let (deaths, coordinators) = (sum(|one| one.deaths), sum(|one| one.coordinators));
    say(&format!(
        "crash points on {flavor:?}: {} points x {} scenarios: {deaths} deaths ({coordinators} of coordinators), \
         {} failed, {} came to nothing, {} s",
        points.len(),
        all.len(),
        failures.len(),
        missed.len(),
        took.as_secs(),
    ));
    ensure!(failures.is_empty(), "{} cases failed: {failures:#?}", failures.len());
    ensure!(missed.len() * MISSED_PART_MAX <= deaths, "nobody died in {} cases: {missed:#?}", missed.len());
    ensure!(deaths > 0, "nothing was asked for: no such scenario, or no such case");
    if is_all {
        let idle: Vec<_> = all.iter().filter(|one| one.deaths == 0).map(|one| one.scenario).collect();
        ensure!(idle.is_empty(), "nobody died in the scenarios {idle:?}");
        let expected = POINTS.iter().filter(|name| flavor == Flavor::MariaDb || !MARIADB_ONLY.contains(name));
        let missed: Vec<_> = expected.filter(|name| !points.contains(**name)).collect();
        ensure!(missed.is_empty(), "nobody ever died at {missed:?}");
    }
    Ok(())
}

impl std::fmt::Display for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Played { scenario, deaths, coordinators: _, missed, points, failures, took } = self;
        let (points, missed, failed) = (points.len(), missed.len(), failures.len());
        write!(
            f,
            "{scenario}: {points} points, {deaths} deaths, {missed} missed, {failed} failed, {took:.1?}"
        )
    }
}

/// Shows a line also when the test succeeds: the test runner captures what is printed, not what is written.
fn say(line: &str) {
    // Without a reader nobody misses it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn play(scenario: Scenario, pair: &Pair, only: Option<&str>) -> Played {
    let mut played = Played {
        scenario,
        deaths: 0,
        coordinators: 0,
        missed: Vec::new(),
        points: BTreeSet::new(),
        failures: Vec::new(),
        took: Duration::ZERO,
    };
    let started = Instant::now();
    if let Err(error) = play_all(pair, only, &mut played).await {
        played.failures.push(format!("{scenario}: {error:#}"));
    }
    played.took = started.elapsed();
    played
}

async fn play_all(pair: &Pair, only: Option<&str>, played: &mut Played) -> Result<()> {
    let scenario = played.scenario;
    let mut stage = Stage::set(scenario, pair).await?;
    let reached = stage.rehearse().await.context("without a death")?;
    for (number, case) in cases(scenario, &reached)?.into_iter().enumerate() {
        let name = format!("{scenario}: {case}");
        if !only.is_none_or(|only| name.contains(only)) {
            continue;
        }
        // Every second initiator leaves it at that.
        match stage.play(&case, number % 2 == 0).await {
            Ok(true) => {
                played.deaths += 1;
                played.coordinators += usize::from(case.victim == Role::Coordinator);
                if let Moment::Point { name, .. } = case.moment {
                    played.points.insert(name);
                }
            }
            Ok(false) => played.missed.push(name),
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                played.failures.push(format!("{name}: {error:#}"));
                if played.failures.len() == FAILURES_MAX {
                    return Ok(());
                }
                stage = Stage::set(scenario, pair).await?;
            }
        }
    }
    stage.close().await.context("afterwards")
}

/// The deaths of a scenario, by the points that were reached in it.
fn cases(scenario: Scenario, reached: &BTreeMap<(Role, String), u32>) -> Result<Vec<Case>> {
    let names: BTreeSet<&String> = reached.keys().map(|(_, name)| name).collect();
    let mut cases = Vec::new();
    for name in names {
        ensure!(is_known(name), "the point {name} is not in the table");
        if scenario.is_about(name) {
            for at in places(scenario, name, reached) {
                deaths_at(scenario, name, at, reached[&(at, name.clone())], &mut cases);
            }
        }
    }
    if matches!(scenario, Scenario::Execute(..)) {
        cases.push(Case { moment: Moment::Answered, victim: Role::Coordinator });
    }
    Ok(cases)
}

/// The processes that die at a point: of two participants that come there, the second.
fn places(scenario: Scenario, name: &str, reached: &BTreeMap<(Role, String), u32>) -> Vec<Role> {
    let comes = |role: &Role| reached.contains_key(&(*role, name.to_owned()));
    let participant = [Role::Two, Role::One].into_iter().find(comes);
    match scenario {
        // Only they have it armed.
        Scenario::CoordinatorAgain(..) => vec![Role::Coordinator],
        Scenario::ParticipantAgain(..) => vec![Role::Two],
        _ => [Role::Coordinator].into_iter().filter(comes).chain(participant).collect(),
    }
    .into_iter()
    .filter(comes)
    .collect()
}

fn deaths_at(scenario: Scenario, name: &str, at: Role, times: u32, cases: &mut Vec<Case>) {
    let mut die = |victim: Role, nth: u32, linger: Duration| {
        let moment = Moment::Point { name: name.to_owned(), at, nth, linger };
        cases.push(Case { moment, victim });
    };
    for nth in 1..=times.min(NTH_MAX) {
        die(at, nth, Duration::ZERO);
    }
    if name.starts_with("coordinator/writer") {
        die(at, 1, LINGER);
    }
    if scenario.arms_at_restart() {
        return;
    }
    // A call is under way; its answer is.
    if name.starts_with("participant/received") {
        die(Role::Coordinator, 1, Duration::ZERO);
    }
    if name.starts_with("coordinator/reply") {
        die(Role::Two, 1, Duration::ZERO);
    }
}
