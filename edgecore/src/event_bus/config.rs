//! Pure: what edgecore.yaml may say under `modules.eventBus`, with KubeEdge's keys, and what of it cannot work.

use std::path::PathBuf;

use ke_run::config::{Problem, Secret, Within};
use serde::{Deserialize, Serialize};

/// `modules.eventBus`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventBusConfig {
    /// Whether devices and applications are heard over MQTT at all.
    pub enable: bool,
    /// 0: the embedded broker; 1: both; 2: an external broker only. null: 0.
    pub mqtt_mode: Option<Within<0, 2>>,
    /// The external broker (modes 1 and 2), as tcp://host:port, or ssl://host:port with `eventBusTLS`.
    pub mqtt_server_external: String,
    /// Where the embedded broker listens (modes 0 and 1). null: tcp://127.0.0.1:1884; if `mqttMode` is null too, port 1883
    /// unless another broker has it. It knows no users and no TLS: whoever reaches the address may read and write devices.
    pub mqtt_server_internal: Option<String>,
    /// QoS of what edgecore says on the embedded broker. 0 to 2.
    #[serde(rename = "mqttQOS")]
    pub mqtt_qos: Within<0, 2>,
    /// Whether the embedded broker keeps the last word of edgecore on each topic for later subscribers.
    pub mqtt_retain: bool,
    /// How many messages the embedded broker keeps for one client that is away or slow. 1 to 100000; the oldest goes first.
    pub mqtt_session_queue_size: Within<1, 100_000>,
    /// Client id on the external broker. Empty: one by chance, at each start another.
    #[serde(rename = "mqttSubClientID")]
    pub mqtt_sub_client_id: String,
    /// Not used: one connection listens and speaks, with `mqttSubClientID`.
    #[serde(rename = "mqttPubClientID")]
    pub mqtt_pub_client_id: String,
    /// User name for the external broker.
    pub mqtt_username: String,
    /// Password for the external broker; only with a user name.
    pub mqtt_password: Secret,
    /// TLS to the external broker.
    #[serde(rename = "eventBusTLS")]
    pub tls: EventBusTls,
}

impl Default for EventBusConfig {
    fn default() -> Self {
        Self {
            enable: true,
            mqtt_mode: None,
            mqtt_server_external: "tcp://127.0.0.1:1883".to_owned(),
            mqtt_server_internal: None,
            mqtt_qos: Within::of::<0>(),
            mqtt_retain: false,
            mqtt_session_queue_size: Within::of::<100>(),
            mqtt_sub_client_id: String::new(),
            mqtt_pub_client_id: String::new(),
            mqtt_username: String::new(),
            mqtt_password: Secret::default(),
            tls: EventBusTls::default(),
        }
    }
}

/// `modules.eventBus.eventBusTLS`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventBusTls {
    /// Whether the external broker is spoken to over TLS. Its certificate must name the host.
    pub enable: bool,
    /// CA of the external broker.
    #[serde(rename = "tlsMqttCAFile")]
    pub tls_mqtt_ca_file: PathBuf,
    /// Certificate that edgecore shows. Empty: none.
    pub tls_mqtt_cert_file: PathBuf,
    /// Key of that certificate.
    pub tls_mqtt_private_key_file: PathBuf,
}

impl Default for EventBusTls {
    fn default() -> Self {
        Self {
            enable: false,
            tls_mqtt_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_mqtt_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_mqtt_private_key_file: "/etc/kubeedge/certs/server.key".into(),
        }
    }
}

/// Which brokers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Embedded,
    Both,
    External,
}

/// Where the embedded broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There, or not at all.
    At(String, u16),
    /// On loopback: the usual port 1883 if it is free, else KubeEdge's 1884.
    Free,
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl EventBusConfig {
    pub(super) fn mode(&self) -> Mode {
        match self.mqtt_mode.map(Within::get) {
            None | Some(0) => Mode::Embedded,
            Some(1) => Mode::Both,
            Some(_) => Mode::External,
        }
    }

    pub(super) fn place(&self) -> Option<Place> {
        match (&self.mqtt_server_internal, self.mqtt_mode) {
            (Some(url), _) => Address::parse(url).ok().map(|found| Place::At(found.host, found.port)),
            (None, Some(_)) => Some(Place::At("127.0.0.1".to_owned(), 1884)),
            (None, None) => Some(Place::Free),
        }
    }

    pub(super) fn external(&self) -> Option<Address> {
        Address::parse(&self.mqtt_server_external).ok()
    }

    /// What cannot work. Sections that are not used are not looked at.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem =
            |key: &str, text: String| problems.push(Problem::new(&format!("modules.eventBus.{key}"), text));
        if !self.enable {
            return problems;
        }
        if let Some(url) = self.mqtt_server_internal.as_ref().filter(|_| self.mode() != Mode::External) {
            match Address::parse(url) {
                Ok(found) if found.is_tls => {
                    problem(
                        "mqttServerInternal",
                        format!("found \"{url}\", but the embedded broker speaks no TLS"),
                    );
                }
                Ok(_) => {}
                Err(why) => problem("mqttServerInternal", why),
            }
        }
        if self.mode() != Mode::Embedded {
            let url = &self.mqtt_server_external;
            match Address::parse(url) {
                Ok(found) if found.is_tls && !self.tls.enable => problem(
                    "eventBusTLS.enable",
                    format!(
                        "found false, but \"{url}\" needs a CA to check the broker; set it to true and tlsMqttCAFile"
                    ),
                ),
                Ok(found) if !found.is_tls && self.tls.enable => problem(
                    "mqttServerExternal",
                    format!(
                        "found \"{url}\" with eventBusTLS.enable, but it means no TLS; write ssl:// instead of tcp://"
                    ),
                ),
                Ok(_) => {}
                Err(why) => problem("mqttServerExternal", why),
            }
        }
        problems
    }
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let expected = || format!("found \"{}\", expected tcp://host:port", without_user(url));
        let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
        let is_tls = match scheme {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" => true,
            "ws" | "wss" => {
                return Err(format!(
                    "found \"{}\", but MQTT over WebSocket is not supported; use tcp:// or ssl://",
                    without_user(url)
                ));
            }
            _ => return Err(expected()),
        };
        if rest.contains('@') {
            return Err("holds a user; set mqttUsername and mqttPassword instead".to_owned());
        }
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?,
            None if is_tls => 8883,
            None => 1883,
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(expected());
        }
        Ok(Self { host: host.to_owned(), port, is_tls })
    }
}

/// A password may stand before the `@`.
fn without_user(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, rest)) => format!("(hidden)@{rest}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |url: &str, expected: Result<(&str, u16, bool), &str>| {
            let found = Address::parse(url);
            let found = found.as_ref().map(|found| (found.host.as_str(), found.port, found.is_tls));
            assert_eq!(found.map_err(String::as_str), expected, "{url}");
        };
        check("tcp://127.0.0.1:1884", Ok(("127.0.0.1", 1884, false)));
        check("mqtt://broker/", Ok(("broker", 1883, false)));
        check("ssl://broker.example", Ok(("broker.example", 8883, true)));
        check("tls://[fd00::1]:1", Ok(("fd00::1", 1, true)));
        check("tcp://:1", Err("found \"tcp://:1\", expected tcp://host:port"));
        check("127.0.0.1:1883", Err("found \"127.0.0.1:1883\", expected tcp://host:port"));
        check("tcp://a:x", Err("found \"tcp://a:x\", expected tcp://host:port"));
        check("udp://u:secret@a:1", Err("found \"(hidden)@a:1\", expected tcp://host:port"));
        check("tcp://u:p@a:1", Err("holds a user; set mqttUsername and mqttPassword instead"));
        let websocket = "found \"ws://a:1\", but MQTT over WebSocket is not supported; use tcp:// or ssl://";
        check("ws://a:1", Err(websocket));
    }

    #[test]
    fn where_the_embedded_broker_listens() {
        let check = |mode: Option<i64>, url: Option<&str>, expected: Place| {
            let config = EventBusConfig {
                mqtt_mode: mode.and_then(Within::new),
                mqtt_server_internal: url.map(str::to_owned),
                ..EventBusConfig::default()
            };
            assert_eq!(config.place(), Some(expected));
        };
        check(None, None, Place::Free);
        check(Some(0), None, Place::At("127.0.0.1".into(), 1884));
        check(None, Some("tcp://0.0.0.0:5"), Place::At("0.0.0.0".into(), 5));
    }

    #[test]
    fn what_cannot_work() {
        let check = |mode: i64, external: &str, internal: &str, tls: bool, expected: &[&str]| {
            let config = EventBusConfig {
                mqtt_mode: Within::new(mode),
                mqtt_server_external: external.to_owned(),
                mqtt_server_internal: Some(internal.to_owned()),
                tls: EventBusTls { enable: tls, ..EventBusTls::default() },
                ..EventBusConfig::default()
            };
            let keys: Vec<_> = config.problems().into_iter().map(|problem| problem.key).collect();
            assert_eq!(keys, expected, "{mode} {external} {internal}");
        };
        check(0, "nonsense", "tcp://127.0.0.1:1884", true, &[]);
        check(2, "tcp://a", "nonsense", false, &[]);
        check(
            1,
            "nonsense",
            "ssl://a",
            false,
            &["modules.eventBus.mqttServerInternal", "modules.eventBus.mqttServerExternal"],
        );
        check(2, "ssl://a", "", false, &["modules.eventBus.eventBusTLS.enable"]);
        check(2, "tcp://a", "", true, &["modules.eventBus.mqttServerExternal"]);
        check(2, "ssl://a", "", true, &[]);
    }
}
