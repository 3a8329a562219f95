//! What is likely wrong where nothing but "transport error" comes back.

use std::error::Error;
use std::fmt;
use std::io;

use super::Credentials;

/// Why a coordinator cannot be called, as far as can be told from how the connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LikelyCause {
    /// The address begins with `http://`, and there TLS is spoken.
    WantsTls,
    /// The address begins with `https://`, and there no TLS is spoken.
    SpeaksNoTls,
    /// The coordinator lets in only who shows a certificate, and none is shown.
    WantsCertificate,
    /// The coordinator does not take the certificate that is shown.
    RefusesCertificate,
    /// Nobody who is trusted has issued the coordinator's certificate.
    UnknownAuthority,
    /// The coordinator's certificate is for another host.
    OtherHost,
    /// The coordinator's certificate has expired, or is not valid yet.
    NotNow,
}

impl fmt::Display for LikelyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LikelyCause::WantsTls => "TLS is spoken there: the address should begin with https://",
            LikelyCause::SpeaksNoTls => "no TLS is spoken there: the address should begin with http://",
            LikelyCause::WantsCertificate => "only who shows a certificate is let in there (server.tls_client_ca)",
            LikelyCause::RefusesCertificate => {
                "the certificate that is shown is none of those that are let in there (server.tls_client_ca), or has expired"
            }
            LikelyCause::UnknownAuthority => "its certificate was issued by an authority that is not trusted",
            LikelyCause::OtherHost => "its certificate is not for the host in the address",
            LikelyCause::NotNow => {
                "its certificate has expired, or is not valid yet, or one of the two clocks is wrong"
            },
        })
    }
}

impl LikelyCause {
    /// What to call, or to do, to mend it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            LikelyCause::WantsCertificate | LikelyCause::RefusesCertificate => " (Credentials::certificate)",
            LikelyCause::UnknownAuthority => " (Credentials::trusting)",
            LikelyCause::NotNow => "; the coordinator's is to be renewed (server.tls_certificate)",
            _ => "",
        }
    }
}

impl Credentials {
    /// What is likely wrong if a call to the coordinator at `url` with these credentials fails with `error`, and whether that is
    /// certain; it is not where a coordinator that stops would look the same. `None`: nothing is known.
    pub fn likely_cause(&self, url: &str, error: &(dyn Error + 'static)) -> Option<(LikelyCause, bool)> {
        let told = chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let tells = |words: &[&str]| words.iter().any(|word| told.contains(word));
        let is_encrypted = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let certain = match is_encrypted {
            // An answer in TLS, taken for a frame of HTTP/2.
            false if tells(&["frame with invalid size"]) => Some(LikelyCause::WantsTls),
            false => None,
            true if tells(&["InvalidContentType"]) => Some(LikelyCause::SpeaksNoTls),
            true if tells(&["UnknownIssuer"]) => Some(LikelyCause::UnknownAuthority),
            true if tells(&["NotValidForName", "not valid for name"]) => Some(LikelyCause::OtherHost),
            true if tells(&[
                "certificate expired",
                "certificate not valid yet",
                "(Expired",
                "(NotValidYet",
                // Without the times: of one that ends before it begins.
                "certificate: Expired",
                "certificate: NotValidYet",
            ]) =>
            {
                Some(LikelyCause::NotNow)
            }
            true if tells(&["CertificateRequired"]) => Some(LikelyCause::WantsCertificate),
            // The alerts of TLS about a certificate.
            true if tells(&["UnknownCA", "BadCertificate", "UnknownCertificate", "DecryptError"])
                || tells(&["CertificateUnknown", "CertificateExpired", "UnsupportedCertificate"]) =>
            {
                Some(LikelyCause::RefusesCertificate)
            }
            true => None,
        };
        if let Some(cause) = certain {
            return Some((cause, true));
        }
        let has_broken = chain(error).filter_map(|one| one.downcast_ref::<io::Error>()).any(is_broken);
        if !has_broken && !tells(&["operation was canceled", "connection closed"]) {
            return None;
        }
        let cause = match (is_encrypted, self.shows_certificate()) {
            (false, _) => LikelyCause::WantsTls,
            (true, false) => LikelyCause::WantsCertificate,
            (true, true) => LikelyCause::RefusesCertificate,
        };
        Some((cause, false))
    }
}

fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// An error with what caused it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// What lies at the bottom of "transport error".
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_certain_is_told_apart_from_what_is_not() {
        let (none, some) = (Credentials::new(), Credentials::new().certificate("a", "b"));
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let broken = io::Error::new(io::ErrorKind::BrokenPipe, "stream closed because of a broken pipe");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let (http, https) = ("http://a:1", "HTTPS://a:1");
        for (credentials, url, error, cause) in [
            (&none, http, &invalid("frame with invalid size"), Some((LikelyCause::WantsTls, true))),
            (&none, http, &broken, Some((LikelyCause::WantsTls, false))),
            (&none, https, &broken, Some((LikelyCause::WantsCertificate, false))),
            (&some, https, &broken, Some((LikelyCause::RefusesCertificate, false))),
            (
                &some,
                https,
                &invalid("operation was canceled"),
                Some((LikelyCause::RefusesCertificate, false)),
            ),
            (
                &none,
                https,
                &invalid("certificate not valid for name \"a\""),
                Some((LikelyCause::OtherHost, true)),
            ),
            (
                &none,
                https,
                &invalid("certificate expired: verification time"),
                Some((LikelyCause::NotNow, true)),
            ),
            (&none, https, &invalid("invalid peer certificate: Expired"), Some((LikelyCause::NotNow, true))),
            (
                &none,
                https,
                &invalid("invalid peer certificate: NotValidYet"),
                Some((LikelyCause::NotNow, true)),
            ),
            // That is the caller's own.
            (
                &some,
                https,
                &invalid("received fatal alert: CertificateExpired"),
                Some((LikelyCause::RefusesCertificate, true)),
            ),
            (&none, https, &refused, None),
            (&none, http, &refused, None),
        ] {
            assert_eq!(credentials.likely_cause(url, error), cause, "{url} {error}");
        }
    }
}
