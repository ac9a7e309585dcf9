//! Pure: what helps those who run the cluster: the chart's `poddisruptionbudget.yaml`, `servicemonitor.yaml` and
//! `configmap_dashboard.yaml`.

use serde_json::{Value, json};

use super::scalars::Texts;
use super::values::Values;
use super::{NAME, NAMESPACE, named, selector};

const DASHBOARD: &str = include_str!("../../../charts/cloudcore/dashboards/cloudcore.json");

pub(super) fn objects(values: &Values) -> Vec<Value> {
    let mut objects = Vec::new();
    let budget = &values.pod_disruption_budget;
    if budget.enable.is_on() && values.cloud_core.replica_count.get() > 1 {
        objects.push(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": named(values, NAME, NAMESPACE),
            "spec": {"maxUnavailable": budget.max_unavailable, "selector": {"matchLabels": selector()}},
        }));
    }
    let monitor = &values.service_monitor;
    if monitor.enable.is_on() {
        objects.push(json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": labelled(values, NAME, &monitor.labels),
            "spec": {
                "selector": {"matchLabels": selector()},
                "endpoints": [{"port": "monitor", "path": "/metrics", "interval": monitor.interval}],
            },
        }));
    }
    let dashboard = &values.grafana_dashboard;
    if dashboard.enable.is_on() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": labelled(values, "cloudcore-dashboard", &dashboard.labels),
            "data": {"cloudcore.json": DASHBOARD},
        }));
    }
    objects
}

fn labelled(values: &Values, name: &str, more: &Texts) -> Value {
    let mut metadata = named(values, name, NAMESPACE);
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.extend(more.iter().map(|(name, value)| (name.clone(), json!(value))));
    }
    metadata
}
