//! What a probe or hook asks, with ports and hosts filled in. Pure.
//!
//! Words and defaults are the kubelet's: a host that is not given is the Pod's address, a port may be a name of the
//! container's. `run.rs` and `http.rs` carry it out.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::edged::expand::expand;

/// One question to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Run this; 0 is well.
    Exec(Vec<String>),
    /// Answer with 200 to 399.
    Http(HttpTarget),
    /// Take a connection.
    Tcp { host: String, port: u16 },
    /// Answer `SERVING` for this service.
    Grpc { host: String, port: u16, service: String },
}

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// TLS; nobody looks at the certificate.
    pub https: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Path and query as they go over the wire.
    pub path: String,
    /// As the Pod's author wrote them, `User-Agent` and `Accept` added.
    pub headers: Vec<(String, String)>,
}

/// Version of Kubernetes that requests name, as the kubelet's do.
const VERSION: &str = "1.36";

impl Target {
    /// What this probe asks, or why it asks nothing.
    pub fn of(probe: &Probe, container: &Container, pod_ip: &str) -> Result<Self, String> {
        if let Some(exec) = &probe.exec {
            // Only variables with a written value are known here.
            let lookup = |name: &str| {
                let env = container.env.iter().flatten().rev().find(|env| env.name == name)?;
                env.value_from.is_none().then(|| env.value.clone().unwrap_or_default())
            };
            let words = exec.command.iter().flatten();
            return Ok(Self::Exec(words.map(|word| expand(word, lookup)).collect()));
        }
        if let Some(get) = &probe.http_get {
            return HttpTarget::of(get, container, pod_ip, "probe").map(Self::Http);
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host = host_or(tcp.host.as_deref(), pod_ip)?;
            return Ok(Self::Tcp { host, port: port(&tcp.port, container)? });
        }
        if let Some(grpc) = &probe.grpc {
            let port = valid(i64::from(grpc.port))?;
            let service = grpc.service.clone().unwrap_or_default();
            return Ok(Self::Grpc { host: host_or(None, pod_ip)?, port, service });
        }
        Err("the probe names none of exec, httpGet, tcpSocket and grpc".into())
    }
}

impl HttpTarget {
    /// What this action asks. `purpose` stands in the `User-Agent`: `probe` or `lifecycle`.
    pub fn of(
        get: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        purpose: &str,
    ) -> Result<Self, String> {
        let https = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let mut headers: Vec<(String, String)> =
            get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let has = |name: &str| get.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case(name));
        if !has("User-Agent") {
            headers.push(("User-Agent".into(), format!("kube-{purpose}/{VERSION}")));
        }
        if !has("Accept") {
            headers.push(("Accept".into(), "*/*".into()));
        }
        // One that is written and empty means: none.
        headers.retain(|(name, value)| !(name.eq_ignore_ascii_case("Accept") && value.is_empty()));
        Ok(Self {
            https,
            host: host_or(get.host.as_deref(), pod_ip)?,
            port: port(&get.port, container)?,
            path: wire_path(get.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    /// As a person reads it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Where a redirect leads; `None`: to another host, where it is not followed, or nowhere.
    #[must_use]
    pub fn redirected(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        let (https, rest) = match location.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, Some(rest)),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, Some(rest)),
            // Perhaps part of a query.
            _ => (self.https, location.strip_prefix("//")),
        };
        let Some(rest) = rest else { return Some(Self { path: self.path_to(location), ..self.clone() }) };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (host, port) = match authority.strip_prefix('[').and_then(|six| six.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host != self.host {
            return None;
        }
        let default = if https { 443 } else { 80 };
        let port = port.map_or(Some(default), |port| port.parse().ok())?;
        // A `Host` of the first request's belongs to its own place.
        let headers = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Host")).cloned();
        Some(Self { https, port, path: wire_path(path), headers: headers.collect(), host: self.host.clone() })
    }

    fn path_to(&self, relative: &str) -> String {
        let here = self.path.split(['?', '#']).next().unwrap_or_default();
        if relative.starts_with('/') {
            wire_path(relative)
        } else if relative.starts_with('?') {
            wire_path(&format!("{here}{relative}"))
        } else {
            let folder = here.rsplit_once('/').map_or("", |(folder, _)| folder);
            wire_path(&format!("{folder}/{relative}"))
        }
    }
}

/// `host:port`, an IPv6 address in brackets.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A port of this container, by number or name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => valid(i64::from(*number)),
        IntOrString::String(name) => {
            let ports = || container.ports.iter().flatten();
            if let Some(known) = ports().find(|port| port.name.as_ref() == Some(name)) {
                return valid(i64::from(known.container_port));
            }
            if let Ok(number) = name.parse::<i64>() {
                return valid(number);
            }
            let names: Vec<&str> = ports().filter_map(|port| port.name.as_deref()).collect();
            let named = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(format!("port {name} not found: container {} names {named}", container.name))
        }
    }
}

fn valid(port: i64) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(format!("invalid port number: {port}"))
}

fn host_or(host: Option<&str>, pod_ip: &str) -> Result<String, String> {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err("the pod has no address yet".into()) } else { Ok(host.to_owned()) }
}

/// A path as it may stand in a request line: no fragment, and what must not stand there is escaped.
fn wire_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        if byte <= b' ' || byte >= 0x7f || b"\"<>\\^`{|}".contains(&byte) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container() -> Container {
        serde_json::from_value(json!({
            "name": "app",
            "env": [{"name": "FILE", "value": "/ok"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
            "ports": [{"containerPort": 80}, {"name": "http", "containerPort": 8080}, {"name": "bad", "containerPort": 0}],
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(probe: Value, expected: &str) {
        let probe: Probe = serde_json::from_value(probe).unwrap();
        let line = match Target::of(&probe, &container(), "10.0.0.7") {
            Ok(Target::Exec(words)) => words.join(" "),
            Ok(Target::Http(http)) => {
                let headers: Vec<String> = http.headers.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", http.url(), headers.join(" "))
            }
            Ok(Target::Tcp { host, port }) => format!("tcp {}", authority(&host, port)),
            Ok(Target::Grpc { host, port, service }) => format!("grpc {host} {port} {service:?}"),
            Err(error) => error,
        };
        assert_eq!(line, expected);
    }

    #[test]
    fn every_kind_of_question() {
        check(json!({"exec": {"command": ["cat", "$(FILE)", "$(NODE)"]}}), "cat /ok $(NODE)");
        let plain = "User-Agent=kube-probe/1.36 Accept=*/*";
        check(json!({"httpGet": {"port": 80}}), &format!("http://10.0.0.7:80/ {plain}"));
        check(
            json!({"httpGet": {"port": "http", "path": "healthz?a=b c#d", "scheme": "HTTPS", "host": "fd00::1"}}),
            &format!("https://[fd00::1]:8080/healthz?a=b%20c {plain}"),
        );
        check(
            json!({"httpGet": {"port": "8081", "httpHeaders": [
                {"name": "Host", "value": "shop"}, {"name": "accept", "value": ""}, {"name": "user-agent", "value": "me"}]}}),
            "http://10.0.0.7:8081/ Host=shop user-agent=me",
        );
        check(json!({"tcpSocket": {"port": "http"}}), "tcp 10.0.0.7:8080");
        check(json!({"tcpSocket": {"port": 1, "host": "[::1]"}}), "tcp [::1]:1");
        check(json!({"grpc": {"port": 9, "service": "shop"}}), "grpc 10.0.0.7 9 \"shop\"");
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        check(json!({"httpGet": {"port": "web"}}), "port web not found: container app names http, bad");
        check(json!({"tcpSocket": {"port": "bad"}}), "invalid port number: 0");
        check(json!({"tcpSocket": {"port": 70_000}}), "invalid port number: 70000");
        check(json!({"grpc": {"port": 0}}), "invalid port number: 0");
        check(json!({}), "the probe names none of exec, httpGet, tcpSocket and grpc");
        let probe: Probe = serde_json::from_value(json!({"tcpSocket": {"port": 1}})).unwrap();
        assert_eq!(Target::of(&probe, &container(), ""), Err("the pod has no address yet".into()));
    }

    #[test]
    fn redirects_stay_on_their_host() {
        let get = |body: Value| serde_json::from_value::<HTTPGetAction>(body).unwrap();
        let from =
            HttpTarget::of(&get(json!({"port": 80, "path": "/a/b?c"})), &container(), "10.0.0.7", "probe");
        let from = from.unwrap();
        let check = |location: &str, expected: Option<&str>| {
            let to = from.redirected(location).map(|to| to.url());
            assert_eq!(to.as_deref(), expected, "{location}");
        };
        check("/x", Some("http://10.0.0.7:80/x"));
        check("x?y", Some("http://10.0.0.7:80/a/x?y"));
        check("?y=http://z/", Some("http://10.0.0.7:80/a/b?y=http://z/"));
        check("//10.0.0.7:81/x", Some("http://10.0.0.7:81/x"));
        check("https://10.0.0.7/x", Some("https://10.0.0.7:443/x"));
        check("http://10.0.0.7", Some("http://10.0.0.7:80/"));
        check("http://10.0.0.8/x", None);
        check("http://10.0.0.7:no/", None);
    }
}
