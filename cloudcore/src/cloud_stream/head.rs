//! Pure: the head of an HTTP/1.1 request: where it ends, what it asks, and how it goes on to the node.
//!
//! Stricter than servers are: two programs read this head, here and on the node, and must never read it differently. Called by
//! `connection.rs`.

/// Largest head. Longer ones are refused; what kubectl sends is below 4 KiB.
pub(super) const MAX_HEAD: usize = 64 << 10;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// What says who the client is to us; it is nobody else's business.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];
/// By these a front proxy says for whom it speaks. Nobody does here.
const IN_NAME_OF: [&str; 2] = ["x-remote-", "impersonate-"];
/// What is about one connection, and made anew for the next.
const OF_THE_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings"];

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// One of `METHODS`.
    pub method: String,
    /// From the first slash on, with the query.
    pub target: String,
    headers: Vec<(String, Vec<u8>)>,
}

/// Why a request is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    /// Not HTTP, or two meanings.
    #[error("the request cannot be read: {0}")]
    Malformed(&'static str),
    /// HTTP/1.0, or 2.
    #[error("this port speaks HTTP/1.1")]
    Version,
    /// None that a kubelet knows.
    #[error("the method is none of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS")]
    Method,
}

/// How a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onward {
    /// One request and one answer: the node closes after it, so that whatever else comes is no second request.
    Once,
    /// What follows is another protocol, and the head says so.
    Upgrade,
}

/// Where the head ends, its empty line included; `None`: not yet. `from`: what was looked at before.
pub(super) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    let found = bytes.get(start..)?.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(start.saturating_add(found).saturating_add(4))
}

impl Head {
    /// Reads a head that [`end`] has found.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadHead> {
        let malformed = BadHead::Malformed;
        let text = bytes.strip_suffix(b"\r\n\r\n").ok_or(malformed("it has no end"))?;
        let mut lines = split_lines(text);
        let first = lines.next().unwrap_or_default();
        let first = std::str::from_utf8(first).map_err(|_| malformed("its first line is no text"))?;
        let mut words = first.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
        else {
            return Err(malformed("its first line is not METHOD PATH HTTP/1.1"));
        };
        if version != "HTTP/1.1" {
            return Err(if version.starts_with("HTTP/") {
                BadHead::Version
            } else {
                malformed("its first line is not METHOD PATH HTTP/1.1")
            });
        }
        if !METHODS.contains(&method) {
            return Err(BadHead::Method);
        }
        if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed("its path must begin with a slash and be visible ASCII"));
        }
        let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
        let head = Self { method: method.to_owned(), target: target.to_owned(), headers };
        let count = |name| head.values(name).count();
        if count("content-length").saturating_add(count("transfer-encoding")) > 1 {
            return Err(malformed("it says more than once how long it is"));
        }
        if count("host") > 1 {
            return Err(malformed("it has more than one Host"));
        }
        Ok(head)
    }

    /// The path, without the query.
    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The token that the client shows. Two of them are none.
    pub(super) fn bearer(&self) -> Option<&str> {
        let mut values = self.values("authorization");
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// All headers, in their order.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The first value of a header, if it is text. `name` in lower case.
    pub(super) fn value(&self, name: &'static str) -> Option<&str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the client asks for another protocol.
    pub(super) fn asks_for_upgrade(&self) -> bool {
        let is_upgrade = |word: &[u8]| word.trim_ascii().eq_ignore_ascii_case(b"upgrade");
        self.values("upgrade").next().is_some()
            && self.values("connection").any(|value| value.split(|byte| *byte == b',').any(is_upgrade))
    }

    /// The head for the node: without the client's credentials.
    pub(super) fn onward(&self, how: Onward) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            let is_dropped = CREDENTIALS.contains(&&*lower)
                || IN_NAME_OF.iter().any(|start| lower.starts_with(start))
                || (how == Onward::Once && OF_THE_CONNECTION.contains(&&*lower));
            if !is_dropped {
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(b": ");
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        if how == Onward::Once {
            bytes.extend_from_slice(b"Connection: close\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        let found = self.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_slice())
    }
}

/// At each CR LF. A CR or LF by itself stays in its line, where nothing allows it.
fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let now = rest?;
        let Some(at) = now.windows(2).position(|two| two == b"\r\n") else { return rest.take() };
        let (line, after) = now.split_at(at);
        rest = after.get(2..);
        Some(line)
    })
}

fn header(line: &[u8]) -> Result<(String, Vec<u8>), BadHead> {
    let malformed = BadHead::Malformed("a header is not NAME: VALUE");
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Err(malformed) };
    let (name, value) = line.split_at(colon);
    // A space here is read by some as part of the name, by others not; a line that begins with one belongs to the line before.
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let is_value = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if name.is_empty() || !name.iter().all(is_name) || !value.iter().all(is_value) {
        return Err(malformed);
    }
    Ok((name.iter().map(|byte| char::from(*byte)).collect(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Head, BadHead> {
        let bytes = text.as_bytes();
        assert_eq!(end(bytes, 0), Some(bytes.len()), "{text:?}");
        Head::parse(bytes)
    }

    #[test]
    fn where_a_head_ends() {
        let check = |text: &str, from, expected| assert_eq!(end(text.as_bytes(), from), expected, "{text:?}");
        check("", 0, None);
        check("GET / HTTP/1.1\r\n\r", 0, None);
        check("GET / HTTP/1.1\r\n\r\n", 0, Some(18));
        check("GET / HTTP/1.1\r\n\r\nbody\r\n\r\n", 0, Some(18));
        // The four bytes came in two pieces.
        for from in 14..18 {
            check("GET / HTTP/1.1\r\n\r\n", from, Some(18));
        }
    }

    #[test]
    fn what_is_read_and_what_is_not() {
        let check = |text: &str, expected: Result<(&str, &str), &str>| {
            let got = parsed(text);
            let got = got.as_ref().map(|head| (&*head.method, head.path())).map_err(ToString::to_string);
            assert_eq!(got.as_ref().map_err(String::as_str).copied(), expected, "{text:?}");
        };
        check("GET /pods HTTP/1.1\r\n\r\n", Ok(("GET", "/pods")));
        check("POST /exec/a/b/c?command=sh&x=/%20 HTTP/1.1\r\nHost: h\r\n\r\n", Ok(("POST", "/exec/a/b/c")));
        check("GET / HTTP/1.0\r\n\r\n", Err("this port speaks HTTP/1.1"));
        check(
            "TRACE / HTTP/1.1\r\n\r\n",
            Err("the method is none of GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS"),
        );
        let line = Err("the request cannot be read: its first line is not METHOD PATH HTTP/1.1");
        check("GET  / HTTP/1.1\r\n\r\n", line);
        check("GET / nonsense\r\n\r\n", line);
        check("GET /\r\n\r\n", line);
        check("\r\n\r\n", line);
        let path = Err("the request cannot be read: its path must begin with a slash and be visible ASCII");
        check("GET http://other/pods HTTP/1.1\r\n\r\n", path);
        check("GET * HTTP/1.1\r\n\r\n", path);
        check("GET /\u{e9} HTTP/1.1\r\n\r\n", path);
        let header = Err("the request cannot be read: a header is not NAME: VALUE");
        check("GET / HTTP/1.1\r\nHost\r\n\r\n", header);
        check("GET / HTTP/1.1\r\nHost : h\r\n\r\n", header);
        check("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", header);
        check("GET / HTTP/1.1\r\nA: b\nHost: h\r\n\r\n", header);
        check("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", header);
        let twice = Err("the request cannot be read: it says more than once how long it is");
        check("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", twice);
        check("POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n", twice);
    }

    #[test]
    fn tokens() {
        let check = |headers: &str, expected: Option<&str>| {
            let head = parsed(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).unwrap();
            assert_eq!(head.bearer(), expected, "{headers:?}");
        };
        check("Authorization: Bearer abc\r\n", Some("abc"));
        check("authorization:bearer  abc \r\n", Some("abc"));
        check("Authorization: Basic abc\r\n", None);
        check("Authorization: Bearer \r\n", None);
        check("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", None);
        check("", None);
    }

    #[test]
    fn how_it_goes_on() {
        let check = |headers: &str, how: Onward, expected: &str| {
            let head = parsed(&format!("GET /a?b=c HTTP/1.1\r\n{headers}\r\n")).unwrap();
            let got = String::from_utf8(head.onward(how)).unwrap();
            assert_eq!(got, format!("GET /a?b=c HTTP/1.1\r\n{expected}\r\n"), "{headers:?}");
        };
        let spdy = "Host: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4\r\n";
        check(spdy, Onward::Upgrade, spdy);
        check(spdy, Onward::Once, "Host: h\r\nX-Stream-Protocol-Version: v4\r\nConnection: close\r\n");
        check(
            "Host: h\r\nAuthorization: Bearer t\r\nCookie: c\r\nX-Remote-User: root\r\nImpersonate-User: u\r\nKeep-Alive: 5\r\nAccept: */*\r\n",
            Onward::Once,
            "Host: h\r\nAccept: */*\r\nConnection: close\r\n",
        );
        check("Authorization: Bearer t\r\nHost: h\r\n", Onward::Upgrade, "Host: h\r\n");
    }

    #[test]
    fn who_asks_for_an_upgrade() {
        let check = |headers: &str, expected: bool| {
            let head = parsed(&format!("GET / HTTP/1.1\r\n{headers}\r\n")).unwrap();
            assert_eq!(head.asks_for_upgrade(), expected, "{headers:?}");
        };
        check("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n", true);
        check("Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", true);
        check("Upgrade: websocket\r\n", false);
        check("Connection: upgrade\r\n", false);
        check("Connection: close\r\nUpgrade: websocket\r\n", false);
    }
}
