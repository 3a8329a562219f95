//! Database sessions and their bounded pool.
//!
//! The driver's own pool is not used: it resets connections when they come back, and on MariaDB a reset of a
//! session that holds a prepared branch makes later commits answer OK and do nothing (docs/xa.md rule 11).
//! Here a session goes back only when [`Session::give_back`] is called, which happens only where no branch is
//! attached to it; dropped anywhere else, in a cancelled future for example, it is closed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::XaError;

/// Idle for longer than this, a session is asked for a sign of life before it is used.
const TRUST: Duration = Duration::from_secs(5);
/// Idle for longer than this, a session is closed.
const KEEP: Duration = Duration::from_secs(300);

/// What one statement of a round trip gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) affected: u64,
    pub(crate) rows: Vec<Row>,
}

/// A round trip that failed: the outcomes before the failing statement, and the error.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) done: Vec<Outcome>,
    pub(crate) error: XaError,
}

/// What the pools of one database share.
#[derive(Debug, Default)]
pub(crate) struct OwnSessions {
    /// Connection ids of the sessions that this process has open.
    ids: Mutex<HashSet<u32>>,
    /// Raised when a connection breaks, whatever its pool: the server may have restarted. Idle sessions of before
    /// are asked for a sign of life before they are used, lest a branch is lost with its first round trip.
    generation: AtomicU64,
}

impl OwnSessions {
    pub(crate) fn contains(&self, id: u64) -> bool {
        u32::try_from(id).is_ok_and(|id| self.lock().contains(&id))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        // A set of numbers cannot be left half-changed.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// One connection. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Session {
    conn: Option<Conn>,
    id: u32,
    generation: u64,
    /// A round trip has begun and not ended: if nobody is in it, it was cancelled, and answers to come would
    /// be taken for those of another.
    busy: bool,
    pool: Arc<Pool>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// The server's number for this connection.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether a round trip was cut short.
    pub(crate) fn was_cut(&self) -> bool {
        self.busy
    }

    /// Sends `sql`, one or more statements, and reads every result. The server stops at the first error.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Vec<Outcome>, Failure> {
        let mut done = Vec::new();
        if self.busy {
            self.close();
        }
        self.busy = true;
        let result = self.run_into(sql, &mut done).await;
        self.busy = false;
        match result {
            Ok(()) => Ok(done),
            Err(error) => {
                if !error.connection_survives() {
                    self.pool.suspect();
                }
                Err(Failure { done, error })
            }
        }
    }

    /// As [`Session::run`], giving up after `limit`. The session is useless after that.
    pub(crate) async fn run_within(&mut self, limit: Duration, sql: &str) -> Result<Vec<Outcome>, Failure> {
        match timeout(limit, self.run(sql)).await {
            Ok(result) => result,
            Err(_) => {
                self.close();
                self.pool.suspect();
                let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(Failure { done: Vec::new(), error: XaError::TimedOut { ms } })
            }
        }
    }

    async fn run_into(&mut self, sql: &str, done: &mut Vec<Outcome>) -> Result<(), XaError> {
        let Some(conn) = self.conn.as_mut() else {
            return Err(XaError::Connection("the session has been closed".into()));
        };
        let mut result = conn.query_iter(sql).await?;
        loop {
            // None: nothing is left, or the next statement has failed.
            let Some(columns) = result.columns() else { return Ok(result.drop_result().await?) };
            let affected = if columns.is_empty() { result.affected_rows() } else { 0 };
            let rows = result.collect::<Row>().await?;
            done.push(Outcome { affected, rows });
        }
    }

    /// Puts the session back for others. Only when no branch is attached to it and no error has left it in
    /// doubt.
    pub(crate) fn give_back(mut self) {
        if let Some(conn) = self.conn.take() {
            if self.busy || conn.is_disconnected() {
                self.forget();
                return;
            }
            let idle = Idle { conn, since: Instant::now(), generation: self.generation };
            self.pool.lock().push(idle);
        }
    }

    /// Closes the connection, keeping the right to open another.
    fn retire(mut self) -> Option<OwnedSemaphorePermit> {
        self.close();
        self.permit.take()
    }

    fn close(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn);
            self.forget();
        }
    }

    fn forget(&self) {
        self.pool.own.lock().remove(&self.id);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
    generation: u64,
}

/// A bounded set of sessions, set up alike.
#[derive(Debug)]
pub(crate) struct Pool {
    opts: Opts,
    setup: String,
    max: usize,
    wait: Duration,
    connect_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    own: Arc<OwnSessions>,
}

impl Pool {
    pub(crate) fn new(
        opts: Opts,
        setup: String,
        max: usize,
        wait: Duration,
        connect_timeout: Duration,
        own: Arc<OwnSessions>,
    ) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(max));
        Arc::new(Pool { opts, setup, max, wait, connect_timeout, permits, idle: Mutex::default(), own })
    }

    /// A session with no branch, in autocommit, in the middle of nothing (docs/xa.md rule 12).
    ///
    /// # Errors
    /// [`XaError::SessionsExhausted`] when none comes free in time; [`XaError::Connection`].
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Session, XaError> {
        let mut permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => match timeout(self.wait, Arc::clone(&self.permits).acquire_owned()).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(XaError::SessionsExhausted { max: self.max }),
            },
        };
        while let Some(idle) = self.pop() {
            let generation = self.own.generation();
            let (age, known, id) = (idle.since.elapsed(), idle.generation, idle.conn.id());
            let mut session = Session {
                conn: Some(idle.conn),
                id,
                generation,
                busy: false,
                pool: Arc::clone(self),
                permit,
            };
            if age < TRUST && known == generation {
                return Ok(session);
            }
            if age < KEEP && session.run_within(self.connect_timeout, "DO 0").await.is_ok() {
                return Ok(session);
            }
            permit = session.retire();
        }
        self.connect(permit).await
    }

    async fn connect(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Result<Session, XaError> {
        let generation = self.own.generation();
        let opened = timeout(self.connect_timeout, Conn::new(self.opts.clone())).await;
        let opened = opened.map_err(|_| XaError::Connection("no answer in time".into()));
        let conn = opened.and_then(|opened| Ok(opened?)).inspect_err(|_| self.suspect())?;
        let id = conn.id();
        self.own.lock().insert(id);
        let mut session =
            Session { conn: Some(conn), id, generation, busy: false, pool: Arc::clone(self), permit };
        if !self.setup.is_empty() {
            session.run_within(self.connect_timeout, &self.setup).await.map_err(|failure| failure.error)?;
        }
        Ok(session)
    }

    fn pop(&self) -> Option<Idle> {
        self.lock().pop()
    }

    /// Marks every idle session as doubtful, in the database's other pool too.
    fn suspect(&self) {
        self.own.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
