//! The certificate that the API server is shown: signed by the cluster, so that clusters which verify kubelets (K3s does) are
//! content; else KubeEdge's stream certificate or one of cloudcore's own CA, with which all others are.
//!
//! The signer `kubernetes.io/kubelet-serving` asks for a subject of `system:nodes` and `system:node:…`, for names or addresses,
//! and for a server's usages, not for who made the request; nobody approves such requests by himself, so cloudcore does. The key
//! is made here and never leaves the process: each start asks anew, and Kubernetes removes old requests. Run by `mod.rs`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::Shutdown;
use kube::api::{Api, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chain::chain;
use crate::config::CloudStreamConfig;
use crate::gate::{Authority, ServedAs};

const SIGNER: &str = "kubernetes.io/kubelet-serving";
const USAGES: [&str; 3] = ["digital signature", "key encipherment", "server auth"];
/// No node of this name: the signer wants one of the form, and clients look at addresses.
const COMMON_NAME: &str = "system:node:isthmus-cloudcore";
/// kube-controller-manager signs within a second or two of the approval.
const SIGNING_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// After a refusal: somebody may give the right, or start the signer.
const RETRY: Duration = Duration::from_secs(600);
/// Time left between renewal and end is at least this; the first try is when a fifth of its life is left.
const SHORTEST: Duration = Duration::from_secs(60);

/// What is shown now. Empty until the first one is there: handshakes fail.
#[derive(Debug, Default)]
pub(super) struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why there is no certificate of one sort.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCertificate {
    /// What was made or read cannot serve.
    #[error("it cannot be used: {0}")]
    Unusable(String),
    /// The API server's or the signer's word.
    #[error("{0}")]
    Refused(String),
}

impl Serving {
    /// From here on this pair is shown.
    pub(super) fn show(
        &self,
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), NoCertificate> {
        let unusable = |cause: rustls::Error| NoCertificate::Unusable(cause.to_string());
        let provider = CryptoProvider::get_default()
            .ok_or_else(|| NoCertificate::Unusable("no TLS provider is installed".to_owned()))?;
        let pair = CertifiedKey::from_der(certificates, key, provider).map_err(unusable)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }

    /// Shows what needs nobody: KubeEdge's files, or one of our CA. What is shown, in words.
    pub(super) fn show_own(
        &self,
        config: &CloudStreamConfig,
        authority: &Authority,
        address: Option<IpAddr>,
    ) -> Result<String, NoCertificate> {
        let (certificate, key) = (&config.tls_stream_cert_file, &config.tls_stream_private_key_file);
        if let (Ok(true), Ok(true)) = (certificate.try_exists(), key.try_exists()) {
            match in_files(certificate, key).and_then(|(certificates, key)| self.show(certificates, key)) {
                Ok(()) => return Ok(format!("the one of {} (tlsStreamCertFile)", certificate.display())),
                Err(why) => tracing::warn!(
                    "{} (modules.cloudStream.tlsStreamCertFile): {why}; one of cloudcore's own CA is shown instead",
                    certificate.display()
                ),
            }
        }
        let host = address.map_or_else(|| ServedAs::Name("cloudcore".to_owned()), ServedAs::Address);
        let made = authority.serve_as(&host).map_err(|why| NoCertificate::Unusable(why.to_string()))?;
        self.show(vec![made.0], made.1)?;
        Ok("one of cloudcore's own CA".to_owned())
    }

    /// Gets the cluster's, shows it, and renews it, until shutdown. `instead`: what is shown until then.
    pub(super) async fn keep_signed(
        &self,
        client: kube::Client,
        addresses: Vec<IpAddr>,
        instead: String,
        stop: Shutdown,
    ) {
        let mut told = String::new();
        loop {
            let pause = match self.get_signed(&client, &addresses).await {
                Ok(life) => {
                    tracing::info!(
                        "the API server is shown a certificate that the cluster has signed, for another {} h",
                        life.as_secs() / 3600
                    );
                    told.clear();
                    (life * 4 / 5).max(SHORTEST)
                }
                Err(why) => {
                    let why = why.to_string();
                    if told != why {
                        tracing::warn!(
                            "the cluster has not signed a certificate for cloudcore as kubelet ({why}); {instead} is shown. \
                             That is enough unless the API server verifies kubelets (--kubelet-certificate-authority, as K3s \
                             does) or metrics-server does: then give cloudcore's account the right to create and approve \
                             certificatesigningrequests of the signer {SIGNER}, as charts/cloudcore does, or a certificate \
                             for {addresses:?} in modules.cloudStream.tlsStreamCertFile"
                        );
                        told = why;
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The life that is left of it.
    async fn get_signed(
        &self,
        client: &kube::Client,
        addresses: &[IpAddr],
    ) -> Result<Duration, NoCertificate> {
        let (key, request) = request(addresses)?;
        let api = Api::<CertificateSigningRequest>::all(client.clone());
        let signed = match tokio::time::timeout(SIGNING_LIMIT, signed(&api, request)).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                let text = "the request is approved, but no certificate came within 30 s: does kube-controller-manager sign?";
                return Err(NoCertificate::Refused(text.to_owned()));
            }
        };
        let certificates = chain_of(&signed)?;
        let life = certificates.first().and_then(life).unwrap_or_default();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        // Refused where the certificate is of another key.
        self.show(certificates, key.into())?;
        Ok(life)
    }
}

/// Makes the request, approves it and waits for what is signed, PEM.
async fn signed(
    api: &Api<CertificateSigningRequest>,
    request: CertificateSigningRequest,
) -> Result<Vec<u8>, NoCertificate> {
    let refused =
        |what: &str, cause: &kube::Error| NoCertificate::Refused(format!("{what}: {}", chain(cause)));
    let made = api.create(&PostParams::default(), &request).await;
    let made = made.map_err(|cause| refused("make a certificatesigningrequest", &cause))?;
    let name = made.metadata.name.unwrap_or_default();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let approved = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "CloudcoreServesKubelets", "lastUpdateTime": now,
        "message": "cloudcore answers for the kubelets of edge nodes",
    }]}});
    let approving = api.patch_approval(&name, &PatchParams::default(), &Patch::Strategic(approved)).await;
    approving.map_err(|cause| refused(&format!("approve certificatesigningrequest {name}"), &cause))?;
    loop {
        let request =
            api.get(&name).await.map_err(|cause| refused("read the certificatesigningrequest", &cause))?;
        let status = request.status.unwrap_or_default();
        if let Some(certificate) = status.certificate {
            return Ok(certificate.0);
        }
        let conditions = status.conditions.unwrap_or_default();
        if let Some(bad) = conditions.iter().find(|one| matches!(&*one.type_, "Denied" | "Failed")) {
            let why = bad.message.clone().or_else(|| bad.reason.clone()).unwrap_or_default();
            let text = format!("certificatesigningrequest {name} is {}: {why}", bad.type_);
            return Err(NoCertificate::Refused(text));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A key, and the request that a certificate be signed for it.
fn request(addresses: &[IpAddr]) -> Result<(KeyPair, CertificateSigningRequest), NoCertificate> {
    let unusable = |cause: rcgen::Error| NoCertificate::Unusable(cause.to_string());
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(unusable)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
    let pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(unusable)?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("isthmus-cloudcore-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    Ok((key, request))
}

fn chain_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NoCertificate> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|why| NoCertificate::Unusable(why.to_string()))?;
    if certificates.is_empty() {
        return Err(NoCertificate::Unusable("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn in_files(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), NoCertificate> {
    let unreadable = |why: &dyn std::fmt::Display| NoCertificate::Unusable(why.to_string());
    let certificates = chain_of(&std::fs::read(certificate).map_err(|why| unreadable(&why))?)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|why| unreadable(&why))?;
    Ok((certificates, key))
}

/// What is left of a certificate's life.
fn life(certificate: &CertificateDer<'static>) -> Option<Duration> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed.validity().time_to_expiration()?.try_into().ok()
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;
