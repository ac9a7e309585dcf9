//! The certificate authority: CA, server certificate, join tokens, in KubeEdge's files and Secrets, so that either program
//! takes over the other's.
//!
//! Files win over Secrets, Secrets over making new ones. Two cloudcores that start at once end with the same CA: whoever
//! creates the Secret second reads the first's. Unlike KubeEdge, a server certificate that does not name every configured
//! address is made anew. Called by `main.rs`, enrolment and the listeners.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ke_run::shutdown::Shutdown;
use ke_wire::NodeName;
use ke_wire::enrolment::JoinToken;
use ke_wire::join_tokens::{self, Claims};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivateSec1KeyDer};
use serde::Deserialize;

use super::certificate::Fingerprint;
use super::pair::{
    AuthorityError, from_data, key_pair, live, make_ca, make_server, pair_in_files, server_pair, serves,
    to_data,
};
use super::secrets::{SecretData, Secrets};
use crate::config::CloudHubConfig;

const CA_SECRET: &str = "casecret";
const SERVER_SECRET: &str = "cloudcoresecret";
const TOKEN_SECRET: &str = "tokensecret";

/// Why a request for a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The request is no good.
    #[error("failed to sign certs for edgenode {node}, err: {why}")]
    Request { node: String, why: String },
    /// The token is no good. The texts are KubeEdge's, which people search for.
    #[error("token validation failure, {0}")]
    Token(&'static str),
}

/// CA, server pair and what they sign.
pub struct Authority {
    ca: CertificateDer<'static>,
    ca_key_sec1: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    server: CertificateDer<'static>,
    server_key: PrivateKeyDer<'static>,
    edge_life: Duration,
    token_refresh: Duration,
}

impl Authority {
    /// Takes over or makes CA and server certificate, and writes the first join token.
    pub async fn open(config: &CloudHubConfig, secrets: &dyn Secrets) -> Result<Self, AuthorityError> {
        let secret_error = |name| move |why| AuthorityError::Secret(name, why);
        let names = ("cadata", "cakeydata");
        let ca = match pair_in_files(&config.tls_ca_file, &config.tls_ca_key_file)? {
            Some(pair) => {
                secrets.put(CA_SECRET, to_data(names, &pair)).await.map_err(secret_error(CA_SECRET))?;
                pair
            }
            None => match secrets.get(CA_SECRET).await.map_err(secret_error(CA_SECRET))? {
                Some(data) => from_data(CA_SECRET, names, &data)?,
                None => {
                    let pair = make_ca()?;
                    let first = secrets.create(CA_SECRET, to_data(names, &pair)).await;
                    if first.map_err(secret_error(CA_SECRET))? {
                        pair
                    } else {
                        let data = secrets.get(CA_SECRET).await.map_err(secret_error(CA_SECRET))?;
                        from_data(CA_SECRET, names, &data.unwrap_or_default())?
                    }
                }
            },
        };
        let issuer = Issuer::from_ca_cert_der(&ca.certificate, key_pair(CA_SECRET, &ca.key_sec1)?)?;

        let names = ("cloudcoredata", "cloudcorekeydata");
        let server = match pair_in_files(&config.tls_cert_file, &config.tls_private_key_file)? {
            Some(pair) => {
                secrets
                    .put(SERVER_SECRET, to_data(names, &pair))
                    .await
                    .map_err(secret_error(SERVER_SECRET))?;
                if !serves(&pair.certificate, &ca.certificate, config) {
                    tracing::warn!(
                        file = %config.tls_cert_file.display(),
                        "the server certificate is of another CA, has ended, or lacks an address of advertiseAddress or a \
                         name of dnsNames: machines that dial there will refuse it"
                    );
                }
                pair
            }
            None => {
                let kept = secrets.get(SERVER_SECRET).await.map_err(secret_error(SERVER_SECRET))?;
                let kept = kept.map(|data| from_data(SERVER_SECRET, names, &data)).transpose()?;
                match kept.filter(|pair| serves(&pair.certificate, &ca.certificate, config)) {
                    Some(pair) => pair,
                    None => {
                        let pair = make_server(config, &issuer)?;
                        secrets
                            .put(SERVER_SECRET, to_data(names, &pair))
                            .await
                            .map_err(secret_error(SERVER_SECRET))?;
                        pair
                    }
                }
            }
        };
        let authority = Self {
            ca: ca.certificate,
            ca_key_sec1: ca.key_sec1,
            issuer,
            server: server.certificate,
            server_key: PrivateSec1KeyDer::from(server.key_sec1).into(),
            edge_life: days(config.edge_cert_signing_duration.get()),
            token_refresh: hours(config.token_refresh_duration.get()),
        };
        authority.refresh_token(secrets).await?;
        Ok(authority)
    }

    /// The CA certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The pair that cloudcore shows.
    pub fn server_pair(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.server.clone(), self.server_key.clone_key())
    }

    /// Certificate and key for another port of this process that serves under `host`; nothing of it is kept.
    pub fn serve_as(
        &self,
        host: &ServedAs,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let pair = match host {
            ServedAs::Name(name) => server_pair(&[name], &[], &self.issuer)?,
            ServedAs::Address(address) => server_pair(&[], &[*address], &self.issuer)?,
        };
        Ok((pair.certificate, PrivateSec1KeyDer::from(pair.key_sec1).into()))
    }

    /// Writes a new token at every refresh until shutdown. Older ones stay valid to their own end.
    pub async fn refresh_tokens(&self, secrets: &dyn Secrets, shutdown: &Shutdown) {
        let mut pause = self.token_refresh;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.wait() => return,
            }
            pause = match self.refresh_token(secrets).await {
                Ok(()) => self.token_refresh,
                Err(error) => {
                    tracing::warn!(%error, "the join token could not be refreshed; trying again in a minute");
                    Duration::from_secs(60)
                }
            };
        }
    }

    async fn refresh_token(&self, secrets: &dyn Secrets) -> Result<(), AuthorityError> {
        let list = secrets.get(join_tokens::SECRET).await;
        let list = list.map_err(|why| AuthorityError::Secret(join_tokens::SECRET, why))?;
        let series = join_tokens::next_series(list.as_ref());
        let token = self.token(&series, unix_now() + 2 * self.token_refresh.as_secs());
        let data = SecretData::from([("tokendata".to_owned(), token.to_string().into_bytes())]);
        secrets.put(TOKEN_SECRET, data).await.map_err(|why| AuthorityError::Secret(TOKEN_SECRET, why))
    }

    /// A token of this id that ends at this Unix second.
    pub(crate) fn token(&self, id: &str, expires: u64) -> JoinToken {
        let signed = Claims { exp: expires, jti: Some(id.to_owned()), iss: None }.to_sign();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.ca_key_sec1);
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.ca);
        let ca_hash = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        JoinToken { ca_hash, jwt: format!("{signed}.{signature}") }
    }

    /// Checks the part of a token that machines send. `now` in Unix seconds. A token without an end is refused. Whether it was
    /// revoked is not known here.
    pub fn check_token(&self, jwt: &str, now: u64) -> Result<Shown, SigningError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        #[derive(Deserialize)]
        struct Claims {
            exp: Option<f64>,
            nbf: Option<f64>,
            jti: Option<String>,
            iss: Option<String>,
        }
        let bad = |why| Err(SigningError::Token(why));
        let Some((signed, signature)) = jwt.rsplit_once('.') else { return bad("token cannot be split") };
        let Some((header, claims)) = signed.split_once('.') else { return bad("token cannot be split") };
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let (Some(header), Some(claims), Some(signature)) =
            (decoded(header), decoded(claims), decoded(signature))
        else {
            return bad("err: token is malformed");
        };
        let Ok(Header { alg }) = serde_json::from_slice(&header) else {
            return bad("err: token is malformed");
        };
        let algorithm = match alg.as_str() {
            "HS256" => ring::hmac::HMAC_SHA256,
            "HS384" => ring::hmac::HMAC_SHA384,
            "HS512" => ring::hmac::HMAC_SHA512,
            _ => return bad("err: signing method is invalid"),
        };
        let key = ring::hmac::Key::new(algorithm, &self.ca_key_sec1);
        if ring::hmac::verify(&key, signed.as_bytes(), &signature).is_err() {
            return bad("err: signature is invalid");
        }
        let Ok(Claims { exp, nbf, jti, iss }) = serde_json::from_slice(&claims) else {
            return bad("err: token is malformed");
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double")]
        let now = now as f64;
        match exp {
            Some(exp) if exp > now => {}
            Some(_) => return bad("err: token is expired"),
            None => return bad("err: token has no end"),
        }
        if nbf.is_some_and(|nbf| nbf > now) {
            return bad("err: token is not valid yet");
        }
        Ok(Shown { id: jti, made_by: iss })
    }

    /// Signs a machine's request. Its subject must be this node's: unlike KubeEdge, which signs any name.
    pub fn sign(&self, node: &NodeName, csr: &[u8]) -> Result<SignedEdge, SigningError> {
        let refuse = |why: &str| SigningError::Request { node: node.to_string(), why: why.to_owned() };
        let request = CertificateSigningRequestDer::from(csr);
        let mut request = rcgen::CertificateSigningRequestParams::from_der(&request)
            .map_err(|_| refuse("the request is no certificate request, or its signature does not fit"))?;
        let text = |kind: &DnType| match request.params.distinguished_name.get(kind) {
            Some(rcgen::DnValue::Utf8String(text)) => text.clone(),
            Some(rcgen::DnValue::PrintableString(text)) => text.as_str().to_owned(),
            _ => String::new(),
        };
        let wanted = format!("system:node:{node}");
        let (common_name, organization) = (text(&DnType::CommonName), text(&DnType::OrganizationName));
        if common_name != wanted || organization != "system:nodes" {
            return Err(refuse(&format!(
                "the request is for {organization}/{common_name}, not for system:nodes/{wanted}"
            )));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        live(&mut params, self.edge_life);
        request.params = params;
        let fingerprint =
            Fingerprint::of_key(&rcgen::PublicKeyData::subject_public_key_info(&request.public_key));
        let certificate = request.signed_by(&self.issuer).map_err(|error| refuse(&error.to_string()))?;
        Ok(SignedEdge { certificate: certificate.der().to_vec(), fingerprint })
    }
}

/// A rightly signed token that has not ended, by what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// `None`: KubeEdge's, which cannot be revoked.
    pub id: Option<String>,
    /// `None`: a cloudcore.
    pub made_by: Option<String>,
}

/// What clients dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedAs {
    /// A name.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A certificate for an edge machine.
pub struct SignedEdge {
    /// DER.
    pub certificate: Vec<u8>,
    /// Of its key.
    pub fingerprint: Fingerprint,
}

fn days(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs() * 86_400)
}

fn hours(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs() * 3600)
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests;
