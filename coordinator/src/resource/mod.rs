//! Databases that the coordinator may reach itself: what is in doubt on them, and the sweeper that ends it.

mod sweeper;

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use concord_protocol::{BranchId, ClusterId, Gtid};
use concord_xa::{Database, InDoubt, Options, RawXid, XaError, Xid};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use sweeper::{Branches, Sweeper};

use crate::config::{self, Config};
use crate::engine::{Engine, EngineError, Verdict};
use crate::store::UnixMillis;

/// Sessions that the coordinator opens to one resource at the most.
const SESSIONS_MAX: usize = 8;

/// The configured resources.
#[derive(Debug)]
pub struct Resources {
    list: Vec<Arc<Resource>>,
    interval: Duration,
    safety_interval: Duration,
}

/// One database.
#[derive(Debug)]
struct Resource {
    config: config::Resource,
    sweeper: Sweeper,
    /// Connected when it is first needed, and again after it was unreachable.
    database: tokio::sync::Mutex<Option<Database>>,
}

/// What is known of a resource.
#[derive(Debug, Default, Clone)]
struct Status {
    server: String,
    /// `None`: not tried yet, or the last try succeeded.
    error: Option<String>,
    swept_at: Option<UnixMillis>,
    in_doubt_foreign: usize,
    committed: u64,
    rolled_back: u64,
    /// Our branches that the last sweep found, and when each was first found.
    seen: HashMap<Xid, Sighting>,
}

/// When a branch in doubt was first seen.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    monotonic: Instant,
    wall: UnixMillis,
}

/// A resource as it is shown.
#[derive(Debug, Clone)]
pub struct ResourceView {
    /// As configured.
    pub name: String,
    /// Host, port and database.
    pub address: String,
    /// What the server says it is; empty until first reached.
    pub server: String,
    /// Why it cannot be used; `None` when it can.
    pub error: Option<String>,
    /// When it was last swept with success.
    pub swept_at: Option<UnixMillis>,
    /// Branches of ours, found at the last sweep.
    pub in_doubt_ours: usize,
    /// Branches of others, found at the last sweep.
    pub in_doubt_foreign: usize,
    /// Committed by the sweeper since the start.
    pub committed: u64,
    /// Rolled back by the sweeper since the start.
    pub rolled_back: u64,
    /// Whose branches live here.
    pub participants: Vec<String>,
}

impl ResourceView {
    /// It was reached at least once, and has not been out of reach since.
    pub fn is_reachable(&self) -> bool {
        self.error.is_none() && !self.server.is_empty()
    }
}

/// A branch found prepared.
#[derive(Debug, Clone)]
pub struct InDoubtView {
    /// Where.
    pub resource: String,
    /// As the database prints it.
    pub xid: RawXid,
    /// Of which transaction and with what to do about it, when it is ours.
    pub ours: Option<(Gtid, BranchId, Verdict)>,
    /// When the sweeper first saw it; `None`: not yet.
    pub first_seen_at: Option<UnixMillis>,
}

impl Resources {
    /// The resources of a configuration; connects to none yet.
    pub fn new(config: &Config, cluster: ClusterId) -> Self {
        let resource = |config: &config::Resource| {
            Arc::new(Resource {
                config: config.clone(),
                sweeper: Sweeper::new(config.name.clone(), cluster, config.participants.clone()),
                database: tokio::sync::Mutex::default(),
            })
        };
        Resources {
            list: config.resources.iter().map(resource).collect(),
            interval: Duration::from_millis(config.sweeper.interval_ms),
            safety_interval: Duration::from_millis(config.sweeper.safety_interval_ms),
        }
    }

    /// Whether a resource of this name is configured.
    pub fn contains(&self, name: &str) -> bool {
        self.list.iter().any(|resource| resource.config.name == name)
    }

    #[cfg(test)]
    pub(crate) fn sweeper(&self, name: &str) -> &Sweeper {
        &self.list.iter().find(|resource| resource.config.name == name).unwrap().sweeper
    }

    /// All of them, as of the last sweep.
    pub fn list(&self) -> Vec<ResourceView> {
        self.list.iter().map(|resource| resource.view()).collect()
    }

    /// What is prepared now, on the named resource or on all, and the resources that could not be asked.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the log cannot be asked.
    pub async fn in_doubt(
        &self,
        engine: &Engine,
        name: Option<&str>,
    ) -> Result<(Vec<InDoubtView>, Vec<(String, XaError)>), EngineError> {
        let (mut found, mut unreachable) = (Vec::new(), Vec::new());
        for resource in self.list.iter().filter(|one| name.is_none_or(|name| one.config.name == name)) {
            match resource.recover().await {
                Ok((_, listed)) => {
                    for one in listed {
                        found.push(resource.in_doubt(engine, one).await?);
                    }
                }
                Err(error) => unreachable.push((resource.config.name.clone(), error)),
            }
        }
        Ok((found, unreachable))
    }

    /// Sweeps every resource now and then at intervals, for ever. One that hangs holds up no other.
    pub async fn sweep_forever(self: Arc<Self>, engine: Arc<Engine>) {
        let mut sweepers = JoinSet::new();
        for resource in &self.list {
            let (resource, engine) = (Arc::clone(resource), Arc::clone(&engine));
            let (interval, safety_interval) = (self.interval, self.safety_interval);
            sweepers.spawn(async move {
                loop {
                    resource.sweep(&engine, safety_interval).await;
                    tokio::time::sleep(interval).await;
                }
            });
        }
        sweepers.join_all().await;
    }
}

impl Resource {
    /// What is prepared now. Remembers whether the database could be asked.
    async fn recover(&self) -> Result<(Database, Vec<InDoubt>), XaError> {
        let result = self.try_recover().await;
        let mut status = self.status();
        match &result {
            Ok((database, _)) => {
                status.server = database.server_info().to_string();
                if status.error.take().is_some() {
                    tracing::info!(resource = %self.config.name, "reachable again");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if status.error.as_ref() != Some(&text) {
                    tracing::warn!(resource = %self.config.name, error = %text, "cannot look for in-doubt branches");
                }
                status.error = Some(text);
            }
        }
        result
    }

    async fn try_recover(&self) -> Result<(Database, Vec<InDoubt>), XaError> {
        let mut connected = self.database.lock().await;
        let database = match &*connected {
            Some(database) => database.clone(),
            None => {
                let options =
                    Options { control_sessions_max: SESSIONS_MAX, sessions_max: 1, ..Options::default() };
                let database = Database::connect(self.config.url.with_password(), options).await?;
                connected.insert(database).clone()
            }
        };
        drop(connected);
        let listed = database.recover().await?;
        Ok((database, listed))
    }

    async fn in_doubt(&self, engine: &Engine, listed: InDoubt) -> Result<InDoubtView, EngineError> {
        let (mut ours, mut first_seen_at) = (None, None);
        if let Some(xid) = self.sweeper.ours(&listed) {
            let standing = engine.inquire_branch(xid.gtid, Some(xid.branch)).await?;
            ours = Some((xid.gtid, xid.branch, standing.verdict));
            first_seen_at = self.status().seen.get(&xid).map(|sighting| sighting.wall);
        }
        Ok(InDoubtView { resource: self.config.name.clone(), xid: listed.raw, ours, first_seen_at })
    }

    fn view(&self) -> ResourceView {
        let status = self.status();
        ResourceView {
            name: self.config.name.clone(),
            address: self.config.url.address(),
            server: status.server.clone(),
            error: status.error.clone(),
            swept_at: status.swept_at,
            in_doubt_ours: status.seen.len(),
            in_doubt_foreign: status.in_doubt_foreign,
            committed: status.committed,
            rolled_back: status.rolled_back,
            participants: self.config.participants.clone(),
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.sweeper.status()
    }
}
