//! Tables for what becomes what; `edits` changes objects in between, `round_trips` draws them at random.

use serde_json::{Value, json};

use super::{ALPHA_ANNOTATION, convert};

mod edits;
mod round_trips;

const ALPHA: &str = "devices.kubeedge.io/v1alpha2";
const BETA: &str = "devices.kubeedge.io/v1beta1";

fn object(api_version: &str, kind: &str, body: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "oven-1", "namespace": "plant"}});
    object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    object
}

fn to_beta(alpha: &Value) -> Value {
    convert(alpha.clone(), BETA).unwrap()
}

fn to_alpha(beta: &Value) -> Value {
    convert(beta.clone(), ALPHA).unwrap()
}

fn annotation(object: &Value, name: &str) -> Value {
    object["metadata"]["annotations"]
        .get(name)
        .map_or(Value::Null, |text| serde_json::from_str(text.as_str().unwrap()).unwrap())
}

/// The v1alpha2 body becomes this v1beta1 body, and comes back the same; no words remembered when `plain`.
fn check(kind: &str, alpha: Value, beta: Value, plain: bool) {
    let alpha = object(ALPHA, kind, alpha);
    let converted = to_beta(&alpha);
    let mut without_words = converted.clone();
    without_words["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(without_words, object(BETA, kind, beta), "{alpha:#}");
    assert_eq!(annotation(&converted, ALPHA_ANNOTATION).is_null(), plain, "{converted:#}");
    assert_eq!(to_alpha(&converted), alpha);
}

#[test]
fn models() {
    let check = |alpha: Value, beta: Value, plain: bool| {
        check(
            "DeviceModel",
            json!({"spec": {"properties": [alpha]}}),
            json!({"spec": {"properties": [beta]}}),
            plain,
        );
    };
    check(
        json!({"name": "t", "description": "warmth", "type": {"int": {"accessMode": "ReadOnly", "minimum": -50, "maximum": 100, "unit": "Celsius"}}}),
        json!({"name": "t", "description": "warmth", "type": "INT", "accessMode": "ReadOnly", "minimum": "-50", "maximum": "100", "unit": "Celsius"}),
        true,
    );
    check(
        json!({"name": "t", "type": {"double": {"accessMode": "ReadWrite", "minimum": 0, "maximum": 2.5}}}),
        json!({"name": "t", "type": "DOUBLE", "accessMode": "ReadWrite", "minimum": "0", "maximum": "2.5"}),
        true,
    );
    // Digits, never an exponent.
    check(
        json!({"name": "t", "type": {"float": {"maximum": 1e21, "minimum": -0.00001}}}),
        json!({"name": "t", "type": "FLOAT", "maximum": "1000000000000000000000", "minimum": "-0.00001"}),
        true,
    );
    for (member, word) in [("boolean", "BOOLEAN"), ("bytes", "BYTES"), ("string", "STRING")] {
        check(
            json!({"name": "t", "type": {member: {"accessMode": "ReadWrite"}}}),
            json!({"name": "t", "type": word, "accessMode": "ReadWrite"}),
            true,
        );
    }
    // Never had an effect, and is no desired value.
    check(
        json!({"name": "t", "type": {"string": {"defaultValue": "x"}}}),
        json!({"name": "t", "type": "STRING"}),
        false,
    );
    check(json!({"name": "t", "type": {}}), json!({"name": "t"}), false);
    check(
        json!({"name": "t", "type": {"int": {}, "string": {}}}),
        json!({"name": "t", "type": "INT"}),
        false,
    );
    check(json!({"description": "nameless"}), json!({"description": "nameless"}), true);
}

#[test]
fn a_model_of_a_tutorial() {
    check(
        "DeviceModel",
        json!({"spec": {"properties": [
            {"name": "warmth", "type": {"int": {"accessMode": "ReadOnly", "minimum": -40, "maximum": 120, "unit": "C"}}},
            {"name": "damp", "type": {"int": {"accessMode": "ReadOnly", "minimum": 0, "maximum": 100, "unit": "%"}}},
        ]}}),
        json!({"spec": {"properties": [
            {"name": "warmth", "type": "INT", "accessMode": "ReadOnly", "minimum": "-40", "maximum": "120", "unit": "C"},
            {"name": "damp", "type": "INT", "accessMode": "ReadOnly", "minimum": "0", "maximum": "100", "unit": "%"},
        ]}}),
        true,
    );
}

#[test]
fn a_device_of_a_tutorial_without_visitors() {
    check(
        "Device",
        json!({"spec": {
            "deviceModelRef": {"name": "sensor"},
            "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["edge-7"]}]}]},
            "protocol": {
                "modbus": {"slaveID": 3},
                "common": {"com": {"serialPort": "/dev/ttyS4", "baudRate": 19200, "dataBits": 8, "parity": "even", "stopBits": 1}},
            },
        }}),
        json!({"spec": {
            "deviceModelRef": {"name": "sensor"},
            "nodeName": "edge-7",
            "protocol": {"protocolName": "modbus", "configData":
                {"slaveID": 3, "serialPort": "/dev/ttyS4", "baudRate": 19200, "dataBits": 8, "parity": "even", "stopBits": 1}},
        }}),
        true,
    );
}

#[test]
fn protocols() {
    let check = |alpha: Value, beta: Value, plain: bool| {
        check("Device", json!({"spec": {"protocol": alpha}}), json!({"spec": {"protocol": beta}}), plain);
    };
    check(json!({}), json!({}), true);
    check(
        json!({"modbus": {"slaveID": 1}, "common": {"tcp": {"ip": "10.0.0.5", "port": 502}, "commType": "tcp", "collectType": "sync",
            "reconnTimeout": 5, "customizedValues": {"def1": "x", "def2": 2}}}),
        json!({"protocolName": "modbus", "configData": {"slaveID": 1, "ip": "10.0.0.5", "port": 502, "commType": "tcp",
            "collectType": "sync", "reconnTimeout": 5, "def1": "x", "def2": 2}}),
        true,
    );
    check(
        json!({"opcua": {"url": "opc.tcp://h:4840", "userName": "u", "securityMode": "Sign", "timeout": 5},
            "common": {"customizedValues": {"remoteCertificate": "/ca.pem"}}}),
        json!({"protocolName": "opcua", "configData":
            {"url": "opc.tcp://h:4840", "userName": "u", "securityMode": "Sign", "timeout": 5, "remoteCertificate": "/ca.pem"}}),
        true,
    );
    check(
        json!({"bluetooth": {"macAddress": "BC:6A:29:AE:CC:96"}}),
        json!({"protocolName": "bluetooth", "configData": {"macAddress": "BC:6A:29:AE:CC:96"}}),
        true,
    );
    check(
        json!({"customizedProtocol": {"protocolName": "zigbee", "configData": {"pan": 5, "deep": {"x": [1]}}}}),
        json!({"protocolName": "zigbee", "configData": {"pan": 5, "deep": {"x": [1]}}}),
        true,
    );
    check(json!({"customizedProtocol": {"protocolName": "zigbee"}}), json!({"protocolName": "zigbee"}), true);
    check(json!({"common": {"customizedValues": {"a": 1}}}), json!({"configData": {"a": 1}}), true);
    // Nested values cannot cross to a mapper as they are; a field of the protocol's own wins over a customized one.
    check(
        json!({"modbus": {"slaveID": 1}, "common": {"customizedValues": {"deep": {"x": 1}, "slaveID": 9}}}),
        json!({"protocolName": "modbus", "configData": {"slaveID": 1, "deep": "{\"x\":1}"}}),
        false,
    );
    check(
        json!({"customizedProtocol": {"protocolName": "modbus"}, "opcua": {"url": "u"}}),
        json!({"protocolName": "opcua", "configData": {"url": "u"}}),
        false,
    );
}

#[test]
fn visitors_and_cycles() {
    let check = |alpha: Value, beta: Value, plain: bool| {
        check(
            "Device",
            json!({"spec": {"propertyVisitors": [alpha]}}),
            json!({"spec": {"properties": [beta]}}),
            plain,
        );
    };
    check(
        json!({"propertyName": "heat", "collectCycle": 500, "reportCycle": 1000,
            "modbus": {"register": "HoldingRegister", "offset": 2, "limit": 1, "scale": 0.1, "isSwap": true, "isRegisterSwap": false},
            "customizedValues": {"dataType": "float"}}),
        json!({"name": "heat", "collectCycle": 500, "reportCycle": 1000, "visitors": {"protocolName": "modbus", "configData":
            {"register": "HoldingRegister", "offset": 2, "limit": 1, "scale": 0.1, "isSwap": true, "isRegisterSwap": false, "dataType": "float"}}}),
        true,
    );
    check(
        json!({"propertyName": "heat", "opcua": {"nodeID": "ns=2;i=2", "browseName": "Heat"}}),
        json!({"name": "heat", "visitors": {"protocolName": "opcua", "configData": {"nodeID": "ns=2;i=2", "browseName": "Heat"}}}),
        true,
    );
    check(
        json!({"propertyName": "heat", "bluetooth": {"characteristicUUID": "f000", "dataWrite": {"ON": "AQ=="},
            "dataConverter": {"startIndex": 1, "orderOfOperations": [{"operationType": "Multiply", "operationValue": 2.5}]}}}),
        json!({"name": "heat", "visitors": {"protocolName": "bluetooth", "configData": {"characteristicUUID": "f000",
            "dataWrite": "{\"ON\":\"AQ==\"}",
            "dataConverter": "{\"orderOfOperations\":[{\"operationType\":\"Multiply\",\"operationValue\":2.5}],\"startIndex\":1}"}}}),
        true,
    );
    check(
        json!({"propertyName": "heat", "customizedProtocol": {"protocolName": "zigbee", "configData": {"cluster": 6}}}),
        json!({"name": "heat", "visitors": {"protocolName": "zigbee", "configData": {"cluster": 6}}}),
        true,
    );
    // Nanoseconds become milliseconds, and come back as they were.
    check(
        json!({"propertyName": "heat", "collectCycle": 500_000_000, "reportCycle": 1_234_567_890}),
        json!({"name": "heat", "collectCycle": 500, "reportCycle": 1234}),
        false,
    );
    check(
        json!({"propertyName": "heat", "collectCycle": -1}),
        json!({"name": "heat", "collectCycle": -1}),
        true,
    );
    check(json!({"propertyName": "heat"}), json!({"name": "heat"}), true);
}

#[test]
fn twins_and_data() {
    let twin = |value: &str| json!({"value": value, "metadata": {"type": "int"}});
    check(
        "Device",
        json!({
            "spec": {
                "propertyVisitors": [{"propertyName": "limit", "modbus": {"offset": 1}}, {"propertyName": "heat", "modbus": {"offset": 2}}],
                "data": {"dataTopic": "hall/3", "dataProperties": [{"propertyName": "heat", "metadata": {"type": "int"}}, {"propertyName": "noise"}]},
            },
            "status": {"twins": [
                {"propertyName": "heat", "reported": twin("21")},
                {"propertyName": "limit", "desired": twin("30")},
                {"propertyName": "mode"},
            ]},
        }),
        json!({
            "spec": {"properties": [
                {"name": "limit", "visitors": {"protocolName": "modbus", "configData": {"offset": 1}}, "desired": twin("30"), "reportToCloud": true},
                {"name": "heat", "visitors": {"protocolName": "modbus", "configData": {"offset": 2}}, "reportToCloud": true,
                 "pushMethod": {"mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "hall/3"}}},
                {"name": "mode", "reportToCloud": true},
                {"name": "noise", "pushMethod": {"mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "hall/3"}}},
            ]},
            "status": {"twins": [{"propertyName": "heat", "reported": twin("21")}]},
        }),
        false,
    );
    // The documented default, with the device in place of the wildcard.
    let beta = to_beta(&object(
        ALPHA,
        "Device",
        json!({"spec": {"data": {"dataProperties": [{"propertyName": "heat"}]}}}),
    ));
    let push = &beta["spec"]["properties"][0]["pushMethod"]["mqtt"];
    assert_eq!(push["topic"], "$ke/events/device/plant/oven-1/data/update");
}

#[test]
fn odd_bodies_come_back_the_same() {
    let check = |body: Value| {
        let alpha = object(ALPHA, "Device", body);
        assert_eq!(to_alpha(&to_beta(&alpha)), alpha);
    };
    check(json!({}));
    check(json!({"spec": {}, "status": {}}));
    check(json!({"spec": {"propertyVisitors": []}, "status": {"twins": []}}));
    check(json!({"spec": {"propertyVisitors": []}, "status": {"twins": [{"propertyName": "a"}]}}));
    check(
        json!({"spec": {"propertyVisitors": [{}, {"propertyName": ""}, {"propertyName": "a"}, {"propertyName": "a"}]}}),
    );
    check(
        json!({"spec": {"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "NotIn", "values": ["e", "f"]}]}]}}}),
    );
    check(json!({"spec": {"nodeSelector": {"nodeSelectorTerms": []}, "unknown": 1}, "more": [2]}));
    check(
        json!({"spec": {"protocol": {"modbus": null, "customizedProtocal": {"x": 1}}, "data": {"dataTopic": "t"}}}),
    );
    check(
        json!({"spec": null, "status": {"twins": [{"propertyName": "a", "desired": null, "reported": null}], "unknown": 1}}),
    );
}

#[test]
fn annotations_of_others_stay_and_broken_ones_of_ours_go() {
    let mut alpha = object(ALPHA, "Device", json!({"spec": {"nodeSelector": {"nodeSelectorTerms": []}}}));
    alpha["metadata"]["annotations"] = json!({"a": "b"});
    let beta = to_beta(&alpha);
    assert_eq!(beta["metadata"]["annotations"]["a"], "b");
    assert!(beta["metadata"]["annotations"].get(ALPHA_ANNOTATION).is_some());
    assert_eq!(to_alpha(&beta), alpha);
    let mut broken = beta.clone();
    for text in ["{", "[]", "5", r#"{"nodeSelector": 5, "visitors/x": [], "whole": 1, "twins/": "x"}"#] {
        broken["metadata"]["annotations"][ALPHA_ANNOTATION] = text.into();
        let view = to_alpha(&broken);
        assert_eq!(view["metadata"]["annotations"], json!({"a": "b"}), "{text}");
        assert_eq!(view["spec"], json!({}), "{text}");
    }
}

#[test]
fn a_device_status_only_changes_its_version() {
    let status = object(
        BETA,
        "DeviceStatus",
        json!({"spec": {}, "status": {"state": "online", "extensions": {"x": 1}}}),
    );
    let mut expected = status.clone();
    expected["apiVersion"] = ALPHA.into();
    assert_eq!(to_alpha(&status), expected);
}

#[test]
fn twins_that_an_earlier_cloudcore_left_in_a_status_stay() {
    let beta = object(
        BETA,
        "Device",
        json!({"spec": {"protocol": {}}, "status": {"twins": [
        {"propertyName": "gone", "desired": {"value": "1"}, "reported": {"value": "2"}}]}}),
    );
    let view = to_alpha(&beta);
    assert_eq!(view["status"], json!({"twins": []}));
    assert_eq!(to_beta(&view), beta);
}
