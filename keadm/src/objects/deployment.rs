//! Pure: the chart's `templates/deployment.yaml`.

use serde_json::{Value, json};

use super::values::{Probe, Values};
use super::{NAME, NAMESPACE, cloudcore_yaml, filled, named, selector};

const IMAGE: &str = "isthmus/cloudcore";
const TAG: &str = concat!("v", env!("CARGO_PKG_VERSION"));

pub(super) fn deployment(values: &Values) -> Value {
    let core = &values.cloud_core;
    let mut metadata = named(values, NAME, NAMESPACE);
    if let (Some(metadata), false) = (metadata.as_object_mut(), core.annotations.is_empty()) {
        metadata.insert("annotations".to_owned(), json!(core.annotations));
    }
    let strategy = if core.strategy.is_empty() {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
    } else {
        json!(core.strategy)
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": core.replica_count,
            "strategy": strategy,
            "selector": {"matchLabels": selector()},
            "template": {
                "metadata": {
                    "labels": core.labels,
                    "annotations": {"isthmus.io/config-sha256": cloudcore_yaml::sha256(values)},
                },
                "spec": pod(values),
            },
        },
    })
}

/// Whether the image is named as KubeEdge's own, which would not understand what it is given here.
pub(super) fn is_kubeedges_image(values: &Values) -> bool {
    matches!(&*values.cloud_core.image.repository, "kubeedge/cloudcore" | "docker.io/kubeedge/cloudcore")
}

pub(super) fn image(values: &Values) -> String {
    let image = &values.cloud_core.image;
    match &*image.tag {
        _ if is_kubeedges_image(values) => format!("{IMAGE}:{TAG}"),
        "" => format!("{}:{TAG}", &*image.repository),
        tag => format!("{}:{tag}", &*image.repository),
    }
}

fn pod(values: &Values) -> Value {
    let core = &values.cloud_core;
    let is_on_host = core.host_net_work.is_on();
    filled(json!({
        "serviceAccountName": NAME,
        "hostNetwork": is_on_host.then_some(true),
        "dnsPolicy": is_on_host.then_some("ClusterFirstWithHostNet"),
        "priorityClassName": core.priority_class_name,
        "imagePullSecrets": core.image.pull_secrets,
        "nodeSelector": core.node_selector,
        "affinity": core.affinity,
        "tolerations": core.tolerations,
        "containers": [container(values)],
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            // A server certificate of one's own, as server.crt and server.key. Without it cloudcore makes one.
            {"name": "certs", "secret": {"secretName": NAME, "optional": true}},
        ],
    }))
}

fn container(values: &Values) -> Value {
    let core = &values.cloud_core;
    let (modules, probes) = (&core.modules, &core.probes);
    let port = |name: &str, number| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    let probe = |path: &str, probe| probes.enable.is_on().then(|| http_probe(values, path, probe));
    let mut security_context = core.security_context.clone();
    security_context.remove("privileged");
    filled(json!({
        "name": "cloudcore",
        "image": image(values),
        "imagePullPolicy": core.image.pull_policy,
        "ports": [
            port("cloudhub", modules.cloud_hub.websocket.port),
            port("cloudhub-https", modules.cloud_hub.https.port),
            port("conversion", modules.device_controller.conversion.port),
            port("stream", modules.cloud_stream.stream_port),
            port("tunnelport", modules.cloud_stream.tunnel_port),
            port("monitor", core.monitor.port),
        ],
        "startupProbe": probe("/livez", &probes.startup),
        "livenessProbe": probe("/livez", &probes.liveness),
        "readinessProbe": probe("/readyz", &probes.readiness),
        "securityContext": security_context,
        "resources": core.resources,
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/kubeedge/config", "readOnly": true},
            {"name": "certs", "mountPath": "/etc/kubeedge/certs", "readOnly": true},
        ],
    }))
}

fn http_probe(values: &Values, path: &str, probe: &Probe) -> Value {
    let host = cloudcore_yaml::is_monitor_local(values).then_some("127.0.0.1");
    json!({
        "httpGet": filled(json!({"host": host, "path": path, "port": "monitor"})),
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "failureThreshold": probe.failure_threshold,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        let check = |sets: &str, expected: &str| {
            let (values, _) = Values::from_layers(&[], &[sets.to_owned()]).unwrap();
            assert_eq!(image(&values), expected, "{sets}");
        };
        check("cloudCore.replicaCount=1", &format!("isthmus/cloudcore:{TAG}"));
        check("cloudCore.image.repository=r.example/c", &format!("r.example/c:{TAG}"));
        check("cloudCore.image.repository=r.example/c,cloudCore.image.tag=v9", "r.example/c:v9");
        check("cloudCore.image.tag=v9", "isthmus/cloudcore:v9");
        check(
            "cloudCore.image.repository=kubeedge/cloudcore,cloudCore.image.tag=v1.23.0",
            &format!("isthmus/cloudcore:{TAG}"),
        );
    }
}
