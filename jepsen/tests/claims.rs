//! The checkers of the claims, checked: valid histories pass, each violation by hand is found under its claim and by its
//! name, and random damage to random valid histories is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "claims/book.rs"]
mod book;

use std::collections::BTreeSet;

use jepsen::check::{self, Findings};
use jepsen::history;
use jepsen::run::DRAIN_MAX;
use jepsen::verdict::Verdict;
use proptest::prelude::*;
use proptest::sample::Index;

use book::{Book, account, goods};

/// What is found in a history.
fn checked(book: &Book) -> Findings {
    let text = book.text();
    check::check(&history::read(&text).unwrap()).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

/// Why a history is refused.
fn refused(text: &str) -> String {
    format!("{:#}", check::check(&history::read(text).unwrap()).expect_err(text))
}

/// Claims and names of what is found: `I1 mixed-outcome`. Anomalies of isolation go by their names alone.
fn names(findings: &Findings) -> BTreeSet<String> {
    let claims = findings.claims.iter();
    let violations =
        claims.flat_map(|claim| claim.violations.iter().map(|one| format!("{} {}", claim.id, one.name)));
    violations.chain(findings.anomalies.iter().map(|one| one.name.to_owned())).collect()
}

fn looked_at(findings: &Findings) -> Vec<&'static str> {
    findings.claims.iter().filter(|claim| claim.checked > 0).map(|claim| claim.id).collect()
}

/// Adds to a history what must not be in it; exactly these names are found.
#[track_caller]
fn shows(mut book: Book, spoil: impl FnOnce(&mut Book), expected: &[&str]) {
    assert_eq!(names(&checked(&book)), BTreeSet::new());
    spoil(&mut book);
    let findings = checked(&book);
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(names(&findings), expected, "{}", book.text());
    assert_eq!(findings.verdict(), Verdict::Invalid);
}

/// Transfers by XA.
fn bank() -> Book {
    let mut book = Book::of_money();
    book.read("ok");
    let there = book.transfer("ok", &[(0, "debit", 1, 30), (1, "credit", 1, 30)]);
    book.commit(there);
    let within = book.transfer("ok", &[(1, "debit", 1, 20), (1, "credit", 2, 5), (0, "credit", 3, 15)]);
    book.commit(within);
    book.transfer("fail", &[(0, "debit", 1, 1_000), (1, "credit", 1, 1_000)]);
    book.transfer("info", &[(0, "debit", 2, 1), (1, "credit", 2, 1)]);
    let untold = book.transfer("info", &[(0, "debit", 2, 2), (1, "credit", 2, 2)]);
    book.commit(untold);
    book.read("ok");
    book.read("fail");
    book.audits[0].tombstones = 1;
    book
}

/// Transfers by XA and TCC.
fn mixed() -> Book {
    let mut book = Book::of_money();
    let both = book.transfer("ok", &[(0, "hold", 1, 30), (1, "promise", 1, 30)]);
    book.commit(both);
    let one_each = book.transfer("ok", &[(0, "debit", 2, 10), (1, "promise", 1, 10)]);
    book.commit(one_each);
    let refused = book.transfer("fail", &[(0, "hold", 1, 5), (1, "debit", 1, 1_000)]);
    book.roll_back(refused);
    let untold = book.transfer("info", &[(0, "hold", 2, 5), (1, "credit", 1, 5)]);
    book.commit(untold);
    let untold = book.transfer("info", &[(0, "hold", 2, 5), (1, "promise", 1, 5)]);
    book.roll_back(untold);
    book.audits[1].tombstones = 1;
    book
}

/// Orders and goods.
fn stock() -> Book {
    let mut book = Book::of_goods();
    let bought = book.purchase("ok", &[(0, "order", 0, 5), (1, "reserve", 1, 3), (1, "reserve", 2, 2)]);
    book.commit(bought);
    let received = book.receive("ok", (1, "receive", 1, 4));
    book.commit(received);
    let sold_out = book.purchase("fail", &[(0, "order", 0, 99), (1, "reserve", 2, 99)]);
    book.step(sold_out, 0, "try");
    book.step(sold_out, 0, "cancel");
    let returned = book.receive("fail", (1, "receive", 2, 4));
    book.roll_back(returned);
    book.audits[1].tombstones = 2;
    book
}

/// Lists.
fn append() -> Book {
    let mut book = Book::of_lists();
    book.txn("ok", "[[:append 1 10] [:append 2 11]]");
    book.txn("ok", "[[:r 1 [10]] [:append 1 20]]");
    book.txn("fail", "[[:append 1 30]]");
    book.txn("info", "[[:append 2 40] [:append 1 41]]");
    book.txn("info", "[[:append 2 50]]");
    book.txn("ok", "[[:r 2 [11 40]]]");
    book.audits[0].lists = vec![(2, vec![11, 40])];
    book.audits[1].lists = vec![(1, vec![10, 20, 41])];
    book.audits[1].tombstones = 1;
    book
}

#[test]
fn valid_histories_pass() {
    for (book, claims) in [
        (bank(), vec!["I1", "I2", "I3", "I4", "I5", "I7", "I8"]),
        (mixed(), vec!["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"]),
        (stock(), vec!["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"]),
        (append(), vec!["I1", "I2", "I3", "I4", "I5", "I8"]),
    ] {
        let findings = checked(&book);
        assert_eq!(names(&findings), BTreeSet::new());
        assert_eq!(looked_at(&findings), claims);
        // Too little was tried.
        assert_eq!(findings.verdict(), Verdict::Vacuous);
    }
}

#[test]
fn what_nobody_was_told_may_have_taken_effect_or_not() {
    let parts = [(0, "hold", 1, 5), (1, "credit", 1, 5)];
    for outcome in ["info", "never"] {
        let mut book = mixed();
        book.transfer(outcome, &parts);
        let rolled_back = book.transfer(outcome, &parts);
        book.roll_back(rolled_back);
        let committed = book.transfer(outcome, &parts);
        book.commit(committed);
        assert_eq!(names(&checked(&book)), BTreeSet::new());
    }
    let mut book = append();
    book.txn("never", "[[:append 2 60]]");
    assert_eq!(names(&checked(&book)), BTreeSet::new());
    book.audits[0].lists[0].1.push(60);
    assert_eq!(names(&checked(&book)), BTreeSet::new());
}

#[test]
fn mixed_outcome() {
    let unequal = |book: &mut Book| {
        let mixed = book.purchase("info", &[(0, "order", 0, 2), (1, "reserve", 1, 2)]);
        book.take(mixed, 0, &["try", "confirm"]);
        book.take(mixed, 1, &["try", "cancel"]);
    };
    shows(stock(), unequal, &["I1 mixed-outcome"]);
    let xa_committed = |book: &mut Book| {
        let mixed = book.transfer("info", &[(0, "hold", 1, 2), (1, "credit", 1, 2)]);
        book.take(mixed, 0, &["try", "cancel"]);
        book.take(mixed, 1, &["work"]);
    };
    shows(mixed(), xa_committed, &["I1 mixed-outcome", "I7 wrong-total"]);
    // The same operation, half in one transaction and half in another.
    let in_two = |book: &mut Book| {
        let split = book.transfer("info", &[(0, "debit", 1, 2), (1, "credit", 1, 2)]);
        book.commit(split);
        book.row(split, 1, "work").0 = "another".into();
    };
    shows(bank(), in_two, &["I1 mixed-outcome"]);
    let half = |book: &mut Book| {
        book.txn("info", "[[:append 1 70] [:append 2 71]]");
        book.audits[0].lists[0].1.push(71);
    };
    shows(append(), half, &["I1 mixed-outcome"]);
}

#[test]
fn heuristic() {
    shows(bank(), |book| book.status.heuristic = 1, &["I1 heuristic"]);
}

#[test]
fn lost_commit() {
    let nothing = |book: &mut Book| _ = book.transfer("ok", &[(0, "debit", 1, 2), (1, "credit", 1, 2)]);
    shows(bank(), nothing, &["I2 lost-commit"]);
    let cancelled = |book: &mut Book| {
        let lost = book.transfer("ok", &[(0, "hold", 1, 2), (1, "promise", 1, 2)]);
        book.roll_back(lost);
    };
    shows(mixed(), cancelled, &["I2 lost-commit"]);
    // What the client was told of is not what took effect.
    let another = |book: &mut Book| {
        let lost = book.transfer("ok", &[(0, "debit", 1, 2), (1, "credit", 1, 2)]);
        book.commit_as("another", lost);
    };
    shows(bank(), another, &["I2 lost-commit"]);
    shows(stock(), |book| _ = book.receive("ok", (1, "receive", 1, 2)), &["I2 lost-commit"]);
    for list in [2, 3] {
        let append_to = |book: &mut Book| book.txn("ok", &format!("[[:append {list} 60]]"));
        shows(append(), append_to, &["I2 lost-commit", "lost-append"]);
    }
}

#[test]
fn ghost() {
    let took = |book: &mut Book| {
        let ghost = book.transfer("fail", &[(0, "debit", 1, 2), (1, "promise", 1, 2)]);
        book.commit(ghost);
    };
    shows(mixed(), took, &["I3 ghost"]);
    let received = |book: &mut Book| {
        let ghost = book.receive("fail", (1, "receive", 1, 2));
        book.commit(ghost);
    };
    shows(stock(), received, &["I3 ghost"]);
    shows(append(), |book| book.audits[1].lists[0].1.push(30), &["I3 ghost", "G1a"]);
}

#[test]
fn phantom() {
    let stranger = |book: &mut Book| {
        for step in ["try", "cancel"] {
            book.audits[0].journal.push(("g99".into(), 1, 99, 0, step.into(), 1, 0));
        }
    };
    shows(mixed(), stranger, &["I3 phantom"]);
    let another_part = |book: &mut Book| {
        for step in ["try", "cancel"] {
            book.audits[0].journal.push(("g1".into(), 3, 1, 2, step.into(), 1, 0));
        }
    };
    shows(mixed(), another_part, &["I3 phantom"]);
    shows(append(), |book| book.audits[0].lists[0].1.push(99), &["I3 phantom", "phantom"]);
}

#[test]
fn otherwise_than_asked_for() {
    const ASKED: [(usize, &str, u32, i64); 2] = [(0, "debit", 1, 2), (1, "credit", 1, 2)];
    for done in [
        [(0, "debit", 1, 3), (1, "credit", 1, 3)],
        [(0, "debit", 1, 2), (1, "credit", 2, 2)],
        [(0, "debit", 1, 2), (0, "credit", 1, 2)],
        [(0, "credit", 1, 2), (1, "debit", 1, 2)],
        [(0, "hold", 1, 2), (1, "promise", 1, 2)],
    ] {
        let otherwise = |book: &mut Book| {
            let number = book.transfer("ok", &done);
            book.commit(number);
            book.ask_instead(number, &ASKED);
        };
        shows(mixed(), otherwise, &["I3 phantom"]);
    }
}

#[test]
fn repeated() {
    // One idempotency key, two transactions.
    let again = |book: &mut Book| {
        let twice = book.transfer("ok", &[(0, "debit", 1, 2), (1, "promise", 1, 2)]);
        book.commit(twice);
        book.commit_as("another", twice);
    };
    shows(mixed(), again, &["I4 repeated"]);
    shows(append(), |book| book.audits[1].lists[0].1.push(41), &["I4 repeated", "duplicate"]);
}

#[test]
fn not_once() {
    let parts = [(0, "hold", 1, 2), (1, "promise", 1, 2)];
    for (outcome, steps) in [
        ("info", &["try", "try", "confirm"][..]),
        ("info", &["try", "try", "cancel"]),
        ("fail", &["try", "cancel", "cancel"]),
        ("ok", &["try", "confirm", "cancel"]),
        ("ok", &["try", "cancel", "confirm"]),
        ("ok", &["confirm"]),
    ] {
        let wrong = |book: &mut Book| {
            let number = book.transfer(outcome, &parts);
            book.take(number, 0, steps);
            book.take(number, 1, steps);
            book.set_right();
        };
        shows(mixed(), wrong, &["I4 not-once"]);
    }
    for steps in [&["work", "work"][..], &["try", "confirm", "confirm"]] {
        let actions = if steps[0] == "work" { ["debit", "credit"] } else { ["hold", "promise"] };
        let wrong = |book: &mut Book| {
            let number = book.transfer("ok", &[(0, actions[0], 1, 2), (1, actions[1], 1, 2)]);
            book.take(number, 0, steps);
            book.take(number, 1, steps);
            book.set_right();
        };
        shows(mixed(), wrong, &["I4 not-once", "I4 repeated"]);
    }
    // One operation's Try is ended by another's Confirm.
    let shared = |book: &mut Book| {
        let (one, other) = (book.transfer("ok", &parts), book.transfer("info", &parts));
        book.commit(one);
        book.row(one, 0, "try").2 = other;
    };
    shows(mixed(), shared, &["I4 not-once"]);
}

#[test]
fn cancel_without_try() {
    let parts = [(0, "hold", 1, 2), (1, "promise", 1, 2)];
    let empty = |book: &mut Book| {
        let number = book.transfer("fail", &parts);
        book.note("g", number, 0, "cancel");
    };
    shows(mixed(), empty, &["I5 cancel-without-try"]);
    let early = |book: &mut Book| {
        let number = book.transfer("fail", &parts);
        book.note("g", number, 0, "cancel");
        book.note("g", number, 0, "try");
    };
    shows(mixed(), early, &["I5 cancel-without-try", "I6 hanging-try"]);
}

#[test]
fn hanging_try() {
    let parts = [(0, "hold", 1, 2), (1, "promise", 1, 2)];
    for outcome in ["fail", "info"] {
        let unended = |book: &mut Book| {
            let number = book.transfer(outcome, &parts);
            book.note("g", number, 0, "try");
        };
        shows(mixed(), unended, &["I6 hanging-try"]);
    }
    let with_all_its_traces = |book: &mut Book| {
        let number = book.transfer("fail", &parts);
        book.step(number, 0, "try");
    };
    let traces = ["I6 hanging-try", "I7 unbooked", "I7 wrong-total", "I8 held"];
    shows(mixed(), with_all_its_traces, &traces);
    let after_its_end = |book: &mut Book| {
        let number = book.transfer("ok", &parts);
        book.take(number, 0, &["confirm", "try"]);
        book.take(number, 1, &["try", "confirm"]);
    };
    shows(mixed(), after_its_end, &["I6 hanging-try"]);
    let again_after_its_end = |book: &mut Book| {
        let number = book.transfer("fail", &parts);
        book.take(number, 0, &["try", "cancel"]);
        book.note(&format!("g{number}"), number, 0, "try");
    };
    shows(mixed(), again_after_its_end, &["I4 not-once", "I6 hanging-try"]);
}

#[test]
fn wrong_total() {
    for sums in ["[399 400]", "[800]", "[]", "nil", "[401 400]"] {
        shows(bank(), |book| book.call("read", "ok", "nil", sums), &["I7 wrong-total"]);
    }
    let unequal = |book: &mut Book| {
        let number = book.transfer("ok", &[(0, "debit", 1, 2), (1, "credit", 1, 3)]);
        book.commit(number);
    };
    shows(bank(), unequal, &["I7 wrong-total"]);
}

#[test]
fn overdrawn() {
    let broke = |book: &mut Book| {
        let number = book.transfer("ok", &[(0, "debit", 1, 500), (1, "credit", 1, 500)]);
        book.commit(number);
    };
    shows(bank(), broke, &["I7 overdrawn"]);
    shows(mixed(), |book| account(&mut book.audits[0], 1).2 = -1, &["I7 overdrawn", "I8 held"]);
    shows(mixed(), |book| account(&mut book.audits[0], 1).3 = -1, &["I7 overdrawn", "I8 held"]);
}

#[test]
fn unbooked() {
    let moved = |book: &mut Book| {
        account(&mut book.audits[0], 1).1 -= 1;
        account(&mut book.audits[1], 1).1 += 1;
    };
    shows(bank(), moved, &["I7 unbooked"]);
    let gone = |book: &mut Book| {
        let number = book.transfer("ok", &[(0, "debit", 4, 100), (1, "credit", 1, 100)]);
        book.commit(number);
        book.audits[0].accounts.retain(|one| one.0 != 4);
    };
    shows(bank(), gone, &["I7 unbooked"]);
}

#[test]
fn stock_that_is_wrong() {
    let oversold = |book: &mut Book| {
        let number = book.purchase("ok", &[(0, "order", 0, 99), (1, "reserve", 1, 99)]);
        book.commit(number);
    };
    shows(stock(), oversold, &["I7 stock"]);
    let below_zero = |book: &mut Book| {
        goods(&mut book.audits[1], 1).frozen -= 1;
        goods(&mut book.audits[1], 1).available += 1;
    };
    shows(stock(), below_zero, &["I7 stock", "I8 frozen"]);
    shows(stock(), |book| goods(&mut book.audits[1], 1).available += 1, &["I7 stock"]);
    let sold_unbooked = |book: &mut Book| {
        goods(&mut book.audits[1], 1).available -= 1;
        goods(&mut book.audits[1], 1).sold += 1;
    };
    shows(stock(), sold_unbooked, &["I7 stock"]);
    let received_unbooked = |book: &mut Book| {
        goods(&mut book.audits[1], 1).available += 1;
        goods(&mut book.audits[1], 1).received += 1;
    };
    shows(stock(), received_unbooked, &["I7 stock"]);
    shows(stock(), |book| goods(&mut book.audits[1], 1).sold += 1, &["I7 stock"]);
    shows(stock(), |book| goods(&mut book.audits[1], 1).received += 1, &["I7 stock"]);
    shows(stock(), |book| book.audits[0].stock_violations.push("sku-1: …".into()), &["I7 stock"]);
    shows(stock(), |book| _ = book.audits[0].goods.pop(), &["I7 stock"]);
}

#[test]
fn what_the_coordinator_has_left() {
    shows(bank(), |book| book.status.live = 1, &["I8 unended"]);
    shows(bank(), |book| book.status.parked = 1, &["I8 parked"]);
    shows(bank(), |book| book.status.orphaned = 1, &["I8 orphaned"]);
    shows(bank(), |book| book.status.refused = 1, &["I8 refused"]);
    shows(bank(), |book| book.status.silent.push("participant-0 is not running".into()), &["I8 silent"]);
    let too_long = u64::try_from(DRAIN_MAX.as_millis()).unwrap() + 1;
    shows(bank(), |book| book.status.drained_ms = too_long, &["I8 late"]);
}

#[test]
fn what_the_databases_have_left() {
    shows(bank(), |book| book.audits[1].in_doubt.push("gtid branch 1".into()), &["I8 in-doubt"]);
    shows(mixed(), |book| book.audits[1].open_branches = 1, &["I8 open-branch"]);
    shows(stock(), |book| book.audits[0].pending_orders = 1, &["I8 pending-order"]);
    shows(mixed(), |book| account(&mut book.audits[0], 1).2 = 1, &["I8 held"]);
    shows(mixed(), |book| account(&mut book.audits[0], 1).3 = 1, &["I8 held"]);
    let frozen = |book: &mut Book| {
        goods(&mut book.audits[1], 1).available -= 1;
        goods(&mut book.audits[1], 1).frozen += 1;
    };
    shows(stock(), frozen, &["I8 frozen"]);
}

#[test]
fn the_lists_at_the_end_are_a_read_as_well() {
    // Nobody has read these, and there is no order in which they can have been written.
    let crossed = |book: &mut Book| {
        book.txn("ok", "[[:append 1 60] [:append 2 61]]");
        book.txn("ok", "[[:append 1 70] [:append 2 71]]");
        book.audits[1].lists[0].1.extend([60, 70]);
        book.audits[0].lists[0].1.extend([71, 61]);
    };
    shows(append(), crossed, &["G0"]);
    let rewritten = |book: &mut Book| book.audits[0].lists[0].1.reverse();
    shows(append(), rewritten, &["incompatible-order"]);
    // Nobody was told that it was appended, and somebody has read it.
    let vanished = |book: &mut Book| {
        book.txn("info", "[[:append 1 80]]");
        book.txn("ok", "[[:r 1 [10 20 41 80]]]");
    };
    shows(append(), vanished, &["lost-append"]);
}

#[test]
fn many_violations_of_a_claim_do_not_hide_those_of_another_name() {
    let mut book = bank();
    for _ in 0..20 {
        let mixed = book.transfer("info", &[(0, "debit", 1, 0), (1, "credit", 1, 0)]);
        book.take(mixed, 0, &["work"]);
    }
    book.status.heuristic = 1;
    let findings = checked(&book);
    let told: Vec<&str> = findings.claims[0].violations.iter().map(|one| one.name).collect();
    let mut expected = vec!["mixed-outcome"; 8];
    expected.extend(["heuristic", "more"]);
    assert_eq!(told, expected);
    assert_eq!(findings.claims[0].violations[9].explanation, "12 more, which are not told");
}

/// So much of everything that it says something.
fn busy(ok: usize, failed: usize) -> Book {
    let mut book = Book::of_money();
    for _ in 0..ok {
        let number = book.transfer("ok", &[(0, "debit", 1, 1), (1, "hold", 1, 1), (1, "promise", 1, 2)]);
        book.commit(number);
    }
    for _ in 0..failed {
        book.transfer("fail", &[(0, "debit", 1, 1), (1, "credit", 1, 1)]);
    }
    book
}

#[test]
fn too_little_is_vacuous() {
    let reasons = |book: &Book| checked(book).vacuous;
    assert_eq!(checked(&busy(30, 3)).verdict(), Verdict::Valid);
    assert_eq!(reasons(&busy(29, 3)), ["only 29 operations went well; 30 are wanted"]);
    assert_eq!(reasons(&busy(30, 2)), ["only 2 operations failed; 3 are wanted"]);
    assert_eq!(checked(&busy(30, 2)).verdict(), Verdict::Vacuous);
    assert_eq!(checked(&busy(0, 0)).vacuous.len(), 2);
}

#[test]
fn a_history_at_whose_end_nothing_was_read_is_vacuous() {
    let without_end = |book: &Book| check::check(&history::read(&book.calls_text()).unwrap()).unwrap();
    let findings = without_end(&busy(30, 3));
    assert_eq!(findings.vacuous, ["nobody has read what there is at the end: no claim was checked"]);
    assert_eq!(findings.verdict(), Verdict::Vacuous);
    // So is one of something else altogether.
    let mut book = Book::of_lists();
    for at in 0..40 {
        book.call("write", if at < 35 { "ok" } else { "fail" }, "1", "1");
    }
    assert_eq!(without_end(&book).verdict(), Verdict::Vacuous);
    // Lists of others have no audits, and their reads say enough.
    let mut book = Book::of_lists();
    for at in 0..40 {
        book.txn(if at < 35 { "ok" } else { "fail" }, &format!("[[:append 1 {at}]]"));
    }
    assert_eq!(without_end(&book).verdict(), Verdict::Valid);
}

#[test]
fn a_history_with_a_broken_end_is_refused() {
    let book = mixed();
    let text = book.text();
    let without = |number: usize| {
        let of_it = format!(":process -{} ", number + 1);
        text.lines()
            .filter(|line| !line.contains(&of_it))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    for (text, problem) in [
        (without(0), "the coordinator was asked 0 times, not once"),
        (text.clone() + &book.end_text(0), "the coordinator was asked 2 times, not once"),
        (without(1), "there are audits of the databases [1], not one of each"),
        (without(2), "operation 1 is of participant 1, which has no audit"),
        (text.clone() + &book.end_text(1), "there are audits of the databases [0, 0, 1], not one of each"),
        (without(1).replace(":database 1", ":database 0"), "operation 1 is of participant 1"),
        (text.replacen(":accounts", ":acounts", 1), "operation 13: "),
        (text.replacen("\"try\"", "7", 1), "operation 13: "),
        (text.replacen(":live 0", ":live \"no\"", 1), "operation 11: "),
        (text.lines().take(13).collect::<Vec<_>>().join("\n"), "operation 12: audit has not been answered"),
        (text.replacen(":process -2 :type :ok", ":process -2 :type :fail", 1), "operation 12: audit has not"),
        (text.replacen(":id 2", ":id 1", 2), "there are two operations 1"),
        (text.replacen(":parts", ":part", 1), "operation 0: "),
        (text.replacen(":type :ok", ":type :invoke", 1), "operation 1 does not fit"),
    ] {
        let error = refused(&text);
        assert!(error.contains(problem), "{problem}: {error}\n{text}");
    }
}

/// One side of a transfer: its database, account, and whether it is by TCC.
type Side = (usize, u32, bool);

/// What is drawn for one operation.
#[derive(Debug, Clone)]
struct Drawn {
    sides: (Side, Side),
    amount: i64,
    ending: Ending,
    also: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Ok,
    Fail,
    InfoCommitted,
    InfoRolledBack,
    Nothing,
}

impl Ending {
    fn outcome(self) -> &'static str {
        match self {
            Ending::Ok => "ok",
            Ending::Fail | Ending::Nothing => "fail",
            Ending::InfoCommitted | Ending::InfoRolledBack => "info",
        }
    }
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let side = || (0..2_usize, 1..=4_u32, any::<bool>());
    let endings = [Ending::Ok, Ending::Fail, Ending::InfoCommitted, Ending::InfoRolledBack, Ending::Nothing];
    let one = (side(), side(), 1..9_i64, proptest::sample::select(endings.to_vec()), any::<bool>())
        .prop_map(|(from, to, amount, ending, also)| Drawn { sides: (from, to), amount, ending, also });
    proptest::collection::vec(one, 0..12)
}

/// Carries out what was drawn, with and between operations that there always are.
fn carried_out(money: bool, drawn: &[Drawn]) -> Book {
    let mut book = if money { mixed() } else { stock() };
    for Drawn { sides: (from, to), amount, ending, also } in drawn {
        let outcome = ending.outcome();
        let number = if money {
            if *also {
                book.read("ok");
            }
            let from = (from.0, if from.2 { "hold" } else { "debit" }, from.1, *amount);
            let to = (to.0, if to.2 { "promise" } else { "credit" }, to.1, *amount);
            book.transfer(outcome, &[from, to])
        } else if *also {
            book.receive(outcome, (from.0, "receive", from.1, *amount))
        } else {
            let (one, other) = ((from.0, "reserve", from.1, *amount), (to.0, "reserve", to.1, 1));
            book.purchase(outcome, &[(0, "order", 0, amount + 1), one, other])
        };
        match ending {
            Ending::Ok | Ending::InfoCommitted => book.commit(number),
            Ending::Fail | Ending::InfoRolledBack => book.roll_back(number),
            Ending::Nothing => {}
        }
    }
    book
}

/// What can happen to a history.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// To a row of a journal, by database and place.
    Row(usize, usize, OfRow),
    /// A client is told the opposite, by call.
    Told(usize),
    /// An operation that failed, or of which only that is known, has taken effect as if it had not; or again.
    Committed(i64),
    /// A part that took effect has not, and nobody sees it by the balance.
    Undone(i64, u32),
    /// A number of the end, by place.
    Number(usize, i64),
    /// A line of the end is missing, or there twice.
    Line(usize, bool),
    /// What a read has found.
    Read(usize),
}

#[derive(Debug, Clone, Copy)]
enum OfRow {
    Lost,
    Twice,
    Amount(i64),
    Account,
    Gtid,
    Branch,
    Operation,
    Step(&'static str),
    /// In the other database.
    Moved,
    /// After everything else.
    Late,
}

/// All damage of which every single one must be noticed.
fn damages(book: &Book) -> Vec<Damage> {
    let mut all = Vec::new();
    for (database, audit) in book.audits.iter().enumerate() {
        for (at, row) in audit.journal.iter().enumerate() {
            use OfRow::{Account, Amount, Branch, Gtid, Late, Lost, Moved, Operation, Twice};
            let mut kinds = vec![Lost, Twice, Amount(1), Amount(-1), Account, Gtid, Operation, Moved];
            kinds.extend(
                ["work", "try", "confirm", "cancel"]
                    .map(OfRow::Step)
                    .into_iter()
                    .filter(|step| !matches!(step, OfRow::Step(step) if *step == row.4)),
            );
            match row.4.as_str() {
                "try" => kinds.extend([Late, Branch]),
                // Nothing else is known of its branch.
                "work" => {}
                _ => kinds.push(Branch),
            }
            all.extend(kinds.into_iter().map(|kind| Damage::Row(database, at, kind)));
        }
    }
    for (at, call) in book.calls.iter().enumerate() {
        let Some(moves) = &call.moves else {
            all.push(Damage::Read(at));
            continue;
        };
        let took_effect = book.took_effect(moves.id);
        if call.outcome == "ok" || call.outcome == "fail" {
            all.push(Damage::Told(at));
        }
        if took_effect || call.outcome == "fail" {
            all.push(Damage::Committed(moves.id));
        }
        if took_effect && (call.outcome == "ok" || moves.parts.len() > 1) {
            all.extend((0..).take(moves.parts.len()).map(|part| Damage::Undone(moves.id, part)));
        }
    }
    for by in [-1, 1] {
        all.extend((0..book.clone().numbers().len()).map(|place| Damage::Number(place, by)));
    }
    all.extend(
        (0..=book.audits.len()).flat_map(|line| [Damage::Line(line, false), Damage::Line(line, true)]),
    );
    all
}

/// The history with the damage.
fn damaged(mut book: Book, damage: Damage) -> String {
    match damage {
        Damage::Row(database, at, kind) => damage_row(&mut book, database, at, kind),
        Damage::Told(at) => {
            let call = &mut book.calls[at];
            call.outcome = if call.outcome == "ok" { "fail" } else { "ok" };
        }
        Damage::Committed(number) => book.commit_as("again", number),
        Damage::Undone(number, part) => book.undo(number, part),
        Damage::Number(place, by) => *book.numbers()[place] += by,
        Damage::Line(line, twice) => {
            let text = book.text();
            let of_it = format!(":process -{} ", line + 1);
            let without = text.lines().filter(|line| !line.contains(&of_it));
            let without = without.map(|line| line.to_owned() + "\n").collect::<String>();
            return if twice { text + &book.end_text(line) } else { without };
        }
        Damage::Read(at) => book.calls[at].said = "[401 400]".into(),
    }
    book.text()
}

fn damage_row(book: &mut Book, database: usize, at: usize, kind: OfRow) {
    let journal = &mut book.audits[database].journal;
    let row = journal[at].clone();
    match kind {
        OfRow::Lost => _ = journal.remove(at),
        OfRow::Twice => journal.push(row),
        OfRow::Amount(by) => journal[at].6 += by,
        OfRow::Account => journal[at].5 += 1,
        OfRow::Gtid => journal[at].0 = "another".into(),
        OfRow::Branch => journal[at].1 += 1,
        OfRow::Operation => journal[at].2 += 1,
        OfRow::Step(step) => journal[at].4 = step.into(),
        OfRow::Moved => {
            journal.remove(at);
            book.audits[1 - database].journal.insert(0, row);
        }
        OfRow::Late => {
            journal.remove(at);
            journal.push(row);
        }
    }
}

/// Transactions on lists: how each ends, and its steps: whether it appends or reads, and which of the lists.
type Transactions = Vec<(Ending, Vec<(bool, usize)>)>;

fn transactions() -> impl Strategy<Value = Transactions> {
    let endings = [Ending::Ok, Ending::Fail, Ending::InfoCommitted, Ending::InfoRolledBack];
    let steps = proptest::collection::vec((any::<bool>(), 0..3_usize), 1..4);
    proptest::collection::vec((proptest::sample::select(endings.to_vec()), steps), 1..15)
}

/// Carries them out one after the other, and reads all lists as their end.
fn on_lists(transactions: &Transactions) -> Book {
    let mut book = Book::of_lists();
    let mut lists = vec![Vec::new(); 3];
    let every = (Ending::Ok, (0..3).flat_map(|list| [(true, list), (false, list)]).collect());
    for (number, (ending, steps)) in (1_i64..).zip(transactions.iter().chain([&every])) {
        let mut after = lists.clone();
        let (mut asked, mut said) = (String::new(), String::new());
        for (value, &(appends, list)) in (number * 10..).zip(steps) {
            if appends {
                after[list].push(value);
                asked += &format!("[:append {list} {value}]");
                said += &format!("[:append {list} {value}]");
            } else {
                asked += &format!("[:r {list} nil]");
                said += &format!("[:r {list} {:?}]", after[list]).replace(',', "");
            }
        }
        if matches!(ending, Ending::Ok | Ending::InfoCommitted) {
            lists = after;
        }
        book.call("txn", ending.outcome(), &format!("[{asked}]"), &format!("[{said}]"));
    }
    for (number, list) in (0..).zip(lists) {
        book.audits[usize::from(number % 2 == 1)].lists.push((number, list));
    }
    book
}

/// The history of lists that have been read, with one of these changed: all that can happen to an element or an answer.
fn damaged_lists(mut book: Book, kind: u8, pick: Index) -> String {
    let appending = |book: &Book| -> Vec<usize> {
        let told = |at: &usize| book.calls[*at].outcome != "info" && book.calls[*at].said.contains("append");
        (0..book.calls.len()).filter(told).collect()
    };
    if kind == 0 {
        let calls = appending(&book);
        let call = &mut book.calls[*pick.get(&calls)];
        call.outcome = if call.outcome == "ok" { "fail" } else { "ok" };
        return book.text();
    }
    let mut lists: Vec<&mut Vec<i64>> =
        book.audits.iter_mut().flat_map(|audit| &mut audit.lists).map(|(_, list)| list).collect();
    let of = pick.index(lists.len());
    let place = pick.index(lists[of].len());
    let list = &mut lists[of];
    let next = (place + 1) % list.len();
    match kind {
        1 => _ = list.remove(place),
        2 => list.insert(place, list[place]),
        3 => list.insert(place, 9_999),
        4 if next != place => list.swap(place, next),
        _ => list[place] += 1_000_000,
    }
    book.text()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_went_well_passes(money in any::<bool>(), drawn in drawn()) {
        let book = carried_out(money, &drawn);
        prop_assert_eq!(names(&checked(&book)), BTreeSet::new());
    }

    #[test]
    fn damage_is_noticed(money in any::<bool>(), drawn in drawn(), picks in prop::collection::vec(any::<Index>(), 8)) {
        let book = carried_out(money, &drawn);
        let damages = damages(&book);
        for pick in picks {
            let damage = *pick.get(&damages);
            let text = damaged(book.clone(), damage);
            let noticed = check::check(&history::read(&text).unwrap())
                .map_or(true, |findings| findings.verdict() == Verdict::Invalid);
            prop_assert!(noticed, "{damage:?}\n{text}");
        }
    }

    #[test]
    fn damage_to_lists_is_noticed(transactions in transactions(), kind in 0..6_u8, pick in any::<Index>()) {
        let book = on_lists(&transactions);
        prop_assert_eq!(names(&checked(&book)), BTreeSet::new());
        let text = damaged_lists(book, kind, pick);
        let verdict = check::check(&history::read(&text).unwrap()).unwrap().verdict();
        prop_assert_eq!(verdict, Verdict::Invalid, "{}", text);
    }
}
