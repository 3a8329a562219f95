//! Looking at transactions: one, many, and one as it changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use concord_protocol::{Decision, Epoch, Gtid, Kind, State};
use futures_util::Stream;

use super::live::{Answer, Live};
use super::record::{self, HistoryEvent};
use super::snapshot::BranchSpec;
use super::{BranchSnapshot, Engine, EngineError, Found, Snapshot};
use crate::store::{Filter, UnixMillis, Walk};

/// Live transactions of other coordinators are read so many at a time.
const LISTED_ELSEWHERE: usize = 256;

/// Where the store cannot look for something itself, ended transactions are read so many at a time ...
const SEARCHED_AT_ONCE: usize = 256;
/// ... and about so many for one page.
const SEARCHED_MAX: usize = 5_000;

/// Which transactions to list.
#[derive(Debug, Clone, Default)]
pub struct TransactionFilter {
    /// Any of these states; empty: all.
    pub states: Vec<State>,
    /// Only those with a parked branch.
    pub parked_only: bool,
    /// Only those begun with this name.
    pub name: Option<String>,
    /// Only those with a branch of this kind.
    pub kind: Option<Kind>,
    /// Only those with a branch at this participant.
    pub participant: Option<String>,
    /// Only those in which this stands somewhere, in lower case.
    pub text: Option<String>,
    /// Only those of this tenant.
    pub tenant: Option<String>,
    /// Only those begun then or later.
    pub begun_after: Option<UnixMillis>,
    /// Only those begun before then.
    pub begun_before: Option<UnixMillis>,
    /// Oldest first, of those that are live; else newest first, of all.
    pub oldest_first: bool,
    /// Only those that come after this one.
    pub after: Option<Gtid>,
    /// At most this many.
    pub limit: usize,
}

/// Some transactions, in the order that was asked for.
#[derive(Debug, Clone)]
pub struct Page {
    /// At most as many as asked for. Fewer do not mean that it is the last page.
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
        let any_branch =
            |is: &dyn Fn(&BranchSpec) -> bool| snapshot.branches.iter().any(|branch| is(&branch.spec));
        (self.states.is_empty() || self.states.contains(&snapshot.state))
            && (!self.parked_only || snapshot.parked)
            && self.name.as_ref().is_none_or(|name| *name == snapshot.header.name)
            && self.kind.is_none_or(|kind| any_branch(&|spec| spec.kind == kind))
            && self.participant.as_ref().is_none_or(|one| any_branch(&|spec| *spec.participant == **one))
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == snapshot.header.tenant)
            && self.text.as_ref().is_none_or(|text| stands_in(snapshot, text))
            && self.begun_after.is_none_or(|after| snapshot.gtid >= first_of(after))
            && self.begun_before.is_none_or(|before| snapshot.gtid < first_of(before))
    }

    /// Meets all that match, in the order in which they are listed.
    fn walk(&self) -> Walk {
        let (from, to) = (self.begun_after.map(first_of), self.begun_before.map(first_of));
        match self.oldest_first {
            false => Walk::Back(self.after.into_iter().chain(to).min()),
            true => Walk::Forth(self.after.into_iter().chain(from).max()),
        }
    }

    /// Whether one that comes later can match.
    fn may_go_on_after(&self, gtid: Gtid) -> bool {
        match self.oldest_first {
            false => self.begun_after.is_none_or(|after| gtid > first_of(after)),
            true => self.begun_before.is_none_or(|before| gtid < first_of(before)),
        }
    }

    /// The same question to the store, as far as it understands it; it knows ended transactions only. `None`: none of them
    /// matches.
    fn for_store(&self) -> Option<Filter> {
        let wants = |state| self.states.is_empty() || self.states.contains(&state);
        let before = match self.walk() {
            Walk::Back(before) => before,
            Walk::Forth(_) => return None,
        };
        let committed = match (wants(State::Committed), wants(State::RolledBack)) {
            _ if self.parked_only => return None,
            (true, true) => None,
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => return None,
        };
        // One more than asked for tells whether there is another page.
        let limit = match (&self.kind, &self.participant, &self.text, &self.tenant) {
            (None, None, None, None) => self.limit + 1,
            _ => SEARCHED_AT_ONCE.max(self.limit + 1),
        };
        Some(Filter { committed, name: self.name.clone(), before, limit })
    }
}

/// Less than every gtid that is issued from `at` on, and not less than any before.
fn first_of(UnixMillis(at): UnixMillis) -> Gtid {
    // What no gtid can say is later than all of them.
    Gtid::compose(at.min((1 << 48) - 1), Epoch(0), 0)
}

/// `text` is in lower case.
fn stands_in(snapshot: &Snapshot, text: &str) -> bool {
    let holds = |place: &str| place.to_lowercase().contains(text);
    let in_branch = |BranchSnapshot { spec, last_error, .. }: &BranchSnapshot| {
        holds(&spec.participant) || holds(&spec.action) || holds(last_error)
    };
    holds(&snapshot.gtid.to_string())
        || holds(&snapshot.header.name)
        || holds(&snapshot.reason)
        || snapshot.branches.iter().any(in_branch)
}

impl Engine {
    /// One transaction, with what is on record of it; and while it is live, with the last answers of branches with which not all
    /// goes well.
    ///
    /// # Errors
    /// [`EngineError::UnknownGtid`] when there is no record of it.
    pub async fn get(&self, gtid: Gtid) -> Result<(Snapshot, Vec<HistoryEvent>), EngineError> {
        let live = self.driver.registry.get(gtid);
        let stored = self.driver.store.get(gtid).await?;
        let mut history = stored.as_ref().map(record::history).unwrap_or_default();
        let snapshot = match (live, stored) {
            (Some(live), _) => {
                history.extend(live.lock().answers.iter().map(Answer::event));
                history.sort_by_key(|event| event.at);
                live.snapshot()
            }
            (None, Some(stored)) => record::snapshot(&stored)?,
            (None, None) => return Err(EngineError::UnknownGtid(gtid)),
        };
        Ok((snapshot, history))
    }

    /// Live transactions with a branch that waits for an operator, and those that began longer ago than `age`; oldest first, at
    /// most `limit`. Looks at each: not for the hot path.
    pub fn overdue(&self, age: Duration, limit: usize) -> Vec<Snapshot> {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let latest = UnixMillis(self.driver.clock.wall().0.saturating_sub(age));
        let is_overdue =
            |live: &Arc<Live>| live.header.begun_at <= latest || live.lock().transaction.is_parked();
        let oldest_first = self.driver.registry.walk(Walk::Forth(None));
        oldest_first.filter(is_overdue).take(limit).map(|live| live.snapshot()).collect()
    }

    /// Transactions: live ones from memory, ended ones and other coordinators' from the store.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn list(&self, filter: &TransactionFilter) -> Result<Page, EngineError> {
        // Memory first: what leaves it meanwhile is in the store by then.
        let live = self.driver.registry.walk(filter.walk());
        let live = live.take_while(|live| filter.may_go_on_after(live.gtid));
        let live = live.map(|live| live.snapshot()).filter(|snapshot| filter.matches(snapshot));
        let mut found: BTreeMap<Gtid, Snapshot> =
            live.take(filter.limit + 1).map(|snapshot| (snapshot.gtid, snapshot)).collect();
        self.add_live_elsewhere(filter, &mut found).await?;
        let searched_to = self.add_ended(filter, &mut found).await?;
        if let Some(last) = searched_to {
            found = found.split_off(&last);
        }
        let more = found.len() > filter.limit;
        let transactions: Vec<_> = match filter.oldest_first {
            false => found.into_values().rev().take(filter.limit).collect(),
            true => found.into_values().take(filter.limit).collect(),
        };
        let next = if more { transactions.last().map(|last| last.gtid) } else { searched_to };
        Ok(Page { transactions, next })
    }

    /// Adds what has ended, as far as it is on a page of this filter. Answers up to where it has looked, if that was too far
    /// for one page.
    async fn add_ended(
        &self,
        filter: &TransactionFilter,
        found: &mut BTreeMap<Gtid, Snapshot>,
    ) -> Result<Option<Gtid>, EngineError> {
        let Some(mut question) = filter.for_store() else { return Ok(None) };
        let (mut matching, mut searched) = (0, 0);
        loop {
            let some = self.driver.store.list_ended(question.clone()).await?;
            for stored in &some {
                let snapshot = record::snapshot(stored)?;
                if filter.matches(&snapshot) {
                    matching += 1;
                    found.entry(stored.gtid).or_insert(snapshot);
                }
            }
            searched += some.len();
            match some.last() {
                Some(last) if some.len() == question.limit && filter.may_go_on_after(last.gtid) => {
                    question.before = Some(last.gtid);
                }
                _ => return Ok(None),
            }
            if matching > filter.limit {
                return Ok(None);
            }
            if searched >= SEARCHED_MAX {
                return Ok(question.before);
            }
        }
    }

    /// Adds what other coordinators have in hand, as far as it is on a page of this filter.
    async fn add_live_elsewhere(
        &self,
        filter: &TransactionFilter,
        found: &mut BTreeMap<Gtid, Snapshot>,
    ) -> Result<(), EngineError> {
        let (mut walk, mut matching) = (filter.walk(), 0);
        while matching <= filter.limit {
            let some = self.driver.store.list_live_elsewhere(walk, LISTED_ELSEWHERE).await?;
            for stored in &some {
                let snapshot = record::snapshot(stored)?;
                if filter.matches(&snapshot) {
                    matching += 1;
                    found.entry(stored.gtid).or_insert(snapshot);
                }
            }
            match some.last() {
                Some(last) if some.len() == LISTED_ELSEWHERE && filter.may_go_on_after(last.gtid) => {
                    walk = walk.after(last.gtid);
                }
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
                (Found::Ended(snapshot), _) => return Some((*snapshot, None)),
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
