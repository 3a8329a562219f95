//! What is measured. A scenario is a file with one function `measure`, and a line in each `match` here.

mod tcc_noop;

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
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is measured on each kind of database.
    fn has_databases(self) -> bool {
        match self {
            Scenario::TccNoop => false,
        }
    }

    async fn measure(self, setup: &Setup, _flavor: Flavor) -> Result<Vec<Outcome>> {
        match self {
            Scenario::TccNoop => tcc_noop::measure(setup).await,
        }
    }
}

/// Measures one scenario after the other, on each kind of database that it is for, and hands over what came of each.
pub(crate) async fn measure(
    setup: &Setup,
    scenarios: &[Scenario],
    flavors: &[Flavor],
    mut found: impl FnMut(Vec<Outcome>) -> Result<()>,
) -> Result<()> {
    for scenario in scenarios {
        let times = if scenario.has_databases() { flavors.len() } else { 1 };
        for &flavor in flavors.iter().take(times) {
            let outcomes = scenario.measure(setup, flavor).await;
            found(outcomes.with_context(|| format!("{} ({flavor})", scenario.name()))?)?;
        }
    }
    Ok(())
}
