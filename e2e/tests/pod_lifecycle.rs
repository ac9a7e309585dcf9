//! A pod from the API server to a container and back: created, changed, crashed, deleted, and refused for a reason.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use e2e::site::{Site, Wishes, container_identity, pod_ip, shell_pod, web_app};
use serde_json::json;

/// One site for the whole file: each step goes on where the last one ended.
#[test]
fn pods_live_and_die_as_kubernetes_says() -> Result<()> {
    let mut site = Site::start("lifecycle", &Wishes::default())?;

    // Created: runs, answers with its ConfigMap, knows its Secret and its node.
    site.cluster.apply(&web_app("shop", "open all day"))?;
    let name = site.pod_of("shop")?;
    let pod = site.wait_running(&name)?;
    let address = pod_ip(&pod)?;
    site.wait_http(&address, "/", "open all day")?;
    site.wait_http(&address, "/cgi-bin/env", "key=open-shop node=edge-1")?;
    for reason in ["Pulled", "Created", "Started"] {
        site.wait_event(&name, reason)?;
    }
    ensure!(
        pod["status"]["phase"] == "Running" && pod["status"]["qosClass"] == "BestEffort",
        "{}",
        pod["status"]
    );
    ensure!(
        pod["status"]["hostIP"].is_string() && pod["status"]["startTime"].is_string(),
        "{}",
        pod["status"]
    );

    // A changed ConfigMap reaches the running container.
    let before = container_identity(&pod)?;
    site.cluster.apply(&web_app("shop", "closed on Sunday"))?;
    site.wait_http(&address, "/", "closed on Sunday")?;
    ensure!(container_identity(&site.pod(&name)?)? == before, "a ConfigMap's change restarted the container");

    // Crashed: started again after a growing pause, and said so.
    let crash = json!({"restartPolicy": "Always"});
    site.cluster.apply(&shell_pod("crasher", "sleep 1; exit 3", &crash))?;
    site.wait_pod("crasher", "to be in CrashLoopBackOff", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        (waits && status["lastState"]["terminated"]["exitCode"] == 3 && status["restartCount"].as_u64()? >= 1)
            .then_some(())
    })?;
    site.wait_event("crasher", "BackOff")?;

    // Ran to its end: stays so.
    site.cluster.apply(&shell_pod("job", "echo done", &json!({"restartPolicy": "Never"})))?;
    site.wait_pod("job", "to have succeeded", |pod| (pod["status"]["phase"] == "Succeeded").then_some(()))?;
    site.cluster.apply(&shell_pod("failure", "exit 7", &json!({"restartPolicy": "Never"})))?;
    site.wait_pod("failure", "to have failed", |pod| {
        let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        (pod["status"]["phase"] == "Failed" && terminated["exitCode"] == 7).then_some(())
    })?;

    // Init containers first, in order, sharing a memory volume with the main one.
    let init = |name: &str, script: &str| {
        json!({"name": name, "image": e2e::images::APP, "command": ["sh", "-c", script],
               "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]})
    };
    let more = json!({
        "initContainers": [init("one", "echo one > /shared/list"), init("two", "echo two >> /shared/list")],
        "containers": [{"volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                        "resources": {"limits": {"memory": "32Mi", "cpu": "200m"}}}],
        "volumes": [{"name": "shared", "emptyDir": {"medium": "Memory"}}],
    });
    let script = "test \"$(cat /shared/list)\" = \"$(printf 'one\\ntwo')\" && exec sleep 1000";
    site.cluster.apply(&shell_pod("init", script, &more))?;
    let pod = site.wait_running("init")?;
    ensure!(pod["status"]["qosClass"] == "Burstable", "{}", pod["status"]);
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", pod["status"]);

    // What cannot run says why, in Kubernetes' words.
    let reason =
        |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let image = json!({"containers": [{"image": "isthmus.test/none:1", "imagePullPolicy": "Never"}]});
    site.cluster.apply(&shell_pod("no-image", "true", &image))?;
    site.wait_pod("no-image", "to lack its image", |pod| (reason(pod) == "ErrImageNeverPull").then_some(()))?;
    let env = json!({"containers": [{"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]}]});
    site.cluster.apply(&shell_pod("no-map", "true", &env))?;
    site.wait_pod("no-map", "to lack its ConfigMap", |pod| {
        (reason(pod) == "CreateContainerConfigError").then_some(())
    })?;
    site.wait_event("no-map", "configmap \"none\" not found")?;
    let path = json!({"volumes": [{"name": "v", "hostPath": {"path": "/no/such/path", "type": "Directory"}}],
                      "containers": [{"volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
    site.cluster.apply(&shell_pod("no-path", "true", &path))?;
    site.wait_event("no-path", "FailedMount")?;

    // Deleted: gone from the API and from the machine.
    site.cluster.kubectl_ok(&["delete", "deployment", "shop", "--wait=false"])?;
    site.wait_gone(&name)?;
    for pod in ["crasher", "job", "failure", "init", "no-image", "no-map", "no-path"] {
        site.cluster.kubectl_ok(&["delete", "pod", pod, "--wait=false"])?;
    }
    for pod in ["crasher", "job", "failure", "init", "no-image", "no-map", "no-path"] {
        site.wait_gone(pod)?;
    }
    e2e::wait::until(e2e::site::PATIENCE, "no container to be left", || {
        Ok(site.runtime.running()?.is_empty())
    })?;
    let pods = site.edge.run_dir().join("kubelet/pods");
    e2e::wait::until(e2e::site::PATIENCE, "no pod directory to be left", || {
        Ok(std::fs::read_dir(&pods)?.count() == 0)
    })
}
