//! KubeEdge's stream tunnel, by which its cloud reaches a node's kubelet: messages as bytes and back. Pure.
//!
//! One WebSocket message holds one of these. KubeEdge sends them in text frames although they are bytes, and closes on
//! binary ones; that is for whoever drives the socket. Between our own ends streams go over the link instead.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Data of one message, bytes. KubeEdge drops what is beyond without a word.
pub const MAX_TUNNEL_DATA: usize = 1 << 20;

/// Where a Go edge says its kubelet listens; it dials what the request says. A word of this protocol, whatever port we take.
const KUBELET: &str = "127.0.0.1:10350";

/// What a request reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The log of a container; the answer's body without its head.
    Logs,
    /// A command; the connection's bytes, HTTP included.
    Exec,
    /// Metrics or statistics; the answer's body without its head, line by line.
    Metrics,
    /// A running container; the connection's bytes, HTTP included.
    Attach,
}

/// One message of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelMessage {
    /// Which connection of the tunnel; 0 is the tunnel itself.
    pub connection: u64,
    /// What it says.
    pub says: TunnelSays,
}

/// What a message of a tunnel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelSays {
    /// Cloud to edge: a connection begins.
    Connect(Reached, KubeletRequest),
    /// Bytes of the connection.
    Data(Vec<u8>),
    /// The connection is over.
    Remove,
    /// Cloud to edge: the tunnel is over, for this reason.
    Close(String),
}

/// A request to a kubelet's face.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletRequest {
    /// Path and query as they stand in the request line, such as `/exec/default/web/c?command=sh`.
    pub target: String,
    /// Header lines. A name may have several values.
    pub header: BTreeMap<String, Vec<String>>,
    /// Of exec and attach; otherwise GET.
    pub method: Option<String>,
}

/// Why bytes are no message of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A number does not end, or is larger than 64 bits.
    #[error("it does not begin with two numbers")]
    Numbers,
    /// A Go edge panics at such a type.
    #[error("its type {0} is none of 0 to 6")]
    Type(u64),
    /// KubeEdge would have cut it.
    #[error("it carries {0} bytes, more than {MAX_TUNNEL_DATA}")]
    Length(usize),
    /// The JSON of a request makes no sense.
    #[error("its request cannot be read: {0}")]
    Request(String),
}

impl TunnelMessage {
    /// The bytes of one WebSocket message. Errors: `Length`.
    pub fn encode(&self) -> Result<Vec<u8>, TunnelError> {
        let (number, data) = match &self.says {
            TunnelSays::Connect(reached, request) => (reached.number(), request.to_json(self.connection)?),
            TunnelSays::Data(data) => (3, data.clone()),
            TunnelSays::Remove => (4, Vec::new()),
            TunnelSays::Close(why) => (5, why.clone().into_bytes()),
        };
        if data.len() > MAX_TUNNEL_DATA {
            return Err(TunnelError::Length(data.len()));
        }
        let mut bytes = Vec::with_capacity(data.len() + 11);
        put_number(&mut bytes, self.connection);
        put_number(&mut bytes, number);
        bytes.extend(data);
        Ok(bytes)
    }

    /// Which connection a message is about, also where the rest of it makes no sense.
    #[must_use]
    pub fn connection_of(bytes: &[u8]) -> Option<u64> {
        take_number(bytes).map(|(connection, _)| connection)
    }

    /// Reads one WebSocket message.
    pub fn decode(bytes: &[u8]) -> Result<Self, TunnelError> {
        let (connection, rest) = take_number(bytes).ok_or(TunnelError::Numbers)?;
        let (number, data) = take_number(rest).ok_or(TunnelError::Numbers)?;
        if data.len() > MAX_TUNNEL_DATA {
            return Err(TunnelError::Length(data.len()));
        }
        let says = match number {
            3 => TunnelSays::Data(data.to_vec()),
            4 => TunnelSays::Remove,
            5 => TunnelSays::Close(String::from_utf8_lossy(data).into_owned()),
            _ => {
                let reached = Reached::from_number(number).ok_or(TunnelError::Type(number))?;
                TunnelSays::Connect(reached, KubeletRequest::from_json(data)?)
            }
        };
        Ok(Self { connection, says })
    }
}

impl Reached {
    fn number(self) -> u64 {
        match self {
            Self::Logs => 0,
            Self::Exec => 1,
            Self::Metrics => 2,
            Self::Attach => 6,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        [Self::Logs, Self::Exec, Self::Metrics, Self::Attach]
            .into_iter()
            .find(|reached| reached.number() == number)
    }
}

/// Unsigned LEB128, as Go's `binary.PutUvarint`.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        // The tenth byte holds the last of 64 bits.
        if at == 9 && *byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes.get(at + 1..).map(|rest| (number, rest));
        }
    }
    None
}

/// The JSON of a request: Go's URL structure with Go's names.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Request {
    #[serde(rename = "MessID")]
    connection: u64,
    url: Url,
    header: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "PascalCase")]
struct Url {
    scheme: String,
    opaque: String,
    user: Option<serde_json::Value>,
    host: String,
    path: String,
    fragment: String,
    raw_query: String,
    raw_path: String,
    raw_fragment: String,
    force_query: bool,
    omit_host: bool,
}

impl KubeletRequest {
    fn to_json(&self, connection: u64) -> Result<Vec<u8>, TunnelError> {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let decoded =
            percent_decode(path).ok_or_else(|| TunnelError::Request("its path is no text".into()))?;
        let url = Url {
            scheme: "http".into(),
            host: KUBELET.into(),
            raw_path: if decoded == path { String::new() } else { path.to_owned() },
            path: decoded,
            raw_query: query.to_owned(),
            ..Url::default()
        };
        let request =
            Request { connection, url, header: Some(self.header.clone()), method: self.method.clone() };
        serde_json::to_vec(&request).map_err(|error| TunnelError::Request(error.to_string()))
    }

    /// Scheme and host are not read: what a tunnel reaches is this node's own kubelet, whatever the cloud says.
    fn from_json(json: &[u8]) -> Result<Self, TunnelError> {
        let request: Request =
            serde_json::from_slice(json).map_err(|error| TunnelError::Request(error.to_string()))?;
        let Url { path, raw_path, raw_query, .. } = request.url;
        // As Go does: the raw form counts only if it is one of this path.
        let mut target =
            if percent_decode(&raw_path).as_ref() == Some(&path) { raw_path } else { percent_encode(&path) };
        if !target.starts_with('/') {
            return Err(TunnelError::Request(format!("its path {target:?} does not begin with /")));
        }
        if !raw_query.is_empty() {
            target.push('?');
            target.push_str(&raw_query);
        }
        if target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(TunnelError::Request("its address holds blanks or control characters".into()));
        }
        Ok(Self { target, header: request.header.unwrap_or_default(), method: request.method })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
            let [Some(high), Some(low)] = digits else { return None };
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What may stand in a path as it is; a kubelet's paths hold nothing else but for odd names.
fn percent_encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~$&+,:;=@!'()*".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(connection: u64, says: TunnelSays) -> TunnelMessage {
        TunnelMessage { connection, says }
    }

    #[test]
    fn messages_have_their_bytes() {
        let check = |message: TunnelMessage, bytes: &[u8]| {
            assert_eq!(message.encode().unwrap(), bytes, "{message:?}");
            assert_eq!(TunnelMessage::decode(bytes), Ok(message));
        };
        check(message(300, TunnelSays::Data(b"hi".to_vec())), b"\xac\x02\x03hi");
        check(message(1, TunnelSays::Data(vec![0xff, 0])), b"\x01\x03\xff\x00");
        check(message(127, TunnelSays::Remove), b"\x7f\x04");
        check(message(0, TunnelSays::Close("no node".into())), b"\x00\x05no node");
        let largest = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04";
        check(message(u64::MAX, TunnelSays::Remove), largest);
    }

    /// As Go's cloud writes an exec request.
    const EXEC: &str = r#"{"MessID":300,"url":{"Scheme":"http","Opaque":"","User":null,"Host":"127.0.0.1:10350",
        "Path":"/exec/default/web/c","Fragment":"","RawQuery":"command=sh\u0026input=1\u0026output=1\u0026tty=1",
        "RawPath":"","RawFragment":"","ForceQuery":false,"OmitHost":false},
        "header":{"Upgrade":["SPDY/3.1"],"Connection":["Upgrade"]},"method":"POST"}"#;

    fn exec() -> KubeletRequest {
        let header = [("Upgrade", "SPDY/3.1"), ("Connection", "Upgrade")];
        KubeletRequest {
            target: "/exec/default/web/c?command=sh&input=1&output=1&tty=1".into(),
            header: header.map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).into(),
            method: Some("POST".into()),
        }
    }

    #[test]
    fn a_request_is_read_and_written_as_go_does() {
        let bytes = [b"\xac\x02\x01", EXEC.as_bytes()].concat();
        let read = TunnelMessage::decode(&bytes).unwrap();
        assert_eq!(read, message(300, TunnelSays::Connect(Reached::Exec, exec())));
        let written = read.encode().unwrap();
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(&bytes[3..]).unwrap();
        assert_eq!(json(&written), json(&bytes));
        assert_eq!(written[..3], bytes[..3]);
    }

    #[test]
    fn each_request_has_its_type() {
        let check = |reached, number: u8| {
            let request = KubeletRequest { method: None, ..exec() };
            let sent = message(1, TunnelSays::Connect(reached, request));
            let bytes = sent.encode().unwrap();
            assert_eq!(bytes[..2], [1, number]);
            assert!(!String::from_utf8_lossy(&bytes).contains("method"));
            assert_eq!(TunnelMessage::decode(&bytes), Ok(sent));
        };
        check(Reached::Logs, 0);
        check(Reached::Exec, 1);
        check(Reached::Metrics, 2);
        check(Reached::Attach, 6);
    }

    #[test]
    fn targets_survive_their_encoding() {
        let check = |target: &str| {
            let request = KubeletRequest { target: target.into(), ..exec() };
            let sent = message(1, TunnelSays::Connect(Reached::Logs, request));
            assert_eq!(TunnelMessage::decode(&sent.encode().unwrap()), Ok(sent), "{target}");
        };
        check("/stats/summary");
        check("/containerLogs/default/web/c?follow=true&sinceTime=2026-01-01T00%3A00%3A00Z");
        check("/containerLogs/default/a%2Fb/c%20d");
    }

    #[test]
    fn what_is_no_message() {
        let check = |bytes: &[u8], expected: &str| {
            let error = TunnelMessage::decode(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{bytes:?}: {error}");
        };
        check(b"", "two numbers");
        check(b"\x01", "two numbers");
        check(b"\x80\x80", "two numbers");
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x04", "two numbers");
        check(b"\x01\x07", "type 7");
        check(b"\x01\x00not json", "cannot be read");
        check(br#"{"url":{}}"#, "type 34");
        check(b"\x01\x00{\"url\":{\"Path\":\"@evil.example/\"}}", "does not begin with /");
        check(b"\x01\x00{\"url\":{\"Path\":\"/x\",\"RawQuery\":\"a b\"}}", "blanks");
        check(b"\x01\x00{\"url\":{\"Path\":\"/x\",\"RawQuery\":\"a\\r\\nHost: b\"}}", "blanks");
        check(&[&b"\x01\x03"[..], &vec![0; MAX_TUNNEL_DATA + 1]].concat(), "more than 1048576");
        let long = message(1, TunnelSays::Data(vec![0; MAX_TUNNEL_DATA + 1]));
        assert_eq!(long.encode(), Err(TunnelError::Length(MAX_TUNNEL_DATA + 1)));
    }
}
