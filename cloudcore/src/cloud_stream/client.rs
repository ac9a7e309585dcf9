//! Who a client's certificate says it is: the cluster's client authority decides, as it does for the API server.
//!
//! The handshake takes any certificate whose key the client has, and none: like a kubelet, this port answers 401 to strangers
//! instead of hanging up, and a client with a certificate of its own may still show a token. Whether the certificate counts is
//! judged after it. The authority is what ConfigMap kube-system/extension-apiserver-authentication says under
//! `client-ca-file`, watched. Its `requestheader-client-ca-file` is of front proxies, which speak for others, and none comes here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use ke_run::shutdown::Shutdown;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chain::chain;

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const CLIENT_CA: &str = "client-ca-file";
/// In which Kubernetes puts everybody whom it knows.
const AUTHENTICATED: &str = "system:authenticated";
/// Certificates that a client may send along.
const MAX_CHAIN: usize = 8;

/// Somebody, in Kubernetes' words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// User name.
    pub user: String,
    /// Of a service account; else empty.
    pub uid: String,
    /// With `system:authenticated`.
    pub groups: Vec<String>,
    /// What else the API server said of a token.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The authority whose certificates count; none until it is known.
#[derive(Clone, Default)]
pub(super) struct TrustedClients(Arc<RwLock<Option<Arc<dyn ClientCertVerifier>>>>);

impl TrustedClients {
    /// From here on certificates of these count. Errors: none of them can be used, and everything stays as it was.
    pub(super) fn set(&self, pem: &str) -> Result<usize, String> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        let mut roots = RootCertStore::empty();
        let (n_taken, n_odd) = roots.add_parsable_certificates(certificates);
        if n_taken == 0 {
            return Err(format!("none of {n_odd} certificates can be used"));
        }
        let verifier =
            WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|why| why.to_string())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(verifier);
        Ok(n_taken)
    }

    /// Whose certificate this is; `None`: one that does not count.
    pub(super) fn who(&self, shown: &[CertificateDer<'_>]) -> Option<Identity> {
        let verifier = self.0.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (own, chain) = shown.split_first()?;
        if chain.len() > MAX_CHAIN || verifier.verify_client_cert(own, chain, UnixTime::now()).is_err() {
            return None;
        }
        identity(own)
    }

    /// Keeps in step with the cluster until shutdown.
    pub(super) async fn follow(&self, client: kube::Client, stop: Shutdown) {
        let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
        let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
        let events = watcher(api, config).default_backoff();
        pin_mut!(events);
        let mut told = String::new();
        let mut is_there = false;
        loop {
            let event = tokio::select! {
                () = stop.wait() => return,
                event = events.next() => event,
            };
            let problem = match event {
                None => return,
                Some(Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map))) => {
                    is_there = true;
                    let text = map.data.and_then(|mut data| data.remove(CLIENT_CA)).unwrap_or_default();
                    match self.set(&text) {
                        Ok(n_taken) => {
                            tracing::info!(
                                "the API server's client certificates are known: {n_taken} authorities"
                            );
                            told.clear();
                            continue;
                        }
                        Err(why) => format!("its key {CLIENT_CA}: {why}"),
                    }
                }
                Some(Ok(watcher::Event::InitDone)) if !is_there => "it does not exist".to_owned(),
                Some(Ok(_)) => continue,
                Some(Err(cause)) => chain(&cause),
            };
            // Once for each; the tries go on.
            if told != problem {
                tracing::warn!(
                    "client certificates cannot be judged, so the API server's are refused (ConfigMap \
                     {NAMESPACE}/{CONFIG_MAP}): {problem}"
                );
                told = problem;
            }
        }
    }
}

/// CN is the user, each O a group, as for the API server.
fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
    let named = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let groups = named.map(str::to_owned).chain([AUTHENTICATED.to_owned()]).collect();
    Some(Identity { user, groups, ..Identity::default() })
}

/// Takes any certificate, and proof of its key. It says nothing about whom it belongs to: only [`TrustedClients::who`] does.
#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
