//! Sockets to the cloud: TCP, TLS and the WebSocket handshake become one `Conn`.

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

/// Largest message that is read. Lists for the local API are the largest.
const MAX_MESSAGE: usize = 64 << 20;

/// Opens the link.
pub(super) async fn websocket(
    config: &EdgeHubConfig,
    node: &NodeName,
    identity: &Identity,
) -> Result<Conn, DialError> {
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
            .header("ConnectionUse", "msg")
            .body(())
            .map_err(|_| bad_address())?;
        let limits = WebSocketConfig::default()
            // The default of 128 KiB is zero-filled on each read and costs that much memory.
            .read_buffer_size(8 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(8 << 20)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        // Boxed: the handshake's state must not live as long as the connection.
        let (conn, _) = Box::pin(tokio_tungstenite::client_async_with_config(request, stream, Some(limits)))
            .await
            .map_err(|error| DialError::Refused(server.clone(), error.to_string()))?;
        Ok(conn)
    };
    match tokio::time::timeout(CONNECT_LIMIT, connect).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout(server.clone())),
    }
}
