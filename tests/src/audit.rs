//! What is looked at when everything has settled.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use concord_proto::v1::{ExecuteResponse, ListRequest, TransactionState};
use tonic::Status;

use crate::world::World;

/// What its initiator was told about a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed; perhaps still being delivered.
    Committed,
    /// Rolled back.
    RolledBack,
    /// Nothing that can be relied on.
    Unknown,
}

impl Outcome {
    /// What an answer to Execute says.
    pub fn of(answer: &Result<ExecuteResponse, Status>) -> Outcome {
        let Ok(answer) = answer else { return Outcome::Unknown };
        match answer.transaction.as_ref().map(|transaction| transaction.state()) {
            Some(TransactionState::Committed | TransactionState::Committing) => Outcome::Committed,
            Some(TransactionState::RolledBack | TransactionState::RollingBack) => Outcome::RolledBack,
            _ => Outcome::Unknown,
        }
    }
}

/// A transfer that was tried.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Its name, unique in the test.
    pub name: String,
    /// What its initiator was told.
    pub outcome: Outcome,
}

impl World {
    /// Waits until everything has ended (I8), then checks that every branch of a transfer ended the same way, and
    /// once (I1, I4), that what was told is true (I2, I3), and that money was neither made nor lost (I7).
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn audit(&self, transfers: &[Transfer]) -> Result<()> {
        self.settled().await?;
        let [one, two] = self.banks();
        let ledgers = [one.ledger().await?, two.ledger().await?];
        for transfer in transfers {
            self.agreed(transfer, [true; 2], &ledgers).await?;
        }
        let strangers: Vec<_> = ledgers
            .iter()
            .flat_map(|ledger| ledger.keys())
            .filter(|name| !transfers.iter().any(|transfer| transfer.name == **name))
            .collect();
        ensure!(strangers.is_empty(), "nobody asked for {strangers:?}");
        self.conserved().await
    }

    /// Checks that a transfer ended as its initiator was told: the same way at each of the banks that take part, once
    /// (I1 to I4). `ledgers`: [`crate::Bank::ledger`] of both, when everything has ended.
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn agreed(
        &self,
        transfer: &Transfer,
        takes_part: [bool; 2],
        ledgers: &[BTreeMap<String, u64>; 2],
    ) -> Result<()> {
        let Transfer { name, outcome } = transfer;
        let rows = ledgers.each_ref().map(|ledger| ledger.get(name).copied().unwrap_or(0));
        let committed = self.committed_on_record(name).await?;
        let told = match outcome {
            Outcome::Committed => true,
            Outcome::RolledBack => false,
            Outcome::Unknown => committed == 1,
        };
        ensure!(
            committed == u64::from(told) && rows == takes_part.map(|there| u64::from(there && told)),
            "{name}: told {outcome:?}; {committed} on record as committed; {rows:?} ledger rows"
        );
        Ok(())
    }

    /// How many transactions of this name the coordinator has on record as committed: attempts with one
    /// idempotency key may be several, when a crash has taken the record of the first.
    async fn committed_on_record(&self, name: &str) -> Result<u64> {
        let request = ListRequest { name: name.to_owned(), ..ListRequest::default() };
        let listed = self.coordinator.api().list(request).await?.into_inner().transactions;
        if let Some(mixed) = listed.iter().find(|one| one.heuristic || one.parked) {
            bail!("a heuristic outcome, or parked: {mixed:#?}");
        }
        Ok(listed.iter().filter(|one| one.state() == TransactionState::Committed).count() as u64)
    }

    /// Checks that money was neither made nor lost, and that each bank's accounts agree with its ledger.
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn conserved(&self) -> Result<()> {
        let mut total = 0;
        for bank in self.banks() {
            let (gain, booked) = bank.gains().await?;
            ensure!(gain == booked, "{}: accounts gained {gain}, its ledger says {booked}", bank.url());
            total += gain;
        }
        ensure!(total == 0, "money was made or lost: {total}");
        Ok(())
    }

    /// Waits until no transaction is live and nothing of ours is prepared (I8); then nothing may be reserved,
    /// parked or heuristic.
    ///
    /// # Errors
    /// With what does not end.
    pub async fn settled(&self) -> Result<()> {
        for coordinator in self.coordinators() {
            coordinator.drained().await?;
            let status = coordinator.status().await?;
            ensure!(status.heuristic_branches == 0, "{} heuristic outcomes", status.heuristic_branches);
            ensure!(status.refused_branches == 0, "{} branches refused phase two", status.refused_branches);
        }
        let cluster = self.coordinator.status().await?.cluster_id;
        for bank in self.banks() {
            let what = format!("XA RECOVER on {} is empty", bank.url());
            crate::until(&what, async || {
                // A branch of a transaction that the coordinator has no record of is ended by its participant.
                Ok((bank.in_doubt(cluster).await? == 0).then_some(()))
            })
            .await?;
            let reserved = bank.reserved().await?;
            ensure!(reserved == (0, 0, 0), "{}: held, promised, open: {reserved:?}", bank.url());
        }
        Ok(())
    }
}
