//! What a client's certificate says, and by what its key is known.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a public key (its `SubjectPublicKeyInfo`), hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    pub(super) fn of_key(spki: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, spki);
        Self(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What a client certificate says. TLS has checked its chain, usage and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// CN.
    pub common_name: String,
    /// O.
    pub organization: String,
    /// Of its key.
    pub fingerprint: Fingerprint,
}

impl ClientCertificate {
    /// `None`: no certificate that can be read.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let subject = parsed.subject();
        let first = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Some(Self {
            common_name: first(subject.iter_common_name().next().and_then(|name| name.as_str().ok())),
            organization: first(subject.iter_organization().next().and_then(|name| name.as_str().ok())),
            fingerprint: Fingerprint::of_key(parsed.public_key().raw),
        })
    }
}
