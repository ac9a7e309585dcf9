//! An edit in one version arrives in the other, and costs nothing that the other has more.

use serde_json::{Value, json};

use super::super::{ALPHA_ANNOTATION, BETA_ANNOTATION};
use super::{ALPHA, BETA, annotation, object, to_alpha, to_beta};

#[test]
fn an_edit_of_desired_in_the_old_version_is_honoured_and_changes_nothing_else() {
    let beta = object(
        BETA,
        "Device",
        json!({
            "spec": {
                "nodeName": "edge-1",
                "protocol": {"protocolName": "modbus", "configData": {"ip": "h", "port": "502", "nested": {"a": 1}}},
                "stateReport": {"reportToCloud": true}, "methods": [{"name": "m"}],
                "properties": [
                    {"name": "z", "reportToCloud": true},
                    {"name": "limit", "collectCycle": 200_000_000, "desired": {"value": "1"}, "visitors": {"configData": {"x": [1]}},
                     "pushMethod": {"mqtt": {"address": "a", "topic": "t", "qos": 1}, "http": {"port": 1}}},
                    {"name": "quiet", "reportToCloud": false, "visitors": {"protocolName": "modbus", "configData": {"offset": "3"}}},
                ],
            },
            "status": {"state": "online", "conditions": [{"type": "Ready"}], "twins": [
                {"propertyName": "limit", "reported": {"value": "1"}, "observedDesired": {"value": "1"}},
                {"propertyName": "z", "observedDesired": {"value": ""}},
            ]},
        }),
    );
    let mut view = to_alpha(&beta);
    assert_eq!(to_beta(&view), beta, "unedited");
    let twins = view["status"]["twins"].as_array_mut().unwrap();
    assert_eq!(twins[1]["propertyName"], "limit");
    assert_eq!(twins[1]["desired"], json!({"value": "1"}));
    twins[1]["desired"] = json!({"value": "2"});
    let mut expected = beta.clone();
    expected["spec"]["properties"][1]["desired"] = json!({"value": "2"});
    let edited = to_beta(&view);
    assert_eq!(edited["spec"], expected["spec"]);
    assert_eq!(edited["status"], expected["status"]);

    // A new entry asks for reports; a removed one takes its value back.
    twins_of(&mut view).push(json!({"propertyName": "quiet", "desired": {"value": "5"}}));
    twins_of(&mut view).remove(1);
    let edited = to_beta(&view);
    assert_eq!(edited["spec"]["properties"][2]["desired"]["value"], "5");
    assert_eq!(edited["spec"]["properties"][1].get("desired"), None);
    assert_eq!(edited["spec"]["properties"][1]["collectCycle"], 200_000_000);
}

fn twins_of(view: &mut Value) -> &mut Vec<Value> {
    view["status"]["twins"].as_array_mut().unwrap()
}

#[test]
fn an_edit_in_the_new_version_wins_and_leaves_the_rest_of_the_old() {
    let alpha = object(
        ALPHA,
        "Device",
        json!({
            "spec": {
                "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "In", "values": ["edge-1"]}]}]},
                "protocol": {"modbus": {"slaveID": 1}, "common": {"customizedValues": {"deep": {"x": 1}}}},
                "propertyVisitors": [
                    {"propertyName": "heat", "collectCycle": 500_000_000, "modbus": {"offset": 1}, "customizedValues": {"list": [1]}},
                    {"propertyName": "limit", "modbus": {"offset": 2}},
                ],
                "data": {"dataProperties": [{"propertyName": "heat", "metadata": {"k": "v"}}, {"propertyName": "limit"}]},
            },
            "status": {"twins": [{"propertyName": "limit", "desired": {"value": "1"}}, {"propertyName": "heat"}]},
        }),
    );
    let mut beta = to_beta(&alpha);
    // As the device controller does.
    beta["status"] =
        json!({"state": "online", "twins": [{"propertyName": "heat", "reported": {"value": "20"}}]});
    let mut expected = alpha.clone();
    expected["status"]["twins"][1]["reported"] = json!({"value": "20"});
    let view = to_alpha(&beta);
    assert_eq!((&view["spec"], &view["status"]), (&expected["spec"], &expected["status"]));
    assert_eq!(annotation(&view, BETA_ANNOTATION)["status"], json!({"state": "online"}));
    assert_eq!(to_beta(&view), beta);

    // As a user does.
    beta["spec"]["nodeName"] = "edge-2".into();
    beta["spec"]["properties"][0]["collectCycle"] = 700.into();
    beta["spec"]["properties"][1].as_object_mut().unwrap().remove("pushMethod");
    let view = to_alpha(&beta);
    assert_eq!(
        view["spec"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"],
        json!(["edge-2"])
    );
    assert_eq!(view["spec"]["propertyVisitors"][0]["collectCycle"], 700);
    assert_eq!(view["spec"]["propertyVisitors"][0]["customizedValues"], json!({"list": [1]}));
    assert_eq!(view["spec"]["protocol"], alpha["spec"]["protocol"]);
    assert_eq!(
        view["spec"]["data"],
        json!({"dataProperties": [{"propertyName": "heat", "metadata": {"k": "v"}}]})
    );
    let again = to_beta(&view);
    assert_eq!((&again["spec"], &again["status"]), (&beta["spec"], &beta["status"]));
    assert_eq!(
        annotation(&again, ALPHA_ANNOTATION).get("nodeSelector"),
        None,
        "what is no longer so is forgotten"
    );
}

#[test]
fn edits_of_a_model_keep_what_the_other_version_has_more() {
    let alpha = object(
        ALPHA,
        "DeviceModel",
        json!({"spec": {"properties": [{"name": "t", "type": {"int": {"defaultValue": 5, "unit": "C"}}}]}}),
    );
    let mut beta = to_beta(&alpha);
    beta["spec"]["properties"][0]["unit"] = "K".into();
    assert_eq!(
        to_alpha(&beta)["spec"]["properties"][0]["type"],
        json!({"int": {"defaultValue": 5, "unit": "K"}})
    );

    let beta = object(
        BETA,
        "DeviceModel",
        json!({"spec": {"protocolConfigData": {"a": 1}, "properties": [
        {"name": "film", "type": "STREAM", "accessMode": "ReadOnly", "visitors": {"configData": {}}}]}}),
    );
    let mut view = to_alpha(&beta);
    assert_eq!(
        view["spec"]["properties"],
        json!([{"name": "film", "type": {"bytes": {"accessMode": "ReadOnly"}}}])
    );
    view["spec"]["properties"][0]["type"]["bytes"]["accessMode"] = "ReadWrite".into();
    let mut expected = beta.clone();
    expected["spec"]["properties"][0]["accessMode"] = "ReadWrite".into();
    assert_eq!(to_beta(&view)["spec"], expected["spec"]);
}
