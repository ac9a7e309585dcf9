//! Whether cloudcore runs in its cluster as it is wanted, and if not, why.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SELECTOR, shown};
use crate::objects::NAMESPACE;

/// Which containers are running: the pod's uid and how often the kubelet has started each of its containers again.
pub(crate) type Running = Vec<(String, Vec<i64>)>;

/// Of a Deployment without replicas.
pub(crate) const NONE_WANTED: &str = "no cloudcore is wanted (replicaCount 0): no edge node is served, and on a new cluster nobody makes the \
                                      token that machines join with; keadm init --set cloudCore.replicaCount=1 starts one";

/// Whether any cloudcore is to run; one that is not makes no token. `all`: the objects that there are to be.
pub(crate) fn is_wanted(all: &[Value]) -> bool {
    all.iter().any(|object| object["kind"] == "Deployment" && object["spec"]["replicas"] != 0)
}

/// What runs if as many cloudcores as are wanted are ready, all of them as the Deployment is now; if not, why.
pub(crate) fn readiness(cluster: &Cluster, wanted: &Value) -> Result<Result<Running, String>> {
    let deployment = cluster.get(wanted)?.ok_or_else(|| anyhow!("{} is gone", shown(wanted)))?;
    let pods = pods(cluster)?;
    if is_rolled_out(&deployment) {
        return Ok(Ok(running(&pods)));
    }
    let why = pods.iter().find_map(reason).unwrap_or_else(|| "it has not started yet".to_owned());
    Ok(Err(format!("cloudcore is not ready: {why}")))
}

fn is_rolled_out(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let count = |key: &str| status[key].as_i64().unwrap_or_default();
    let n_wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let is_seen = count("observedGeneration") >= deployment["metadata"]["generation"].as_i64().unwrap_or(1);
    is_seen
        && count("updatedReplicas") >= n_wanted
        && count("availableReplicas") >= n_wanted
        // While there are more than are wanted, the available ones may be those of before.
        && count("replicas") <= n_wanted
}

/// Changes when a container ended between two looks. Pods that go are none of it.
fn running(pods: &[Value]) -> Running {
    let stays = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let mut all: Running = stays
        .map(|pod| {
            let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let n_restarts =
                containers.map(|container| container["restartCount"].as_i64().unwrap_or_default());
            (pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), n_restarts.collect())
        })
        .collect();
    all.sort();
    all
}

/// cloudcore's.
pub(crate) fn pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let like = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE}});
    cluster.list(&like, SELECTOR)
}

/// Of a Deployment, or a ReplicaSet of one: grows with every change of what its pods are to be.
pub(crate) fn revision(object: &Value) -> i64 {
    let text = object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Whether a pod is of a later revision than this. `sets`: the Deployment's ReplicaSets.
pub(crate) fn is_after(pod: &Value, sets: &[Value], revision_before: i64) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    sets.iter().filter(|set| revision(set) > revision_before).any(|set| {
        owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == set["metadata"]["uid"]))
    })
}

/// What keeps a pod from being ready, if anything is known.
pub(crate) fn reason(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let waits = containers.iter().find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let last = &container["lastState"]["terminated"];
        let ended = &container["state"]["terminated"];
        if let Some(code) = ended["exitCode"].as_i64() {
            let message = ended["message"].as_str().unwrap_or_default();
            return Some(format!("it ended with exit code {code} {message}").trim_end().to_owned());
        }
        let reason = waiting["reason"].as_str()?;
        let message = waiting["message"].as_str().or(last["message"].as_str()).unwrap_or_default();
        Some(format!("{reason} {message}").trim_end().to_owned())
    });
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str| {
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == kind && condition["status"] == "False")?;
        found["message"].as_str().filter(|message| !message.is_empty()).map(str::to_owned)
    };
    let why = condition("PodScheduled").or(waits).or_else(|| condition("Ready"))?;
    Some(format!("pod {name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_replicas_no_cloudcore_is_wanted() {
        let check = |said: Value, expected: bool| {
            let all = crate::apply::wanted(&said, Vec::new(), &|_| {}).unwrap();
            assert_eq!(is_wanted(&all), expected, "{said}");
        };
        check(Value::Null, true);
        check(json!({"cloudCore": {"replicaCount": 2}}), true);
        check(json!({"cloudCore": {"replicaCount": 0}}), false);
    }

    #[test]
    fn pods_of_before_are_known() {
        let set = |uid: &str, revision: &str| json!({"metadata": {"uid": uid, "annotations": {"deployment.kubernetes.io/revision": revision}}});
        let sets = [set("a", "9"), set("b", "10"), json!({"metadata": {"uid": "c"}})];
        let check = |owners: Value, revision_before: i64, expected: bool| {
            let pod = json!({"metadata": {"ownerReferences": owners}});
            assert_eq!(is_after(&pod, &sets, revision_before), expected, "{pod} {revision_before}");
        };
        check(json!([{"uid": "b"}]), 9, true);
        check(json!([{"uid": "a"}]), 9, false);
        check(json!([{"uid": "c"}]), 0, false);
        // The Deployment was never written.
        check(json!([{"uid": "b"}]), 10, false);
        check(json!([{"uid": "gone"}]), 0, false);
        check(Value::Null, 0, false);
    }

    #[test]
    fn a_rollout_is_over_when_only_the_new_ones_are_there() {
        // Seen generation; replicas, updated and available ones.
        let check = |seen: i64, [n, n_updated, n_available]: [i64; 3], expected: bool| {
            let deployment = json!({"metadata": {"generation": 4}, "spec": {"replicas": 2}, "status": {
                "observedGeneration": seen, "replicas": n, "updatedReplicas": n_updated, "availableReplicas": n_available}});
            assert_eq!(is_rolled_out(&deployment), expected, "{deployment}");
        };
        check(4, [2, 2, 2], true);
        check(3, [2, 2, 2], false);
        check(4, [2, 1, 2], false);
        check(4, [2, 2, 1], false);
        // Both of the new ones are there, but those that are available may be the old ones.
        check(4, [4, 2, 2], false);
        check(4, [3, 2, 2], false);
        let check = |deployment: Value, expected: bool| assert_eq!(is_rolled_out(&deployment), expected);
        check(
            json!({"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}),
            true,
        );
        check(json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}}), false);
    }

    #[test]
    fn a_container_that_was_started_again_is_another_one() {
        let pod = |uid: &str, n_restarts: i64| json!({"metadata": {"uid": uid}, "status": {"containerStatuses": [{"restartCount": n_restarts}]}});
        let mut going = pod("c", 0);
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let before = running(&[pod("a", 0), pod("b", 1)]);
        assert_eq!(running(&[pod("b", 1), going, pod("a", 0)]), before);
        assert_ne!(running(&[pod("a", 1), pod("b", 1)]), before);
        assert_ne!(running(&[pod("a", 0), pod("d", 1)]), before);
    }

    #[test]
    fn what_keeps_a_pod_is_told() {
        let check = |status: Value, expected: Option<&str>| {
            let pod = json!({"metadata": {"name": "cloudcore-1"}, "status": status});
            assert_eq!(reason(&pod).as_deref(), expected);
        };
        check(json!({}), None);
        check(
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}),
            Some("pod cloudcore-1: 0/3 nodes are available"),
        );
        check(
            json!({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
            Some("pod cloudcore-1: ImagePullBackOff no such image"),
        );
        check(
            json!({"containerStatuses": [{"state": {"terminated": {"exitCode": 2, "reason": "Error"}}}],
                "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status"}]}),
            Some("pod cloudcore-1: it ended with exit code 2"),
        );
        check(json!({"containerStatuses": [{"state": {"running": {}}}]}), None);
    }
}
