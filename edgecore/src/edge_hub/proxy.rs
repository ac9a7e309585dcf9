//! The way to the cloud through an HTTP proxy, as `HTTPS_PROXY` and `NO_PROXY` name it. Used by `tls.rs` only.
//!
//! The proxy sees host and port of the cloud and nothing else: TLS goes through it from end to end.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer to CONNECT is a few lines. Bytes.
const MAX_ANSWER: usize = 8 << 10;

/// A proxy. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// `user:password` in base64.
    credentials: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy {}:{}", self.host, self.port)
    }
}

/// Which proxy leads to this host, if any. `variable` answers for the environment. Errors: one sentence.
pub(super) fn to(host: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let either = |upper: &str| {
        let set = variable(upper).or_else(|| variable(&upper.to_lowercase()));
        set.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let Some(url) = either("HTTPS_PROXY") else { return Ok(None) };
    if is_excepted(host, &either("NO_PROXY").unwrap_or_default()) {
        return Ok(None);
    }
    // The text may hold a password and is not shown.
    parse(&url).map(Some).ok_or_else(|| {
        "HTTPS_PROXY is no address of an HTTP proxy; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT".to_owned()
    })
}

fn parse(url: &str) -> Option<Proxy> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return None,
        None => url,
    };
    let rest = rest.trim_end_matches('/');
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(plain(user)?), address),
        None => (None, rest),
    };
    let (host, port) = split_authority(address, 80)?;
    if host.is_empty() || host.contains('/') {
        return None;
    }
    Some(Proxy { host, port, credentials: user.map(|user| STANDARD.encode(user)) })
}

/// Without the percent signs that URLs have for letters of a password.
fn plain(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut plain) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(plain)
}

/// By name, suffix, address or network; this machine itself always.
fn is_excepted(host: &str, list: &str) -> bool {
    let host = host.to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_lowercase();
        match (address, entry.split_once('/')) {
            _ if entry == "*" || entry == host => true,
            (Some(address), Some((network, bits))) => is_within(address, network, bits),
            (Some(_), None) => false,
            (None, _) => {
                let suffix = entry.trim_start_matches('.');
                host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    })
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let as_number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let (Ok(network), Ok(n_bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let ((own, width), (network, network_width)) = (as_number(address), as_number(network));
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(n_bits)).unwrap_or(0);
    width == network_width && n_bits <= width && own & mask == network & mask
}

/// What did not work on the way to the first machine. Where that is a proxy, nobody must look for the fault at the cloud.
pub(super) fn blame(proxy: Option<&Proxy>, error: std::io::Error) -> std::io::Error {
    match proxy {
        None => error,
        Some(proxy) => {
            std::io::Error::new(error.kind(), format!("{proxy:?}, which HTTPS_PROXY names: {error}"))
        }
    }
}

/// Asks the proxy at the other end to lead on to `target` (host:port).
pub(super) async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, target: &str) -> std::io::Result<()> {
    let refused = |why: String| std::io::Error::other(format!("{proxy:?}: {why}"));
    let credentials = proxy.credentials.as_ref();
    let credentials =
        credentials.map(|text| format!("Proxy-Authorization: Basic {text}\r\n")).unwrap_or_default();
    let question = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
    stream.write_all(question.as_bytes()).await?;
    // The cloud says nothing before this end has begun TLS, so that nothing of its is read here.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_ANSWER {
            return Err(refused("its answer is too long for one of a proxy".into()));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) => return Err(refused(format!("it closed the connection: {error}"))),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let first = answer.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        Some("407") => {
            Err(refused("it wants a user: write HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT".into()))
        }
        _ => Err(refused(format!("it does not lead to {target}: {first}"))),
    }
}

/// Host and port of `host`, `host:port`, `[v6]:port` or `[v6]`.
pub(super) fn split_authority(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => default_port,
    };
    let plausible = !host.is_empty() && !host.contains(['/', ' ', '@']);
    plausible.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn found(host: &str, proxy: &str, except: &str) -> Result<Option<String>, String> {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some(proxy.to_owned()),
            "no_proxy" => Some(except.to_owned()),
            _ => None,
        };
        Ok(to(host, variable)?.map(|proxy| format!("{}:{}", proxy.host, proxy.port)))
    }

    #[test]
    fn authorities() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            assert_eq!(
                split_authority(text, 10000),
                expected.map(|(host, port)| (host.to_owned(), port)),
                "{text}"
            );
        };
        check("cloud.example:10000", Some(("cloud.example", 10000)));
        check("cloud.example", Some(("cloud.example", 10000)));
        check("10.0.0.1:1", Some(("10.0.0.1", 1)));
        check("[fd00::1]:1", Some(("fd00::1", 1)));
        check("[fd00::1]", Some(("fd00::1", 10000)));
        check("cloud.example:x", None);
        check(":1", None);
        check("a/b:1", None);
    }

    #[test]
    fn the_environment_says_which_way() {
        let check = |host: &str, proxy: &str, except: &str, expected: Option<&str>| {
            assert_eq!(found(host, proxy, except).unwrap().as_deref(), expected, "{host} {proxy} {except}");
        };
        check("cloud.example", "", "", None);
        check("cloud.example", "http://proxy.example:3128/", "", Some("proxy.example:3128"));
        check("cloud.example", "proxy.example", "", Some("proxy.example:80"));
        check("cloud.example", "http://me:p%40ss@[fd00::1]:3128", "", Some("fd00::1:3128"));
        check("cloud.example", "http://p:1", "other.example, .example", None);
        check("cloud.example", "http://p:1", "cloud.example", None);
        check("notexample", "http://p:1", "example", Some("p:1"));
        check("cloud.example", "http://p:1", "*", None);
        check("10.1.2.3", "http://p:1", "10.0.0.0/8", None);
        check("11.1.2.3", "http://p:1", "10.0.0.0/8,10.1.2.3", Some("p:1"));
        check("fd00::7", "http://p:1", "fd00::/16", None);
        check("10.1.2.3", "http://p:1", "0.0.0.0/0", None);
        check("127.0.0.1", "http://p:1", "", None);
        check("localhost", "http://p:1", "", None);
        for wrong in ["https://p:1", "socks5://p:1", "http://:1", "http://p:x", "http://a%zz@p:1"] {
            let error = found("cloud.example", wrong, "").unwrap_err();
            assert!(error.contains("http://HOST:PORT") && !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_proxy_that_is_not_there_is_named() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let proxy = parse("http://me:secret@foo").unwrap();
        let why = blame(Some(&proxy), refused()).to_string();
        assert!(
            why.starts_with("proxy foo:80, which HTTPS_PROXY names: ") && !why.contains("secret"),
            "{why}"
        );
        assert_eq!(blame(None, refused()).to_string(), refused().to_string());
    }

    #[tokio::test]
    async fn a_proxy_leads_on_or_says_why_not() {
        let check = async |answer: &'static str, expected: Option<&str>| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = vec![0; 4096];
                let n_bytes = stream.read(&mut question).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(question[..n_bytes].to_vec()).unwrap()
            });
            let proxy = parse(&format!("http://me:secret@{address}")).unwrap();
            let mut stream = TcpStream::connect(address).await.unwrap();
            let done = tunnel(&mut stream, &proxy, "cloud.example:10000").await;
            let question = server.await.unwrap();
            assert!(question.starts_with("CONNECT cloud.example:10000 HTTP/1.1\r\n"), "{question}");
            assert!(question.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{question}");
            match (done, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    let text = error.to_string();
                    assert!(text.contains(expected) && !text.contains("secret"), "{text}");
                }
                (done, _) => panic!("{done:?}"),
            }
        };
        check("HTTP/1.1 200 Connection established\r\n\r\n", None).await;
        check("HTTP/1.0 200 OK\r\nVia: x\r\n\r\n", None).await;
        check("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Some("USER:PASSWORD")).await;
        check("HTTP/1.1 403 Forbidden\r\n\r\n", Some("403 Forbidden")).await;
        check("nonsense\r\n\r\n", Some("does not lead")).await;
        check("HTTP/1.1 200 OK\r\n", Some("closed the connection")).await;
    }
}
