//! `concord tx`: transactions, seen and ordered about.

mod list;
mod resolve;

use clap::{Args, Subcommand, ValueEnum};
use concord_proto::v1;
use concord_protocol::Gtid;

pub(super) use list::State;

use super::client::{Client, ClientArgs, OperatorArgs};
use super::failure::Failure;
use super::view::TransactionRecord;

#[derive(Debug, Subcommand)]
pub(super) enum TransactionCommand {
    /// List transactions, newest first
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show one transaction with its branches and its history
    Get(OneArgs),
    /// Follow one transaction until it ends
    #[command(
        after_help = "With --json, each change is one line of JSON: the transaction as `get` shows it, without history."
    )]
    Watch(OneArgs),
    /// Roll a transaction back that has not been decided
    #[command(after_help = "\
A decision to commit is never taken back: the order is refused once it was taken.

Example:
  concord tx rollback GTID --reason 'initiator is gone'")]
    Rollback(RollbackArgs),
    /// Call every branch that has not ended again at once, parked ones included
    Retry(OrderArgs),
    /// Stop calling a transaction's unfinished branches, until `retry` or `resolve`
    Park(ParkArgs),
    /// Declare how a branch ended, after you have ended it by hand
    Resolve(resolve::ResolveArgs),
}

/// Which transaction.
#[derive(Debug, Clone, Args)]
pub(super) struct OneArgs {
    /// Global transaction id, e.g. 0192f6a0-8c00-8000-8000-040000000001
    gtid: Gtid,
    #[command(flatten)]
    client: ClientArgs,
}

/// An order about a transaction, for the history.
#[derive(Debug, Clone, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    one: OneArgs,
}

impl OrderArgs {
    fn gtid(&self) -> String {
        self.one.gtid.to_string()
    }

    fn operator(&self) -> Result<String, Failure> {
        self.operator.name(&self.one.client)
    }
}

#[derive(Debug, Clone, Args)]
pub(super) struct RollbackArgs {
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    /// Answer once it is decided, or once every branch has rolled back
    #[arg(long, value_enum, default_value = "completed")]
    wait: Wait,
    #[command(flatten)]
    order: OrderArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wait {
    Decided,
    Completed,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ParkArgs {
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) async fn run(command: TransactionCommand) -> Result<(), Failure> {
    match command {
        TransactionCommand::List(args) => list::run(args).await,
        TransactionCommand::Get(args) => get(args).await,
        TransactionCommand::Watch(args) => watch(args).await,
        TransactionCommand::Rollback(args) => rollback(args).await,
        TransactionCommand::Retry(args) => retry(args).await,
        TransactionCommand::Park(args) => park(args).await,
        TransactionCommand::Resolve(args) => resolve::run(args).await,
    }
}

async fn get(args: OneArgs) -> Result<(), Failure> {
    let client = Client::connect(&args.client).await?;
    let transaction = fetch(&client, args.gtid.to_string()).await?;
    client.output.show(&TransactionRecord::with_history(transaction))?;
    Ok(())
}

async fn fetch(client: &Client, gtid: String) -> Result<v1::Transaction, Failure> {
    let request = client.request(v1::GetRequest { gtid });
    let answer = client.coordinator().get(request).await.map_err(|status| client.failure(&status))?;
    client.expect(answer.into_inner().transaction)
}

async fn watch(args: OneArgs) -> Result<(), Failure> {
    let client = Client::connect(&args.client).await?;
    // Without a deadline: it lasts as long as the transaction.
    let request = v1::WatchRequest { gtid: args.gtid.to_string() };
    let mut coordinator = client.coordinator();
    let mut changes = client.within(coordinator.watch(request)).await?.into_inner();
    while let Some(change) = changes.message().await.map_err(|status| client.failure(&status))? {
        let record = TransactionRecord::from(client.expect(change.transaction)?);
        client.output_now().show_line(&record, TransactionRecord::change)?;
    }
    Ok(())
}

async fn rollback(args: RollbackArgs) -> Result<(), Failure> {
    let client = Client::connect(&args.order.one.client).await?;
    let wait = match args.wait {
        Wait::Decided => v1::Wait::Decided,
        Wait::Completed => v1::Wait::Completed,
    };
    let (gtid, operator) = (args.order.gtid(), args.order.operator()?);
    let request =
        client.request(v1::RollbackRequest { gtid, wait: wait.into(), reason: args.reason, operator });
    let answer =
        client.coordinator().rollback(request).await.map_err(|status| client.order_failure(&status))?;
    show(&client, answer.into_inner().transaction)
}

async fn retry(args: OrderArgs) -> Result<(), Failure> {
    let message = v1::RetryRequest { gtid: args.gtid(), operator: args.operator()? };
    let client = Client::connect(&args.one.client).await?;
    let request = client.request(message);
    let answer = client.operator().retry(request).await.map_err(|status| client.order_failure(&status))?;
    show(&client, answer.into_inner().transaction)
}

async fn park(args: ParkArgs) -> Result<(), Failure> {
    let order = args.order;
    let message = v1::ParkRequest { gtid: order.gtid(), operator: order.operator()?, reason: args.reason };
    let client = Client::connect(&order.one.client).await?;
    let request = client.request(message);
    let answer = client.operator().park(request).await.map_err(|status| client.order_failure(&status))?;
    show(&client, answer.into_inner().transaction)
}

/// Shows how the transaction stands after an order.
fn show(client: &Client, transaction: Option<v1::Transaction>) -> Result<(), Failure> {
    let transaction = client.expect(transaction)?;
    client.output.show(&TransactionRecord::from(transaction))?;
    Ok(())
}
