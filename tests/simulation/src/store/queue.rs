//! What waits for a store's writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use concord_coordinator::store::{Durability, Entry, StoreError};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::world::locked;

/// A forced append waits for company for so long at the most, as the real stores' do.
const COMPANY: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    expected: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    queue: VecDeque<Append>,
    /// Taken from the queue, and not yet on disk as a whole.
    pub(super) writing: Vec<Append>,
    over: Option<StoreError>,
}

pub(super) struct Append {
    pub(super) entries: Vec<Entry>,
    pub(super) durability: Durability,
    queued: Instant,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

impl Queue {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(super) fn push(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, result) = oneshot::channel();
        let mut state = self.lock();
        match &state.over {
            Some(error) => drop(done.send(Err(error.clone()))),
            None => {
                let queued = Instant::now();
                state.queue.push_back(Append { entries, durability, queued, done });
                self.arrived.notify_waiters();
            }
        }
        result
    }

    pub(super) fn expect(&self, forced_soon: usize) {
        self.expected.store(forced_soon, Ordering::Relaxed);
    }

    /// Why nothing more is taken, if so.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.lock().over.clone()
    }

    /// All that waits is being written from now on. Answers whether any of it is forced.
    pub(super) fn take(&self) -> bool {
        let mut state = self.lock();
        state.writing = std::mem::take(&mut state.queue).into();
        state.writing.iter().any(|append| append.durability == Durability::Forced)
    }

    /// Nothing more is written, and whoever waits is told. Answers what was being written.
    pub(super) fn fail(&self, error: &StoreError) -> Vec<Vec<Entry>> {
        let mut state = self.lock();
        state.over.get_or_insert_with(|| error.clone());
        let (writing, queue) = (std::mem::take(&mut state.writing), std::mem::take(&mut state.queue));
        let refuse = |append: Append| {
            // Nobody waits any more: no matter.
            let _ = append.done.send(Err(error.clone()));
            append.entries
        };
        let writing = writing.into_iter().map(refuse).collect();
        queue.into_iter().for_each(|append| drop(refuse(append)));
        writing
    }

    /// As the real stores' queue: forced appends go at once, or with a little company if much is expected; lazy ones
    /// wait for a while.
    pub(super) async fn wait_for_work(&self, lazy: Duration) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let until = {
                let state = self.lock();
                let forced = || state.queue.iter().filter(|append| append.durability == Durability::Forced);
                let company = forced().count().saturating_mul(3) >= self.expected.load(Ordering::Relaxed);
                match (forced().next(), state.queue.front()) {
                    (Some(_), _) if company => return,
                    (Some(first), _) => Some(first.queued + COMPANY),
                    (None, Some(first)) => Some(first.queued + lazy),
                    (None, None) => None,
                }
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => {
                    tokio::select! {
                        biased;
                        () = arrived => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                None => arrived.await,
            }
        }
    }
}
