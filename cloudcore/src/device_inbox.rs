//! What the other modules tell DeviceController.

use ke_wire::{DeviceId, Discovery, MessageId, NodeName, StateReport, TwinReport};
use tokio::sync::mpsc;

/// Something that happened to a node's link, or that a node said about devices.
#[derive(Debug)]
pub enum FromEdge {
    /// The node's link is up. DeviceController answers by handing over the node's devices.
    Connected(NodeName),
    /// A link of the node is down; one that replaced it may be up.
    Disconnected(NodeName),
    /// What the node confirmed was forgotten: it needs everything once more.
    Forgotten(NodeName),
    /// What the node said of devices. Boxed: most news are small.
    Said(NodeName, Box<AboutDevices>),
    /// Every connected node is to be compared with what it confirmed.
    Repeat,
}

/// What a node says of devices: of `Up` what is for this module.
#[derive(Debug)]
pub enum AboutDevices {
    /// "Which devices are mine?" By the id it is confirmed.
    WhichAreMine(MessageId),
    /// Properties of a device changed.
    Twins {
        /// By this it is confirmed.
        id: MessageId,
        /// Which device.
        device: DeviceId,
        /// What changed.
        report: TwinReport,
    },
    /// A device came or went.
    State {
        /// By this it is confirmed.
        id: MessageId,
        /// Which device.
        device: DeviceId,
        /// Its state.
        report: StateReport,
    },
    /// Devices that nobody has described yet. Nothing confirms it.
    Discovered(Discovery),
}

/// Cloneable handle to DeviceController.
#[derive(Clone, Debug)]
pub struct DeviceInbox(mpsc::Sender<FromEdge>);

impl DeviceInbox {
    /// A handle and the end that DeviceController reads. Full: the link that has something to say stops reading its
    /// socket. DeviceController only notes what it hears, so that this lasts for moments.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<FromEdge>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Hands over one message. Without a DeviceController (shutdown, or `enable: false`) it is dropped; an edge repeats what
    /// was not confirmed.
    pub async fn tell(&self, message: FromEdge) {
        let _ = self.0.send(message).await;
    }

    /// Hands the queues once more all devices of each connected node. When much else waits, the next pass is soon enough.
    pub fn repeat_all(&self) {
        let _ = self.0.try_send(FromEdge::Repeat);
    }
}
