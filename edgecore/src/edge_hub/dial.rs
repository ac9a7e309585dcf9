//! Sockets to the cloud: TCP, TLS and the WebSocket handshake become one `Conn`.

use ke_link::streams::shared::LinkStreams;
use ke_link::streams::{self, Role};
use ke_run::config::HostPort;
use ke_wire::NodeName;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::identity::Identity;
use super::tls::{self, CONNECT_LIMIT, DialError};
use crate::config::EdgeHubConfig;

/// One connection to the cloud that carries messages.
pub(super) type Conn = WebSocketStream<TlsStream<TcpStream>>;

/// A connection, and its byte streams where the cloud took the offer. A Go cloud does not.
pub(super) struct Dialled {
    pub(super) conn: Conn,
    pub(super) streams: Option<LinkStreams>,
}

/// Whether the cloud is offered byte streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Streams,
    Nothing,
}

/// Largest message that is read. Lists for the local API are the largest.
const MAX_MESSAGE: usize = 64 << 20;

/// Opens the link.
pub(super) async fn websocket(
    config: &EdgeHubConfig,
    node: &NodeName,
    identity: &Identity,
    offer: Offer,
) -> Result<Dialled, DialError> {
    let HostPort { host, port } = &config.websocket.server;
    let server = config.websocket.server.to_string();
    let bad_address = || DialError::Address(server.clone());
    let server_name = ServerName::try_from(host.clone()).map_err(|_| bad_address())?;
    let credentials = identity.credentials().map_err(DialError::Files)?;
    let ca = credentials.ca.clone();
    let tls = tls::client(&ca, Some(credentials))?;
    let connect = async {
        let stream = tls::stream(host, *port, server_name, tls).await?;
        let request = Request::get(format!("wss://{server}/{}/{node}/events", config.project_id))
            .header("Host", &server)
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Node_id", node.as_str())
            .header("Project_id", &config.project_id)
            .header("ConnectionUse", "msg");
        let request = match offer {
            Offer::Streams => request.header(streams::HEADER, streams::VERSION),
            Offer::Nothing => request,
        };
        let request = request.body(()).map_err(|_| bad_address())?;
        let limits = WebSocketConfig::default()
            // The default of 128 KiB is zero-filled on each read and costs that much memory.
            .read_buffer_size(8 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(8 << 20)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        // Boxed: the handshake's state must not live as long as the connection.
        let (conn, answer) =
            Box::pin(tokio_tungstenite::client_async_with_config(request, stream, Some(limits)))
                .await
                .map_err(|error| DialError::Refused(server.clone(), error.to_string()))?;
        let is_taken = offer == Offer::Streams
            && answer.headers().get(streams::HEADER).is_some_and(|value| value == streams::VERSION);
        Ok(Dialled { conn, streams: is_taken.then(|| LinkStreams::new(Role::Edge)) })
    };
    match tokio::time::timeout(CONNECT_LIMIT, connect).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout(server.clone())),
    }
}
