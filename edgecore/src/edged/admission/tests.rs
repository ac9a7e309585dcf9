//! What a node takes and what it refuses, in tables.

use serde_json::{Value, json};

use super::*;

fn pod(body: Value) -> Pod {
    let mut whole = json!({"metadata": {"name": "new"}, "spec": {"containers": [{"name": "a"}]}});
    for (part, fields) in body.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            whole[part][field] = value.clone();
        }
    }
    serde_json::from_value(whole).unwrap()
}

fn asking(requests: Value) -> Pod {
    pod(json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]}}))
}

fn listening(ports: Value) -> Pod {
    pod(json!({"spec": {"containers": [{"name": "a", "ports": ports}]}}))
}

fn gate() -> Gate {
    let quantity = |(name, amount): (&str, &str)| (name.to_owned(), Quantity(amount.to_owned()));
    let node = json!({"metadata": {"name": "edge-1", "labels": {"zone": "a"}}, "spec": {"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "later", "effect": "NoSchedule"},
        {"key": "robots", "value": "only", "effect": "NoExecute"}]},
        "status": {"allocatable": {"cpu": "64", "strange": "1", PLUGINS: "1", "example.com/seat": "2"}}});
    let offered = [("cpu", "2"), ("memory", "1Gi"), ("ephemeral-storage", "10Gi")];
    Gate {
        node: Some(Arc::new(serde_json::from_value(node).unwrap())),
        allocatable: offered.map(quantity).into(),
        max_pods: 3,
        sysctls: AllowedSysctls::new("6.1.0", &[]).unwrap(),
        has_apparmor: false,
    }
}

fn tolerant(mut body: Value) -> Pod {
    body["spec"]["tolerations"] = json!([{"key": "robots", "operator": "Exists"}]);
    pod(body)
}

/// Reason and the message, or nothing.
fn told(pod: &Pod, applicant: Applicant, others: &[Pod]) -> Option<(String, String)> {
    let others: Vec<Arc<Pod>> = others.iter().cloned().map(Arc::new).collect();
    let lacks = lacks(pod, &others, &gate(), &|resource| resource == PLUGINS);
    judge(pod, applicant, &others, &gate(), &lacks).map(|refusal| (refusal.reason, refusal.message))
}

/// A resource of device plugins.
const PLUGINS: &str = "example.com/gpu";

#[test]
fn what_the_machine_cannot_run() {
    let check = |body: Value, reason: &str, message: &str| {
        for applicant in [Applicant::Scheduled, Applicant::Direct, Applicant::Static] {
            let expected = Some((reason.to_owned(), message.to_owned()));
            assert_eq!(told(&pod(body.clone()), applicant, &[]), expected, "{body} {applicant:?}");
        }
    };
    check(
        json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}}),
        "SysctlForbidden",
        "forbidden sysctl: \"kernel.msgmax\" not allowlisted",
    );
    check(
        json!({"spec": {"os": {"name": "windows"}}}),
        "PodOSNotSupported",
        "Failed to admit pod as the OS field doesn't match node OS",
    );
    check(
        json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}}),
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    );
    let apparmor = pod(json!({"spec": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}}));
    let (reason, message) = told(&apparmor, Applicant::Scheduled, &[]).unwrap();
    assert_eq!((reason.as_str(), message.starts_with("Cannot enforce AppArmor: ")), ("AppArmor", true));
    let mut able = gate();
    able.has_apparmor = true;
    assert_eq!(judge(&apparmor, Applicant::Scheduled, &[], &able, &[]), None);
    let linux =
        json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}, "spec": {"os": {"name": "linux"}}});
    assert_eq!(told(&pod(linux), Applicant::Scheduled, &[]), None);
}

#[test]
fn what_does_not_fit() {
    let check = |new: Pod, others: &[Pod], expected: Option<(&str, &str)>| {
        let expected = expected.map(|(resource, numbers)| {
            let message = format!("Node didn't have enough resource: {resource}, {numbers}");
            (format!("OutOf{resource}"), message)
        });
        for applicant in [Applicant::Scheduled, Applicant::Static] {
            assert_eq!(told(&new, applicant, others), expected, "{applicant:?}");
        }
        let mut critical = new;
        critical.spec.as_mut().unwrap().priority = Some(2_000_000_000);
        assert_eq!(told(&critical, Applicant::Scheduled, others), None, "others make room for it");
    };
    let cpu = |amount: &str| asking(json!({"cpu": amount}));
    check(cpu("2"), &[], None);
    check(cpu("2"), &[cpu("1m")], Some(("cpu", "requested: 2000, used: 1, capacity: 2000")));
    check(cpu("500m"), &[cpu("1"), cpu("500m")], None);
    check(cpu("0"), &[cpu("2")], None);
    let memory = asking(json!({"memory": "2Gi"}));
    check(memory, &[], Some(("memory", "requested: 2147483648, used: 0, capacity: 1073741824")));
    let disk = asking(json!({"ephemeral-storage": "11Gi"}));
    check(disk, &[], Some(("ephemeral-storage", "requested: 11811160064, used: 0, capacity: 10737418240")));
    // Written into the Node's status by somebody.
    let seat = |n: &str| asking(json!({"example.com/seat": n}));
    check(seat("1"), &[seat("1")], None);
    check(seat("2"), &[seat("1")], Some(("example.com/seat", "requested: 2, used: 1, capacity: 2")));
    // Device plugins count their own, and only what is nobody else's is read there.
    check(asking(json!({PLUGINS: "5"})), &[], None);
    check(asking(json!({"strange": "5"})), &[], None);
    // What this node does not offer may be somebody else's to give.
    check(asking(json!({"example.com/other": "5"})), &[], None);
    let any = || pod(json!({}));
    check(any(), &[any(), any()], None);
    check(any(), &[any(), any(), any()], Some(("pods", "requested: 1, used: 3, capacity: 3")));
}

#[test]
fn all_that_is_missing_is_told() {
    let new = asking(json!({"cpu": "1500m", "memory": "1Mi", "example.com/seat": "3"}));
    let core = Arc::new(asking(json!({"cpu": "1"})));
    let others = vec![core; 3];
    let lacks = lacks(&new, &others, &gate(), &|_| false);
    let missing: Vec<(&str, i64)> =
        lacks.iter().map(|lack| (lack.resource.as_str(), lack.missing())).collect();
    // One more pod than there may be; cores of which more are promised than there are.
    assert_eq!(missing, [("pods", 1), ("cpu", 2500), ("example.com/seat", 1)]);
    let of = |resource: &str| request(&new, resource);
    assert_eq!((of("pods"), of("cpu"), of("memory"), of("example.com/gpu")), (1, 1500, 1 << 20, 0));
}

#[test]
fn ports_are_taken_once() {
    let check = |new: Value, taken: Value, is_free: bool| {
        let refused = told(&listening(new.clone()), Applicant::Scheduled, &[listening(taken.clone())]);
        let expected =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        let expected = Some(("NodePorts".to_owned(), expected.to_owned())).filter(|_| !is_free);
        assert_eq!(refused, expected, "{new} {taken}");
    };
    let port = |host: u16, more: Value| {
        let mut port = json!({"containerPort": 80, "hostPort": host});
        for (key, value) in more.as_object().unwrap() {
            port[key] = value.clone();
        }
        json!([port])
    };
    check(port(80, json!({})), port(80, json!({})), false);
    check(port(80, json!({"protocol": "TCP"})), port(80, json!({"protocol": "UDP"})), true);
    check(port(80, json!({})), port(81, json!({})), true);
    check(port(80, json!({"hostIP": "10.0.0.1"})), port(80, json!({"hostIP": "10.0.0.2"})), true);
    check(port(80, json!({"hostIP": "10.0.0.1"})), port(80, json!({})), false);
    check(json!([{"containerPort": 80}]), json!([{"containerPort": 80}]), true);
}

#[test]
fn a_scheduler_knows_the_node_better() {
    let check = |body: Value, reason: &str| {
        let pod = pod(body);
        let refused = told(&pod, Applicant::Direct, &[]).map(|(reason, _)| reason);
        assert_eq!(refused.as_deref(), Some(reason));
        assert_eq!(told(&pod, Applicant::Scheduled, &[]), None);
        assert_eq!(told(&pod, Applicant::Static, &[]), None);
    };
    check(json!({"spec": {"nodeSelector": {"zone": "b"}}}), "NodeAffinity");
    check(json!({}), "TaintToleration");
    check(json!({"spec": {"tolerations": [{"key": "robots", "value": "none"}]}}), "TaintToleration");
    let takes = |pod: Pod| assert_eq!(told(&pod, Applicant::Direct, &[]), None);
    takes(tolerant(json!({"spec": {"nodeSelector": {"zone": "a"}}})));
    takes(pod(json!({"spec": {"tolerations": [{"key": "robots", "value": "only"}]}})));
    takes(pod(json!({"spec": {"tolerations": [{"operator": "Exists"}]}})));
    let mut unknown = gate();
    unknown.node = None;
    assert_eq!(judge(&pod(json!({})), Applicant::Direct, &[], &unknown, &[]), None);
    let placed = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}});
    assert_eq!(Applicant::of(&pod(placed)), Applicant::Scheduled);
    assert_eq!(Applicant::of(&pod(json!({}))), Applicant::Direct);
}

#[test]
fn what_was_accepted_is_not_judged_again() {
    let check = |status: Value, expected: bool| {
        assert_eq!(is_settled(&pod(json!({"status": status.clone()}))), expected, "{status}");
    };
    check(json!({"phase": "Pending"}), false);
    check(json!({"phase": "Pending", "startTime": "2026-01-31T12:00:00Z"}), true);
    check(json!({"phase": "Failed"}), true);
    let refusal = Refusal { reason: "OutOfcpu".into(), message: "full".into() };
    let refused = refused(&pod(json!({})), &refusal);
    assert!(is_settled(&refused));
    let status = refused.status.unwrap();
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: full"));
}
