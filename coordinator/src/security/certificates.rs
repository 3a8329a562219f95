//! Until when certificates can be used, and whether keys are kept secret.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// So long before a certificate expires it is time to renew it.
const NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Among the permissions of a file: whoever has an account may read it.
const OTHERS_READ: u32 = 0o004;

/// A certificate in a file of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dated {
    /// The key that names the file.
    pub(super) key: &'static str,
    path: String,
    subject: String,
    /// In seconds since 1970.
    begins: i64,
    /// In seconds since 1970.
    pub(super) expires: i64,
}

impl Dated {
    /// Of the certificates in a file. One that cannot be understood here is left out: rustls has taken it.
    pub(super) fn of(key: &'static str, path: &Path, certificates: &[CertificateDer<'_>]) -> Vec<Self> {
        let dated = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = parse_x509_certificate(certificate).ok()?;
            Some(Dated {
                key,
                path: path.display().to_string(),
                subject: certificate.subject().to_string(),
                begins: certificate.validity().not_before.timestamp(),
                expires: certificate.validity().not_after.timestamp(),
            })
        };
        certificates.iter().filter_map(dated).collect()
    }

    /// Whether it has to be renewed, or cannot be used yet.
    pub(super) fn concern(&self, now: SystemTime) -> Option<Concern> {
        let [begins, expires] = [self.begins, self.expires]
            .map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0)));
        if now < begins {
            let at = humantime::format_rfc3339_seconds(begins);
            return Some(Concern {
                key: self.key,
                path: self.path.clone(),
                what: format!("the certificate of {:?} in it cannot be used before {at}", self.subject),
                mend: "see whether this machine's clock is right; if it is, use the certificate before until then",
            });
        }
        let left = expires.duration_since(now).unwrap_or_default();
        if left > NOTICE {
            return None;
        }
        let at = humantime::format_rfc3339_seconds(expires);
        let what = match left.is_zero() {
            true => format!("the certificate of {:?} in it has expired, at {at}", self.subject),
            false => {
                let days = left.as_secs() / (24 * 60 * 60);
                format!("the certificate of {:?} in it expires in {days} days, at {at}", self.subject)
            }
        };
        let mend = "renew the certificate and replace the file, which is read again without a restart; take out those that \
                    nobody needs any more";
        Some(Concern { key: self.key, path: self.path.clone(), what, mend })
    }
}

/// Whether a private key is read by others than it is for.
pub(super) fn exposed(key: &'static str, path: &Path) -> Option<Concern> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & OTHERS_READ != 0).then(|| Concern {
        key,
        path: path.display().to_string(),
        what: format!("every user of this machine may read the private key (mode {mode:03o})"),
        mend: "`chmod o= FILE`; and if others may have read it, have a new key certified",
    })
}

/// What a file of the configuration needs before long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// The key that names the file.
    pub key: &'static str,
    pub(super) path: String,
    pub(super) what: String,
    /// What to do about it.
    pub mend: &'static str,
}

impl Concern {
    /// Of which file, and what it is.
    pub fn detail(&self) -> String {
        format!("{:?}: {}", self.path, self.what)
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.detail())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_is_of_concern_before_it_can_be_used_and_from_two_weeks_before_it_expires() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "concord");
        params.not_before = date_time_ymd(2031, 3, 1);
        params.not_after = date_time_ymd(2031, 5, 31);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let dated =
            Dated::of("server.tls_certificate", Path::new("server.pem"), &[certificate.der().clone()]);
        let [certificate] = dated.try_into().unwrap();
        let said = |at: &str| {
            let now = humantime::parse_rfc3339(at).unwrap();
            certificate.concern(now).map(|concern| concern.to_string())
        };
        let early = said("2031-02-28T23:59:59Z").unwrap();
        assert!(
            early.ends_with(
                "the certificate of \"CN=concord\" in it cannot be used before 2031-03-01T00:00:00Z"
            )
        );
        assert_eq!([said("2031-03-01T00:00:00Z"), said("2031-05-16T23:59:59Z")], [const { None }; 2]);
        let soon = "server.tls_certificate = \"server.pem\": the certificate of \"CN=concord\" in it expires in 13 days, at \
                    2031-05-31T00:00:00Z";
        assert_eq!(said("2031-05-17T00:00:01Z").unwrap(), soon);
        for gone in ["2031-05-31T00:00:00Z", "2040-01-01T00:00:00Z"] {
            assert!(said(gone).unwrap().contains("has expired, at 2031-05-31T00:00:00Z"));
        }
    }

    #[test]
    fn a_key_that_everybody_may_read_is_of_concern() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let concern = |mode| {
            file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
            exposed("calls.tls_key", file.path())
        };
        assert_eq!([concern(0o600), concern(0o440), concern(0o640)], [const { None }; 3]);
        assert!(concern(0o644).unwrap().to_string().contains("may read the private key (mode 644)"));
        assert_eq!(exposed("calls.tls_key", Path::new("/nowhere/key")), None);
    }
}
