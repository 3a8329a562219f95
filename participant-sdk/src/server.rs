//! Serving a participant.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use concord_proto::v1::participant_server::ParticipantServer as Generated;
use concord_protocol::Gtid;
use concord_xa::{Database, ServerInfo};
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::Server;
use tonic::transport::server::{Router, ServerTlsConfig};

use crate::attachment::attach;
use crate::builder::{Builder, StartError};
use crate::horizon::Horizon;
use crate::link::Link;
use crate::participant::Xa;
use crate::purge::{PurgeError, purge};
use crate::recovery::{SweepError, Swept};
use crate::registration::{BranchBuilder, TccBuilder};
use crate::service::ParticipantService;
use crate::tcc::Tcc;

/// Replies to the coordinator and requests from it are small, but for payloads.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;

/// A participant that is ready to be called. Dropped, it stops recovering.
pub struct ParticipantServer {
    pub(crate) participant: Participant,
    pub(crate) service: ParticipantService,
    pub(crate) background: JoinHandle<((), ())>,
    /// How it listens; `None`: unencrypted.
    pub(crate) tls: Option<ServerTlsConfig>,
}

impl ParticipantServer {
    /// Starts to put one together.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The gRPC service, to be added to a server of one's own.
    pub fn service(&self) -> Generated<ParticipantService> {
        let limit = self.service.payload_max_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES);
        Generated::new(self.service.clone()).max_decoding_message_size(limit)
    }

    /// A handle for branches that a service of one's own begins.
    pub fn participant(&self) -> Participant {
        self.participant.clone()
    }

    /// Serves until Ctrl-C or SIGTERM, as [`ParticipantServer::serve_until`] does.
    ///
    /// # Errors
    /// [`StartError::Serve`] when the port cannot be had.
    pub async fn serve(self, listen: SocketAddr) -> Result<(), StartError> {
        self.serve_until(listen, terminated()).await
    }

    /// Listens, and attaches to the coordinator ([`ParticipantServer::attach_until`]): what is faster is used, and
    /// the other when that breaks. Ends when `stop` is ready; then takes no new calls, finishes those under way, rolls
    /// open branches back, and leaves prepared ones to the database.
    ///
    /// # Errors
    /// [`StartError::Serve`] when the port cannot be had.
    pub async fn serve_until(
        self,
        listen: SocketAddr,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let stop = stop.shared();
        let listening = self.router().await?.serve_with_shutdown(listen, stop.clone());
        let attached = self.attach_until(stop).map(Ok);
        let served = tokio::try_join!(listening, attached);
        self.shutdown().await;
        served?;
        Ok(())
    }

    /// Serves until Ctrl-C or SIGTERM without listening: for a participant whose address is `attached://NAME`, and
    /// which needs no port.
    pub async fn serve_attached(self) {
        self.attach_until(terminated()).await;
        self.shutdown().await;
    }

    /// Opens a stream to the coordinator, or to each of them, and is called on it, many calls in one message, until `stop` is ready; then
    /// takes no new calls, and finishes those under way. A stream that breaks is opened again. For those who add
    /// [`ParticipantServer::service`] to a server of their own, or to none.
    pub async fn attach_until(&self, stop: impl Future<Output = ()> + Send + 'static) {
        let link = &self.participant.link;
        attach(self.service.clone(), link.coordinators().clone(), link.address().to_owned(), stop).await;
    }

    /// The service and gRPC health, to which more services may be added.
    ///
    /// # Errors
    /// [`StartError::Serve`] when what was given to [`Builder::tls`] cannot be used.
    pub async fn router(&self) -> Result<Router, StartError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<Generated<ParticipantService>>().await;
        let mut server = Server::builder().tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.clone())?;
        }
        Ok(server.add_service(health_service).add_service(self.service()))
    }

    /// Stops recovery, rolls open branches back and lets go of prepared ones, so that others can end them.
    pub async fn shutdown(self) {
        self.background.abort();
        if let Some(xa) = &self.participant.xa {
            xa.release_all().await;
        }
    }
}

impl Drop for ParticipantServer {
    fn drop(&mut self) {
        self.background.abort();
    }
}

/// A participant, as the rest of its process sees it. Cheap to clone.
#[derive(Clone)]
pub struct Participant {
    pub(crate) xa: Option<Arc<Xa>>,
    pub(crate) tcc: Arc<Tcc>,
    pub(crate) link: Arc<Link>,
    pub(crate) horizon: Arc<Horizon>,
    pub(crate) safety: Duration,
}

impl Participant {
    /// What the database server is. None without [`Builder::database`].
    pub fn server_info(&self) -> Option<&ServerInfo> {
        self.database().map(Database::server_info)
    }

    /// The participant's database, for work outside any global transaction. None without [`Builder::database`].
    pub fn database(&self) -> Option<&Database> {
        self.xa.as_ref().map(|xa| &xa.database)
    }

    /// The way to the coordinator.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Joins a global transaction with a TCC branch: see [`TccBuilder::run`].
    pub fn tcc_branch(&self, gtid: Gtid) -> TccBuilder {
        TccBuilder::new(Arc::clone(&self.tcc), Arc::clone(&self.link), gtid)
    }

    /// Joins a global transaction with an XA branch of one's own: see [`BranchBuilder::run`].
    pub fn branch(&self, gtid: Gtid) -> BranchBuilder {
        BranchBuilder::new(self.xa.clone(), gtid)
    }

    /// Ends XA branches left in doubt, now.
    ///
    /// # Errors
    /// When the database or the coordinator cannot be asked.
    pub async fn recover(&self) -> Result<Swept, SweepError> {
        match &self.xa {
            Some(xa) => xa.sweep(self.safety).await,
            None => Ok(Swept::default()),
        }
    }

    /// Purges rows of the barrier table that nobody needs any more, now. Answers how many.
    ///
    /// # Errors
    /// When a database or the coordinator cannot be asked.
    pub async fn purge(&self) -> Result<u64, PurgeError> {
        let mut deleted = 0;
        for home in self.tcc.homes() {
            deleted += purge(home, &self.horizon, &self.link).await?;
        }
        Ok(deleted)
    }

    /// Purges at intervals until the participant stops.
    pub(crate) async fn purge_for_ever(&self, every: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.purge().await {
                Ok(deleted) if deleted > 0 => tracing::debug!(deleted, "purged the barrier table"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "could not purge the barrier table"),
            }
        }
    }

    /// Looks after what is left over, now and at intervals until the participant stops.
    pub(crate) async fn recover_for_ever(&self, every: Duration) {
        match &self.xa {
            Some(xa) => xa.recover_for_ever(every, self.safety).await,
            None => self.learn_cluster(every).await,
        }
    }

    /// Asks the coordinator who it is, until it has told: calls of another one are then turned away.
    async fn learn_cluster(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        while self.link.cluster().is_none() {
            ticks.tick().await;
            if let Err(status) = self.link.inquire(&[]).await {
                tracing::warn!(%status, "the coordinator could not be asked who it is");
            }
        }
    }
}

async fn terminated() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupted.await;
}
