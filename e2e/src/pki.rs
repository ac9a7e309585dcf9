//! The control plane's certificate authority and the certificates it gives out, as PEM files.
//!
//! Made anew for each cluster and gone with it. Called by `cluster`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// Where one certificate and its key lie.
#[derive(Clone, Debug)]
pub struct CertFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    pub files: CertFiles,
}

impl Ca {
    /// Writes `<name>.crt` and `<name>.key` into `folder`.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate().context("make a CA key")?;
        let mut params = params(name, &[], &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).context("sign the CA certificate")?;
        let files = write(folder, name, &cert.pem(), &key)?;
        Ok(Self { issuer: Issuer::new(params, key), folder: folder.into(), files })
    }

    /// A certificate for both ends of a connection. `groups` become the user's groups in Kubernetes,
    /// `names` are the DNS names and addresses a server answers for.
    pub fn issue(&self, name: &str, user: &str, groups: &[&str], names: &[&str]) -> Result<CertFiles> {
        let key = KeyPair::generate().with_context(|| format!("make a key for {name}"))?;
        let mut params = params(user, groups, names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).with_context(|| format!("sign {name}"))?;
        write(&self.folder, name, &cert.pem(), &key)
    }
}

/// A key pair without a certificate, as service account tokens are signed with: `<name>.key`, `<name>.pub`.
pub fn key_pair(folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate().with_context(|| format!("make key {name}"))?;
    let (secret, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    write_secret(&secret, &key.serialize_pem())?;
    fs::write(&public, key.public_key_pem()).with_context(|| format!("write {}", public.display()))?;
    Ok((secret, public))
}

fn params(user: &str, groups: &[&str], names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("names of a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    // An hour back for clocks that differ; longer than any run.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
    Ok(params)
}

fn write(folder: &Path, name: &str, cert: &str, key: &KeyPair) -> Result<CertFiles> {
    let files =
        CertFiles { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    fs::write(&files.cert, cert).with_context(|| format!("write {}", files.cert.display()))?;
    write_secret(&files.key, &key.serialize_pem())?;
    Ok(files)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
