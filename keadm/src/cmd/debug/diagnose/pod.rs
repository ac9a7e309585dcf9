//! Why a pod of this node does not run: by what the store holds of it, and what the container runtime runs.

use serde::Deserialize;
use serde_json::Value;

use super::Edgecore;
use super::get;
use crate::host::Host;
use crate::preflight::Finding;

/// What `edgecore containers --output json` says.
#[derive(Debug, Deserialize)]
struct Sandbox {
    namespace: String,
    name: String,
    is_ready: bool,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
    state: String,
    reason: String,
    #[serde(rename = "exitCode")]
    exit_code: i32,
}

pub(super) fn look(host: &dyn Host, namespace: &str, name: &str) -> Vec<Finding> {
    let held = Edgecore::find(host, None).and_then(|edgecore| {
        let held = get::pod(get::objects(&edgecore, None)?, namespace, name);
        let sandboxes = edgecore.json::<Vec<Sandbox>>(&["containers", "--output", "json"]);
        Ok((held, sandboxes))
    });
    match held {
        Ok((held, sandboxes)) => judge_pod(held.map(|held| held.body).as_ref(), sandboxes, namespace, name),
        Err(why) => vec![Finding::failed(
            "store",
            why,
            "see whether this machine is a node: keadm debug diagnose node",
        )],
    }
}

/// `pod`: as the store holds it, with the status last reported.
fn judge_pod(
    pod: Option<&Value>,
    sandboxes: Result<Vec<Sandbox>, String>,
    namespace: &str,
    name: &str,
) -> Vec<Finding> {
    let describe = format!("kubectl -n {namespace} describe pod {name}");
    let pod_name = name;
    let Some(pod) = pod else {
        let found = format!("this node was never told of pod {namespace}/{name}");
        let advice = format!(
            "see where it runs: kubectl -n {namespace} get pod {name} -o wide; and what is here: keadm debug get pod -A"
        );
        return vec![Finding::failed("store", found, advice)];
    };
    let mut findings = vec![Finding::ok("store", "the node holds the pod")];
    if let Some(since) = pod.pointer("/metadata/deletionTimestamp").and_then(Value::as_str) {
        let found = format!("the pod is being deleted since {since}");
        findings.push(Finding::warning("pod", found, "it goes when its containers have ended"));
    }
    let text = |value: &Value, path: &str| {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let phase = text(pod, "/status/phase");
    findings.push(match phase.as_str() {
        "Running" | "Succeeded" => Finding::ok("pod", format!("it is {phase}")),
        "" => Finding::failed(
            "pod",
            "it has no status yet",
            "see whether edgecore runs: keadm debug diagnose node",
        ),
        _ => {
            let why = [text(pod, "/status/reason"), text(pod, "/status/message")].join(" ");
            Finding::failed(
                "pod",
                format!("it is {phase} {}", why.trim()).trim().to_owned(),
                describe.clone(),
            )
        }
    });
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in pod.pointer(&format!("/status/{list}")).and_then(Value::as_array).into_iter().flatten()
        {
            findings.extend(judge_container(status, list == "initContainerStatuses", namespace, name));
        }
    }
    match sandboxes {
        Ok(sandboxes) => {
            let own: Vec<&Sandbox> =
                sandboxes.iter().filter(|own| own.namespace == namespace && own.name == name).collect();
            if !own.iter().any(|sandbox| sandbox.is_ready) && phase == "Running" {
                let found = "the runtime runs nothing of it, though it was last reported as Running";
                findings.push(Finding::failed(
                    "runtime",
                    found,
                    "see whether edgecore runs: keadm debug diagnose node",
                ));
            }
            for container in
                own.iter().filter(|sandbox| sandbox.is_ready).flat_map(|sandbox| &sandbox.containers)
            {
                let Container { name, state, reason, exit_code } = container;
                let has_ended = state == "exited";
                let how =
                    if has_ended { format!(" ({reason}, exit code {exit_code})") } else { String::new() };
                let found = format!("container {name} is {state}{how} in the runtime");
                findings.push(match has_ended && *exit_code != 0 {
                    true => {
                        let advice =
                            format!("see what it said: keadm ctl logs {pod_name} -n {namespace} -c {name}");
                        Finding::warning("runtime", found, advice)
                    }
                    false => Finding::ok("runtime", found),
                });
            }
        }
        Err(why) => {
            findings.push(Finding::failed("runtime", why, "look at the runtime: keadm debug check runtime"))
        }
    }
    findings
}

fn judge_container(status: &Value, is_init: bool, namespace: &str, pod: &str) -> Option<Finding> {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let name = text("/name");
    let waiting = text("/state/waiting/reason");
    if !waiting.is_empty() {
        let image = text("/image");
        let advice = match waiting {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!("see whether the registry is reached and the image's name is right: {image}")
            }
            "CrashLoopBackOff" => {
                format!("see what it says before it ends: keadm ctl logs {pod} -n {namespace} -c {name}")
            }
            "CreateContainerConfigError" => {
                "see which ConfigMap or Secret it misses: keadm debug get all -A".to_owned()
            }
            "ContainerCreating" | "PodInitializing" => {
                return Some(Finding::warning(
                    "container",
                    format!("{name} waits: {waiting}"),
                    "wait, then look again",
                ));
            }
            _ => format!("kubectl -n {namespace} describe pod {pod}"),
        };
        let found = format!("{name} waits: {waiting} {}", text("/state/waiting/message"));
        return Some(Finding::failed("container", found.trim().to_owned(), advice));
    }
    if status.pointer("/state/terminated").is_some() {
        let code = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64).unwrap_or_default();
        let found = format!("{name} has ended: {}, exit code {code}", text("/state/terminated/reason"));
        return Some(match code {
            0 => Finding::ok("container", found),
            _ => {
                Finding::failed("container", found, format!("keadm ctl logs {pod} -n {namespace} -c {name}"))
            }
        });
    }
    // An init container that runs has not ended; one that ran says so above.
    let is_ready = status.get("ready") == Some(&Value::Bool(true)) || is_init;
    Some(match is_ready {
        true => Finding::ok("container", format!("{name} runs")),
        false => Finding::failed(
            "container",
            format!("{name} runs, but is not ready"),
            format!("see why its probe fails: kubectl -n {namespace} describe pod {pod}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(Finding::line).collect()
    }

    #[test]
    fn a_pod_says_what_it_lacks() {
        let check = |pod: Option<Value>, expected: &[&str]| {
            let said = lines(&judge_pod(pod.as_ref(), Ok(Vec::new()), "default", "web"));
            assert_eq!(said.len(), expected.len(), "{said:?}");
            said.iter().zip(expected).for_each(|(line, expected)| assert!(line.contains(expected), "{line}"));
        };
        let status =
            |status: Value| Some(json!({"status": {"phase": "Pending", "containerStatuses": [status]}}));
        check(None, &["get pod web -o wide"]);
        check(Some(json!({})), &["ok: store", "no status yet"]);
        check(
            status(
                json!({"name": "a", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}}),
            ),
            &[
                "ok: store",
                "it is Pending",
                "a waits: ImagePullBackOff no such host: see whether the registry",
            ],
        );
        check(
            status(json!({"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}})),
            &["ok: store", "it is Pending", "keadm ctl logs web -n default -c a"],
        );
        check(
            status(json!({"name": "a", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}})),
            &["ok: store", "it is Pending", "a has ended: Error, exit code 3"],
        );
        check(
            Some(
                json!({"status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": false, "state": {"running": {}}}]}}),
            ),
            &["ok: store", "it is Running", "is not ready", "the runtime runs nothing of it"],
        );
    }

    #[test]
    fn a_container_that_failed_is_not_well() {
        let pod = json!({"status": {"phase": "Running"}});
        let check = |state: &str, exit_code: i32, expected: &str| {
            let container =
                Container { name: "app".into(), state: state.into(), reason: "Error".into(), exit_code };
            let (namespace, name) = ("default".to_owned(), "web".to_owned());
            let sandbox = Sandbox { namespace, name, is_ready: true, containers: vec![container] };
            let said = lines(&judge_pod(Some(&pod), Ok(vec![sandbox]), "default", "web"));
            assert!(said.last().unwrap().starts_with(expected), "{said:?}");
        };
        check("running", 0, "ok: runtime: container app is running in");
        check("exited", 0, "ok: runtime: container app is exited (Error, exit code 0)");
        check(
            "exited",
            137,
            "warning: runtime: container app is exited (Error, exit code 137) in the runtime: see what",
        );
    }
}
