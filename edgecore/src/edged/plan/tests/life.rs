//! What probes and hooks ask of the plan.

use super::*;
use crate::edged::probes::{Kind, Verdict};

const WELL: Verdict = Verdict { started: true, ready: true, failed: None };
const STARTING: Verdict = Verdict { started: false, ready: false, failed: None };

fn failed(kind: Kind) -> Verdict {
    Verdict { started: kind == Kind::Liveness, ready: false, failed: Some(kind) }
}

fn with(mut seen: ObservedPod, id: &str, verdict: Verdict) -> ObservedPod {
    seen.probes.insert(id.into(), verdict);
    seen
}

#[test]
fn an_unwell_container_is_killed_and_restarted() {
    let web = pod(&["app", "side"], json!({}));
    let two = || live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]);
    check_run(&web, &with(two(), "app-0", WELL), &[]);
    check_run(&web, &with(two(), "app-0", STARTING), &[]);
    let stop = "stop app-0 30s Unwell { probe: Liveness, restarts: true }";
    check_run(&web, &with(two(), "app-0", failed(Kind::Liveness)), &[stop, "start app-1 in s0"]);
    let stop = "stop app-0 30s Unwell { probe: Startup, restarts: true }";
    check_run(&web, &with(two(), "app-0", failed(Kind::Startup)), &[stop, "start app-1 in s0"]);
    // It ended meanwhile: what its probes said is past.
    let ended = live(vec![container("app-0", "s0", exited(0)), container("side-0", "s0", running())]);
    check_run(&web, &with(ended, "app-0", failed(Kind::Liveness)), &["start app-1 in s0"]);
}

#[test]
fn without_a_restart_policy_it_is_only_killed() {
    let stop = "stop app-0 30s Unwell { probe: Liveness, restarts: false }";
    let once = pod(&["app", "side"], json!({"restartPolicy": "Never"}));
    let two = live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]);
    check_run(&once, &with(two.clone(), "app-0", failed(Kind::Liveness)), &[stop]);
    // An exit code of 0 after the kill would end it: restarted in the same breath, as with a kubelet.
    let job = pod(&["app", "side"], json!({"restartPolicy": "OnFailure"}));
    let stop = "stop app-0 30s Unwell { probe: Liveness, restarts: true }";
    check_run(&job, &with(two, "app-0", failed(Kind::Liveness)), &[stop, "start app-1 in s0"]);
}

#[test]
fn a_probe_has_its_own_grace() {
    let body = json!({"containers": [{"name": "app", "image": "i",
        "livenessProbe": {"terminationGracePeriodSeconds": 5}, "startupProbe": {"terminationGracePeriodSeconds": 0}}]});
    let web = pod(&[], body);
    let seen = |kind| with(live(vec![container("app-0", "s0", running())]), "app-0", failed(kind));
    let line = |kind| {
        let actions = plan(&want(Desired::Run(web.clone())), &seen(kind), at(NOW));
        line(actions.first().unwrap())
    };
    assert_eq!(line(Kind::Liveness), "stop app-0 5s Unwell { probe: Liveness, restarts: true }");
    assert_eq!(line(Kind::Startup), "stop app-0 2s Unwell { probe: Startup, restarts: true }");
}

#[test]
fn unwell_again_and_again_backs_off() {
    let web = pod(&["app"], json!({}));
    let mut seen = live(vec![container("app-0", "s0", exited(137)), container("app-1", "s0", running())]);
    // The one before ended 5 s ago and its back-off is 10 s: killed now, started when that is over.
    seen.backoffs.restarted("app", at(NOW - 60), at(NOW - 60));
    let stop = "stop app-1 30s Unwell { probe: Liveness, restarts: true }";
    check_run(&web, &with(seen.clone(), "app-1", failed(Kind::Liveness)), &[stop]);
    seen.backoffs = Backoffs::default();
    check_run(&web, &with(seen, "app-1", failed(Kind::Liveness)), &[stop, "start app-2 in s0"]);
}

#[test]
fn a_sidecars_startup_probe_holds_up_those_behind_it() {
    let spec = json!({"initContainers": [
        {"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "init", "image": "i"}]});
    let web = pod(&["app"], spec);
    let side = || live(vec![container("side-0", "s0", running())]);
    check_run(&web, &with(side(), "side-0", STARTING), &[]);
    check_run(&web, &with(side(), "side-0", WELL), &["start init-0 in s0"]);
    let stop = "stop side-0 30s Unwell { probe: Startup, restarts: true }";
    check_run(&web, &with(side(), "side-0", failed(Kind::Startup)), &[stop, "start side-1 in s0"]);
    // Once main containers began a sidecar that starts anew holds up nothing.
    let mut seen = side();
    seen.containers.push(container("app-0", "s0", exited(1)));
    check_run(&web, &with(seen, "side-0", STARTING), &["start app-1 in s0"]);
}

#[test]
fn a_pod_that_ends_is_not_killed_by_a_probe() {
    let web = pod(&["app"], json!({}));
    let seen = with(live(vec![container("app-0", "s0", running())]), "app-0", failed(Kind::Liveness));
    check(Desired::Terminate(web), &seen, &["stop app-0 30s PodEnds"]);
}
