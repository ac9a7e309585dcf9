//! Every rule of the plan as a row: a Pod, what is observed, what is to be done.

mod life;

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::edged::backoff::Backoffs;
use crate::edged::observed::{Exit, ObservedSandbox, Resizes};

const NOW: i64 = 10_000;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).unwrap()
}

/// A Pod with these containers; the JSON is merged into its spec.
fn pod(mains: &[&str], spec: serde_json::Value) -> Arc<Pod> {
    let mut body = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"containers": mains.iter().map(|name| json!({"name": name, "image": "i"})).collect::<Vec<_>>()},
    });
    for (key, value) in spec.as_object().unwrap() {
        body["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(body).unwrap())
}

fn want(want: Desired) -> DesiredPod {
    let hashes = ["app", "side", "init", "init2"].map(|name| (name.to_owned(), format!("hash-{name}")));
    DesiredPod { want, hashes: hashes.into() }
}

fn sandbox(id: &str, attempt: u32, state: SandboxState) -> ObservedSandbox {
    ObservedSandbox { id: id.into(), attempt, state, created_at: i64::from(attempt), ips: Vec::new() }
}

fn running() -> ContainerState {
    ContainerState::Running { started_at: at(NOW - 100) }
}

fn exited(code: i32) -> ContainerState {
    let (started_at, finished_at) = (Some(at(NOW - 100)), at(NOW - 5));
    ContainerState::Exited(Exit {
        code,
        reason: String::new(),
        message: String::new(),
        started_at,
        finished_at,
    })
}

/// A container named after its id: `app-2` is attempt 2 of `app`.
fn container(id: &str, sandbox: &str, state: ContainerState) -> ObservedContainer {
    let (name, attempt) = id.rsplit_once('-').unwrap();
    ObservedContainer {
        id: id.into(),
        name: name.into(),
        attempt: attempt.parse().unwrap(),
        sandbox: sandbox.into(),
        state,
        hash: Some(format!("hash-{name}")),
        image: String::new(),
        image_id: String::new(),
        grace_secs: None,
        source: Source::Runtime,
    }
}

fn observed(sandboxes: Vec<ObservedSandbox>, containers: Vec<ObservedContainer>) -> ObservedPod {
    ObservedPod { sandboxes, containers, volumes: Volumes::Ready, ..ObservedPod::default() }
}

fn live(containers: Vec<ObservedContainer>) -> ObservedPod {
    observed(vec![sandbox("s0", 0, SandboxState::Ready)], containers)
}

/// An action as one short line.
fn line(action: &Action) -> String {
    match action {
        Action::PrepareVolumes => "volumes".into(),
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop-sandbox {id}"),
        Action::RemoveSandbox { id } => format!("rm-sandbox {id}"),
        Action::StartContainer { name, sandbox, attempt, .. } => {
            format!("start {name}-{attempt} in {sandbox}")
        }
        Action::Resize => "resize".into(),
        Action::StopContainers(stops) => {
            let stops: Vec<_> = stops
                .iter()
                .map(|s| {
                    let hook = if s.hook { " hook" } else { "" };
                    let turn = if s.turn > 0 { format!(" turn {}", s.turn) } else { String::new() };
                    format!("{} {}s{hook}{turn} {:?}", s.id, s.grace_secs, s.reason)
                })
                .collect();
            format!("stop {}", stops.join(" + "))
        }
        Action::RemoveContainer { id } => format!("rm {id}"),
        Action::TearDownVolumes => "no-volumes".into(),
        Action::RemoveCgroup => "no-cgroup".into(),
        Action::ReportGone => "gone".into(),
        Action::Forget => "forget".into(),
        Action::Wait { until } => format!("wait {}", until.as_second() - NOW),
    }
}

#[track_caller]
fn check(desired: Desired, observed: &ObservedPod, expected: &[&str]) {
    let actions: Vec<String> = plan(&want(desired), observed, at(NOW)).iter().map(line).collect();
    assert_eq!(actions, expected);
}

#[track_caller]
fn check_run(pod: &Arc<Pod>, observed: &ObservedPod, expected: &[&str]) {
    check(Desired::Run(pod.clone()), observed, expected);
}

#[test]
fn a_new_pod_gets_volumes_sandbox_then_containers() {
    let web = pod(&["app", "side"], json!({}));
    check_run(&web, &ObservedPod::default(), &["volumes", "sandbox 0"]);
    check_run(&web, &live(vec![]), &["start app-0 in s0", "start side-0 in s0"]);
    check_run(&web, &live(vec![container("app-0", "s0", running())]), &["start side-0 in s0"]);
    check_run(
        &web,
        &live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]),
        &[],
    );
}

#[test]
fn a_fresh_process_adopts_what_runs() {
    let web = pod(&["app"], json!({}));
    let mut seen = live(vec![container("app-3", "s0", running())]);
    seen.volumes = Volumes::Unknown;
    check_run(&web, &seen, &["volumes"]);
    // Made by another version or another kubelet: it carries no hash of ours.
    seen.volumes = Volumes::Ready;
    seen.containers[0].hash = None;
    check_run(&web, &seen, &[]);
    // Killed between create and start.
    check_run(
        &web,
        &live(vec![container("app-0", "s0", ContainerState::Created)]),
        &["rm app-0", "start app-0 in s0"],
    );
}

#[test]
fn two_living_sandboxes_keep_the_one_in_use() {
    let web = pod(&["app"], json!({}));
    let two = vec![sandbox("s0", 0, SandboxState::Ready), sandbox("s1", 1, SandboxState::Ready)];
    check_run(
        &web,
        &observed(two.clone(), vec![container("app-0", "s0", running())]),
        &["stop-sandbox s1", "stop-sandbox s1", "rm-sandbox s1"],
    );
    check_run(
        &web,
        &observed(two, vec![]),
        &["stop-sandbox s0", "start app-0 in s1", "stop-sandbox s0", "rm-sandbox s0"],
    );
}

#[test]
fn a_dead_sandbox_is_made_anew_and_all_restart() {
    let web = pod(&["app"], json!({"initContainers": [{"name": "init", "image": "i"}]}));
    let dead = sandbox("s0", 0, SandboxState::NotReady);
    // After a cold boot everything is listed as ended.
    let ended = vec![container("init-0", "s0", exited(0)), container("app-4", "s0", exited(255))];
    check_run(&web, &observed(vec![dead.clone()], ended.clone()), &["stop-sandbox s0", "sandbox 1"]);
    let both = vec![dead.clone(), sandbox("s1", 1, SandboxState::Ready)];
    check_run(&web, &observed(both.clone(), ended.clone()), &["start init-1 in s1"]);
    let mut again = ended;
    again.push(container("init-1", "s1", exited(0)));
    check_run(&web, &observed(both.clone(), again.clone()), &["start app-5 in s1", "rm init-0"]);
    // The old one stays for the sake of `lastState`, until a newer death takes that place.
    again.push(container("app-5", "s1", running()));
    check_run(&web, &observed(both.clone(), again.clone()), &["rm init-0"]);
    let later = vec![container("init-1", "s1", exited(0)), container("app-5", "s1", exited(1))];
    check_run(&web, &observed(both, later), &["start app-6 in s1", "stop-sandbox s0", "rm-sandbox s0"]);
    // Only the pause process died: what runs in it ends first.
    check_run(
        &web,
        &observed(vec![dead], vec![container("app-0", "s0", running())]),
        &["stop app-0 30s SandboxChanged", "stop-sandbox s0"],
    );
    check_run(
        &web,
        &observed(vec![sandbox("s0", 0, SandboxState::NoNetwork)], vec![]),
        &["stop-sandbox s0", "sandbox 1"],
    );
}

#[test]
fn a_lost_container_is_killed_and_replaced() {
    let web = pod(&["app"], json!({}));
    check_run(
        &web,
        &live(vec![container("app-0", "s0", ContainerState::Unknown)]),
        &["stop app-0 30s Lost", "start app-1 in s0"],
    );
}

#[test]
fn what_the_stored_status_remembers_counts() {
    let mut body = serde_json::to_value(&*pod(&["app"], json!({}))).unwrap();
    body["status"] = json!({"containerStatuses": [{
        "name": "app", "image": "i", "imageID": "", "ready": true, "restartCount": 4,
        "containerID": "containerd://old", "state": {"running": {"startedAt": "1970-01-01T00:00:10Z"}},
    }]});
    let web: Arc<Pod> = Arc::new(serde_json::from_value(body.clone()).unwrap());
    let mut seen = live(vec![]);
    seen.recall(&web);
    check_run(&web, &seen, &["start app-5 in s0"]);
    let mut known = live(vec![container("app-4", "s0", running())]);
    known.recall(&web);
    check_run(&web, &known, &[]);
    body["spec"]["restartPolicy"] = json!("Never");
    let once: Arc<Pod> = Arc::new(serde_json::from_value(body).unwrap());
    let mut seen = observed(vec![], vec![]);
    seen.recall(&once);
    check_run(&once, &seen, &["no-volumes"]);
}

#[test]
fn init_containers_go_one_by_one() {
    let inits = json!({"initContainers": [{"name": "init", "image": "i"}, {"name": "init2", "image": "i"}]});
    let web = pod(&["app"], inits);
    check_run(&web, &live(vec![]), &["start init-0 in s0"]);
    check_run(&web, &live(vec![container("init-0", "s0", running())]), &[]);
    check_run(&web, &live(vec![container("init-0", "s0", exited(0))]), &["start init2-0 in s0"]);
    check_run(&web, &live(vec![container("init-0", "s0", exited(1))]), &["start init-1 in s0"]);
    check_run(
        &web,
        &live(vec![container("init-0", "s0", exited(0)), container("init2-0", "s0", exited(0))]),
        &["start app-0 in s0"],
    );
    // Somebody removed their records: a main container proves that they are done.
    check_run(&web, &live(vec![container("app-0", "s0", exited(1))]), &["start app-1 in s0"]);
}

#[test]
fn sidecars_run_beside_and_end_last() {
    let spec = json!({"initContainers": [
        {"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "init", "image": "i"}]});
    let web = pod(&["app"], spec);
    check_run(&web, &live(vec![]), &["start side-0 in s0"]);
    let side = container("side-0", "s0", running());
    check_run(&web, &live(vec![side.clone()]), &["start init-0 in s0"]);
    let done = container("init-0", "s0", exited(0));
    check_run(&web, &live(vec![side.clone(), done.clone()]), &["start app-0 in s0"]);
    let app = container("app-0", "s0", running());
    let crashed = container("side-0", "s0", exited(1));
    check_run(&web, &live(vec![crashed, done.clone(), app.clone()]), &["start side-1 in s0"]);
    let all = live(vec![side.clone(), done.clone(), app]);
    check(Desired::Terminate(web.clone()), &all, &["stop app-0 30s PodEnds + side-0 30s turn 1 PodEnds"]);
    let half = live(vec![side.clone(), done.clone(), container("app-0", "s0", exited(0))]);
    check(Desired::Terminate(web.clone()), &half, &["stop side-0 30s turn 1 PodEnds"]);
    // A Job's Pod ends with its main container, whatever its sidecar does.
    let mut job = (*web).clone();
    job.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into());
    check_run(&Arc::new(job), &half, &["stop side-0 30s turn 1 PodEnds"]);
}

#[test]
fn restart_policies() {
    let dead = |code| live(vec![container("app-0", "s0", exited(code))]);
    let check = |policy: &str, code, expected: &[&str]| {
        check_run(&pod(&["app"], json!({"restartPolicy": policy})), &dead(code), expected);
    };
    check("Always", 0, &["start app-1 in s0"]);
    check("Always", 1, &["start app-1 in s0"]);
    check("OnFailure", 0, &["stop-sandbox s0", "no-volumes"]);
    check("OnFailure", 1, &["start app-1 in s0"]);
    check("Never", 0, &["stop-sandbox s0", "no-volumes"]);
    check("Never", 1, &["stop-sandbox s0", "no-volumes"]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "init", "image": "i"}]});
    let failed = live(vec![container("init-0", "s0", exited(3))]);
    check_run(&pod(&["app"], spec), &failed, &["stop-sandbox s0", "no-volumes"]);
    // One of two goes on.
    let two = live(vec![container("app-0", "s0", exited(0)), container("side-0", "s0", running())]);
    check_run(&pod(&["app", "side"], json!({"restartPolicy": "OnFailure"})), &two, &[]);
}

#[test]
fn a_pod_that_has_ended_stays_ended() {
    let mut body = serde_json::to_value(&*pod(&["app"], json!({}))).unwrap();
    body["status"] = json!({"phase": "Failed"});
    let evicted: Arc<Pod> = Arc::new(serde_json::from_value(body).unwrap());
    check_run(&evicted, &live(vec![container("app-0", "s0", running())]), &["stop app-0 30s PodEnds"]);
    let mut over =
        observed(vec![sandbox("s0", 0, SandboxState::NotReady)], vec![container("app-0", "s0", exited(0))]);
    over.volumes = Volumes::Gone;
    check_run(&evicted, &over, &[]);
}

#[test]
fn the_active_deadline_ends_a_pod() {
    let web = pod(&["app"], json!({"activeDeadlineSeconds": 60}));
    let mut seen = live(vec![container("app-0", "s0", running())]);
    seen.started_at = Some(at(NOW - 50));
    check_run(&web, &seen, &["wait 10"]);
    seen.started_at = Some(at(NOW - 60));
    check_run(&web, &seen, &["stop app-0 30s PodEnds"]);
}

#[test]
fn crashes_back_off() {
    let web = pod(&["app"], json!({}));
    let mut seen = live(vec![container("app-1", "s0", exited(1))]);
    let mut backoffs = Backoffs::default();
    backoffs.restarted("app", "i:1", at(NOW - 60), at(NOW - 60));
    seen.backoffs = backoffs;
    check_run(&web, &seen, &["wait 5"]);
    // A new spec need not wait for the old one's crashes.
    seen.containers[0].hash = Some("older".into());
    check_run(&web, &seen, &["start app-2 in s0"]);
}

#[test]
fn failures_wait() {
    let web = pod(&["app", "side"], json!({}));
    let mut seen = live(vec![]);
    let failure = |retry_at| StartFailure {
        reason: FailureReason::ErrImagePull,
        message: String::new(),
        retry_at: at(retry_at),
        times: 1,
    };
    seen.failures.insert("app".into(), failure(NOW + 7));
    check_run(&web, &seen, &["start side-0 in s0", "wait 7"]);
    seen.failures.insert("app".into(), failure(NOW));
    check_run(&web, &seen, &["start app-0 in s0", "start side-0 in s0"]);
    seen.hold = Some(at(NOW + 3));
    check_run(&web, &seen, &["wait 3"]);
    // The clock was set back by a year since: none of these times will come.
    seen.hold = Some(at(NOW + 31_536_000));
    seen.failures.insert("app".into(), failure(NOW + 31_536_000));
    check_run(&web, &seen, &["start app-0 in s0", "start side-0 in s0"]);
}

#[test]
fn files_that_cannot_be_renewed_hold_up_nothing_that_has_them() {
    let web = pod(&["app"], json!({}));
    let mut seen = live(vec![container("app-0", "s0", exited(1))]);
    seen.volumes = Volumes::Unknown;
    check_run(&web, &seen, &["start app-1 in s0", "volumes"]);
    // Nothing was made in this sandbox yet: whether its files are there, nobody knows.
    seen.containers[0].sandbox = "older".into();
    check_run(&web, &seen, &["volumes", "start app-1 in s0"]);
    seen.sandboxes.clear();
    check_run(&web, &seen, &["volumes", "sandbox 0"]);
}

/// The runtime refused to start it: it has ended, and waits as after any crash instead of for its failure.
#[test]
fn what_could_not_be_run_has_crashed() {
    let web = pod(&["app"], json!({}));
    let mut seen = live(vec![container("app-0", "s0", exited(128))]);
    let failure = StartFailure {
        reason: FailureReason::RunContainerError,
        message: String::new(),
        retry_at: at(NOW + 7),
        times: 1,
    };
    seen.failures.insert("app".into(), failure);
    check_run(&web, &seen, &["start app-1 in s0"]);
    seen.backoffs.restarted("app", "i:1", at(NOW - 6), at(NOW - 6));
    check_run(&web, &seen, &["wait 5"]);
    // Made and not ended: nothing says when it may be tried again but the failure.
    seen.containers[0].state = ContainerState::Created;
    check_run(&web, &seen, &["wait 7"]);
}

#[test]
fn another_size_goes_before_new_starts() {
    let web = pod(&["app", "side"], json!({}));
    let mut seen = live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]);
    seen.resizes.due = Some(at(NOW));
    check_run(&web, &seen, &["resize"]);
    seen.resizes.restart.insert("app-0".into());
    check_run(&web, &seen, &["resize", "stop app-0 30s Resized", "start app-1 in s0"]);
    seen.resizes = Resizes { due: Some(at(NOW + 4)), ..Resizes::default() };
    check_run(&web, &seen, &["wait 4"]);
}

#[test]
fn a_changed_spec_restarts_its_container_only() {
    let web = pod(&["app", "side"], json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 7}));
    let mut seen = live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]);
    seen.containers[0].hash = Some("older".into());
    check_run(&web, &seen, &["stop app-0 7s SpecChanged", "start app-1 in s0"]);
}

#[test]
fn older_dead_containers_go() {
    let web = pod(&["app"], json!({}));
    let seen = live(vec![
        container("app-1", "s0", exited(1)),
        container("app-3", "s0", running()),
        container("app-2", "s0", exited(1)),
        container("app-0", "s0", exited(1)),
    ]);
    check_run(&web, &seen, &["rm app-1", "rm app-0"]);
}

#[test]
fn deletion_stops_cleans_and_tells() {
    let mut body = serde_json::to_value(&*pod(&["app"], json!({}))).unwrap();
    body["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    let web: Arc<Pod> = Arc::new(serde_json::from_value(body).unwrap());
    let delete = || Desired::Terminate(web.clone());
    check(delete(), &live(vec![container("app-0", "s0", running())]), &["stop app-0 5s PodEnds"]);
    let clean = ["stop-sandbox s0", "no-volumes", "rm app-0", "rm-sandbox s0", "no-cgroup", "gone"];
    check(delete(), &live(vec![container("app-0", "s0", exited(0))]), &clean);
    check(delete(), &ObservedPod::default(), &["no-volumes", "no-cgroup", "gone"]);
    let done = ObservedPod { cleaned: true, gone_reported: true, ..ObservedPod::default() };
    check(delete(), &done, &[]);
}

#[test]
fn what_nobody_asks_for_goes_without_a_word() {
    let mut orphan = live(vec![container("app-0", "s0", running())]);
    orphan.containers[0].grace_secs = Some(9);
    check(Desired::Removed(None), &orphan, &["stop app-0 9s hook PodEnds"]);
    let clean = ["stop-sandbox s0", "no-volumes", "rm app-0", "rm-sandbox s0", "no-cgroup", "forget"];
    check(Desired::Removed(None), &live(vec![container("app-0", "s0", exited(0))]), &clean);
    check(Desired::Removed(None), &ObservedPod { cleaned: true, ..ObservedPod::default() }, &["forget"]);
}
