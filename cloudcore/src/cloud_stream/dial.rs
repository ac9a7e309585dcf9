//! How a stream to a node is had, whichever way it goes.

use async_trait::async_trait;
use ke_wire::NodeName;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::tunnels::Tunnels;

/// A way to a node and back.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// Opens ways to nodes.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A new stream to the node's kubelet face. Whoever drops it has ended it.
    async fn dial(&self, node: &NodeName) -> Result<Box<dyn ByteStream>, DialError>;
}

/// Why there is no stream to a node: a sentence that goes on after "node NAME cannot be reached: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

#[async_trait]
impl Dial for Tunnels {
    async fn dial(&self, node: &NodeName) -> Result<Box<dyn ByteStream>, DialError> {
        match self.connect(node) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) => Err(DialError(why.to_string())),
        }
    }
}
