//! Nodes and patches, before and after.

use super::*;

const CLOUD: KubeletEndpoint =
    KubeletEndpoint { address: Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))), port: Some(10351) };
const KUBEEDGES: KubeletEndpoint = KubeletEndpoint { address: None, port: Some(10351) };
const OFF: KubeletEndpoint = KubeletEndpoint { address: None, port: None };

fn status(addresses: &[(&str, &str)], port: u16) -> Value {
    let list: Vec<Value> =
        addresses.iter().map(|(kind, text)| json!({"type": kind, "address": text})).collect();
    json!({"addresses": list, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}})
}

fn own() -> Value {
    status(&[("InternalIP", "192.0.2.7"), ("Hostname", "edge-1")], 10350)
}

fn created(endpoint: KubeletEndpoint) -> Value {
    let mut node = json!({"metadata": {"name": "edge-1", "annotations": {"a": "b"}}, "status": own()});
    create(&mut node, endpoint);
    node
}

/// What a strategic merge patch makes of a Node: as far as these patches go.
fn merge(node: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return };
    for (name, value) in fields {
        let list = value.as_array().filter(|all| all.first().is_some_and(|one| one["$patch"] == "replace"));
        match (value, list) {
            (_, Some(list)) => node[name] = list[1..].to_vec().into(),
            (Value::Null, _) => {
                node.as_object_mut().unwrap().remove(name);
            }
            (Value::Object(_), _) => {
                if !node[name].is_object() {
                    node[name] = json!({});
                }
                merge(&mut node[name], value);
            }
            _ => node[name] = value.clone(),
        }
    }
}

fn patched(node: &Value, status: Value, endpoint: KubeletEndpoint) -> Value {
    let mut map = Map::new();
    map.insert("status".to_owned(), status);
    patch(&mut map, Some(&Shown::of(node)), endpoint);
    Value::Object(map)
}

#[test]
fn a_new_node_shows_the_cloud_and_keeps_its_own() {
    let node = created(CLOUD);
    let shown = [("InternalIP", "10.0.0.1"), ("ExternalIP", "192.0.2.7"), ("Hostname", "edge-1")];
    assert_eq!(node["status"], status(&shown, 10351));
    let notes = json!({"a": "b", NODE_ADDRESSES: "192.0.2.7", KUBELET_PORT: "10350"});
    assert_eq!(node["metadata"]["annotations"], notes);

    let node = created(KUBEEDGES);
    assert_eq!(node["status"], status(&[("InternalIP", "192.0.2.7"), ("Hostname", "edge-1")], 10351));
    assert_eq!(node["metadata"]["annotations"], json!({"a": "b", KUBELET_PORT: "10350"}));

    assert_eq!(
        created(OFF),
        json!({"metadata": {"name": "edge-1", "annotations": {"a": "b"}}, "status": own()})
    );

    let mut bare = json!({"metadata": {"name": "edge-1"}});
    create(&mut bare, CLOUD);
    assert_eq!(bare["status"], json!({"daemonEndpoints": {"kubeletEndpoint": {"Port": 10351}}}));
}

#[test]
fn what_the_node_said_comes_back_to_it() {
    for endpoint in [CLOUD, KUBEEDGES, OFF] {
        let mut node = created(endpoint);
        as_the_node_said(&mut node);
        assert_eq!(node["status"], own(), "{endpoint:?}");
        assert_eq!(node["metadata"]["annotations"], json!({"a": "b"}), "{endpoint:?}");
    }
    // Two families, and an address of another kind.
    let said = status(
        &[
            ("InternalIP", "192.0.2.7"),
            ("InternalIP", "2001:db8::7"),
            ("Hostname", "h"),
            ("ExternalIP", "198.51.100.7"),
        ],
        1,
    );
    let mut node = json!({"metadata": {}, "status": said});
    create(&mut node, CLOUD);
    let shown: Vec<&str> = node["status"]["addresses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect();
    assert_eq!(shown, ["InternalIP", "ExternalIP", "ExternalIP", "Hostname", "ExternalIP"]);
    as_the_node_said(&mut node);
    assert_eq!(node["status"], said);
    // Nobody's.
    let stock = json!({"metadata": {"name": "n"}, "status": own()});
    let mut same = stock.clone();
    as_the_node_said(&mut same);
    assert_eq!(same, stock);
}

#[test]
fn a_report_without_news_stays_as_it_is() {
    let node = created(CLOUD);
    let conditions = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(patched(&node, conditions.clone(), CLOUD), json!({"status": conditions}));
    // And the same said again changes nothing.
    let again = patched(&node, own(), CLOUD);
    let mut merged = node.clone();
    merge(&mut merged, &again);
    assert_eq!(merged, node);
    assert!(again.get("metadata").is_none(), "{again}");
}

#[test]
fn reports_carry_what_is_missing() {
    let check = |before: &Value, said: Value, endpoint: KubeletEndpoint, expected: &Value| {
        let mut node = before.clone();
        merge(&mut node, &patched(before, said.clone(), endpoint));
        assert_eq!(node["status"]["addresses"], expected["status"]["addresses"], "{said} {endpoint:?}");
        assert_eq!(
            node["status"]["daemonEndpoints"], expected["status"]["daemonEndpoints"],
            "{said} {endpoint:?}"
        );
        assert_eq!(
            node["metadata"]["annotations"], expected["metadata"]["annotations"],
            "{said} {endpoint:?}"
        );
    };
    let quiet = || json!({"conditions": []});
    // From any way to any other, by a report that says all and by one that says nothing of it.
    for before in [CLOUD, KUBEEDGES, OFF] {
        for after in [CLOUD, KUBEEDGES, OFF] {
            check(&created(before), own(), after, &created(after));
            check(&created(before), quiet(), after, &created(after));
        }
    }
    // The machine has moved.
    let moved = status(&[("InternalIP", "192.0.2.99"), ("Hostname", "edge-1")], 10350);
    let mut expected = json!({"metadata": {"annotations": {"a": "b"}}, "status": moved});
    create(&mut expected, CLOUD);
    check(&created(CLOUD), moved, CLOUD, &expected);
    // As a Go kubelet writes it: only what changed, and the whole list of addresses.
    let list = json!({"addresses": [{"$patch": "replace"}, {"type": "InternalIP", "address": "192.0.2.99"},
        {"type": "Hostname", "address": "edge-1"}]});
    check(&created(CLOUD), list, CLOUD, &expected);
    // The cloud has moved, the port has changed.
    let next = KubeletEndpoint { address: Some([10, 0, 0, 2].into()), port: Some(10352) };
    check(&created(CLOUD), quiet(), next, &created(next));
}

#[test]
fn a_port_that_we_cannot_read_is_nobody_s() {
    let endpoint = |port: Value| json!({"kubeletEndpoint": {"Port": port}});
    for said in [
        endpoint(json!(10401.0)),
        endpoint(json!(4_294_977_697_u64)),
        endpoint(json!("10401")),
        endpoint(json!(-1)),
        endpoint(json!(0)),
        endpoint(json!(null)),
        json!({"kubeletEndpoint": null}),
        json!({"$patch": "delete"}),
        json!([{"kubeletEndpoint": {"Port": 10401}}]),
        json!(10401),
        json!(null),
    ] {
        let ours = |port: u16| json!({"daemonEndpoints": endpoint(json!(port))});
        let check = |node: &Value, face: KubeletEndpoint, expected: Value| {
            let patch = patched(node, json!({"daemonEndpoints": said}), face);
            assert_eq!(patch["status"], expected, "{said} {face:?}");
        };
        check(&created(CLOUD), CLOUD, ours(10351));
        check(&created(KUBEEDGES), KUBEEDGES, ours(10351));
        // What the machine said before, or nothing at all.
        check(&created(OFF), OFF, ours(10350));
        check(&json!({"metadata": {"name": "edge-1"}}), OFF, json!({}));
        let mut map = Map::new();
        map.insert("status".to_owned(), json!({"daemonEndpoints": said}));
        patch(&mut map, None, CLOUD);
        assert_eq!(map["status"], ours(10351), "{said}");
    }
}

#[test]
fn a_node_that_is_not_known_yet() {
    let mut map = Map::new();
    map.insert("status".to_owned(), json!({"conditions": []}));
    patch(&mut map, None, CLOUD);
    assert_eq!(Value::Object(map), json!({"status": {"conditions": []}}));
    let mut map = Map::new();
    map.insert("metadata".to_owned(), json!({"uid": "u"}));
    map.insert("status".to_owned(), own());
    patch(&mut map, None, CLOUD);
    assert_eq!(map["metadata"]["uid"], "u");
    assert_eq!(map["metadata"]["annotations"][NODE_ADDRESSES], "192.0.2.7");
    assert_eq!(map["status"]["addresses"][1], json!({"type": "InternalIP", "address": "10.0.0.1"}));
    assert_eq!(map["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10351);
}
