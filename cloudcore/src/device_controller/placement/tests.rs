//! What each node is told when devices and models come, change, move and go.

use serde_json::{Value, json};

use super::*;

fn object(name: &str, uid: &str, version: u64, spec: &Value, status: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "plant", "uid": uid, "resourceVersion": version.to_string()},
        "spec": spec, "status": status})
}

fn device(name: &str, version: u64, node: &str, model: &str) -> SeenDevice {
    let spec = json!({"nodeName": node, "deviceModelRef": {"name": model}});
    SeenDevice::new(object(name, name, version, &spec, json!({}))).unwrap()
}

fn model(name: &str, version: u64, protocol: &str) -> SeenModel {
    SeenModel::new(object(name, name, version, &json!({"protocol": protocol}), json!({}))).unwrap()
}

fn id(name: &str) -> DeviceId {
    DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
}

/// Without the judging, which almost everything brings.
fn told(effects: Vec<Effect>) -> String {
    let name = |key: &ke_wire::ObjectKey| format!("{}/{}", key.kind.as_str(), key.name);
    let told = effects.into_iter().filter_map(|effect| match effect {
        Effect::Came(node, device) => Some(format!("{node} came {}", device.id)),
        Effect::Left(node, device) => Some(format!("{node} left {}", device.id)),
        Effect::Put(node, put) => Some(format!("{node} +{}", name(&put.key))),
        Effect::Again(node, put) => Some(format!("{node} ++{}", name(&put.key))),
        Effect::Delete(node, gone) => Some(format!("{node} -{}", name(&gone.key))),
        Effect::Judge(_) => None,
        Effect::Ended(id) => Some(format!("ended {id}")),
    });
    told.collect::<Vec<_>>().join(", ")
}

fn with_model() -> Placement {
    let mut placement = Placement::default();
    assert_eq!(told(placement.model(model("oven", 1, "modbus"))), "");
    placement
}

#[test]
fn a_device_comes_after_its_model_and_leaves_before_it() {
    let mut placement = with_model();
    let came = "e1 came plant/a, e1 +devicemodel/oven, e1 +device/a";
    assert_eq!(told(placement.device(device("a", 2, "e1", "oven"))), came);
    assert_eq!(
        told(placement.device(device("b", 3, "e1", "oven"))),
        "e1 came plant/b, e1 +devicemodel/oven, e1 +device/b"
    );
    assert_eq!(told(placement.device_removed(&id("a"))), "e1 left plant/a, e1 -device/a, ended plant/a");
    assert_eq!(
        told(placement.device_removed(&id("b"))),
        "e1 left plant/b, e1 -device/b, e1 -devicemodel/oven, ended plant/b"
    );
    assert_eq!(told(placement.device_removed(&id("b"))), "");
    assert_eq!(placement.n_devices(), 0);
}

#[test]
fn our_own_status_writes_are_not_sent() {
    let mut placement = with_model();
    placement.device(device("a", 2, "e1", "oven"));
    let mut echo = device("a", 9, "e1", "oven");
    echo.shown = SeenDevice::new(object("a", "a", 9, &json!({}), json!({"state": "online"}))).unwrap().shown;
    assert_eq!(told(placement.device(echo)), "");
    assert_eq!(
        placement.whole(&"e1".parse().unwrap()).devices[0].version.number(),
        2,
        "the one that was sent"
    );
}

#[test]
fn a_device_moves() {
    let mut placement = with_model();
    placement.device(device("a", 2, "e1", "oven"));
    assert_eq!(
        told(placement.device(device("a", 3, "e2", "oven"))),
        "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, e2 came plant/a, e2 +devicemodel/oven, e2 +device/a"
    );
    assert!(
        placement.is_on(&id("a"), &"e2".parse().unwrap())
            && !placement.is_on(&id("a"), &"e1".parse().unwrap())
    );
    assert_eq!(
        told(placement.device(device("a", 4, "No Node", "oven"))),
        "e2 left plant/a, e2 -device/a, e2 -devicemodel/oven"
    );
    assert_eq!(told(placement.device(device("a", 5, "", "oven"))), "");
}

#[test]
fn a_device_changes_its_model() {
    let mut placement = with_model();
    placement.model(model("grill", 2, "modbus"));
    placement.device(device("a", 3, "e1", "oven"));
    assert_eq!(
        told(placement.device(device("a", 4, "e1", "grill"))),
        "e1 +devicemodel/grill, e1 +device/a, e1 -devicemodel/oven"
    );
}

#[test]
fn a_changed_model_goes_with_every_device_that_uses_it() {
    let mut placement = with_model();
    for (name, node) in [("a", "e1"), ("b", "e1"), ("c", "e2"), ("d", "")] {
        placement.device(device(name, 2, node, "oven"));
    }
    assert_eq!(told(placement.model(model("oven", 5, "modbus"))), "", "only its version");
    let effects = placement.model(model("oven", 6, "opcua"));
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Judge(_))).count(), 4);
    assert_eq!(
        told(effects),
        "e1 +devicemodel/oven, e1 ++device/a, e1 ++device/b, e2 +devicemodel/oven, e2 ++device/c"
    );
}

#[test]
fn a_missing_model_stops_nobody_and_goes_when_it_appears() {
    let mut placement = Placement::default();
    assert_eq!(told(placement.device(device("a", 2, "e1", "oven"))), "e1 came plant/a, e1 +device/a");
    assert_eq!(told(placement.device(device("none", 2, "e1", ""))), "e1 came plant/none, e1 +device/none");
    assert!(matches!(placement.model_of(&id("a")), ModelIs::NotTold));
    placement.list_done(&Kind::DeviceModel);
    assert!(matches!(placement.model_of(&id("a")), ModelIs::Missing));
    assert!(placement.whole(&"e1".parse().unwrap()).lacks_model);
    assert_eq!(told(placement.model(model("oven", 3, "modbus"))), "e1 +devicemodel/oven, e1 ++device/a");
    assert!(!placement.whole(&"e1".parse().unwrap()).lacks_model);
}

#[test]
fn a_deleted_model_stays_until_its_last_device_is_gone() {
    let mut placement = with_model();
    placement.device(device("a", 2, "e1", "oven"));
    assert_eq!(placement.model_removed(&id("oven")), [Effect::Judge(id("a"))]);
    assert!(matches!(placement.model_of(&id("a")), ModelIs::Deleted));
    assert_eq!(placement.whole(&"e1".parse().unwrap()).models.len(), 1);
    assert_eq!(
        told(placement.device_removed(&id("a"))),
        "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, ended plant/a"
    );
    assert!(placement.models.is_empty());
}

#[test]
fn what_a_list_does_not_show_is_gone() {
    let mut placement = with_model();
    placement.device(device("a", 2, "e1", "oven"));
    placement.device(device("b", 2, "e1", "oven"));
    placement.device(device("c", 2, "e1", "oven"));
    placement.list_started(Kind::Device);
    placement.device(device("a", 2, "e1", "oven"));
    assert_eq!(placement.unusable(&Kind::Device, id("c"), "x"), []);
    assert_eq!(told(placement.list_done(&Kind::Device)), "e1 left plant/b, e1 -device/b, ended plant/b");
    assert!(!placement.is_complete());
    placement.list_done(&Kind::DeviceModel);
    assert!(placement.is_complete());
}

#[test]
fn a_device_made_anew_is_another_one() {
    let mut placement = with_model();
    placement.device(device("a", 2, "e1", "oven"));
    let mut anew = device("a", 9, "e1", "oven");
    anew.stored.uid = "another".parse().unwrap();
    assert_eq!(
        told(placement.device(anew)),
        "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, ended plant/a, e1 came plant/a, e1 +devicemodel/oven, \
         e1 +device/a"
    );
}

#[test]
fn devices_of_one_name_in_two_namespaces_are_two() {
    let mut placement = Placement::default();
    placement.device(device("a", 2, "e1", ""));
    let mut other = object("a", "other", 3, &json!({"nodeName": "e1"}), json!({}));
    other["metadata"]["namespace"] = "device".into();
    assert_eq!(told(placement.device(SeenDevice::new(other).unwrap())), "e1 came device/a, e1 +device/a");
    assert_eq!(placement.whole(&"e1".parse().unwrap()).references.len(), 2);
}
