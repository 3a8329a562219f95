//! An authority that issues certificates, for a test.

use std::path::{Path, PathBuf};

use concord_proto::Credentials;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// For a server at 127.0.0.1, or for whoever calls one.
    pub(crate) fn certify(&self) -> Certificate {
        self.certify_in(1975, 4096)
    }

    /// The same, valid in these years only, from the first one's beginning to the last one's.
    pub(crate) fn certify_in(&self, first: i32, last: i32) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(first, 1, 1), date_time_ymd(last, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate { pem: certificate.pem(), key: key.serialize_pem() }
    }

    /// Of who trusts this authority.
    pub(crate) fn trusted(&self) -> Credentials {
        Credentials::new().trusting(&self.pem)
    }

    /// Certifies a server: the part of its configuration that names the files, which are in this directory from then on.
    pub(crate) fn server(&self, directory: &Path) -> String {
        let [pem, key] = self.certify().write(directory, "server");
        format!("[server]\ntls_certificate = {pem:?}\ntls_key = {key:?}\n")
    }

    /// Of who trusts this authority, and shows a certificate of another one's.
    pub(crate) fn trusted_showing(&self, by: &Authority) -> Credentials {
        let certificate = by.certify();
        self.trusted().certificate(certificate.pem, certificate.key)
    }
}

impl Certificate {
    /// Writes both to files called after `name`: first the key, or a server might read a certificate without its key.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> [PathBuf; 2] {
        let [pem, key] = ["pem", "key"].map(|kind| directory.join(format!("{name}.{kind}")));
        std::fs::write(&key, &self.key).unwrap();
        std::fs::write(&pem, &self.pem).unwrap();
        [pem, key]
    }
}
