//! Pure: what is said to KubeEdge's stream server to get a tunnel, and whether its answer is one. Called by the module above.

use std::net::IpAddr;

use ke_wire::NodeName;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest answer. A Go cloud's has some 130 bytes.
pub(super) const MAX_ANSWER: usize = 8 << 10;

/// The request. `key`: fresh by chance, in base64.
pub(super) fn request(server: &str, node: &NodeName, address: IpAddr, key: &str) -> String {
    format!(
        "GET /v1/kubeedge/connect HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSessionHostNameOverride: {node}\r\n\
         SessionInternalIP: {address}\r\n\r\n"
    )
}

/// Where an answer's head ends, its empty line included; `None`: not yet.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at.saturating_add(4))
}

/// Judges the head of an answer. Errors: why there is no tunnel.
pub(super) fn judge(head: &[u8], key: &str) -> Result<(), String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status: String =
        lines.next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(format!("it answered {status:?}, not HTTP/1.1 101"));
    }
    let accepted = lines.filter_map(|line| line.split_once(':'));
    let mut accepted = accepted.filter(|(name, _)| name.trim().eq_ignore_ascii_case("sec-websocket-accept"));
    match accepted.next() {
        Some((_, accept)) if accept.trim() == derive_accept_key(key.as_bytes()) => Ok(()),
        _ => Err("it answered something else than what was asked".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let check = |head: &str, expected: Result<(), &str>| {
            let found = judge(head.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==");
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{head}"),
                Err(part) => assert!(found.clone().unwrap_err().contains(part), "{head}: {found:?}"),
            }
        };
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        check(&format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{accept}"), Ok(()));
        check(&format!("HTTP/1.1 403 Forbidden\r\n{accept}"), Err("403 Forbidden"));
        check("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n", Err("something else"));
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Err("something else"));
        check("SSH-2.0\r\n\r\n", Err("not HTTP/1.1 101"));
        check("", Err("not HTTP/1.1 101"));
    }

    #[test]
    fn the_request_names_the_node() {
        let text = request("cloud:10004", &"edge-1".parse().unwrap(), [10, 0, 0, 7].into(), "a2V5");
        assert!(
            text.contains("\r\nSessionHostNameOverride: edge-1\r\nSessionInternalIP: 10.0.0.7\r\n"),
            "{text}"
        );
        assert_eq!(end(text.as_bytes()), Some(text.len()));
        assert_eq!(end(b"HTTP/1.1 101\r\n"), None);
    }
}
