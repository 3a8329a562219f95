//! Random deliveries, against a tiny model of the barrier.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::shop::*;
use crate::support::*;

/// One branch, as it should be.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    New,
    Tried,
    Confirmed,
    Cancelled,
    Barred,
    Refused(&'static str),
}

/// What a call should answer.
#[derive(Debug, PartialEq)]
enum Answer {
    Reserved,
    Confirmed,
    Cancelled,
    /// Of Try: for good.
    No,
    /// Of Confirm and Cancel: waits for an operator.
    Refused,
    /// Ask again.
    Error,
}

const REASONS: [(Mode, &str); 3] = [
    (Mode::Refuse, "not today"),
    (Mode::Panic, "the author's mistake"),
    (Mode::Reply(65_537), "65537 bytes"),
];

impl Model {
    fn deliver(&mut self, phase: Phase, mode: Option<Mode>) -> Answer {
        let (next, answer) = match (&*self, phase, mode) {
            (Model::New, Phase::Try, None) => (Model::Tried, Answer::Reserved),
            (Model::New | Model::Tried, _, Some(Mode::Fail)) if self.calls_handler(phase) => {
                return Answer::Error;
            }
            (Model::New, Phase::Try, Some(mode)) => {
                let (_, reason) = REASONS.into_iter().find(|(known, _)| *known == mode).unwrap();
                (Model::Refused(reason), Answer::No)
            }
            (Model::Tried | Model::Confirmed, Phase::Try, _) => return Answer::Reserved,
            (Model::Cancelled | Model::Barred | Model::Refused(_), Phase::Try, _) => return Answer::No,
            (Model::New, Phase::Confirm, _) => return Answer::Refused,
            (Model::New, Phase::Cancel, _) => (Model::Barred, Answer::Cancelled),
            (Model::Tried, _, Some(Mode::Panic)) => return Answer::Error,
            (Model::Tried, Phase::Cancel, None | Some(Mode::Reply(_))) => {
                (Model::Cancelled, Answer::Cancelled)
            }
            (Model::Tried, Phase::Confirm, None) => (Model::Confirmed, Answer::Confirmed),
            (Model::Tried, _, Some(_)) => return Answer::Refused,
            (Model::Confirmed, _, _) => return Answer::Confirmed,
            (Model::Cancelled | Model::Barred | Model::Refused(_), _, _) => return Answer::Cancelled,
        };
        *self = next;
        answer
    }

    fn calls_handler(&self, phase: Phase) -> bool {
        matches!((self, phase), (Model::New, Phase::Try) | (Model::Tried, Phase::Confirm | Phase::Cancel))
    }

    fn state(&self) -> Option<u8> {
        match self {
            Model::New => None,
            Model::Barred => Some(2),
            Model::Tried => Some(3),
            Model::Confirmed => Some(4),
            Model::Cancelled => Some(5),
            Model::Refused(_) => Some(6),
        }
    }

    /// Available, frozen, sold: by how much one piece moves them.
    fn moved(&self) -> (i64, i64, i64) {
        match self {
            Model::Tried => (-1, 1, 0),
            Model::Confirmed => (-1, 0, 1),
            _ => (0, 0, 0),
        }
    }
}

/// Calls, and says what the answer was, with the reason or the reply.
async fn call(node: &Node, gtid: Gtid, phase: Phase) -> (Answer, String) {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let ended = |outcome, reason: String, reply: Bytes| match outcome {
        BranchOutcome::Committed => (Answer::Confirmed, text(reply)),
        BranchOutcome::RolledBack => (Answer::Cancelled, reason),
        BranchOutcome::Refused => (Answer::Refused, reason),
        other => panic!("{other:?}"),
    };
    let answer = match phase {
        Phase::Try => node.attempt(gtid, "1").await.map(|answer| match answer.reserved {
            true => (Answer::Reserved, text(answer.reply)),
            false => (Answer::No, answer.reason),
        }),
        Phase::Confirm => node.confirm_once(gtid, "1").await.map(|a| ended(a.outcome(), a.reason, a.reply)),
        Phase::Cancel => {
            node.cancel_once(gtid, "1").await.map(|a| ended(a.outcome(), a.reason, Bytes::new()))
        }
    };
    answer.unwrap_or_else(|status| {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        (Answer::Error, status.message().to_owned())
    })
}

impl Shop {
    async fn state(&mut self, gtid: Gtid) -> Option<u8> {
        let params = (gtid.to_bytes().to_vec(),);
        self.world.plain.exec_first("SELECT state FROM concord_barrier WHERE gtid = ?", params).await.unwrap()
    }

    async fn restock(&mut self) {
        self.world.plain.query_drop("UPDATE stock SET available = 100, frozen = 0, sold = 0").await.unwrap();
    }
}

fn phases() -> impl Strategy<Value = Phase> + Clone {
    prop_oneof![Just(Phase::Try), Just(Phase::Confirm), Just(Phase::Cancel)]
}

fn modes() -> impl Strategy<Value = Option<Mode>> + Clone {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Mode::Refuse)),
        1 => Just(Some(Mode::Fail)),
        1 => Just(Some(Mode::Panic)),
        1 => Just(Some(Mode::Reply(65_537))),
    ]
}

type Delivery = (usize, usize, Phase, Option<Mode>);

/// One after the other: each answer, each row and the stock are what the model says.
async fn in_order(shop: &mut Shop, nodes: &[Node; 2], deliveries: Vec<Delivery>) {
    shop.restock().await;
    let gtids = [gtid(), gtid()];
    let mut models = [Model::New, Model::New];
    for (index, (branch, node, phase, mode)) in deliveries.iter().copied().enumerate() {
        let (gtid, model) = (gtids[branch], &mut models[branch]);
        shop.no_plan(gtid);
        mode.into_iter().for_each(|mode| shop.plan(gtid, phase, mode));
        let (runs, calls) = (shop.runs(gtid, phase), usize::from(model.calls_handler(phase)));
        let expected = model.deliver(phase, mode);
        let (answer, words) = call(&nodes[node], gtid, phase).await;
        assert_eq!(answer, expected, "call {index} of {deliveries:?}: {words}");
        assert_eq!(shop.runs(gtid, phase) - runs, calls, "handler runs of call {index} of {deliveries:?}");
        match (&models[branch], answer) {
            (Model::Refused(reason), Answer::No) => assert!(words.contains(reason), "{words}"),
            (_, Answer::Reserved) => assert_eq!(words, "Try 1"),
            (_, Answer::Confirmed) if phase == Phase::Confirm => assert_eq!(words, "Confirm 1"),
            _ => {}
        }
        assert_eq!(shop.state(gtid).await, models[branch].state(), "after call {index} of {deliveries:?}");
        let moved =
            |of: fn((i64, i64, i64)) -> i64| models.iter().map(|model| of(model.moved())).sum::<i64>();
        let expected = (100 + moved(|m| m.0), moved(|m| m.1), moved(|m| m.2));
        assert_eq!(shop.stock().await, expected, "after call {index} of {deliveries:?}");
    }
}

/// All at once, in two processes: whatever the order was, the answers agree with the row, and the stock too.
async fn at_once(shop: &mut Shop, nodes: &[Node; 2], deliveries: Vec<Delivery>) {
    shop.restock().await;
    let gtid = gtid();
    let calls = deliveries.iter().map(|&(_, node, phase, _)| async move {
        loop {
            let (answer, words) = call(&nodes[node], gtid, phase).await;
            if answer != Answer::Error {
                return (phase, answer, words);
            }
        }
    });
    let answers = futures_util::future::join_all(calls).await;
    let state = shop.state(gtid).await;
    for (phase, answer, words) in &answers {
        let agrees = match (phase, answer) {
            (_, Answer::Reserved) => matches!(state, Some(3..=5)),
            (_, Answer::No) => matches!(state, Some(2 | 5)),
            (_, Answer::Confirmed) => state == Some(4),
            (_, Answer::Cancelled) => matches!(state, Some(2 | 5)),
            // It came before everything else.
            (_, Answer::Refused) => words == "no Try is on record",
            (_, Answer::Error) => false,
        };
        assert!(
            agrees,
            "{answer:?} to {phase:?} ({words}), but the row's state is {state:?}: {deliveries:?}"
        );
    }
    let expected = match state {
        Some(3) => (99, 1, 0),
        Some(4) => (99, 0, 1),
        _ => (100, 0, 0),
    };
    assert_eq!(shop.stock().await, expected, "{state:?} {deliveries:?}");
    let ran =
        |phase, states: &[u8]| assert_eq!(shop.runs(gtid, phase) == 1, states.contains(&state.unwrap_or(0)));
    ran(Phase::Try, &[3, 4, 5]);
    ran(Phase::Confirm, &[4]);
    ran(Phase::Cancel, &[5]);
}

fn check(flavor: Flavor, driver: Driver) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (shop, nodes) = runtime.block_on(async {
        let shop = Shop::new(flavor, driver).await;
        let nodes = [shop.node().await, shop.node().await];
        (std::cell::RefCell::new(shop), nodes)
    });
    let delivery = (0..2_usize, 0..2_usize, phases(), modes());
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let run = runner.run(&prop::collection::vec(delivery.clone(), 1..14), |deliveries| {
        runtime.block_on(in_order(&mut shop.borrow_mut(), &nodes, deliveries));
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let run = runner.run(&prop::collection::vec(delivery, 2..10), |deliveries| {
        runtime.block_on(at_once(&mut shop.borrow_mut(), &nodes, deliveries));
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn any_deliveries_mysql() {
    check(Flavor::MySql, Driver::Own);
}

#[test]
fn any_deliveries_mysql_through_sqlx() {
    check(Flavor::MySql, Driver::Sqlx);
}

#[test]
fn any_deliveries_mariadb() {
    check(Flavor::MariaDb, Driver::MysqlAsync);
}

#[test]
fn any_deliveries_mariadb_through_sqlx() {
    check(Flavor::MariaDb, Driver::Sqlx);
}
