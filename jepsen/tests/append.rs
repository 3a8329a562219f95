//! The checker of list-append histories, checked: each anomaly by hand, and random ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jepsen::verdict::Verdict;
use jepsen::{append, history};
use proptest::prelude::*;

/// A history in which clients do one transaction each, one after the other: how it ended, and what it said.
fn serial(transactions: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (client, (outcome, value)) in transactions.iter().enumerate() {
        writeln!(text, "{{:process {client} :type :invoke :f :txn :value {value}}}").unwrap();
        writeln!(text, "{{:process {client} :type :{outcome} :f :txn :value {value}}}").unwrap();
    }
    text
}

/// As [`serial`], with all of them under way at the same time.
fn concurrent(transactions: &[(&str, &str)]) -> String {
    let (mut begun, mut ended) = (String::new(), String::new());
    for (client, (outcome, value)) in transactions.iter().enumerate() {
        writeln!(begun, "{{:process {client} :type :invoke :f :txn :value {value}}}").unwrap();
        writeln!(ended, "{{:process {client} :type :{outcome} :f :txn :value {value}}}").unwrap();
    }
    begun + &ended
}

/// The names of what is found, each once.
fn found(text: &str) -> Vec<&'static str> {
    let verdict = append::check(&history::read(text).unwrap()).unwrap();
    let mut names: Vec<_> = verdict.anomalies.iter().map(|anomaly| anomaly.name).collect();
    names.dedup();
    names
}

#[test]
fn good_histories_pass() {
    let good = [
        serial(&[]),
        serial(&[
            ("ok", "[[:append 1 1] [:r 1 [1]]]"),
            ("ok", "[[:r 1 [1]] [:append 1 2]]"),
            ("ok", "[[:r 1 [1 2]]]"),
        ]),
        serial(&[("fail", "[[:append 1 1]]"), ("ok", "[[:r 1 nil]]"), ("ok", "[[:r 1 []]]")]),
        // Nobody was told, and it has taken effect, or not.
        serial(&[("info", "[[:append 1 1]]"), ("ok", "[[:r 1 [1]]]")]),
        serial(&[("info", "[[:append 1 1]]"), ("ok", "[[:r 1 []]]")]),
        // It read before it was overtaken.
        concurrent(&[("ok", "[[:r 1 []] [:append 2 1]]"), ("ok", "[[:append 1 1] [:r 2 [1]]]")]),
    ];
    for text in good {
        assert!(found(&text).is_empty(), "{text}");
    }
}

#[test]
fn internal() {
    assert_eq!(found(&serial(&[("ok", "[[:append 1 1] [:r 1 []]]")])), ["internal"]);
    let forgets = serial(&[("ok", "[[:append 1 1]]"), ("ok", "[[:r 1 [1]] [:append 1 2] [:r 1 [2]]]")]);
    assert!(found(&forgets).contains(&"internal"));
}

#[test]
fn duplicate() {
    assert_eq!(found(&serial(&[("ok", "[[:append 1 1]]"), ("ok", "[[:r 1 [1 1]]]")])), ["duplicate"]);
}

#[test]
fn phantom() {
    assert_eq!(found(&serial(&[("ok", "[[:r 1 [7]]]")])), ["phantom"]);
}

#[test]
fn g1a() {
    assert_eq!(found(&serial(&[("fail", "[[:append 1 1]]"), ("ok", "[[:r 1 [1]]]")])), ["G1a"]);
}

#[test]
fn g1b() {
    let text = concurrent(&[
        ("ok", "[[:append 1 1] [:append 1 2]]"),
        ("ok", "[[:r 1 [1]]]"),
        ("ok", "[[:r 1 [1 2]]]"),
    ]);
    assert!(found(&text).contains(&"G1b"));
}

#[test]
fn incompatible_order() {
    let text = concurrent(&[
        ("ok", "[[:append 1 1]]"),
        ("ok", "[[:append 1 2]]"),
        ("ok", "[[:r 1 [1 2]]]"),
        ("ok", "[[:r 1 [2]]]"),
    ]);
    assert_eq!(found(&text), ["incompatible-order"]);
}

#[test]
fn lost_append() {
    assert_eq!(found(&serial(&[("ok", "[[:append 1 1]]"), ("ok", "[[:r 1 []]]")])), ["lost-append"]);
}

#[test]
fn g0() {
    let text = concurrent(&[
        ("ok", "[[:append 1 1] [:append 2 1]]"),
        ("ok", "[[:append 1 2] [:append 2 2]]"),
        ("ok", "[[:r 1 [1 2]]]"),
        ("ok", "[[:r 2 [2 1]]]"),
    ]);
    assert_eq!(found(&text), ["G0"]);
}

#[test]
fn g1c() {
    let text = concurrent(&[("ok", "[[:append 1 1] [:r 2 [1]]]"), ("ok", "[[:append 2 1] [:r 1 [1]]]")]);
    assert_eq!(found(&text), ["G1c"]);
}

#[test]
fn g_single() {
    // Read skew: the first saw the second's append to 2, and not that to 1.
    let text = concurrent(&[
        ("ok", "[[:r 1 []] [:r 2 [1]]]"),
        ("ok", "[[:append 1 1] [:append 2 1]]"),
        ("ok", "[[:r 1 [1]]]"),
    ]);
    assert_eq!(found(&text), ["G-single"]);
}

#[test]
fn g2() {
    // Write skew: neither saw the other.
    let text = concurrent(&[
        ("ok", "[[:r 1 []] [:append 2 1]]"),
        ("ok", "[[:r 2 []] [:append 1 1]]"),
        ("ok", "[[:r 1 [1]] [:r 2 [1]]]"),
    ]);
    assert_eq!(found(&text), ["G2"]);
}

#[test]
fn a_cycle_is_explained() {
    let text = concurrent(&[("ok", "[[:append 1 1] [:r 2 [1]]]"), ("ok", "[[:append 2 1] [:r 1 [1]]]")]);
    let verdict = append::check(&history::read(&text).unwrap()).unwrap();
    let words = verdict.anomalies[0].explanation.replace(',', "");
    assert!(words.contains("T0 comes before T1 because T1 read 1 of 1"), "{words}");
    assert!(words.contains("T1 comes before T0 because T0 read 1 of 2"), "{words}");
}

#[test]
fn histories_of_something_else_are_refused() {
    for (text, problem) in [
        (serial(&[("ok", "[[:w 1 1]]")]), "the operation 1 cannot be understood"),
        (
            serial(&[("ok", "[[:append 1 1]]"), ("ok", "[[:append 1 1]]")]),
            "the operations 0 and 2 both append 1 to 1",
        ),
        ("{:process 0 :type :ok :f :txn :value []}".to_owned(), "the operation 0 has no partner"),
    ] {
        let error = append::check(&history::read(&text).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
    }
}

/// What a transaction does: appends to a list, or reads it.
type Plan = Vec<(bool, u8)>;

/// Runs plans one after the other on lists that behave, and writes down what was seen.
fn behave(plans: &[Plan]) -> Vec<Vec<String>> {
    let mut lists: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    let mut next = 0;
    let mut step = |&(appends, key): &(bool, u8)| {
        let list = lists.entry(key).or_default();
        if appends {
            next += 1;
            list.push(next);
            format!("[:append {key} {next}]")
        } else {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            format!("[:r {key} [{}]]", list.join(" "))
        }
    };
    plans.iter().map(|plan| plan.iter().map(&mut step).collect()).collect()
}

/// As a history in which so many are under way at the same time.
fn text_of(transactions: &[Vec<String>], at_a_time: usize) -> String {
    let values: Vec<String> = transactions.iter().map(|steps| format!("[{}]", steps.join(" "))).collect();
    let together =
        |some: &[String]| concurrent(&some.iter().map(|value| ("ok", value.as_str())).collect::<Vec<_>>());
    values.chunks(at_a_time).map(together).collect()
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = proptest::collection::vec((any::<bool>(), 0..4_u8), 1..5);
    proptest::collection::vec(plan, 1..30)
}

proptest! {
    #[test]
    fn what_happened_one_after_the_other_passes(plans in plans(), overlap in 1..6_usize) {
        let names = found(&text_of(&behave(&plans), overlap));
        prop_assert!(names.is_empty(), "{names:?}");
    }

    /// A value that vanishes from a read, not at its end or after it was acknowledged, or appears in it.
    #[test]
    fn a_corrupted_read_is_noticed(plans in plans(), pick in any::<prop::sample::Index>(), vanish in any::<bool>()) {
        let mut transactions = behave(&plans);
        let reads: Vec<(usize, usize)> = transactions.iter().enumerate()
            .flat_map(|(at, steps)| steps.iter().enumerate().map(move |(step, text)| (at, step, text)))
            .filter(|(_, _, text)| text.starts_with("[:r") && !text.ends_with("[]]"))
            .map(|(at, step, _)| (at, step))
            .collect();
        prop_assume!(!reads.is_empty());
        let (at, step) = reads[pick.index(reads.len())];
        let text = transactions[at][step].clone();
        let (head, list) = text.rsplit_once('[').unwrap();
        let list = list.trim_end_matches(']');
        let list = match (vanish, list.split_once(' ')) {
            (true, Some((_, rest))) => rest.to_owned(),
            (true, None) => String::new(),
            (false, _) => format!("{list} 9999"),
        };
        transactions[at][step] = format!("{head}[{list}]]");
        let names = found(&text_of(&transactions, 1));
        prop_assert!(!names.is_empty());
    }
}

#[test]
fn a_short_history_of_others_is_no_less_valid() {
    let verdict = |text: &str| jepsen::check::check(&history::read(text).unwrap()).unwrap().verdict();
    assert_eq!(verdict(&serial(&[("ok", "[[:append 1 1] [:r 1 [1]]]")])), Verdict::Valid);
    assert_eq!(verdict(&serial(&[("ok", "[[:append 1 1] [:r 1 [2]]]")])), Verdict::Invalid);
}
