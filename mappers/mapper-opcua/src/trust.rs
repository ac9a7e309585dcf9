//! Keys and certificates on disk: what the mapper shows to servers, and by what it knows a server again.
//!
//! The mapper has one key pair, made on first use. A server is whom the manifest's `remoteCertificate` says, or else who
//! answered at that address the first time; another certificate there is refused, never taken silently. Host names and
//! dates in certificates are not looked at: the whole certificate is compared, and field devices have odd names and clocks.
//! Files are small and read while connecting only. Called by `session.rs`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use opcua::types::{ApplicationDescription, LocalizedText};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::settings::KeyPair;

/// Under which name servers list the mapper.
pub const APPLICATION_NAME: &str = "Isthmus OPC-UA mapper";

/// Ten years: people add the certificate to their servers by hand.
const OWN_CERTIFICATE_DAYS: u32 = 3650;

/// Why there are no keys, or no trust. Texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A directory or file of the mapper's own.
    #[error("{action} {path}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The library made no keys.
    #[error("make a key pair in {0}: {1}")]
    Make(PathBuf, String),
    /// A file that the manifest names.
    #[error("{key} names {path}, which {problem}")]
    File {
        /// The setting.
        key: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else answers.
    #[error("{0}")]
    Stranger(String),
}

/// The mapper's directory of keys and certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
    /// Two devices that connect at once must not both make the key pair.
    making: Arc<Mutex<()>>,
}

/// A key pair that can be used.
#[derive(Debug)]
pub struct Own {
    /// Where it is.
    pub files: KeyPair,
    /// What it certifies.
    pub certificate: X509,
    /// Its key.
    pub private_key: PrivateKey,
    /// Its application URI. Servers compare it with what the client calls itself.
    pub application_uri: String,
}

impl Pki {
    /// Nothing is made before it is needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, making: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The mapper's own key pair, made if there is none or its certificate is over. Takes seconds the first time.
    pub fn own(&self) -> Result<Own, TrustError> {
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let files = KeyPair {
            certificate: self.directory.join("own/cert.der"),
            private_key: self.directory.join("private/private.pem"),
        };
        for inside in ["own", "private", "servers"] {
            make_private(&self.directory.join(inside))?;
        }
        if files.certificate.exists() && files.private_key.exists() {
            match load(&files) {
                Ok(own) if !is_over(&own.certificate) => return Ok(own),
                Ok(_) => tracing::warn!(
                    certificate = %files.certificate.display(),
                    "own certificate is over: a new one is made; servers that listed the old one must be told"
                ),
                Err(error) => tracing::warn!(%error, "own key pair is not readable: a new one is made"),
            }
        }
        let host = opcua::crypto::hostname().unwrap_or_else(|_| "localhost".to_owned());
        let description = ApplicationDescription {
            application_name: LocalizedText::from(APPLICATION_NAME),
            application_uri: format!("urn:{host}:isthmus:mapper-opcua").into(),
            ..Default::default()
        };
        let mut data = X509Data::from(description);
        data.certificate_duration_days = OWN_CERTIFICATE_DAYS;
        CertificateStore::create_certificate_and_key(&data, true, &files.certificate, &files.private_key)
            .map_err(|error| TrustError::Make(self.directory.clone(), error))?;
        tracing::info!(
            certificate = %files.certificate.display(),
            "made a key pair; servers that ask for known clients must be told this certificate"
        );
        load(&files)
    }

    /// The key pair that a manifest names.
    pub fn given(files: &KeyPair) -> Result<Own, TrustError> {
        // The library takes relative paths as relative to its own directory.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        load(&KeyPair {
            certificate: absolute(&files.certificate),
            private_key: absolute(&files.private_key),
        })
    }

    /// Whether the server at this address may have this certificate.
    pub fn check_server(
        &self,
        authority: &str,
        offered: &[u8],
        pinned: Option<&Path>,
    ) -> Result<(), TrustError> {
        if let Some(path) = pinned {
            let wanted = read_certificate("remoteCertificate", path)?;
            if is_same(offered, &wanted) {
                return Ok(());
            }
            return Err(TrustError::Stranger(format!(
                "the server's certificate is not the one that remoteCertificate names ({}); put the server's own there if that is right",
                path.display()
            )));
        }
        if offered.is_empty() {
            return Err(TrustError::Stranger(
                "the server has no certificate, so nothing can be encrypted to it; set securityPolicy to None if that is meant".to_owned(),
            ));
        }
        let known = self.directory.join("servers").join(format!("{}.der", file_name(authority)));
        match fs::read(&known) {
            Ok(wanted) if is_same(offered, &wanted) => Ok(()),
            Ok(_) => Err(TrustError::Stranger(format!(
                "another server answers at {authority} than the first time; if that is right, delete {} or set remoteCertificate to the new certificate",
                known.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fault = |source| TrustError::Disk {
                    action: "write server certificate",
                    path: known.clone(),
                    source,
                };
                write_whole(&known, offered).map_err(fault)?;
                tracing::warn!(
                    server = authority,
                    certificate = %known.display(),
                    "first time at this server: its certificate is trusted from now on; remoteCertificate pins one"
                );
                Ok(())
            }
            Err(source) => Err(TrustError::Disk { action: "read server certificate", path: known, source }),
        }
    }
}

fn make_private(directory: &Path) -> Result<(), TrustError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| TrustError::Disk { action: "make directory", path: directory.to_owned(), source })
}

/// Either the old content or the new one is there, whenever the machine stops.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn load(files: &KeyPair) -> Result<Own, TrustError> {
    let certificate = read_certificate("certificate", &files.certificate)?;
    let application_uri = application_uri(&certificate).ok_or_else(|| TrustError::File {
        key: "certificate",
        path: files.certificate.clone(),
        problem: "has no application URI among its alternative names; OPC-UA wants one".to_owned(),
    })?;
    let certificate = X509::from_der(&certificate).map_err(|error| TrustError::File {
        key: "certificate",
        path: files.certificate.clone(),
        problem: format!("is no certificate: {error}"),
    })?;
    // The library's sentence says the path again, and no more.
    let private_key = CertificateStore::read_pkey(&files.private_key).map_err(|_| TrustError::File {
        key: "privateKey",
        path: files.private_key.clone(),
        problem: "is no readable RSA key in PEM form".to_owned(),
    })?;
    Ok(Own { files: files.clone(), certificate, private_key, application_uri })
}

/// The bytes of a certificate in a PEM or DER file.
fn read_certificate(key: &'static str, path: &Path) -> Result<Vec<u8>, TrustError> {
    let fault = |problem| TrustError::File { key, path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(|error| fault(format!("is not readable: {error}")))?;
    if X509Certificate::from_der(&bytes).is_ok() {
        return Ok(bytes);
    }
    let parsed = X509::from_pem(&bytes).and_then(|certificate| certificate.to_der());
    parsed.map_err(|_| fault("is no certificate in PEM or DER form".to_owned()))
}

/// A server may send its authorities' certificates behind its own.
fn is_same(offered: &[u8], wanted: &[u8]) -> bool {
    !wanted.is_empty() && offered.starts_with(wanted)
}

fn is_over(certificate: &X509) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let der = certificate.to_der().unwrap_or_default();
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return true };
    i64::try_from(now).is_ok_and(|now| parsed.validity().not_after.timestamp() < now)
}

fn application_uri(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// An address as a file's name: nothing but letters, digits, dots and dashes stays.
fn file_name(authority: &str) -> String {
    authority.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_servers_known_again() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path().join("state"));
        let own = pki.own().unwrap();
        assert!(own.application_uri.starts_with("urn:"), "{}", own.application_uri);
        let mode = fs::metadata(own.files.private_key.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may look at the key");
        let der = own.certificate.to_der().unwrap();
        assert_eq!(pki.own().unwrap().certificate.to_der().unwrap(), der);
        assert_eq!(Pki::given(&own.files).unwrap().application_uri, own.application_uri);

        let mut chain = der.clone();
        chain.extend_from_slice(b"an authority's");
        let check = |authority: &str, offered: &[u8], pinned: Option<&Path>, expected: Result<(), &str>| {
            let got = pki.check_server(authority, offered, pinned).map_err(|error| error.to_string());
            match expected {
                Ok(()) => assert_eq!(got, Ok(()), "{authority}"),
                Err(part) => {
                    assert!(got.as_ref().is_err_and(|told| told.contains(part)), "{authority}: {got:?}")
                }
            }
        };
        let pinned = Some(own.files.certificate.as_path());
        check("plc:4840", b"pinned", pinned, Err("not the one that remoteCertificate names"));
        check("plc:4840", &der, pinned, Ok(()));
        check("plc:4840", &chain, pinned, Ok(()));
        check(
            "plc:4840",
            &der,
            Some(Path::new("/nowhere.pem")),
            Err("remoteCertificate names /nowhere.pem, which is not readable"),
        );
        check("plc:4840", b"", None, Err("set securityPolicy to None"));
        check("plc:4840", b"one", None, Ok(()));
        check("plc:4840", b"one", None, Ok(()));
        check("plc:4840", b"two", None, Err("another server answers at plc:4840"));
        check("plc:4841", b"two", None, Ok(()));
        check("../../plc:1", b"three", None, Ok(()));
        assert!(directory.path().join("state/servers/.._.._plc_1.der").exists());
    }

    #[test]
    fn files_of_manifests_are_told_by_their_setting() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = directory.path().join("cert.pem");
        fs::write(&certificate, "no certificate").unwrap();
        let files =
            KeyPair { certificate: certificate.clone(), private_key: directory.path().join("key.pem") };
        let told = Pki::given(&files).unwrap_err().to_string();
        assert_eq!(
            told,
            format!(
                "certificate names {}, which is no certificate in PEM or DER form",
                certificate.display()
            )
        );
    }
}
