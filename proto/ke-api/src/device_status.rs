//! What is known of a device: the DeviceStatus resource, which is KubeEdge's place for it, and the same facts in the
//! Device's own free status, where a reader of `kubectl get devices` looks.
//!
//! Written by cloudcore's device controller only. `extensions` and members that are not named here belong to others and
//! are kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::device::TwinValue;
use crate::free_object::{FreeObject, is_default, null_is_default};

/// Nothing is wanted of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "DeviceStatus",
    plural = "devicestatuses",
    singular = "devicestatus",
    namespaced,
    status = "DeviceStatusStatus",
    derive = "Default",
    derive = "PartialEq",
    // The derive refuses to be told this directly. An object without a spec is legal and must decode.
    attr = "cfg_attr(all(), serde(default))",
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"LASTONLINE","type":"string","jsonPath":".status.lastOnlineTime"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    doc = "What was reported of the Device of the same name and namespace."
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatusSpec {}

/// What was reported.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatusStatus {
    /// One entry per reported property.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub twins: Vec<Twin>,
    /// State of the device in its mapper's words.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub state: String,
    /// When the device was last heard of, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_is_default")]
    pub last_online_time: String,
    /// What other programs say of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<FreeObject>,
}

/// What was reported of one property.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Twin {
    /// Name of the property.
    #[serde(skip_serializing_if = "is_default")]
    pub property_name: String,
    /// The value that the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinValue>,
    /// The desired value that the mapper carried out last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_desired: Option<TwinValue>,
}

/// Why a Device's status cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("status.{field} is not what it should be: {problem}")]
pub struct LiveStatusError {
    /// Which member.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// The members of a Device's free status that the device controller fills. [`LiveStatus::read`] and
/// [`LiveStatus::write`] are each other's inverse; members of others pass through `others`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveStatus {
    /// As in the DeviceStatus, in the order of the device's properties.
    pub twins: Vec<LiveTwin>,
    /// State of the device in its mapper's words.
    pub state: Option<String>,
    /// When the device was last heard of, RFC 3339 in UTC.
    pub last_online_time: Option<String>,
    /// What is wrong with the device, or not.
    pub conditions: Vec<Condition>,
    /// Every other member, for example the old settings `reportToCloud` and `reportCycle`.
    pub others: Map<String, Value>,
}

/// One entry of `status.twins` of a Device. Unknown members of it are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveTwin {
    /// What was reported.
    #[serde(flatten)]
    pub twin: Twin,
    /// Members of others.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl LiveStatus {
    /// The status in `status`; none is an empty one. Errors: one of the four members has another shape, and which.
    pub fn read(status: Option<&FreeObject>) -> Result<Self, LiveStatusError> {
        let mut others = status.map(|status| status.0.clone()).unwrap_or_default();
        Ok(Self {
            twins: take(&mut others, "twins")?.unwrap_or_default(),
            state: take(&mut others, "state")?,
            last_online_time: take(&mut others, "lastOnlineTime")?,
            conditions: take(&mut others, "conditions")?.unwrap_or_default(),
            others,
        })
    }

    /// The old settings that count when the device's spec has no `stateReport`: whether and how often (milliseconds).
    #[must_use]
    pub fn legacy_state_report(&self) -> (bool, i64) {
        let to_cloud = self.others.get("reportToCloud").and_then(Value::as_bool).unwrap_or_default();
        (to_cloud, self.others.get("reportCycle").and_then(Value::as_i64).unwrap_or_default())
    }

    /// The same as a free object; empty members are left out. Errors: none in practice, all members are plain JSON.
    pub fn write(&self) -> Result<FreeObject, LiveStatusError> {
        let mut status = self.others.clone();
        if !self.twins.is_empty() {
            put(&mut status, "twins", &self.twins)?;
        }
        if let Some(state) = &self.state {
            put(&mut status, "state", state)?;
        }
        if let Some(time) = &self.last_online_time {
            put(&mut status, "lastOnlineTime", time)?;
        }
        if !self.conditions.is_empty() {
            put(&mut status, "conditions", &self.conditions)?;
        }
        Ok(FreeObject(status))
    }
}

fn take<T: DeserializeOwned>(
    members: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<T>, LiveStatusError> {
    let Some(value) = members.remove(field) else { return Ok(None) };
    serde_json::from_value(value).map_err(|cause| LiveStatusError { field, problem: cause.to_string() })
}

fn put<T: Serialize>(
    members: &mut Map<String, Value>,
    field: &'static str,
    value: &T,
) -> Result<(), LiveStatusError> {
    let value =
        serde_json::to_value(value).map_err(|cause| LiveStatusError { field, problem: cause.to_string() })?;
    members.insert(field.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn free(value: Value) -> FreeObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_go_cloudcore_wrote_reads() {
        let status: DeviceStatus = serde_json::from_value(json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus", "metadata": {"name": "oven-1"},
            "spec": {},
            "status": {"state": "online", "lastOnlineTime": "2026-01-02T03:04:05Z", "extensions": null, "twins": [
                {"propertyName": "heat", "reported": {"value": "25.3", "metadata": {"type": "string"}},
                 "observedDesired": {"value": "", "metadata": null}},
            ]},
        }))
        .unwrap();
        let reported = status.status.unwrap();
        assert_eq!(reported.twins[0].reported.as_ref().unwrap().value, "25.3");
        assert_eq!(reported.extensions, None);
        let bare: DeviceStatus =
            serde_json::from_value(json!({"metadata": {"name": "x"}, "status": {"twins": null}})).unwrap();
        assert_eq!(bare.status, Some(DeviceStatusStatus::default()));
    }

    #[test]
    fn a_devices_status_goes_round_with_members_of_others() {
        let check = |status: Value| {
            let status = free(status);
            assert_eq!(LiveStatus::read(Some(&status)).unwrap().write().unwrap(), status);
        };
        check(json!({}));
        check(json!({"reportToCloud": true, "reportCycle": 5000}));
        check(json!({
            "state": "online", "lastOnlineTime": "2026-01-02T03:04:05Z", "mine": {"x": [1, null]},
            "twins": [{"propertyName": "heat", "reported": {"value": "1"}, "odd": 7}, {"propertyName": "limit"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "NoVisitors", "message": "m",
                            "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        }));
        assert_eq!(LiveStatus::read(None).unwrap(), LiveStatus::default());
        let old = free(json!({"reportToCloud": true, "reportCycle": 5000}));
        assert_eq!(LiveStatus::read(Some(&old)).unwrap().legacy_state_report(), (true, 5000));
    }

    #[test]
    fn a_bad_member_is_named() {
        let check = |status: Value, field: &str| {
            assert_eq!(LiveStatus::read(Some(&free(status))).unwrap_err().field, field);
        };
        check(json!({"twins": 5}), "twins");
        check(json!({"twins": [{"propertyName": 1}]}), "twins");
        check(json!({"state": []}), "state");
        check(json!({"conditions": [{}]}), "conditions");
    }
}
