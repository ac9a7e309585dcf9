//! Pure: what manifests say about a broker, and about the topics of a device's properties, with the names that published
//! ones use. Errors name the key, never the value. Files that settings name are read by `link.rs`.

use std::fmt;
use std::time::Duration;

use ke_mqtt::is_topic;
use mapper_sdk::value::Kind;
use mapper_sdk::{Device, Property, SettingError, Settings};
use rumqttc::QoS;

use crate::payload::Path;
use crate::template::Template;
use crate::topic::is_filter;

/// How to reach a device's broker, and as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `None`: not encrypted.
    pub tls: Option<Tls>,
    /// No two clients of a broker have the same; it throws the older out.
    pub client_id: String,
    /// As whom.
    pub login: Option<Login>,
    /// Seconds between signs of life; a broker that is silent for twice as long is lost.
    pub keep_alive_secs: u16,
    /// Whether the broker forgets us when we are away, and with us the messages that came meanwhile.
    pub is_clean: bool,
    /// How long to wait for a connection, and for each answer.
    pub timeout: Duration,
}

/// Whom to trust, and how to show who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of authorities; without, the machine's own.
    pub authorities: Option<String>,
    /// PEM files of our certificate and its key.
    pub own: Option<(String, String)>,
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: String,
    /// May be empty.
    pub password: Password,
}

/// A password, or the file that holds it. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As it stands in the manifest.
    Literal(String),
    /// What begins with a slash.
    File(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// How a property is told and written.
#[derive(Clone, Debug, PartialEq)]
pub struct Visitor {
    /// Where its values come from, wildcards included. `None`: it is only written.
    pub input: Option<String>,
    /// Where its values are written to.
    pub output: Option<String>,
    /// Of the subscription and of writes.
    pub qos: QoS,
    /// Whether the broker keeps what we write for those who subscribe later.
    pub retain: bool,
    /// Where in a JSON message the value is.
    pub path: Option<Path>,
    /// The message that writes it.
    pub template: Template,
    /// A value that is older is none. `None`: values never age.
    pub max_age: Option<Duration>,
    /// The model's type.
    pub kind: Kind,
}

const URL: [&str; 4] = ["brokerURL", "server", "broker", "url"];
const URL_IS: &str = "the broker's address, such as tcp://192.168.1.20:1883 or ssl://broker.example.com:8883";
const TOPIC: [&str; 2] = ["topic", "inputTopic"];
const AUTHORITIES: [&str; 3] = ["certification", "caCertificate", "ca"];
const DEFAULT_KEEP_ALIVE_SECS: u16 = 30;
const DEFAULT_TIMEOUT_SECS: u64 = 10;

impl Broker {
    /// Of a device. Published manifests have what belongs to the connection in any property too: the device's own counts
    /// first, then the first property's that has it.
    pub fn of(device: &Device) -> Result<Self, SettingError> {
        let settings = &device.settings;
        let with = |keys: &[&'static str]| {
            let mut places = device.properties.iter().map(|property| &property.settings);
            if settings.text(keys).is_some() {
                settings
            } else {
                places.find(|place| place.text(keys).is_some()).unwrap_or(settings)
            }
        };
        let (host, port, is_tls) = address(settings)?;
        let keep_alive_secs =
            with(&["keepAlive"]).integer(&["keepAlive"], 5, 65_535, "seconds, from 5 to 65535")?;
        let is_clean = with(&["cleanSession"]).truth(&["cleanSession"])?;
        let timeout = settings.integer(&["timeout"], 1, 600, "seconds, from 1 to 600")?;
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT_SECS);
        Ok(Self {
            host,
            port,
            tls: is_tls.then(|| tls(settings)).transpose()?,
            client_id: client_id(with(&["clientID"]), device)?,
            login: login(with(&["userName"]))?,
            keep_alive_secs: keep_alive_secs.unwrap_or(DEFAULT_KEEP_ALIVE_SECS),
            is_clean: is_clean.unwrap_or(true),
            timeout: Duration::from_secs(timeout),
        })
    }
}

/// Host, port, and whether it is encrypted.
fn address(settings: &Settings) -> Result<(String, u16, bool), SettingError> {
    const PORT_IS: &str = "1 to 65535";
    let port = settings.integer(&["port"], 1, 65_535, PORT_IS)?;
    let wants_tls = settings.truth(&["tls"])?;
    let Some(url) = settings.text(&URL) else {
        let host = settings
            .text(&["ip", "host"])
            .ok_or(SettingError::Missing { key: "brokerURL", expected: URL_IS })?;
        let is_tls = wants_tls.unwrap_or_else(|| settings.text(&AUTHORITIES).is_some());
        let host = host.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
        return Ok((host, port.unwrap_or(default_port(is_tls)), is_tls));
    };
    let wrong = SettingError::Wrong { key: "brokerURL", expected: URL_IS };
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let is_tls = match scheme.map(str::to_ascii_lowercase).as_deref() {
        None => wants_tls.unwrap_or_else(|| settings.text(&AUTHORITIES).is_some()),
        Some("tcp" | "mqtt") => wants_tls.unwrap_or(false),
        Some("ssl" | "tls" | "mqtts" | "tcps") => true,
        Some("ws" | "wss") => {
            let expected = "a tcp:// or ssl:// address: MQTT over WebSocket is not supported";
            return Err(SettingError::Wrong { key: "brokerURL", expected });
        }
        Some(_) => return Err(wrong),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        let expected = "an address only; set username and password beside it";
        return Err(SettingError::Wrong { key: "brokerURL", expected });
    }
    // The colons of an IPv6 address stand in brackets.
    let after_host = rest.rfind(']').map_or(0, |end| end + 1);
    let (host, own_port) = match rest.get(after_host..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => {
            let (host, port) = rest.split_at(after_host + colon);
            let port = port.get(1..).and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0);
            (host, Some(port.ok_or_else(|| wrong.clone())?))
        }
        None => (rest, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map_or_else(
        // Without brackets the last part of an IPv6 address would be taken for a port.
        || (!host.contains([':', '[', ']'])).then_some(host),
        Some,
    );
    let is_odd =
        |host: &&str| host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/?#\\".contains(c));
    let host = host.filter(|host| !is_odd(host)).ok_or(wrong)?;
    Ok((host.to_owned(), own_port.or(port).unwrap_or(default_port(is_tls)), is_tls))
}

fn default_port(is_tls: bool) -> u16 {
    if is_tls { 8883 } else { 1883 }
}

fn tls(settings: &Settings) -> Result<Tls, SettingError> {
    const KEY: &str = "the path of the certificate's key, a PEM file, because certificate is set";
    const CERTIFICATE: &str = "the path of the key's certificate, a PEM file, because privateKey is set";
    let authorities = settings.text(&AUTHORITIES);
    let own = match (settings.text(&["certificate", "clientCertificate"]), settings.text(&["privateKey"])) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => return Err(SettingError::Missing { key: "privateKey", expected: KEY }),
        (None, Some(_)) => return Err(SettingError::Missing { key: "certificate", expected: CERTIFICATE }),
    };
    if own.is_some() && authorities.is_none() {
        let expected = "the path of a PEM file with the broker's authority, because certificate is set";
        return Err(SettingError::Missing { key: "caCertificate", expected });
    }
    Ok(Tls { authorities, own })
}

/// One that stays the same over restarts, and that no other device has: namespaces have no dots.
fn client_id(settings: &Settings, device: &Device) -> Result<String, SettingError> {
    let given = settings.text(&["clientID"]);
    let id = given.unwrap_or_else(|| format!("isthmus.{}.{}", device.name.namespace, device.name.name));
    if id.len() > 65_535 || id.contains('\0') {
        return Err(SettingError::Wrong { key: "clientID", expected: "a short text" });
    }
    Ok(id)
}

fn login(settings: &Settings) -> Result<Option<Login>, SettingError> {
    let password = settings.text(&["password"]);
    let Some(user) = settings.text(&["userName"]) else {
        let missing =
            SettingError::Missing { key: "username", expected: "who to log in as, because password is set" };
        return password.map_or(Ok(None), |_| Err(missing));
    };
    let password = match settings.text(&["passwordFile"]) {
        Some(path) => Password::File(path),
        None => {
            let password = password.unwrap_or_default();
            if password.starts_with('/') { Password::File(password) } else { Password::Literal(password) }
        }
    };
    Ok(Some(Login { user, password }))
}

impl Visitor {
    /// Of a property. What it lacks is the device's.
    pub fn of(property: &Property, device: &Settings) -> Result<Self, SettingError> {
        const TEMPLATE_IS: &str = "a message with ${value} in it, such as {\"cmd\":\"set\",\"value\":${value}}; what begins as JSON must be JSON";
        let settings = &property.settings;
        let input = settings.text(&TOPIC);
        let own_output = settings.text(&["outputTopic"]);
        // A property with an output of its own is not told on the device's topic unless it says so.
        let input = if own_output.is_some() && input.is_none() && settings.text(&["path"]).is_none() {
            None
        } else {
            input.or_else(|| device.text(&TOPIC))
        };
        if input.as_deref().is_some_and(|input| !is_filter(input)) {
            let expected =
                "a topic such as hall/3/temp, hall/+/temp or hall/#: + and # are whole levels, # is the last";
            return Err(SettingError::Wrong { key: "topic", expected });
        }
        let output = own_output.or_else(|| {
            let own_input = settings.text(&TOPIC);
            let device_output = || device.text(&["outputTopic"]);
            let derived = |topic: &str| is_topic(topic).then(|| format!("{topic}/set"));
            own_input
                .as_deref()
                .and_then(derived)
                .or_else(device_output)
                .or_else(|| derived(input.as_deref()?))
        });
        if output.as_deref().is_some_and(|output| !is_topic(output)) {
            let expected = "a topic without + and #, such as hall/3/limit/set";
            return Err(SettingError::Wrong { key: "outputTopic", expected });
        }
        if input.is_none() && output.is_none() {
            let expected = "the topic that the values come on, such as hall/3/temp";
            return Err(SettingError::Missing { key: "topic", expected });
        }
        let path = settings.text(&["path", "jsonPath"]);
        let path = path.map(|text| {
            let expected = "a place in a JSON message, such as $.sensors[0].temp or sensors.0.temp";
            Path::parse(&text).ok_or(SettingError::Wrong { key: "path", expected })
        });
        let template = settings.text(&["template"]).map(|text| {
            Template::parse(&text).ok_or(SettingError::Wrong { key: "template", expected: TEMPLATE_IS })
        });
        let qos_keys = ["qos"];
        let with_qos = if settings.text(&qos_keys).is_some() { settings } else { device };
        let max_age =
            settings.integer::<u32>(&["maxAgeSecs"], 1, 31_536_000, "seconds, from 1 to 31536000")?;
        Ok(Self {
            input,
            output,
            qos: match with_qos.integer(&qos_keys, 0, 2, "0, 1 or 2")? {
                Some(0) => QoS::AtMostOnce,
                Some(2) => QoS::ExactlyOnce,
                _ => QoS::AtLeastOnce,
            },
            retain: settings.truth(&["retain"])?.unwrap_or(false),
            path: path.transpose()?,
            template: template.transpose()?.unwrap_or_default(),
            max_age: max_age.map(|secs| Duration::from_secs(u64::from(secs))),
            kind: property.kind,
        })
    }
}

#[cfg(test)]
mod tests;
