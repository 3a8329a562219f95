//! What the page of metrics shows of transactions.

use std::collections::BTreeSet;

use concord_protocol::Epoch;
use concord_xa::{InDoubt, RawXid, Xid};

use super::outcomes::Prepared;
use super::*;
use crate::config::{Config, DatabaseUrl, Resource};
use crate::engine::{Census, Order};
use crate::resource::Resources;
use crate::scrape;
use crate::store::UnixMillis;
use crate::transport::{GrpcParticipants, OutboundSettings};

/// The page, with resources that have nothing to show.
fn page(world: &World) -> String {
    page_with(world, &Resources::new(&Config::default(), world.engine.cluster_id()))
}

fn page_with(world: &World, resources: &Resources) -> String {
    let engine = &world.engine;
    let participants =
        GrpcParticipants::new(engine.cluster_id(), OutboundSettings::default(), engine.metrics());
    scrape::text(engine, &participants, resources, UnixMillis(0))
}

/// The value of one series of ours.
fn value(world: &World, series: &str) -> f64 {
    value_on(&page(world), series)
}

fn value_on(page: &str, series: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(&format!("concord_{series} ")));
    found.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
}

#[track_caller]
fn shows(world: &World, expected: &[(&str, f64)]) {
    for (series, expected) in expected {
        assert_eq!(value(world, series), *expected, "{series}");
    }
}

/// Time stands still but where the engine waits, so it is known how long everything takes.
#[tokio::test(start_paused = true)]
async fn a_transaction_shows_when_it_has_ended() {
    let world = World::new().await;
    world.actors.script(A, Script::HangOn(Verb::WorkAndPrepare));
    world.actors.script(B, Script::HangOn(Verb::Commit));
    let release = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        shows(&world, &[("transactions_live{state=\"preparing\"}", 1.0), ("branches_in_doubt", 1.0)]);
        world.actors.script(A, Script::Agree);
        tokio::time::sleep(Duration::from_secs(3)).await;
        shows(&world, &[("transactions_live{state=\"committing\"}", 1.0), ("branches_in_doubt", 1.0)]);
        world.actors.script(B, Script::Agree);
    };
    let (done, ()) = tokio::join!(world.execute(&[A, B]), release);
    assert_eq!(done.unwrap().state, State::Committed);
    let (xa, executed) = ("protocol=\"xa\",mode=\"executed\"", "protocol=\"xa\",outcome=\"committed\"");
    let series = [
        ("transactions_begun_total{mode=\"executed\"}".to_owned(), 1.0),
        ("transactions_begun_total{mode=\"open\"}".to_owned(), 0.0),
        (format!("transactions_ended_total{{{executed}}}"), 1.0),
        (format!("begin_to_decision_seconds_count{{{xa}}}"), 1.0),
        (format!("decision_to_end_seconds_count{{{executed}}}"), 1.0),
        (format!("phase_one_seconds_count{{{xa}}}"), 2.0),
        (format!("phase_two_seconds_count{{{executed}}}"), 2.0),
        ("log_forced_seconds_count".to_owned(), 1.0),
        ("calls_total{verb=\"work_and_prepare\"}".to_owned(), 2.0),
        ("calls_total{verb=\"commit\"}".to_owned(), 2.0),
        ("calls_total{verb=\"try\"}".to_owned(), 0.0),
    ];
    for (series, expected) in &series {
        assert_eq!(value(&world, series), *expected, "{series}");
    }
    for (series, expected) in [
        (format!("begin_to_decision_seconds_sum{{{xa}}}"), 2.0),
        (format!("phase_one_seconds_sum{{{xa}}}"), 2.0),
        (format!("decision_to_end_seconds_sum{{{executed}}}"), 3.0),
        (format!("phase_two_seconds_sum{{{executed}}}"), 3.0),
    ] {
        let sum = value(&world, &series);
        assert!((expected..expected + 0.5).contains(&sum), "{series}: {sum}");
    }
}

#[tokio::test(start_paused = true)]
async fn protocols_and_modes_are_told_apart() {
    let world = World::new().await;
    world.execute(&[T, U]).await.unwrap();
    world.execute(&[A, T]).await.unwrap();
    for branches in [&[A, B][..], &[T]] {
        let gtid = world.joined(branches).await;
        world.engine.commit(gtid, Wait::Completed, None).await.unwrap();
    }
    let nobody = world.joined(&[]).await;
    world.engine.rollback(nobody, String::new(), Wait::Completed, None).await.unwrap();
    shows(
        &world,
        &[
            ("transactions_begun_total{mode=\"executed\"}", 2.0),
            ("transactions_begun_total{mode=\"open\"}", 3.0),
            ("transactions_ended_total{protocol=\"tcc\",outcome=\"committed\"}", 2.0),
            ("transactions_ended_total{protocol=\"mixed\",outcome=\"committed\"}", 1.0),
            ("transactions_ended_total{protocol=\"xa\",outcome=\"committed\"}", 1.0),
            ("transactions_ended_total{protocol=\"none\",outcome=\"rolled_back\"}", 1.0),
            ("begin_to_decision_seconds_count{protocol=\"mixed\",mode=\"executed\"}", 1.0),
            ("begin_to_decision_seconds_count{protocol=\"tcc\",mode=\"open\"}", 1.0),
            ("decision_to_end_seconds_count{protocol=\"tcc\",outcome=\"committed\"}", 2.0),
            // A branch is of one protocol, whatever the others are.
            ("phase_one_seconds_count{protocol=\"tcc\",mode=\"executed\"}", 3.0),
            ("phase_one_seconds_count{protocol=\"xa\",mode=\"executed\"}", 1.0),
            ("phase_one_seconds_count{protocol=\"xa\",mode=\"open\"}", 2.0),
            ("phase_two_seconds_count{protocol=\"tcc\",outcome=\"committed\"}", 4.0),
            ("phase_two_seconds_count{protocol=\"xa\",outcome=\"committed\"}", 3.0),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn rollbacks_show_why() {
    let world = World::new().await;
    let asked = world.joined(&[A]).await;
    world.engine.rollback(asked, "changed my mind".into(), Wait::Completed, None).await.unwrap();
    world.actors.script(A, Script::Refuse);
    world.execute(&[A, B]).await.unwrap();
    world.actors.script(A, Script::HangOn(Verb::WorkAndPrepare));
    world.execute(&[A, B]).await.unwrap();
    world.actors.script(A, Script::FailOn(Verb::WorkAndPrepare));
    world.execute(&[A, B]).await.unwrap();
    shows(
        &world,
        &[
            ("rollbacks_total{reason=\"asked\"}", 1.0),
            ("rollbacks_total{reason=\"refused\"}", 1.0),
            ("rollbacks_total{reason=\"timed_out\"}", 1.0),
            ("rollbacks_total{reason=\"unreachable\"}", 1.0),
            ("rollbacks_total{reason=\"restarted\"}", 0.0),
            ("transactions_ended_total{protocol=\"xa\",outcome=\"rolled_back\"}", 4.0),
        ],
    );
    assert!(value(&world, "calls_failed_total{verb=\"work_and_prepare\"}") > 1.0);
    assert_eq!(world.engine.statistics().rolled_back, 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_interrupts_is_counted_and_not_measured() {
    let world = World::new().await;
    world.actors.script(B, Script::HangOn(Verb::Commit));
    let decided = world.execute_keyed(&[A, B], "", Wait::Decided).await.unwrap();
    let open = world.joined(&[T]).await;
    let world = world.crash().await;
    world.actors.script(B, Script::Agree);
    world.reaches(decided.gtid, State::Committed).await;
    world.reaches(open, State::RolledBack).await;
    shows(
        &world,
        &[
            ("transactions_resumed_total", 2.0),
            ("transactions_begun_total{mode=\"open\"}", 0.0),
            ("rollbacks_total{reason=\"restarted\"}", 1.0),
            ("transactions_ended_total{protocol=\"xa\",outcome=\"committed\"}", 1.0),
            ("decision_to_end_seconds_count{protocol=\"xa\",outcome=\"committed\"}", 0.0),
            ("begin_to_decision_seconds_count{protocol=\"tcc\",mode=\"open\"}", 0.0),
            // Its decision is of this life.
            ("decision_to_end_seconds_count{protocol=\"tcc\",outcome=\"rolled_back\"}", 1.0),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_shows_with_its_age() {
    let world = World::new().await;
    world.actors.script(U, Script::RefuseConfirm);
    world.actors.script(B, Script::BreakPromise);
    let refused = world.execute(&[T, U]).await.unwrap();
    let heuristic = world.execute(&[A, B]).await.unwrap();
    world.joined(&[]).await;
    let expected = [
        ("transactions_parked", 2.0),
        ("refused_branches_total", 1.0),
        ("heuristic_branches_total", 1.0),
        ("transactions_live{state=\"committing\"}", 2.0),
        ("transactions_live{state=\"active\"}", 1.0),
        ("transactions_live{state=\"preparing\"}", 0.0),
        ("transactions_live_max", 2_000.0),
        ("transactions_oldest_age_seconds{state=\"preparing\"}", 0.0),
    ];
    shows(&world, &expected);
    let order = || Order { operator: "ada".into(), reason: "seen to".into() };
    world.engine.resolve(heuristic.gtid, None, Outcome::Committed, order()).await.unwrap();
    world.reaches(heuristic.gtid, State::Committed).await;
    shows(&world, &[("transactions_parked", 1.0), ("heuristic_branches_total", 1.0)]);
    // Against the decision by somebody's word counts as well.
    world.engine.resolve(refused.gtid, None, Outcome::RolledBack, order()).await.unwrap();
    assert!(world.reaches(refused.gtid, State::Committed).await.heuristic);
    shows(&world, &[("transactions_parked", 0.0), ("heuristic_branches_total", 2.0)]);
}

#[tokio::test]
async fn ages_go_by_the_wall_clock() {
    let world = World::new().await;
    world.joined(&[A]).await;
    let oldest = "transactions_oldest_age_seconds{state=\"active\"}";
    tokio::time::timeout(Duration::from_secs(10), async {
        while value(&world, oldest) == 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(value(&world, oldest) < 10.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_undecided_decided_and_parked_is_counted_apart() {
    let world = World::new().await;
    let counted = || {
        let Census { undecided, decided, parked, .. } = world.engine.census();
        [undecided, decided, parked]
    };
    world.joined(&[]).await;
    world.actors.script(A, Script::HangOn(Verb::Prepare));
    let preparing = world.joined(&[A, B]).await;
    let commit = world.engine.commit(preparing, Wait::Decided, None);
    assert!(tokio::time::timeout(Duration::from_secs(1), commit).await.is_err());
    assert_eq!(counted(), [2, 0, 0]);
    // To be delivered, and to be heard of: nothing is rolled back of these.
    world.actors.script(A, Script::HangOn(Verb::Commit));
    world.reaches(preparing, State::Committing).await;
    world.actors.script(B, Script::HangOn(Verb::CommitOnePhase));
    let alone = world.joined(&[B]).await;
    let commit = world.engine.commit(alone, Wait::Decided, None);
    assert!(tokio::time::timeout(Duration::from_secs(1), commit).await.is_err());
    assert_eq!(counted(), [1, 2, 0]);
    let order = Order { operator: "ann".into(), reason: String::new() };
    world.engine.park(preparing, order).await.unwrap();
    assert_eq!(counted(), [1, 1, 1]);
    assert_eq!(world.engine.census().live(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_shows() {
    let world = World::new().await;
    for _ in 0..2_000 {
        world.joined(&[]).await;
    }
    world.engine.begin(BeginRequest::default()).await.unwrap_err();
    shows(&world, &[("transactions_turned_away_total{reason=\"too_many_live\"}", 1.0), ("stopping", 0.0)]);
    world.engine.stop_beginning();
    world.execute(&[A, B]).await.unwrap_err();
    shows(&world, &[("transactions_turned_away_total{reason=\"shutting_down\"}", 1.0), ("stopping", 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_sweeper_finds_and_ends_shows() {
    let world = World::new().await;
    let (cluster, mut config) = (world.engine.cluster_id(), Config::default());
    let url = DatabaseUrl::parse("mysql://bank@127.0.0.1:3306/bank").unwrap();
    config.resources.push(Resource { name: "bank-a".into(), url, participants: Vec::new() });
    let resources = Resources::new(&config, cluster);
    let (sweeper, database) = (resources.sweeper("bank-a"), Prepared::default());
    // Of an earlier life, which did not decide it; and somebody else's.
    let gtid = Gtid::compose(1, Epoch(world.engine.epoch().0 - 1), 1);
    let xid = Xid { cluster, gtid, branch: BranchId(1) };
    let ours = InDoubt { raw: RawXid::from(&xid), xid: Some(xid) };
    let listed = [ours.clone(), InDoubt { xid: None, ..ours }];
    let found = |whose: &str, page: &str| {
        value_on(page, &format!("resource_in_doubt{{resource=\"bank-a\",whose=\"{whose}\"}}"))
    };
    let ended =
        |page: &str| value_on(page, "sweeper_ended_total{resource=\"bank-a\",outcome=\"rolled_back\"}");
    assert!(!page_with(&world, &resources).contains("resource_swept_timestamp_seconds{"));
    sweeper.sweep(&world.engine, &database, &listed, Duration::from_secs(60)).await;
    let page = page_with(&world, &resources);
    assert_eq!((found("ours", &page), found("foreign", &page), ended(&page)), (1.0, 1.0, 0.0));
    assert!(value_on(&page, "resource_swept_timestamp_seconds{resource=\"bank-a\"}") > 1.0e9);
    assert_eq!(value_on(&page, "resource_up{resource=\"bank-a\"}"), 0.0, "nobody has connected to it");
    sweeper.sweep(&world.engine, &database, &listed, Duration::ZERO).await;
    let page = page_with(&world, &resources);
    assert_eq!((found("ours", &page), ended(&page)), (0.0, 1.0));
}

/// Names and labels of all series.
fn series(page: &str) -> BTreeSet<&str> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_caller_chooses_makes_a_series() {
    let world = World::new().await;
    let before = page(&world);
    for number in 0..200 {
        let addresses = [format!("http://chosen-{number}"), format!("http://tcc-chosen-{number}")];
        let [a, t] = addresses.each_ref().map(String::as_str);
        if number % 3 == 0 {
            world.actors.script(a, Script::Refuse);
        }
        let request = BeginRequest { name: format!("chosen {number}"), ..BeginRequest::default() };
        let done =
            world.engine.execute(request, Grade::EarlyVote, branches(&[a, t]), Wait::Completed, None).await;
        done.unwrap();
    }
    let after = page(&world);
    assert_eq!(series(&after), series(&before), "all series are there from the start");
    assert!(!after.contains("chosen"));
    assert!(series(&after).len() < 1_000, "{}", series(&after).len());
}
