//! Stories of placement: what was seen, and what follows from it, as one line of text each.

use serde_json::{Value, json};

use super::super::observed::WATCHED;
use super::*;

/// `node`, `pod/name>node[:cm=a][:secret=b]`, `configmap/name`, `secret/name`; version and uid beside it.
fn object(what: &str, version: u64, uid: &str) -> Observed {
    let mut parts = what.split([':', '>']);
    let (kind, name) = parts.next().unwrap().split_once('/').unwrap();
    let mut object = json!({"metadata": {"name": name, "namespace": "shop", "uid": uid,
        "resourceVersion": version.to_string(), "labels": {"v": "1"}}});
    let mut volumes = Vec::new();
    for part in parts {
        match part.split_once('=') {
            None => object["spec"]["nodeName"] = part.into(),
            Some(("cm", name)) => volumes.push(json!({"configMap": {"name": name}})),
            Some(("secret", name)) => volumes.push(json!({"secret": {"secretName": name}})),
            Some(("label", value)) => object["metadata"]["labels"]["v"] = value.into(),
            Some(("phase", value)) => object["status"]["phase"] = value.into(),
            Some(("going", _)) => object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into(),
            Some((other, _)) => panic!("{other}"),
        }
    }
    object["spec"]["volumes"] = Value::Array(volumes);
    Observed::new(&kind.parse().unwrap(), object).unwrap()
}

fn told(effects: Vec<Effect>) -> String {
    let lines = effects.into_iter().map(|effect| match effect {
        Effect::Put(node, put) => {
            let sign = if put.change == Change::Inserted { "+" } else { "=" };
            format!("{node} {sign}{}@{}", put.key, put.version)
        }
        Effect::Delete(node, gone) => format!("{node} -{}", gone.key),
        Effect::NodeGone(node) => format!("{node} gone"),
        Effect::Fetch(key) => format!("fetch {key}"),
        Effect::ListPods(node) => format!("list {node}"),
    });
    lines.collect::<Vec<_>>().join(", ")
}

fn applied(what: &str, version: u64) -> WatchEvent {
    WatchEvent::Applied(object(
        what,
        version,
        what.split([':', '>']).next().unwrap().replace('/', "-").as_str(),
    ))
}

fn removed(what: &str, version: u64) -> WatchEvent {
    WatchEvent::Removed(object(
        what,
        version,
        what.split([':', '>']).next().unwrap().replace('/', "-").as_str(),
    ))
}

/// Lists that show what is given, in the order in which `watch.rs` starts them.
fn started(objects: &[&str]) -> Placement {
    let mut placement = Placement::default();
    for kind in WATCHED {
        placement.on_event(WatchEvent::ListStarted(kind.clone()));
        for what in objects.iter().filter(|what| what.starts_with(&format!("{}/", kind.as_str()))) {
            placement.on_event(applied(what, 1));
        }
        placement.on_event(WatchEvent::ListDone(kind));
    }
    assert!(placement.is_complete());
    placement
}

fn holds(placement: &Placement, node: &str) -> String {
    let desired = placement.desired(&node.parse().unwrap());
    desired
        .iter()
        .map(|desired| format!("{}@{}", desired.key, desired.version))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn the_first_lists_give_each_node_what_its_pods_name() {
    let placement = started(&[
        "node/e1",
        "node/e2",
        "pod/a>e1:cm=x:secret=s",
        "pod/b>e2:cm=x",
        "pod/cloud>c1:cm=y",
        "configmap/x",
        "configmap/y",
        "secret/s",
        "secret/other",
    ]);
    assert_eq!(holds(&placement, "e1"), "null/node/e1@1, shop/configmap/x@1, shop/secret/s@1, shop/pod/a@1");
    assert_eq!(holds(&placement, "e2"), "null/node/e2@1, shop/configmap/x@1, shop/pod/b@1");
    assert_eq!(holds(&placement, "c1"), "");
    let check = |node: &str, key: &str, expected: bool| {
        assert_eq!(
            placement.may_read(&node.parse().unwrap(), &key.parse().unwrap()),
            expected,
            "{node} {key}"
        );
    };
    check("e1", "shop/secret/s", true);
    check("e2", "shop/secret/s", false);
    check("e1", "shop/secret/other", false);
    check("c1", "shop/configmap/y", false);
    assert!(placement.is_settled(&"e1".parse().unwrap()));
}

#[test]
fn a_pod_from_binding_to_removal() {
    let mut placement = started(&["node/e1", "configmap/x"]);
    let mut check = |event: WatchEvent, expected: &str| {
        let text = format!("{event:?}");
        assert_eq!(told(placement.on_event(event)), expected, "{text}");
    };
    check(applied("pod/a>e1:cm=x", 5), "fetch shop/configmap/x, e1 +shop/pod/a@5");
    check(applied("pod/a>e1:cm=x:phase=Running", 6), "");
    check(applied("pod/a>e1:cm=x:label=2", 7), "e1 =shop/pod/a@7");
    check(applied("pod/a>e1:cm=x:label=2", 6), "");
    check(applied("pod/a>e1:cm=x:label=2:going=1", 8), "e1 =shop/pod/a@8");
    check(removed("pod/a>e1:cm=x:label=2:going=1", 9), "e1 -shop/pod/a");
    check(removed("pod/a>e1:cm=x", 9), "");
    check(applied("pod/b>e1:going=1", 10), "e1 =shop/pod/b@10");
    check(applied("pod/c>cloud", 11), "");
}

#[test]
fn data_is_fetched_once_shared_and_taken_back() {
    let mut placement = started(&["node/e1", "node/e2"]);
    let x: ObjectKey = "shop/configmap/x".parse().unwrap();
    placement.on_event(applied("pod/a>e1:cm=x", 5));
    assert!(!placement.is_settled(&"e1".parse().unwrap()));
    assert_eq!(told(placement.on_event(applied("pod/b>e2:cm=x", 6))), "e2 +shop/pod/b@6");
    let fetched = placement.fetched(&x, Some(object("configmap/x", 3, "u")));
    assert_eq!(told(fetched), "e1 +shop/configmap/x@3, e2 +shop/configmap/x@3");
    assert!(placement.is_settled(&"e1".parse().unwrap()));
    let newer = WatchEvent::Applied(object("configmap/x", 7, "u"));
    assert_eq!(told(placement.on_event(newer)), "e1 =shop/configmap/x@7, e2 =shop/configmap/x@7");
    assert_eq!(told(placement.on_event(applied("pod/c>e2:cm=x", 8))), "e2 +shop/pod/c@8");
    assert_eq!(told(placement.on_event(removed("pod/b>e2:cm=x", 9))), "e2 -shop/pod/b");
    assert_eq!(told(placement.on_event(removed("pod/c>e2:cm=x", 9))), "e2 -shop/pod/c, e2 -shop/configmap/x");
    assert!(!placement.may_read(&"e2".parse().unwrap(), &x));
    let ended = WatchEvent::Removed(object("configmap/x", 10, "u"));
    assert_eq!(told(placement.on_event(ended)), "e1 -shop/configmap/x");
    let anew = WatchEvent::Applied(object("configmap/x", 11, "u2"));
    assert_eq!(told(placement.on_event(anew)), "e1 +shop/configmap/x@11");
}

#[test]
fn a_fetch_that_the_watch_overtook() {
    let x: ObjectKey = "shop/secret/x".parse().unwrap();
    let after = |events: Vec<WatchEvent>, found: Option<Observed>| {
        let mut placement = started(&["node/e1"]);
        placement.on_event(applied("pod/a>e1:secret=x", 5));
        for event in events {
            placement.on_event(event);
        }
        told(placement.fetched(&x, found))
    };
    let secret = |version| object("secret/x", version, "secret-x");
    assert_eq!(after(vec![], Some(secret(4))), "e1 =shop/secret/x@4");
    assert_eq!(after(vec![], None), "");
    assert_eq!(after(vec![applied("secret/x", 6)], Some(secret(4))), "");
    assert_eq!(after(vec![removed("secret/x", 6)], Some(secret(4))), "");
    assert_eq!(after(vec![removed("secret/x", 6)], Some(secret(7))), "e1 =shop/secret/x@7");
    assert_eq!(after(vec![removed("pod/a>e1:secret=x", 6)], Some(secret(4))), "");
}

#[test]
fn a_node_comes_late_changes_and_goes() {
    let mut placement = started(&["pod/a>e1:cm=x"]);
    let e1: NodeName = "e1".parse().unwrap();
    assert_eq!(told(placement.on_event(applied("node/e1", 5))), "list e1, e1 =null/node/e1@5");
    assert!(!placement.is_settled(&e1));
    placement.on_event(removed("pod/b>e1", 7));
    let pods = vec![object("pod/a>e1:cm=x", 1, "pod-a"), object("pod/b>e1", 6, "pod-b")];
    assert_eq!(told(placement.listed(&e1, pods)), "fetch shop/configmap/x, e1 +shop/pod/a@1");
    assert_eq!(told(placement.on_event(applied("node/e1", 8))), "");
    assert_eq!(told(placement.on_event(applied("node/e1:label=2", 9))), "e1 =null/node/e1@9");
    assert_eq!(told(placement.on_event(removed("node/e1", 10))), "e1 gone");
    assert!(!placement.is_node(&e1));
    assert_eq!(holds(&placement, "e1"), "");
    assert!(!placement.may_read(&e1, &"shop/configmap/x".parse().unwrap()));
}

#[test]
fn a_watch_that_starts_anew_finds_what_it_missed() {
    let mut placement = started(&["node/e1", "node/e2", "pod/a>e1:cm=x", "pod/b>e1", "configmap/x"]);
    let mut relist = |kind: Kind, seen: Vec<WatchEvent>| {
        let mut effects = placement.on_event(WatchEvent::ListStarted(kind.clone()));
        for event in seen {
            effects.extend(placement.on_event(event));
        }
        effects.extend(placement.on_event(WatchEvent::ListDone(kind)));
        told(effects)
    };
    assert_eq!(relist(Kind::ConfigMap, vec![applied("configmap/x", 1)]), "");
    assert_eq!(relist(Kind::ConfigMap, vec![]), "e1 -shop/configmap/x");
    assert_eq!(relist(Kind::ConfigMap, vec![applied("configmap/x", 9)]), "e1 +shop/configmap/x@9");
    assert_eq!(relist(Kind::Pod, vec![applied("pod/a>e1:cm=x", 1)]), "e1 -shop/pod/b");
    let again = WatchEvent::Applied(object("pod/a>e1", 12, "another"));
    assert_eq!(relist(Kind::Pod, vec![again]), "e1 -shop/pod/a, e1 -shop/configmap/x, e1 +shop/pod/a@12");
    assert_eq!(relist(Kind::Node, vec![applied("node/e1", 1)]), "e2 gone");
    let anew = WatchEvent::Applied(object("node/e1", 20, "another"));
    assert_eq!(relist(Kind::Node, vec![anew]), "e1 gone, list e1, e1 =null/node/e1@20");
}

#[test]
fn what_leaves_names_itself_and_nothing_secret() {
    let mut placement = started(&["node/e1", "pod/a>e1:secret=s", "secret/s"]);
    let effects = placement.on_event(removed("pod/a>e1:secret=s", 4));
    let Some(Effect::Delete(_, gone)) = effects.last() else { panic!("{effects:?}") };
    let body: Value = serde_json::from_slice(&gone.body).unwrap();
    let metadata = json!({"name": "s", "namespace": "shop", "uid": "secret-s", "resourceVersion": "1"});
    assert_eq!(body, json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}));
}

#[test]
fn a_fetch_during_a_list_is_not_taken_for_gone() {
    let mut placement = started(&["node/e1"]);
    placement.on_event(WatchEvent::ListStarted(Kind::ConfigMap));
    // The list has passed the key by when the Pod comes that names it.
    assert_eq!(
        told(placement.on_event(applied("pod/a>e1:cm=x", 2))),
        "fetch shop/configmap/x, e1 +shop/pod/a@2"
    );
    let key = "shop/configmap/x".parse().unwrap();
    let found = |version| Some(object("configmap/x", version, "configmap-x"));
    assert_eq!(told(placement.fetched(&key, found(3))), "e1 +shop/configmap/x@3");
    assert_eq!(told(placement.on_event(WatchEvent::ListDone(Kind::ConfigMap))), "");
    assert!(holds(&placement, "e1").contains("shop/configmap/x@3"));
    // Named, not named, named again: two fetches, and the slower one saw more.
    assert_eq!(told(placement.fetched(&key, found(2))), "");
    assert_eq!(told(placement.fetched(&key, found(4))), "e1 =shop/configmap/x@4");
}
