//! A participant's branch, as the SDK's contract has it (participant-sdk/xa/src/resolve.rs and
//! participant-sdk/src/tcc/barrier.rs).

use concord_protocol::{Kind, Outcome, Reply, Verb, Vote};

use crate::mutant::Mutant;

/// How far a branch has come in its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rm {
    /// There is no trace of it.
    Fresh,
    /// XA: its statements are done, its session is open.
    Worked,
    /// XA: prepared. TCC: tried, its reservation stands.
    Prepared,
    /// XA: it voted read-only. Only the process remembers that.
    ReadOnly,
    /// XA: it voted no; only the process remembers that. TCC: Try was refused; that is on record.
    Refused,
    /// XA: committed, with its marker row. TCC: confirmed.
    Committed,
    /// XA: a tombstone bars it. TCC: cancelled, or a tombstone.
    RolledBack,
}

/// What a handler, or the database, does where it has a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Choice {
    /// What is asked for.
    Yes,
    /// XA: nothing was written.
    ReadOnly,
    /// A vote of no.
    No,
    /// Initiator-driven XA: works, and waits to be asked for its vote.
    Work,
    /// TCC: will not be confirmed or cancelled.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Participant {
    pub(crate) kind: Kind,
    pub(crate) rm: Rm,
    /// It was told that it has joined.
    pub(crate) joined: bool,
    /// It has said that it only read, and has not written anything since.
    pub(crate) read_only: bool,
    /// A coordinator has counted that vote.
    pub(crate) counted_as_reader: bool,
    /// It has said that it is rolled back, and that it will stay so.
    pub(crate) fenced: bool,
    /// Its handler has refused a Confirm or a Cancel.
    pub(crate) refused: bool,
    /// An operator has ended it against the decision.
    pub(crate) forced: bool,
    /// How often its effects became permanent, and were undone. More than two are counted as two.
    pub(crate) commits: u8,
    pub(crate) undone: u8,
}

impl Participant {
    pub(crate) fn new(kind: Kind, joined: bool) -> Self {
        Participant {
            kind,
            rm: Rm::Fresh,
            joined,
            read_only: false,
            counted_as_reader: false,
            fenced: false,
            refused: false,
            forced: false,
            commits: 0,
            undone: 0,
        }
    }

    /// What its handler may choose between when this call arrives.
    pub(crate) fn choices(&self, verb: Verb, repeated: bool, may_refuse: bool) -> &'static [Choice] {
        use Choice::{No, ReadOnly, Refuse, Yes};
        match (verb, self.rm) {
            (Verb::Work, Rm::Fresh) if !repeated => &[Yes, No],
            (Verb::WorkAndPrepare, Rm::Fresh) if !repeated => &[Yes, ReadOnly, No],
            (Verb::WorkAndCommit, Rm::Fresh) => &[Yes, ReadOnly, No],
            (Verb::WorkAndPrepare | Verb::Prepare | Verb::CommitOnePhase, Rm::Worked) => &[Yes, ReadOnly, No],
            (Verb::Try, Rm::Fresh) => &[Yes, No],
            (Verb::Confirm | Verb::Cancel, Rm::Prepared) if may_refuse => &[Yes, Refuse],
            _ => &[Yes],
        }
    }

    /// What it may do when it has joined.
    pub(crate) fn choices_at_start(&self) -> &'static [Choice] {
        match (self.kind, self.rm) {
            (Kind::Xa, Rm::Fresh) => &[Choice::Yes, Choice::ReadOnly, Choice::No, Choice::Work],
            (Kind::Tcc, Rm::Fresh) => &[Choice::Yes, Choice::No],
            _ => &[Choice::Yes],
        }
    }

    /// Initiator-driven: it does its work, and votes at once unless it leaves that for later.
    pub(crate) fn start(&mut self, choice: Choice, mutant: Option<Mutant>) -> Option<Vote> {
        match (self.kind, self.rm) {
            (Kind::Xa, Rm::Fresh) if choice == Choice::Work => {
                self.rm = Rm::Worked;
                None
            }
            (Kind::Xa, Rm::Fresh) => Some(self.vote(choice)),
            (Kind::Tcc, Rm::Fresh) => Some(self.attempt(choice, mutant)),
            // It was rolled back before it arrived, or this is a duplicate.
            _ => None,
        }
    }

    pub(crate) fn answer(
        &mut self,
        verb: Verb,
        repeated: bool,
        choice: Choice,
        mutant: Option<Mutant>,
    ) -> Reply {
        match verb {
            Verb::Work => match self.rm {
                // A repeated call that finds no trace of the first is refused, and what is late is barred.
                Rm::Fresh if repeated => self.bar(),
                Rm::Fresh if choice == Choice::No => Reply::Vote(self.vote(choice)),
                Rm::Fresh | Rm::Worked => {
                    self.rm = Rm::Worked;
                    Reply::Worked
                }
                Rm::Prepared | Rm::Committed | Rm::ReadOnly => Reply::Worked,
                Rm::Refused | Rm::RolledBack => Reply::Vote(Vote::No),
            },
            Verb::WorkAndPrepare | Verb::Prepare => match self.rm {
                Rm::Fresh if repeated || verb == Verb::Prepare => self.bar(),
                Rm::Fresh | Rm::Worked => Reply::Vote(self.vote(choice)),
                Rm::Prepared | Rm::Committed => Reply::Vote(Vote::Yes),
                Rm::ReadOnly => Reply::Vote(Vote::ReadOnly),
                Rm::Refused | Rm::RolledBack => Reply::Vote(Vote::No),
            },
            Verb::WorkAndCommit | Verb::CommitOnePhase => self.commit_one_phase(verb, choice),
            Verb::Try => Reply::Vote(match self.rm {
                Rm::Fresh => self.attempt(choice, mutant),
                Rm::Refused | Rm::RolledBack => Vote::No,
                _ => Vote::Yes,
            }),
            Verb::Commit | Verb::Confirm => self.commit(verb, choice, mutant),
            Verb::Rollback | Verb::Cancel => self.roll_back(verb, choice, mutant),
        }
    }

    fn vote(&mut self, choice: Choice) -> Vote {
        match choice {
            Choice::ReadOnly => {
                (self.rm, self.read_only) = (Rm::ReadOnly, true);
                Vote::ReadOnly
            }
            Choice::No => {
                self.rm = Rm::Refused;
                Vote::No
            }
            _ => {
                (self.rm, self.read_only) = (Rm::Prepared, false);
                Vote::Yes
            }
        }
    }

    /// A refused Try is on record: it gets no Cancel, and a late duplicate must find it.
    fn attempt(&mut self, choice: Choice, mutant: Option<Mutant>) -> Vote {
        if choice != Choice::No {
            self.rm = Rm::Prepared;
            return Vote::Yes;
        }
        if mutant != Some(Mutant::ForgetsRefusal) {
            (self.rm, self.fenced) = (Rm::Refused, true);
        }
        Vote::No
    }

    fn bar(&mut self) -> Reply {
        (self.rm, self.fenced) = (Rm::RolledBack, true);
        Reply::Vote(Vote::No)
    }

    fn commit_one_phase(&mut self, verb: Verb, choice: Choice) -> Reply {
        let works = match self.rm {
            Rm::Fresh => verb == Verb::WorkAndCommit,
            Rm::Worked | Rm::Prepared => true,
            Rm::Committed | Rm::ReadOnly => return Reply::Ended(Outcome::Committed),
            Rm::Refused | Rm::RolledBack => false,
        };
        match choice {
            Choice::ReadOnly if works => {
                (self.rm, self.read_only) = (Rm::ReadOnly, true);
                Reply::Ended(Outcome::Committed)
            }
            Choice::Yes if works => self.become_committed(),
            // A tombstone before the answer: a delayed duplicate of this call must not commit later.
            _ => {
                (self.rm, self.fenced) = (Rm::RolledBack, true);
                Reply::Ended(Outcome::RolledBack)
            }
        }
    }

    fn commit(&mut self, verb: Verb, choice: Choice, mutant: Option<Mutant>) -> Reply {
        match self.rm {
            Rm::Prepared if choice == Choice::Refuse => {
                self.refused = true;
                if mutant == Some(Mutant::RefusalCancels) {
                    self.rm = Rm::RolledBack;
                }
                Reply::Refused
            }
            Rm::Prepared => self.become_committed(),
            Rm::Committed if mutant == Some(Mutant::CommitsTwice) => self.become_committed(),
            Rm::Committed | Rm::ReadOnly => Reply::Ended(Outcome::Committed),
            Rm::Fresh if mutant == Some(Mutant::UnknownIsCommitted) => Reply::Ended(Outcome::Committed),
            Rm::Fresh if verb == Verb::Confirm => Reply::Refused,
            // Not prepared yet: nothing is known of how it will end.
            Rm::Worked => Reply::Failed { maybe_arrived: true },
            Rm::Fresh | Rm::Refused | Rm::RolledBack => Reply::Ended(Outcome::RolledBack),
        }
    }

    fn roll_back(&mut self, verb: Verb, choice: Choice, mutant: Option<Mutant>) -> Reply {
        match self.rm {
            Rm::Prepared if choice == Choice::Refuse => {
                self.refused = true;
                return Reply::Refused;
            }
            Rm::Committed => return Reply::Ended(Outcome::Committed),
            Rm::Refused if verb == Verb::Cancel => {}
            Rm::Fresh if mutant == Some(Mutant::NoTombstone) => {}
            Rm::Prepared => {
                self.rm = Rm::RolledBack;
                self.undone = 2.min(self.undone + 1);
            }
            // What only read leaves its tombstone too: a duplicate of its call, after a crash, may find something to
            // write.
            Rm::Fresh | Rm::Worked | Rm::ReadOnly | Rm::Refused | Rm::RolledBack => self.rm = Rm::RolledBack,
        }
        self.fenced = true;
        Reply::Ended(Outcome::RolledBack)
    }

    fn become_committed(&mut self) -> Reply {
        (self.rm, self.read_only) = (Rm::Committed, false);
        self.commits = 2.min(self.commits + 1);
        Reply::Ended(Outcome::Committed)
    }

    /// kill -9: what is prepared, ended or on record survives; open sessions are rolled back by the database.
    pub(crate) fn crash(&mut self, mutant: Option<Mutant>) {
        let volatile = matches!(mutant, Some(Mutant::VolatileVote | Mutant::UnknownIsCommitted));
        self.rm = match (self.kind, self.rm) {
            (Kind::Xa, Rm::Worked | Rm::ReadOnly | Rm::Refused) => Rm::Fresh,
            (_, Rm::Prepared) if volatile => Rm::Fresh,
            (_, rm) => rm,
        };
    }

    /// An open branch that was never asked for its vote is given up, long after the transaction's deadline.
    pub(crate) fn expire(&mut self) {
        if self.rm == Rm::Worked {
            self.rm = Rm::Refused;
        }
    }

    /// Whether it has ended for good: then a call changes nothing.
    pub(crate) fn is_final(&self) -> bool {
        match self.rm {
            Rm::Committed | Rm::RolledBack => true,
            Rm::Refused => self.kind == Kind::Tcc,
            Rm::Fresh | Rm::Worked | Rm::Prepared | Rm::ReadOnly => false,
        }
    }

    /// Whether it is part of the transaction, and neither has committed nor still can, and nobody forced it.
    pub(crate) fn cannot_commit(&self) -> bool {
        self.joined && !self.forced && !matches!(self.rm, Rm::Prepared | Rm::Committed)
    }

    /// Whether it has committed, and not because somebody forced it.
    pub(crate) fn has_committed(&self) -> bool {
        self.rm == Rm::Committed && !self.forced
    }
}
