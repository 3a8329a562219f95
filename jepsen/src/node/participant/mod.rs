//! A participant's process: handlers of all workloads on one database, behind a door that can do wrong.
//!
//! Each handler writes a row into `journal` for each step that takes effect, in the same transaction: after a run
//! the journal tells, branch by branch, what was done, how often and in which order.

mod bank;
mod door;
mod lists;
mod stock;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use concord_participant::reservations::Reservations;
use concord_participant::{HandlerError, Isolation, MySql, Options, ParticipantServer, TccBranch, XaBranch};
use serde::{Deserialize, Serialize};

pub use door::DoorFaults;
pub use lists::{AppendReply, Deed, elements_of};
pub use stock::sku;

/// The name of the reservations.
pub const STOCK: &str = "stock";

/// What it is told at its start.
#[derive(Debug, Args)]
pub struct ParticipantArgs {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where the coordinator reaches it
    #[arg(long)]
    address: String,
    /// URL of its database
    #[arg(long)]
    database: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// Is called on a stream that it opens to the coordinator, as long as that holds
    #[arg(long)]
    attached: bool,
    /// Branches are SERIALIZABLE
    #[arg(long)]
    serializable: bool,
}

/// The payload of every branch but those on lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The operation's number.
    pub operation: i64,
    /// Which part of it this branch is, from 0.
    pub part: u32,
    /// The account, or the SKU.
    pub account: u32,
    /// How much. Not negative.
    pub amount: i64,
}

/// What a handler did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The work of an XA branch.
    Work,
    Try,
    Confirm,
    Cancel,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Work => "work",
            Step::Try => "try",
            Step::Confirm => "confirm",
            Step::Cancel => "cancel",
        }
    }
}

type Tcc = TccBranch<MySql>;
type Handled = Result<(), HandlerError>;

const JOURNAL: &str =
    "INSERT INTO journal (gtid, branch, operation, part, step, account, amount) VALUES (?, ?, ?, ?, ?, ?, ?)";

/// Notes an XA branch's work. `change`: what becomes of the account's balance.
fn note_work(branch: &mut XaBranch, entry: &Entry, change: i64) -> Handled {
    let (gtid, id) = (branch.gtid().map(|gtid| gtid.to_string()), branch.branch_id().map(|id| id.0));
    let Entry { operation, part, account, .. } = *entry;
    Ok(branch.queue(JOURNAL, (gtid, id, operation, part, Step::Work.name(), account, change), 1)?)
}

/// Notes a step of a TCC branch. `change`: what this step makes of the account's balance for good.
async fn note(branch: &mut Tcc, entry: &Entry, step: Step, change: i64) -> Handled {
    let (gtid, id) = (branch.gtid().to_string(), branch.branch_id().0);
    let Entry { operation, part, account, .. } = *entry;
    let row = vec![
        gtid.into(),
        id.into(),
        operation.into(),
        part.into(),
        step.name().into(),
        account.into(),
        change.into(),
    ];
    branch.execute(JOURNAL, row).await?;
    Ok(())
}

/// Runs a participant until the harness is gone. A line on its standard input that is [`DoorFaults`] in JSON says what
/// its door does wrong from now on.
///
/// # Errors
/// When it cannot start: most of all, when its database cannot be reached.
pub async fn serve(args: ParticipantArgs) -> Result<()> {
    super::start_log("info,concord_participant=debug,concord_xa=debug")?;
    let seconds = Duration::from_secs;
    let options = Options {
        connect_timeout: seconds(2),
        control_timeout: seconds(2),
        lock_wait: seconds(1),
        isolation: args.serializable.then_some(Isolation::Serializable),
        ..Options::default()
    };
    let stock = Reservations::named(STOCK)?;
    let builder = ParticipantServer::builder()
        .database(&args.database)
        .database_options(options)
        .coordinator(&args.coordinator)
        .address(&args.address)
        .recovery(Duration::from_millis(500), seconds(2));
    let service = stock::register(lists::register(bank::register(builder)), &stock).build().await?;
    let faults = door::Faults::default();
    let told = faults.clone();
    super::obey_lines(move |line| {
        told.set(serde_json::from_str(line)?);
        Ok(())
    });
    tracing::info!(listen = %args.listen, "participant ready");
    door::serve(service, args.listen, args.attached, faults).await
}
