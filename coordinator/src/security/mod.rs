//! Who may call the coordinator, and how it and those that it calls know each other (docs/security.md).
//!
//! Nothing here knows of gRPC or HTTP: `transport` asks, with a path and what stands in the header `authorization`.

mod callers;
mod jwt;
mod roles;
mod tenants;
pub(crate) mod tls;
mod tokens;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub(crate) use callers::{Callers, Identity, Refusal};
pub(crate) use roles::{Access, access};
pub use roles::{Role, Roles};
use rustls::ServerConfig;
pub(crate) use tls::OutboundTls;
pub use tokens::{NewToken, TokenError, new_token};

use crate::config::{Config, Security, name_problem};
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

/// What stands in the files that a configuration names for these purposes.
pub(crate) struct Files {
    /// `None`: no TLS.
    pub(crate) server_tls: Option<Arc<ServerConfig>>,
    pub(crate) outbound_tls: OutboundTls,
    /// `None`: callers are not asked who they are.
    pub(crate) callers: Option<Callers>,
    /// What those tenants may have that have limits.
    pub(crate) tenants: Arc<HashMap<String, TenantLimits>>,
}

impl Files {
    /// Reads all of them.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(crate) fn read(config: &Config) -> Result<Self, FileError> {
        Ok(Files {
            server_tls: tls::server_config(&config.server)?,
            outbound_tls: OutboundTls::load(&config.calls)?,
            callers: Callers::load(&config.security)?,
            tenants: tenants(&config.security)?,
        })
    }
}

/// What those tenants may have that have limits, by name.
///
/// # Errors
/// The file that says so cannot be used.
pub(crate) fn tenants(security: &Security) -> Result<Arc<HashMap<String, TenantLimits>>, FileError> {
    Ok(security.tenants.as_deref().map(tenants::load).transpose()?.unwrap_or_default())
}

/// Whether the files of certificates, keys and tokens that `config` names can be used.
///
/// # Errors
/// The first that cannot.
pub fn check_files(config: &Config) -> Result<(), FileError> {
    Files::read(config).map(drop)
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
