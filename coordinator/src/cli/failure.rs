//! How a command fails: one sentence, a hint, an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

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
        Failure::Said { message: message.into(), hint: None, exit_code: EXIT_FAILED }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Failure::Said { message: message.into(), hint: None, exit_code: EXIT_USAGE }
    }

    pub(super) fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Failure::Said { message, exit_code, .. } => {
                Failure::Said { message, hint: Some(text.into()), exit_code }
            }
            Failure::ClosedPipe => self,
        }
    }

    pub(super) fn with_exit_code(self, code: u8) -> Self {
        match self {
            Failure::Said { message, hint, .. } => Failure::Said { message, hint, exit_code: code },
            Failure::ClosedPipe => self,
        }
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
        let failure = Failure::new(message);
        match (status.code(), reason.as_deref()) {
            (Code::NotFound, Some("UNKNOWN_BRANCH")) => failure
                .with_exit_code(EXIT_NOT_FOUND)
                .with_hint("`concord tx get` shows its branches, which are numbered from 1"),
            (Code::NotFound, _) => failure
                .with_exit_code(EXIT_NOT_FOUND)
                .with_hint("`concord tx list --all` shows what is on record; ended transactions are kept for a time only"),
            (Code::Unavailable, None) => failure.with_hint(no_connection(address)),
            (Code::DeadlineExceeded | Code::Cancelled, None) => {
                failure.with_hint("the order may have been carried out; look with `concord tx get`, or allow more --timeout-ms")
            }
            (Code::Unimplemented, None) => {
                failure.with_hint(format!("is the server at {address} a Concord coordinator of this version?"))
            }
            (Code::Unauthenticated, _) => failure
                .with_hint("show a token: the variable CONCORD_TOKEN holds one, or --token-file names a file with one"),
            (Code::FailedPrecondition, Some("ALREADY_COMMITTED")) => {
                failure.with_hint("a decision to commit is never taken back")
            }
            _ => failure,
        }
    }

    /// Says it on standard error.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Failure::Said { message, hint, exit_code } => {
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
}

/// The hint when nobody answers.
pub(super) fn no_connection(address: &str) -> String {
    format!("is `concord serve` running at {address}? Another place is named by --address or CONCORD_ADDRESS")
}

/// Messages may come from elsewhere; they do not steer the terminal.
fn printable(line: &str) -> String {
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
            Failure::Said { message, hint, exit_code } => (message, hint, exit_code),
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
    fn a_lost_connection_is_explained() {
        let (_, hint, code) = said(&Status::unavailable("tcp connect error"));
        assert!(hint.unwrap().contains("is `concord serve` running at http://127.0.0.1:7600?"));
        assert_eq!(code, EXIT_FAILED);
        let busy = with_reason(Code::Unavailable, "SHUTTING_DOWN", "the coordinator is shutting down");
        assert_eq!(said(&busy).1, None, "the coordinator did answer");
    }
}
