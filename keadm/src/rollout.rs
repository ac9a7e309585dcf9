//! Whether cloudcore runs in its cluster as it is wanted, and if not, why.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SELECTOR, shown};
use crate::objects::NAMESPACE;

/// Whether as many cloudcores as are wanted are ready, all of them as the Deployment is now; if not, why.
pub(crate) fn readiness(cluster: &Cluster, wanted: &Value) -> Result<Result<(), String>> {
    let deployment = cluster.get(wanted)?.ok_or_else(|| anyhow!("{} is gone", shown(wanted)))?;
    let status = &deployment["status"];
    let count = |key: &str| status[key].as_i64().unwrap_or_default();
    let n_wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    // While there are more than are wanted, the available ones may be those of before.
    let is_seen = count("observedGeneration") >= deployment["metadata"]["generation"].as_i64().unwrap_or(1);
    if is_seen
        && count("updatedReplicas") >= n_wanted
        && count("availableReplicas") >= n_wanted
        && count("replicas") <= n_wanted
    {
        return Ok(Ok(()));
    }
    let why = pods(cluster)?.iter().find_map(reason).unwrap_or_else(|| "it has not started yet".to_owned());
    Ok(Err(format!("cloudcore is not ready: {why}")))
}

/// cloudcore's.
pub(crate) fn pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let like = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE}});
    cluster.list(&like, SELECTOR)
}

/// What keeps a pod from being ready, if anything is known.
pub(crate) fn reason(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let waits = containers.iter().find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let last = &container["lastState"]["terminated"];
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
        check(json!({"containerStatuses": [{"state": {"running": {}}}]}), None);
    }
}
