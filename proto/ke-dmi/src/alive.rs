//! Whether anybody answers at the other end of a channel.
//!
//! Asks the health service of gRPC, which hardly any mapper has: "I do not know that" is an answer too, and no code of
//! the peer runs for it. The calls of the contract are no substitute: `GetDevice` ends a Go mapper.

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Asks once. Errors: nobody is there. The caller bounds the time.
pub async fn alive(channel: Channel) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    // Both messages are empty where they matter: an answer's fields are passed over.
    let codec = ProstCodec::<(), ()>::default();
    match client.unary(Request::new(()), path, codec).await {
        Err(status) if is_nobody(&status) => Err(status),
        _ => Ok(()),
    }
}

/// Whether a status was made on the way there, and not by the peer.
#[must_use]
pub fn is_nobody(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || std::error::Error::source(status).is_some()
}

/// What is at the bottom of an error: the system's words, such as "Connection refused".
#[must_use]
pub fn bottom_of(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    match std::error::Error::source(status) {
        Some(_) => error.to_string(),
        None => status.message().to_owned(),
    }
}
