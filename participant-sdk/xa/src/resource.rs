//! What recovery needs of a resource, whatever kind of database it is.

use std::future::Future;

use crate::database::{Database, InDoubt};
use crate::error::XaError;
use crate::resolve::Resolution;
use crate::server::ServerInfo;
use crate::xid::Xid;

/// A database whose prepared branches can be listed and ended from outside. MySQL and MariaDB now;
/// PostgreSQL's PREPARE TRANSACTION fits behind it.
pub trait ResourceManager: Send + Sync {
    /// What the server is.
    fn server_info(&self) -> &ServerInfo;
    /// Every prepared branch, foreign ones included.
    fn recover(&self) -> impl Future<Output = Result<Vec<InDoubt>, XaError>> + Send;
    /// Commits a prepared branch.
    fn commit(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send;
    /// Rolls a branch back and bars its late arrival.
    fn rollback(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send;
}

impl ResourceManager for Database {
    fn server_info(&self) -> &ServerInfo {
        Database::server_info(self)
    }

    fn recover(&self) -> impl Future<Output = Result<Vec<InDoubt>, XaError>> + Send {
        Database::recover(self)
    }

    fn commit(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send {
        Database::commit(self, xid)
    }

    fn rollback(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send {
        Database::rollback(self, xid)
    }
}
