//! Looking at transactions: one, many, and one as it changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use concord_protocol::{Decision, Gtid, State};
use futures_util::Stream;

use super::record::{self, HistoryEvent};
use super::{Engine, EngineError, Found, Snapshot};
use crate::store::Filter;

/// Live transactions of other coordinators are read so many at a time.
const LISTED_ELSEWHERE: usize = 256;

/// Which transactions to list.
#[derive(Debug, Clone, Default)]
pub struct TransactionFilter {
    /// Any of these states; empty: all.
    pub states: Vec<State>,
    /// Only those with a parked branch.
    pub parked_only: bool,
    /// Only those begun with this name.
    pub name: Option<String>,
    /// Only those issued before this one.
    pub before: Option<Gtid>,
    /// At most this many.
    pub limit: usize,
}

/// Some transactions, newest first.
#[derive(Debug, Clone)]
pub struct Page {
    /// At most as many as asked for.
    pub transactions: Vec<Snapshot>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Gtid>,
}

impl Snapshot {
    /// The decision, as far as it may be told.
    pub fn decision(&self) -> Option<Decision> {
        match self.state {
            State::Committing | State::Committed => Some(Decision::Commit),
            State::RollingBack | State::RolledBack => Some(Decision::Rollback),
            State::Active | State::Preparing => None,
        }
    }
}

impl TransactionFilter {
    fn matches(&self, snapshot: &Snapshot) -> bool {
        (self.states.is_empty() || self.states.contains(&snapshot.state))
            && (!self.parked_only || snapshot.parked)
            && self.name.as_ref().is_none_or(|name| *name == snapshot.header.name)
    }

    /// The same question to the store, which knows ended transactions only. `None`: it has no answer to it.
    fn for_store(&self) -> Option<Filter> {
        let wants = |state| self.states.is_empty() || self.states.contains(&state);
        let committed = match (wants(State::Committed), wants(State::RolledBack)) {
            _ if self.parked_only => return None,
            (true, true) => None,
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => return None,
        };
        // One more than asked for tells whether there is another page.
        Some(Filter { committed, name: self.name.clone(), before: self.before, limit: self.limit + 1 })
    }
}

impl Engine {
    /// One transaction, with what is on record of it.
    ///
    /// # Errors
    /// [`EngineError::UnknownGtid`] when there is no record of it.
    pub async fn get(&self, gtid: Gtid) -> Result<(Snapshot, Vec<HistoryEvent>), EngineError> {
        let live = self.driver.registry.get(gtid);
        let stored = self.driver.store.get(gtid).await?;
        let history = stored.as_ref().map(record::history).unwrap_or_default();
        let snapshot = match (live, stored) {
            (Some(live), _) => live.snapshot(),
            (None, Some(stored)) => record::snapshot(&stored)?,
            (None, None) => return Err(EngineError::UnknownGtid(gtid)),
        };
        Ok((snapshot, history))
    }

    /// Transactions, newest first: live ones from memory, ended ones and other coordinators' from the store.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn list(&self, filter: &TransactionFilter) -> Result<Page, EngineError> {
        // Memory first: what leaves it meanwhile is in the store by then.
        let live = self.driver.registry.newest_first(filter.before);
        let live = live.map(|live| live.snapshot()).filter(|snapshot| filter.matches(snapshot));
        let mut found: BTreeMap<Gtid, Snapshot> =
            live.take(filter.limit + 1).map(|snapshot| (snapshot.gtid, snapshot)).collect();
        self.add_live_elsewhere(filter, &mut found).await?;
        if let Some(question) = filter.for_store() {
            for stored in self.driver.store.list_ended(question).await? {
                if let Entry::Vacant(place) = found.entry(stored.gtid) {
                    place.insert(record::snapshot(&stored)?);
                }
            }
        }
        let more = found.len() > filter.limit;
        let transactions: Vec<_> = found.into_values().rev().take(filter.limit).collect();
        let next = transactions.last().filter(|_| more).map(|last| last.gtid);
        Ok(Page { transactions, next })
    }

    /// Adds what other coordinators have in hand, as far as it is on a page of this filter.
    async fn add_live_elsewhere(
        &self,
        filter: &TransactionFilter,
        found: &mut BTreeMap<Gtid, Snapshot>,
    ) -> Result<(), EngineError> {
        let (mut before, mut matching) = (filter.before, 0);
        while matching <= filter.limit {
            let some = self.driver.store.list_live_elsewhere(before, LISTED_ELSEWHERE).await?;
            for stored in &some {
                let snapshot = record::snapshot(stored)?;
                if filter.matches(&snapshot) {
                    matching += 1;
                    found.entry(stored.gtid).or_insert(snapshot);
                }
            }
            match some.last() {
                Some(last) if some.len() == LISTED_ELSEWHERE => before = Some(last.gtid),
                _ => break,
            }
        }
        Ok(())
    }

    /// The transaction now, and after each change until it ends. Changes in quick succession may come as one.
    ///
    /// # Errors
    /// [`EngineError::UnknownGtid`] when there is no record of it.
    pub async fn watch(
        &self,
        gtid: Gtid,
    ) -> Result<impl Stream<Item = Snapshot> + Send + 'static + use<>, EngineError> {
        let first = match self.find(gtid).await {
            // What is presumed is not on record: there is nothing to watch.
            Err(EngineError::RolledBack { .. }) => return Err(EngineError::UnknownGtid(gtid)),
            found => found?,
        };
        Ok(futures_util::stream::unfold(Some((first, None)), |watched| async move {
            let live = match watched? {
                (Found::Ended(snapshot), _) => return Some((snapshot, None)),
                (Found::Live(live), seen) => {
                    let steps = live.when(|state| (Some(state.steps) != seen).then_some(state.steps)).await;
                    (live, steps)
                }
            };
            let snapshot = live.0.snapshot();
            let next = (!snapshot.state.is_terminal()).then_some((Found::Live(live.0), Some(live.1)));
            Some((snapshot, next))
        }))
    }
}
