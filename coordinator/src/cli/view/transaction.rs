//! Transactions, in listings and one by one.

use std::fmt::Write as _;

use concord_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use super::ages::span;
use super::table::{Cell, Tone, facts, harmless, table};
use super::{Look, View, non_empty, rfc3339, unix_ms};

/// One global transaction.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct TransactionRecord {
    pub(in crate::cli) gtid: String,
    pub(in crate::cli) state: String,
    pub(in crate::cli) parked: bool,
    heuristic: bool,
    reason: Option<String>,
    name: Option<String>,
    tenant: Option<String>,
    grade: String,
    timeout_ms: u32,
    begun_at: Option<String>,
    decided_at: Option<String>,
    ended_at: Option<String>,
    pub(in crate::cli) branches: Vec<BranchRecord>,
    /// None where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<EventRecord>>,
    #[serde(skip)]
    times: Times,
}

/// One branch.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct BranchRecord {
    pub(in crate::cli) branch_id: u32,
    kind: String,
    pub(in crate::cli) state: String,
    pub(in crate::cli) participant: String,
    action: Option<String>,
    attempts: u32,
    /// None while a call is under way, or none is planned.
    next_attempt_at: Option<String>,
    last_error: Option<String>,
    #[serde(skip)]
    next_attempt: Option<i64>,
}

/// One event of the history.
#[derive(Debug, Serialize)]
struct EventRecord {
    at: Option<String>,
    kind: String,
    detail: String,
}

/// For ages; milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    begun: Option<i64>,
    decided: Option<i64>,
    ended: Option<i64>,
}

impl From<v1::Transaction> for TransactionRecord {
    fn from(transaction: v1::Transaction) -> Self {
        let ms = |at: &Option<Timestamp>| at.as_ref().map(unix_ms);
        TransactionRecord {
            state: state_name(transaction.state),
            grade: grade_name(transaction.grade),
            times: Times {
                begun: ms(&transaction.begun_at),
                decided: ms(&transaction.decided_at),
                ended: ms(&transaction.ended_at),
            },
            gtid: transaction.gtid,
            parked: transaction.parked,
            heuristic: transaction.heuristic,
            reason: non_empty(transaction.reason),
            name: non_empty(transaction.name),
            tenant: non_empty(transaction.tenant),
            timeout_ms: transaction.timeout_ms,
            begun_at: rfc3339(transaction.begun_at),
            decided_at: rfc3339(transaction.decided_at),
            ended_at: rfc3339(transaction.ended_at),
            branches: transaction.branches.into_iter().map(BranchRecord::from).collect(),
            history: None,
        }
    }
}

impl From<v1::Branch> for BranchRecord {
    fn from(branch: v1::Branch) -> Self {
        BranchRecord {
            branch_id: branch.branch_id,
            kind: kind_name(branch.kind),
            state: branch_state_name(branch.state),
            participant: branch.participant,
            action: non_empty(branch.action),
            attempts: branch.attempts,
            next_attempt: branch.next_attempt_at.as_ref().map(unix_ms),
            next_attempt_at: rfc3339(branch.next_attempt_at),
            last_error: non_empty(branch.last_error),
        }
    }
}

impl TransactionRecord {
    /// With its history, which only Get fills.
    pub(in crate::cli) fn with_history(mut transaction: v1::Transaction) -> Self {
        let history = std::mem::take(&mut transaction.history);
        let event = |event: v1::HistoryEvent| EventRecord {
            at: rfc3339(event.at),
            kind: event.kind,
            detail: event.detail,
        };
        let history = Some(history.into_iter().map(event).collect());
        TransactionRecord { history, ..TransactionRecord::from(transaction) }
    }

    /// Branches that have not ended, by their numbers.
    pub(in crate::cli) fn unfinished(&self) -> impl Iterator<Item = &BranchRecord> {
        let ended = ["read_only", "committed", "rolled_back"];
        self.branches.iter().filter(move |branch| !ended.contains(&branch.state.as_str()))
    }

    /// One line for each change, for `concord tx watch`.
    pub(in crate::cli) fn change(&self, look: &Look) -> String {
        let mut line = format!("{:>8}  {}", self.age(look), self.state_cell().paint(look));
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for branch in &self.branches {
            match counts.iter_mut().find(|(state, _)| *state == branch.state) {
                Some((_, count)) => *count += 1,
                None => counts.push((&branch.state, 1)),
            }
        }
        let counts: Vec<_> =
            counts.iter().map(|(state, count)| format!("{count} {}", words(state))).collect();
        if !counts.is_empty() {
            let _ = write!(line, "  branches: {}", counts.join(", "));
        }
        if let Some(reason) = &self.reason {
            let _ = write!(line, "  ({})", harmless(reason));
        }
        line
    }

    /// Which it is, how far it has come, and how old it is.
    pub(super) fn in_words(&self, look: &Look) -> Cell {
        Cell::new(format!("{}  {}, begun {} ago", self.gtid, words(&self.state), self.age(look)))
    }

    /// How far it has come, in plain words; the words of TCC where every branch follows it.
    fn state_cell(&self) -> Cell {
        let tcc = !self.branches.is_empty() && self.branches.iter().all(|branch| branch.kind == "tcc");
        let word = match self.state.as_str() {
            "preparing" if tcc => "trying".to_owned(),
            "committing" if tcc => "confirming".to_owned(),
            "rolling_back" if tcc => "cancelling".to_owned(),
            state => words(state),
        };
        let tone = match self.state.as_str() {
            "committed" => Tone::Good,
            "rolled_back" => Tone::Quiet,
            _ => Tone::Busy,
        };
        match (self.parked, self.heuristic) {
            (true, _) => Cell::new(format!("{word}, parked")).tone(Tone::Alarm),
            (false, true) => Cell::new(format!("{word}, heuristic")).tone(Tone::Alarm),
            (false, false) => Cell::new(word).tone(tone),
        }
    }

    fn age(&self, look: &Look) -> String {
        self.times.begun.map_or("-".to_owned(), |begun| span(look.now_ms.saturating_sub(begun)))
    }

    fn took(&self) -> Option<String> {
        Some(span(self.times.ended?.saturating_sub(self.times.begun?)))
    }

    fn row(&self, look: &Look) -> Vec<Cell> {
        vec![
            Cell::new(&self.gtid),
            self.state_cell(),
            self.name.as_deref().map_or_else(Cell::none, Cell::free),
            self.branches.len().to_string().into(),
            self.age(look).into(),
            self.took().map_or_else(Cell::none, Cell::from),
            self.why().map_or_else(Cell::none, |why| Cell::free(&why)),
        ]
    }

    /// What keeps it from its end, or else why it is rolled back.
    fn why(&self) -> Option<String> {
        let stuck = self.branches.iter().find_map(|branch| Some((branch, branch.last_error.as_ref()?)));
        match stuck {
            Some((branch, error)) if self.ended_at.is_none() => {
                Some(format!("branch {} at {}: {error}", branch.branch_id, branch.participant))
            }
            _ => self.reason.clone(),
        }
    }

    fn facts(&self, look: &Look) -> String {
        let time = |at: &Option<String>, ms: Option<i64>| {
            let (at, ms) = (at.as_ref()?, ms?);
            Some(Cell::new(format!("{at}  ({} ago)", span(look.now_ms.saturating_sub(ms)))))
        };
        facts(
            look,
            [
                ("gtid", Some(Cell::new(&self.gtid))),
                ("state", Some(self.state_cell())),
                ("reason", self.reason.as_ref().map(Cell::new)),
                ("name", self.name.as_ref().map(Cell::new)),
                ("tenant", self.tenant.as_ref().map(Cell::new)),
                ("grade", Some(words(&self.grade).into())),
                ("begun", time(&self.begun_at, self.times.begun)),
                ("decided", time(&self.decided_at, self.times.decided)),
                ("ended", time(&self.ended_at, self.times.ended)),
                ("took", self.took().map(Cell::from)),
                ("timeout", Some(span(self.timeout_ms.into()).into())),
            ],
        )
    }
}

impl View for TransactionRecord {
    fn text(&self, look: &Look) -> String {
        let mut out = self.facts(look);
        if !self.branches.is_empty() {
            out.push('\n');
            let heading = ["BRANCH", "KIND", "STATE", "PARTICIPANT", "ACTION", "ATTEMPTS", "LAST ERROR"];
            out.push_str(&table(look, &heading, self.branches.iter().map(|branch| branch.row(look))));
        }
        if let Some(history) = self.history.as_ref().filter(|history| !history.is_empty()) {
            let row = |event: &EventRecord| {
                let at = event.at.as_ref().map_or_else(Cell::none, Cell::new);
                vec![at, words(&event.kind).into(), Cell::new(&event.detail)]
            };
            out.push('\n');
            out.push_str(&table(look, &["AT", "EVENT", "DETAIL"], history.iter().map(row)));
        }
        out
    }
}

impl BranchRecord {
    fn row(&self, look: &Look) -> Vec<Cell> {
        let attempts = match self.next_attempt.map(|at| at - look.now_ms) {
            None => self.attempts.to_string(),
            Some(ms) => format!("{}, next in {}", self.attempts, span(ms.max(0))),
        };
        let tone = match self.state.as_str() {
            "committed" | "read_only" => Tone::Good,
            "rolled_back" | "refused" => Tone::Quiet,
            "parked" => Tone::Alarm,
            _ => Tone::Busy,
        };
        vec![
            self.branch_id.to_string().into(),
            self.kind.to_uppercase().into(),
            Cell::new(words(&self.state)).tone(tone),
            Cell::new(&self.participant),
            self.action.as_ref().map_or_else(Cell::none, Cell::new),
            attempts.into(),
            self.last_error.as_ref().map_or_else(Cell::none, Cell::new),
        ]
    }
}

/// Transactions, newest first.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct TransactionsListing {
    pub(in crate::cli) transactions: Vec<TransactionRecord>,
    /// For `--page-token`; null after the last one.
    pub(in crate::cli) next_page_token: Option<String>,
}

impl View for TransactionsListing {
    fn text(&self, look: &Look) -> String {
        if self.transactions.is_empty() {
            return "no transactions\n".to_owned();
        }
        let heading = ["GTID", "STATE", "NAME", "BRANCHES", "AGE", "TOOK", "REASON"];
        let mut out =
            table(look, &heading, self.transactions.iter().map(|transaction| transaction.row(look)));
        if let Some(token) = &self.next_page_token {
            let _ = writeln!(out, "\nThere are more: --page-token {} (or --all)", harmless(token));
        }
        out
    }
}

/// `rolling_back` as "rolling back".
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// `TRANSACTION_STATE_ROLLING_BACK` as `rolling_back`; a value of a newer server by its number.
fn value_name(known: Option<&str>, prefix: &str, number: i32) -> String {
    match known.and_then(|name| name.strip_prefix(prefix)) {
        Some(name) => name.to_ascii_lowercase(),
        None => format!("unknown_{number}"),
    }
}

fn state_name(state: i32) -> String {
    let known = v1::TransactionState::try_from(state).ok();
    value_name(known.map(|state| state.as_str_name()), "TRANSACTION_STATE_", state)
}

fn branch_state_name(state: i32) -> String {
    let known = v1::BranchState::try_from(state).ok();
    value_name(known.map(|state| state.as_str_name()), "BRANCH_STATE_", state)
}

fn kind_name(kind: i32) -> String {
    let known = v1::BranchKind::try_from(kind).ok();
    value_name(known.map(|kind| kind.as_str_name()), "BRANCH_KIND_", kind)
}

fn grade_name(grade: i32) -> String {
    match v1::Grade::try_from(grade) {
        // The interface says so.
        Ok(v1::Grade::Unspecified) => "early_vote".to_owned(),
        known => value_name(known.ok().map(|grade| grade.as_str_name()), "GRADE_", grade),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, now_ms: 1_700_000_010_000, width: None };

    fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: 1_700_000_000 + ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 })
    }

    fn transaction() -> v1::Transaction {
        let branch = |branch_id, state, action: &str, last_error: &str| v1::Branch {
            branch_id,
            kind: v1::BranchKind::Xa.into(),
            participant: format!("http://127.0.0.1:710{branch_id}"),
            action: action.into(),
            state,
            attempts: branch_id - 1,
            last_error: last_error.into(),
            next_attempt_at: at(22_500).filter(|_| branch_id == 3),
        };
        v1::Transaction {
            gtid: "018bcfe5-6800-8000-8000-040000000001".into(),
            state: v1::TransactionState::Committing.into(),
            parked: true,
            reason: "branch 2: gave up".into(),
            name: "transfer".into(),
            branches: vec![
                branch(1, v1::BranchState::Committed.into(), "debit", ""),
                branch(2, v1::BranchState::Parked.into(), "", "connection\u{1b}[31m refused"),
                branch(3, 99, "credit", ""),
            ],
            begun_at: at(0),
            decided_at: at(250),
            timeout_ms: 30_000,
            history: vec![v1::HistoryEvent {
                at: at(250),
                kind: "branch_ended".into(),
                detail: "branch 1 committed".into(),
            }],
            ..v1::Transaction::default()
        }
    }

    #[test]
    fn one_transaction_as_text() {
        let expected = "\
gtid     018bcfe5-6800-8000-8000-040000000001
state    committing, parked
reason   branch 2: gave up
name     transfer
grade    early vote
begun    2023-11-14T22:13:20Z  (10.0s ago)
decided  2023-11-14T22:13:20.250Z  (9.7s ago)
timeout  30.0s

BRANCH  KIND  STATE       PARTICIPANT            ACTION  ATTEMPTS          LAST ERROR
1       XA    committed   http://127.0.0.1:7101  debit   0                 -
2       XA    parked      http://127.0.0.1:7102  -       1                 connection [31m refused
3       XA    unknown 99  http://127.0.0.1:7103  credit  2, next in 12.5s  -

AT                        EVENT         DETAIL
2023-11-14T22:13:20.250Z  branch ended  branch 1 committed
";
        assert_eq!(TransactionRecord::with_history(transaction()).text(&PLAIN), expected);
    }

    #[test]
    fn one_transaction_as_json() {
        let json = serde_json::to_value(TransactionRecord::with_history(transaction())).unwrap();
        let expected = serde_json::json!({
            "gtid": "018bcfe5-6800-8000-8000-040000000001",
            "state": "committing",
            "parked": true,
            "heuristic": false,
            "reason": "branch 2: gave up",
            "name": "transfer",
            "tenant": null,
            "grade": "early_vote",
            "timeout_ms": 30000,
            "begun_at": "2023-11-14T22:13:20Z",
            "decided_at": "2023-11-14T22:13:20.250Z",
            "ended_at": null,
            "branches": [
                {"branch_id": 1, "kind": "xa", "state": "committed", "participant": "http://127.0.0.1:7101",
                 "action": "debit", "attempts": 0, "next_attempt_at": null, "last_error": null},
                {"branch_id": 2, "kind": "xa", "state": "parked", "participant": "http://127.0.0.1:7102",
                 "action": null, "attempts": 1, "next_attempt_at": null, "last_error": "connection\u{1b}[31m refused"},
                {"branch_id": 3, "kind": "xa", "state": "unknown_99", "participant": "http://127.0.0.1:7103",
                 "action": "credit", "attempts": 2, "next_attempt_at": "2023-11-14T22:13:42.500Z", "last_error": null},
            ],
            "history": [{"at": "2023-11-14T22:13:20.250Z", "kind": "branch_ended", "detail": "branch 1 committed"}],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_listing() {
        let ended = v1::Transaction {
            state: v1::TransactionState::RolledBack.into(),
            parked: false,
            reason: String::new(),
            name: String::new(),
            branches: vec![],
            ended_at: at(1_500),
            ..transaction()
        };
        let listing = TransactionsListing {
            transactions: vec![transaction().into(), ended.into()],
            next_page_token: Some("t1".into()),
        };
        let expected = "\
GTID                                  STATE               NAME      BRANCHES  AGE    TOOK  REASON
018bcfe5-6800-8000-8000-040000000001  committing, parked  transfer  3         10.0s  -     branch 2 at http://127.0.0.1:7102: connection [31m refused
018bcfe5-6800-8000-8000-040000000001  rolled back         -         0         10.0s  1.5s  -

There are more: --page-token t1 (or --all)
";
        assert_eq!(listing.text(&PLAIN), expected);
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["next_page_token"], "t1");
        assert!(json["transactions"][0].get("history").is_none());
        let empty = TransactionsListing { transactions: vec![], next_page_token: None };
        assert_eq!(empty.text(&PLAIN), "no transactions\n");
        assert_eq!(serde_json::to_string(&empty).unwrap(), r#"{"transactions":[],"next_page_token":null}"#);
    }

    #[test]
    fn a_change_on_one_line() {
        let record = TransactionRecord::from(transaction());
        let line = record.change(&PLAIN);
        let expected = "   10.0s  committing, parked  branches: 1 committed, 1 parked, 1 unknown 99  (branch 2: gave up)";
        assert_eq!(line, expected);
        let unfinished: Vec<_> = record.unfinished().map(|branch| branch.branch_id).collect();
        assert_eq!(unfinished, [2, 3]);
    }

    #[test]
    fn tcc_has_its_own_words() {
        let mut transaction = transaction();
        transaction.parked = false;
        for branch in &mut transaction.branches {
            branch.kind = v1::BranchKind::Tcc.into();
        }
        let record = TransactionRecord::from(transaction);
        assert_eq!(record.state_cell().paint(&PLAIN), "confirming");
        assert_eq!(record.state, "committing", "programs see one vocabulary");
    }

    #[test]
    fn every_state_has_a_name() {
        for state in 1..=6 {
            assert!(!state_name(state).starts_with("unknown"));
        }
        for state in 1..=7 {
            assert!(!branch_state_name(state).starts_with("unknown"));
        }
        assert_eq!(
            (grade_name(0), grade_name(2), kind_name(2)),
            ("early_vote".into(), "strict".into(), "tcc".into())
        );
    }
}
