//! Pure: whom each message of a node is for, once `admit.rs` has let it in.
//!
//! Behind it nobody holds an `Up`: each recipient has a type with no more than what is for it. Called by `node_link.rs`.

use ke_wire::{About, EventChange, MessageId, ObjectKey, Question, Up};

use crate::device_inbox::AboutDevices;

/// A message with its recipient.
#[derive(Debug)]
pub(super) enum Recipient {
    /// EdgeController answers it.
    Answers(MessageId, Question),
    /// EdgeController stores it.
    Events(ObjectKey, EventChange),
    /// DeviceController notes it.
    Devices(AboutDevices),
    /// The link itself: the node could not keep an object, and why.
    Link(About, String),
    /// Nothing in this cloudcore takes it, and nobody answers: it is counted. What it was, for the log.
    Nobody(&'static str),
}

/// Whom it is for.
pub(super) fn recipient(message: Up) -> Recipient {
    match message {
        Up::Ask { id, question } => Recipient::Answers(id, question),
        Up::Event { key, change, .. } => Recipient::Events(key, change),
        Up::MembershipDetail { id, .. } => Recipient::Devices(AboutDevices::WhichAreMine(id)),
        Up::TwinReport { id, device, report } => {
            Recipient::Devices(AboutDevices::Twins { id, device, report })
        }
        Up::StateReport { id, device, report } => {
            Recipient::Devices(AboutDevices::State { id, device, report })
        }
        Up::Discovered { discovery, .. } => Recipient::Devices(AboutDevices::Discovered(discovery)),
        Up::NotKept { about, why, .. } => Recipient::Link(about, why),
        // Taken by CloudEnd.
        Up::Keepalive { .. } | Up::Ack { .. } => Recipient::Nobody("a word of the link"),
        // Dropped by `admit.rs`.
        Up::OldPodStatus { .. }
        | Up::OldPodStatuses { .. }
        | Up::OldNode { .. }
        | Up::OldNodeStatus { .. } => Recipient::Nobody("a status as edges before v1.10 sent it"),
        // For rooms that are not there yet. docs/chart.md names them beside the counter.
        Up::Apply { .. } => Recipient::Nobody("a request of a local API client"),
        Up::SetWatches { .. } => Recipient::Nobody("the watches of local API clients"),
        Up::MqttUpload { .. } => Recipient::Nobody("an MQTT message for a rule"),
        Up::ServiceUpload { .. } => Recipient::Nobody("a local program's request to a URL in the cloud"),
        Up::ServiceReplied { .. } | Up::ServiceFailed { .. } => {
            Recipient::Nobody("what came of a call to a local service")
        }
        Up::CsiAnswered { .. } => Recipient::Nobody("what came of a storage request"),
        Up::JobReport { .. } | Up::TaskReport { .. } => Recipient::Nobody("how a job got on"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ke_wire::Discovery;

    use super::*;

    #[test]
    fn each_recipient_gets_its_own() {
        let check = |message: Up, expected: &str| {
            let shown = format!("{:?}", recipient(message));
            assert!(shown.starts_with(expected), "{shown}, expected {expected}");
        };
        let id = || "1".parse::<MessageId>().unwrap();
        check(Up::Ask { id: id(), question: Question::ApiServerCa }, "Answers(");
        let key = "shop/event/x".parse().unwrap();
        check(Up::Event { id: id(), key, change: EventChange::Created("{}".into()) }, "Events(");
        check(Up::MembershipDetail { id: id(), request: String::new() }, "Devices(WhichAreMine");
        check(Up::Discovered { id: id(), discovery: Discovery::default() }, "Devices(Discovered");
        let why = "disk full".to_owned();
        check(Up::NotKept { id: id(), to: id(), about: About::Unnamed, why }, "Link(Unnamed, \"disk full\")");
        check(Up::SetWatches { id: id(), watches: BTreeMap::new() }, "Nobody(");
    }
}
