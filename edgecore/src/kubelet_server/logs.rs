//! A container's log over HTTP: the engine is `edged/logs/`; here are the kubelet's statuses and its words for why there is none.

use std::io::ErrorKind;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::Sources;
use super::answer::{Answer, Refused, stream};
use super::containers::containers;
use super::route::ContainerPath;
use crate::edged::logs::{Log, LogOptions, log_file};

impl Sources {
    pub(super) async fn log(
        &self,
        path: ContainerPath<'_>,
        query: &[(String, String)],
    ) -> Result<Answer, Refused> {
        let options = LogOptions::parse(query, Timestamp::now()).map_err(Refused::bad)?;
        let (name, container) = (path.pod.name, path.container);
        let pod = self.pod(path.pod).await.map_err(|refused| match refused.status.as_u16() {
            404 => Refused::not_found(format!("pod {name:?} does not exist")),
            _ => refused,
        })?;
        if !containers(&pod).contains_key(container) {
            return Err(Refused::not_found(format!("container {container:?} not found in pod {name:?}")));
        }
        let file = log_file(&self.pod_logs_root, &pod, container, options.previous)
            .map_err(|_| Refused::bad(why_none(&pod, name, container, options.previous)))?;
        let id = file.container_id.clone();
        let log = Log::open(file, &options, self.endings.clone()).await;
        let log = log.map_err(|error| match error.kind() {
            // Removed with its pod, rotated away, or not written yet.
            ErrorKind::NotFound => {
                Refused::bad(format!("unable to retrieve container logs for container {id}"))
            }
            _ => Refused::broken(&format!("read the log of container {container}: {error}")),
        })?;
        Ok(stream(log.into_stream()))
    }
}

/// The kubelet's sentence for a container whose status tells of no start that has a log. Programs look for these words.
fn why_none(pod: &Pod, name: &str, container: &str, previous: bool) -> String {
    let of = format!("container {container:?} in pod {name:?}");
    let Some(status) = status(pod, container) else { return format!("{of} is not available") };
    if previous {
        return format!("previous terminated {of} not found");
    }
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.terminated.is_some()) {
        return format!("{of} is terminated");
    }
    match state.and_then(|state| state.waiting.as_ref()) {
        Some(waiting) => match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => format!("{of} is waiting to start: image can't be pulled"),
            "ImagePullBackOff" => format!("{of} is waiting to start: trying and failing to pull image"),
            reason => format!("{of} is waiting to start: {reason}"),
        },
        None => format!("{of} is waiting to start - no logs yet"),
    }
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_kubelets_words() {
        let check = |state: Value, previous: bool, expected: &str| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": "web"},
                "status": {"containerStatuses": [{
                    "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": state, "lastState": {},
                }]},
            }))
            .unwrap();
            assert_eq!(why_none(&pod, "web", "app", previous), expected);
        };
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let of = "container \"app\" in pod \"web\"";
        let check = |state: Value, previous: bool, before: &str, after: &str| {
            check(state, previous, &format!("{before}{of}{after}"));
        };
        check(waiting("ContainerCreating"), false, "", " is waiting to start: ContainerCreating");
        check(waiting("ErrImagePull"), false, "", " is waiting to start: image can't be pulled");
        check(
            waiting("ImagePullBackOff"),
            false,
            "",
            " is waiting to start: trying and failing to pull image",
        );
        check(json!({}), false, "", " is waiting to start - no logs yet");
        check(json!({"terminated": {"exitCode": 1}}), false, "", " is terminated");
        check(json!({"running": {}}), true, "previous terminated ", " not found");
        let unknown: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}})).unwrap();
        assert_eq!(why_none(&unknown, "web", "app", false), format!("{of} is not available"));
    }
}
