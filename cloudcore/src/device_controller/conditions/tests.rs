//! Each problem by name, with the property that it is about; and how problems stand among conditions of others.

use ke_api::device::{DataType, TwinValue};

use super::*;
use crate::device_controller::says::{ModelProperty, PropertySays};

fn property(name: &str, desired: &str, has_visitors: bool) -> PropertySays {
    let desired = (!desired.is_empty()).then(|| TwinValue { value: desired.into(), ..TwinValue::default() });
    PropertySays { name: name.into(), desired, has_visitors }
}

fn device() -> DeviceSays {
    DeviceSays {
        node: "e1".into(),
        model: "oven".into(),
        protocol: "modbus".into(),
        properties: vec![property("limit", "20", true)],
        ..DeviceSays::default()
    }
}

fn model() -> ModelSays {
    let limit = ModelProperty {
        name: "limit".into(),
        data_type: Some(DataType::Int),
        minimum: "-5".into(),
        maximum: "30".into(),
        ..ModelProperty::default()
    };
    ModelSays { protocol: "Modbus".into(), properties: vec![limit] }
}

fn told(device: &DeviceSays, model: ModelIs<'_>, node: NodeIs) -> Vec<String> {
    let problems = problems(device, model, node, false);
    problems.into_iter().map(|problem| format!("{}: {}", problem.what.word(), problem.message)).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut DeviceSays, &mut Vec<ModelProperty>), expected: &[&str]) {
    let (mut device, mut model) = (device(), model());
    change(&mut device, &mut model.properties);
    // Each case is about one thing.
    model.protocol.clone_from(&device.protocol);
    let told = told(&device, ModelIs::Known(&model), NodeIs::Known);
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn each_problem_names_property_and_reason() {
    check(|_, _| {}, &[]);
    check(|device, _| device.node.clear(), &["NoNode: spec.nodeName is empty"]);
    check(|device, _| device.model.clear(), &["ModelMissing: spec.deviceModelRef.name is empty"]);
    check(|device, _| device.protocol.clear(), &["NoProtocol: "]);
    check(|device, _| device.protocol = "Zigbee".into(), &["zigbee2mqtt"]);
    check(|device, _| device.protocol = "their-own".into(), &[]);
    check(|device, _| device.properties.push(property("x", "", true)), &["has no property \"x\""]);
    check(
        |device, _| device.properties[0].has_visitors = false,
        &["says how to reach \"limit\": add visitors"],
    );
    check(
        |device, model| {
            device.properties[0].has_visitors = false;
            model[0].has_visitors = true;
        },
        &[],
    );
    check(
        |device, _| {
            device.properties[0].has_visitors = false;
            device.protocol = "their-own".into();
        },
        &[],
    );
    check(
        |_, model| model[0].data_type = Some(DataType::Stream),
        &["StreamUnsupported: \"limit\" is of type STREAM"],
    );
}

#[test]
fn the_sample_without_visitors_is_told_exactly_that() {
    check(
        |device, model| {
            device.properties.clear();
            device.is_from_alpha = true;
            model.push(ModelProperty { name: "humidity".into(), ..ModelProperty::default() });
        },
        &[
            "NoVisitors: the device has no visitors: it lists no property, so that nothing of it is read; DeviceModel \
           \"oven\" has \"limit\", \"humidity\": add each to spec.properties (in a v1alpha2 manifest: \
           spec.propertyVisitors) with visitors.configData such as {\"register\"",
        ],
    );
}

#[test]
fn desired_values_are_measured_by_the_model() {
    let desired = |value: &'static str, data_type: DataType, expected: &[&str]| {
        check(
            |device, model| {
                device.properties = vec![property("limit", value, true)];
                model[0].data_type = Some(data_type);
            },
            expected,
        );
    };
    desired("30", DataType::Int, &[]);
    desired("31", DataType::Int, &["the desired value of \"limit\" is 31, above the model's maximum 30"]);
    desired("-6", DataType::Int, &["below the model's minimum -5"]);
    desired("2.5", DataType::Int, &["is \"2.5\", which is no whole number"]);
    desired("2.5", DataType::Double, &[]);
    desired("NaN", DataType::Float, &["no number"]);
    desired("yes", DataType::Boolean, &["expected true or false"]);
    desired("T", DataType::Boolean, &[]);
    desired("\"x\" °", DataType::String, &[]);
    check(|_, model| model[0].is_read_only = true, &["ReadOnly"]);
}

#[test]
fn models_and_nodes_that_are_not_there() {
    let told = |model, node| told(&device(), model, node);
    assert!(told(ModelIs::Missing, NodeIs::Known)[0].contains("there is no DeviceModel \"oven\""));
    assert!(told(ModelIs::Deleted, NodeIs::Known)[0].contains("was deleted"));
    assert!(told(ModelIs::NotTold, NodeIs::NotTold).is_empty());
    assert!(
        told(ModelIs::Known(&model()), NodeIs::Unknown)[0]
            .starts_with("NodeUnknown: there is no edge node \"e1\"")
    );
    let served = DeviceSays { protocol: "bluetooth".into(), ..device() };
    let is_served = problems(&served, ModelIs::Known(&model()), NodeIs::Known, true);
    assert!(
        is_served.iter().all(|problem| problem.what != What::ProtocolUnsupported),
        "a mapper has reported it"
    );
}

#[test]
fn a_model_of_another_protocol_is_told() {
    let opcua = ModelSays { protocol: "opcua".into(), ..model() };
    let told = told(&device(), ModelIs::Known(&opcua), NodeIs::Known);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with(
        "ModelProtocolDiffers: DeviceModel \"oven\" is of the protocol \"opcua\" (spec.protocol), the device of \"modbus\""
    ));
}

#[test]
fn what_a_node_says_is_shown_and_found_again() {
    let says = |reason: &str, message: &str| DeviceState {
        reason: reason.into(),
        message: message.into(),
        ..DeviceState::default()
    };
    let problem = told_by_node(&says("NoMapper", "none has registered")).unwrap();
    assert_eq!((problem.what.word(), problem.message.as_str()), ("NoMapper", "none has registered"));
    for nothing in [says("", ""), says("NoMapper", ""), says("Fire", "in hall 3")] {
        assert_eq!(told_by_node(&nothing), None);
    }
    assert_eq!(told_by_node(&says("NoMapper", &"x".repeat(5000))).unwrap().message.len(), MAX_TOLD);
    let others = json!({"type": "NoVisitors", "status": "True", "message": "none"});
    let shown = merged(&[others], std::slice::from_ref(&problem), "T1");
    assert_eq!(told_before(&shown), Some(problem));
    assert_eq!(told_before(&merged(&shown, &[], "T2")), None);
}

#[test]
fn conditions_of_others_stay_and_ours_keep_their_time() {
    let problem = |message: &str| Problem { what: What::NoNode, message: message.to_owned() };
    let theirs = json!({"type": "Calibrated", "status": "True"});
    let first = merged(std::slice::from_ref(&theirs), &[problem("a")], "T1");
    assert!(is_told(&first, &problem("a")) && !is_told(&first, &problem("b")));
    let second = merged(&first, &[problem("b")], "T2");
    assert_eq!(second[1]["lastTransitionTime"], "T1");
    assert_eq!(second[1]["message"], "b");
    assert_eq!(merged(&second, &[], "T3"), [theirs]);
}
