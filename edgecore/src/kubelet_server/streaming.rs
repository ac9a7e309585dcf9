//! Pure: what is asked of a stream into a container, in the kubelet's words, and where the runtime waits for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Which ends of a process are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Ends {
    /// Reads a decoded query: `input`, `output`, `error` and `tty`, each 1 where it is wanted.
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, String> {
        let wants = |word: &str| query.iter().any(|(name, value)| name == word && is_one(value));
        let tty = wants("tty");
        // A terminal is one stream: what goes to standard error comes out of it too.
        let ends =
            Self { stdin: wants("input"), stdout: wants("output"), stderr: wants("error") && !tty, tty };
        if ends.stdin || ends.stdout || ends.stderr {
            return Ok(ends);
        }
        Err("you must specify at least 1 of stdin, stdout, stderr".into())
    }

    /// For attach: whether there is a terminal was decided when the container was made.
    pub(super) fn with_tty(self, tty: bool) -> Self {
        Self { tty, stderr: self.stderr && !tty, ..self }
    }
}

fn is_one(value: &str) -> bool {
    matches!(value, "1" | "true")
}

/// The words of the command, in their order. They go to the runtime as they are.
pub(super) fn command(query: &[(String, String)]) -> Vec<String> {
    query.iter().filter(|(name, _)| name == "command").map(|(_, word)| word.clone()).collect()
}

/// The ports of a port-forward that a WebSocket asks for; over SPDY each stream names its own.
pub(super) fn ports(query: &[(String, String)]) -> Result<Vec<i32>, String> {
    let words = query.iter().filter(|(name, _)| name == "port").flat_map(|(_, list)| list.split(','));
    let ports: Vec<i32> = words
        .map(|word| match word.parse::<u16>() {
            Ok(0) => Err(format!("port {word:?} must be > 0")),
            Ok(port) => Ok(i32::from(port)),
            Err(_) => Err(format!("unable to parse {word:?} as a port")),
        })
        .collect::<Result<_, _>>()?;
    if ports.is_empty() { Err("query parameter \"port\" is required".into()) } else { Ok(ports) }
}

/// Where the runtime waits for a stream that it has promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamUrl {
    pub(super) address: SocketAddr,
    /// As the runtime wrote it.
    pub(super) host: String,
    /// Path and query, which hold the runtime's token.
    pub(super) path: String,
}

impl StreamUrl {
    /// Reads the runtime's answer. Errors: a sentence that names the runtime's setting. Bytes of a container leave this
    /// process for this machine only, and unencrypted only within it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "the container runtime offers this stream at {:?}, {why}; let its streaming server listen on 127.0.0.1 \
                 without TLS (containerd: stream_server_address and enable_tls_streaming, CRI-O: stream_address and \
                 stream_enable_tls)",
                without_token(url)
            )
        };
        let rest = url.strip_prefix("http://").ok_or_else(|| wrong("which is not plain HTTP"))?;
        let (authority, path) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        let address = address(authority).filter(|address| address.ip().is_loopback());
        let address = address.ok_or_else(|| wrong("which is no address of this machine alone"))?;
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("with a path that is none"));
        }
        Ok(Self { address, host: authority.to_owned(), path: path.to_owned() })
    }
}

/// An address with its port, which is HTTP's unless it says so. No name is looked up.
fn address(authority: &str) -> Option<SocketAddr> {
    if let Ok(address) = authority.parse() {
        return Some(address);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, 80),
    };
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whoever has the token may use the stream: it stands in no answer and no log.
fn without_token(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(after_scheme..).and_then(|rest| rest.find(['/', '?'])).map(|at| after_scheme + at);
    url.get(..end.unwrap_or(url.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::pairs;

    #[test]
    fn ends_are_the_kubelets() {
        let check = |query: &str, expected: Option<(bool, bool, bool, bool)>| {
            let ends = Ends::parse(&pairs(query).unwrap());
            let got = ends.ok().map(|ends| (ends.stdin, ends.stdout, ends.stderr, ends.tty));
            assert_eq!(got, expected, "{query}");
        };
        check("input=1&output=1&tty=1&command=sh", Some((true, true, false, true)));
        check("output=1&error=1&command=ls", Some((false, true, true, false)));
        check("output=1&error=1&tty=1", Some((false, true, false, true)));
        check("error=1", Some((false, false, true, false)));
        check("output=true", Some((false, true, false, false)));
        check("command=ls", None);
        check("output=0&input=yes", None);
        check("error=1&tty=1", None);
    }

    #[test]
    fn attach_has_the_containers_terminal() {
        let ends = Ends { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(ends.with_tty(true), Ends { stderr: false, tty: true, ..ends });
        assert_eq!(Ends { tty: true, ..ends }.with_tty(false), ends);
    }

    #[test]
    fn words_stay_words() {
        let query = pairs("command=sh&command=-c&x=1&command=echo+%24HOME%3B+rm+%22a+b%22").unwrap();
        assert_eq!(command(&query), ["sh", "-c", "echo $HOME; rm \"a b\""]);
    }

    #[test]
    fn ports_are_numbers() {
        let check = |query: &str, expected: Result<&[i32], &str>| {
            let got = ports(&pairs(query).unwrap());
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{query}");
        };
        check("port=80", Ok(&[80]));
        check("port=80,443&port=8080", Ok(&[80, 443, 8080]));
        check("", Err("query parameter \"port\" is required"));
        check("port=0", Err("port \"0\" must be > 0"));
        check("port=65536", Err("unable to parse \"65536\" as a port"));
        check("port=http", Err("unable to parse \"http\" as a port"));
    }

    #[test]
    fn the_runtime_is_on_this_machine() {
        let check = |url: &str, address: &str, host: &str, path: &str| {
            let expected =
                StreamUrl { address: address.parse().unwrap(), host: host.into(), path: path.into() };
            assert_eq!(StreamUrl::parse(url), Ok(expected), "{url}");
        };
        check("http://127.0.0.1:4321/exec/abc", "127.0.0.1:4321", "127.0.0.1:4321", "/exec/abc");
        check("http://127.8.0.1:1/a?b=c", "127.8.0.1:1", "127.8.0.1:1", "/a?b=c");
        check("http://[::1]:4321/attach/x", "[::1]:4321", "[::1]:4321", "/attach/x");
        check("http://localhost:9/x", "127.0.0.1:9", "localhost:9", "/x");
        check("http://127.0.0.1", "127.0.0.1:80", "127.0.0.1", "/");
    }

    #[test]
    fn other_hosts_are_refused_without_their_token() {
        let check = |url: &str, why: &str| {
            let error = StreamUrl::parse(url).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        };
        check("http://10.0.0.5:4321/exec/secret", "\"http://10.0.0.5:4321\", which is no address of this");
        check("http://0.0.0.0:4321/exec/secret", "no address of this machine alone");
        check("http://evil.example:4321/exec/secret", "no address of this machine alone");
        check("http://127.0.0.1.example:1/secret", "no address of this machine alone");
        check("https://127.0.0.1:4321/exec/secret", "not plain HTTP");
        check("/exec/secret", "not plain HTTP");
        check("", "not plain HTTP");
        check("http://user@127.0.0.1:1/secret", "no address of this machine alone");
        check("http://:1/secret", "no address");
        check("http://127.0.0.1:99999/secret", "no address");
        check("http://127.0.0.1:1/exec secret\r\nX: y", "a path that is none");
        check("http://127.0.0.1:1?secret", "a path that is none");
    }
}
