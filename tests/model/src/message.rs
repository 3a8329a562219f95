//! What is on its way between the coordinator and the participants.

use std::fmt;

use concord_protocol::{BranchId, Outcome, Reply, Verb, Vote};

use crate::coordinator::Who;

/// A participant's place in the world, from 0; its branch's number is one more.
pub(crate) type Index = u8;

/// The number of a participant's branch.
pub(crate) fn branch_id(index: Index) -> BranchId {
    BranchId(u32::from(index) + 1)
}

/// The participant of a branch.
pub(crate) fn index_of(branch: BranchId) -> Index {
    u8::try_from(branch.0.saturating_sub(1)).unwrap_or(u8::MAX)
}

/// One message. Any message may arrive at any time, whatever was sent before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// The coordinator calls a participant.
    Call {
        to: Index,
        verb: Verb,
        repeated: bool,
        /// Who waits for its answer. Nobody: the call was given up, its caller is dead, or it is a duplicate.
        caller: Option<Who>,
        /// A duplicate was made, so it has certainly left.
        doubled: bool,
    },
    /// A participant answers.
    Reply { from: Index, to: Who, verb: Verb, reply: Reply },
    /// Initiator-driven: a participant has joined and may start its work.
    Start { to: Index },
    /// Initiator-driven: a participant reports its vote unasked, to whichever coordinator it reaches.
    Report { from: Index, vote: Vote },
}

impl Message {
    /// Whose branch it is about.
    pub(crate) fn participant(self) -> Index {
        match self {
            Message::Call { to: index, .. }
            | Message::Start { to: index }
            | Message::Reply { from: index, .. }
            | Message::Report { from: index, .. } => index,
        }
    }
}

impl Message {
    /// The same, when nobody waits for its answer any more.
    pub(crate) fn abandoned(self) -> Message {
        match self {
            Message::Call { to, verb, repeated, .. } => {
                Message::Call { to, verb, repeated, caller: None, doubled: false }
            }
            other => other,
        }
    }

    /// The first of two that are the same.
    pub(crate) fn doubled(self) -> Message {
        match self {
            Message::Call { to, verb, repeated, caller, .. } => {
                Message::Call { to, verb, repeated, caller, doubled: caller.is_some() }
            }
            other => other,
        }
    }

    /// The same, when its coordinator is the late one from now on.
    pub(crate) fn taken_over(self) -> Message {
        match self {
            Message::Call { to, verb, repeated, caller, doubled } => {
                Message::Call { to, verb, repeated, caller: caller.map(|_| Who::Late), doubled }
            }
            Message::Reply { from, to: _, verb, reply } => {
                Message::Reply { from, to: Who::Late, verb, reply }
            }
            other => other,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branch = self.participant() + 1;
        match self {
            Message::Call { verb, repeated, caller, .. } => {
                let repeated = if *repeated { ", repeated" } else { "" };
                let caller = match caller {
                    Some(Who::Owner) => "",
                    Some(Who::Late) => ", from the late one",
                    None => ", nobody waits",
                };
                write!(f, "{verb:?} to branch {branch}{repeated}{caller}")
            }
            Message::Reply { verb, reply, to, .. } => {
                let reply = match reply {
                    Reply::Worked => "done",
                    Reply::Vote(Vote::Yes) => "yes",
                    Reply::Vote(Vote::ReadOnly) => "read-only",
                    Reply::Vote(Vote::No) => "no",
                    Reply::Ended(Outcome::Committed) => "committed",
                    Reply::Ended(Outcome::RolledBack) => "rolled back",
                    Reply::Refused => "refused",
                    Reply::Failed { .. } => "no answer",
                };
                write!(f, "{to}branch {branch} to {verb:?}: {reply}")
            }
            Message::Start { .. } => write!(f, "branch {branch} has joined"),
            Message::Report { vote, .. } => write!(f, "branch {branch} reports its vote: {vote:?}"),
        }
    }
}
