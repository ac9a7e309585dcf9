//! CA, server certificate, tokens and signing, on Secrets in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::gate::ClientCertificate;

/// Secrets that forget with the test.
#[derive(Default)]
pub(crate) struct MemorySecrets(pub(crate) Mutex<BTreeMap<String, SecretData>>);

#[async_trait]
impl Secrets for MemorySecrets {
    async fn get(&self, name: &str) -> Result<Option<SecretData>, String> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
    async fn create(&self, name: &str, data: SecretData) -> Result<bool, String> {
        let mut secrets = self.0.lock().unwrap();
        if secrets.contains_key(name) {
            return Ok(false);
        }
        Ok(secrets.insert(name.to_owned(), data).is_none())
    }
    async fn put(&self, name: &str, data: SecretData) -> Result<(), String> {
        self.0.lock().unwrap().insert(name.to_owned(), data);
        Ok(())
    }
}

pub(crate) fn config() -> CloudHubConfig {
    let nowhere = || PathBuf::from("/no/such/file");
    CloudHubConfig {
        advertise_address: vec!["127.0.0.1".into(), "::1".into()],
        dns_names: vec![String::new(), "cloud.example".into()],
        tls_ca_file: nowhere(),
        tls_ca_key_file: nowhere(),
        tls_cert_file: nowhere(),
        tls_private_key_file: nowhere(),
        ..CloudHubConfig::default()
    }
}

pub(crate) fn csr(node: &str) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

#[tokio::test]
async fn a_second_cloudcore_takes_the_first_ones_authority_over() {
    let secrets = MemorySecrets::default();
    let first = Authority::open(&config(), &secrets).await.unwrap();
    let second = Authority::open(&config(), &secrets).await.unwrap();
    assert_eq!(first.ca, second.ca);
    assert_eq!(first.server, second.server);
    let wider = CloudHubConfig { advertise_address: vec!["192.0.2.9".into()], ..config() };
    let third = Authority::open(&wider, &secrets).await.unwrap();
    assert_eq!(first.ca, third.ca);
    assert_ne!(first.server, third.server, "the certificate must name the new address");
    let token = secrets.0.lock().unwrap()[TOKEN_SECRET]["tokendata"].clone();
    let token: JoinToken = String::from_utf8(token).unwrap().parse().unwrap();
    let shown = Shown { id: Some("cloudcore-0".into()), made_by: None };
    assert_eq!(first.check_token(&token.jwt, unix_now()), Ok(shown));
}

/// As seen by whoever starts at the same moment: not there when looked for, there when made.
struct Racing(MemorySecrets, Mutex<bool>);

#[async_trait]
impl Secrets for Racing {
    async fn get(&self, name: &str) -> Result<Option<SecretData>, String> {
        if name == CA_SECRET && std::mem::replace(&mut *self.1.lock().unwrap(), false) {
            return Ok(None);
        }
        self.0.get(name).await
    }
    async fn create(&self, name: &str, data: SecretData) -> Result<bool, String> {
        self.0.create(name, data).await
    }
    async fn put(&self, name: &str, data: SecretData) -> Result<(), String> {
        self.0.put(name, data).await
    }
}

/// A CA as Go's library makes it in KubeEdge's profile, its key in Go's form, and a token signed with that key by Go. For
/// this test only.
const GO_CA: &str = "MIIBeTCCAR+gAwIBAgICBAAwCgYIKoZIzj0EAwIwEzERMA8GA1UEAxMIS3ViZUVkZ2UwIBcNMjYwMTAxMDAwMDAwWhgPMjEyNTA4MzAwMDAwMDBaMBMxETAPBgNVBAMTCEt1YmVFZGdlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYpL/KXrHmD8mxrsyvGG79mMKMdulxBzP6qXUgrgVyWKSYpayOMhn4FdQvB2sSOAXZkUm726nWT+7qfsvVIPc4KNhMF8wDgYDVR0PAQH/BAQDAgKkMB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcDAjAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBQwwepcRsPNXnNR8TF5U889VgqgEjAKBggqhkjOPQQDAgNIADBFAiEAttKeFUVWaKQ5wwJq4dl6zHuBzFc/y0NSEXitU57MuLkCIBIl+a34WAUNTk81x13r3UZRQh1yOopu+c66cha4OFWk";
const GO_KEY: &str = "MHcCAQEEINaVshp9fNHJ3AA9JsflDK/vjLEh7zsUPHdv4R0xBJ8QoAoGCCqGSM49AwEHoUQDQgAEYpL/KXrHmD8mxrsyvGG79mMKMdulxBzP6qXUgrgVyWKSYpayOMhn4FdQvB2sSOAXZkUm726nWT+7qfsvVIPc4A==";
const GO_JWT: &str = "eyJhbGciOiJIUzM4NCIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDB9.8M-T8X60uXiqMMnd1yX4iDdiH_nKA10MwFijlxWnvzxe4do_Gq-cLWb8hz-MFyBX";

/// What a Go cloudcore leaves behind.
pub(crate) fn of_kubeedge() -> MemorySecrets {
    let bytes = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let data = SecretData::from([("cadata".into(), bytes(GO_CA)), ("cakeydata".into(), bytes(GO_KEY))]);
    MemorySecrets(Mutex::new(BTreeMap::from([(CA_SECRET.to_owned(), data)])))
}

#[tokio::test]
async fn a_kubeedge_ca_is_taken_over_as_it_is() {
    let secrets = of_kubeedge();
    let authority = Authority::open(&config(), &secrets).await.unwrap();
    let kept = of_kubeedge().0.lock().unwrap()[CA_SECRET].clone();
    assert_eq!(secrets.0.lock().unwrap()[CA_SECRET], kept);
    assert_eq!(authority.check_token(GO_JWT, 4_102_444_799), Ok(Shown { id: None, made_by: None }));
    assert!(authority.check_token(GO_JWT, 4_102_444_801).is_err());
    let (_, ca) = X509Certificate::from_der(&authority.ca).unwrap();
    let signed = authority.sign(&"edge-1".parse().unwrap(), &csr("edge-1").1).unwrap();
    let (_, edge) = X509Certificate::from_der(&signed.certificate).unwrap();
    assert_eq!(
        edge.issuer().as_raw(),
        ca.subject().as_raw(),
        "the name byte for byte, or nobody finds the issuer"
    );
    edge.verify_signature(Some(ca.public_key())).unwrap();
}

#[tokio::test]
async fn two_that_start_at_once_have_one_ca() {
    let secrets = Racing(MemorySecrets::default(), Mutex::new(false));
    let first = Authority::open(&config(), &secrets).await.unwrap();
    *secrets.1.lock().unwrap() = true;
    let second = Authority::open(&config(), &secrets).await.unwrap();
    assert!(!*secrets.1.lock().unwrap(), "it looked and saw nothing");
    assert_eq!(first.ca, second.ca);
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[tokio::test]
async fn files_win_and_half_a_pair_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("rootCA.crt"), folder.path().join("rootCA.key"));
    let config =
        CloudHubConfig { tls_ca_file: certificate.clone(), tls_ca_key_file: key.clone(), ..config() };
    let made = make_ca().unwrap();
    std::fs::write(&certificate, pem("CERTIFICATE", &made.certificate)).unwrap();
    let secrets = MemorySecrets::default();
    assert!(matches!(Authority::open(&config, &secrets).await, Err(AuthorityError::HalfPair(..))));
    std::fs::write(&key, "no key").unwrap();
    let error = Authority::open(&config, &secrets).await.err().unwrap().to_string();
    assert!(error.contains("rootCA.key"), "{error}");
    std::fs::write(&key, pem("EC PRIVATE KEY", &made.key_sec1)).unwrap();
    let authority = Authority::open(&config, &secrets).await.unwrap();
    assert_eq!(authority.ca, made.certificate);
    assert_eq!(secrets.0.lock().unwrap()[CA_SECRET]["cakeydata"], made.key_sec1);
}

#[tokio::test]
async fn tokens_end_and_need_the_right_key() {
    let authority = Authority::open(&config(), &MemorySecrets::default()).await.unwrap();
    let other = Authority::open(&config(), &MemorySecrets::default()).await.unwrap();
    let check = |jwt: &str, now, expected: Result<(), &'static str>| {
        let found = authority.check_token(jwt, now).map(drop);
        assert_eq!(found, expected.map_err(SigningError::Token), "{now}");
    };
    let jwt = authority.token("a", 1000).jwt;
    check(&jwt, 999, Ok(()));
    check(&jwt, 1000, Err("err: token is expired"));
    check(&other.token("a", 1000).jwt, 999, Err("err: signature is invalid"));
    check("", 999, Err("token cannot be split"));
    check("a.b.c", 999, Err("err: token is malformed"));
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
    check(&none, 999, Err("err: signing method is invalid"));
}

#[tokio::test]
async fn a_series_that_was_revoked_is_not_gone_on_with() {
    let secrets = MemorySecrets::default();
    let list = SecretData::from([("cloudcore-0".into(), br#"{"revoked":1}"#.to_vec())]);
    secrets.put(join_tokens::SECRET, list).await.unwrap();
    Authority::open(&config(), &secrets).await.unwrap();
    let token = secrets.0.lock().unwrap()[TOKEN_SECRET]["tokendata"].clone();
    let token: JoinToken = String::from_utf8(token).unwrap().parse().unwrap();
    assert_eq!(token.id().as_deref(), Some("cloudcore-1"));
}

#[tokio::test]
async fn only_the_own_name_is_signed() {
    let authority = Authority::open(&config(), &MemorySecrets::default()).await.unwrap();
    let node: NodeName = "edge-1".parse().unwrap();
    let (_, request) = csr("edge-1");
    let signed = authority.sign(&node, &request).unwrap();
    let certificate = ClientCertificate::read(&CertificateDer::from(signed.certificate)).unwrap();
    assert_eq!(certificate.common_name, "system:node:edge-1");
    assert_eq!(certificate.fingerprint, signed.fingerprint);
    assert!(authority.sign(&node, &csr("edge-2").1).is_err());
    assert!(authority.sign(&node, b"no request").is_err());
    assert!(authority.sign(&node, &request[..request.len() - 1]).is_err());
}
