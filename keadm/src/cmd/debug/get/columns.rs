//! Pure: what is held as rows, with kubectl's columns.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Object, Resource};
use crate::age::age;
use crate::table::table;

impl Resource {
    pub(super) fn table(
        self,
        found: &[Object],
        has_namespace: bool,
        is_wide: bool,
        is_many: bool,
        now: Timestamp,
    ) -> String {
        let (mut heads, wide): (Vec<&str>, &[&str]) = match self {
            Self::All => (vec![], &[]),
            Self::Pod => (vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE"]),
            Self::Node => (vec!["NAME", "STATUS", "AGE", "VERSION"], &["INTERNAL-IP", "CONTAINER-RUNTIME"]),
            Self::Service => (vec!["NAME", "TYPE", "CLUSTER-IP", "PORT(S)", "AGE"], &["SELECTOR"]),
            Self::Secret => (vec!["NAME", "TYPE", "DATA", "AGE"], &[]),
            Self::Configmap => (vec!["NAME", "DATA", "AGE"], &[]),
            Self::Endpoints => (vec!["NAME", "ENDPOINTS", "AGE"], &[]),
        };
        if is_wide {
            heads.extend(wide);
        }
        let mut rows = vec![heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>()];
        for held in found {
            let mut row: Vec<String> = heads.iter().map(|head| self.cell(head, held, now)).collect();
            if let Some(name) = row.first_mut().filter(|_| is_many) {
                *name = format!("{}/{name}", self.word());
            }
            rows.push(row);
        }
        if has_namespace && self != Self::Node {
            let namespaces =
                std::iter::once("NAMESPACE").chain(found.iter().map(|held| held.namespace.as_str()));
            for (row, namespace) in rows.iter_mut().zip(namespaces) {
                row.insert(0, namespace.to_owned());
            }
        }
        table(&rows)
    }

    fn cell(self, head: &str, held: &Object, now: Timestamp) -> String {
        let body = &held.body;
        let text = |path: &str| {
            let value = body.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
            value.unwrap_or("<none>").to_owned()
        };
        let list = |path: &str| body.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
        let containers = || list("/status/containerStatuses");
        match head {
            "NAME" => held.name.clone(),
            "AGE" => age(made(body), now),
            "READY" => {
                let n_ready = containers()
                    .iter()
                    .filter(|status| status.get("ready") == Some(&Value::Bool(true)))
                    .count();
                format!("{n_ready}/{}", list("/spec/containers").len())
            }
            "RESTARTS" => {
                let n_restarts = containers()
                    .iter()
                    .filter_map(|status| status.get("restartCount")?.as_i64())
                    .sum::<i64>();
                n_restarts.to_string()
            }
            "STATUS" if self == Self::Node => {
                let is_ready = list("/status/conditions").iter().any(|condition| {
                    condition.get("type").and_then(Value::as_str) == Some("Ready")
                        && condition.get("status").and_then(Value::as_str) == Some("True")
                });
                (if is_ready { "Ready" } else { "NotReady" }).to_owned()
            }
            "STATUS" => {
                let waiting = containers()
                    .iter()
                    .find_map(|status| Some(status.pointer("/state/waiting/reason")?.as_str()?.to_owned()));
                waiting.unwrap_or_else(|| text("/status/phase"))
            }
            "VERSION" => text("/status/nodeInfo/kubeletVersion"),
            "CONTAINER-RUNTIME" => text("/status/nodeInfo/containerRuntimeVersion"),
            "INTERNAL-IP" => text("/status/addresses/0/address"),
            "IP" => text("/status/podIP"),
            "NODE" => text("/spec/nodeName"),
            "TYPE" if self == Self::Service => text("/spec/type"),
            "TYPE" => text("/type"),
            "CLUSTER-IP" => text("/spec/clusterIP"),
            "SELECTOR" => {
                let selector = body.pointer("/spec/selector").and_then(Value::as_object);
                let terms = selector
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
                none_if_empty(terms.collect::<Vec<_>>().join(","))
            }
            "PORT(S)" => {
                let port =
                    |port: &Value| Some(format!("{}/{}", port.get("port")?, port.get("protocol")?.as_str()?));
                none_if_empty(list("/spec/ports").iter().filter_map(port).collect::<Vec<_>>().join(","))
            }
            "DATA" => {
                let n_keys =
                    |field| body.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
                (n_keys("data") + n_keys("binaryData") + n_keys("stringData")).to_string()
            }
            "ENDPOINTS" => {
                let addresses = list("/subsets").into_iter().flat_map(|subset| {
                    subset.get("addresses").and_then(Value::as_array).cloned().unwrap_or_default()
                });
                let addresses = addresses.filter_map(|address| Some(address.get("ip")?.as_str()?.to_owned()));
                none_if_empty(addresses.collect::<Vec<_>>().join(","))
            }
            _ => String::new(),
        }
    }
}

fn none_if_empty(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn made(body: &Value) -> Option<Timestamp> {
    body.pointer("/metadata/creationTimestamp").and_then(Value::as_str)?.parse().ok()
}
