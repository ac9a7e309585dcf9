//! Why this machine has no identity, and what a person can do about it.

use std::path::PathBuf;

use ke_wire::NodeName;
use ke_wire::enrolment::InvalidToken;

use crate::edge_hub::tls::DialError;

/// Why this machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token cannot be one.
    #[error(
        "the join token is not valid: {0}. Get a new one in the cloud with `keadm gettoken` for `keadm join --token`, or put it into modules.edgeHub.token"
    )]
    Token(#[from] InvalidToken),
    /// No certificate, and no token to get one.
    #[error(
        "this machine has no certificate ({0}) and no join token: get one in the cloud with `keadm gettoken` for `keadm join --token`, or put it into modules.edgeHub.token"
    )]
    NoToken(String),
    /// The token was good once.
    #[error(
        "the join token ended {ago} ago by this machine's clock: get a new one in the cloud with `keadm gettoken`, or set the clock if it is wrong"
    )]
    Ended { ago: String },
    /// The cloud's CA is not the one that the token names.
    #[error(
        "the CA of {server} is not the one that the join token names: the token is another cloud's, or somebody stands between. Get a new token with `keadm gettoken` and check modules.edgeHub.httpServer"
    )]
    WrongCa { server: String },
    /// The certificate is of another CA than the one that the cloud has now.
    #[error(
        "{server} has another CA than the one that signed this machine's certificate, and will not take it: type `keadm reset edge` here, `kubectl delete node {node}` in the cloud, then `keadm join` with a new token"
    )]
    OtherCa { server: String, node: NodeName },
    /// The cloud said no.
    #[error("{server} refused to sign this machine's certificate: {why}{advice}")]
    Refused { server: String, why: String, advice: &'static str },
    /// The cloud is not there; worth trying again.
    #[error("{0}")]
    Unreachable(#[from] DialError),
    /// The cloud answered nonsense; worth trying again.
    #[error("{server} answered {what}")]
    Nonsense { server: String, what: String },
    /// A file cannot be read or written.
    #[error("{doing} {path}: {source}")]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// Key or request could not be made.
    #[error("make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// The node's name does not fit into the configured addresses.
    #[error(
        "modules.edgeHub.httpServer: {0:?} is no https address; it has the form https://cloud.example:10002"
    )]
    Address(String),
}

impl IdentityError {
    /// Whether trying again cannot help: a person must act.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Token(_)
            | Self::Ended { .. }
            | Self::NoToken(_)
            | Self::WrongCa { .. }
            | Self::OtherCa { .. }
            | Self::Refused { .. }
            | Self::Address(_) => true,
            Self::Unreachable(_) | Self::Nonsense { .. } | Self::File { .. } | Self::Request(_) => false,
        }
    }
}

impl IdentityError {
    /// What to do about it, where its own words do not say so.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable(DialError::Connect(..) | DialError::Timeout(_)) => {
                "see that this address is right, that cloudcore runs, and that no firewall on the way closes the port"
            }
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "type it again with sudo"
            }
            _ => "",
        }
    }
}
