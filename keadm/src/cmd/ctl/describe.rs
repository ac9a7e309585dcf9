//! Pure: all that is known of one pod or device, for people. Settings of a device's protocol are left out: they may hold
//! passwords. So do values of Secrets: they are not in a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, EnvVar, Pod, PodSpec, PodStatus,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::devices::{text, twins};
use super::pods::state;
use crate::age::age;

/// Keys stand in one column, values in another, sections are indented.
#[derive(Default)]
struct Sheet(String);

impl Sheet {
    fn line(&mut self, depth: usize, key: &str, value: &str) {
        let width = 20_usize.saturating_sub(2 * depth);
        // A key that is too long for its column still ends before the value.
        let line = format!("{}{:<width$}{value}", "  ".repeat(depth), format!("{key}: "));
        self.0 += line.trim_end();
        self.0.push('\n');
    }

    fn words(&mut self, depth: usize, words: &str) {
        self.0 += &format!("{}{words}\n", "  ".repeat(depth));
    }

    /// One under the other.
    fn map(&mut self, key: &str, map: Option<&BTreeMap<String, String>>) {
        let mut entries = map.into_iter().flatten();
        match entries.next() {
            None => self.line(0, key, "<none>"),
            Some((name, value)) => self.line(0, key, &format!("{name}={value}")),
        }
        for (name, value) in entries {
            self.0 += &format!("{:20}{name}={value}\n", "");
        }
    }
}

pub(super) fn pod(pod: &Pod, now: Timestamp) -> String {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let meta = &pod.metadata;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "<none>".to_owned());
    let mut sheet = Sheet::default();
    sheet.line(0, "Name", &or_none(&meta.name));
    sheet.line(0, "Namespace", &or_none(&meta.namespace));
    sheet.line(0, "UID", &or_none(&meta.uid));
    sheet.line(0, "Service Account", &spec.service_account_name.clone().unwrap_or_else(|| "default".into()));
    sheet.line(0, "Node", &or_none(&spec.node_name));
    if let Some(start) = &status.start_time {
        sheet.line(0, "Start Time", &start.0.to_string());
    }
    sheet.map("Labels", meta.labels.as_ref());
    sheet.map("Annotations", meta.annotations.as_ref());
    sheet.line(0, "Status", &state(pod).word);
    if let Some(message) = &status.message {
        sheet.line(0, "Message", message);
    }
    if let Some(deleted) = &meta.deletion_timestamp {
        let grace = meta.deletion_grace_period_seconds.unwrap_or_default();
        sheet.line(0, "Deleted", &format!("{} ago, with {grace} s to end", age(Some(deleted.0), now)));
    }
    sheet.line(0, "IP", &or_none(&status.pod_ip));
    for owner in meta.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true)) {
        sheet.line(0, "Controlled By", &format!("{}/{}", owner.kind, owner.name));
    }
    let inits = spec.init_containers.clone().unwrap_or_default();
    if !inits.is_empty() {
        sheet.words(0, "Init Containers:");
        containers(&mut sheet, &inits, status.init_container_statuses.as_deref());
    }
    sheet.words(0, "Containers:");
    containers(&mut sheet, &spec.containers, status.container_statuses.as_deref());
    conditions(&mut sheet, &status);
    volumes(&mut sheet, &spec);
    sheet.line(0, "QoS Class", &or_none(&status.qos_class));
    sheet.map("Node-Selectors", spec.node_selector.as_ref());
    sheet.0
}

fn containers(sheet: &mut Sheet, containers: &[Container], statuses: Option<&[ContainerStatus]>) {
    for container in containers {
        let status = statuses.unwrap_or_default().iter().find(|status| status.name == container.name);
        sheet.words(1, &format!("{}:", container.name));
        let known = |text: Option<&String>| text.cloned().unwrap_or_default();
        sheet.line(2, "Container ID", &known(status.and_then(|status| status.container_id.as_ref())));
        sheet.line(2, "Image", &known(container.image.as_ref()));
        sheet.line(2, "Image ID", &known(status.map(|status| &status.image_id)));
        let ports: Vec<String> = container
            .ports
            .iter()
            .flatten()
            .map(|port| format!("{}/{}", port.container_port, port.protocol.as_deref().unwrap_or("TCP")))
            .collect();
        if !ports.is_empty() {
            sheet.line(2, "Ports", &ports.join(", "));
        }
        for (key, list) in [("Command", &container.command), ("Args", &container.args)] {
            if let Some(list) = list {
                sheet.words(2, &format!("{key}:"));
                list.iter().for_each(|word| sheet.words(3, word));
            }
        }
        match status.and_then(|status| status.state.as_ref()) {
            Some(state) => container_state(sheet, "State", state),
            None => sheet.line(2, "State", "Waiting"),
        }
        if let Some(last) = status.and_then(|status| status.last_state.as_ref()) {
            container_state(sheet, "Last State", last);
        }
        let is_ready = status.is_some_and(|status| status.ready);
        sheet.line(2, "Ready", if is_ready { "True" } else { "False" });
        let n_restarts = status.map_or(0, |status| status.restart_count);
        sheet.line(2, "Restart Count", &n_restarts.to_string());
        let resources = container.resources.clone().unwrap_or_default();
        for (key, amounts) in [("Limits", resources.limits), ("Requests", resources.requests)] {
            let amounts = amounts.unwrap_or_default();
            let amounts: Vec<String> =
                amounts.iter().map(|(name, amount)| format!("{name} {}", amount.0)).collect();
            if !amounts.is_empty() {
                sheet.line(2, key, &amounts.join(", "));
            }
        }
        let env = container.env.clone().unwrap_or_default();
        if !env.is_empty() {
            sheet.words(2, "Environment:");
            env.iter().for_each(|variable| sheet.line(3, &variable.name, &value(variable)));
        }
        let mounts = container.volume_mounts.clone().unwrap_or_default();
        if !mounts.is_empty() {
            sheet.words(2, "Mounts:");
        }
        for mount in mounts {
            let rights = if mount.read_only == Some(true) { "ro" } else { "rw" };
            sheet.words(3, &format!("{} from {} ({rights})", mount.mount_path, mount.name));
        }
    }
}

/// What it says, or where it comes from.
fn value(variable: &EnvVar) -> String {
    let from = variable.value_from.as_ref();
    if let Some(key) = from.and_then(|from| from.secret_key_ref.as_ref()) {
        return format!("<key {} of Secret {}>", key.key, key.name);
    }
    if let Some(key) = from.and_then(|from| from.config_map_key_ref.as_ref()) {
        return format!("<key {} of ConfigMap {}>", key.key, key.name);
    }
    if let Some(field) = from.and_then(|from| from.field_ref.as_ref()) {
        return format!("<{} of the pod>", field.field_path);
    }
    if let Some(field) = from.and_then(|from| from.resource_field_ref.as_ref()) {
        return format!("<{} of the container>", field.resource);
    }
    variable.value.clone().unwrap_or_default()
}

fn container_state(sheet: &mut Sheet, key: &str, state: &ContainerState) {
    if let Some(running) = &state.running {
        sheet.line(2, key, "Running");
        if let Some(started) = &running.started_at {
            sheet.line(3, "Started", &started.0.to_string());
        }
    } else if let Some(ended) = &state.terminated {
        sheet.line(2, key, "Terminated");
        sheet.line(3, "Reason", ended.reason.as_deref().unwrap_or_default());
        if let Some(message) = &ended.message {
            sheet.line(3, "Message", message);
        }
        sheet.line(3, "Exit Code", &ended.exit_code.to_string());
        for (key, time) in [("Started", &ended.started_at), ("Finished", &ended.finished_at)] {
            if let Some(time) = time {
                sheet.line(3, key, &time.0.to_string());
            }
        }
    } else {
        sheet.line(2, key, "Waiting");
        if let Some(waiting) = &state.waiting {
            sheet.line(3, "Reason", waiting.reason.as_deref().unwrap_or_default());
            if let Some(message) = &waiting.message {
                sheet.line(3, "Message", message);
            }
        }
    }
}

fn conditions(sheet: &mut Sheet, status: &PodStatus) {
    let conditions = status.conditions.clone().unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    sheet.words(0, "Conditions:");
    for condition in conditions {
        let why = [condition.reason, condition.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        sheet.words(1, format!("{:28}{:8}{why}", condition.type_, condition.status).trim_end());
    }
}

fn volumes(sheet: &mut Sheet, spec: &PodSpec) {
    let volumes = spec.volumes.clone().unwrap_or_default();
    if volumes.is_empty() {
        return;
    }
    sheet.words(0, "Volumes:");
    for volume in volumes {
        let source = if let Some(source) = &volume.config_map {
            format!("ConfigMap {}", source.name)
        } else if let Some(source) = &volume.secret {
            format!("Secret {}", source.secret_name.as_deref().unwrap_or_default())
        } else if let Some(source) = &volume.host_path {
            format!("{} of the node", source.path)
        } else if volume.empty_dir.is_some() {
            "emptyDir".to_owned()
        } else if volume.projected.is_some() {
            "projected".to_owned()
        } else if let Some(source) = &volume.persistent_volume_claim {
            format!("PersistentVolumeClaim {}", source.claim_name)
        } else {
            "another kind".to_owned()
        };
        sheet.line(1, &volume.name, &source);
    }
}

/// Of the pod with this uid.
pub(super) fn events(events: &[Value], uid: &str, now: Timestamp) -> String {
    let mut sheet = Sheet::default();
    let mut ours = events.iter().filter(|event| text(event, "/involvedObject/uid") == uid).peekable();
    if ours.peek().is_none() {
        sheet.line(0, "Events", "<none> that the cloud does not have: this node keeps no others");
        return sheet.0;
    }
    sheet.words(0, "Events:");
    for event in ours {
        let at = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
            .iter()
            .find_map(|pointer| text(event, pointer).parse().ok());
        let [kind, reason, message] = ["/type", "/reason", "/message"].map(|pointer| text(event, pointer));
        sheet.words(1, &format!("{kind:9}{reason:20}{:10}{message}", age(at, now)));
    }
    sheet.0
}

pub(super) fn device(device: &Value, now: Timestamp) -> String {
    let mut sheet = Sheet::default();
    for (key, pointer) in [
        ("Name", "/metadata/name"),
        ("Namespace", "/metadata/namespace"),
        ("UID", "/metadata/uid"),
        ("Node", "/spec/nodeName"),
        ("Model", "/spec/deviceModelRef/name"),
        ("Protocol", "/spec/protocol/protocolName"),
        ("State", "/status/state"),
        ("Last Online", "/status/lastOnlineTime"),
    ] {
        sheet.line(0, key, &text(device, pointer));
    }
    let labels = device.pointer("/metadata/labels").cloned().unwrap_or_default();
    sheet.map("Labels", serde_json::from_value(labels).ok().as_ref());
    let desired = |name: &str| {
        let properties = device.pointer("/spec/properties").and_then(Value::as_array);
        let mut properties = properties.into_iter().flatten();
        let property = properties.find(|property| text(property, "/name") == name);
        property.map(|property| text(property, "/desired/value")).unwrap_or_default()
    };
    sheet.words(0, "Properties:");
    sheet.words(1, &format!("{:20}{:20}{:20}{}", "NAME", "REPORTED", "DESIRED", "REPORTED SINCE"));
    for twin in twins(device) {
        let name = text(twin, "/propertyName");
        let at = text(twin, "/reported/metadata/timestamp").parse().ok();
        let at = at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        let row =
            format!("{name:20}{:20}{:20}{}", text(twin, "/reported/value"), desired(&name), age(at, now));
        sheet.words(1, row.trim_end());
    }
    sheet.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    /// Runs of blanks say nothing.
    fn holds(sheet: &str, lines: &[&str]) {
        let squeeze = |text: &str| {
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.collect::<Vec<_>>().join("\n")
        };
        for line in lines {
            assert!(squeeze(sheet).contains(&squeeze(line)), "no {line:?} in\n{sheet}");
        }
    }

    #[test]
    fn a_long_key_ends_before_its_value() {
        let mut sheet = Sheet::default();
        sheet.line(1, "kube-api-access-x4ptk", "projected");
        sheet.line(0, "Node", "edge-1");
        assert_eq!(sheet.0, "  kube-api-access-x4ptk: projected\nNode:               edge-1\n");
    }

    #[test]
    fn a_pod() {
        let of: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "tier": "1"},
                         "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}]},
            "spec": {"nodeName": "edge-1", "containers": [{
                "name": "app", "image": "web:1", "command": ["run"],
                "env": [{"name": "MODE", "value": "fast"},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "door", "key": "key"}}}],
                "volumeMounts": [{"name": "page", "mountPath": "/www", "readOnly": true}],
                "resources": {"limits": {"cpu": "1"}},
            }], "volumes": [{"name": "page", "configMap": {"name": "web-page"}}]},
            "status": {"phase": "Running", "podIP": "10.1.0.7", "qosClass": "Burstable",
                "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
                "containerStatuses": [{
                    "name": "app", "image": "", "imageID": "sha256:1", "containerID": "containerd://c1", "ready": false,
                    "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
                }]},
        }))
        .unwrap();
        let sheet = pod(&of, now());
        holds(
            &sheet,
            &[
                "Name: web",
                "Labels: app=web\ntier=1\nAnnotations: <none>",
                "Status: CrashLoopBackOff",
                "Controlled By: ReplicaSet/web-1",
                "Containers:\napp:\nContainer ID: containerd://c1\nImage: web:1",
                "Command:\nrun\n",
                "State: Waiting\nReason: CrashLoopBackOff\nMessage: back-off 40s\nLast State: Terminated",
                "Reason: Error\nExit Code: 3\nReady: False\nRestart Count: 4\nLimits: cpu 1",
                "MODE: fast\nKEY: <key key of Secret door>",
                "/www from page (ro)",
                "Ready False ContainersNotReady",
                "page: ConfigMap web-page\nQoS Class: Burstable",
            ],
        );
        assert!(sheet.starts_with("Name:               web\nNamespace:          shop\n"), "{sheet}");
    }

    #[test]
    fn events_of_one_pod() {
        let event = |uid: &str| {
            json!({"involvedObject": {"uid": uid}, "type": "Warning", "reason": "BackOff",
                   "message": "Back-off restarting", "lastTimestamp": "2026-01-31T11:59:00Z"})
        };
        assert_eq!(
            events(&[event("u1"), event("u2")], "u1", now()),
            "Events:\n  Warning  BackOff             60s       Back-off restarting\n"
        );
        assert!(events(&[event("u2")], "u1", now()).contains("keeps no others"));
    }

    #[test]
    fn a_device() {
        let of = json!({
            "metadata": {"name": "oven-1", "namespace": "plant"},
            "spec": {"nodeName": "edge-1", "protocol": {"protocolName": "modbus", "configData": {"password": "hidden"}},
                     "properties": [{"name": "limit", "desired": {"value": "30"}}]},
            "status": {"state": "online", "twins": [
                {"propertyName": "limit", "reported": {"value": "28", "metadata": {"timestamp": "1769860740000"}}},
            ]},
        });
        let sheet = device(&of, now());
        holds(&sheet, &["Protocol: modbus\nState: online", "Labels: <none>", "limit 28 30 60s"]);
        assert!(!sheet.contains("hidden"));
    }
}
