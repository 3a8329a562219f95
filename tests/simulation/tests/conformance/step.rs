//! What is put to both databases: steps, made by chance.

use concord_protocol::{BranchId, ClusterId, Epoch, Gtid};
use concord_simulation::database::{Deed, Isolation, Note, Statement, barrier};
use concord_xa::Xid;
use proptest::prelude::*;

/// Sessions.
pub(crate) const SLOTS: usize = 3;
/// Accounts.
pub(crate) const ACCOUNTS: u32 = 2;
/// What each begins with.
pub(crate) const OPENING: i64 = 60;
/// The branches of a case. Far enough apart that a row can stand between any two of them, so that no gap lock of one
/// reaches another.
pub(crate) const BRANCHES: [u32; 3] = [10, 20, 30];
const STEPS_MAX: usize = 30;

/// One step. Branches are indices into [`BRANCHES`].
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A session runs these, up to the first that fails or waits.
    Run { slot: usize, verbs: Vec<Verb> },
    /// A session's connection goes away.
    Disconnect { slot: usize },
    /// A session kills another.
    Kill { by: usize, whom: usize },
    /// kill -9 of the server, and a restart.
    Crash,
}

/// One statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    Start(usize),
    End(usize),
    Prepare(usize),
    Commit(usize),
    CommitOnePhase(usize),
    Rollback(usize),
    Recover,
    Begin,
    CommitLocal,
    RollbackLocal,
    Change { account: u32, balance: i64, frozen: i64 },
    Read(u32),
    Note(u32),
    Guard(u64),
    Marker { branch: usize, rows: Option<u64> },
    Tombstone(usize),
    Try(usize),
    Cancel(usize),
    Confirm(usize),
    Look(usize),
    Process(usize),
}

/// How often a branch may begin anew, under another name: a name is never used again, which on MySQL does harm.
pub(crate) const GENERATIONS: u64 = 4;

/// The names of a case's branches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    case: u64,
    generations: [u64; BRANCHES.len()],
}

impl Names {
    pub(crate) fn new(case: u64) -> Self {
        Names { case, generations: [0; BRANCHES.len()] }
    }

    /// The transactions of all generations.
    pub(crate) fn gtids(self) -> impl Iterator<Item = Gtid> {
        (0..GENERATIONS).map(move |generation| {
            Gtid::compose(1_700_000_000_000, Epoch(1), self.case * GENERATIONS + generation)
        })
    }

    pub(crate) fn xid(self, branch: usize) -> Xid {
        let sequence = self.case * GENERATIONS + self.generations[branch];
        let gtid = Gtid::compose(1_700_000_000_000, Epoch(1), sequence);
        Xid { cluster: ClusterId(0xC0), gtid, branch: BranchId(BRANCHES[branch]) }
    }

    /// Gives a branch another name. False: there is none left.
    pub(crate) fn renew(&mut self, branch: usize) -> bool {
        self.generations[branch] += 1;
        self.generations[branch] < GENERATIONS
    }
}

impl Verb {
    /// The statement; None for [`Verb::Process`], which names a session.
    pub(crate) fn statement(self, names: Names) -> Option<Statement> {
        let xid = |branch| names.xid(branch);
        let key = |branch| (0, xid(branch).gtid, xid(branch).branch.0);
        let upsert = |branch, new, tried, touch| {
            let (schema, gtid, branch) = key(branch);
            Statement::Barrier { schema, gtid, branch, new, tried, touch }
        };
        Some(match self {
            Verb::Start(branch) => Statement::XaStart(xid(branch)),
            Verb::End(branch) => Statement::XaEnd(xid(branch)),
            Verb::Prepare(branch) => Statement::XaPrepare(xid(branch)),
            Verb::Commit(branch) => Statement::XaCommit(xid(branch)),
            Verb::CommitOnePhase(branch) => Statement::XaCommitOnePhase(xid(branch)),
            Verb::Rollback(branch) => Statement::XaRollback(xid(branch)),
            Verb::Recover => Statement::XaRecover,
            Verb::Begin => Statement::Begin,
            Verb::CommitLocal => Statement::Commit,
            Verb::RollbackLocal => Statement::Rollback,
            Verb::Change { account, balance, frozen } => {
                Statement::Change { account: (0, account), balance, frozen }
            }
            Verb::Read(account) => Statement::Read((0, account)),
            Verb::Note(account) => Statement::Note(Note {
                xid: xid(0),
                transaction: 0,
                part: 0,
                deed: Deed::Work,
                account: (0, account),
                balance: 0,
                frozen: 0,
            }),
            Verb::Guard(rows) => Statement::Guard(rows),
            Verb::Marker { branch, rows } => {
                let (schema, gtid, branch) = key(branch);
                Statement::Marker(schema, gtid, branch, rows)
            }
            Verb::Tombstone(branch) => upsert(branch, barrier::TOMBSTONE, None, false),
            Verb::Try(branch) => upsert(branch, barrier::TRIED, None, true),
            Verb::Cancel(branch) => upsert(branch, barrier::TOMBSTONE, Some(barrier::CANCELLED), false),
            Verb::Confirm(branch) => {
                let (schema, gtid, branch) = key(branch);
                Statement::Confirm(schema, gtid, branch)
            }
            Verb::Look(branch) => {
                let (schema, gtid, branch) = key(branch);
                Statement::Look(schema, gtid, branch, Isolation::Committed)
            }
            Verb::Process(_) => return None,
        })
    }
}

/// A case.
pub(crate) fn sequence() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..=STEPS_MAX)
}

/// A case in which sessions meet at a few rows: they wait behind each other, deadlock, and go away while they do.
pub(crate) fn contention() -> impl Strategy<Value = Vec<Step>> {
    let slot = || 0..SLOTS;
    let run = |verbs: BoxedStrategy<Vec<Verb>>| {
        (0..SLOTS, verbs).prop_map(|(slot, verbs)| Step::Run { slot, verbs })
    };
    let anew = (branch(), branch(), contending()).prop_map(|(ended, started, verb)| {
        vec![Verb::End(ended), Verb::Rollback(ended), Verb::Start(started), verb]
    });
    // Not in a branch, where an UPDATE that finds no row locks the gap.
    let confirm =
        (branch(), contending()).prop_map(|(branch, verb)| vec![Verb::Begin, Verb::Confirm(branch), verb]);
    let step = prop_oneof![
        15 => run(contending().prop_map(|verb| vec![verb]).boxed()),
        2 => run(anew.boxed()),
        2 => run(confirm.boxed()),
        1 => slot().prop_map(|slot| Step::Disconnect { slot }),
        1 => (slot(), slot()).prop_map(|(by, whom)| Step::Kill { by, whom }),
    ];
    prop::collection::vec(step, 1..=STEPS_MAX)
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    let run = |verbs: BoxedStrategy<Vec<Verb>>| {
        (0..SLOTS, verbs).prop_map(|(slot, verbs)| Step::Run { slot, verbs })
    };
    prop_oneof![
        60 => run(verb().prop_map(|verb| vec![verb]).boxed()),
        25 => run(branch_of_work().boxed()),
        10 => run(local_work().boxed()),
        5 => slot().prop_map(|slot| Step::Disconnect { slot }),
        3 => (slot(), slot()).prop_map(|(by, whom)| Step::Kill { by, whom }),
        1 => Just(Step::Crash),
    ]
}

/// What a branch does from its start on, up to some point.
fn branch_of_work() -> impl Strategy<Value = Vec<Verb>> {
    let work = prop::collection::vec(change(), 0..=2);
    (branch(), work, any::<bool>(), 0..=6usize).prop_map(|(branch, work, marker, length)| {
        let marker = marker.then_some(Verb::Marker { branch, rows: None });
        let verbs = std::iter::once(Verb::Start(branch)).chain(work).chain(marker);
        verbs.chain([Verb::End(branch), Verb::Prepare(branch)]).take(length + 1).collect()
    })
}

/// What a TCC handler does, up to some point.
fn local_work() -> impl Strategy<Value = Vec<Verb>> {
    let row = branch().prop_flat_map(|branch| {
        prop::sample::select(vec![
            Verb::Try(branch),
            Verb::Cancel(branch),
            Verb::Confirm(branch),
            Verb::Tombstone(branch),
        ])
    });
    (row, change(), 0..=3usize).prop_map(|(row, change, length)| {
        [Verb::Begin, row, change, Verb::CommitLocal].into_iter().take(length + 1).collect()
    })
}

fn contending() -> impl Strategy<Value = Verb> {
    prop_oneof![
        3 => branch().prop_map(Verb::Start),
        3 => Just(Verb::Begin),
        2 => Just(Verb::CommitLocal),
        2 => Just(Verb::RollbackLocal),
        2 => branch().prop_map(Verb::End),
        1 => branch().prop_map(Verb::Prepare),
        1 => branch().prop_map(Verb::Commit),
        2 => branch().prop_map(Verb::CommitOnePhase),
        2 => branch().prop_map(Verb::Rollback),
        6 => change(),
        6 => branch().prop_map(|branch| Verb::Marker { branch, rows: None }),
        2 => branch().prop_map(Verb::Tombstone),
        3 => branch().prop_map(Verb::Try),
        3 => branch().prop_map(Verb::Cancel),
    ]
}

fn branch() -> impl Strategy<Value = usize> + Clone {
    // Mostly the same, so that sessions meet.
    prop_oneof![3 => Just(0usize), 2 => Just(1), 1 => Just(2)]
}

fn change() -> impl Strategy<Value = Verb> + Clone {
    let balance =
        prop_oneof![3 => Just(-10i64), 2 => Just(5), 2 => Just(-50), 1 => Just(-1_000), 1 => Just(0)];
    let frozen = prop_oneof![4 => Just(0i64), 1 => Just(5), 1 => Just(-5)];
    (0..ACCOUNTS, balance, frozen).prop_map(|(account, balance, frozen)| Verb::Change {
        account,
        balance,
        frozen,
    })
}

fn verb() -> impl Strategy<Value = Verb> {
    let rows = prop_oneof![Just(None), Just(Some(0u64)), Just(Some(1))];
    prop_oneof![
        3 => branch().prop_map(Verb::Start),
        5 => branch().prop_map(Verb::End),
        5 => branch().prop_map(Verb::Prepare),
        4 => branch().prop_map(Verb::Commit),
        3 => branch().prop_map(Verb::CommitOnePhase),
        4 => branch().prop_map(Verb::Rollback),
        1 => Just(Verb::Recover),
        2 => Just(Verb::Begin),
        2 => Just(Verb::CommitLocal),
        2 => Just(Verb::RollbackLocal),
        5 => change(),
        1 => (0..ACCOUNTS).prop_map(Verb::Read),
        1 => (0..ACCOUNTS).prop_map(Verb::Note),
        2 => (0..=1u64).prop_map(Verb::Guard),
        4 => (branch(), rows).prop_map(|(branch, rows)| Verb::Marker { branch, rows }),
        3 => branch().prop_map(Verb::Tombstone),
        2 => branch().prop_map(Verb::Try),
        2 => branch().prop_map(Verb::Cancel),
        2 => branch().prop_map(Verb::Look),
        1 => (0..SLOTS).prop_map(Verb::Process),
    ]
}
