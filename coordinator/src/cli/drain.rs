//! `concord drain`: how a coordinator is stopped for an upgrade.

use std::io::{IsTerminal as _, Write as _, stderr};

use clap::Args;
use concord_proto::v1;

use super::client::{Client, ClientArgs, OperatorArgs};
use super::failure::Failure;
use super::view::DrainReport;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
From now on it begins no transaction; those that are live are answered until they have ended, at most for --grace-ms. \
Then it stops, with exit code 0. What is left is taken on by the other coordinators, when they share a store, or by its next \
start: what is decided is delivered, what is parked stays parked, and what is undecided is rolled back, but on a shared \
store what initiators drive stays open. Ordered again, the last grace counts: `concord drain --grace-ms 0` stops it now. The drain goes on when this \
command is interrupted. With --json each step is one line.

Example, an upgrade of several coordinators, one after the other:
  concord drain --address http://10.0.0.1:7600     then start the new version there")]
pub(super) struct DrainArgs {
    /// Milliseconds that live transactions have to end [default: the coordinator's shutdown.grace_ms]
    #[arg(long, value_name = "MS")]
    grace_ms: Option<u32>,
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: DrainArgs) -> Result<(), Failure> {
    let message = v1::DrainRequest { grace_ms: args.grace_ms, operator: args.operator.name(&args.client)? };
    let client = Client::connect(&args.client).await?;
    // Without a deadline: it lasts as long as the transactions. But it says all the time how far it has come.
    let mut drains = client.operator();
    let mut steps = client.within(drains.drain(message)).await?.into_inner();
    while let Some(step) = client.within(steps.message()).await? {
        let stopping = step.stopping;
        let report = DrainReport::from(step);
        match (client.output.json, stopping) {
            (true, _) => client.output.show_line(&report, DrainReport::step)?,
            (false, true) => {
                clear_progress();
                client.output.show(&report)?;
            }
            (false, false) => show_progress(&report.step(&client.output.look)),
        }
        if stopping {
            return Ok(());
        }
    }
    Err(Failure::new("the coordinator has ended before it said that its drain is over"))
}

/// One line that is written over; where nobody watches, none. What cannot be shown is no failure.
fn show_progress(line: &str) {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K{line}");
    }
}

fn clear_progress() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}
