//! Pure: MQTT topics to what they mean and back. Topics are text nowhere else; filters are `ke-mqtt`'s.
//!
//! A device is `<namespace>/<name>`, two levels. Levels are split at `/`, never searched for words: KubeEdge's own edges
//! lose the events of devices whose namespace is part of the topic's fixed words (`dev`, `device`, `events`).

use std::fmt;
use std::str::FromStr;

use ke_wire::{DeviceId, NodeName};

/// What a topic of ours is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Clients write or read one device.
    Device(DeviceId, DeviceTopic),
    /// Clients ask which devices this node has, and are told.
    Node(NodeName, NodeTopic),
}

/// Whose a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours.
    Ours(Topic),
    /// Of our kind, but of no device or node.
    Nobodys,
    /// Any other: what is said there is for the cloud.
    Clouds,
}

impl Whose {
    /// Of a topic that something was said on.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if !(text.starts_with("$hw/events/device/") || text.starts_with("$hw/events/node/")) {
            return Self::Clouds;
        }
        text.parse().map_or(Self::Nobodys, Self::Ours)
    }
}

/// The last levels of a device's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceTopic {
    /// In: change `expected` or `actual`.
    TwinUpdate,
    /// Out: the new values, or why not.
    TwinUpdateResult,
    /// Out: before and after of what changed.
    TwinUpdateDocument,
    /// Out: what is not as it should be.
    TwinUpdateDelta,
    /// In: read all properties.
    TwinGet,
    /// Out: all properties, or why not.
    TwinGetResult,
    /// In: values with versions, from another copy of this twin.
    TwinCloudUpdated,
    /// In: whether the device is there.
    StateUpdate,
    /// Out: the new state.
    StateUpdateResult,
    /// Out: attributes changed.
    Updated,
}

/// The last levels of a node's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeTopic {
    /// In: which devices are there.
    MembershipGet,
    /// Out: those.
    MembershipGetResult,
    /// Out: one came or went.
    MembershipUpdated,
}

const DEVICE: &[(DeviceTopic, &str)] = &[
    (DeviceTopic::TwinUpdate, "twin/update"),
    (DeviceTopic::TwinUpdateResult, "twin/update/result"),
    (DeviceTopic::TwinUpdateDocument, "twin/update/document"),
    (DeviceTopic::TwinUpdateDelta, "twin/update/delta"),
    (DeviceTopic::TwinGet, "twin/get"),
    (DeviceTopic::TwinGetResult, "twin/get/result"),
    (DeviceTopic::TwinCloudUpdated, "twin/cloud_updated"),
    (DeviceTopic::StateUpdate, "state/update"),
    (DeviceTopic::StateUpdateResult, "state/update/result"),
    (DeviceTopic::Updated, "updated"),
];

const NODE: &[(NodeTopic, &str)] = &[
    (NodeTopic::MembershipGet, "membership/get"),
    (NodeTopic::MembershipGetResult, "membership/get/result"),
    (NodeTopic::MembershipUpdated, "membership/updated"),
];

/// What EdgeCore listens to on every broker. The rest of a broker's traffic is its clients' own.
pub const LISTENED: &[&str] = &[
    "$hw/events/upload/#",
    "$hw/events/device/+/+/state/update",
    "$hw/events/device/+/+/twin/+",
    "$hw/events/node/+/membership/get",
    "SYS/dis/upload_records",
    "+/user/#",
];

/// The text is no topic of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no topic of a device or node")]
pub struct NotOurs;

impl FromStr for Topic {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let rest = text.strip_prefix("$hw/events/").ok_or(NotOurs)?;
        let (kind, rest) = rest.split_once('/').ok_or(NotOurs)?;
        let (first, rest) = rest.split_once('/').ok_or(NotOurs)?;
        match kind {
            "device" => {
                let (name, rest) = rest.split_once('/').ok_or(NotOurs)?;
                let id = DeviceId {
                    namespace: first.parse().map_err(|_| NotOurs)?,
                    name: name.parse().map_err(|_| NotOurs)?,
                };
                let (topic, _) = DEVICE.iter().find(|(_, tail)| *tail == rest).ok_or(NotOurs)?;
                Ok(Self::Device(id, *topic))
            }
            "node" => {
                let (topic, _) = NODE.iter().find(|(_, tail)| *tail == rest).ok_or(NotOurs)?;
                Ok(Self::Node(first.parse().map_err(|_| NotOurs)?, *topic))
            }
            _ => Err(NotOurs),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id, topic) => {
                let tail = DEVICE.iter().find(|(known, _)| known == topic).map_or("", |(_, tail)| tail);
                write!(f, "$hw/events/device/{id}/{tail}")
            }
            Self::Node(node, topic) => {
                let tail = NODE.iter().find(|(known, _)| known == topic).map_or("", |(_, tail)| tail);
                write!(f, "$hw/events/node/{node}/{tail}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ke_mqtt::matches;

    use super::*;

    #[test]
    fn topics_go_round() {
        let check = |text: &str, expected: Option<&str>| {
            let parsed = text.parse::<Topic>();
            assert_eq!(parsed.as_ref().map(ToString::to_string).ok().as_deref(), expected, "{text}");
        };
        for (_, tail) in DEVICE {
            // Namespaces that are words of the topic itself.
            for id in ["plant/oven-1", "device/events", "hw/device", "e/v"] {
                let text = format!("$hw/events/device/{id}/{tail}");
                check(&text, Some(&text));
            }
        }
        for (_, tail) in NODE {
            let text = format!("$hw/events/node/edge-1/{tail}");
            check(&text, Some(&text));
        }
        for bad in [
            "",
            "$hw/events/device/plant/oven-1/twin/what",
            "$hw/events/device/oven-1/twin/update",
            "$hw/events/device//oven/twin/update",
            "$hw/events/device/PLANT/oven/twin/update",
            "$hw/events/upload/x",
            "plant/user/x",
            "$hw/events/device/plant/oven-1/twin/update/",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_listened_to_is_what_clients_may_say() {
        let incoming = [
            DeviceTopic::TwinUpdate,
            DeviceTopic::TwinGet,
            DeviceTopic::TwinCloudUpdated,
            DeviceTopic::StateUpdate,
        ];
        for (topic, tail) in DEVICE {
            let text = format!("$hw/events/device/p/o/{tail}");
            let is_heard = LISTENED.iter().any(|filter| matches(filter, &text));
            assert_eq!(is_heard, incoming.contains(topic), "{text}");
        }
    }
}
