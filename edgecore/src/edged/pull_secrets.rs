//! Registry credentials from `imagePullSecrets` and the node's own file: which one fits which image. Pure.
//!
//! Nothing here prints a password; errors name the secret and what is wrong with it, never its content.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use ke_cri::v1::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::image_name::ImageName;

/// A pull secret that cannot be read. The pull goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is of another type.
    #[error(
        "secret {0} is no pull secret: its type must be kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg"
    )]
    WrongType(String),
    /// The key is missing or holds something else.
    #[error(
        "secret {name} cannot be used to pull images: its key {key} is missing or is not a registry configuration"
    )]
    Unreadable { name: String, key: &'static str },
}

/// Credentials by registry, in order of preference. Debug output shows the registries only.
#[derive(Clone, Default)]
pub struct Keyring(Vec<(Pattern, AuthConfig)>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(pattern, _)| pattern)).finish()
    }
}

/// `host[:port][/path]`, where a label of the host may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    host: String,
    path: String,
}

#[derive(Deserialize)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Docker Hub under the name that `docker login` writes.
const HUB_KEY: &str = "index.docker.io";

impl Keyring {
    /// No credentials.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the registries of one pull secret.
    pub fn add_secret(&mut self, secret: &Secret) -> Result<(), SecretError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let data =
            |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => {
                let key = ".dockerconfigjson";
                let bytes = data(key).unwrap_or_default();
                if self.add_config_json(bytes) { Ok(()) } else { Err(SecretError::Unreadable { name, key }) }
            }
            Some("kubernetes.io/dockercfg") => {
                let key = ".dockercfg";
                match serde_json::from_slice(data(key).unwrap_or_default()) {
                    Ok(entries) => {
                        self.add(entries);
                        Ok(())
                    }
                    Err(_) => Err(SecretError::Unreadable { name, key }),
                }
            }
            _ => Err(SecretError::WrongType(name)),
        }
    }

    /// Adds a `config.json` as `docker login` writes it; false when it is none.
    pub fn add_config_json(&mut self, bytes: &[u8]) -> bool {
        match serde_json::from_slice::<ConfigFile>(bytes) {
            Ok(file) => {
                self.add(file.auths);
                true
            }
            Err(_) => false,
        }
    }

    /// Every credential that fits, the one for the longest path first. None: try without.
    #[must_use]
    pub fn lookup(&self, image: &ImageName) -> Vec<&AuthConfig> {
        let host = if image.registry() == "docker.io" { HUB_KEY } else { image.registry() };
        let mut fitting: Vec<_> =
            self.0.iter().filter(|(pattern, _)| pattern.fits(host, image.repository())).collect();
        fitting.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.path.len()));
        fitting.into_iter().map(|(_, auth)| auth).collect()
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) {
        for (key, entry) in entries {
            let (username, password) = entry.credentials();
            let auth = AuthConfig {
                username,
                password,
                identity_token: entry.identity_token,
                registry_token: entry.registry_token,
                // The runtime checks that the address is the registry's own.
                server_address: String::new(),
                auth: String::new(),
            };
            self.0.push((Pattern::parse(&key), auth));
        }
    }
}

impl Entry {
    /// `auth` is base64 of `username:password`.
    fn credentials(&self) -> (String, String) {
        if !self.username.is_empty() || self.auth.is_empty() {
            return (self.username.clone(), self.password.clone());
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.trim_end_matches('\0').to_owned()),
            None => (String::new(), String::new()),
        }
    }
}

impl Pattern {
    fn parse(key: &str) -> Self {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        // Docker's own files name the API's version behind the host.
        let path = path.trim_end_matches('/');
        let path = if path == "v1" || path == "v2" { "" } else { path };
        let host = if matches!(host, "docker.io" | "registry-1.docker.io") { HUB_KEY } else { host };
        Self { host: host.to_owned(), path: path.to_owned() }
    }

    fn fits(&self, host: &str, repository: &str) -> bool {
        let (pattern_name, pattern_port) = split_port(&self.host);
        let (name, port) = split_port(host);
        let labels: Vec<&str> = pattern_name.split('.').collect();
        let parts: Vec<&str> = name.split('.').collect();
        pattern_port == port
            && labels.len() == parts.len()
            && labels.iter().zip(&parts).all(|(pattern, label)| label_fits(pattern, label))
            && repository.starts_with(&self.path)
    }
}

fn split_port(host: &str) -> (&str, &str) {
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// One label of a host; `*` stands for any characters within it.
fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern.eq_ignore_ascii_case(label) };
    label.len() >= before.len() + after.len() && label.starts_with(before) && label.ends_with(after)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(kind: &str, key: &str, text: &str) -> Secret {
        let mut secret = Secret { type_: Some(kind.into()), ..Secret::default() };
        secret.metadata.name = Some("login".into());
        secret.data = Some(BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))]));
        secret
    }

    #[test]
    fn which_credential_fits() {
        let mut keyring = Keyring::new();
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
            "registry.example:5000": {"username": "port", "password": "x"},
            "registry.example": {"username": "plain", "password": "x"},
            "registry.example/team": {"username": "team", "password": "x"},
            "*.cloud.example": {"username": "glob", "password": "x"}
        }}"#;
        keyring.add_secret(&secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", json)).unwrap();
        let check = |image: &str, expected: &[&str]| {
            let image = ImageName::parse(image).unwrap();
            let names: Vec<_> = keyring.lookup(&image).iter().map(|auth| auth.username.as_str()).collect();
            assert_eq!(names, expected, "{image}");
        };
        check("nginx", &["hub"]);
        check("docker.io/library/nginx:1", &["hub"]);
        check("registry.example:5000/a", &["port"]);
        check("registry.example/a", &["plain"]);
        check("registry.example/team/a", &["team", "plain"]);
        check("eu.cloud.example/a", &["glob"]);
        check("a.eu.cloud.example/a", &[]);
        check("other.example/a", &[]);
        let shown = format!("{keyring:?}");
        assert!(
            shown.contains("registry.example") && !shown.contains("secret") && !shown.contains("glob"),
            "{shown}"
        );
    }

    #[test]
    fn old_and_broken_secrets() {
        let check = |secret: Secret, part: Option<&str>| {
            let result = Keyring::new().add_secret(&secret).map_err(|error| error.to_string());
            match part {
                None => assert_eq!(result, Ok(())),
                Some(part) => assert!(result.unwrap_err().contains(part)),
            }
        };
        check(secret("kubernetes.io/dockercfg", ".dockercfg", r#"{"r.example": {"auth": "YTpi"}}"#), None);
        check(secret("kubernetes.io/dockercfg", ".dockercfg", r#"{"r.example": {"auth": "%%"}}"#), None);
        check(secret("kubernetes.io/dockercfg", "other", "{}"), Some(".dockercfg"));
        check(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{"), Some("secret login"));
        check(secret("Opaque", ".dockerconfigjson", "{}"), Some("no pull secret"));
    }
}
