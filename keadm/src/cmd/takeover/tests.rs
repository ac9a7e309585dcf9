//! A takeover that is cut short, and whose what is.

use super::*;
use crate::host::fake::FakeHost;

#[test]
fn whose_it_is() {
    let check = |own: Value, of_pods: Value, expected: Owner| {
        let deployment = json!({"metadata": {"annotations": own}, "spec": {"template": {"metadata": {"annotations": of_pods}}}});
        assert_eq!(owner(&deployment), expected, "{deployment}");
    };
    check(Value::Null, json!({CONFIG_HASH: "a"}), Owner::Keadm);
    check(json!({RELEASE: "cloudcore"}), json!({CONFIG_HASH: "a"}), Owner::Helm);
    check(json!({RELEASE: "cloudcore"}), Value::Null, Owner::KubeEdge);
    check(Value::Null, Value::Null, Owner::KubeEdge);
}

fn old(installation: &str, objects: &[Value]) -> Old {
    Old {
        owner: Owner::KubeEdge,
        installation: installation.into(),
        objects: objects.into(),
        config: Value::Null,
    }
}

fn kept(host: &FakeHost) -> Vec<Value> {
    documents(&String::from_utf8(host.read(Path::new(KEPT)).unwrap().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_takeover_that_is_cut_short_can_be_gone_on_with() {
    let of = |version: &str, kind: &str, text: &str| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": kind},
            "data": {"cloudcore.yaml": text}})
    };
    let all = KINDS.map(|(version, kind, _)| of(version, kind, "a: 1\n---\n# b\nc: '2'\n"));
    let late = of("v1", "Secret", "came later");
    for n_gone in 0..all.len() {
        let host = FakeHost::default();
        old("uid-1", &all).keep(&host).unwrap();
        // It is killed when so many are gone.
        let mut left = all[n_gone..].to_vec();
        // Whoever comes then sees it by the Deployment, and after that by the ConfigMap.
        let is_seen = |kind: &str| left.iter().any(|object| object["kind"] == kind);
        assert!(is_seen("ConfigMap") && (is_seen("Deployment") || left.len() == 1), "{left:?}");
        left.push(late.clone());
        old("uid-1", &left).keep(&host).unwrap();
        let expected: Vec<Value> = all.iter().chain([&late]).map(plain).collect();
        assert_eq!(kept(&host), expected, "after {n_gone}");
    }
}

#[test]
fn what_is_kept_of_another_installation_is_not_touched() {
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
    let host = FakeHost::default();
    old("uid-1", &[object("a")]).keep(&host).unwrap();
    let failure = old("uid-2", &[object("b")]).keep(&host).unwrap_err();
    assert!(failure.code() == 3 && failure.to_string().contains("move it away"), "{failure}");
    assert_eq!(kept(&host), [object("a")]);
    // An older keadm's does not say whose it is.
    host.files.borrow_mut().insert(KEPT.into(), Some(b"---\nkind: Service\n".to_vec()));
    assert_eq!(old("uid-1", &[object("a")]).keep(&host).unwrap_err().code(), 3);
}

#[test]
fn what_helm_still_lists_is_told() {
    let told = still_released(&anyhow::anyhow!("forbidden"));
    assert!(
        told.contains("(forbidden)") && told.ends_with("delete secrets -l owner=helm,name=cloudcore"),
        "{told}"
    );
}

#[test]
fn only_this_release_goes() {
    let check = |metadata: Value, expected: bool| {
        assert_eq!(is_of_release(&json!({"metadata": metadata})), expected, "{metadata}");
    };
    check(json!({"name": "cloudcore"}), true);
    check(json!({"name": "x", "annotations": {RELEASE: "cloudcore", RELEASE_NAMESPACE: "kubeedge"}}), true);
    check(
        json!({"name": "cloudcore", "annotations": {RELEASE: "cloudcore", RELEASE_NAMESPACE: "other"}}),
        false,
    );
    check(json!({"name": "x", "annotations": {RELEASE: "other"}}), false);
}

#[test]
fn objects_are_told_apart_by_kind_and_name() {
    let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": "kubeedge", "name": name}});
    let all = [of("Service", "cloudcore"), of("ConfigMap", "cloudcore")];
    assert!(is_among(&of("Service", "cloudcore"), &all));
    assert!(!is_among(&of("Service", "other"), &all) && !is_among(&of("Secret", "cloudcore"), &all));
}

#[test]
fn what_edges_depend_on_is_carried_over() {
    let config = json!({"modules": {"cloudHub": {
        "advertiseAddress": ["", "203.0.113.7"], "dnsNames": [""], "nodeLimit": 500,
        "websocket": {"enable": true, "port": 11000, "address": "0.0.0.0"}, "quic": {"port": 10001},
    }, "router": {"enable": true}}});
    assert_eq!(
        carried_over(&config),
        json!({"cloudCore": {"modules": {"cloudHub": {
            "advertiseAddress": ["203.0.113.7"], "nodeLimit": 500, "websocket": {"port": 11000}}}}})
    );
    assert_eq!(carried_over(&Value::Null), json!({"cloudCore": {"modules": {"cloudHub": {}}}}));
}

#[test]
fn what_is_kept_can_be_applied() {
    let object = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "2"}, "spec": {"x": 1}, "status": {}});
    assert_eq!(plain(&object), json!({"metadata": {"name": "a"}, "spec": {"x": 1}}));
}
