//! Whose containers a mirror's annotation opens: those of the static pod behind it, and nobody else's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::bench::{Bench, run_container};
use crate::static_pods::{MIRROR, StaticSet};

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

/// A pod as the cloud has it, with an annotation that says whose mirror it is.
fn mirror(namespace: &str, name: &str, of: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": "m1", "annotations": {MIRROR: of}},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "app"}]},
    })
}

#[tokio::test]
async fn a_forged_mirror_opens_nobody_s_pod() {
    let bench = Bench::start().await;
    bench.runtime.set_exec("id", 0, "root");
    bench.check("POST", "/run/shop/web/app?cmd=id", 200, "root").await;
    bench.hold("tenant/pod/fake", &mirror("tenant", "fake", "u1")).await;
    let none = "container not found (\"app\")";
    bench.check("POST", "/run/tenant/fake/app?cmd=id", 500, none).await;
    bench.check("POST", "/run/tenant/fake/m1/app?cmd=id", 500, none).await;
    bench.check("POST", "/run/tenant/fake/u1/app?cmd=id", 404, "pod does not exist").await;
    for path in ["/exec/tenant/fake/app?output=1&command=sh", "/attach/tenant/fake/app?output=1"] {
        bench.check_with("POST", path, SPDY, 500, none).await;
    }
    let no_sandbox = "failed to find sandboxID for pod fake";
    bench.check_with("POST", "/portForward/tenant/fake", SPDY, 500, no_sandbox).await;
    // Not even where a static pod of another name has that uid, or the runtime has the uid under another name.
    let other: Pod = serde_json::from_value(json!({"metadata": {"uid": "u1"}})).unwrap();
    let key = "shop/pod/web".parse().unwrap();
    bench.static_pods.send_replace(Some(StaticSet::new([(key, Arc::new(other.clone()))].into())));
    bench.check("POST", "/run/tenant/fake/app?cmd=id", 500, none).await;
    let key = "tenant/pod/fake".parse().unwrap();
    bench.static_pods.send_replace(Some(StaticSet::new([(key, Arc::new(other))].into())));
    bench.check("POST", "/run/tenant/fake/app?cmd=id", 500, none).await;
}

#[tokio::test]
async fn a_static_pod_is_reached_by_its_mirror() {
    let bench = Bench::start().await;
    bench.runtime.set_exec("id", 0, "root");
    run_container(&bench.runtime, ["kube-system", "proxy-edge-1", "hash"], "app").await;
    let behind: Pod = serde_json::from_value(json!({"metadata": {"uid": "hash"}})).unwrap();
    let key = "kube-system/pod/proxy-edge-1".parse().unwrap();
    bench.static_pods.send_replace(Some(StaticSet::new([(key, Arc::new(behind))].into())));
    bench.hold("kube-system/pod/proxy-edge-1", &mirror("kube-system", "proxy-edge-1", "hash")).await;
    bench.check("POST", "/run/kube-system/proxy-edge-1/app?cmd=id", 200, "root").await;
    bench.check("POST", "/run/kube-system/proxy-edge-1/hash/app?cmd=id", 200, "root").await;
}
