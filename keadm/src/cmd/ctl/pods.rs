//! Pure: pods as rows of a table, with kubectl's words for how they are.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::Look;
use crate::age::age;

/// The head and a row for each.
pub(super) fn rows(pods: &[Pod], look: &Look) -> Vec<Vec<String>> {
    let mut head = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if look.is_wide {
        head.extend(["IP", "NODE"]);
    }
    if look.with_namespace {
        head.insert(0, "NAMESPACE");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(pods.iter().map(|pod| row(pod, look)));
    rows
}

fn row(pod: &Pod, look: &Look) -> Vec<String> {
    let meta = &pod.metadata;
    let state = state(pod);
    let mut row = vec![
        meta.name.clone().unwrap_or_default(),
        format!("{}/{}", state.n_ready, state.n_containers),
        state.word,
        match (state.n_restarts, state.restarted_at) {
            (1.., Some(at)) => format!("{} ({} ago)", state.n_restarts, age(Some(at), look.now)),
            (n_restarts, _) => n_restarts.to_string(),
        },
        age(meta.creation_timestamp.as_ref().map(|time| time.0), look.now),
    ];
    if look.is_wide {
        let none = || "<none>".to_owned();
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        row.push(address.filter(|ip| !ip.is_empty()).unwrap_or_else(none));
        row.push(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_else(none));
    }
    if look.with_namespace {
        row.insert(0, meta.namespace.clone().unwrap_or_default());
    }
    row
}

/// How a pod is, in one line.
pub(super) struct State {
    pub(super) word: String,
    n_ready: usize,
    n_containers: usize,
    n_restarts: i32,
    restarted_at: Option<Timestamp>,
}

/// kubectl's rules: the first init container that is not done says it, else the last container with something to say.
pub(super) fn state(pod: &Pod) -> State {
    let status = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let is_sidecar = |name: &str| {
        inits.iter().any(|init| init.name == name && init.restart_policy.as_deref() == Some("Always"))
    };
    let n_sidecars = inits.iter().filter(|init| is_sidecar(&init.name)).count();
    let mut state = State {
        word: status.reason.clone().or_else(|| status.phase.clone()).unwrap_or_else(|| "Pending".to_owned()),
        n_ready: 0,
        n_containers: spec.containers.len() + n_sidecars,
        n_restarts: 0,
        restarted_at: None,
    };
    let init_statuses = status.init_container_statuses.unwrap_or_default();
    let mut restarts = Restarts::default();
    let mut is_initializing = false;
    for (index, init) in init_statuses.iter().enumerate() {
        let is_sidecar = is_sidecar(&init.name);
        restarts.add(init, is_sidecar);
        let is_done = ended_with(init) == Some(0);
        if is_sidecar && init.started == Some(true) {
            state.n_ready += usize::from(init.ready);
            continue;
        }
        if is_done {
            continue;
        }
        let own = own_word(init).filter(|word| word != "PodInitializing");
        state.word = match own {
            Some(word) => format!("Init:{word}"),
            None => format!("Init:{index}/{}", inits.len()),
        };
        is_initializing = true;
        break;
    }
    (state.n_restarts, state.restarted_at) = restarts.all;
    let conditions = status.conditions.unwrap_or_default();
    let is_true = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    if !is_initializing || is_true("Initialized") {
        restarts.all = restarts.sidecars;
        let mut is_running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            restarts.add(container, false);
            if let Some(word) = own_word(container) {
                state.word = word;
            } else if container.ready && is_up(container) {
                is_running = true;
                state.n_ready += 1;
            }
        }
        (state.n_restarts, state.restarted_at) = restarts.all;
        if state.word == "Completed" && is_running {
            state.word = if is_true("Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if pod.metadata.deletion_timestamp.is_some() && !is_over {
        state.word = "Terminating".to_owned();
    }
    state
}

/// How often containers were started again, and when one ended last.
#[derive(Default)]
struct Restarts {
    all: (i32, Option<Timestamp>),
    sidecars: (i32, Option<Timestamp>),
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus, is_sidecar: bool) {
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended_at = last.and_then(|last| last.finished_at.as_ref()).map(|time| time.0);
        let add = |sum: &mut (i32, Option<Timestamp>)| {
            sum.0 = sum.0.saturating_add(container.restart_count);
            sum.1 = sum.1.max(ended_at);
        };
        add(&mut self.all);
        if is_sidecar {
            add(&mut self.sidecars);
        }
    }
}

fn is_up(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn ended_with(container: &ContainerStatus) -> Option<i32> {
    Some(container.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// Why a container does not run, in one word.
fn own_word(container: &ContainerStatus) -> Option<String> {
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let ContainerState { waiting, terminated, .. } = container.state.as_ref()?;
    if let Some(reason) = waiting.as_ref().and_then(|waiting| text(&waiting.reason)) {
        return Some(reason);
    }
    let ended = terminated.as_ref()?;
    Some(text(&ended.reason).unwrap_or_else(|| match ended.signal {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::table::table;

    fn container(name: &str, restarts: u32, state: Value) -> Value {
        let ready = state.get("running").is_some();
        json!({
            "name": name, "image": "", "imageID": "", "ready": ready, "started": ready,
            "restartCount": restarts, "state": state,
        })
    }

    #[test]
    fn words_and_numbers_are_kubectls() {
        let up = || json!({"running": {}});
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let check = |inits: Value, status: Value, expected: &str| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "web"},
                "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": inits},
                "status": status,
            }))
            .unwrap();
            let state = state(&pod);
            let got = format!("{}/{} {} {}", state.n_ready, state.n_containers, state.word, state.n_restarts);
            assert_eq!(got, expected, "{status}");
        };
        let mains = |a: Value, b: Value| json!({"phase": "Running", "containerStatuses": [a, b]});
        check(json!([]), json!({"phase": "Pending"}), "0/2 Pending 0");
        check(json!([]), Value::Null, "0/2 Pending 0");
        check(json!([]), json!({"phase": "Failed", "reason": "Evicted"}), "0/2 Evicted 0");
        check(json!([]), mains(container("a", 1, up()), container("b", 2, up())), "2/2 Running 3");
        let crash = container("b", 7, waits("CrashLoopBackOff"));
        check(json!([]), mains(container("a", 0, up()), crash), "1/2 CrashLoopBackOff 7");
        let done = || container("b", 0, ended(0, "Completed"));
        check(json!([]), mains(container("a", 0, up()), done()), "1/2 NotReady 0");
        let mut status = mains(container("a", 0, up()), done());
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        check(json!([]), status, "1/2 Running 0");
        check(json!([]), mains(container("a", 0, ended(3, "")), done()), "0/2 ExitCode:3 0");

        let inits = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
        let status = |i: Value, s: Value| json!({"phase": "Pending", "initContainerStatuses": [i, s]});
        let i = |state: Value| container("i", 4, state);
        check(inits.clone(), status(i(up()), container("s", 0, waits("PodInitializing"))), "0/3 Init:0/2 4");
        check(
            inits.clone(),
            status(i(ended(0, "Completed")), container("s", 0, waits("PodInitializing"))),
            "0/3 Init:1/2 4",
        );
        check(
            inits.clone(),
            status(i(ended(1, "Error")), container("s", 0, waits("PodInitializing"))),
            "0/3 Init:Error 4",
        );
        let mut all = status(i(ended(0, "Completed")), container("s", 2, up()));
        all["phase"] = json!("Running");
        all["containerStatuses"] = json!([container("a", 1, up()), container("b", 0, up())]);
        check(inits, all, "3/3 Running 3");
    }

    #[test]
    fn tables_of_pods() {
        let mut app = container("app", 1, json!({"running": {}}));
        app["lastState"] = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-31T11:55:00Z"}});
        let pods: Vec<Pod> = serde_json::from_value(json!([
            {
                "metadata": {"name": "web-0", "namespace": "shop", "creationTimestamp": "2026-01-29T10:00:00Z"},
                "spec": {"nodeName": "edge-1", "containers": [{"name": "app"}]},
                "status": {"phase": "Running", "podIP": "10.1.0.7", "containerStatuses": [app]},
            },
            {
                "metadata": {"name": "db", "namespace": "a", "deletionTimestamp": "2026-01-31T12:00:00Z"},
                "spec": {"containers": [{"name": "db"}]}, "status": {"phase": "Running"},
            },
        ]))
        .unwrap();
        let check = |is_wide: bool, with_namespace: bool, expected: &str| {
            let look = Look { is_wide, with_namespace, now: "2026-01-31T12:00:00Z".parse().unwrap() };
            assert_eq!(table(&rows(&pods, &look)), expected);
        };
        check(
            false,
            false,
            "NAME    READY   STATUS        RESTARTS     AGE\n\
             web-0   1/1     Running       1 (5m ago)   2d2h\n\
             db      0/1     Terminating   0            <unknown>\n",
        );
        check(
            true,
            true,
            "NAMESPACE   NAME    READY   STATUS        RESTARTS     AGE         IP         NODE\n\
             shop        web-0   1/1     Running       1 (5m ago)   2d2h        10.1.0.7   edge-1\n\
             a           db      0/1     Terminating   0            <unknown>   <none>     <none>\n",
        );
    }
}
