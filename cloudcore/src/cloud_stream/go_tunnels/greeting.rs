//! Pure: who asks for a tunnel, and what it is answered.
//!
//! The node's name is its certificate's. The header that names it, too, must say the same: KubeEdge goes by the header, so that any
//! node could take another's logs and commands. Called by `mod.rs`.

use ke_wire::NodeName;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::cloud_stream::head::Head;
use crate::gate::ClientCertificate;

/// Where a Go edge asks.
const PATH: &str = "/v1/kubeedge/connect";
/// Who it says it is.
const NAME: &str = "sessionhostnameoverride";

/// Why there is no tunnel: status and sentence.
pub(super) type Refused = (u16, String);

/// Judges a request. Out: the node, and the answer's head.
pub(super) fn judge(head: &Head, certificate: &ClientCertificate) -> Result<(NodeName, String), Refused> {
    if head.path().trim_end_matches('/') != PATH || head.method != "GET" {
        return Err((404, format!("this port serves GET {PATH}, for edgecores of KubeEdge")));
    }
    let is = |name, wanted: &str| head.value(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    let key = head.value("sec-websocket-key");
    let (true, true, Some(key)) = (is("upgrade", "websocket"), is("sec-websocket-version", "13"), key) else {
        return Err((400, "the request must ask for a WebSocket of version 13".to_owned()));
    };
    let ClientCertificate { organization, common_name, .. } = certificate;
    let named = common_name.strip_prefix("system:node:").filter(|_| organization == "system:nodes");
    let Some(node) = named.and_then(|name| name.parse::<NodeName>().ok()) else {
        return Err((403, format!("the certificate is for {organization}/{common_name}, which is no node")));
    };
    if let Some(said) = head.value(NAME).filter(|said| *said != node.as_str()) {
        return Err((403, format!("the certificate is node {node}'s, and the header says {said:?}")));
    }
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok((node, answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Fingerprint;

    /// As Go's library writes it.
    fn head(first: &str, headers: &str) -> Head {
        let text = format!(
            "{first} HTTP/1.1\r\nHost: cloud:10004\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        Head::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_certificate_says_who_it_is() {
        let connect = "GET /v1/kubeedge/connect";
        let named =
            "Sessionhostnameoverride: edge-1\r\nSessioninternalip: 10.0.0.7\r\nUpgrade: websocket\r\n";
        let check = |first: &str, headers: &str, (organization, common_name): (&str, &str), expected| {
            let certificate = ClientCertificate {
                common_name: common_name.into(),
                organization: organization.into(),
                fingerprint: Fingerprint(String::new()),
            };
            let found = judge(&head(first, headers), &certificate);
            let found = found.map(|(node, _)| node.to_string()).map_err(|refused| refused.0);
            assert_eq!(found, expected, "{first} {headers} {common_name}");
        };
        let node = ("system:nodes", "system:node:edge-1");
        check(connect, named, node, Ok("edge-1".to_owned()));
        check("GET /v1/kubeedge/connect/", named, node, Ok("edge-1".to_owned()));
        check(connect, "Upgrade: websocket\r\n", node, Ok("edge-1".to_owned()));
        check(connect, named, ("system:nodes", "system:node:edge-2"), Err(403));
        check(connect, named, ("system:masters", "system:node:edge-1"), Err(403));
        check(connect, named, ("KubeEdge", "kubeedge.io"), Err(403));
        check(connect, named, ("system:nodes", "system:node:"), Err(403));
        check(connect, "Sessionhostnameoverride: edge-1\r\n", node, Err(400));
        check("POST /v1/kubeedge/connect", named, node, Err(404));
        check("GET /", named, node, Err(404));
    }

    #[test]
    fn the_answer_is_the_rfc_s() {
        let certificate = ClientCertificate {
            common_name: "system:node:edge-1".into(),
            organization: "system:nodes".into(),
            fingerprint: Fingerprint(String::new()),
        };
        let head = head("GET /v1/kubeedge/connect", "Upgrade: websocket\r\n");
        let (_, answer) = judge(&head, &certificate).unwrap();
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), "{answer}");
    }
}
