//! The status's words as rows: a Pod, what is observed, what `kubectl` would show.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::edged::observed::{ObservedSandbox, SandboxState, StartFailure, Volumes};

const NOW: i64 = 10_000;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).unwrap()
}

fn pod(spec: Value) -> Arc<Pod> {
    let mut body = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": "app", "image": "i"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        body["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(body).unwrap())
}

fn exited(code: i32, reason: &str) -> ContainerState {
    ContainerState::Exited(Exit {
        code,
        reason: reason.into(),
        message: String::new(),
        started_at: Some(at(NOW - 100)),
        finished_at: at(NOW - 5),
    })
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(NOW - 100) }
}

fn container(id: &str, state: ContainerState) -> ObservedContainer {
    let (name, attempt) = id.rsplit_once('-').unwrap();
    ObservedContainer {
        id: id.into(),
        name: name.into(),
        attempt: attempt.parse().unwrap(),
        sandbox: "s0".into(),
        state,
        hash: None,
        image: "registry/i:1".into(),
        image_id: "registry/i@sha256:1".into(),
        grace_secs: None,
        source: Source::Runtime,
    }
}

fn live(containers: Vec<ObservedContainer>) -> ObservedPod {
    let ips = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let sandbox =
        ObservedSandbox { id: "s0".into(), attempt: 0, state: SandboxState::Ready, created_at: 0, ips };
    ObservedPod { sandboxes: vec![sandbox], containers, volumes: Volumes::Ready, ..ObservedPod::default() }
}

fn facts() -> Facts {
    Facts { host_ips: vec!["192.0.2.1".parse().unwrap()], runtime_name: "containerd".into() }
}

fn status(pod: &Arc<Pod>, ending: Ending, observed: &ObservedPod) -> PodStatus {
    pod_status(pod, ending, observed, &PodStatus::default(), &facts(), at(NOW))
}

/// Phase, the four conditions, then each container: what a person sees first.
fn short(status: &PodStatus) -> String {
    let mut words = vec![status.phase.clone().unwrap()];
    for type_ in &OURS[..4] {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == *type_).unwrap();
        words.push(condition.reason.clone().unwrap_or(condition.status.clone()));
    }
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in all {
        let state = container.state.as_ref().unwrap();
        let mut word = match (&state.waiting, &state.running, &state.terminated) {
            (Some(waiting), None, None) => waiting.reason.clone().unwrap(),
            (None, Some(_), None) => "running".into(),
            (None, None, Some(ended)) => format!("{}({})", ended.reason.clone().unwrap(), ended.exit_code),
            _ => panic!("one state only"),
        };
        if let Some(last) = container.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
            word += &format!("<{}", last.reason.clone().unwrap());
        }
        if container.restart_count > 0 {
            word += &format!("x{}", container.restart_count);
        }
        words.push(format!("{}={word}", container.name));
    }
    words.join(" ")
}

#[track_caller]
fn check(spec: Value, observed: &ObservedPod, expected: &str) {
    assert_eq!(short(&status(&pod(spec), Ending::No, observed)), expected);
}

#[test]
fn a_pod_on_its_way_up() {
    let nothing = ObservedPod::default();
    check(
        json!({}),
        &nothing,
        "Pending False True ContainersNotReady ContainersNotReady app=ContainerCreating",
    );
    check(
        json!({}),
        &live(vec![]),
        "Pending True True ContainersNotReady ContainersNotReady app=ContainerCreating",
    );
    check(json!({}), &live(vec![container("app-0", running())]), "Running True True True True app=running");
    let created = live(vec![container("app-0", ContainerState::Created)]);
    check(
        json!({}),
        &created,
        "Pending True True ContainersNotReady ContainersNotReady app=ContainerCreating",
    );
}

#[test]
fn init_containers() {
    let spec = || json!({"initContainers": [{"name": "init", "image": "i"}]});
    let unready = "ContainersNotInitialized ContainersNotReady ContainersNotReady";
    let check = |containers, expected: String| check(spec(), &live(containers), &expected);
    check(vec![], format!("Pending True {unready} init=PodInitializing app=PodInitializing"));
    check(
        vec![container("init-0", running())],
        format!("Pending True {unready} init=running app=PodInitializing"),
    );
    check(
        vec![container("init-0", exited(1, ""))],
        format!("Pending True {unready} init=Error(1) app=PodInitializing"),
    );
    check(
        vec![container("init-0", exited(0, "")), container("app-0", running())],
        "Running True True True True init=Completed(0) app=running".into(),
    );
    let mut never = spec();
    never["restartPolicy"] = json!("Never");
    super::tests::check(
        never,
        &live(vec![container("init-0", exited(1, ""))]),
        "Failed True ContainersNotInitialized PodFailed PodFailed init=Error(1) app=PodInitializing",
    );
}

#[test]
fn a_sidecar_counts_for_readiness() {
    let spec = || json!({"initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}]});
    check(
        spec(),
        &live(vec![container("side-0", running()), container("app-0", running())]),
        "Running True True True True side=running app=running",
    );
    check(
        spec(),
        &live(vec![container("side-0", exited(1, "")), container("app-0", running())]),
        "Running True True ContainersNotReady ContainersNotReady side=Error(1) app=running",
    );
}

#[test]
fn endings() {
    let dead = |code, reason: &str| live(vec![container("app-0", exited(code, reason))]);
    let check = |policy: &str, observed: &ObservedPod, expected: &str| {
        super::tests::check(json!({"restartPolicy": policy}), observed, expected);
    };
    let unready = "ContainersNotReady ContainersNotReady";
    check("Never", &dead(0, ""), "Succeeded True PodCompleted PodCompleted PodCompleted app=Completed(0)");
    check("Never", &dead(1, "Error"), "Failed True True PodFailed PodFailed app=Error(1)");
    check(
        "OnFailure",
        &dead(0, ""),
        "Succeeded True PodCompleted PodCompleted PodCompleted app=Completed(0)",
    );
    check("OnFailure", &dead(1, ""), &format!("Running True True {unready} app=Error(1)"));
    check("Always", &dead(137, "OOMKilled"), &format!("Running True True {unready} app=OOMKilled(137)"));
    let back = live(vec![container("app-0", exited(137, "OOMKilled")), container("app-1", running())]);
    check("Always", &back, "Running True True True True app=running<OOMKilledx1");
}

#[test]
fn crash_loops_and_failures() {
    let mut seen = live(vec![container("app-1", exited(1, ""))]);
    seen.backoffs.restarted("app", "i:1", at(NOW - 60), at(NOW - 60));
    let unready = "ContainersNotReady ContainersNotReady";
    check(json!({}), &seen, &format!("Running True True {unready} app=CrashLoopBackOff<Errorx1"));
    let web = pod(json!({}));
    let shown = status(&web, Ending::No, &seen);
    let message = shown.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().message;
    assert_eq!(message.unwrap(), "back-off 10s restarting failed container=app pod=web_default(u)");
    for reason in [
        FailureReason::ErrImagePull,
        FailureReason::ImagePullBackOff,
        FailureReason::ErrImageNeverPull,
        FailureReason::InvalidImageName,
        FailureReason::CreateContainerConfigError,
        FailureReason::CreateContainerError,
        FailureReason::RunContainerError,
    ] {
        let mut seen = live(vec![]);
        let failure = StartFailure { reason, message: "why".into(), retry_at: at(NOW), times: 1 };
        seen.failures.insert("app".into(), failure);
        check(json!({}), &seen, &format!("Pending True True {unready} app={}", reason.word()));
    }
}

#[test]
fn a_deleted_pod_ends_in_a_terminal_phase() {
    let check = |containers, expected: &str| {
        assert_eq!(short(&status(&pod(json!({})), Ending::Deleted, &live(containers))), expected);
    };
    check(vec![container("app-0", running())], "Running True True True True app=running");
    check(
        vec![container("app-0", exited(0, ""))],
        "Succeeded True PodCompleted PodCompleted PodCompleted app=Completed(0)",
    );
    check(vec![container("app-0", exited(137, ""))], "Failed True True PodFailed PodFailed app=Error(137)");
    // A Job waits for the end of each of its pods, also of one that never had a container.
    check(vec![], "Failed True True PodFailed PodFailed app=ContainerStatusUnknown(137)");
    let spec = json!({"initContainers": [{"name": "init", "image": "i"}]});
    let ended = status(&pod(spec), Ending::Deleted, &live(vec![]));
    assert_eq!(ended.phase.as_deref(), Some("Failed"));
}

/// Their file goes with the Pod's volumes; a process that starts later has them from what was told.
#[test]
fn termination_messages_stay() {
    let with_words = |words: &str| {
        let ContainerState::Exited(exit) = exited(0, "") else { panic!("not exited") };
        live(vec![container("app-0", ContainerState::Exited(Exit { message: words.into(), ..exit }))])
    };
    let once = pod(json!({"restartPolicy": "Never"}));
    let message = |status: &PodStatus| {
        let app = &status.container_statuses.as_ref().unwrap()[0];
        app.state.as_ref().unwrap().terminated.as_ref().unwrap().message.clone()
    };
    let told = status(&once, Ending::No, &with_words("done"));
    assert_eq!(message(&told).as_deref(), Some("done"));
    let later = pod_status(&once, Ending::No, &with_words(""), &told, &facts(), at(NOW));
    assert_eq!(message(&later).as_deref(), Some("done"));
}

#[test]
fn fields_that_kubectl_prints() {
    let shown = status(&pod(json!({})), Ending::No, &live(vec![container("app-2", running())]));
    let value = serde_json::to_value(&shown).unwrap();
    assert_eq!(value["podIP"], "10.0.0.7");
    assert_eq!(value["podIPs"], json!([{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]));
    assert_eq!(value["hostIP"], "192.0.2.1");
    assert_eq!(value["hostIPs"], json!([{"ip": "192.0.2.1"}]));
    assert_eq!(value["startTime"], "1970-01-01T02:46:40Z");
    assert_eq!(value["qosClass"], "BestEffort");
    let app = &value["containerStatuses"][0];
    assert_eq!(app["containerID"], "containerd://app-2");
    assert_eq!(app["imageID"], "registry/i@sha256:1");
    assert_eq!(app["image"], "registry/i:1");
    assert_eq!(app["restartCount"], 2);
    assert_eq!(app["started"], true);
    assert_eq!(app["state"]["running"]["startedAt"], "1970-01-01T02:45:00Z");
    let host = status(&pod(json!({"hostNetwork": true})), Ending::No, &live(vec![]));
    assert_eq!(host.pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn times_and_foreign_words_are_kept() {
    let web = pod(json!({"readinessGates": [{"conditionType": "example.org/up"}]}));
    let seen = live(vec![container("app-0", running())]);
    let first = status(&web, Ending::No, &seen);
    assert_eq!(
        first.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Ready").unwrap().reason.as_deref(),
        Some("ReadinessGatesNotReady")
    );
    // The same observation later is the same status.
    let again = pod_status(&web, Ending::No, &seen, &first, &facts(), at(NOW + 99));
    assert_eq!(again, first);
    let mut previous = first.clone();
    previous.nominated_node_name = Some("n".into());
    let gate =
        PodCondition { type_: "example.org/up".into(), status: "True".into(), ..PodCondition::default() };
    previous.conditions.as_mut().unwrap().push(gate.clone());
    let open = pod_status(&web, Ending::No, &seen, &previous, &facts(), at(NOW + 99));
    let conditions = open.conditions.as_ref().unwrap();
    let of = |type_: &str| conditions.iter().find(|c| c.type_ == type_).unwrap();
    assert_eq!(of("Ready").status, "True");
    assert_eq!(of("Ready").last_transition_time, Some(Time(at(NOW + 99))));
    assert_eq!(of("ContainersReady").last_transition_time, Some(Time(at(NOW))));
    assert_eq!(*of("example.org/up"), gate);
    assert_eq!(open.nominated_node_name.as_deref(), Some("n"));
    assert_eq!(open.start_time, Some(Time(at(NOW))));
    // It survives the way over the wire.
    let back: PodStatus = serde_json::from_slice(&serde_json::to_vec(&open).unwrap()).unwrap();
    assert_eq!(back, open);
}

#[test]
fn probes_say_who_has_started_and_is_ready() {
    use crate::edged::verdict::Verdict as Probed;
    let check = |started, ready, expected: &str| {
        let mut seen = live(vec![container("app-0", running())]);
        seen.probes.insert("app-0".into(), Probed { started, ready, failed: None });
        let status = status(&pod(json!({})), Ending::No, &seen);
        let app = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!((app.started, app.ready), (Some(started), ready));
        assert_eq!(short(&status), expected);
    };
    let unready = "Running True True ContainersNotReady ContainersNotReady app=running";
    check(false, false, unready);
    check(true, false, unready);
    check(true, true, "Running True True True True app=running");
}

#[test]
fn a_sidecar_counts_as_done_once_it_has_started() {
    use crate::edged::verdict::Verdict as Probed;
    let spec = json!({"initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}]});
    let check = |started, expected: &str| {
        let mut seen = live(vec![container("side-0", running())]);
        seen.probes.insert("side-0".into(), Probed { started, ready: false, failed: None });
        assert_eq!(short(&status(&pod(spec.clone()), Ending::No, &seen)), expected);
    };
    let unready = "ContainersNotReady ContainersNotReady side=running";
    check(false, &format!("Pending True ContainersNotInitialized {unready} app=PodInitializing"));
    check(true, &format!("Pending True True {unready} app=ContainerCreating"));
}

#[test]
fn every_closed_gate_is_named() {
    let gates = json!({"readinessGates": [{"conditionType": "a/up"}, {"conditionType": "b/up"}, {"conditionType": "c/up"}]});
    let condition = |type_: &str, status: &str| PodCondition {
        type_: type_.into(),
        status: status.into(),
        ..PodCondition::default()
    };
    let conditions = vec![condition("a/up", "True"), condition("b/up", "Unknown")];
    let previous = PodStatus { conditions: Some(conditions), ..PodStatus::default() };
    let seen = live(vec![container("app-0", running())]);
    let status = pod_status(&pod(gates), Ending::No, &seen, &previous, &facts(), at(NOW));
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    let message = "the status of pod readiness gate \"b/up\" is not \"True\", but Unknown, \
                   corresponding condition of pod readiness gate \"c/up\" does not exist.";
    assert_eq!(ready.message.as_deref(), Some(message));
}

#[test]
fn ephemeral_containers_stand_apart() {
    let spec = json!({"ephemeralContainers": [{"name": "debug", "image": "i"}]});
    let of = |seen: &ObservedPod| {
        let status = status(&pod(spec.clone()), Ending::No, seen);
        let debug = status.ephemeral_container_statuses.clone().unwrap().remove(0);
        (short(&status), debug.state.unwrap(), debug.ready)
    };
    let up = "Running True True True True app=running";
    let (word, state, ready) = of(&live(vec![container("app-0", running())]));
    assert_eq!(
        (word.as_str(), state.waiting.unwrap().reason.as_deref(), ready),
        (up, Some("ContainerCreating"), false)
    );
    let both = vec![container("app-0", running()), container("debug-0", running())];
    let (word, state, ready) = of(&live(both));
    assert_eq!((word.as_str(), state.running.is_some(), ready), (up, true, false));
    let ended = vec![container("app-0", running()), container("debug-0", exited(3, "Error"))];
    let (word, state, _) = of(&live(ended));
    assert_eq!((word.as_str(), state.terminated.unwrap().exit_code), (up, 3));
}

#[test]
fn messages_share_twelve_kibibytes() {
    let talker = |id: &str| {
        let ContainerState::Exited(exit) = exited(1, "Error") else { unreachable!() };
        container(id, ContainerState::Exited(Exit { message: "\u{e4}".repeat(2048), ..exit }))
    };
    let names = ["a", "b", "c", "d"];
    let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    let web = pod(json!({"restartPolicy": "Never", "containers": list}));
    let seen = live(names.iter().map(|name| talker(&format!("{name}-0"))).collect());
    let status = status(&web, Ending::No, &seen);
    let lengths: Vec<usize> = status
        .container_statuses
        .iter()
        .flatten()
        .map(|one| one.state.as_ref().unwrap().terminated.as_ref().unwrap().message.as_ref().unwrap().len())
        .collect();
    assert_eq!(lengths, [3072; 4]);
}
