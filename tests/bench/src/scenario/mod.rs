//! What is measured. A scenario is a file with a function `measure`, or `measure_on` for each kind of database, or both;
//! and a variant and a line in a `match` here.

mod branches;
mod cluster;
mod history;
mod hot_sku;
mod live;
mod log_append;
mod open_loop;
mod order_stock;
mod recovery;
mod side_by_side;
mod tcc_noop;
mod xa_transfer;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use concord_sandbox::Flavor;

use crate::outcome::Outcome;
use crate::setup::Setup;

/// What each is, and what it is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// TCC with two participants that do nothing; against a gRPC echo with the same calls and durable appends
    TccNoop,
    /// Transfers between two banks by XA; against a bare XA client with the same SQL, the same without marker rows,
    /// and the same as one local transaction
    XaTransfer,
    /// Orders on three databases, one branch by XA and two by TCC; against a bare client with the same local
    /// transactions, and the same without barrier rows
    OrderStock,
    /// A SKU that all buy at once, in 16 buckets; against the same in one row, with the database near and far
    HotSku,
    /// The log alone; against a bare file with as many bytes, synced with the same batching
    LogAppend,
    /// No-op TCC while up to 100,000 others are live, and while 10,000 are held up by a dead participant; against the
    /// same without them
    Live,
    /// No-op TCC with a million and ten million ended transactions in history, and while history is deleted; against the
    /// same without history. Memory with a history
    History,
    /// No-op TCC with 2, 4, 16 and 64 branches; by branches a second against those with 2
    Branches,
    /// Coordinators that share a store: no-op TCC against the same with the embedded store, two against one; how long a
    /// take-over takes
    Cluster,
    /// After kill -9: until it serves, with many live transactions; how fast decided ones are delivered,
    /// against XA COMMIT by bare clients; memory of live ones
    Recovery,
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What no database takes part in.
    async fn measure(self, setup: &Setup) -> Result<Vec<Outcome>> {
        match self {
            Scenario::TccNoop => tcc_noop::measure(setup).await,
            Scenario::LogAppend => log_append::measure(setup).await,
            Scenario::History => history::measure(setup).await,
            Scenario::Live => live::measure(setup).await,
            Scenario::Branches => branches::measure(setup).await,
            Scenario::Recovery => recovery::measure(setup).await,
            Scenario::Cluster => cluster::measure(setup).await,
            Scenario::XaTransfer | Scenario::OrderStock | Scenario::HotSku => Ok(Vec::new()),
        }
    }

    /// What is measured on each kind of database.
    async fn measure_on(self, setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
        match self {
            Scenario::XaTransfer => xa_transfer::measure_on(setup, flavor).await,
            Scenario::OrderStock => order_stock::measure_on(setup, flavor).await,
            Scenario::HotSku => hot_sku::measure_on(setup, flavor).await,
            Scenario::Recovery => recovery::measure_on(setup, flavor).await,
            Scenario::Cluster => cluster::measure_on(setup, flavor).await,
            Scenario::TccNoop
            | Scenario::LogAppend
            | Scenario::History
            | Scenario::Live
            | Scenario::Branches => Ok(Vec::new()),
        }
    }
}

/// Measures one scenario after the other, on each kind of database that it is for, and hands over what came of each.
///
/// # Errors
/// The first that happens; what was found before it has been handed over.
pub(crate) async fn measure(
    setup: &Setup,
    scenarios: &[Scenario],
    flavors: &[Flavor],
    mut found: impl FnMut(Vec<Outcome>) -> Result<()>,
) -> Result<()> {
    for scenario in scenarios {
        found(scenario.measure(setup).await.with_context(|| scenario.name())?)?;
        for &flavor in flavors {
            let outcomes = scenario.measure_on(setup, flavor).await;
            found(outcomes.with_context(|| format!("{} on {flavor}", scenario.name()))?)?;
        }
    }
    Ok(())
}
