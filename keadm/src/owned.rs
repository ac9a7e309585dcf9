//! Pure: what of an object keadm has written, by the API server's own account (`managedFields`).
//!
//! Applied again it makes those fields what they were, takes away those that came since, and leaves what others have written.
//! Called by `cmd/upgrade_cloud.rs`, which takes a change back.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use serde_json::{Map, Value, json};

use crate::cluster::MANAGER;

/// Of `before` what keadm had written, or has since: `now` is the same object after the change, if it is there. Out: an object
/// for server-side apply.
pub(crate) fn as_it_was(before: &Value, now: Option<&Value>) -> Value {
    let mut object = json!({
        "apiVersion": before["apiVersion"], "kind": before["kind"],
        "metadata": {"name": before["metadata"]["name"]},
    });
    if let Some(namespace) = before["metadata"]["namespace"].as_str() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for fields in [Some(before), now].into_iter().flatten().filter_map(fields) {
        lay(&mut object, part(before, fields));
    }
    object
}

fn fields(object: &Value) -> Option<&Value> {
    let managers = object["metadata"]["managedFields"].as_array()?;
    let ours = managers.iter().find(|one| one["manager"] == MANAGER && one["operation"] == "Apply")?;
    Some(&ours["fieldsV1"])
}

/// Of the value what the fields name. The form is Kubernetes' `FieldsV1`: `f:NAME` a member, `k:{...}` an item by its keys,
/// `v:...` an item by its value; nothing below: all of it.
fn part(value: &Value, fields: &Value) -> Value {
    let Some(members) = fields.as_object().filter(|members| !members.is_empty()) else {
        return value.clone();
    };
    match value {
        Value::Object(whole) => {
            let kept = members.iter().filter_map(|(field, below)| {
                let name = field.strip_prefix("f:")?;
                Some((name.to_owned(), part(whole.get(name)?, below)))
            });
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let of = |item: &Value| {
                members.iter().find(|(field, _)| names(field, item)).map(|(_, below)| part(item, below))
            };
            Value::Array(items.iter().filter_map(of).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn names(field: &str, item: &Value) -> bool {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    if let Some(value) = field.strip_prefix("v:").and_then(parsed) {
        return *item == value;
    }
    let Some(Value::Object(keys)) = field.strip_prefix("k:").and_then(parsed) else { return false };
    keys.iter().all(|(key, value)| item[key] == *value)
}

/// Two parts of one object become one: neither contradicts the other.
fn lay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        // Items that both have need not lie at the same place: the longer one is not always the whole.
        (Value::Array(below), Value::Array(above)) => {
            for item in above {
                match below.iter_mut().find(|one| is_same(one, &item)) {
                    Some(found) => lay(found, item),
                    None => below.push(item),
                }
            }
        }
        (below, above) => *below = above,
    }
}

/// Whether both are parts of one item: by the keys that Kubernetes' lists have, or as a whole.
fn is_same(one: &Value, other: &Value) -> bool {
    let key = ["name", "mountPath", "containerPort", "port", "uid"]
        .into_iter()
        .find(|key| !one[*key].is_null() && !other[*key].is_null());
    key.map_or(one == other, |key| one[key] == other[key] && one["protocol"] == other["protocol"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: Value, fields: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "b", "uid": "1", "managedFields": [
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:theirs": {}}}},
            {"manager": "keadm", "operation": "Update", "fieldsV1": {"f:status": {}}},
            {"manager": "keadm", "operation": "Apply", "fieldsV1": fields},
        ]}, "spec": spec, "status": {"x": 1}})
    }

    fn check(before: &Value, now: Option<&Value>, expected: Value) {
        let whole = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "b"}, "spec": expected});
        assert_eq!(as_it_was(before, now), whole);
    }

    #[test]
    fn only_ours_is_put_back() {
        let spec = json!({"ours": 1, "theirs": 2, "atomic": {"a": 1}, "empty": {}, "items": [
            {"name": "x", "image": "old", "added": true}, {"name": "y", "image": "theirs"}], "set": ["p", "q"]});
        let fields = json!({"f:spec": {"f:ours": {}, "f:atomic": {}, "f:empty": {}, "f:gone": {},
            "f:items": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:image": {}}}, "f:set": {"v:\"q\"": {}}}});
        let before = object(spec, fields);
        let expected = json!({"ours": 1, "atomic": {"a": 1}, "empty": {}, "items": [{"name": "x", "image": "old"}], "set": ["q"]});
        check(&before, None, expected.clone());
        check(&before, Some(&before), expected);
    }

    #[test]
    fn what_was_taken_from_others_gets_its_value_back() {
        let fields = |names: &[&str]| -> Value {
            let all: Map<_, _> = names.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
            json!({"f:spec": all})
        };
        let before = object(json!({"ours": 1, "replicas": 3}), fields(&["ours"]));
        let now = object(json!({"ours": 2, "replicas": 1, "new": 5}), fields(&["ours", "replicas", "new"]));
        check(&before, Some(&now), json!({"ours": 1, "replicas": 3}));
    }

    #[test]
    fn items_keep_their_parts() {
        let item = |names: &[&str]| {
            let mut all: Map<_, _> = names.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
            all.insert(".".into(), json!({}));
            json!({"f:spec": {"f:ports": {"k:{\"containerPort\":1,\"protocol\":\"TCP\"}": all}}})
        };
        let spec = json!({"ports": [{"containerPort": 1, "protocol": "TCP", "hostPort": 7, "name": "n"}]});
        let before = object(spec.clone(), item(&["containerPort", "name", "protocol"]));
        let now = object(spec.clone(), item(&["containerPort", "protocol", "hostPort"]));
        check(&before, Some(&now), spec);
    }
}
