//! Who this machine is to the cloud: key and certificate on disk, first enrolment with a join token, rotation.
//!
//! The files are KubeEdge's, so that either program finds the other's. A key never leaves this machine. Certificate and key
//! are written under new names and renamed, key first: a kill in between leaves a pair that does not fit, which the next
//! start notices and enrols again where it may, or says so.

mod error;
mod facts;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use ke_run::config::Secret;
use ke_wire::NodeName;
use ke_wire::enrolment::JoinToken;
use rcgen::PublicKeyData;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use self::facts::{Facts, fits};
use self::files::{pem, rename, sec1_pem, write_file};
use super::tls::{self, Credentials};
use crate::config::EdgeHubConfig;
use crate::unchecked_tls;

pub use self::error::IdentityError;

/// A certificate or CA is a few hundred bytes; more than this is somebody else answering.
const MAX_BODY: usize = 1 << 20;
/// The cloud has this long for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Two renewals are at least so far apart.
const RENEWAL_PAUSE: Duration = Duration::from_secs(3600);

/// The files and how to renew them.
pub struct Identity {
    node: NodeName,
    http_server: String,
    token: Secret,
    token_file: PathBuf,
    ca_file: PathBuf,
    cert_file: PathBuf,
    key_file: PathBuf,
    rotate: bool,
    renew_at: Option<SystemTime>,
    failures: u32,
    renewed_last: Option<Instant>,
}

impl Identity {
    pub(super) fn new(config: &EdgeHubConfig, node: NodeName) -> Self {
        Self {
            node,
            http_server: config.http_server.clone(),
            token: config.token.clone(),
            token_file: config.bootstrap_file.clone(),
            ca_file: config.tls_ca_file.clone(),
            cert_file: config.tls_cert_file.clone(),
            key_file: config.tls_private_key_file.clone(),
            rotate: config.rotate_certificates,
            renew_at: None,
            failures: 0,
            renewed_last: None,
        }
    }

    /// Makes sure that the files hold a pair of this node's; enrols when they do not.
    pub(super) async fn ensure(&mut self) -> Result<(), IdentityError> {
        self.adopt_next_key()?;
        match self.credentials() {
            Ok(credentials) => {
                self.plan_renewal(&credentials);
                Ok(())
            }
            Err(why) => self.enroll(&why).await,
        }
    }

    /// What the files hold, if it is a whole pair of this node's. Validity in time is the cloud's to judge: this
    /// machine's clock may be wrong after a cold start.
    pub(super) fn credentials(&self) -> Result<Credentials, String> {
        let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let ca =
            CertificateDer::from_pem_file(&self.ca_file).map_err(|error| named(&self.ca_file, &error))?;
        let certificate =
            CertificateDer::from_pem_file(&self.cert_file).map_err(|error| named(&self.cert_file, &error))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| named(&self.key_file, &error))?;
        let facts = Facts::of(&certificate).map_err(|error| named(&self.cert_file, &error))?;
        let wanted = format!("system:node:{}", self.node);
        if facts.common_name != wanted {
            let why = format!("it is {}'s, not {wanted}'s", facts.common_name);
            return Err(named(&self.cert_file, &why));
        }
        if !fits(&key, &facts).map_err(|error| named(&self.key_file, &error))? {
            return Err(named(&self.key_file, &"it is not the key of the certificate"));
        }
        Ok(Credentials { ca, certificate: vec![certificate], key })
    }

    /// Ends what a killed run began: the certificate in the files may be that of the key that waits beside the old one.
    fn adopt_next_key(&self) -> Result<(), IdentityError> {
        let next = self.next_key_file();
        let Ok(key) = PrivateKeyDer::from_pem_file(&next) else { return Ok(()) };
        let facts = CertificateDer::from_pem_file(&self.cert_file).ok().and_then(|der| Facts::of(&der).ok());
        match facts {
            Some(facts) if fits(&key, &facts) == Ok(true) => rename(&next, &self.key_file),
            // The answer never came: the old pair stands, and the next renewal makes a new key.
            _ => Ok(()),
        }
    }

    fn next_key_file(&self) -> PathBuf {
        let mut path = self.key_file.as_os_str().to_owned();
        path.push(".next");
        PathBuf::from(path)
    }

    /// Completes when the certificate was renewed, so that the link is made anew. Never completes when rotation is off.
    /// Not to be dropped half-way without need: the cloud may then know a key that this machine has not.
    pub(super) async fn renewed(&mut self) {
        loop {
            let Some(renew_at) = self.renew_at.filter(|_| self.rotate) else {
                return std::future::pending().await;
            };
            // A clock that runs ahead makes every certificate look old; the link is not given up for that each time.
            let since_last = self.renewed_last.map_or(RENEWAL_PAUSE, |last| last.elapsed());
            let wait = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
            let wait = wait.max(RENEWAL_PAUSE.saturating_sub(since_last));
            // 2 s doubling to 32 s between failures, as Go edges do.
            let pause = Duration::from_secs(2_u64 << self.failures.min(4));
            tokio::time::sleep(if self.failures == 0 { wait } else { pause }).await;
            match self.request_certificate(Some(()), None).await {
                Ok(()) => {
                    self.failures = 0;
                    self.renewed_last = Some(Instant::now());
                    tracing::info!("the certificate of this machine was renewed");
                    return;
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(%error, "the certificate could not be renewed yet; trying again");
                }
            }
        }
    }

    fn plan_renewal(&mut self, credentials: &Credentials) {
        let Some(facts) = credentials.certificate.first().and_then(|der| Facts::of(der).ok()) else { return };
        // Between 70 and 90 per cent of its life, spread so that a fleet does not renew in step.
        let share = 0.7 + 0.2 * super::random_fraction();
        let life = facts.not_after.saturating_sub(facts.not_before);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a date to the second"
        )]
        let offset = (life as f64 * share) as i64;
        let at = facts.not_before.saturating_add(offset);
        self.renew_at = Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0)));
    }

    /// Whether this machine has an identity or could get one, as far as it can be told without asking for it. Changes
    /// nothing. `now`: Unix seconds.
    pub(super) async fn look(&self, now: i64) -> Result<Prospect, IdentityError> {
        for path in [&self.ca_file, &self.cert_file, &self.key_file] {
            // What may not be read may be there.
            if let Err(source) = std::fs::File::open(path)
                && source.kind() == std::io::ErrorKind::PermissionDenied
            {
                return Err(IdentityError::File { doing: "read", path: path.clone(), source });
            }
        }
        let why = match self.credentials() {
            Ok(credentials) => return self.look_at_ca(&credentials.ca).await,
            Err(why) => why,
        };
        let token = self.read_token(&why)?;
        if let Some(ago) = token.ends().and_then(|ends| now.checked_sub(ends)).filter(|ago| *ago >= 0) {
            return Err(IdentityError::Ended { ago: in_words(ago) });
        }
        self.checked_ca(&token).await?;
        Ok(Prospect::TokenFits)
    }

    /// Whether the cloud still has the CA that this machine joined. A CA may be signed anew with its key.
    async fn look_at_ca(&self, own: &CertificateDer<'_>) -> Result<Prospect, IdentityError> {
        let theirs = match self.fetch_ca().await {
            Ok(theirs) => theirs,
            Err(error @ IdentityError::Address(_)) => return Err(error),
            Err(error) => return Ok(Prospect::Away { why: error.to_string(), advice: error.advice() }),
        };
        let key = |der: &CertificateDer<'_>| Facts::of(der).map(|facts| facts.public_key).ok();
        if key(own) == key(&CertificateDer::from(theirs)) {
            Ok(Prospect::Joined)
        } else {
            Err(IdentityError::OtherCa { server: self.http_server.clone(), node: self.node.clone() })
        }
    }

    fn read_token(&self, why: &str) -> Result<JoinToken, IdentityError> {
        let token = match std::fs::read_to_string(&self.token_file) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => self.token.reveal().trim().to_owned(),
        };
        if token.is_empty() {
            return Err(IdentityError::NoToken(why.to_owned()));
        }
        Ok(token.parse()?)
    }

    /// The cloud's CA, if it is the one that the token names.
    async fn checked_ca(&self, token: &JoinToken) -> Result<Vec<u8>, IdentityError> {
        let ca = self.fetch_ca().await?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &ca);
        if hex(digest.as_ref()) == token.ca_hash {
            Ok(ca)
        } else {
            Err(IdentityError::WrongCa { server: self.http_server.clone() })
        }
    }

    async fn enroll(&mut self, why: &str) -> Result<(), IdentityError> {
        let token = self.read_token(why)?;
        tracing::info!(server = %self.http_server, "asking the cloud for this machine's certificate");
        let ca = self.checked_ca(&token).await?;
        write_file(&self.ca_file, pem("CERTIFICATE", &ca).as_bytes(), 0o644)?;
        self.request_certificate(None, Some(&token.jwt)).await?;
        tracing::info!("this machine has its certificate");
        Ok(())
    }

    /// The CA, over a connection that trusts anybody: the hash in the token is what protects.
    async fn fetch_ca(&self) -> Result<Vec<u8>, IdentityError> {
        let (status, body) = self.get("/ca.crt", unchecked_tls::client(), Vec::new(), Bytes::new()).await?;
        if status != 200 || Facts::of(&CertificateDer::from(body.clone())).is_err() {
            let what = format!("status {status} and no certificate to /ca.crt");
            return Err(IdentityError::Nonsense { server: self.http_server.clone(), what });
        }
        Ok(body)
    }

    async fn request_certificate(
        &mut self,
        renewal: Option<()>,
        jwt: Option<&str>,
    ) -> Result<(), IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{}", self.node));
        let csr = params.serialize_request(&key)?;

        let nonsense = |what: String| IdentityError::Nonsense { server: self.http_server.clone(), what };
        let ca = CertificateDer::from_pem_file(&self.ca_file)
            .map_err(|error| nonsense(format!("no usable CA in {}: {error}", self.ca_file.display())))?;
        let credentials = renewal.and_then(|()| self.credentials().ok());
        let client = tls::client(&ca, credentials)?;
        let mut headers = vec![("Nodename", self.node.to_string())];
        headers.extend(jwt.map(|jwt| ("Authorization", format!("Bearer {jwt}"))));
        let (status, body) =
            self.get("/edge.crt", client, headers, Bytes::copy_from_slice(csr.der())).await?;
        if status != 200 {
            let why: String =
                String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(300).collect();
            let server = self.http_server.clone();
            return Err(match status {
                // It is the token's fault.
                401 => IdentityError::Refused {
                    server,
                    why,
                    advice: ". A new token comes from `keadm gettoken` in the cloud",
                },
                400..=499 => IdentityError::Refused { server, why, advice: "" },
                _ => IdentityError::Nonsense { server, what: format!("status {status}: {why}") },
            });
        }
        let certificate = CertificateDer::from(body);
        let facts = Facts::of(&certificate).map_err(|error| nonsense(format!("no certificate: {error}")))?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(nonsense("a certificate for another key".into()));
        }
        // The new key waits beside the old one until its certificate is there: at every moment one whole pair is on disk,
        // since a machine without one would need a join token, and nobody may be near to bring it.
        write_file(&self.next_key_file(), sec1_pem(&key)?.as_bytes(), 0o600)?;
        write_file(&self.cert_file, pem("CERTIFICATE", &certificate).as_bytes(), 0o644)?;
        rename(&self.next_key_file(), &self.key_file)?;
        if let Ok(credentials) = self.credentials() {
            self.plan_renewal(&credentials);
        }
        Ok(())
    }

    async fn get(
        &self,
        path: &str,
        client: Arc<rustls::ClientConfig>,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<(u16, Vec<u8>), IdentityError> {
        let bad_address = || IdentityError::Address(self.http_server.clone());
        let authority =
            self.http_server.strip_prefix("https://").ok_or_else(bad_address)?.trim_end_matches('/');
        let (host, port) = super::proxy::split_authority(authority, 443).ok_or_else(bad_address)?;
        let server_name = ServerName::try_from(host.clone()).map_err(|_| bad_address())?;
        let nonsense = |what: String| IdentityError::Nonsense { server: self.http_server.clone(), what };
        let exchange = async {
            let stream = tls::stream(&host, port, server_name, client).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| nonsense(error.to_string()))?;
            let connection = tokio::spawn(connection);
            let mut request = hyper::Request::get(path).header("Host", authority);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            // A GET with a body, which is what this protocol wants; the length must stand in a header.
            let request = request
                .header("Content-Length", body.len())
                .body(Full::new(body))
                .map_err(|error| nonsense(error.to_string()))?;
            let response = sender.send_request(request).await.map_err(|error| nonsense(error.to_string()))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| nonsense(error.to_string()))?;
            connection.abort();
            Ok((status, body.to_bytes().to_vec()))
        };
        match tokio::time::timeout(REQUEST_LIMIT, exchange).await {
            Ok(done) => done,
            Err(_) => Err(nonsense(format!("nothing for {} s", REQUEST_LIMIT.as_secs()))),
        }
    }
}

/// What a look at this machine's identity finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It has a certificate of the CA that the cloud has.
    Joined,
    /// It has a certificate, and the cloud does not answer.
    Away { why: String, advice: &'static str },
    /// Its token names the CA of the cloud that answers, and has not ended.
    TokenFits,
}

/// Roughly: `3 minutes`, `2 days`.
fn in_words(secs: i64) -> String {
    let (n, unit) = match secs {
        ..=119 => (secs, "seconds"),
        120..=7199 => (secs / 60, "minutes"),
        7200..=172_799 => (secs / 3600, "hours"),
        _ => (secs / 86_400, "days"),
    };
    format!("{n} {unit}")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
