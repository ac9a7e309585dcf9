//! Fields of a Pod that need more than a container: a RuntimeClass, also without the cloud, and what this runtime cannot do, in
//! the words of a kubelet.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use e2e::images::APP;
use e2e::site::{PATIENCE, Site, Wishes, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const WORK: &str = "exec sleep 1000";

fn class(name: &str, handler: &str) -> String {
    let (api, kind) = ("node.k8s.io/v1", "RuntimeClass");
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "handler": handler}).to_string()
}

/// Reason and message of what the pod's only container waits for.
fn waits(pod: &Value) -> Option<(String, String)> {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    Some((waiting["reason"].as_str()?.to_owned(), waiting["message"].as_str().unwrap_or_default().to_owned()))
}

/// A pod whose only volume is mounted at `/v`.
fn mounting(name: &str, volume: Value, mount: Value) -> String {
    let (mut volume, mut mount) = (volume, mount);
    volume["name"] = "v".into();
    (mount["name"], mount["mountPath"]) = ("v".into(), "/v".into());
    shell_pod(name, WORK, &json!({"containers": [{"volumeMounts": [mount]}], "volumes": [volume]}))
}

fn wait_restarted(site: &Site, n_before: usize, what: &str) -> Result<()> {
    eventually(PATIENCE, what, || {
        let n_running = site.runtime.running()?.len();
        Ok(if n_running == n_before { Seen::Yes(()) } else { Seen::NotYet(format!("{n_running} run")) })
    })
}

fn classes(site: &mut Site) -> Result<()> {
    // No handler of this runtime has either name.
    site.cluster.apply(&class("isolated", "runc"))?;
    site.cluster.apply(&class("elsewhere", "no-such-handler"))?;
    site.cluster.apply(&shell_pod("isolated", WORK, &json!({"runtimeClassName": "isolated"})))?;
    site.wait_running("isolated")?;
    let n_running = site.runtime.running()?.len();
    site.cluster.apply(&shell_pod("elsewhere", WORK, &json!({"runtimeClassName": "elsewhere"})))?;
    site.wait_event("elsewhere", "FailedCreatePodSandBox: Failed to create pod sandbox: ")?;
    site.wait_event("elsewhere", "no-such-handler")?;
    let pod = site.pod("elsewhere")?;
    ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
    site.cluster.kubectl_ok(&["delete", "pod", "elsewhere", "--wait=false"])?;
    site.wait_gone("elsewhere")?;

    site.cut();
    site.power_cut()?;
    site.boot()?;
    wait_restarted(site, n_running, "the pod to run again under its class without the cloud")?;
    site.heal();
    site.wait_running("isolated")?;

    site.cluster.kubectl_ok(&["delete", "runtimeclass", "isolated"])?;
    site.cluster.kubectl_ok(&["delete", "pod", "isolated", "--wait=false"])?;
    site.wait_gone("isolated")?;
    // The API server takes no pod whose class is missing: one that was made before.
    site.cluster.apply(&class("brief", "runc"))?;
    let held = json!({"runtimeClassName": "brief", "schedulingGates": [{"name": "isthmus.test/wait"}]});
    site.cluster.apply(&shell_pod("brief", WORK, &held))?;
    site.cluster.kubectl_ok(&["delete", "runtimeclass", "brief"])?;
    let free = r#"{"spec":{"schedulingGates":null}}"#;
    site.cluster.kubectl_ok(&["patch", "pod", "brief", "--type=merge", "--patch", free])?;
    site.wait_event("brief", "Failed to create pod sandbox: runtimeclass.node.k8s.io \"brief\" not found")?;
    let pod = site.pod("brief")?;
    ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
    site.cluster.apply(&class("brief", "runc"))?;
    site.wait_running("brief")?;
    Ok(())
}

/// What containerd before 2.0 has not.
fn beyond_this_runtime(site: &mut Site) -> Result<()> {
    site.cluster.apply(&shell_pod("own-users", WORK, &json!({"hostUsers": false})))?;
    site.wait_event("own-users", "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime")?;

    let strict = json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}});
    site.cluster.apply(&shell_pod("strict", WORK, &strict))?;
    let pod = site.wait_pod("strict", "to be refused", |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod.clone())
    })?;
    ensure!(pod["status"]["reason"] == "SupplementalGroupsPolicyNotSupported", "{}", pod["status"]);

    let recursive = |mode: &str| json!({"readOnly": true, "recursiveReadOnly": mode});
    site.cluster.apply(&mounting("all-of-it", json!({"emptyDir": {}}), recursive("Enabled")))?;
    site.cluster.apply(&mounting("if-it-can", json!({"emptyDir": {}}), recursive("IfPossible")))?;
    let refused = site.wait_pod("all-of-it", "to be refused", |pod| {
        waits(pod).filter(|(reason, _)| reason == "CreateContainerConfigError")
    })?;
    ensure!(refused.1.contains("volume \"v\" requested recursive read-only mode"), "{}", refused.1);
    site.wait_running("if-it-can")?;

    let image = |reference: &str| json!({"image": {"reference": reference, "pullPolicy": "Never"}});
    site.cluster.apply(&mounting("with-image", image(APP), json!({})))?;
    site.cluster.apply(&mounting("without-image", image("isthmus.test/none:1"), json!({})))?;
    let (_, why) = site.wait_pod("with-image", "to be refused by the runtime", |pod| {
        waits(pod).filter(|(reason, _)| reason == "CreateContainerError")
    })?;
    eprintln!("an image as a volume on this runtime: {why}");
    let (_, why) = site.wait_pod("without-image", "to wait for its volume's image", |pod| {
        waits(pod).filter(|(reason, _)| reason == "ErrImageNeverPull")
    })?;
    ensure!(why.contains("isthmus.test/none:1"), "{why}");
    Ok(())
}

#[test]
fn what_a_pod_asks_of_its_runtime() -> Result<()> {
    let mut site = Site::start("pod-fields", &Wishes::default())?;
    classes(&mut site)?;
    beyond_this_runtime(&mut site)?;
    let pods = ["brief", "own-users", "strict", "all-of-it", "if-it-can", "with-image", "without-image"];
    for name in pods {
        site.cluster.kubectl_ok(&["delete", "pod", name, "--wait=false"])?;
    }
    for name in pods {
        site.wait_gone(name).with_context(|| format!("pod {name} leaves"))?;
    }
    Ok(())
}
