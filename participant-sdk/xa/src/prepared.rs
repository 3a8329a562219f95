//! A prepared branch in the hands of the process that prepared it.

use concord_crash_points::crash_point;

use crate::database::Database;
use crate::error::XaError;
use crate::resolve::{Answer, Resolution, classify};
use crate::session::Session;
use crate::xid::Xid;

/// A branch that voted yes. Where the server does not detach it at PREPARE (MariaDB), its session is kept
/// here: any other session would be told that it does not exist.
///
/// Dropped, its connection is closed, and the branch waits, prepared, for [`Database::commit`] or
/// [`Database::rollback`] from anywhere.
#[derive(Debug)]
pub struct PreparedBranch {
    database: Database,
    xid: Xid,
    session: Option<Session>,
    reusable: bool,
    connection_id: u32,
}

impl PreparedBranch {
    pub(crate) fn new(
        database: Database,
        xid: Xid,
        session: Option<Session>,
        reusable: bool,
        connection_id: u32,
    ) -> Self {
        PreparedBranch { database, xid, session, reusable, connection_id }
    }

    /// A prepared branch that was found, not made: nothing is held.
    pub fn found(database: Database, xid: Xid) -> Self {
        PreparedBranch { database, xid, session: None, reusable: false, connection_id: 0 }
    }

    /// The branch's name.
    pub fn xid(&self) -> &Xid {
        &self.xid
    }

    /// The server's number for the session that prepared it; 0 when it was found.
    pub fn connection_id(&self) -> u32 {
        self.connection_id
    }

    /// Whether the session that prepared is kept for phase two.
    pub fn is_held(&self) -> bool {
        self.session.is_some()
    }

    /// Commits: on the session that prepared, if it is held, else on any. Repeat it while undecided.
    ///
    /// Cancelled half-way, the session is closed and the branch stays as the server knows it.
    pub async fn commit(&mut self) -> Resolution {
        match self.session.take() {
            None => self.database.commit(&self.xid).await,
            Some(session) => match self.finish(session, "XA COMMIT").await {
                Some(resolution) => resolution,
                None => self.database.commit(&self.xid).await,
            },
        }
    }

    /// Rolls back, and leaves a tombstone.
    pub async fn rollback(&mut self) -> Resolution {
        if let Some(session) = self.session.take() {
            // Whatever it says: what follows asks for the evidence.
            let _ = self.finish(session, "XA ROLLBACK").await;
        }
        self.database.rollback(&self.xid).await
    }

    /// Runs a verb on the owner session. None: it went away, or does not know the branch.
    async fn finish(&mut self, mut session: Session, verb: &str) -> Option<Resolution> {
        let sql = format!("{verb} {}", self.xid.to_sql());
        let limit = self.database.0.options.control_timeout;
        crash_point!("xa/owner/before");
        let answer = session.run_within(limit, &sql).await;
        crash_point!("xa/owner/after");
        let error = match answer {
            Ok(_) => {
                if self.reusable {
                    session.give_back();
                }
                return Some(Resolution::Committed { reply: bytes::Bytes::new() });
            }
            Err(failure) => failure.error,
        };
        match classify(&error) {
            Answer::Unknown => None,
            Answer::RolledBack => Some(Resolution::rolled_back(error.to_string())),
            Answer::Undecided => {
                // The server answered, and still holds the branch for this session.
                if matches!(error, XaError::Server { .. }) {
                    self.session = Some(session);
                }
                Some(Resolution::Undecided { reason: error.to_string() })
            }
        }
    }
}
