//! What the pods of this machine ask for together, so that a resize is granted only where it fits.
//!
//! Every worker notes what its Pod holds; nobody waits for anybody. A resize is judged and noted under one lock, so two
//! pods cannot be given the same room.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::edged::observed::Pending;
use crate::edged::resources::pod_request;
use crate::quantity::amount_in;

/// What one Pod asks for, or what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    cpu_millis: i64,
    memory_bytes: i64,
}

impl Asked {
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            cpu_millis: pod_request(pod, "cpu").millis(),
            memory_bytes: pod_request(pod, "memory").units(),
        }
    }
}

/// Shared by all workers.
#[derive(Debug, Default)]
pub struct Room {
    /// What the node gives away. A resource that is not in it is not limited here.
    there: (Option<i64>, Option<i64>),
    held: Mutex<BTreeMap<String, Asked>>,
}

impl Room {
    /// `allocatable` as the Node reports it.
    #[must_use]
    pub fn new(allocatable: &BTreeMap<String, Quantity>) -> Self {
        let cpu = amount_in(Some(allocatable), "cpu").map(|amount| amount.millis());
        let memory = amount_in(Some(allocatable), "memory").map(|amount| amount.units());
        Self { there: (cpu, memory), held: Mutex::default() }
    }

    /// The Pod is here and its worker has not spoken yet.
    pub fn expect(&self, uid: &str, pod: &Pod) {
        self.lock().entry(uid.to_owned()).or_insert_with(|| Asked::of(pod));
    }

    /// The Pod holds this from here on.
    pub fn note(&self, uid: &str, pod: &Pod) {
        self.lock().insert(uid.to_owned(), Asked::of(pod));
    }

    /// The Pod holds nothing any more.
    pub fn leave(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Grants `wanted` to the Pod, which holds `granted`, or says why it cannot have it now or ever.
    pub(super) fn judge(&self, uid: &str, granted: &Pod, wanted: &Pod) -> Result<(), Pending> {
        let (before, asked) = (Asked::of(granted), Asked::of(wanted));
        let mut held = self.lock();
        let others = held.iter().filter(|(other, _)| *other != uid).map(|(_, asked)| *asked);
        let used = others.fold(Asked::default(), |sum, one| Asked {
            cpu_millis: sum.cpu_millis.saturating_add(one.cpu_millis),
            memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
        });
        let rows = [
            ("cpu", before.cpu_millis, asked.cpu_millis, used.cpu_millis, self.there.0),
            ("memory", before.memory_bytes, asked.memory_bytes, used.memory_bytes, self.there.1),
        ];
        // What is never possible goes before what is not possible now.
        for (name, before, asked, _, there) in rows {
            if let Some(there) = there.filter(|there| asked > before && asked > *there) {
                return Err(Pending::infeasible(format!(
                    "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}"
                )));
            }
        }
        for (name, before, asked, used, there) in rows {
            if let Some(there) = there.filter(|there| asked > before && used.saturating_add(asked) > *there) {
                return Err(Pending::deferred(format!(
                    "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {there}"
                )));
            }
        }
        held.insert(uid.to_owned(), asked);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
