//! Pure: what is wrong with a device, in one sentence each that names the property and says what to do; and how that
//! stands in a list of Kubernetes conditions.
//!
//! A problem is a condition with status True and goes away when it is solved; a healthy device has none of them.
//! Conditions of others stay. What only the node can know is not guessed: the node tells it ([`told_by_node`]). Called by
//! `mod.rs`.

use ke_api::device::DataType;
use ke_wire::{DeviceState, Trouble};
use serde_json::{Value, json};

use super::says::{DeviceSays, ModelProperty, ModelSays};

/// Types of the conditions that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `spec.nodeName` is empty.
    NoNode,
    /// There is no such node.
    NodeUnknown,
    /// There is no model, or none that can be used.
    ModelMissing,
    /// `protocolName` is empty.
    NoProtocol,
    /// No mapper of ours serves it.
    ProtocolUnsupported,
    /// Properties are of type STREAM.
    StreamUnsupported,
    /// The model lacks properties.
    PropertyNotInModel,
    /// Nothing says how to reach properties.
    NoVisitors,
    /// A desired value does not fit the model.
    DesiredInvalid,
    /// The model is of another protocol.
    ModelProtocolDiffers,
    /// What the node tells.
    Told(Trouble),
}

impl What {
    const ALL: [Self; 13] = [
        Self::NoNode,
        Self::NodeUnknown,
        Self::ModelMissing,
        Self::NoProtocol,
        Self::ProtocolUnsupported,
        Self::StreamUnsupported,
        Self::PropertyNotInModel,
        Self::NoVisitors,
        Self::DesiredInvalid,
        Self::ModelProtocolDiffers,
        Self::Told(Trouble::NoMapper),
        Self::Told(Trouble::MapperAway),
        Self::Told(Trouble::DeviceTrouble),
    ];

    /// The condition's type, which is also the reason of events.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::NoNode => "NoNode",
            Self::NodeUnknown => "NodeUnknown",
            Self::ModelMissing => "ModelMissing",
            Self::NoProtocol => "NoProtocol",
            Self::ProtocolUnsupported => "ProtocolUnsupported",
            Self::StreamUnsupported => "StreamUnsupported",
            Self::PropertyNotInModel => "PropertyNotInModel",
            Self::NoVisitors => "NoVisitors",
            Self::DesiredInvalid => "DesiredInvalid",
            Self::ModelProtocolDiffers => "ModelProtocolDiffers",
            Self::Told(trouble) => trouble.word(),
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.word() == word)
    }
}

/// Characters of what a node tells that are shown.
const MAX_TOLD: usize = 1000;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) what: What,
    /// For people: what, and what to do.
    pub(super) message: String,
}

/// Whether the node of a device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeIs {
    Known,
    Unknown,
    /// Not all nodes are known yet.
    NotTold,
}

/// The model of a device.
#[derive(Clone, Copy, Debug)]
pub(super) enum ModelIs<'a> {
    Known(&'a ModelSays),
    /// It is not there.
    Missing,
    /// It was deleted while this device uses it.
    Deleted,
    /// It is there but cannot be read, and why.
    Unreadable(&'a str),
    /// Not all models are known yet.
    NotTold,
}

/// What is wrong with a device. `is_heard`: something was reported of it, so that a mapper serves it.
pub(super) fn problems(
    device: &DeviceSays,
    model: ModelIs<'_>,
    node: NodeIs,
    is_heard: bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |what: What, message: String| problems.push(Problem { what, message });
    if device.node.is_empty() {
        add(
            What::NoNode,
            "spec.nodeName is empty, so that no node handles the device: set it to the name of an edge node"
                .to_owned(),
        );
    } else if node == NodeIs::Unknown {
        add(
            What::NodeUnknown,
            format!(
                "there is no edge node {:?} (spec.nodeName); `kubectl get nodes -l node-role.kubernetes.io/edge` shows those there are",
                device.node
            ),
        );
    }
    let name = &device.model;
    match model {
        _ if name.is_empty() => add(
            What::ModelMissing,
            "spec.deviceModelRef.name is empty: name a DeviceModel of the same namespace".to_owned(),
        ),
        ModelIs::Missing => add(
            What::ModelMissing,
            format!(
                "there is no DeviceModel {name:?} in this namespace (spec.deviceModelRef.name); the device works as soon as it is created"
            ),
        ),
        ModelIs::Deleted => add(
            What::ModelMissing,
            format!(
                "DeviceModel {name:?} was deleted while this device uses it; the node goes on with the last one until it is created anew"
            ),
        ),
        ModelIs::Unreadable(why) => add(What::ModelMissing, format!("the model is of no use: {why}")),
        ModelIs::Known(_) | ModelIs::NotTold => {}
    }
    if device.protocol.is_empty() {
        let lost = if device.is_from_alpha {
            "; was it lost when the v1alpha2 manifest was stored? Then apply that once more"
        } else {
            ""
        };
        add(
            What::NoProtocol,
            format!("spec.protocol.protocolName is empty, so that no mapper gets the device{lost}"),
        );
    } else if let (false, Some(advice)) = (is_heard, unsupported(&device.protocol)) {
        add(
            What::ProtocolUnsupported,
            format!(
                "no mapper of Isthmus serves the protocol {:?} and none has reported this device: {advice}",
                device.protocol
            ),
        );
    }
    if let (ModelIs::Known(model), false) = (model, name.is_empty()) {
        let protocol = &model.protocol;
        if !protocol.is_empty()
            && !device.protocol.is_empty()
            && !protocol.eq_ignore_ascii_case(&device.protocol)
        {
            add(
                What::ModelProtocolDiffers,
                format!(
                    "DeviceModel {name:?} is of the protocol {protocol:?} (spec.protocol), the device of {:?} \
                     (spec.protocol.protocolName): the mapper of the latter gets it, and what the model says of visitors may mean \
                     nothing there; correct one of the two",
                    device.protocol
                ),
            );
        }
        properties(device, &model.properties, &mut add);
    }
    problems
}

/// What a node says is wrong with a device of its own, if it says so in a way that is known.
pub(super) fn told_by_node(state: &DeviceState) -> Option<Problem> {
    let what = What::Told(Trouble::of(&state.reason)?);
    let message: String = state.message.chars().take(MAX_TOLD).collect();
    (!message.is_empty()).then_some(Problem { what, message })
}

/// What a node had said when these conditions were written.
pub(super) fn told_before(shown: &[Value]) -> Option<Problem> {
    let text = |condition: &Value, field: &str| Some(condition.get(field)?.as_str()?.to_owned());
    shown.iter().find_map(|condition| {
        let what = What::Told(Trouble::of(&text(condition, "type")?)?);
        (text(condition, "status")? == "True").then_some(())?;
        Some(Problem { what, message: text(condition, "message")? })
    })
}

/// What to do about a protocol that surely needs a mapper of somebody else.
fn unsupported(protocol: &str) -> Option<&'static str> {
    let protocol = protocol.to_ascii_lowercase();
    if ["bluetooth", "ble"].contains(&protocol.as_str()) {
        Some("run a mapper that registers for it on the node, for example one written with mapper-sdk")
    } else if ["zigbee", "zwave", "z-wave"].contains(&protocol.as_str()) {
        Some(
            "bridge it to MQTT (zigbee2mqtt, zwave-js-ui) and use the protocol \"mqtt\", or run a mapper that registers \
             for it on the node",
        )
    } else {
        None
    }
}

fn properties(device: &DeviceSays, model: &[ModelProperty], add: &mut impl FnMut(What, String)) {
    let of_model = |name: &str| model.iter().find(|property| property.name == *name);
    let name = &device.model;
    let strangers: Vec<&str> = device
        .properties
        .iter()
        .map(|property| property.name.as_str())
        .filter(|name| of_model(name).is_none())
        .collect();
    if !strangers.is_empty() {
        add(
            What::PropertyNotInModel,
            format!(
                "DeviceModel {name:?} has no property {}: nothing is read or written there; correct the name or add it to the model",
                quoted(&strangers)
            ),
        );
    }
    let streams: Vec<&str> = device
        .properties
        .iter()
        .map(|property| property.name.as_str())
        .filter(|name| of_model(name).is_some_and(|property| property.data_type == Some(DataType::Stream)))
        .collect();
    if !streams.is_empty() {
        add(
            What::StreamUnsupported,
            format!(
                "{} is of type STREAM, which no mapper of Isthmus serves: a mapper with FFmpeg, such as KubeEdge's ONVIF mapper, \
             must run on the node",
                quoted(&streams)
            ),
        );
    }
    if let Some(problem) = visitors(device, model) {
        add(What::NoVisitors, problem);
    }
    let mut wrong = Vec::new();
    for property in &device.properties {
        let desired = property.desired.as_ref().map_or("", |desired| desired.value.as_str());
        if let (false, Some(of_model)) = (desired.is_empty(), of_model(&property.name))
            && let Err(reason) = fits(desired, of_model)
        {
            wrong.push(format!("the desired value of {:?} {reason}", property.name));
        }
    }
    if !wrong.is_empty() {
        add(What::DesiredInvalid, wrong.join("; "));
    }
}

/// Protocols whose mappers cannot do without being told how to reach a property, with an example.
fn example_of_visitors(protocol: &str) -> Option<&'static str> {
    let protocol = protocol.to_ascii_lowercase();
    let starts = |with: &str| protocol.starts_with(with);
    if starts("modbus") {
        Some(r#"{"register": "HoldingRegister", "offset": 0, "limit": 1}"#)
    } else if starts("opcua") || starts("opc-ua") {
        Some(r#"{"nodeID": "ns=2;s=Temperature"}"#)
    } else if starts("bluetooth") {
        Some(r#"{"characteristicUUID": "f000aa0104514000b000000000000000"}"#)
    } else {
        None
    }
}

fn visitors(device: &DeviceSays, model: &[ModelProperty]) -> Option<String> {
    if model.is_empty() {
        return None;
    }
    let example = example_of_visitors(&device.protocol);
    let in_alpha = if device.is_from_alpha { " (in a v1alpha2 manifest: spec.propertyVisitors)" } else { "" };
    if device.properties.is_empty() {
        let names: Vec<&str> = model.iter().map(|property| property.name.as_str()).collect();
        let example =
            example.map(|example| format!(" with visitors.configData such as {example}")).unwrap_or_default();
        return Some(format!(
            "the device has no visitors: it lists no property, so that nothing of it is read; DeviceModel {:?} has {}: \
             add each to spec.properties{in_alpha}{example}",
            device.model,
            quoted(&names)
        ));
    }
    let example = example?;
    let has_in_model =
        |name: &str| model.iter().any(|property| property.name == name && property.has_visitors);
    let missing: Vec<&str> = device
        .properties
        .iter()
        .filter(|property| !property.has_visitors && !has_in_model(&property.name))
        .map(|property| property.name.as_str())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "neither the device nor DeviceModel {:?} says how to reach {}: add visitors.configData such as {example} to the \
             property in spec.properties of one of them{in_alpha}",
            device.model,
            quoted(&missing)
        )
    })
}

/// Whether a desired value can be written to such a property.
fn fits(value: &str, property: &ModelProperty) -> Result<(), String> {
    if property.is_read_only {
        return Err("is never written, since the model says ReadOnly".to_owned());
    }
    let number = match property.data_type {
        Some(DataType::Int) => {
            let number = value.trim().parse::<i64>();
            #[expect(clippy::cast_precision_loss, reason = "limits are compared, nothing is computed")]
            let number = number.map(|number| number as f64);
            number.map_err(|_| format!("is {value:?}, which is no whole number (INT)"))?
        }
        Some(DataType::Float | DataType::Double) => match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => number,
            _ => return Err(format!("is {value:?}, which is no number (FLOAT, DOUBLE)")),
        },
        Some(DataType::Boolean) => {
            // As Go's ParseBool, which Go mappers use.
            let is_boolean =
                ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"]
                    .contains(&value);
            return if is_boolean {
                Ok(())
            } else {
                Err(format!("is {value:?}, expected true or false (BOOLEAN)"))
            };
        }
        Some(DataType::String | DataType::Bytes | DataType::Stream) | None => return Ok(()),
    };
    if property.minimum.trim().parse::<f64>().is_ok_and(|minimum| number < minimum) {
        return Err(format!("is {value}, below the model's minimum {}", property.minimum));
    }
    if property.maximum.trim().parse::<f64>().is_ok_and(|maximum| number > maximum) {
        return Err(format!("is {value}, above the model's maximum {}", property.maximum));
    }
    Ok(())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// The list as it is to be: others' conditions as they are, ours as `problems` says. `now` as RFC 3339.
pub(super) fn merged(shown: &[Value], problems: &[Problem], now: &str) -> Vec<Value> {
    let text = |condition: &Value, field: &str| {
        condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut merged: Vec<Value> = shown
        .iter()
        .filter(|condition| What::of(text(condition, "type").as_str()).is_none())
        .cloned()
        .collect();
    for problem in problems {
        let before = shown.iter().find(|condition| text(condition, "type") == problem.what.word());
        let since = before
            .filter(|before| text(before, "status") == "True")
            .map(|before| text(before, "lastTransitionTime"));
        let since = since.filter(|since| !since.is_empty()).unwrap_or_else(|| now.to_owned());
        merged.push(json!({"type": problem.what.word(), "status": "True", "reason": problem.what.word(),
            "message": problem.message, "lastTransitionTime": since}));
    }
    merged
}

/// Whether the list says this already.
pub(super) fn is_told(shown: &[Value], problem: &Problem) -> bool {
    shown.iter().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some(problem.what.word())
            && condition.get("message").and_then(Value::as_str) == Some(&problem.message)
    })
}

#[cfg(test)]
mod tests {
    use ke_api::device::TwinValue;

    use super::*;
    use crate::device_controller::says::PropertySays;

    fn property(name: &str, desired: &str, has_visitors: bool) -> PropertySays {
        let desired =
            (!desired.is_empty()).then(|| TwinValue { value: desired.into(), ..TwinValue::default() });
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
}
