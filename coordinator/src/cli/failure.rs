//! How a command fails: one sentence, a hint, an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use concord_coordinator::config::ConfigError;
use concord_coordinator::store::StoreError;
use concord_proto::status::reason;
use tonic::{Code, Status};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be said on standard error.
    Said {
        /// One sentence, or one line for each problem.
        message: String,
        /// What the reader may do about it.
        hint: Option<String>,
        /// See the help text of `concord`.
        exit_code: u8,
        /// What the coordinator answered, where one did; `DeadlineExceeded` stands for no answer, too.
        code: Option<Code>,
        /// Its stable reason.
        reason: Option<String>,
    },
    /// Whoever read our output has had enough; nothing went wrong.
    ClosedPipe,
}

impl fmt::Display for Failure {
    /// In a sentence, without the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Said { message, .. } => f.write_str(&printable(message)),
            Failure::ClosedPipe => f.write_str("the connection was closed"),
        }
    }
}

/// Exit codes, as documented by `concord --help`.
pub(super) const EXIT_FAILED: u8 = 1;
pub(super) const EXIT_USAGE: u8 = 2;
pub(super) const EXIT_STORE: u8 = 3;
const EXIT_NOT_FOUND: u8 = 4;

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Failure::Said { message, hint: None, exit_code: EXIT_FAILED, code: None, reason: None }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Failure::new(message).with_exit_code(EXIT_USAGE)
    }

    /// Somebody listens, and says nothing.
    pub(super) fn unanswered(address: &str, patience: Duration) -> Self {
        Failure::new(format!("{address} has not answered in {patience:?}"))
            .with_answer(Code::DeadlineExceeded, None)
            .with_hint("it may be hung or overloaded: see its log, and what its process does. --timeout-ms allows more")
    }

    /// Whether somebody listens, and says nothing.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Failure::Said { code: Some(Code::DeadlineExceeded), reason: None, .. })
    }

    pub(super) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Failure::Said { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    pub(super) fn with_exit_code(mut self, code: u8) -> Self {
        if let Failure::Said { exit_code, .. } = &mut self {
            *exit_code = code;
        }
        self
    }

    fn with_answer(mut self, answered: Code, why: Option<String>) -> Self {
        if let Failure::Said { code, reason, .. } = &mut self {
            (*code, *reason) = (Some(answered), why);
        }
        self
    }

    /// What the coordinator answered when it did not do what it was asked.
    pub(super) fn status(status: &Status, address: &str) -> Self {
        let reason = reason(status);
        let message = match (status.message(), &reason) {
            ("", None) => format!("the coordinator answered {:?}", status.code()),
            ("", Some(reason)) => reason.clone(),
            (message, Some(reason)) => format!("{message} ({reason})"),
            (message, None) => message.to_owned(),
        };
        let failure = Failure::new(message).with_answer(status.code(), reason.clone());
        match (status.code(), reason.as_deref()) {
            (Code::NotFound, Some("UNKNOWN_BRANCH")) => failure
                .with_exit_code(EXIT_NOT_FOUND)
                .with_hint("`concord tx get` shows its branches, which are numbered from 1"),
            (Code::NotFound, _) => failure
                .with_exit_code(EXIT_NOT_FOUND)
                .with_hint("`concord tx list --all` shows what is on record; ended transactions are kept for a time only"),
            (Code::Unavailable, None) => failure.with_hint(no_connection(address)),
            (Code::Unimplemented, None) => {
                failure.with_hint(format!("is the server at {address} a Concord coordinator of this version?"))
            }
            (Code::Unauthenticated, _) => failure
                .with_hint("show a token: the variable CONCORD_TOKEN holds one, or --token-file names a file with one"),
            (Code::DeadlineExceeded, Some("NOT_DECIDED_YET")) => failure.with_hint(
                "its only branch commits in one phase, and has not said how that ended: `concord tx get` shows its participant; \
                 if that will never answer, look in its database, and `concord tx resolve`",
            ),
            (Code::FailedPrecondition, Some("NOT_DECIDED")) => {
                failure.with_hint("`concord tx get` says what it waits for; `concord tx rollback` ends it now, unless its only branch commits in one phase")
            }
            (Code::FailedPrecondition, Some("ALREADY_COMMITTED")) => {
                failure.with_hint("a decision to commit is never taken back")
            }
            _ => failure,
        }
    }

    /// Says it on standard error: as text, or as one line of JSON.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        match self {
            Failure::Said { exit_code, .. } if json => {
                eprintln!("{}", self.to_json());
                ExitCode::from(*exit_code)
            }
            Failure::Said { message, hint, exit_code, .. } => {
                for line in message.lines() {
                    eprintln!("error: {}", printable(line));
                }
                if let Some(hint) = hint {
                    eprintln!("hint: {hint}");
                }
                ExitCode::from(*exit_code)
            }
            Failure::ClosedPipe => ExitCode::SUCCESS,
        }
    }

    /// What is not known is null. Scripts read it.
    fn to_json(&self) -> serde_json::Value {
        let Failure::Said { message, hint, code, reason, .. } = self else { return serde_json::Value::Null };
        let error = serde_json::json!({
            "message": message, "hint": hint, "reason": reason, "code": code.map(code_name),
        });
        serde_json::json!({ "error": error })
    }
}

/// gRPC's own name of a code, as the API has it in JSON: `NOT_FOUND`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The hint when nobody answers.
pub(super) fn no_connection(address: &str) -> String {
    format!("is `concord serve` running at {address}? Another place is named by --address or CONCORD_ADDRESS")
}

/// Messages may come from elsewhere; they do not steer the terminal.
pub(super) fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::new(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Failure::new(error.to_string());
        match error {
            StoreError::Open { .. } | StoreError::Corrupt { .. } => failure.with_exit_code(EXIT_STORE),
            _ => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use concord_proto::status::with_reason;

    use super::*;

    fn said(status: &Status) -> (String, Option<String>, u8) {
        match Failure::status(status, "http://127.0.0.1:7600") {
            Failure::Said { message, hint, exit_code, .. } => (message, hint, exit_code),
            Failure::ClosedPipe => panic!("a status is no closed pipe"),
        }
    }

    #[test]
    fn the_stable_reason_stands_behind_the_sentence() {
        let (message, hint, code) =
            said(&with_reason(Code::NotFound, "UNKNOWN_GTID", "there is no record of it"));
        assert_eq!((message.as_str(), code), ("there is no record of it (UNKNOWN_GTID)", EXIT_NOT_FOUND));
        assert!(hint.unwrap().contains("tx list"));
        let (_, hint, code) = said(&with_reason(Code::NotFound, "UNKNOWN_BRANCH", "there is no such branch"));
        assert!(hint.unwrap().contains("tx get") && code == EXIT_NOT_FOUND, "the transaction is there");
        assert_eq!(
            said(&Status::internal("")),
            ("the coordinator answered Internal".into(), None, EXIT_FAILED)
        );
        assert_eq!(said(&Status::internal("broken")).0, "broken");
    }

    #[test]
    fn programs_read_it_as_json() {
        let refused = with_reason(Code::FailedPrecondition, "ALREADY_COMMITTED", "too late");
        let expected = serde_json::json!({ "error": {
            "message": "too late (ALREADY_COMMITTED)", "hint": "a decision to commit is never taken back",
            "reason": "ALREADY_COMMITTED", "code": "FAILED_PRECONDITION",
        } });
        assert_eq!(Failure::status(&refused, "http://a:1").to_json(), expected);
        let own =
            serde_json::json!({ "error": { "message": "no", "hint": null, "reason": null, "code": null } });
        assert_eq!(Failure::usage("no").to_json(), own);
    }

    #[test]
    fn a_lost_connection_is_explained() {
        let (_, hint, code) = said(&Status::unavailable("tcp connect error"));
        assert!(hint.unwrap().contains("is `concord serve` running at http://127.0.0.1:7600?"));
        assert_eq!(code, EXIT_FAILED);
        let busy = with_reason(Code::Unavailable, "SHUTTING_DOWN", "the coordinator is shutting down");
        assert_eq!(said(&busy).1, None, "the coordinator did answer");
    }
}
