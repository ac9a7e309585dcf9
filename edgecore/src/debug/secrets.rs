//! Every secret that this machine's files hold, in each form in which it could stand in a text.
//!
//! For `redact` only: nothing here is printed or leaves the process.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::config::EdgeCoreConfig;
use crate::db::Db;
use crate::meta_manager;

/// Shorter lines of a value are no secrets by themselves: braces, `[section]`, names.
const MIN_LINE: usize = 8;

/// All of them. Errors: the store is there and cannot be read, so its Secrets are not known.
pub(super) async fn known(config: &EdgeCoreConfig) -> anyhow::Result<Vec<String>> {
    let mut known = Vec::new();
    let hub = &config.modules.edge_hub;
    forms(hub.token.reveal().as_bytes(), &mut known);
    for path in [&hub.bootstrap_file, &hub.tls_private_key_file] {
        if let Some(secret) = read(path)? {
            forms(&secret, &mut known);
        }
    }
    let path = &config.database.data_source;
    if path.exists() {
        let db = Db::open_read_only(path)?;
        for held in meta_manager::everything(&db).await? {
            if let Ok(body) = serde_json::from_slice(&held.body) {
                values(held.key.kind.as_str(), &body, &mut known);
            }
        }
        for token in meta_manager::token_bodies(&db).await? {
            let token: Value = serde_json::from_slice(&token).unwrap_or_default();
            let token = token.pointer("/status/token").and_then(Value::as_str).unwrap_or_default();
            forms(token.as_bytes(), &mut known);
        }
    }
    Ok(known)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Values of a Secret, and of the copy of itself that kubectl keeps in it.
fn values(kind: &str, object: &Value, known: &mut Vec<String>) {
    for item in object.get("items").and_then(Value::as_array).into_iter().flatten() {
        values(kind, item, known);
    }
    let is_secret =
        kind.starts_with("secret") || object.get("kind").and_then(Value::as_str) == Some("Secret");
    if !is_secret {
        return;
    }
    for (field, is_encoded) in [("data", true), ("stringData", false)] {
        for value in object.get(field).and_then(Value::as_object).into_iter().flat_map(|data| data.values()) {
            let text = value.as_str().unwrap_or_default();
            match STANDARD.decode(text) {
                Ok(bytes) if is_encoded => forms(&bytes, known),
                _ => forms(text.as_bytes(), known),
            }
        }
    }
    for annotation in object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|all| all.values())
    {
        if let Some(copy) = annotation.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
            && copy.get("kind").and_then(Value::as_str) == Some("Secret")
        {
            values(kind, &copy, known);
        }
    }
}

/// The value itself, its lines, the texts in it if it is JSON, each also as JSON writes it, and base64 of all.
fn forms(value: &[u8], known: &mut Vec<String>) {
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        known.push(engine.encode(value));
    }
    let Ok(text) = std::str::from_utf8(value) else { return };
    let mut say = |text: &str| {
        known.push(text.to_owned());
        let escaped = Value::from(text).to_string();
        known.push(escaped.trim_matches('"').to_owned());
    };
    let text = text.trim();
    say(text);
    text.lines().map(str::trim).filter(|line| line.len() >= MIN_LINE && *line != text).for_each(&mut say);
    let mut inner: Vec<Value> = serde_json::from_str(text).into_iter().collect();
    while let Some(value) = inner.pop() {
        match value {
            Value::String(text) => say(&text),
            Value::Array(values) => inner.extend(values),
            Value::Object(fields) => inner.extend(fields.into_iter().map(|(_, value)| value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ke_run::redact::Redactor;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_found_in_every_form() {
        let docker =
            json!({"auths": {"registry.example": {"username": "robot-7", "password": "p\"w-long-one"}}});
        let copy = json!({"kind": "Secret", "stringData": {"old": "former-value"}}).to_string();
        let secret = json!({
            "data": {
                "plain": STANDARD.encode("correct horse\n"),
                "lines": STANDARD.encode("first-line-of-it\nx\nsecond-line-of-it"),
                "docker": STANDARD.encode(docker.to_string()),
            },
            "stringData": {"text": "as-it-is-written"},
            "metadata": {"annotations": {"copy": copy}},
        });
        let mut known = Vec::new();
        values("secret", &secret, &mut known);
        let redactor = Redactor::knowing(known);
        let check = |text: &str, expected: &str| assert_eq!(redactor.redact(text), expected, "{text}");
        check("a correct horse b", "a <redacted> b");
        check(&format!("a {} b", STANDARD.encode("correct horse\n")), "a <redacted> b");
        check("second-line-of-it", "<redacted>");
        check("p\"w-long-one", "<redacted>");
        check("p\\\"w-long-one", "<redacted>");
        check("as-it-is-written former-value", "<redacted> <redacted>");
        check("registry.example", "registry.example");
        let mut none = Vec::new();
        values("configmap", &json!({"data": {"a": "b"}}), &mut none);
        assert_eq!(none, Vec::<String>::new());
    }
}
