//! Pods of this machine as they are now, their logs, and what is done to their containers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use ke_api::selector::Selector;
use ke_cri::v1;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Sources;
use super::refused::Refused;
use crate::edged::logs::{Endings, Log, LogOptions, log_file};
use crate::edged::{
    CONTAINER_NAME, Desired, DesiredPod, RestartPolicy, RuntimeError, inits, restart_policy, runs_for,
};
use crate::report_queue::{last_pod_statuses, unsent_events, with_status};
use crate::static_pods::as_run;

/// Which container `kubectl` means when nobody says.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// How long a command may take when nobody says, and at most. Seconds.
const EXEC_SECS: u64 = 60;
const MAX_EXEC_SECS: u64 = 3600;

/// The body of an exec.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exec {
    container: Option<String>,
    command: Vec<String>,
    timeout_seconds: Option<u64>,
}

impl Sources {
    pub(super) async fn pods(
        &self,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Result<Vec<Arc<Pod>>, Refused> {
        let held = self.meta.pods().await.map_err(|error| Refused::broken(&error))?;
        let statuses = last_pod_statuses(&self.db).await.map_err(|error| Refused::broken(&error))?;
        let meant = held.into_iter().filter(|pod| {
            let is_there = namespace.is_none() || pod.metadata.namespace.as_deref() == namespace;
            is_there && selector.matches(pod.metadata.labels.as_ref())
        });
        let static_pods = self.static_pods.borrow().clone().unwrap_or_default();
        Ok(meant.map(|pod| as_run(with_status(pod, &statuses), &static_pods)).collect())
    }

    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refused> {
        let pods = self.pods(Some(namespace), &Selector::default()).await?;
        let found = pods.into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
        found.ok_or_else(|| {
            Refused::not_found(format!("this node has no pod {name} in namespace {namespace}"))
        })
    }

    /// What the cloud does not have yet; what it has is not kept here.
    pub(super) async fn events(&self, namespace: &str) -> Result<Vec<Value>, Refused> {
        let events = unsent_events(&self.db).await.map_err(|error| Refused::broken(&error))?;
        let events = events.iter().filter_map(|body| serde_json::from_slice::<Value>(body).ok());
        let is_there =
            |event: &Value| event.pointer("/metadata/namespace").and_then(Value::as_str) == Some(namespace);
        Ok(events.filter(is_there).collect())
    }

    pub(super) async fn log(
        &self,
        namespace: &str,
        name: &str,
        options: &LogOptions,
    ) -> Result<Log, Refused> {
        let pod = self.pod(namespace, name).await?;
        let container = container(&pod, options.container.as_deref())?;
        let file = log_file(&self.pod_logs_root, &pod, &container.name, options.previous);
        let file = file.map_err(Refused::bad)?;
        Log::open(file, options, Endings::new(Arc::clone(&self.runtime))).await.map_err(|error| {
            match error.kind() {
                ErrorKind::NotFound => Refused::not_found(format!(
                    "container {} of pod {name} has no log here: it was removed, or not written yet",
                    container.name
                )),
                _ => Refused::broken(&format!("read the log of container {}: {error}", container.name)),
            }
        })
    }

    /// Ends what runs of the pod and says for each container what follows. Edged sees them end as if they had crashed.
    pub(super) async fn restart(&self, namespace: &str, name: &str) -> Result<Value, Refused> {
        let pod = self.pod(namespace, name).await?;
        if pod.metadata.deletion_timestamp.is_some() {
            return Err(Refused::conflict(format!("pod {name} is being deleted: it is not restarted")));
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let running = self.running(&pod).await?;
        if running.is_empty() {
            return Err(Refused::conflict(format!(
                "no container of pod {name} runs: there is nothing to restart (keadm ctl describe pod {name} -n {namespace} says why)"
            )));
        }
        tracing::info!(namespace, pod = name, "a restart was asked for over the control socket");
        let desired = DesiredPod { want: Desired::Run(Arc::clone(&pod)), hashes: BTreeMap::new() };
        let grace = desired.grace_secs().and_then(|secs| u64::try_from(secs).ok()).unwrap_or_default();
        let ending = running.values().map(|id| self.runtime.stop_container(id, Duration::from_secs(grace)));
        let ended = join_all(ending).await.into_iter().collect::<Result<Vec<()>, _>>();
        ended.map_err(|error| refused(&error))?;
        let told: Vec<Value> =
            running.keys().map(|name| json!({"name": name, "then": then(&spec, name)})).collect();
        Ok(json!({"containers": told}))
    }

    pub(super) async fn exec(&self, namespace: &str, name: &str, body: &[u8]) -> Result<Value, Refused> {
        let exec: Exec = serde_json::from_slice(body)
            .map_err(|error| Refused::bad(format!("the request is no {{\"command\": [..]}}: {error}")))?;
        if exec.command.is_empty() {
            return Err(Refused::bad("the command is empty: keadm ctl exec POD -- COMMAND".into()));
        }
        let seconds = exec.timeout_seconds.unwrap_or(EXEC_SECS);
        if !(1..=MAX_EXEC_SECS).contains(&seconds) {
            let why = format!("timeoutSeconds: found {seconds}, expected 1 to {MAX_EXEC_SECS}");
            return Err(Refused::bad(why));
        }
        let pod = self.pod(namespace, name).await?;
        let container = &container(&pod, exec.container.as_deref())?.name;
        let running = self.running(&pod).await?;
        let Some(id) = running.get(container) else {
            return Err(Refused::conflict(format!("container {container} of pod {name} does not run now")));
        };
        tracing::info!(namespace, pod = name, container, "a command is run over the control socket");
        match self.runtime.exec_sync(id, &exec.command, Duration::from_secs(seconds)).await {
            Ok(done) => Ok(json!({
                "exitCode": done.exit_code,
                "stdout": BASE64_STANDARD.encode(&done.stdout),
                "stderr": BASE64_STANDARD.encode(&done.stderr),
            })),
            Err(RuntimeError::Timeout { .. }) => Err(Refused::late(format!(
                "the command did not end within {seconds} s and was ended; --timeout-secs gives it up to {MAX_EXEC_SECS}"
            ))),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Ids of the pod's containers that run, by name, as the runtime says now.
    async fn running(&self, pod: &Pod) -> Result<BTreeMap<String, String>, Refused> {
        let listed = self.runtime.list_containers().await.map_err(|error| refused(&error))?;
        let ours = listed.into_iter().filter(|container| {
            container.state() == v1::ContainerState::ContainerRunning && runs_for(&container.labels, pod)
        });
        let named =
            ours.filter_map(|mut container| Some((container.labels.remove(CONTAINER_NAME)?, container.id)));
        Ok(named.collect())
    }
}

/// The container that is meant: by name, the annotated one, the only one.
fn container<'a>(pod: &'a Pod, wanted: Option<&str>) -> Result<&'a Container, Refused> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref().ok_or_else(|| Refused::broken(&"the pod has no spec"))?;
    let all = || spec.containers.iter().chain(inits(spec));
    let names = || all().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
    let annotated = || pod.metadata.annotations.as_ref()?.get(DEFAULT_CONTAINER).map(String::as_str);
    match (wanted.or_else(annotated), spec.containers.as_slice()) {
        (Some(wanted), _) => all()
            .find(|container| container.name == wanted)
            .ok_or_else(|| Refused::bad(format!("pod {name} has no container {wanted}; it has {}", names()))),
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(Refused::bad(format!("pod {name} has several containers; choose one with -c: {}", names())))
        }
    }
}

/// What edged does once this container has ended.
fn then(spec: &PodSpec, name: &str) -> &'static str {
    let mut all = spec.containers.iter().chain(inits(spec));
    match all.find(|container| container.name == name).map(|container| restart_policy(spec, container)) {
        Some(RestartPolicy::Always) => "it is started again",
        Some(RestartPolicy::OnFailure) => {
            "it is started again unless its exit code was 0, since its restart policy is OnFailure"
        }
        Some(RestartPolicy::Never) => "it stays ended, since its restart policy is Never",
        None => "it stays ended, since the pod does not have it any more",
    }
}

fn refused(error: &RuntimeError) -> Refused {
    match error {
        RuntimeError::NotFound(_) => Refused::conflict("the container is gone meanwhile; ask again".into()),
        RuntimeError::Refused { .. } => Refused::broken(error),
        error => Refused::unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_that_is_meant() {
        let check = |pod: Value, wanted: Option<&str>, expected: Result<&str, &str>| {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            match (container(&pod, wanted), expected) {
                (Ok(found), Ok(name)) => assert_eq!(found.name, name),
                (Err(refused), Err(text)) => {
                    let told = refused.status().to_string();
                    assert!(told.contains(text), "{told}");
                }
                (got, _) => panic!("{got:?} instead of {expected:?}"),
            }
        };
        let one = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        check(one.clone(), None, Ok("a"));
        check(one.clone(), Some("i"), Ok("i"));
        check(one, Some("x"), Err("pod web has no container x; it has a, i"));
        let mut two =
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        check(two.clone(), None, Err("choose one with -c: a, b"));
        two["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        check(two.clone(), None, Ok("b"));
        check(two, Some("a"), Ok("a"));
    }

    #[test]
    fn what_follows_an_end() {
        let check = |spec: Value, expected: &str| {
            let told = then(&serde_json::from_value(spec.clone()).unwrap(), "a");
            assert!(told.contains(expected), "{spec}: {told}");
        };
        check(json!({"containers": [{"name": "a"}]}), "started again");
        check(
            json!({"containers": [{"name": "a"}], "restartPolicy": "OnFailure"}),
            "unless its exit code was 0",
        );
        check(
            json!({"containers": [{"name": "a"}], "restartPolicy": "Never"}),
            "stays ended, since its restart policy",
        );
        check(json!({"containers": []}), "does not have it any more");
    }
}
