//! A store under the eyes of people: whether it is sound, and its transactions as the API shows them.

use concord_proto::store::record::Kind;
use concord_proto::v1;
use concord_protocol::State;

use crate::engine::record;
use crate::store::{Archive, Facts, Span, StoreError, Stored};
use crate::transport;

/// Problems that are told in words; more are only counted.
const PROBLEMS_MAX: usize = 100;

/// What a look at every transaction has found.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What the store says of itself, where that can be read.
    pub facts: Option<Facts>,
    /// Transactions that have not ended.
    pub live: u64,
    /// Of these, with a parked branch.
    pub parked: u64,
    /// The first of these that was begun.
    pub oldest_live: Option<v1::Transaction>,
    /// Transactions that ended with a commit.
    pub committed: u64,
    /// Transactions that ended without.
    pub rolled_back: u64,
    /// Transactions of which a branch ended against the decision.
    pub heuristic: u64,
    /// What is wrong, in words: the first hundred.
    pub problems: Vec<String>,
    /// How many things are wrong.
    pub problem_count: u64,
}

impl Inspection {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Looks at everything that a store can be asked: the store as a whole; of each transaction that its checksums hold, that its
/// records are such as the protocol writes, that it was issued in an epoch that has begun, and that its idempotency key
/// leads to it. `seen` is told after each transaction.
///
/// # Errors
/// [`StoreError::Read`]: the store cannot be reached. That something cannot be read is a finding.
pub fn inspect(archive: &mut Archive, mut seen: impl FnMut()) -> Result<Inspection, StoreError> {
    let mut found = Inspection::default();
    match archive.facts() {
        Ok(facts) => found.facts = Some(facts),
        Err(error) => found.problem(error.to_string()),
    }
    archive.damage()?.into_iter().for_each(|problem| found.problem(problem));
    let walked = archive.walk(Span::ALL, |archive, gtid, stored| {
        if let Err(error) = stored.and_then(|stored| look_at(archive, &stored, &mut found)) {
            found.problem(error.to_string());
        }
        if found.facts.as_ref().is_some_and(|facts| gtid.epoch() > facts.epoch) {
            // A coordinator may have started meanwhile.
            let last = archive.epoch()?;
            if gtid.epoch() > last {
                found.problem(format!(
                    "{gtid} was issued in epoch {}, and the last that began is {last}: this is an older state of the store",
                    gtid.epoch()
                ));
            }
        }
        seen();
        Ok::<_, StoreError>(())
    });
    match walked {
        // Of a damaged store that is no wonder.
        Err(error) if !found.is_sound() => found.problem(error.to_string()),
        walked => walked?,
    }
    Ok(found)
}

fn look_at(archive: &mut Archive, stored: &Stored, found: &mut Inspection) -> Result<(), StoreError> {
    let snapshot = record::snapshot(stored)?;
    if let Some(key) = key_of(stored).filter(|key| !key.is_empty())
        && !archive.is_found_by(key, stored.gtid)?
    {
        found.problem(format!("the idempotency key of {} does not lead to it", stored.gtid));
    }
    found.heuristic += u64::from(snapshot.heuristic);
    match snapshot.state {
        State::Committed => found.committed += 1,
        State::RolledBack => found.rolled_back += 1,
        State::Active | State::Preparing | State::Committing | State::RollingBack => {
            found.live += 1;
            found.parked += u64::from(snapshot.parked);
            // They come in the order of their gtids.
            found.oldest_live.get_or_insert_with(|| transport::transaction(snapshot, Vec::new()));
        }
    }
    Ok(())
}

fn key_of(stored: &Stored) -> Option<&str> {
    stored.records.iter().find_map(|(_, record)| match &record.kind {
        Some(Kind::Begun(begun)) => Some(begun.idempotency_key.as_str()),
        _ => None,
    })
}

/// A transaction with its history, as `Get` answers. What only its coordinator knows is not in it: attempts, and errors that
/// are not on record.
///
/// # Errors
/// [`StoreError::Corrupt`] when its records contradict each other.
pub fn transaction(stored: &Stored) -> Result<v1::Transaction, StoreError> {
    Ok(transport::transaction(record::snapshot(stored)?, record::history(stored)))
}

#[cfg(test)]
mod tests;
