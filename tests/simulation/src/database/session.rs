//! A client's end of a connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Answer, Host, SessionId, Statement};
use crate::network::{Place, Trouble};
use crate::world::World;

/// Statements that are sent together; the server stops at the first error.
#[derive(Debug)]
pub(super) struct Trip {
    pub(super) batch: Vec<Statement>,
    pub(super) lock_wait: Duration,
    pub(super) answer: oneshot::Sender<Result<Vec<Answer>, Failure>>,
}

/// What went wrong between a client and its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DbError {
    /// The server refused a statement, with this code.
    Server(u16),
    /// The connection broke: the statements may have run, or not.
    Lost,
    /// No answer in time: the same.
    TimedOut,
}

/// A batch that failed: what was done before, and why it went no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) done: Vec<Answer>,
    pub(crate) error: DbError,
}

impl Failure {
    fn lost() -> Self {
        Failure { done: Vec::new(), error: DbError::Lost }
    }
}

/// The sessions that one process has open.
#[derive(Debug, Default)]
pub(crate) struct Own(Mutex<BTreeSet<SessionId>>);

impl Own {
    pub(crate) fn contains(&self, id: SessionId) -> bool {
        self.lock().contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SessionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    to_server: Option<mpsc::UnboundedSender<Trip>>,
    host: Arc<Host>,
    from: Place,
    about: u64,
    lock_wait: Duration,
    own: Arc<Own>,
    /// A trip has begun and not ended: if nobody is in it, it was cut short.
    busy: bool,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// [`DbError::Lost`].
    pub(crate) async fn open(
        world: &Arc<World>,
        host: &Arc<Host>,
        from: Place,
        about: u64,
        lock_wait: Duration,
        own: &Arc<Own>,
    ) -> Result<Self, DbError> {
        let fate = world.network.trip(world, from, Place::Database(host.number), about);
        world.pause(fate.there_ms).await;
        if fate.trouble.is_some() {
            return Err(DbError::Lost);
        }
        let (id, to_server) = host.open(world).ok_or(DbError::Lost)?;
        own.lock().insert(id);
        let (host, own) = (Arc::clone(host), Arc::clone(own));
        Ok(Session { id, to_server: Some(to_server), host, from, about, lock_wait, own, busy: false })
    }

    /// The server's number for this connection.
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Whether a trip was cut short.
    pub(crate) fn was_cut(&self) -> bool {
        self.busy
    }

    /// Sends statements and waits for their answers.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn run(&mut self, world: &World, batch: Vec<Statement>) -> Result<Vec<Answer>, Failure> {
        if self.busy {
            self.close();
        }
        self.busy = true;
        let result = self.travel(world, batch).await;
        self.busy = false;
        if let Err(Failure { error: DbError::Lost | DbError::TimedOut, .. }) = &result {
            self.close();
        }
        result
    }

    /// As [`Session::run`], giving up after `limit`. The session is useless after that.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn run_within(
        &mut self,
        world: &World,
        limit: Duration,
        batch: Vec<Statement>,
    ) -> Result<Vec<Answer>, Failure> {
        match tokio::time::timeout(limit, self.run(world, batch)).await {
            Ok(result) => result,
            Err(_) => {
                self.close();
                Err(Failure { done: Vec::new(), error: DbError::TimedOut })
            }
        }
    }

    async fn travel(&mut self, world: &World, batch: Vec<Statement>) -> Result<Vec<Answer>, Failure> {
        let Some(to_server) = &self.to_server else { return Err(Failure::lost()) };
        let fate = world.network.trip(world, self.from, Place::Database(self.host.number), self.about);
        world.pause(fate.there_ms).await;
        if fate.trouble == Some(Trouble::OnTheWay) {
            return Err(Failure::lost());
        }
        let (answer, answered) = oneshot::channel();
        let trip = Trip { batch, lock_wait: self.lock_wait, answer };
        to_server.send(trip).map_err(|_| Failure::lost())?;
        let result = answered.await.map_err(|_| Failure::lost())?;
        world.pause(fate.back_ms).await;
        if fate.trouble == Some(Trouble::OnTheWayBack) {
            return Err(Failure::lost());
        }
        result
    }

    fn close(&mut self) {
        if self.to_server.take().is_some() {
            self.own.lock().remove(&self.id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}
