//! The TLS client for the external broker, from the files that the config names. Read at each dial: they may come later,
//! or be renewed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::config::EventBusTls;

/// Why there is no TLS client.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("modules.eventBus.eventBusTLS.{key}: {path}: {why}")]
    File { key: &'static str, path: PathBuf, why: String },
    #[error("modules.eventBus.eventBusTLS: the files cannot be used: {0}")]
    Unusable(rustls::Error),
}

pub(super) fn client(config: &EventBusTls) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("tlsMqttCAFile", &config.tls_mqtt_ca_file)? {
        roots.add(certificate).map_err(TlsError::Unusable)?;
    }
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    if config.tls_mqtt_cert_file.as_os_str().is_empty() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let own = certificates("tlsMqttCertFile", &config.tls_mqtt_cert_file)?;
    let path = &config.tls_mqtt_private_key_file;
    // The reason of a key that cannot be read says nothing of its content.
    let key =
        PrivateKeyDer::from_pem_file(path).map_err(|error| failed("tlsMqttPrivateKeyFile", path, &error))?;
    let signer = builder.crypto_provider().key_provider.load_private_key(key).map_err(TlsError::Unusable)?;
    let own = CertifiedKey::new(own, signer);
    // Only what is surely wrong: rustls reads no certificates of X.509 version 1, and those are what many recipes for
    // mosquitto make. The broker judges it.
    if let Err(error @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = own.keys_match() {
        return Err(TlsError::Unusable(error));
    }
    Ok(Arc::new(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => {
            Err(TlsError::File { key, path: path.into(), why: "holds no PEM certificate".to_owned() })
        }
        Ok(found) => Ok(found),
        Err(error) => Err(failed(key, path, &error)),
    }
}

fn failed(key: &'static str, path: &Path, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File { key, path: path.into(), why: error.to_string() }
}
