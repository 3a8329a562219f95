//! The protocol core: the state machine of one global transaction, and nothing else.
//!
//! [`Transaction::step`] takes an [`Event`] and answers with [`Effect`]s. It reads no clock, no random
//! source, no socket and no file: the same code runs in production, in the simulation and under the model
//! checker. The crate's dependencies enforce that.
//!
//! # The duties of a driver
//!
//! 1. Carry out the effects of one step in the order given, before the next step.
//! 2. [`Effect::Append`] with `forced`: when the record is durable, and not before, step with
//!    [`Event::Logged`] of it. What may only happen after that (telling anyone, calling a branch) is among *its*
//!    effects, so it cannot leave too early.
//! 3. [`Effect::Append`] without `forced`: queue the record. It may be lost in a crash, but only together
//!    with everything appended after it.
//! 4. [`Effect::Call`]: make the call, and step with [`Event::Reply`] exactly once for it, whatever happens;
//!    a call whose fate is unknown is [`Reply::Failed`].
//! 5. [`Effect::SetTimer`], and [`Timer::Deadline`] for every new transaction: step with [`Event::TimerFired`] some time later. Early and repeated firing does no
//!    harm; how long a retry waits is the driver's choice.
//! 6. After a crash: [`Transaction::recover`] from the records, then step with [`Event::Resume`].
//!
//! # What is written, and when it must be on disk (presumed abort; Mohan, Lindsay, Obermarck 1986, section 3)
//!
//! | record | forced | why |
//! |---|---|---|
//! | `Begun`, `Registered`, of XA branches | no | an unknown transaction counts as rolled back, which is what it was; its prepared branches are found on their resource and rolled back |
//! | `Begun`, `Registered`, of TCC branches | **before the first Try leaves**, or the participant is told that it has joined | nobody but the coordinator knows that something is reserved: it must be cancelled even if everything else dies |
//! | `Decided(commit)` | **before any commit leaves or anyone is told** | the point of no return |
//! | `Delegated` | **before the one-phase commit leaves** | from then on the participant decides, and a coordinator that forgot it would presume an abort (docs/decisions/001-one-phase-is-recorded.md) |
//! | `Decided(rollback)` | no | unknown means rolled back |
//! | `Begun`, `Registered`, `Decided(rollback)`, in a transaction that stays open | **before anybody hears of it** | whoever goes on from the log leaves it open unless more is on record (docs/decisions/009-open-transactions-are-on-record.md) |
//! | `BranchEnded`, `BranchParked`, `Retried`, `Ended` | no | they save work at recovery and keep history |
//!
//! Two XA branches thus cost one forced write, and so does one. With a TCC branch it is two.
//!
//! # XA and TCC
//!
//! Both are driven by the same states, in one transaction if need be. They differ in this:
//!
//! | | XA | TCC |
//! |---|---|---|
//! | phase one | `WorkAndPrepare`; `Work`, then `Prepare` (Strict); `Prepare` (initiator-driven) | `Try` |
//! | phase two | `Commit`, `Rollback` | `Confirm`, `Cancel` |
//! | branches are on disk | some time | before phase one |
//! | the only branch | commits in one phase | is confirmed like any other |
//! | a no in phase two | cannot be: it voted yes | parks the branch and raises an alarm; a refused Confirm never becomes a Cancel |

mod calls;
mod delegation;
pub mod ids;
mod phase_two;
mod recover;
mod transaction;
mod types;

pub use ids::{BranchId, ClusterId, Epoch, Gtid, InvalidId, Millis};
pub use recover::BadLog;
pub use transaction::{Branch, Transaction};
pub use types::{
    BranchState, Cause, Decision, Effect, Event, Forced, Grade, Kind, Milestone, Options, Outcome, Record,
    Refusal, Reply, Source, State, Timer, Verb, Vote,
};
