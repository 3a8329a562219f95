//! Another configuration for a coordinator that runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt as _};

use crate::config::{Change, Config, Reading};
use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::security::{FileError, Files, TenantChange, tenant_changes, token_changes};
use crate::serve::{settings, tell};
use crate::transport::{ConnectionLimits, GrpcParticipants, Guard, OutboundSettings, Peers, ShownTls};

/// The parts of a coordinator that can be told something else.
pub(crate) struct Running {
    pub(crate) engine: Arc<Engine>,
    pub(crate) metrics: Metrics,
    pub(crate) participants: Arc<GrpcParticipants>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) limits: Arc<ConnectionLimits>,
    pub(crate) tls: Option<ShownTls>,
}

/// What has become of a configuration.
struct Applied {
    /// What cannot be used.
    unusable: Vec<FileError>,
    /// Whose tokens are others than they were; empty: nobody's.
    tokens: String,
    tenants: Vec<TenantChange>,
}

impl Running {
    /// Does as it is wanted, each time, and tells what has changed; what cannot change while it runs stays, and is told too.
    pub(crate) async fn follow(self, mut config: Config, wanted: impl Stream<Item = Reading>) {
        let mut wanted = pin!(wanted);
        let mut last_wanted = config.clone();
        while let Some(Reading { config: wanted, problems }) = wanted.next().await {
            if let Some(problems) = &problems {
                tracing::error!(problems, "the configuration has problems, and stays as it was");
            }
            let changes = config.changes(&wanted);
            // What needs a restart differs for as long as there is none: that is told once.
            let news = last_wanted.changes(&wanted);
            let is_news = |key: &str| news.iter().any(|change| change.key == key);
            config = config.adopting(&wanted);
            let Applied { unusable, tokens, tenants } = self.apply(&config);
            for error in &unusable {
                tracing::error!(%error, "a file cannot be used; what was read from it before stays in force");
            }
            let is_whole = problems.is_none() && unusable.is_empty();
            self.metrics.configuration_refused.set(i64::from(!is_whole));
            if is_whole {
                tracing::info!("configuration, certificates and tokens were read again");
            }
            if !tokens.is_empty() {
                tracing::info!(key = "security.tokens", %tokens, "the file of tokens has changed");
            }
            for TenantChange { name, from, to } in tenants {
                let key = "security.tenants";
                tracing::info!(key, tenant = %name, %from, %to, "the file of tenants has changed");
            }
            for Change { key, from, to, live } in changes {
                match live {
                    true => tracing::info!(%key, %from, %to, "the configuration has changed"),
                    false if is_news(&key) => {
                        tracing::warn!(%key, %from, %to, "the configuration has changed; this needs a restart")
                    }
                    false => {}
                }
            }
            last_wanted = wanted;
        }
    }

    /// What can be used of it is used, each on its own: a token that was taken out of its file is worth nothing, whatever else
    /// is wrong.
    fn apply(&self, config: &Config) -> Applied {
        let known = config.security.tenants.is_some().then(|| self.engine.tenants());
        let files = Files::read(config, &known);
        tell(&files.concerns(SystemTime::now()));
        self.metrics.certificates.note(files.expiry());
        let (tokens, no_tokens) = split(files.tokens);
        let (jwt, no_jwt) = split(files.jwt);
        let before = self.guard.tokens().unwrap_or_default();
        self.guard.replace(tokens, jwt);
        let token_changes = token_changes(&before, &self.guard.tokens().unwrap_or_default());
        let server_tls = files.server_tls.map(|tls| {
            if let (Some(current), Some(tls)) = (&self.tls, tls) {
                current.store(tls.config);
            }
        });
        let (tenants, no_tenants) = split(files.tenants);
        let tenants = tenants.map_or_else(|| self.engine.tenants(), Option::unwrap_or_default);
        let tenant_changes = tenant_changes(&self.engine.tenants(), &tenants);
        self.engine.configure(settings(config, tenants));
        let (outbound_tls, no_outbound_tls) = split(files.outbound_tls);
        let outbound_tls = outbound_tls.unwrap_or_else(|| self.participants.tls());
        self.participants.configure(OutboundSettings::new(config, outbound_tls.clone()));
        self.peers.show(outbound_tls);
        self.limits.configure(&config.server);
        let unusable = [no_tokens, no_jwt, server_tls.err(), no_tenants, no_outbound_tls];
        Applied {
            unusable: unusable.into_iter().flatten().collect(),
            tokens: token_changes,
            tenants: tenant_changes,
        }
    }
}

fn split<T, E>(result: Result<T, E>) -> (Option<T>, Option<E>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}
