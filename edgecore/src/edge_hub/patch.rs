//! Pure: a Pod's status as the strategic merge patch that makes the API server's copy equal to it. Called by `sending.rs`.

use ke_wire::Uid;
use serde_json::{Map, Value, json};

/// Fields that a merge would otherwise leave standing when the new status no longer has them.
const CLEARED: &[&str] =
    &["message", "reason", "podIP", "hostIP", "containerStatuses", "initContainerStatuses"];

/// Conditions that are there for a while only.
const PASSING: &[&str] = &["PodResizePending", "PodResizeInProgress"];

/// The patch text. The uid makes the API server refuse it for another Pod of the same name. `None`: not JSON.
pub(super) fn pod_status_patch(uid: &Uid, status: &[u8]) -> Option<String> {
    let mut status: Map<String, Value> = serde_json::from_slice(status).ok()?;
    for field in CLEARED {
        status.entry(*field).or_insert(Value::Null);
    }
    // Conditions are merged by their type, field by field: an old reason would stay under a new status, and one that
    // holds no more would stay altogether. Only a Pod that was changed once can have one that goes.
    let was_changed = status.get("observedGeneration").and_then(Value::as_i64).is_some_and(|n| n > 1);
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        let leaves = |type_: &&str| !conditions.iter().any(|condition| condition["type"] == **type_);
        let gone: Vec<&str> = PASSING.iter().copied().filter(leaves).collect();
        for fields in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for field in ["reason", "message"] {
                fields.entry(field).or_insert(Value::Null);
            }
        }
        let gone = gone.into_iter().filter(|_| was_changed);
        conditions.extend(gone.map(|type_| json!({"$patch": "delete", "type": type_})));
    }
    // Addresses are merged by their text: without the directive those of an earlier sandbox would stay for ever.
    for field in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(addresses)) = status.get_mut(field) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    serde_json::to_string(&json!({"metadata": {"uid": uid.as_str()}, "status": status})).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_cleared_and_addresses_replaced() {
        let uid = "u".parse().unwrap();
        let text = pod_status_patch(&uid, br#"{"phase":"Running","podIPs":[{"ip":"10.0.0.2"}],"conditions":[{"type":"Ready","status":"True"}]}"#).unwrap();
        let patch: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch":"replace"},{"ip":"10.0.0.2"}]));
        assert_eq!(patch["status"]["reason"], Value::Null);
        let ready = json!({"type": "Ready", "status": "True", "reason": null, "message": null});
        assert_eq!(patch["status"]["conditions"], json!([ready]));
        assert_eq!(patch["status"]["phase"], "Running");
        assert_eq!(pod_status_patch(&uid, b"no"), None);
    }

    #[test]
    fn a_condition_that_passed_is_taken_away() {
        let status =
            br#"{"observedGeneration":2,"conditions":[{"type":"PodResizePending","status":"True"}]}"#;
        let text = pod_status_patch(&"u".parse().unwrap(), status).unwrap();
        let patch: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            patch["status"]["conditions"],
            json!([
                {"type": "PodResizePending", "status": "True", "reason": null, "message": null},
                {"$patch": "delete", "type": "PodResizeInProgress"},
            ])
        );
    }
}
