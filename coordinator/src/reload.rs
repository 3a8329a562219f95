//! Another configuration for a coordinator that runs.

use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};

use crate::config::{Change, Config};
use crate::engine::Engine;
use crate::security::{FileError, Files};
use crate::serve::settings;
use crate::transport::{GrpcParticipants, Guard, OutboundSettings, Peers, ServerTls};

/// The parts of a coordinator that can be told something else.
pub(crate) struct Running {
    pub(crate) engine: Arc<Engine>,
    pub(crate) participants: Arc<GrpcParticipants>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) tls: Option<ServerTls>,
}

impl Running {
    /// Does as it is wanted, each time, and tells what has changed; what cannot change while it runs stays, and is told too.
    pub(crate) async fn follow(self, mut config: Config, wanted: impl Stream<Item = Config>) {
        let mut wanted = pin!(wanted);
        while let Some(wanted) = wanted.next().await {
            let changes = config.changes(&wanted);
            config = config.adopting(&wanted);
            match self.apply(&config) {
                Ok(()) => tracing::info!("configuration, certificates and tokens were read again"),
                Err(error) => {
                    tracing::error!(%error, "a file cannot be used; what was read before stays in force");
                }
            }
            for Change { key, from, to, live } in changes {
                match live {
                    true => tracing::info!(%key, %from, %to, "the configuration has changed"),
                    false => {
                        tracing::warn!(%key, %from, %to, "the configuration has changed; this needs a restart")
                    }
                }
            }
        }
    }

    /// All files or none: a certificate that is to go with another key stays until that is there.
    fn apply(&self, config: &Config) -> Result<(), FileError> {
        let files = Files::read(config);
        let (outbound_tls, tenants) = match &files {
            Ok(files) => (files.outbound_tls.clone(), Arc::clone(&files.tenants)),
            Err(_) => (self.participants.tls(), self.engine.tenants()),
        };
        self.engine.configure(settings(config, tenants));
        self.participants.configure(OutboundSettings::new(config, outbound_tls));
        let Files { server_tls, outbound_tls, callers, .. } = files?;
        if let (Some(current), Some(tls)) = (&self.tls, server_tls) {
            current.store(tls);
        }
        self.peers.show(outbound_tls);
        self.guard.replace(callers);
        Ok(())
    }
}
