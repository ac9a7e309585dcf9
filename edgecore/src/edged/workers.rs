//! Each Pod has one worker. Here it is started, woken, and started again should it break; it ends when its Pod is forgotten.

use std::sync::Arc;

use ke_wire::Uid;
use tokio::sync::{mpsc, watch};
use tokio::task::Id;

use super::desired::Desired;
use super::door::{Arrival, Origin};
use super::events::{Recorder, Subject};
use super::evicted::Life;
use super::resources::{Qos, pod_request, qos};
use super::state::{Edged, Entry};
use super::worker::{Ears, Memory, Worker};

impl Edged {
    pub(super) fn start_worker(&mut self, uid: &Uid) {
        let is_waiting = self.waiting.holds(uid);
        let may_begin = |entry: &&mut Entry| self.met && !entry.is_held && !is_waiting;
        let Some(entry) = self.pods.get_mut(uid).filter(may_begin) else { return };
        // One waiting word is enough: it makes the worker look at everything that changed.
        let (config_changed, changes) = mpsc::channel(1);
        entry.config_changed = config_changed;
        let desired = entry.desired.subscribe();
        let (life, seen) = watch::channel(Life::default());
        entry.life = seen;
        let care = entry.care.subscribe();
        if let Desired::Run(pod) = &desired.borrow().want {
            self.shared.room.expect(uid.as_str(), pod);
        }
        let subject = desired.borrow().pod().map_or_else(
            || Subject { namespace: String::new(), name: String::new(), uid: uid.to_string() },
            |pod| Subject {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                uid: uid.to_string(),
            },
        );
        let worker = Worker {
            shared: self.shared.clone(),
            ears: Ears { desired, wake: entry.wake.clone(), care, life, config_changed: changes },
            uid: uid.clone(),
            recorder: Recorder::new(&self.shared.hands.settings.node_name, subject),
            memory: Memory::default(),
            arrival: Arrival {
                origin: entry.origin,
                refusal: entry.refusal.clone(),
                has_ended: Arc::clone(&entry.has_ended),
            },
        };
        let task = self.tasks.spawn(worker.run());
        self.workers.insert(task.id(), uid.clone());
    }

    /// A worker ends when its Pod is forgotten. One that broke is started again.
    pub(super) fn on_ended(&mut self, task: Id) {
        let Some(uid) = self.workers.remove(&task) else { return };
        let Some(entry) = self.pods.get(&uid) else { return };
        if matches!(entry.desired.borrow().want, Desired::Removed(_)) {
            let was = entry.origin;
            self.pods.remove(&uid);
            self.seen.remove(&uid);
            self.weigh_classes();
            if was == Origin::File {
                self.on_static_pods();
            }
        } else {
            self.start_worker(&uid);
        }
    }

    pub(super) fn wake(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get(uid) {
            entry.wake.notify_one();
        }
    }

    /// Burstable pods together weigh what they ask for, against best-effort ones and the rest of the machine.
    pub(super) fn weigh_classes(&self) {
        let Some(cgroups) = &self.shared.hands.cgroups else { return };
        let asked = self.pods.values().filter_map(|entry| {
            let desired = entry.desired.borrow();
            let pod = desired.pod().filter(|pod| qos(pod) == Qos::Burstable)?;
            Some(pod_request(pod, "cpu").millis())
        });
        if let Err(error) = cgroups.ensure_classes(asked.fold(0, i64::saturating_add)) {
            tracing::warn!(%error, "the cgroups of the pod classes are not as they should be");
        }
    }
}
