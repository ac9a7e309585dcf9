//! What probes and hooks ask of the plan.

use super::*;
use crate::edged::verdict::{Kind, Verdict};

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
    let body = json!({"terminationGracePeriodSeconds": 60, "containers": [{"name": "app", "image": "i",
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
    seen.backoffs.restarted("app", "i:1", at(NOW - 60), at(NOW - 60));
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

#[test]
fn hooks_run_unless_there_is_no_time_for_them() {
    let body = |grace: i64| {
        let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
        json!({"terminationGracePeriodSeconds": grace, "containers": [
            {"name": "app", "image": "i", "lifecycle": hook}, {"name": "side", "image": "i"}]})
    };
    let two = live(vec![container("app-0", "s0", running()), container("side-0", "s0", running())]);
    check(Desired::Terminate(pod(&[], body(7))), &two, &["stop app-0 7s hook PodEnds + side-0 7s PodEnds"]);
    check(Desired::Terminate(pod(&[], body(1))), &two, &["stop app-0 2s hook PodEnds + side-0 2s PodEnds"]);
    check(Desired::Terminate(pod(&[], body(0))), &two, &["stop app-0 2s PodEnds + side-0 2s PodEnds"]);
    let unwell = with(two, "app-0", failed(Kind::Liveness));
    let stop = "stop app-0 7s hook Unwell { probe: Liveness, restarts: true }";
    check_run(&pod(&[], body(7)), &unwell, &[stop, "start app-1 in s0"]);
}

#[test]
fn sidecars_end_in_the_reverse_of_their_order() {
    let spec = json!({"initContainers": [
        {"name": "init", "image": "i", "restartPolicy": "Always"}, {"name": "side", "image": "i", "restartPolicy": "Always"}]});
    let web = pod(&["app"], spec);
    let three = ["init-0", "side-0", "app-0"].map(|id| container(id, "s0", running()));
    let line = "stop app-0 30s PodEnds + side-0 30s turn 1 PodEnds + init-0 30s turn 2 PodEnds";
    check(Desired::Terminate(web), &live(three.into()), &[line]);
}

#[test]
fn a_containers_own_policy_and_rules_go_before_the_pods() {
    let check = |policy: &str, own: serde_json::Value, code, expected: &[&str]| {
        let mut app = json!({"name": "app", "image": "i"});
        for (key, value) in own.as_object().unwrap() {
            app[key] = value.clone();
        }
        let web = pod(&[], json!({"restartPolicy": policy, "containers": [app]}));
        check_run(&web, &live(vec![container("app-0", "s0", exited(code))]), expected);
    };
    let start = &["start app-1 in s0"][..];
    let ends = &["stop-sandbox s0", "no-volumes"][..];
    check("Never", json!({"restartPolicy": "Always"}), 0, start);
    check("Always", json!({"restartPolicy": "Never"}), 1, ends);
    check("Never", json!({"restartPolicy": "OnFailure"}), 1, start);
    check("Never", json!({"restartPolicy": "OnFailure"}), 0, ends);
    let rule = |operator: &str, action: &str| {
        let codes = json!({"operator": operator, "values": [42, 43]});
        json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": action, "exitCodes": codes}]})
    };
    check("Never", rule("In", "Restart"), 42, start);
    check("Never", rule("In", "Restart"), 1, ends);
    check("Never", rule("NotIn", "Restart"), 42, ends);
    check("Never", rule("NotIn", "Restart"), 1, start);
    // What this node does not do counts as no rule.
    check("Never", rule("In", "RestartAllContainers"), 42, ends);
    let mut without_policy = rule("In", "Restart");
    without_policy.as_object_mut().unwrap().remove("restartPolicy");
    check("Never", without_policy, 42, ends);
}

#[test]
fn an_init_container_may_be_tried_again_by_its_own_rule() {
    let codes = json!({"operator": "In", "values": [42]});
    let init = json!({"name": "init", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": codes}]});
    let web = pod(&["app"], json!({"restartPolicy": "Never", "initContainers": [init]}));
    check_run(&web, &live(vec![container("init-0", "s0", exited(42))]), &["start init-1 in s0"]);
    check_run(&web, &live(vec![container("init-0", "s0", exited(1))]), &["stop-sandbox s0", "no-volumes"]);
}

#[test]
fn ephemeral_containers_run_once_and_at_any_time() {
    let spec = json!({"initContainers": [{"name": "init", "image": "i"}],
        "ephemeralContainers": [{"name": "debug", "image": "i"}]});
    let web = pod(&["app"], spec);
    let init = || container("init-0", "s0", running());
    check_run(&web, &live(vec![init()]), &["start debug-0 in s0"]);
    check_run(&web, &live(vec![init(), container("debug-0", "s0", running())]), &[]);
    check_run(&web, &live(vec![init(), container("debug-0", "s0", exited(1))]), &[]);
    let both = live(vec![container("app-0", "s0", running()), container("debug-0", "s0", running())]);
    check(Desired::Terminate(web), &both, &["stop app-0 30s PodEnds + debug-0 30s PodEnds"]);
}
