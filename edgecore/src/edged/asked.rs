//! What Edged does for who keeps the machine (`keeper.rs`): says how its pods are, and ends some.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::jiff::Timestamp;
use ke_cri::v1::ContainerState;
use ke_wire::Uid;

use super::desired::{Desired, desired};
use super::evicted::{Life, priority};
use super::keeper::{Ask, EndGroup, Kept};
use super::node_shutdown::ended;
use super::observer::Listings;
use super::periods::group;
use super::state::{Edged, Entry};

impl Edged {
    pub(super) fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Pods(answer) => {
                let kept = |entry: &Entry| {
                    let pod = entry.desired.borrow().pod()?.clone();
                    let (life, is_evicted) = (*entry.life.borrow(), entry.care.borrow().evicted.is_some());
                    Some(Kept { pod, life, is_evicted })
                };
                // Who asked may have gone.
                let _ = answer.send(self.pods.values().filter_map(kept).collect());
            }
            Ask::Evict(uid, eviction) => {
                if let Some(entry) = self.pods.get(uid.as_str()) {
                    entry.care.send_modify(|care| {
                        care.evicted.get_or_insert(Arc::new(eviction));
                    });
                }
                self.busy();
            }
            Ask::Strip => {
                let has_ended = |entry: &&Entry| matches!(*entry.life.borrow(), Life::Ending | Life::Over);
                for entry in self.pods.values().filter(has_ended) {
                    entry.care.send_modify(|care| care.strip = true);
                }
            }
            Ask::Short(pressures) => self.pressures = pressures,
            Ask::EndGroup(ask) => self.on_end_group(ask),
        }
    }

    /// Tells the pods of a group to end, and says how many still run or have not told their end.
    fn on_end_group(&mut self, ask: EndGroup) {
        self.busy();
        let down = self.going_down.get_or_insert_default();
        let mut members = Vec::new();
        for (uid, entry) in &self.pods {
            let known = entry.desired.borrow().clone();
            let Some(pod) = known.pod() else { continue };
            if group(&ask.periods, priority(pod)) != ask.group {
                continue;
            }
            // Its worker sets this once the status is with the report queue. Who has no worker tells nothing.
            let tells = matches!(known.want, Desired::Run(_)) && !entry.is_held;
            let is_told = !tells || entry.has_ended.load(Ordering::Relaxed);
            members.push((uid.clone(), is_told));
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_over = matches!(phase, Some("Succeeded" | "Failed"));
            if let (Desired::Run(pod), false, Some(period)) =
                (&known.want, is_over, ask.periods.get(ask.group))
            {
                down.insert(uid.clone(), *period);
                let pod = Arc::new(ended(pod, *period, Timestamp::now()));
                entry.desired.send_replace(desired(pod));
            }
        }
        let is_running = |uid: &Uid, listings: &Listings| {
            listings.get(uid).is_some_and(|listing| {
                listing.containers.iter().any(|one| one.state() == ContainerState::ContainerRunning)
            })
        };
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            // A runtime that is away ends nothing: its pods count as there.
            let n_left = match shared.observer.look().await {
                Ok(listings) => {
                    let is_left = |(uid, is_told): &&(Uid, bool)| !is_told || is_running(uid, &listings);
                    members.iter().filter(is_left).count()
                }
                Err(_) => members.len(),
            };
            // Who asked may have gone.
            let _ = ask.n_left.send(n_left);
        });
    }
}
