//! The thread that makes checkpoints: it moves what the log holds to the database file, while the writer goes on.
//!
//! SQLite writes its log from the start again only when all of it has been moved, and while commits go on there is always
//! a rest. That is moved by the writer, once this thread has moved the most (`Writer::shorten_log`); never by both at
//! once.
//!
//! Checkpoints by one connection beside commits of another need SQLite 3.51.3 or newer: before, its "WAL-reset bug" could
//! damage the file.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::schema::{self, Checkpoint};
use super::writer::Failure;
use crate::store::queue::Queue;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// To be made, or being made.
    Ordered,
    /// Made.
    Done,
    Closed,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(State) -> bool) -> State {
        let waited = self.changed.wait_while(self.state(), |state| condition(*state));
        *waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one state into another, if it is in that.
    fn change(&self, from: State, to: State) -> bool {
        let mut state = self.state();
        let is_changed = *state == from;
        if is_changed {
            *state = to;
            self.changed.notify_all();
        }
        is_changed
    }
}

/// Has checkpoints made, in the thread.
#[derive(Debug)]
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread, on a connection of its own to the store in this file.
    pub(super) fn start(connection: Connection, store: PathBuf, queue: Arc<Queue>) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let work = Arc::clone(&shared);
        let make = move || {
            // After a failed sync nothing is synced any more.
            if queue.failure().is_none()
                && let Err(error) = schema::checkpoint(&connection, Checkpoint::Passive)
            {
                queue.fail(Failure::Sql(error).of(&store));
            }
        };
        let thread = std::thread::Builder::new().name("concord-ckpt".into()).spawn(move || {
            while work.wait_while(|state| matches!(state, State::Idle | State::Done)) != State::Closed {
                make();
                work.change(State::Ordered, State::Done);
            }
        })?;
        Ok(Checkpoints { shared, thread: Some(thread) })
    }

    /// Has what the log holds now moved, unless that is being done.
    pub(super) fn order(&self) {
        self.shared.change(State::Idle, State::Ordered);
    }

    /// Whether one has been made since this was asked last.
    pub(super) fn take_made(&self) -> bool {
        self.shared.change(State::Done, State::Idle)
    }

    /// Waits for the one that is being made.
    pub(super) fn wait(&self) {
        self.shared.wait_while(|state| state == State::Ordered);
    }

    /// Waits for the one that is being made, and ends the thread.
    pub(super) fn end(&mut self) {
        *self.shared.state() = State::Closed;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.end();
    }
}
