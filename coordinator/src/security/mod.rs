//! Who may call the coordinator, and how it and those that it calls know each other (docs/security.md).
//!
//! Nothing here knows of gRPC or HTTP: `transport` asks, with a path and what stands in the header `authorization`.

mod callers;
mod certificates;
mod jwt;
mod roles;
mod tenants;
mod tls;
mod tokens;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use callers::{Callers, Identity, Refusal, Tokens};
pub use certificates::Concern;
use certificates::Dated;
pub(crate) use jwt::Jwt;
pub(crate) use roles::{Access, access};
pub use roles::{Role, Roles};
pub(crate) use tenants::{TenantChange, changes as tenant_changes};
pub(crate) use tls::{OutboundTls, ServerTls};
pub(crate) use tokens::changes as token_changes;
pub use tokens::{NewToken, TokenError, new_token};

use crate::config::{Config, name_problem};
use crate::engine::TenantLimits;

/// A file of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {path:?}: {why}")]
pub struct FileError {
    key: &'static str,
    path: String,
    why: String,
}

impl FileError {
    fn new(key: &'static str, path: &Path, why: impl ToString) -> Self {
        FileError { key, path: path.display().to_string(), why: why.to_string() }
    }
}

/// Why a coordinator does not listen: others would reach it, and could read along, or do as they please.
#[derive(Debug, thiserror::Error)]
#[error(
    "it listens on {listen}, beyond this machine, and {missing}. Set {remedy} (docs/security.md), or \
     security.allow_insecure = true where everybody who can reach it may do everything"
)]
pub struct Exposed {
    listen: SocketAddr,
    missing: &'static str,
    remedy: &'static str,
}

/// Whether a coordinator may listen where it is told to.
///
/// # Errors
/// It is beyond this machine, and speaks no TLS or takes orders from anybody.
pub fn check_exposure(config: &Config) -> Result<(), Exposed> {
    const TLS: &str = "server.tls_certificate and server.tls_key";
    const CALLERS: &str = "security.tokens, security.jwks or server.tls_client_ca";
    let (server, security) = (&config.server, &config.security);
    let listen = server.listen;
    if listen.ip().to_canonical().is_loopback() || security.allow_insecure {
        return Ok(());
    }
    let knows_callers =
        security.tokens.is_some() || security.jwks.is_some() || server.tls_client_ca.is_some();
    match (server.tls_certificate.is_some(), knows_callers) {
        (true, true) => Ok(()),
        (false, true) => Err(Exposed { listen, missing: "speaks no TLS", remedy: TLS }),
        (true, false) => Err(Exposed { listen, missing: "takes orders from anybody", remedy: CALLERS }),
        (false, false) => Err(Exposed {
            listen,
            missing: "speaks no TLS and takes orders from anybody",
            remedy: "server.tls_certificate and server.tls_key, and one of security.tokens, security.jwks and \
                     server.tls_client_ca",
        }),
    }
}

/// Whether a tenant may have this name.
fn check_tenant(name: &str) -> Result<(), String> {
    name_problem(name).map_or(Ok(()), |problem| Err(format!("the tenant {name:?}: {problem}")))
}

/// What those tenants may have that have limits, by name. `None`: there is no file of them, and any name is one.
pub(crate) type Tenants = Option<Arc<HashMap<String, TenantLimits>>>;

/// What stands in the files that a configuration names for these purposes, each on its own: with what cannot be used, a
/// coordinator does not start, and one that runs goes on with what it has read before.
pub(crate) struct Files {
    /// `None`: no TLS.
    pub(crate) server_tls: Result<Option<ServerTls>, FileError>,
    pub(crate) outbound_tls: Result<OutboundTls, FileError>,
    pub(crate) tenants: Result<Tenants, FileError>,
    /// Each apart: a token that is taken out is worth nothing, whatever is wrong with the keys of others.
    pub(crate) tokens: Result<Option<Arc<Tokens>>, FileError>,
    pub(crate) jwt: Result<Option<Arc<Jwt>>, FileError>,
    /// Keys that are no secrets, and a file of tokens without any.
    others: Vec<Concern>,
}

impl Files {
    /// Reads all of them. `known`: the tenants that there are if their file cannot be used.
    pub(crate) fn read(config: &Config, known: &Tenants) -> Self {
        let Config { server, security, calls, .. } = config;
        let tenants = security.tenants.as_deref().map(tenants::load).transpose();
        let of = tenants.as_ref().unwrap_or(known);
        let tokens = security.tokens.as_deref().map(|path| tokens::load(path, of).map(Arc::new));
        let jwt = security.jwks.as_deref().map(|path| Jwt::load(path, security, of).map(Arc::new));
        let keys = [("server.tls_key", &server.tls_key), ("calls.tls_key", &calls.tls_key)];
        let keys = keys.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
        let exposed = keys.filter_map(|(key, path)| certificates::exposed(key, path));
        let tokens = tokens.transpose();
        let known = tokens.as_ref().ok().and_then(Option::as_ref);
        let empty = security.tokens.as_deref().zip(known);
        let empty = empty.and_then(|(path, tokens)| tokens::concern(path, tokens));
        Files {
            server_tls: tls::server(server),
            outbound_tls: OutboundTls::load(calls),
            tokens,
            jwt: jwt.transpose(),
            tenants,
            others: exposed.chain(empty).collect(),
        }
    }

    /// What works, and will not for long; what others can read that is a secret; and what may be a mistake.
    pub(crate) fn concerns(&self, now: SystemTime) -> Vec<Concern> {
        let expiring = self.certificates().filter_map(|certificate| certificate.concern(now));
        expiring.chain(self.others.iter().cloned()).collect()
    }

    /// Until when the certificates of each file can be used, in seconds since 1970: until the first of them expires.
    pub(crate) fn expiry(&self) -> HashMap<&'static str, i64> {
        let mut expiry = HashMap::new();
        for certificate in self.certificates() {
            let first = expiry.entry(certificate.key).or_insert(certificate.expires);
            *first = certificate.expires.min(*first);
        }
        expiry
    }

    fn certificates(&self) -> impl Iterator<Item = &Dated> {
        let server = self.server_tls.iter().flatten().flat_map(|tls| &tls.certificates);
        server.chain(self.outbound_tls.iter().flat_map(|tls| &tls.certificates))
    }
}

/// Whether the files of certificates, keys and tokens that `config` names can be used; and what there is to be said of
/// them if they can.
///
/// # Errors
/// The first that cannot.
pub fn check_files(config: &Config) -> Result<Vec<Concern>, FileError> {
    let files = Files::read(config, &None);
    let concerns = files.concerns(SystemTime::now());
    let Files { server_tls, outbound_tls, tenants, tokens, jwt, others: _ } = files;
    let first_wrong =
        server_tls.err().or(outbound_tls.err()).or(tenants.err()).or(tokens.err()).or(jwt.err());
    first_wrong.map_or(Ok(concerns), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(lines: &str) -> Option<String> {
        let config = Config::from_toml(lines, "test").unwrap();
        check_exposure(&config).err().map(|exposed| exposed.to_string())
    }

    #[test]
    fn beyond_this_machine_it_speaks_tls_and_knows_its_callers() {
        for here in ["127.0.0.1:7600", "127.9.9.9:0", "[::1]:7600", "[::ffff:127.0.0.1]:7600"] {
            assert_eq!(exposed(&format!("server.listen = {here:?}")), None);
        }
        let tls = "tls_certificate = \"c\"\ntls_key = \"k\"\n";
        let tokens = "[security]\ntokens = \"t\"\n";
        for there in ["0.0.0.0:7600", "[::]:7600", "10.0.0.7:7600"] {
            let server = format!("[server]\nlisten = {there:?}\n");
            let both = exposed(&server).unwrap();
            assert!(both.contains("speaks no TLS and takes orders from anybody"), "{both}");
            assert!(both.contains("security.allow_insecure = true"), "{both}");
            assert!(exposed(&format!("{server}{tls}")).unwrap().contains("takes orders from anybody"));
            assert!(exposed(&format!("{server}{tokens}")).unwrap().contains("speaks no TLS"));
            let jwks = "[security]\njwks = \"j\"\njwt_audience = \"concord\"\n";
            let ca = "tls_client_ca = \"a\"\n";
            for secure in [
                format!("{server}{tls}{tokens}"),
                format!("{server}{tls}{jwks}"),
                format!("{server}{tls}{ca}"),
                format!("{server}[security]\nallow_insecure = true\n"),
            ] {
                assert_eq!(exposed(&secure), None);
            }
        }
    }
}
