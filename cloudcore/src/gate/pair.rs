//! Certificates with their keys: made, read from files, put into Secrets and taken out of them. Called by `authority.rs`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ke_wire::enrolment;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::secrets::SecretData;
use crate::config::CloudHubConfig;

/// KubeEdge's own life of CA and server certificate: 364 times 100 days.
const LIFE: Duration = Duration::from_secs(36_400 * 86_400);
/// Clocks of edge machines may be a little behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Only one of certificate and key.
    #[error("{0} is there but {1} is not: give both or neither")]
    HalfPair(PathBuf, PathBuf),
    /// A file or Secret holds something else.
    #[error("{0} cannot be used: {1}")]
    Unusable(String, String),
    /// The API server refused.
    #[error("secret kubeedge/{0}: {1}")]
    Secret(&'static str, String),
    /// Key or certificate could not be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key, SEC1.
pub(super) struct Pair {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key_sec1: Vec<u8>,
}

pub(super) fn make_ca() -> Result<Pair, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "KubeEdge");
    params.serial_number = Some(1024_u64.into());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    live(&mut params, LIFE);
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(Pair { certificate, key_sec1: sec1(&key)? })
}

pub(super) fn make_server(
    config: &CloudHubConfig,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Pair, AuthorityError> {
    let names: Vec<&str> = config.names().collect();
    let addresses: Vec<IpAddr> = config.advertised().collect();
    server_pair(&names, &addresses, issuer)
}

pub(super) fn server_pair(
    names: &[&str],
    addresses: &[IpAddr],
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Pair, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "KubeEdge");
    params.distinguished_name.push(DnType::CommonName, "KubeEdge");
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    live(&mut params, LIFE);
    let certificate = params.signed_by(&key, issuer)?.der().clone();
    Ok(Pair { certificate, key_sec1: sec1(&key)? })
}

pub(super) fn live(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
}

fn sec1(key: &KeyPair) -> Result<Vec<u8>, AuthorityError> {
    let sec1 = enrolment::sec1_from_pkcs8(&key.serialize_der(), key.public_key_raw());
    sec1.ok_or(AuthorityError::Make(rcgen::Error::CouldNotParseKeyPair))
}

pub(super) fn key_pair(what: &str, sec1: &[u8]) -> Result<KeyPair, AuthorityError> {
    let unusable = |why: &str| AuthorityError::Unusable(what.to_owned(), why.to_owned());
    let pkcs8 = enrolment::pkcs8_from_sec1(sec1);
    let pkcs8 = pkcs8
        .ok_or_else(|| unusable("it must be an ECDSA P-256 key in SEC1 form, as KubeEdge makes them"))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| unusable(&error.to_string()))
}

/// Whether a kept server certificate is of this CA, lasts, and names every configured address and name.
pub(super) fn serves(
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    config: &CloudHubConfig,
) -> bool {
    let (Ok((_, server)), Ok((_, ca))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(ca))
    else {
        return false;
    };
    let of_this_ca = server.verify_signature(Some(ca.public_key())).is_ok();
    let names =
        server.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.clone());
    let names = names.unwrap_or_default();
    let has_address = |wanted: IpAddr| {
        let wanted = match wanted {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        names.iter().any(
            |name| matches!(name, x509_parser::prelude::GeneralName::IPAddress(bytes) if *bytes == wanted),
        )
    };
    let has_name = |wanted: &str| {
        names
            .iter()
            .any(|name| matches!(name, x509_parser::prelude::GeneralName::DNSName(text) if *text == wanted))
    };
    of_this_ca
        && server.validity().is_valid()
        && config.advertised().all(has_address)
        && config.names().all(has_name)
}

pub(super) fn pair_in_files(certificate: &Path, key: &Path) -> Result<Option<Pair>, AuthorityError> {
    let unusable = |path: &Path, why: String| AuthorityError::Unusable(path.display().to_string(), why);
    // A file that may not be looked at is not a file that is missing: another CA would lock every node out.
    let is_there = |path: &Path| path.try_exists().map_err(|error| unusable(path, error.to_string()));
    match (is_there(certificate)?, is_there(key)?) {
        (false, false) => return Ok(None),
        (true, false) => return Err(AuthorityError::HalfPair(certificate.into(), key.into())),
        (false, true) => return Err(AuthorityError::HalfPair(key.into(), certificate.into())),
        (true, true) => {}
    }
    let der = CertificateDer::from_pem_file(certificate)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let key_sec1 =
        match PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))? {
            PrivateKeyDer::Sec1(sec1) => sec1.secret_sec1_der().to_vec(),
            _ => return Err(unusable(key, "it must be an `EC PRIVATE KEY`".into())),
        };
    Ok(Some(Pair { certificate: der, key_sec1 }))
}

pub(super) fn to_data((certificate, key): (&str, &str), pair: &Pair) -> SecretData {
    SecretData::from([
        (certificate.to_owned(), pair.certificate.to_vec()),
        (key.to_owned(), pair.key_sec1.clone()),
    ])
}

pub(super) fn from_data(
    secret: &'static str,
    names: (&str, &str),
    data: &SecretData,
) -> Result<Pair, AuthorityError> {
    match (data.get(names.0), data.get(names.1)) {
        (Some(certificate), Some(key)) => {
            Ok(Pair { certificate: CertificateDer::from(certificate.clone()), key_sec1: key.clone() })
        }
        _ => Err(AuthorityError::Secret(secret, format!("it must hold {} and {}", names.0, names.1))),
    }
}
