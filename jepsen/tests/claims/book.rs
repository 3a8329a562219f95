//! Histories by hand: what clients were told, and what the books say at the end.

use std::fmt::Write as _;

use jepsen::check::Status;
use jepsen::cluster::{DatabaseAudit, Goods, JournalRow, Opening};
use jepsen::workload::{Moves, Part};
use serde::Serialize;

/// A part as it is asked for: database, action, account, amount.
pub(crate) type Asked<'a> = (usize, &'a str, u32, i64);

/// What a client did, and was told.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    f: &'static str,
    /// `ok`, `fail`, `info`, or `never`.
    pub(crate) outcome: &'static str,
    asked: String,
    pub(crate) said: String,
    pub(crate) moves: Option<Moves>,
}

/// A run's history before it is written down. Two databases.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    pub(crate) calls: Vec<Call>,
    pub(crate) status: Status,
    pub(crate) audits: Vec<DatabaseAudit>,
}

impl Book {
    fn opened(opening: Opening) -> Book {
        let audit = |database| DatabaseAudit {
            database,
            opening,
            accounts: (1..=opening.accounts).map(|number| (number, opening.balance, 0, 0)).collect(),
            goods: (1..=opening.skus)
                .map(|sku| Goods {
                    sku,
                    available: opening.quantity,
                    frozen: 0,
                    received: opening.quantity,
                    sold: 0,
                })
                .collect(),
            ..DatabaseAudit::default()
        };
        Book { calls: Vec::new(), status: Status::default(), audits: (0..2).map(audit).collect() }
    }

    /// Four accounts in each database, with 100 on each.
    pub(crate) fn of_money() -> Book {
        Book::opened(Opening { accounts: 4, balance: 100, ..Opening::default() })
    }

    /// Four SKUs in each database, and 90 of each: fewer than 99, and never too few for what is drawn.
    pub(crate) fn of_goods() -> Book {
        Book::opened(Opening { skus: 4, quantity: 90, ..Opening::default() })
    }

    pub(crate) fn of_lists() -> Book {
        Book::opened(Opening::default())
    }

    /// Any operation.
    pub(crate) fn call(&mut self, f: &'static str, outcome: &'static str, asked: &str, said: &str) {
        self.calls.push(Call { f, outcome, asked: asked.into(), said: said.into(), moves: None });
    }

    pub(crate) fn txn(&mut self, outcome: &'static str, value: &str) {
        self.call("txn", outcome, value, value);
    }

    /// Reads the sums of all balances as they are.
    pub(crate) fn read(&mut self, outcome: &'static str) {
        let sum = |audit: &DatabaseAudit| audit.accounts.iter().map(|account| account.1).sum::<i64>();
        let sums: Vec<i64> = self.audits.iter().map(sum).collect();
        self.call("read", outcome, "nil", &edn(&sums));
    }

    fn moves(&mut self, f: &'static str, outcome: &'static str, parts: &[Asked<'_>]) -> i64 {
        let number = i64::try_from(self.calls.len()).unwrap() + 1;
        self.call(f, outcome, "", "");
        self.ask_instead(number, parts);
        number
    }

    /// Adds an operation that has had no effect yet; its number.
    pub(crate) fn transfer(&mut self, outcome: &'static str, parts: &[Asked<'_>]) -> i64 {
        self.moves("transfer", outcome, parts)
    }

    pub(crate) fn purchase(&mut self, outcome: &'static str, parts: &[Asked<'_>]) -> i64 {
        self.moves("purchase", outcome, parts)
    }

    pub(crate) fn receive(&mut self, outcome: &'static str, part: Asked<'_>) -> i64 {
        self.moves("receive", outcome, &[part])
    }

    /// The client has asked for something else than was done.
    pub(crate) fn ask_instead(&mut self, number: i64, parts: &[Asked<'_>]) {
        let part = |&(database, action, account, amount): &Asked<'_>| {
            Part(database, action.to_owned(), account, amount)
        };
        let moves = Moves { id: number, parts: parts.iter().map(part).collect() };
        let call = self.call_of(number);
        call.asked = edn(&moves);
        call.said = format!("{{:gtid \"g{number}\" :id {number} :parts {}}}", edn(&moves.parts));
        call.moves = Some(moves);
    }

    fn call_of(&mut self, number: i64) -> &mut Call {
        &mut self.calls[usize::try_from(number - 1).unwrap()]
    }

    /// All parts take effect, in the transaction that the client is told.
    pub(crate) fn commit(&mut self, number: i64) {
        self.commit_as(&format!("g{number}"), number);
    }

    /// All parts take effect, in any transaction.
    pub(crate) fn commit_as(&mut self, gtid: &str, number: i64) {
        self.each(number, |book, part, is_tcc| {
            let steps: &[&str] = if is_tcc { &["try", "confirm"] } else { &["work"] };
            for step in steps {
                book.apply(number, part, step);
                book.note(gtid, number, part, step);
            }
        });
    }

    /// All parts by TCC are tried and cancelled; the others leave nothing.
    pub(crate) fn roll_back(&mut self, number: i64) {
        self.each(number, |book, part, is_tcc| {
            if is_tcc {
                book.take(number, part, &["try", "cancel"]);
            }
        });
    }

    fn each(&mut self, number: i64, deed: impl Fn(&mut Book, u32, bool)) {
        let parts = self.call_of(number).moves.clone().unwrap().parts;
        for (at, part) in (0..).zip(parts) {
            deed(self, at, part.1 != "debit" && part.1 != "credit");
        }
    }

    /// Takes steps of a part, one after the other.
    pub(crate) fn take(&mut self, number: i64, part: u32, steps: &[&str]) {
        for step in steps {
            self.step(number, part, step);
        }
    }

    /// Takes one step: in the tables and in the journal.
    pub(crate) fn step(&mut self, number: i64, part: u32, step: &str) {
        self.apply(number, part, step);
        self.note(&format!("g{number}"), number, part, step);
    }

    /// Writes a step into the journal, and leaves the tables alone.
    pub(crate) fn note(&mut self, gtid: &str, number: i64, part: u32, step: &str) {
        let Part(database, action, account, amount) = self.part(number, part);
        let change = match (action.as_str(), step) {
            (_, "try" | "cancel") => 0,
            ("debit" | "hold" | "reserve", _) => -amount,
            _ => amount,
        };
        let row = (gtid.to_owned(), part + 1, number, part, step.to_owned(), account, change);
        self.audits[database].journal.push(row);
    }

    fn part(&mut self, number: i64, part: u32) -> Part {
        self.call_of(number).moves.as_ref().unwrap().parts[part as usize].clone()
    }

    /// What a step makes of the tables.
    fn apply(&mut self, number: i64, part: u32, step: &str) {
        let Part(database, action, place, amount) = self.part(number, part);
        let audit = &mut self.audits[database];
        match action.as_str() {
            "order" if step == "try" => audit.pending_orders += 1,
            "order" => audit.pending_orders -= 1,
            "reserve" | "receive" => {
                let one = goods(audit, place);
                let [available, frozen, sold, received] = match (action.as_str(), step) {
                    ("reserve", "try") => [-1, 1, 0, 0],
                    ("reserve", "confirm") => [0, -1, 1, 0],
                    ("reserve", "cancel") => [1, -1, 0, 0],
                    ("receive", "confirm") => [1, 0, 0, 1],
                    _ => [0; 4],
                };
                one.available += available * amount;
                one.frozen += frozen * amount;
                one.sold += sold * amount;
                one.received += received * amount;
            }
            _ => {
                let one = account(audit, place);
                let [balance, held, promised] = match (action.as_str(), step) {
                    ("debit", _) => [-1, 0, 0],
                    ("credit", _) => [1, 0, 0],
                    ("hold", "try") => [-1, 1, 0],
                    ("hold", "confirm") => [0, -1, 0],
                    ("hold", _) => [1, -1, 0],
                    ("promise", "try") => [0, 0, 1],
                    ("promise", "confirm") => [1, 0, -1],
                    _ => [0, 0, -1],
                };
                one.1 += balance * amount;
                one.2 += held * amount;
                one.3 += promised * amount;
            }
        }
    }

    /// Makes the accounts what the journal says of them, so that only the journal shows what is wrong.
    pub(crate) fn set_right(&mut self) {
        for audit in &mut self.audits {
            let (journal, opening) = (&audit.journal, audit.opening.balance);
            for (number, balance, held, promised) in &mut audit.accounts {
                let booked = journal.iter().filter(|row| row.5 == *number).map(|row| row.6).sum::<i64>();
                (*balance, *held, *promised) = (opening + booked, 0, 0);
            }
        }
    }

    /// The row of a step that was taken.
    pub(crate) fn row(&mut self, number: i64, part: u32, step: &str) -> &mut JournalRow {
        let mut rows = self.audits.iter_mut().flat_map(|audit| &mut audit.journal);
        rows.find(|row| (row.2, row.3, row.4.as_str()) == (number, part, step)).unwrap()
    }

    /// Whether any part of an operation has taken effect.
    pub(crate) fn took_effect(&self, number: i64) -> bool {
        let mut rows = self.audits.iter().flat_map(|audit| &audit.journal);
        rows.any(|row| row.2 == number && (row.4 == "work" || row.4 == "confirm"))
    }

    /// A part that took effect is rolled back, in the tables as well.
    pub(crate) fn undo(&mut self, number: i64, part: u32) {
        let Part(database, action, place, amount) = self.part(number, part);
        let tcc = action != "debit" && action != "credit";
        let audit = &mut self.audits[database];
        audit.journal.retain(|row| (row.2, row.3) != (number, part));
        match action.as_str() {
            "debit" | "hold" => account(audit, place).1 += amount,
            "credit" | "promise" => account(audit, place).1 -= amount,
            "reserve" => {
                goods(audit, place).available += amount;
                goods(audit, place).sold -= amount;
            }
            "receive" => {
                goods(audit, place).available -= amount;
                goods(audit, place).received -= amount;
            }
            _ => {}
        }
        if tcc {
            self.take(number, part, &["try", "cancel"]);
        }
    }

    /// Every number of the tables at the end of which a change must be noticed.
    pub(crate) fn numbers(&mut self) -> Vec<&mut i64> {
        let mut numbers = Vec::new();
        for audit in &mut self.audits {
            for (_, balance, held, promised) in &mut audit.accounts {
                numbers.extend([balance, held, promised]);
            }
            for one in &mut audit.goods {
                numbers.extend([&mut one.available, &mut one.frozen, &mut one.received, &mut one.sold]);
            }
            for (opening, is_used) in [
                (&mut audit.opening.balance, audit.opening.accounts > 0),
                (&mut audit.opening.quantity, audit.opening.skus > 0),
            ] {
                numbers.extend(is_used.then_some(opening));
            }
        }
        numbers
    }

    /// As it is stored.
    pub(crate) fn text(&self) -> String {
        let end = (0..=self.audits.len()).map(|line| self.end_text(line));
        self.calls_text() + &end.collect::<String>()
    }

    /// What clients did.
    pub(crate) fn calls_text(&self) -> String {
        let mut text = String::new();
        for (process, Call { f, outcome, asked, said, .. }) in self.calls.iter().enumerate() {
            writeln!(text, "{{:process {process} :type :invoke :f :{f} :value {asked}}}").unwrap();
            let value = if *outcome == "ok" { said } else { asked };
            if *outcome != "never" {
                writeln!(text, "{{:process {process} :type :{outcome} :f :{f} :value {value}}}").unwrap();
            }
        }
        text
    }

    /// What was read at the end: from the coordinator (0), or from a database (from 1).
    pub(crate) fn end_text(&self, line: usize) -> String {
        let (f, value) = match line.checked_sub(1) {
            None => ("status", edn(&self.status)),
            Some(database) => ("audit", edn(&self.audits[database])),
        };
        let process = format!("-{}", line + 1);
        format!(
            "{{:process {process} :type :invoke :f :{f} :value nil}}\n\
             {{:process {process} :type :ok :f :{f} :value {value}}}\n"
        )
    }
}

/// An account: number, balance, held, promised.
pub(crate) fn account(audit: &mut DatabaseAudit, number: u32) -> &mut (u32, i64, i64, i64) {
    audit.accounts.iter_mut().find(|one| one.0 == number).unwrap()
}

pub(crate) fn goods(audit: &mut DatabaseAudit, sku: u32) -> &mut Goods {
    audit.goods.iter_mut().find(|one| one.sku == sku).unwrap()
}

fn edn(value: &impl Serialize) -> String {
    clojure_reader::to_string(value).unwrap()
}
