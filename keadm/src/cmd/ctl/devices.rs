//! Pure: devices as rows of a table, in the columns of their resource definition.

use serde_json::Value;

use super::Look;
use crate::age::age;

/// The head and a row for each.
pub(super) fn rows(devices: &[Value], look: &Look) -> Vec<Vec<String>> {
    let mut head: Vec<&str> = vec!["NAME", "NODE", "PROTOCOL", "STATE", "LASTONLINE", "AGE"];
    if look.is_wide {
        head.push("VALUES");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    rows.extend(devices.iter().map(|device| row(device, look)));
    if look.with_namespace {
        let namespaces = devices.iter().map(|device| text(device, "/metadata/namespace"));
        let column = std::iter::once("NAMESPACE".to_owned()).chain(namespaces);
        for (row, namespace) in rows.iter_mut().zip(column) {
            row.insert(0, namespace);
        }
    }
    rows
}

fn row(device: &Value, look: &Look) -> Vec<String> {
    let mut row: Vec<String> = [
        "/metadata/name",
        "/spec/nodeName",
        "/spec/protocol/protocolName",
        "/status/state",
        "/status/lastOnlineTime",
    ]
    .iter()
    .map(|pointer| text(device, pointer))
    .collect();
    row.push(age(text(device, "/metadata/creationTimestamp").parse().ok(), look.now));
    if look.is_wide {
        let values = twins(device)
            .iter()
            .map(|twin| format!("{}={}", text(twin, "/propertyName"), text(twin, "/reported/value")))
            .collect::<Vec<_>>();
        row.push(if values.is_empty() { "<none>".to_owned() } else { values.join(",") });
    }
    row
}

pub(super) fn twins(device: &Value) -> &[Value] {
    device.pointer("/status/twins").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::table;

    #[test]
    fn tables_of_devices() {
        let devices = [
            json!({
                "metadata": {"name": "oven-1", "namespace": "plant", "creationTimestamp": "2026-01-31T11:59:00Z"},
                "spec": {"nodeName": "edge-1", "protocol": {"protocolName": "modbus"}},
                "status": {"state": "online", "lastOnlineTime": "2026-01-31T12:00:00Z",
                           "twins": [{"propertyName": "heat", "reported": {"value": "25.3"}}]},
            }),
            json!({"metadata": {"name": "press"}, "spec": {"nodeName": "edge-1"}}),
        ];
        let check = |is_wide: bool, with_namespace: bool, expected: &str| {
            let look = Look { is_wide, with_namespace, now: "2026-01-31T12:00:00Z".parse().unwrap() };
            assert_eq!(table(&rows(&devices, &look)), expected);
        };
        check(
            false,
            false,
            "NAME     NODE     PROTOCOL   STATE    LASTONLINE             AGE\n\
             oven-1   edge-1   modbus     online   2026-01-31T12:00:00Z   60s\n\
             press    edge-1                                              <unknown>\n",
        );
        check(
            true,
            true,
            "NAMESPACE   NAME     NODE     PROTOCOL   STATE    LASTONLINE             AGE         VALUES\n\
             plant       oven-1   edge-1   modbus     online   2026-01-31T12:00:00Z   60s         heat=25.3\n            \
             press    edge-1                                              <unknown>   <none>\n",
        );
    }
}
