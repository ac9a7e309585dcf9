//! Join tokens as cloudcore makes them, so that stories can make wrong ones.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// First part of a token: SHA-256 of the CA certificate's DER, in hexadecimal.
pub fn ca_hash(ca_der: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, ca_der)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A token that ends `seconds` from now, signed with `key`.
pub fn make(ca_hash: &str, key: &[u8], seconds: i64) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{}}}", now + seconds));
    let signed = format!("{header}.{claims}");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    Ok(format!("{ca_hash}.{signed}.{signature}"))
}
