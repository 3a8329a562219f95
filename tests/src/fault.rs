//! What a test participant can be told to do wrong, and at which call.

use std::fmt;
use std::str::FromStr;

/// A call of the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in concord.v1.Participant")]
pub enum Verb {
    Work,
    Prepare,
    Commit,
    Rollback,
    Try,
    Confirm,
    Cancel,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// It is done and answered.
    #[default]
    None,
    /// Not done; answered with UNAVAILABLE.
    Unavailable,
    /// Not done; answered without a vote or an outcome.
    Garbage,
    /// Not done; refused with INVALID_ARGUMENT.
    Refused,
    /// Not done and never answered.
    Silent,
    /// Kept at the door until the fault is changed, and then done, even if the caller has long gone.
    Gate,
    /// Done; the answer is lost.
    LostReply,
    /// Not done; the process ends as by SIGKILL.
    ExitBefore,
    /// Done; the process ends as by SIGKILL before it answers.
    ExitAfter,
}

impl Verb {
    /// All, in the order of their use.
    pub const ALL: [Verb; 7] =
        [Verb::Work, Verb::Prepare, Verb::Commit, Verb::Rollback, Verb::Try, Verb::Confirm, Verb::Cancel];
}

impl Fault {
    const ALL: [Fault; 9] = [
        Fault::None,
        Fault::Unavailable,
        Fault::Garbage,
        Fault::Refused,
        Fault::Silent,
        Fault::Gate,
        Fault::LostReply,
        Fault::ExitBefore,
        Fault::ExitAfter,
    ];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Verb::ALL
            .into_iter()
            .find(|one| one.to_string() == text)
            .ok_or_else(|| format!("no verb is {text:?}"))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Fault::ALL
            .into_iter()
            .find(|one| one.to_string() == text)
            .ok_or_else(|| format!("no fault is {text:?}"))
    }
}
