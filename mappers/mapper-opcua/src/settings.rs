//! What a manifest says about a server and its nodes, read into types. Pure: files that settings name are opened elsewhere,
//! by `trust.rs` and `driver.rs`.
//!
//! The keys are those of KubeEdge's older OPC-UA mapper, flattened; `authentication` and `sampling` are ours.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use mapper_sdk::value::Kind;
use mapper_sdk::{Property, SettingError, Settings};
use opcua::crypto::SecurityPolicy;
use opcua::types::{MessageSecurityMode, NodeId};

const SCHEME: &str = "opc.tcp://";
const DEFAULT_PORT: u16 = 4840;
/// Half of what the SDK gives a call by default, so that our reason comes before its.
const DEFAULT_TIMEOUT_SECS: i64 = 5;

/// How to reach a server, and as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `url`
    pub url: ServerUrl,
    /// `securityPolicy` and `securityMode`
    pub security: Security,
    /// `userName` and `password`, or the certificate
    pub identity: Identity,
    /// `certificate` and `privateKey`: what we show instead of the mapper's own
    pub own: Option<KeyPair>,
    /// `remoteCertificate`: the only certificate that the server may have
    pub remote_certificate: Option<PathBuf>,
    /// `timeout`: how long one request may take
    pub timeout: Duration,
}

/// An `opc.tcp` address, its port always written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// `host:port`
    pub authority: String,
    /// Empty, or begins with a slash.
    pub path: String,
}

/// Which of the server's endpoints to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Security {
    /// Neither policy nor mode is set: what the server itself calls its most secure.
    Best,
    /// This one and nothing weaker. Without a mode: encrypted if the server offers it, else signed.
    Exactly(SecurityPolicy, Option<MessageSecurityMode>),
}

/// As whom we log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As nobody.
    Anonymous,
    /// As a user with a password.
    User(String, Password),
    /// As the owner of the key pair.
    Certificate,
}

/// A password, or the path of the file that holds it. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// PEM or DER, told apart by the file's ending.
    pub certificate: PathBuf,
    /// PEM.
    pub private_key: PathBuf,
}

/// Where a property's value is in the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `nodeID`
    pub id: NodeId,
    /// `dataType`, or the model's
    pub kind: Kind,
    /// `sampling`
    pub sampling: Sampling,
}

/// Who looks after changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// The server, as far as it can.
    Subscribe,
    /// The mapper reads in every cycle.
    Poll,
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.authority, self.path)
    }
}

impl ServerUrl {
    /// `None`: something else than `opc.tcp://host[:port][/path]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let scheme = text.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))?;
        let rest = text.get(scheme.len()..)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_odd = |c: char| c.is_whitespace() || c.is_control();
        if authority.contains(|c: char| is_odd(c) || "@?#\\".contains(c)) || path.contains(is_odd) {
            return None;
        }
        // The colons of an IPv6 address stand in brackets.
        let after_host = authority.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match authority.get(after_host..)?.rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_host + colon);
                (host, port.get(1..)?.parse::<u16>().ok().filter(|port| *port != 0)?)
            }
            None => (authority, DEFAULT_PORT),
        };
        let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
        (!host.is_empty() && !is_bare_ipv6)
            .then(|| Self { authority: format!("{host}:{port}"), path: path.to_owned() })
    }

    /// This address with another path: servers tell the paths of their endpoints, but often under a host name that only
    /// they know.
    #[must_use]
    pub fn with_path_of(&self, endpoint: &str) -> Self {
        let path = Self::parse(endpoint).map_or_else(|| self.path.clone(), |parsed| parsed.path);
        Self { authority: self.authority.clone(), path }
    }
}

impl Server {
    /// Of a device's `protocol.configData`.
    pub fn of(settings: &Settings) -> Result<Self, SettingError> {
        const URL: &str = "the server's address, such as opc.tcp://192.168.1.20:4840";
        let url = settings.text(&["url"]).ok_or(SettingError::Missing { key: "url", expected: URL })?;
        let url = ServerUrl::parse(&url).ok_or(SettingError::Wrong { key: "url", expected: URL })?;
        let own = own(settings)?;
        let timeout =
            settings.integer(&["timeout"], 1, 600, "seconds, from 1 to 600")?.unwrap_or(DEFAULT_TIMEOUT_SECS);
        Ok(Self {
            url,
            security: security(settings)?,
            identity: identity(settings, own.as_ref())?,
            own,
            remote_certificate: settings.text(&["remoteCertificate"]).map(PathBuf::from),
            timeout: Duration::from_secs(timeout.unsigned_abs()),
        })
    }
}

impl Node {
    /// Of a property's `visitors.configData` and its model.
    pub fn of(property: &Property) -> Result<Self, SettingError> {
        const NODE_ID: &str = "the node's id, such as ns=2;s=Temperature or ns=2;i=5";
        let settings = &property.settings;
        let text =
            settings.text(&["nodeID"]).ok_or(SettingError::Missing { key: "nodeID", expected: NODE_ID })?;
        let id = NodeId::from_str(text.trim())
            .map_err(|_| SettingError::Wrong { key: "nodeID", expected: NODE_ID })?;
        let kind = match settings.text(&["dataType"]) {
            Some(name) => Kind::of_model(name.trim()).ok_or(SettingError::Wrong {
                key: "dataType",
                expected: "int, float, double, string, boolean or bytes",
            })?,
            None => property.kind,
        };
        let word = settings.word(&["sampling"], &["subscribe", "poll"], "subscribe or poll")?;
        let sampling = if word == Some("poll") { Sampling::Poll } else { Sampling::Subscribe };
        Ok(Self { id, kind, sampling })
    }
}

fn security(settings: &Settings) -> Result<Security, SettingError> {
    const POLICIES: &str = "None, Basic256Sha256, Aes128Sha256RsaOaep or Aes256Sha256RsaPss (or, where the server knows nothing better, Basic128Rsa15 or Basic256)";
    const MODES: &str = "None, Sign or SignAndEncrypt";
    const NOT_NONE: &str = "Sign or SignAndEncrypt where securityPolicy is not None";
    const NONE: &str = "None, or left out, where securityPolicy is None";
    const POLICY_FOR_MODE: &str = "a policy that signs, such as Basic256Sha256, because securityMode is set";
    let names = [
        ("None", SecurityPolicy::None),
        ("Basic256Sha256", SecurityPolicy::Basic256Sha256),
        ("Aes128Sha256RsaOaep", SecurityPolicy::Aes128Sha256RsaOaep),
        ("Aes256Sha256RsaPss", SecurityPolicy::Aes256Sha256RsaPss),
        ("Basic128Rsa15", SecurityPolicy::Basic128Rsa15),
        ("Basic256", SecurityPolicy::Basic256),
    ];
    // Some manifests have the policy's whole URI, the newer of which have dashes: `...#Aes256_Sha256_RsaPss`.
    let policy = settings.text(&["securityPolicy"]).map(|text| {
        let name = text.rsplit('#').next().unwrap_or_default().trim().replace(['-', '_'], "");
        let known = names.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        known
            .map(|(_, policy)| *policy)
            .ok_or(SettingError::Wrong { key: "securityPolicy", expected: POLICIES })
    });
    let policy = policy.transpose()?;
    let mode =
        settings.word(&["securityMode"], &["None", "Sign", "SignAndEncrypt"], MODES)?.map(
            |word| match word {
                "Sign" => MessageSecurityMode::Sign,
                "SignAndEncrypt" => MessageSecurityMode::SignAndEncrypt,
                _ => MessageSecurityMode::None,
            },
        );
    match (policy, mode) {
        (None, None) => Ok(Security::Best),
        (None | Some(SecurityPolicy::None), Some(MessageSecurityMode::None))
        | (Some(SecurityPolicy::None), None) => {
            Ok(Security::Exactly(SecurityPolicy::None, Some(MessageSecurityMode::None)))
        }
        (None, Some(_)) => Err(SettingError::Missing { key: "securityPolicy", expected: POLICY_FOR_MODE }),
        (Some(SecurityPolicy::None), Some(_)) => {
            Err(SettingError::Wrong { key: "securityMode", expected: NONE })
        }
        (Some(_), Some(MessageSecurityMode::None)) => {
            Err(SettingError::Wrong { key: "securityMode", expected: NOT_NONE })
        }
        (Some(policy), mode) => Ok(Security::Exactly(policy, mode)),
    }
}

fn identity(settings: &Settings, own: Option<&KeyPair>) -> Result<Identity, SettingError> {
    const WORDS: &[&str] = &["anonymous", "password", "certificate"];
    let user = settings.text(&["userName"]);
    let word = settings.word(&["authentication"], WORDS, "anonymous, password or certificate")?;
    match (word, user) {
        (Some("certificate"), _) if own.is_some() => Ok(Identity::Certificate),
        (Some("certificate"), _) => Err(SettingError::Missing {
            key: "certificate",
            expected: "the file of the certificate to log in with, because authentication is certificate",
        }),
        (Some("password"), None) => Err(SettingError::Missing {
            key: "userName",
            expected: "the user to log in as, because authentication is password",
        }),
        (Some("anonymous"), _) | (None, None) => Ok(Identity::Anonymous),
        // Empty passwords exist.
        (_, Some(user)) => {
            Ok(Identity::User(user, Password(settings.text(&["password"]).unwrap_or_default())))
        }
        (Some(_), None) => Ok(Identity::Anonymous),
    }
}

fn own(settings: &Settings) -> Result<Option<KeyPair>, SettingError> {
    const CERTIFICATE: &str = "the path of a .pem or .der file";
    const KEY: &str = "the path of the certificate's key, a PEM file, because certificate is set";
    const CERTIFICATE_FOR_KEY: &str = "the path of the key's certificate, because privateKey is set";
    match (settings.text(&["certificate"]), settings.text(&["privateKey"])) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(SettingError::Missing { key: "privateKey", expected: KEY }),
        (None, Some(_)) => Err(SettingError::Missing { key: "certificate", expected: CERTIFICATE_FOR_KEY }),
        (Some(certificate), Some(key)) => {
            let ending = Path::new(&certificate).extension().and_then(|ending| ending.to_str());
            if !matches!(ending, Some("pem" | "der")) {
                return Err(SettingError::Wrong { key: "certificate", expected: CERTIFICATE });
            }
            Ok(Some(KeyPair { certificate: certificate.into(), private_key: key.into() }))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn settings(json: Json) -> Settings {
        let Json::Object(entries) = json else { panic!("{json} is no object") };
        Settings::new(entries)
    }

    #[test]
    fn addresses() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(ServerUrl::parse(text).map(|url| url.to_string()).as_deref(), expected, "{text:?}");
        };
        check("opc.tcp://plc", Some("opc.tcp://plc:4840"));
        check(" OPC.TCP://10.0.0.1:48020/a/b ", Some("opc.tcp://10.0.0.1:48020/a/b"));
        check("opc.tcp://[fe80::1]", Some("opc.tcp://[fe80::1]:4840"));
        check("opc.tcp://[fe80::1]:4841/", Some("opc.tcp://[fe80::1]:4841/"));
        check("opc.tcp://fe80::1", None);
        check("opc.tcp://", None);
        check("opc.tcp://:4840", None);
        check("opc.tcp://plc:0", None);
        check("opc.tcp://plc:70000", None);
        check("opc.tcp://user@plc", None);
        check("opc.tcp://plc/a b", None);
        check("https://plc", None);
        check("plc:4840", None);
        check("öpc.tcp://plc", None);
        let url = ServerUrl::parse("opc.tcp://10.0.0.1:14840/discovery").unwrap();
        assert_eq!(
            url.with_path_of("opc.tcp://inside:4840/server").to_string(),
            "opc.tcp://10.0.0.1:14840/server"
        );
        assert_eq!(url.with_path_of("what").to_string(), "opc.tcp://10.0.0.1:14840/discovery");
    }

    #[test]
    fn servers() {
        // Every row also has an address.
        let check = |json: Json, expected: Result<(Security, Identity), &str>| {
            let mut all = json.clone();
            all["url"] = "opc.tcp://plc".into();
            let got = Server::of(&settings(all)).map(|server| (server.security, server.identity));
            assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{json}");
        };
        use MessageSecurityMode::{None as Plain, Sign, SignAndEncrypt};
        use Security::{Best, Exactly};
        let anonymous = |security| Ok((security, Identity::Anonymous));
        check(json!({}), anonymous(Best));
        check(json!({"securityPolicy": "", "securityMode": "", "userName": ""}), anonymous(Best));
        check(json!({"securityPolicy": "none"}), anonymous(Exactly(SecurityPolicy::None, Some(Plain))));
        check(json!({"securityMode": "None"}), anonymous(Exactly(SecurityPolicy::None, Some(Plain))));
        check(
            json!({"SecurityPolicy": "basic256sha256"}),
            anonymous(Exactly(SecurityPolicy::Basic256Sha256, None)),
        );
        check(
            json!({"securityPolicy": "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss", "securityMode": "sign"}),
            anonymous(Exactly(SecurityPolicy::Aes256Sha256RsaPss, Some(Sign))),
        );
        check(
            json!({"securityPolicy": "Aes128Sha256RsaOaep", "securityMode": "SignAndEncrypt"}),
            anonymous(Exactly(SecurityPolicy::Aes128Sha256RsaOaep, Some(SignAndEncrypt))),
        );
        check(
            json!({"securityPolicy": "None", "securityMode": "Sign"}),
            Err("securityMode must be None, or left out, where securityPolicy is None"),
        );
        check(
            json!({"securityPolicy": "Basic256Sha256", "securityMode": "None"}),
            Err("securityMode must be Sign or SignAndEncrypt where securityPolicy is not None"),
        );
        check(
            json!({"securityMode": "Sign"}),
            Err(
                "securityPolicy is missing; set securityPolicy to a policy that signs, such as Basic256Sha256, because securityMode is set",
            ),
        );
        check(json!({"securityMode": "Encrypt"}), Err("securityMode must be None, Sign or SignAndEncrypt"));
        check(json!({"timeout": 0}), Err("timeout must be seconds, from 1 to 600"));
        let user = |password: &str| Identity::User("operator".to_owned(), Password(password.to_owned()));
        check(json!({"userName": "operator", "password": 1234}), Ok((Best, user("1234"))));
        check(json!({"username": "operator"}), Ok((Best, user(""))));
        check(json!({"userName": "operator", "authentication": "Anonymous"}), anonymous(Best));
        check(
            json!({"authentication": "password"}),
            Err(
                "userName is missing; set userName to the user to log in as, because authentication is password",
            ),
        );
        check(
            json!({"authentication": "certificate"}),
            Err(
                "certificate is missing; set certificate to the file of the certificate to log in with, because authentication is certificate",
            ),
        );
        check(
            json!({"authentication": "certificate", "certificate": "/c.pem", "privateKey": "/k.pem"}),
            Ok((Best, Identity::Certificate)),
        );
        check(
            json!({"certificate": "/c.crt", "privateKey": "/k.pem"}),
            Err("certificate must be the path of a .pem or .der file"),
        );
        check(
            json!({"certificate": "/c.pem"}),
            Err(
                "privateKey is missing; set privateKey to the path of the certificate's key, a PEM file, because certificate is set",
            ),
        );
        check(
            json!({"privateKey": "/k.pem"}),
            Err(
                "certificate is missing; set certificate to the path of the key's certificate, because privateKey is set",
            ),
        );
    }

    #[test]
    fn addresses_are_asked_for_and_passwords_not_told() {
        let told = |json| Server::of(&settings(json)).unwrap_err().to_string();
        assert_eq!(
            told(json!({})),
            "url is missing; set url to the server's address, such as opc.tcp://192.168.1.20:4840"
        );
        assert_eq!(
            told(json!({"url": "plc"})),
            "url must be the server's address, such as opc.tcp://192.168.1.20:4840"
        );
        let server = Server::of(&settings(
            json!({"url": "opc.tcp://plc", "userName": "operator", "password": "s3cret"}),
        ));
        assert!(!format!("{server:?}").contains("s3cret"));
    }

    #[test]
    fn nodes() {
        let check = |json: Json, expected: Result<(&str, Kind, Sampling), &str>| {
            let property = Property {
                name: "temperature".to_owned(),
                kind: Kind::Double,
                is_writable: true,
                minimum: None,
                maximum: None,
                settings: settings(json.clone()),
                collect_cycle: Duration::from_secs(1),
                report_cycle: Duration::from_secs(1),
                report_to_cloud: true,
                desired: None,
            };
            let got = Node::of(&property).map(|node| (node.id.to_string(), node.kind, node.sampling));
            let expected = expected.map(|(id, kind, sampling)| (id.to_owned(), kind, sampling));
            assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{json}");
        };
        let wrong = Err("nodeID must be the node's id, such as ns=2;s=Temperature or ns=2;i=5");
        check(
            json!({"nodeID": "ns=2;s=Temperature"}),
            Ok(("ns=2;s=Temperature", Kind::Double, Sampling::Subscribe)),
        );
        check(
            json!({"nodeid": " ns=2;i=2 ", "browseName": "T", "dataType": "int", "sampling": "Poll"}),
            Ok(("ns=2;i=2", Kind::Int, Sampling::Poll)),
        );
        check(json!({"nodeID": "i=2258"}), Ok(("i=2258", Kind::Double, Sampling::Subscribe)));
        check(
            json!({"nodeID": "ns=2;s=a;b=\"c\""}),
            Ok(("ns=2;s=a;b=\"c\"", Kind::Double, Sampling::Subscribe)),
        );
        check(json!({"nodeID": "2;Temperature"}), wrong);
        check(json!({"nodeID": "ns=99999;i=1"}), wrong);
        check(json!({"nodeID": "ns=2;i=x"}), wrong);
        check(json!({"nodeID": 5}), wrong);
        check(
            json!({"browseName": "T"}),
            Err("nodeID is missing; set nodeID to the node's id, such as ns=2;s=Temperature or ns=2;i=5"),
        );
        check(
            json!({"nodeID": "i=1", "dataType": "stream"}),
            Err("dataType must be int, float, double, string, boolean or bytes"),
        );
        check(json!({"nodeID": "i=1", "sampling": "push"}), Err("sampling must be subscribe or poll"));
    }
}
