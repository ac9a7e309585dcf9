//! Pure: a certificate in words.

use anyhow::{Context as _, anyhow};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Subject, issuer, serial number and validity of the first certificate in the PEM text.
pub(super) fn describe(pem: &[u8]) -> anyhow::Result<String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| anyhow!("there is no certificate in it"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).context("it is no certificate")?;
    let validity = parsed.validity();
    Ok(format!(
        "subject: {}\nissuer: {}\nserial: {}\nfrom: {}\nuntil: {}\n",
        parsed.subject(),
        parsed.issuer(),
        parsed.raw_serial_as_string(),
        validity.not_before,
        validity.not_after,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whose_and_until_when() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:edge-1");
        let pem = params.self_signed(&key).unwrap().pem();
        let text = describe(pem.as_bytes()).unwrap();
        assert!(text.contains("system:node:edge-1") && text.contains("until: "), "{text}");
        assert!(describe(key.serialize_pem().as_bytes()).is_err());
    }
}
