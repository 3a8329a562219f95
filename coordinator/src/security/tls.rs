//! TLS, by rustls: what this coordinator shows to those that call it and to those that it calls, and whom it trusts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::FileError;
use super::certificates::Dated;
use crate::config::{Calls, Server};

type Pem = Vec<u8>;

/// What the server shows and asks for.
pub(crate) struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// What is in its files.
    pub(crate) certificates: Vec<Dated>,
}

/// What the server shows and asks for. `None`: it speaks no TLS.
///
/// # Errors
/// One of the files cannot be used.
pub(super) fn server(server: &Server) -> Result<Option<ServerTls>, FileError> {
    const CERTIFICATE: &str = "server.tls_certificate";
    const KEY: &str = "server.tls_key";
    const CLIENT_CA: &str = "server.tls_client_ca";
    let Server { tls_certificate: Some(certificate), tls_key: Some(key_path), tls_client_ca, .. } = server
    else {
        return Ok(None);
    };
    let (chain, key) = (certificates(CERTIFICATE, certificate)?, private_key(KEY, key_path)?);
    check_key((KEY, key_path), &key, (CERTIFICATE, certificate), &chain)?;
    let mut dated = Dated::of(CERTIFICATE, certificate, &chain);
    let wrong = |error: rustls::Error| FileError::new(CERTIFICATE, certificate, error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_safe_default_protocol_versions().map_err(wrong)?;
    let config = match tls_client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let wrong = |why: String| FileError::new(CLIENT_CA, path, why);
            let (roots, found) = authorities(CLIENT_CA, path)?;
            dated.extend(found);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut config = config.with_single_cert(chain, key).map_err(wrong)?;
    // gRPC is HTTP/2; JSON, the console and probes are either.
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    Ok(Some(ServerTls { config: Arc::new(config), certificates: dated }))
}

/// What this coordinator shows to those that it calls, and whom it trusts: always the public authorities.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct OutboundTls {
    /// More authorities.
    pub(crate) authorities: Option<Pem>,
    /// The certificate to show, and its key.
    pub(crate) certificate: Option<(Pem, Pem)>,
    /// What is in these files.
    pub(crate) certificates: Vec<Dated>,
}

impl fmt::Debug for OutboundTls {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundTls").finish_non_exhaustive()
    }
}

impl OutboundTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(crate) fn load(calls: &Calls) -> Result<Self, FileError> {
        const CERTIFICATE: &str = "calls.tls_certificate";
        const KEY: &str = "calls.tls_key";
        const CA: &str = "calls.tls_ca";
        let authorities = calls.tls_ca.as_deref().map(|path| read(CA, path)).transpose()?;
        let certificate = match (&calls.tls_certificate, &calls.tls_key) {
            (Some(certificate), Some(key)) => Some((read(CERTIFICATE, certificate)?, read(KEY, key)?)),
            _ => None,
        };
        // Whatever is wrong with them is said now, and not at the first call.
        let mut dated = match &calls.tls_ca {
            Some(path) => self::authorities(CA, path)?.1,
            None => Vec::new(),
        };
        if let (Some(path), Some(key_path)) = (&calls.tls_certificate, &calls.tls_key) {
            let chain = certificates(CERTIFICATE, path)?;
            check_key((KEY, key_path), &private_key(KEY, key_path)?, (CERTIFICATE, path), &chain)?;
            dated.extend(Dated::of(CERTIFICATE, path, &chain));
        }
        let tls = OutboundTls { authorities, certificate, certificates: dated };
        let named = [&calls.tls_certificate, &calls.tls_ca].into_iter().flatten().next();
        match (tls.client_config(), named) {
            (Err(why), Some(path)) => Err(FileError::new(CERTIFICATE, path, why)),
            _ => Ok(tls),
        }
    }

    /// For a client of ours that is not gRPC's.
    ///
    /// # Errors
    /// The certificate or its key cannot be used.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        let say = |error: rustls::Error| error.to_string();
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(pem) = &self.authorities {
            let more = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            roots.add_parsable_certificates(more.map_err(|error| error.to_string())?);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(say)?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.certificate else { return Ok(config.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
        config.with_client_auth_cert(chain, key).map_err(say)
    }
}

fn read(key: &'static str, path: &Path) -> Result<Pem, FileError> {
    std::fs::read(path).map_err(|error| FileError::new(key, path, format!("cannot be read: {error}")))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read(key, path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| FileError::new(key, path, format!("is no PEM file: {error}")))?;
    match chain.is_empty() {
        true => Err(FileError::new(key, path, "has no certificate in it (PEM)")),
        false => Ok(chain),
    }
}

fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let pem = read(key, path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| FileError::new(key, path, format!("has no private key in it (PEM): {error}")))
}

/// That a key is a certificate's: rustls would say that it is not, and of neither which it is. What else may be wrong with them
/// is said when they are used.
fn check_key(
    (key, key_path): (&'static str, &Path),
    private_key: &PrivateKeyDer<'static>,
    (certificate, path): (&'static str, &Path),
    chain: &[CertificateDer<'static>],
) -> Result<(), FileError> {
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain.to_vec(), private_key.clone_key(), &provider) {
        Err(rustls::Error::InconsistentKeys(_)) => {
            let why = format!("is not the key of the certificate in {path:?} ({certificate})");
            Err(FileError::new(key, key_path, why))
        }
        _ => Ok(()),
    }
}

fn authorities(key: &'static str, path: &Path) -> Result<(RootCertStore, Vec<Dated>), FileError> {
    let mut roots = RootCertStore::empty();
    let certificates = certificates(key, path)?;
    let dated = Dated::of(key, path, &certificates);
    for certificate in certificates {
        roots.add(certificate).map_err(|error| FileError::new(key, path, error))?;
    }
    Ok((roots, dated))
}
