//! What a certificate says, and whether a key is its.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What this module needs to know of a certificate. Times in Unix seconds.
pub(super) struct Facts {
    pub(super) common_name: String,
    pub(super) public_key: Vec<u8>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Facts {
    pub(super) fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
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
pub(super) fn fits(key: &PrivateKeyDer<'_>, facts: &Facts) -> Result<bool, rustls::Error> {
    let signing = rustls::crypto::ring::sign::any_supported_type(key)?;
    Ok(signing.public_key().is_some_and(|public| public.as_ref() == facts.public_key))
}
