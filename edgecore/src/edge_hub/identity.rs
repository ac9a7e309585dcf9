//! Who this machine is to the cloud: key and certificate on disk, first enrolment with a join token, rotation.
//!
//! The files are KubeEdge's, so that either program finds the other's. A key never leaves this machine. Certificate and key
//! are written under new names and renamed, key first: a kill in between leaves a pair that does not fit, which the next
//! start notices and enrols again where it may, or says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use ke_run::config::Secret;
use ke_wire::NodeName;
use ke_wire::enrolment::{self, InvalidToken, JoinToken};
use rcgen::PublicKeyData;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::tls::{self, Credentials, DialError};
use crate::config::EdgeHubConfig;
use crate::unchecked_tls;

/// A certificate or CA is a few hundred bytes; more than this is somebody else answering.
const MAX_BODY: usize = 1 << 20;
/// The cloud has this long for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Why this machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token cannot be one.
    #[error(
        "the join token is not valid: {0}. Get a new one in the cloud with `keadm gettoken` for `keadm join --token`, or put it into modules.edgeHub.token"
    )]
    Token(#[from] InvalidToken),
    /// No certificate, and no token to get one.
    #[error(
        "this machine has no certificate ({0}) and no join token: get one in the cloud with `keadm gettoken` for `keadm join --token`, or put it into modules.edgeHub.token"
    )]
    NoToken(String),
    /// The token was good once.
    #[error(
        "the join token ended {ago} ago by this machine's clock: get a new one in the cloud with `keadm gettoken`, or set the clock if it is wrong"
    )]
    Ended { ago: String },
    /// The cloud's CA is not the one that the token names.
    #[error(
        "the CA of {server} is not the one that the join token names: the token is another cloud's, or somebody stands between. Get a new token with `keadm gettoken` and check modules.edgeHub.httpServer"
    )]
    WrongCa { server: String },
    /// The certificate is of another CA than the one that the cloud has now.
    #[error(
        "{server} has another CA than the one that signed this machine's certificate, and will not take it: type `keadm reset edge` here, `kubectl delete node {node}` in the cloud, then `keadm join` with a new token"
    )]
    OtherCa { server: String, node: NodeName },
    /// The cloud said no.
    #[error("{server} refused to sign this machine's certificate: {why}{advice}")]
    Refused { server: String, why: String, advice: &'static str },
    /// The cloud is not there; worth trying again.
    #[error("{0}")]
    Unreachable(#[from] DialError),
    /// The cloud answered nonsense; worth trying again.
    #[error("{server} answered {what}")]
    Nonsense { server: String, what: String },
    /// A file cannot be read or written.
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// Key or request could not be made.
    #[error("make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// The node's name does not fit into the configured addresses.
    #[error(
        "modules.edgeHub.httpServer: {0:?} is no https address; it has the form https://cloud.example:10002"
    )]
    Address(String),
}

impl IdentityError {
    /// Whether trying again cannot help: a person must act.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Token(_)
            | Self::Ended { .. }
            | Self::NoToken(_)
            | Self::WrongCa { .. }
            | Self::OtherCa { .. }
            | Self::Refused { .. }
            | Self::Address(_) => true,
            Self::Unreachable(_) | Self::Nonsense { .. } | Self::File { .. } | Self::Request(_) => false,
        }
    }
}

impl IdentityError {
    /// What to do about it, where its own words do not say so.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable(DialError::Connect(..) | DialError::Timeout(_)) => {
                "see that this address is right, that cloudcore runs, and that no firewall on the way closes the port"
            }
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "type it again with sudo"
            }
            _ => "",
        }
    }
}

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

/// What this module needs to know of a certificate. Times in Unix seconds.
struct Facts {
    common_name: String,
    public_key: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Facts {
    fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            common_name: common_name.unwrap_or_default().to_owned(),
            public_key: parsed.public_key().raw.to_vec(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }
}

/// Whether this is the key of that certificate.
fn fits(key: &PrivateKeyDer<'_>, facts: &Facts) -> Result<bool, rustls::Error> {
    let signing = rustls::crypto::ring::sign::any_supported_type(key)?;
    Ok(signing.public_key().is_some_and(|public| public.as_ref() == facts.public_key))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// The key in the form that Go edges read.
fn sec1_pem(key: &rcgen::KeyPair) -> Result<String, IdentityError> {
    match enrolment::sec1_from_pkcs8(&key.serialize_der(), key.public_key_raw()) {
        Some(sec1) => Ok(pem("EC PRIVATE KEY", &sec1)),
        None => Err(IdentityError::Request(rcgen::Error::CouldNotParseKeyPair)),
    }
}

/// Whole or not at all, and on disk: written beside, synced, renamed, folder synced.
fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |doing: &'static str| move |source| IdentityError::File { doing, path: path.into(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A left-over of a killed run may have other rights.
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed("write"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    rename(&beside, path)
}

/// One file takes the place of another, and the folder is on disk.
fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    let failed = |doing: &'static str| move |source| IdentityError::File { doing, path: to.into(), source };
    std::fs::rename(from, to).map_err(failed("write"))?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_go_edges_read_them() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let text = sec1_pem(&key).unwrap();
        assert!(text.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        let key_der = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
        let signing = rustls::crypto::ring::sign::any_supported_type(&key_der).unwrap();
        assert_eq!(signing.public_key().unwrap().as_ref(), key.subject_public_key_info());
    }

    #[test]
    fn a_renewal_cut_short_leaves_a_pair() {
        let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = |key: &rcgen::KeyPair| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:e1");
            pem("CERTIFICATE", params.self_signed(key).unwrap().der())
        };
        let (old, new) = (key(), key());
        // What is on disk when the run is killed: the certificate's key, and whether the next key's file is there.
        let check = |held: &rcgen::KeyPair, has_next: bool, expected: &rcgen::KeyPair| {
            let folder = tempfile::tempdir().unwrap();
            let config = EdgeHubConfig {
                tls_ca_file: folder.path().join("ca.crt"),
                tls_cert_file: folder.path().join("server.crt"),
                tls_private_key_file: folder.path().join("server.key"),
                ..EdgeHubConfig::default()
            };
            let identity = Identity::new(&config, "e1".parse().unwrap());
            std::fs::write(&config.tls_ca_file, certificate(&old)).unwrap();
            std::fs::write(&config.tls_private_key_file, sec1_pem(&old).unwrap()).unwrap();
            std::fs::write(&config.tls_cert_file, certificate(held)).unwrap();
            if has_next {
                std::fs::write(identity.next_key_file(), sec1_pem(&new).unwrap()).unwrap();
            }
            identity.adopt_next_key().unwrap();
            let credentials = identity.credentials().unwrap();
            let signing = rustls::crypto::ring::sign::any_supported_type(&credentials.key).unwrap();
            assert_eq!(signing.public_key().unwrap().as_ref(), expected.subject_public_key_info());
        };
        check(&old, false, &old);
        check(&old, true, &old);
        check(&new, true, &new);
    }

    /// Answers one request with this CA, as a cloud does.
    async fn serve_ca(ca: Vec<u8>) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let own = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own], key).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", ca.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&ca).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        format!("https://{address}")
    }

    #[tokio::test]
    async fn a_cloud_that_has_another_ca_is_told_from_one_that_is_away() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = |key: &rcgen::KeyPair, name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.self_signed(key).unwrap().der().to_vec()
        };
        let (ours, other) = (key(), key());
        let look = async |http_server: String| {
            let folder = tempfile::tempdir().unwrap();
            let config = EdgeHubConfig {
                http_server,
                tls_ca_file: folder.path().join("ca.crt"),
                tls_cert_file: folder.path().join("server.crt"),
                tls_private_key_file: folder.path().join("server.key"),
                ..EdgeHubConfig::default()
            };
            std::fs::write(&config.tls_ca_file, pem("CERTIFICATE", &certificate(&ours, "CA"))).unwrap();
            std::fs::write(&config.tls_cert_file, pem("CERTIFICATE", &certificate(&ours, "system:node:e1")))
                .unwrap();
            std::fs::write(&config.tls_private_key_file, sec1_pem(&ours).unwrap()).unwrap();
            Identity::new(&config, "e1".parse().unwrap()).look(0).await
        };
        // Signed anew, with the key it had.
        let same = serve_ca(certificate(&ours, "CA of 2027")).await;
        assert_eq!(look(same).await.unwrap(), Prospect::Joined);
        let error = look(serve_ca(certificate(&other, "CA")).await).await.unwrap_err().to_string();
        assert!(error.contains("another CA") && error.contains("kubectl delete node e1"), "{error}");
        let Prospect::Away { why, advice } = look("https://127.0.0.1:1".into()).await.unwrap() else {
            panic!("nobody is there")
        };
        assert!(why.contains("Connection refused") && advice.contains("cloudcore runs"), "{why}: {advice}");
    }

    #[test]
    fn files_that_may_not_be_read_want_sudo() {
        let of = |kind: std::io::ErrorKind| {
            IdentityError::File { doing: "read", path: "/x".into(), source: kind.into() }.advice()
        };
        assert_eq!(of(std::io::ErrorKind::PermissionDenied), "type it again with sudo");
        assert_eq!(of(std::io::ErrorKind::IsADirectory), "");
    }

    #[test]
    fn files_are_written_whole_with_their_rights() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certs/server.key");
        write_file(&path, b"one", 0o600).unwrap();
        write_file(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
