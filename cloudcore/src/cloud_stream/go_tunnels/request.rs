//! Pure: what of an API server's request KubeEdge's tunnel can carry, and as which message.
//!
//! It has messages for logs, commands, attaching and numbers, and for nothing else. Of an answer it carries the body without its
//! head, so type and status are made up here. Called by `exchange.rs`.

use ke_wire::tunnel::{KubeletRequest, Reached};

use crate::cloud_stream::head::Head;

/// What the node must know to make a request of its own.
const NOT_THE_NODES: [&str; 6] = ["host", "content-length", "transfer-encoding", "te", "trailer", "expect"];
/// About one connection; also a Go edge's own client makes them anew.
const OF_THE_CONNECTION: [&str; 4] = ["connection", "keep-alive", "upgrade", "accept-encoding"];

/// A request that the tunnel carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub reached: Reached,
    pub request: KubeletRequest,
    /// Of the answer, where the tunnel does not carry its head.
    pub content_type: &'static str,
    /// Whether silence is nothing unusual.
    pub is_followed: bool,
}

/// Why the tunnel cannot carry it: status, and a sentence that goes on after "node NAME".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotCarried(pub u16, pub &'static str);

/// As a Go cloud chooses. Other paths of a kubelet go as logs do: their bytes are carried as they are, whereas a Go edge drops
/// lines of numbers above 64 KiB.
pub(super) fn asked(head: &Head) -> Result<Asked, NotCarried> {
    let first = head.path().split('/').nth(1).unwrap_or_default();
    let is_raw = matches!(first, "exec" | "attach");
    let (reached, content_type) = match first {
        "exec" => (Reached::Exec, ""),
        "attach" => (Reached::Attach, ""),
        "containerLogs" | "logs" => (Reached::Logs, "text/plain; charset=utf-8"),
        "metrics" => (Reached::Metrics, "text/plain; version=0.0.4; charset=utf-8"),
        "stats" => (Reached::Metrics, "application/json"),
        "healthz" => (Reached::Logs, "text/plain; charset=utf-8"),
        "portForward" => {
            let why =
                "has KubeEdge's edgecore, whose tunnel carries no port-forward: update it to this project's";
            return Err(NotCarried(501, why));
        }
        _ => (Reached::Logs, "application/json"),
    };
    if is_raw && !head.asks_for_upgrade() {
        return Err(NotCarried(400, "has KubeEdge's edgecore: the request must ask for an upgrade"));
    }
    if head.method != "GET" && !is_raw {
        let why = "has KubeEdge's edgecore, whose tunnel carries GET only: update it to this project's";
        return Err(NotCarried(501, why));
    }
    let mut request = KubeletRequest {
        target: head.target.clone(),
        header: Default::default(),
        method: is_raw.then(|| head.method.clone()),
    };
    for (name, value) in head.headers() {
        let lower = name.to_ascii_lowercase();
        let is_dropped =
            NOT_THE_NODES.contains(&&*lower) || (!is_raw && OF_THE_CONNECTION.contains(&&*lower));
        // Text by JSON's rules; a header that is none says nothing to a kubelet.
        if let (false, Ok(value)) = (is_dropped, std::str::from_utf8(value)) {
            request.header.entry(canonical(name)).or_default().push(value.to_owned());
        }
    }
    if !is_raw {
        // Nobody would learn that the body is packed.
        request.header.insert("Accept-Encoding".to_owned(), vec!["identity".to_owned()]);
    }
    let query = head.target.split_once('?').map_or("", |(_, query)| query);
    let is_followed = reached == Reached::Logs
        && query.split('&').any(|pair| matches!(pair.split_once('='), Some(("follow", "true" | "1"))));
    Ok(Asked { reached, request, content_type, is_followed })
}

/// As Go spells names of headers: it finds no other spelling.
fn canonical(name: &str) -> String {
    let mut starts = true;
    let spell = |letter: char| {
        let spelt = if starts { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        starts = letter == '-';
        spelt
    };
    name.chars().map(spell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(first: &str, headers: &str) -> Head {
        Head::parse(format!("{first} HTTP/1.1\r\nHost: 10.0.0.1:10350\r\n{headers}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn each_path_has_its_message() {
        let check = |first: &str, expected: Result<(Reached, bool), u16>| {
            let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
            let found = asked(&head(first, upgrade));
            let found = found.map(|asked| (asked.reached, asked.is_followed)).map_err(|no| no.0);
            assert_eq!(found, expected, "{first}");
        };
        check("GET /containerLogs/a/b/c", Ok((Reached::Logs, false)));
        check("GET /containerLogs/a/b/c?follow=true&tailLines=1", Ok((Reached::Logs, true)));
        check("GET /containerLogs/a/b/c?follow=false", Ok((Reached::Logs, false)));
        check("POST /exec/a/b/c?command=sh", Ok((Reached::Exec, false)));
        check("GET /exec/a/b/c?command=sh&follow=true", Ok((Reached::Exec, false)));
        check("POST /attach/a/b/c", Ok((Reached::Attach, false)));
        check("GET /metrics/resource", Ok((Reached::Metrics, false)));
        check("GET /stats/summary?only_cpu_and_memory=true", Ok((Reached::Metrics, false)));
        check("GET /pods", Ok((Reached::Logs, false)));
        check("POST /portForward/a/b", Err(501));
        check("POST /run/a/b/c?cmd=ls", Err(501));
        check("DELETE /pods", Err(501));
        assert_eq!(asked(&head("POST /exec/a/b/c", "")).unwrap_err().0, 400);
    }

    #[test]
    fn headers_are_those_that_concern_the_node() {
        let check = |first: &str, expected: &[(&str, &[&str])]| {
            let sent = "user-agent: kubectl\r\naccept-encoding: gzip\r\nX-Stream-protocol-Version: v4\r\n\
                        x-stream-protocol-version: v5\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n";
            let asked = asked(&head(first, sent)).unwrap();
            let found: Vec<(&str, Vec<&str>)> = asked
                .request
                .header
                .iter()
                .map(|(name, values)| (&**name, values.iter().map(|value| &**value).collect()))
                .collect();
            let expected: Vec<(&str, Vec<&str>)> =
                expected.iter().map(|(name, values)| (*name, values.to_vec())).collect();
            assert_eq!(found, expected, "{first}");
        };
        let versions: (&str, &[&str]) = ("X-Stream-Protocol-Version", &["v4", "v5"]);
        check(
            "POST /exec/a/b/c",
            &[
                ("Accept-Encoding", &["gzip"]),
                ("Connection", &["Upgrade"]),
                ("Upgrade", &["SPDY/3.1"]),
                ("User-Agent", &["kubectl"]),
                versions,
            ],
        );
        check("GET /metrics", &[("Accept-Encoding", &["identity"]), ("User-Agent", &["kubectl"]), versions]);
    }
}
