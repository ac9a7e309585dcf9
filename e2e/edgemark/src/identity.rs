//! Client certificates of simulated nodes, signed with the cloud's own CA key. One key serves them all.
//!
//! Keys stay in this process. Called by `node.rs` for each dial.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ke_wire::NodeName;
use ke_wire::enrolment;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use time::{Duration, OffsetDateTime};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    verifier: Arc<WebPkiServerVerifier>,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Authority {
    /// Reads certificate and key of the cloud's CA, each PEM or DER.
    pub(crate) fn read(ca: &Path, ca_key: &Path) -> Result<Self> {
        let file = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let bytes = file(ca)?;
        let certificate = CertificateDer::from_pem_slice(&bytes).unwrap_or_else(|_| bytes.into());
        let bytes = file(ca_key)?;
        let der = match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(key) => key.secret_der().to_vec(),
            Err(_) => bytes,
        };
        let pkcs8 = enrolment::pkcs8_from_sec1(&der).unwrap_or(der);
        let ca_key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))
            .with_context(|| format!("{} holds no P-256 key", ca_key.display()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).with_context(|| format!("{} holds no CA", ca.display()))?;
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().context("trust the CA")?;
        let issuer = Issuer::from_ca_cert_der(&certificate, ca_key).context("read the CA certificate")?;
        let key = KeyPair::generate().context("make a key")?;
        let signing = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = rustls::crypto::ring::sign::any_supported_type(&signing).context("use the new key")?;
        Ok(Self { issuer, verifier, key, signing })
    }

    /// A TLS client that shows a certificate of this node.
    pub(crate) fn client(&self, node: &NodeName) -> Result<Arc<rustls::ClientConfig>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&self.key, &self.issuer).context("sign a client certificate")?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signing));
        let mut config = rustls::ClientConfig::builder()
            .dangerous()
            // Verifies as usual; only this way one verifier serves all.
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as _)
            .with_client_cert_resolver(Arc::new(Always(Arc::new(certified))));
        // Every dial is a whole handshake, as after a restart of an edge.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}
