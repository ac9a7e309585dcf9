//! Pure: what is wrong with a device, in one sentence each that names the property and says what to do; and how that
//! stands in a list of Kubernetes conditions.
//!
//! A problem is a condition with status True and goes away when it is solved; a healthy device has none of them.
//! Conditions of others stay. What only the node can know is not guessed: the node tells it ([`told_by_node`]). Called by
//! `running.rs`.

mod properties;

use ke_wire::{DeviceState, Trouble};
use serde_json::{Value, json};

use self::properties::properties;
use super::says::{DeviceSays, ModelSays};

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
mod tests;
