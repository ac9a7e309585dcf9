//! What nodes are told of their devices: all of them on a new link, changes from then on.

use ke_wire::{Down, MessageId, NodeName};

use super::super::placement::Effect;
use super::{Running, unix_ms};
use crate::node_queue::{QueueOrder, Share};

impl Running {
    /// A Go edge asks which devices are its own on each connect, and tells its mappers only of what comes from this module:
    /// what it confirmed to another cloudcore they may never have heard of. So it gets all, once a link.
    pub(super) async fn on_detail(&mut self, node: NodeName, asked: MessageId) {
        // Otherwise it asks again every minute.
        self.say(&node, Down::TwinConfirmed { id: MessageId::fresh(), to: asked }).await;
        let Some(link) = self.links.get_mut(&node).filter(|link| link.is_handed_over) else { return };
        if std::mem::replace(&mut link.is_refreshed, true) {
            return;
        }
        let whole = self.placement.whole(&node);
        self.say(&node, membership_all(whole.references)).await;
        for object in whole.models.into_iter().chain(whole.devices) {
            self.queues.tell(QueueOrder::Again(node.clone(), object)).await;
        }
    }

    /// All devices and models of a node: who they are, then each, between marks after which whatever else of them it
    /// holds is too much. Not before all of them are known.
    pub(super) async fn hand_over(&mut self, node: &NodeName) {
        if !self.placement.is_complete() {
            return;
        }
        let Some(link) = self.links.get_mut(node) else { return };
        link.is_handed_over = true;
        let whole = self.placement.whole(node);
        self.say(node, membership_all(whole.references)).await;
        for share in [Share::Models, Share::Devices] {
            self.queues.tell(QueueOrder::HandOver(node.clone(), share)).await;
        }
        for object in whole.models.into_iter().chain(whole.devices) {
            self.queues.tell(QueueOrder::Put(node.clone(), object)).await;
        }
        self.queues.tell(QueueOrder::Synced(node.clone(), Share::Devices)).await;
        // A model that was deleted before we started is not known here; the node goes on with what it has of it.
        if !whole.lacks_model {
            self.queues.tell(QueueOrder::Synced(node.clone(), Share::Models)).await;
        }
    }

    pub(super) async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Came(node, device) => self.tell(&node, membership(vec![device], Vec::new())).await,
                Effect::Left(node, device) => self.tell(&node, membership(Vec::new(), vec![device])).await,
                Effect::Put(node, put) => self.order(&node.clone(), QueueOrder::Put(node, put)).await,
                Effect::Again(node, put) => self.order(&node.clone(), QueueOrder::Again(node, put)).await,
                Effect::Delete(node, gone) => self.order(&node.clone(), QueueOrder::Delete(node, gone)).await,
                Effect::Judge(id) => self.judge(&id),
                Effect::Ended(id) => {
                    self.unplaced.remove(&id);
                    self.statuses.ended(&id);
                }
            }
        }
    }

    /// A node without a link gets all at once when it is back.
    pub(super) async fn order(&self, node: &NodeName, order: QueueOrder) {
        if self.links.get(node).is_some_and(|link| link.is_handed_over) {
            self.queues.tell(order).await;
        }
    }

    pub(super) async fn tell(&self, node: &NodeName, message: Down) {
        self.order(node, QueueOrder::Say(node.clone(), Box::new(message))).await;
    }

    pub(super) async fn say(&self, node: &NodeName, message: Down) {
        self.queues.tell(QueueOrder::Say(node.clone(), Box::new(message))).await;
    }
}

fn membership(added: Vec<ke_wire::DeviceRef>, removed: Vec<ke_wire::DeviceRef>) -> Down {
    let event_id = uuid::Uuid::new_v4().to_string();
    Down::Membership { id: MessageId::fresh(), event_id, timestamp_ms: unix_ms(), added, removed }
}

pub(super) fn membership_all(devices: Vec<ke_wire::DeviceRef>) -> Down {
    let event_id = uuid::Uuid::new_v4().to_string();
    Down::MembershipAll { id: MessageId::fresh(), event_id, timestamp_ms: unix_ms(), devices }
}
