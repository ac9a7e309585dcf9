//! What the store holds, read beside whoever writes it, with lengths in place of Secrets' values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::db::{Db, DbError};
use crate::{meta_manager, report_queue};

/// kubectl keeps the whole object in it, values included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which objects; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) kind: Option<String>,
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
}

/// What is there.
#[derive(Debug, Serialize)]
pub(super) struct Inventory {
    /// Rows of each table.
    tables: BTreeMap<String, i64>,
    objects: Vec<Object>,
}

#[derive(Debug, Serialize)]
struct Object {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    uid: String,
    version: u64,
    /// Kubernetes JSON; a Pod's with the status that this node last reported.
    body: Value,
}

pub(super) async fn look(path: &Path, wanted: &Wanted) -> Result<Inventory, DbError> {
    let db = Db::open_read_only(path)?;
    let tables = db.call(|connection| crate::db::table_sizes(connection)).await?;
    let statuses = report_queue::last_pod_statuses(&db).await?;
    let objects = meta_manager::everything(&db).await?;
    let is_wanted =
        |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let objects = objects.into_iter().filter_map(|held| {
        let namespace = held.key.scope.namespace().map(ToString::to_string);
        let is_meant = is_wanted(&wanted.kind, held.key.kind.as_str())
            && is_wanted(&wanted.name, held.key.name.as_str())
            && is_wanted(&wanted.namespace, namespace.as_deref().unwrap_or_default());
        if !is_meant {
            return None;
        }
        let mut body = without_secrets(held.key.kind.as_str(), &held.body);
        let status = statuses.iter().find(|(uid, _)| uid.as_str() == held.uid);
        if let (Some((_, status)), Some(body)) = (status, body.as_object_mut()) {
            body.insert("status".to_owned(), serde_json::from_slice(status).unwrap_or_default());
        }
        Some(Object {
            kind: held.key.kind.as_str().to_owned(),
            namespace,
            name: held.key.name.to_string(),
            uid: held.uid,
            version: held.version.number(),
            body,
        })
    });
    Ok(Inventory { tables, objects: objects.collect() })
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, n_rows) in &self.tables {
            writeln!(f, "table {table}: {n_rows}")?;
        }
        for Object { kind, namespace, name, version, .. } in &self.objects {
            let namespace = namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            writeln!(f, "{kind} {namespace}{name} version {version}")?;
        }
        Ok(())
    }
}

/// The object, but of a Secret only how long each value is.
fn without_secrets(kind: &str, body: &[u8]) -> Value {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return Value::from(format!("<{} bytes that are no JSON>", body.len()));
    };
    // A kind that somebody watches may be a Secret, or a list of them, under another word.
    if kind.starts_with("secret") {
        hide(&mut object);
    } else {
        hide_kinds(&mut object);
    }
    object
}

fn hide_kinds(object: &mut Value) {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind == "Secret" {
        return hide(object);
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        let is_secrets = kind_is_secrets(items);
        items.iter_mut().for_each(|item| if is_secrets { hide(item) } else { hide_kinds(item) });
    }
}

fn kind_is_secrets(items: &[Value]) -> bool {
    items.iter().any(|item| item.get("kind").and_then(Value::as_str) == Some("Secret"))
}

fn hide(secret: &mut Value) {
    for field in ["data", "stringData"] {
        let Some(values) = secret.get_mut(field).and_then(Value::as_object_mut) else { continue };
        for value in values.values_mut() {
            let text = value.as_str().unwrap_or_default();
            let length = match field {
                "data" => STANDARD.decode(text).map_or(text.len(), |bytes| bytes.len()),
                _ => text.len(),
            };
            *value = Value::from(format!("<{length} bytes>"));
        }
    }
    if let Some(annotations) = secret.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::db::Synchronous;

    #[test]
    fn a_secret_is_shown_by_its_lengths() {
        let check = |kind: &str, body: Value, expected: Value| {
            assert_eq!(without_secrets(kind, body.to_string().as_bytes()), expected);
        };
        let secret = json!({"kind": "Secret", "data": {"a": "aHVudGVyMg==", "b": "%"}, "stringData": {"c": "hunter2"},
            "metadata": {"name": "s", "annotations": {LAST_APPLIED: "hunter2", "x": "y"}}});
        let hidden = json!({"kind": "Secret", "data": {"a": "<7 bytes>", "b": "<1 bytes>"},
            "stringData": {"c": "<7 bytes>"}, "metadata": {"name": "s", "annotations": {"x": "y"}}});
        check("secret", secret.clone(), hidden.clone());
        check("watched", secret.clone(), hidden.clone());
        check("watched", json!({"items": [secret]}), json!({"items": [hidden]}));
        check("secret", json!({"data": {"a": "aHVudGVyMg=="}}), json!({"data": {"a": "<7 bytes>"}}));
        check("configmap", json!({"data": {"a": "b"}}), json!({"data": {"a": "b"}}));
        assert_eq!(without_secrets("pod", b"{"), json!("<1 bytes that are no JSON>"));
    }

    #[tokio::test]
    async fn a_store_is_read_while_another_writes_it_and_after_it_died() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgecore.db");
        assert!(look(&path, &Wanted::default()).await.is_err() && !path.exists(), "none is made");
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        for (key, body) in [(("secret", "s"), r#"{"data":{"a":"aHVudGVyMg=="}}"#), (("configmap", "c"), "{}")]
        {
            let (kind, name) = key;
            let row = (kind, "default", name, "", 7, body.as_bytes());
            db.call(move |c| c.execute("INSERT INTO object VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row))
                .await
                .unwrap();
        }
        let check = |inventory: &Inventory, n_objects: usize| {
            let text = format!("{inventory}{}", serde_json::to_string(inventory).unwrap());
            assert!(text.contains("table object: 2") && !text.contains("aHVudGVyMg"), "{text}");
            assert_eq!(inventory.objects.len(), n_objects, "{text}");
        };
        check(&look(&path, &Wanted::default()).await.unwrap(), 2);
        let secret = Wanted { kind: Some("secret".into()), ..Wanted::default() };
        check(&look(&path, &secret).await.unwrap(), 1);
        let nothing = Wanted { namespace: Some("other".into()), ..secret };
        check(&look(&path, &nothing).await.unwrap(), 0);
        // As a power cut leaves it: all of it is still in the journal.
        let dead = folder.path().join("dead.db");
        for end in ["", "-wal"] {
            let of = |path: &Path| format!("{}{end}", path.display());
            std::fs::copy(of(&path), of(&dead)).unwrap();
        }
        check(&look(&dead, &Wanted::default()).await.unwrap(), 2);
    }
}
