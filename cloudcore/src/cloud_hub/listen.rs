//! A connection with TLS and its WebSocket handshake become one `Conn` type. It decides nothing about nodes.

use std::time::Duration;

use ke_link::streams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::gate::HANDSHAKE_LIMIT;

/// One node's connection.
pub(super) type Conn = WebSocketStream<TlsStream<TcpStream>>;

/// Saying goodbye has this long.
const PARTING_LIMIT: Duration = Duration::from_secs(1);
/// Largest message of an edge. Pod status and events are far smaller; a node cannot make cloudcore hold more.
pub(super) const MAX_MESSAGE: usize = 8 << 20;
/// What a peer that is shown the door may still say; one that floods learns nothing from us.
const PARTING_BYTES: usize = 1 << 20;

/// Ends a connection in an orderly way: close frame, end of our half, and then whatever the other side still sends is
/// read and dropped. Closing a socket with unread bytes in it resets the connection, and the reason would be lost.
pub(super) async fn hang_up(conn: &mut Conn, code: CloseCode, reason: &str) {
    // A close frame holds 123 bytes.
    let reason: String = reason.chars().filter(char::is_ascii).take(120).collect();
    let parting = async {
        let _ = conn.close(Some(CloseFrame { code, reason: reason.into() })).await;
        let stream = conn.get_mut();
        let _ = stream.shutdown().await;
        let mut dropped = [0; 2048];
        let mut room = PARTING_BYTES;
        while let Ok(n_read @ 1..) = stream.read(&mut dropped).await {
            room = room.saturating_sub(n_read);
            if room == 0 {
                break;
            }
        }
    };
    // Boxed: the buffer must not be part of every link's state. In time or not, the socket is closed then.
    let _ = tokio::time::timeout(PARTING_LIMIT, Box::pin(parting)).await;
}

/// A connection that carries messages.
pub(super) struct Upgraded {
    pub(super) conn: Conn,
    /// Which node the client claims to be.
    pub(super) node: String,
    /// Whether both sides have byte streams. A Go edge has none.
    pub(super) has_streams: bool,
}

/// Takes the WebSocket over.
pub(super) async fn upgrade(stream: TlsStream<TcpStream>) -> Result<Upgraded, String> {
    let mut node = String::new();
    let mut has_streams = false;
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let check = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        // Go edges repeat headers after a failed dial: the first value counts.
        let header = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        node = header("node_id").to_owned();
        if header("connectionuse") == "msg" {
            has_streams = header(streams::HEADER) == streams::VERSION;
            if has_streams {
                response.headers_mut().insert(streams::HEADER, HeaderValue::from_static(streams::VERSION));
            }
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some("the header ConnectionUse must be msg".into()));
        *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::BAD_REQUEST;
        Err(refusal)
    };
    let limits = WebSocketConfig::default()
        // Costs this much per idle node; the default of 128 KiB is filled with zeros on each read. Keepalives, leases and
        // acknowledgements fit; what is larger takes some more reads, from memory.
        .read_buffer_size(2 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(64 << 20)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    // Boxed: the handshake's state must not live as long as the connection.
    let upgrading = Box::pin(tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(limits)));
    match tokio::time::timeout(HANDSHAKE_LIMIT, upgrading).await {
        Ok(Ok(conn)) => Ok(Upgraded { conn, node, has_streams }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no WebSocket handshake in time".into()),
    }
}
