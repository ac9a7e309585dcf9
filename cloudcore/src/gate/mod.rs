//! The gate: cloudcore's ports with TLS, and who may come by them.
//!
//! The CA with its join tokens, ports that show its certificates and ask for them, and which key a node's name belongs to. What
//! comes through is others' affair: links are CloudHub's, the API server's requests CloudStream's.

mod authority;
mod certificate;
mod pair;
mod pins;
mod port;
mod secrets;

pub(crate) use authority::unix_now;
pub use authority::{Authority, ServedAs, Shown, SignedEdge, SigningError};
pub use certificate::{ClientCertificate, Fingerprint};
pub use pair::AuthorityError;
pub(crate) use pins::{ANNOTATION, Told};
pub use pins::{Holder, Pin, Pins, judge};
pub use port::ListenError;
pub(crate) use port::{ClientCertificates, HANDSHAKE_LIMIT, Port, client_certificate, handshake};
pub use secrets::{SecretData, Secrets};

/// What others' tests of certificates need.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::authority::tests::{MemorySecrets, config, csr, of_kubeedge};
}
