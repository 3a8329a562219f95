//! `concord tx list`

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use concord_coordinator::store::UnixMillis;
use concord_proto::status::reason;
use concord_proto::v1;
use prost_types::Timestamp;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use super::super::client::{Client, ClientArgs};
use super::super::failure::Failure;
use super::super::screen::Screen;
use super::super::time;
use super::super::view::{TransactionRecord, TransactionsListing, View as _};

/// Most transactions that one answer holds.
const PAGE_SIZE_MAX: u32 = 1000;

/// Arguments of `concord tx list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  concord tx list --state committing,rolling-back    what is being delivered
  concord tx list --oldest --before 1m               what has been under way for longest, and for over a minute
  concord tx list --parked --json                    what waits for an operator
  concord tx list --name transfer --all              all of one name
  concord tx list --text sku-7 --since 2h            what has to do with something
  concord tx list --state committing --before 1m     what was begun over a minute ago and has not been delivered
  concord tx list --watch --state committing         again every second, until you stop it

With --watch a terminal shows the newest list only, as much of it as it has room for, until you type q or Ctrl-C; \
elsewhere, and on a terminal that cannot (TERM=dumb), one follows the other until Ctrl-C, with --json one on each line. A coordinator that does not answer is asked again.")]
pub(in crate::cli) struct ListArgs {
    /// Only in this state, or in one of several with commas between; may be repeated. Also: trying, confirming, confirmed,
    /// cancelling, cancelled, as they are called with TCC
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Only with a parked branch
    #[arg(long)]
    parked: bool,
    /// Only begun with this name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Only with a branch of this protocol
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only with a branch at this participant, letter for letter
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    participant: String,
    /// Only those in which this stands: in the gtid, the name, the reason, a branch's participant, action or last error
    #[arg(long, default_value = "", hide_default_value = true)]
    text: String,
    /// Only those of this tenant
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
    /// Only those begun since then, e.g. 90m, 2h, 7d ago, or 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<UnixMillis>,
    /// Only those begun before then
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    before: Option<UnixMillis>,
    /// Only those that are live, oldest first: what has been under way for longest
    #[arg(long)]
    oldest: bool,
    /// At most this many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where a listing with the same filter ended
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    page_token: String,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// List again, every so many seconds [default: 1]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

/// The protocols by which a listing can be narrowed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Protocol {
    Xa,
    Tcc,
}

impl From<Protocol> for v1::BranchKind {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Xa => v1::BranchKind::Xa,
            Protocol::Tcc => v1::BranchKind::Tcc,
        }
    }
}

/// The states by which a listing can be narrowed; TCC's own words for them are understood too.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum State {
    Active,
    #[value(alias = "trying")]
    Preparing,
    #[value(alias = "confirming")]
    Committing,
    #[value(alias = "confirmed")]
    Committed,
    #[value(alias = "cancelling")]
    RollingBack,
    #[value(alias = "cancelled")]
    RolledBack,
}

impl From<State> for v1::TransactionState {
    fn from(state: State) -> Self {
        match state {
            State::Active => v1::TransactionState::Active,
            State::Preparing => v1::TransactionState::Preparing,
            State::Committing => v1::TransactionState::Committing,
            State::Committed => v1::TransactionState::Committed,
            State::RollingBack => v1::TransactionState::RollingBack,
            State::RolledBack => v1::TransactionState::RolledBack,
        }
    }
}

fn timestamp(at: UnixMillis) -> Timestamp {
    (UNIX_EPOCH + Duration::from_millis(at.0)).into()
}

pub(super) async fn run(args: ListArgs) -> Result<(), Failure> {
    let client = Client::connect(&args.client).await?;
    match args.watch {
        None => {
            let listing = fetch(&client, &args).await.map_err(|status| client.failure(&status))?;
            client.output.show(&listing)?;
            Ok(())
        }
        Some(seconds) => watch(&client, &args, Duration::from_secs(seconds)).await,
    }
}

/// Lists again and again, until whoever looks at it has seen enough. A coordinator that does not answer may be back later.
async fn watch(client: &Client, args: &ListArgs, interval: Duration) -> Result<(), Failure> {
    // Those that a slow answer leaves out are not made up for.
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = if client.output.json { None } else { Screen::open() };
    let mut is_away = false;
    loop {
        let next = async {
            ticks.tick().await;
            fetch(client, args).await
        };
        let listing = match &mut screen {
            None => next.await,
            Some(screen) => tokio::select! {
                () = screen.enough() => return Ok(()),
                listing = next => listing,
            },
        };
        let output = client.output_now();
        match (listing, &mut screen) {
            (Ok(listing), Some(screen)) => screen.show(listing.text(&output.look))?,
            (Ok(listing), None) => {
                is_away = false;
                output.show_next(&listing)?;
            }
            (Err(status), _) if !may_pass(&status) => return Err(client.failure(&status)),
            (Err(status), Some(screen)) => {
                let why = client.failure(&status);
                screen.note(&format!("No answer, and asked again; this is how it was before ({why})"))?;
            }
            (Err(status), None) if !is_away => {
                is_away = true;
                // Said once for each time that it is away; this goes on.
                let _ = client.failure(&status).report(output.json);
            }
            (Err(_), None) => {}
        }
    }
}

/// Whether the same question may be answered later: nobody did, or a coordinator on its way out or in.
fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        // A connection that breaks in the middle of an answer is told so.
        Code::Unknown | Code::Internal => reason(status).is_none(),
        _ => false,
    }
}

async fn fetch(client: &Client, args: &ListArgs) -> Result<TransactionsListing, Status> {
    let states: Vec<i32> = args.state.iter().map(|state| v1::TransactionState::from(*state).into()).collect();
    let mut listing = TransactionsListing { transactions: Vec::new(), next_page_token: None };
    let mut token = args.page_token.clone();
    let limit = if args.all { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    while listing.transactions.len() < limit {
        let missing = u32::try_from(limit - listing.transactions.len()).unwrap_or(PAGE_SIZE_MAX);
        let request = client.request(v1::ListRequest {
            states: states.clone(),
            parked_only: args.parked,
            name: args.name.clone(),
            page_size: missing.min(PAGE_SIZE_MAX),
            page_token: token.clone(),
            kind: args.protocol.map_or(v1::BranchKind::Unspecified, v1::BranchKind::from).into(),
            participant: args.participant.clone(),
            text: args.text.clone(),
            begun_after: args.since.map(timestamp),
            begun_before: args.before.map(timestamp),
            tenant: args.tenant.clone(),
            oldest_first: args.oldest,
        });
        let page = client.coordinator().list(request).await?.into_inner();
        listing.transactions.extend(page.transactions.into_iter().map(TransactionRecord::from));
        // A token that comes back would make the listing endless.
        if page.next_page_token.is_empty() || page.next_page_token == token {
            listing.next_page_token = None;
            break;
        }
        token.clone_from(&page.next_page_token);
        listing.next_page_token = Some(page.next_page_token);
    }
    Ok(listing)
}
