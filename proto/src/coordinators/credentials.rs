//! What a caller shows to coordinators, and whom it trusts.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::codegen::http::HeaderValue;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Error, Identity, Uri};
use tonic::{Request, Status};

use super::likely::root_cause;
use crate::names::is_this_machine;

/// How long a token from a file holds before the file is looked at again.
const TOKEN_FILE_INTERVAL: Duration = Duration::from_secs(10);

/// What a caller shows to coordinators, and whom it trusts: by default nothing, and the public authorities.
///
/// As an interceptor of a generated client it adds the token to each call, for who has a channel of its own. Cheap to copy.
#[derive(Clone, Default)]
pub struct Credentials {
    authorities: Option<Arc<Certificate>>,
    certificate: Option<Arc<Identity>>,
    token: Option<Token>,
    allow_insecure: bool,
}

#[derive(Clone)]
enum Token {
    Given(HeaderValue),
    File(Arc<TokenFile>),
}

struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

/// A token that cannot stand in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidToken;

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token is one word of visible ASCII characters")
    }
}

impl std::error::Error for InvalidToken {}

/// Why there is no way to a coordinator.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointError {
    /// The address is not a URL, or the certificates cannot be used.
    Transport(Error),
    /// What was given to be trusted has no certificate in it.
    NoAuthority,
    /// The key is not that of the certificate that is to be shown.
    OtherKey,
    /// There is a token, and no TLS on the way to this host.
    PlainToken {
        /// Of the URL.
        host: String,
    },
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointError::Transport(error) => match error.source() {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => error.fmt(f),
            },
            EndpointError::NoAuthority => {
                f.write_str("there is no certificate (PEM) in what is to be trusted")
            }
            EndpointError::OtherKey => f.write_str(
                "the key is not that of the certificate that is to be shown (Credentials::certificate)",
            ),
            EndpointError::PlainToken { host } => write!(
                f,
                "a token is not sent to {host} over http://, where whoever is on the way can read it: use https://, or \
                 Credentials::allow_insecure where something below encrypts"
            ),
        }
    }
}

impl std::error::Error for EndpointError {}

impl From<Error> for EndpointError {
    fn from(error: Error) -> Self {
        EndpointError::Transport(error)
    }
}

impl fmt::Debug for Credentials {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// None.
    pub fn new() -> Self {
        Credentials::default()
    }

    /// Trusts these authorities (PEM) as well.
    pub fn trusting(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.authorities = Some(Arc::new(Certificate::from_pem(pem)));
        self
    }

    /// Shows a certificate (PEM, followed by those between it and its authority) where one is asked for, with its key.
    pub fn certificate(mut self, pem: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.certificate = Some(Arc::new(Identity::from_pem(pem, key)));
        self
    }

    /// Shows a bearer token with each call.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn token(mut self, token: &str) -> Result<Self, InvalidToken> {
        self.token = Some(Token::Given(bearer(token)?));
        Ok(self)
    }

    /// Shows the token that is in a file, which may change: it is read again every ten seconds.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Token::File(Arc::new(TokenFile { path: path.into(), read: Mutex::default() })));
        self
    }

    /// Shows the token over `http://` as well, to hosts beyond this machine: for a network that encrypts by itself (a service
    /// mesh, say), or on which nobody else can listen.
    pub fn allow_insecure(mut self) -> Self {
        self.allow_insecure = true;
        self
    }

    /// Whether the token, if there is one, may be shown at this URL.
    ///
    /// # Errors
    /// [`EndpointError::PlainToken`].
    pub(super) fn check(&self, url: &Uri) -> Result<(), EndpointError> {
        let is_safe = self.token.is_none() || self.allow_insecure || url.scheme_str() == Some("https");
        match is_safe || is_this_machine(url) {
            true => Ok(()),
            false => Err(EndpointError::PlainToken { host: url.host().unwrap_or_default().to_owned() }),
        }
    }

    /// The way to `url`. `host`: whose certificate is expected, if that is not the host in the URL.
    ///
    /// # Errors
    /// It is not a URL; the certificates cannot be used, or there are none in what is to be trusted; the key is another
    /// certificate's; or there is a token, and the URL begins with `http://` and is not of this machine
    /// ([`Credentials::allow_insecure`]).
    pub fn endpoint(&self, url: &str, host: Option<&str>) -> Result<Endpoint, EndpointError> {
        let endpoint = Endpoint::from_shared(url.to_owned())?;
        self.check(endpoint.uri())?;
        // With none it would be the public ones that are trusted, and the right server refused for no reason that is told.
        if self.authorities.as_ref().is_some_and(|pem| !has_certificate((**pem).as_ref())) {
            return Err(EndpointError::NoAuthority);
        }
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new().with_webpki_roots();
        if let Some(authorities) = &self.authorities {
            tls = tls.ca_certificate(Certificate::clone(authorities));
        }
        if let Some(certificate) = &self.certificate {
            tls = tls.identity(Identity::clone(certificate));
        }
        if let Some(host) = host {
            tls = tls.domain_name(host);
        }
        endpoint.tls_config(tls).map_err(|error| match root_cause(&error).contains("KeyMismatch") {
            true => EndpointError::OtherKey,
            false => error.into(),
        })
    }

    /// Whether there is a certificate to show.
    pub(super) fn shows_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// The value of the header `authorization`, if there is a token.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, Status> {
        self.token.as_ref().map(Token::value).transpose()
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.authorization()? {
            let value = MetadataValue::<Ascii>::try_from(value.as_bytes());
            let value = value.map_err(|_| Status::unauthenticated(InvalidToken.to_string()))?;
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value);
        }
        Ok(request)
    }
}

impl Token {
    fn value(&self) -> Result<HeaderValue, Status> {
        match self {
            Token::Given(value) => Ok(value.clone()),
            Token::File(file) => file.value(),
        }
    }
}

impl TokenFile {
    fn value(&self) -> Result<HeaderValue, Status> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, value)) if at.elapsed() < TOKEN_FILE_INTERVAL => return Ok(value.clone()),
            _ => {}
        }
        let value = match (read_token(&self.path), &*read) {
            (Ok(value), _) => value,
            // It is being replaced, maybe.
            (Err(_), Some((_, value))) => value.clone(),
            (Err(why), None) => {
                let message = format!("the file of the token {}: {why}", self.path.display());
                return Err(Status::unauthenticated(message));
            }
        };
        *read = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

fn has_certificate(pem: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    pem.windows(BEGIN.len()).any(|part| part == BEGIN)
}

fn read_token(path: &Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    bearer(text.trim()).map_err(|error| error.to_string())
}

fn bearer(token: &str) -> Result<HeaderValue, InvalidToken> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidToken);
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| InvalidToken)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(credentials: &Credentials) -> Option<String> {
        let value = credentials.authorization().unwrap()?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_to_be_trusted_has_a_certificate_in_it() {
        for wrong in ["", "-----BEGIN PRIVATE KEY-----", "not PEM at all"] {
            for url in ["https://127.0.0.1:7600", "http://127.0.0.1:7600"] {
                let why = Credentials::new().trusting(wrong).endpoint(url, None).unwrap_err();
                assert!(matches!(why, EndpointError::NoAuthority), "{wrong:?} {url}: {why}");
            }
        }
    }

    #[test]
    fn a_token_stands_in_a_header_and_nowhere_else() {
        assert_eq!(shown(&Credentials::new()), None);
        let credentials = Credentials::new().token("s3cret").unwrap();
        assert_eq!(shown(&credentials).unwrap(), "Bearer s3cret");
        let request = credentials.clone().call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
        let printed = format!("{credentials:?} {:?}", credentials.authorization());
        assert!(!printed.contains("s3cret"), "{printed}");
        for wrong in ["", "two words", "line\nbreak", "n\u{f6}n"] {
            assert_eq!(Credentials::new().token(wrong).unwrap_err(), InvalidToken);
        }
    }

    #[test]
    fn a_token_goes_beyond_this_machine_by_tls_only() {
        let token = Credentials::new().token("s3cret").unwrap();
        let here =
            ["http://127.0.0.1:7600", "http://127.9.9.9:1", "http://[::1]:7600", "http://LOCALHOST:7600"];
        let beyond = [
            "http://10.0.0.7:7600",
            "http://[2001:db8::7]:7600",
            "http://concord.local",
            "http://localhost.example",
        ];
        let safe = ["https://10.0.0.7:7600", "HTTPS://concord.local"];
        for url in here.into_iter().chain(safe) {
            assert!(token.endpoint(url, None).is_ok(), "{url}");
        }
        let in_a_file = Credentials::new().token_file("/run/secrets/concord");
        for url in beyond {
            for credentials in [&token, &in_a_file] {
                let why = credentials.endpoint(url, None).unwrap_err();
                assert!(matches!(why, EndpointError::PlainToken { .. }), "{url}");
                assert!(why.to_string().contains("use https://, or Credentials::allow_insecure"), "{why}");
                assert!(credentials.clone().allow_insecure().endpoint(url, None).is_ok(), "{url}");
            }
            assert!(Credentials::new().endpoint(url, None).is_ok(), "nothing is shown");
        }
    }

    #[test]
    fn a_token_in_a_file_may_change() {
        let path = std::env::temp_dir().join(format!("concord-token-{}", std::process::id()));
        let credentials = Credentials::new().token_file(&path);
        assert!(credentials.authorization().unwrap_err().message().contains("concord-token-"));
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(shown(&credentials).unwrap(), "Bearer first");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(shown(&credentials).unwrap(), "Bearer first", "it is not read for every call");
        let Some(Token::File(file)) = &credentials.token else { unreachable!() };
        let age = || file.read.lock().unwrap().as_mut().unwrap().0 -= TOKEN_FILE_INTERVAL;
        age();
        assert_eq!(shown(&credentials).unwrap(), "Bearer second");
        std::fs::remove_file(&path).unwrap();
        age();
        assert_eq!(shown(&credentials).unwrap(), "Bearer second", "what is being replaced is still good");
    }
}
