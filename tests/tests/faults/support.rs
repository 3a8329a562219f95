//! A world on the shared servers, and what every scenario asks of it.

pub(super) use anyhow::{Result, ensure};
pub(super) use concord_proto::v1::*;
pub(super) use concord_sandbox::{Flavor, Server};
pub(super) use concord_tests::{Fault, Outcome, Transfer, Verb, World, WorldOptions, until};
use concord_tests::{Pair, Programs, Running};

pub(super) const PROGRAMS: Programs = concord_tests::programs!();

/// The balance that each account begins with.
pub(super) const BALANCE: i64 = 1_000;
/// For transactions that must not time out.
pub(super) const LONG_MS: u32 = 60_000;
/// For transactions that must.
pub(super) const SHORT_MS: u32 = 700;

/// A world, and the servers that nobody else uses meanwhile. The world goes first.
pub(super) struct Scene {
    pub(super) world: World,
    pair: Pair,
}

impl Scene {
    pub(super) async fn set(flavor: Flavor) -> Result<Scene> {
        Scene::set_with(flavor, WorldOptions::default()).await
    }

    pub(super) async fn set_with(flavor: Flavor, options: WorldOptions) -> Result<Scene> {
        let pair = concord_tests::pair(flavor).await?;
        let banks = pair.banks(10, BALANCE).await?;
        Ok(Scene { world: World::start(PROGRAMS, banks, options).await?, pair })
    }

    pub(super) fn servers(&self) -> &[Server; 2] {
        self.pair.servers()
    }

    /// A transfer of 100, given `timeout_ms`, in the background.
    pub(super) fn transfer(&self, timeout_ms: u32) -> Running {
        let (_, request) = self.world.transfer(1, 100);
        self.world.spawn(ExecuteRequest { timeout_ms, ..request })
    }

    /// Runs a transfer of 100 to its end.
    pub(super) async fn run(&self, timeout_ms: u32) -> Result<(Transfer, Transaction)> {
        let (transfer, answer) = self.transfer(timeout_ms).answer().await?;
        Ok((transfer, answer?.transaction.expect("Execute answers with the transaction")))
    }

    /// Waits until the first bank's branch is prepared.
    pub(super) async fn first_is_prepared(&self) -> Result<()> {
        let cluster = self.world.coordinator.status().await?.cluster_id;
        until("the first branch is prepared", async || {
            Ok((self.world.banks()[0].in_doubt(cluster).await? == 1).then_some(()))
        })
        .await
    }

    /// Kills everything, and starts it again.
    pub(super) async fn kill_everything(&mut self) -> Result<()> {
        self.world.coordinator.kill9()?;
        self.world.one.kill9()?;
        self.world.two.kill9()?;
        for server in self.servers() {
            server.kill9()?;
        }
        let [one, two] = self.servers();
        tokio::try_join!(one.restart(), two.restart())?;
        // The coordinator last: it finds the participants up, and they have looked for it in vain.
        self.world.one.restart().await?;
        self.world.two.restart().await?;
        self.world.coordinator.restart().await
    }

    /// Whatever went before: nothing is left of it, and a plain transfer succeeds.
    pub(super) async fn ends_well(&self, mut transfers: Vec<Transfer>) -> Result<()> {
        self.world.audit(&transfers).await?;
        let (after, transaction) = self.run(LONG_MS).await?;
        ensure!(after.outcome == Outcome::Committed, "a transfer afterwards: {transaction:?}");
        transfers.push(after);
        self.world.audit(&transfers).await
    }
}

/// Waits for what the initiator of a transfer is told, which must be this.
pub(super) async fn told(running: Running, outcome: Outcome) -> Result<Transfer> {
    let (transfer, answer) = running.answer().await?;
    ensure!(transfer.outcome == outcome, "{transfer:?} and not {outcome:?}: {answer:?}");
    Ok(transfer)
}

/// A transfer whose initiator was cut off, but which must have this outcome.
pub(super) async fn cut_off(running: Running, outcome: Outcome) -> Result<Transfer> {
    let transfer = told(running, Outcome::Unknown).await?;
    Ok(Transfer { outcome, ..transfer })
}
