//! Histories in Jepsen's format: one EDN map in a line.
//!
//! ```text
//!   {:index 0 :time 1200345 :process 3 :type :invoke :f :txn :value [[:append 5 17] [:r 5 nil]]}
//! ```

use std::collections::HashMap;
use std::fmt;

use clojure_reader::edn::{Edn, read_string};

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// A client; it has one operation under way at most.
    Client(i64),
    /// Who makes the faults.
    Nemesis,
}

/// What a line says of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// It begins.
    Invoke,
    /// It has been done.
    Ok,
    /// It was not done, and will not be.
    Fail,
    /// Nobody knows.
    Info,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its place in the history, from 0.
    pub index: i64,
    /// Nanoseconds since the beginning.
    pub time_ns: i64,
    /// Who.
    pub process: Process,
    /// How far.
    pub kind: Type,
    /// What: `txn`, `transfer`, `kill` …
    pub f: String,
    /// With what, or with which result.
    pub value: Edn<'static>,
    /// Why it failed, or is not known.
    pub error: Option<Edn<'static>>,
}

/// A history that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct BadHistory {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// An operation from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its beginning.
    pub invoked: &'a Operation,
    /// Its end; none when the history ends before it.
    pub completed: Option<&'a Operation>,
}

impl<'a> Call<'a> {
    /// How it ended; [`Type::Info`] when that is not known.
    pub fn outcome(&self) -> Type {
        self.completed.map_or(Type::Info, |operation| operation.kind)
    }

    /// The line that says most of it: only an end that says "ok" brings what was read.
    pub fn said(&self) -> &'a Operation {
        self.completed.filter(|operation| operation.kind == Type::Ok).unwrap_or(self.invoked)
    }
}

/// Reads a history. Empty lines are left out.
///
/// # Errors
/// [`BadHistory`] names the first line that is not an operation.
pub fn read(text: &str) -> Result<Vec<Operation>, BadHistory> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .enumerate()
        .map(|(place, (number, line))| {
            operation(line, place).map_err(|problem| BadHistory { line: number + 1, problem })
        })
        .collect()
}

/// Pairs beginnings and ends, in the order of the beginnings. The nemesis is left out: its operations have no ends.
///
/// # Errors
/// The index of an end without a beginning, or of a second beginning by a client that has one under way.
pub fn calls(history: &[Operation]) -> Result<Vec<Call<'_>>, i64> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut open = HashMap::new();
    for operation in history {
        let Process::Client(client) = operation.process else { continue };
        match operation.kind {
            Type::Invoke => {
                if open.insert(client, calls.len()).is_some() {
                    return Err(operation.index);
                }
                calls.push(Call { invoked: operation, completed: None });
            }
            Type::Ok | Type::Fail | Type::Info => {
                let at = open.remove(&client).ok_or(operation.index)?;
                calls[at].completed = Some(operation);
            }
        }
    }
    Ok(calls)
}

fn operation(line: &str, place: usize) -> Result<Operation, String> {
    let edn = read_string(line).map_err(|error| format!("it is not EDN: {error}"))?.into_owned();
    // Jepsen writes its records with a tag.
    let map = match &edn {
        Edn::Tagged(_, inner) => inner.as_ref(),
        other => other,
    };
    if !matches!(map, Edn::Map(_)) {
        return Err("it is not a map".into());
    }
    let index = number(map, "index")?.unwrap_or(i64::try_from(place).unwrap_or(i64::MAX));
    let time_ns = number(map, "time")?.unwrap_or(0);
    let process = match get(map, "process") {
        Some(Edn::Int(number)) => Process::Client(*number),
        Some(Edn::Key(name)) if name == "nemesis" => Process::Nemesis,
        other => return Err(format!(":process is {}", shown(other))),
    };
    let kind = match keyword(map, "type")? {
        "invoke" => Type::Invoke,
        "ok" => Type::Ok,
        "fail" => Type::Fail,
        "info" => Type::Info,
        other => return Err(format!(":type is :{other}")),
    };
    let f = keyword(map, "f")?.to_owned();
    let value = get(map, "value").cloned().unwrap_or(Edn::Nil);
    let error = get(map, "error").cloned();
    Ok(Operation { index, time_ns, process, kind, f, value, error })
}

fn get<'a>(map: &'a Edn<'static>, key: &'static str) -> Option<&'a Edn<'static>> {
    map.get(&Edn::key(key))
}

fn number(map: &Edn<'static>, key: &'static str) -> Result<Option<i64>, String> {
    match get(map, key) {
        Some(Edn::Int(number)) => Ok(Some(*number)),
        None => Ok(None),
        Some(other) => Err(format!(":{key} is {other}, not a number")),
    }
}

fn keyword<'a>(map: &'a Edn<'static>, key: &'static str) -> Result<&'a str, String> {
    match get(map, key) {
        Some(Edn::Key(name)) => Ok(name),
        other => Err(format!(":{key} is {}", shown(other))),
    }
}

fn shown(edn: Option<&Edn<'_>>) -> String {
    edn.map_or_else(|| "missing".to_owned(), ToString::to_string)
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => number.fmt(f),
            Process::Nemesis => f.write_str(":nemesis"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Invoke => ":invoke",
            Type::Ok => ":ok",
            Type::Fail => ":fail",
            Type::Info => ":info",
        })
    }
}

/// As a line of a history.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { index, time_ns, process, kind, f: name, value, error } = self;
        write!(
            f,
            "{{:index {index} :time {time_ns} :process {process} :type {kind} :f :{name} :value {value}"
        )?;
        if let Some(error) = error {
            write!(f, " :error {error}")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back() {
        let line = "{:index 7 :time 12 :process 3 :type :info :f :txn :value [[:append 5 17] [:r 5 nil]] :error :timeout}";
        let history = read(line).unwrap();
        let words = |text: &str| text.replace(',', "");
        assert_eq!(words(&history[0].to_string()), line);
    }

    #[test]
    fn records_of_jepsen_itself_can_be_read() {
        let text = "#jepsen.history.Op{:index 0, :time 5, :type :invoke, :process 0, :f :txn, :value [[:r 1 nil]]}\n\n\
                    {:type :info, :f :start, :process :nemesis, :time 6, :value nil, :index 1}";
        let history = read(text).unwrap();
        assert_eq!((history[0].process, history[1].process), (Process::Client(0), Process::Nemesis));
        assert_eq!(history[1].kind, Type::Info);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, problem) in [
            ("{:process 0", "line 1: it is not EDN"),
            ("[]", "line 1: it is not a map"),
            ("{:process 0 :f :txn}", "line 1: :type is missing"),
            ("{:process \"a\" :type :ok :f :txn}", "line 1: :process is \"a\""),
            ("{:process 0 :type :ok :f :txn :time :x}", "line 1: :time is :x, not a number"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn beginnings_and_ends_are_paired() {
        let history = read(
            "{:process 0 :type :invoke :f :a}\n{:process 1 :type :invoke :f :b}\n{:process :nemesis :type :info :f :kill}\n\
             {:process 1 :type :fail :f :b}",
        )
        .unwrap();
        let calls = calls(&history).unwrap();
        assert_eq!(calls.iter().map(Call::outcome).collect::<Vec<_>>(), [Type::Info, Type::Fail]);
        let twice = read("{:process 0 :type :invoke :f :a}\n{:process 0 :type :invoke :f :b}").unwrap();
        assert_eq!(super::calls(&twice).unwrap_err(), 1);
        let none = read("{:process 0 :type :ok :f :a}").unwrap();
        assert_eq!(super::calls(&none).unwrap_err(), 0);
    }
}
