//! Which container holds which devices. Pure; `store.rs` has the same rows on disk.
//!
//! What a plugin is being asked about is set aside here, too, so that two pods never get one device.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};

/// Devices of one resource that a container holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// Their names, with the NUMA nodes that each is near to.
    pub(super) devices: BTreeMap<String, Vec<i64>>,
    /// The plugin's answer as it came: what the container gets. Not printed, since it may hold credentials.
    pub(super) answer: Vec<u8>,
    /// The machine's boot in which the plugin gave it. What it made for the container may not outlive that.
    pub(super) boot: String,
}

/// Who holds them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) pod_uid: String,
    pub(super) container: String,
    pub(super) resource: String,
}

#[derive(Default)]
pub(super) struct Ledger {
    grants: BTreeMap<Holder, Grant>,
    set_aside: BTreeMap<u64, (Holder, BTreeSet<String>)>,
    last: u64,
}

impl Ledger {
    pub(super) fn new(grants: Vec<(Holder, Grant)>) -> Self {
        Self { grants: grants.into_iter().collect(), ..Self::default() }
    }

    pub(super) fn grant(&self, holder: &Holder) -> Option<&Grant> {
        self.grants.get(holder)
    }

    pub(super) fn insert(&mut self, holder: Holder, grant: Grant) {
        self.grants.insert(holder, grant);
    }

    pub(super) fn remove_pod(&mut self, uid: &str) {
        self.grants.retain(|holder, _| holder.pod_uid != uid);
    }

    /// Whether a Pod has devices, or is about to: what is set aside may wait for the disk already, whoever asked for it has
    /// gone or not.
    pub(super) fn has_pod(&self, uid: &str) -> bool {
        let aside = self.set_aside.values().map(|(holder, _)| holder);
        self.grants.keys().chain(aside).any(|holder| holder.pod_uid == uid)
    }

    pub(super) fn pods(&self) -> BTreeSet<String> {
        self.grants.keys().map(|holder| holder.pod_uid.clone()).collect()
    }

    /// Whether anybody holds devices of this resource.
    pub(super) fn knows(&self, resource: &str) -> bool {
        self.grants.keys().any(|holder| holder.resource == resource)
    }

    /// What a container holds, by resource.
    pub(super) fn of_container(&self, uid: &str, container: &str) -> impl Iterator<Item = (&str, &Grant)> {
        let is_its = move |holder: &Holder| holder.pod_uid == uid && holder.container == container;
        let grants = self.grants.iter().filter(move |(holder, _)| is_its(holder));
        grants.map(|(holder, grant)| (holder.resource.as_str(), grant))
    }

    /// Devices that are held, or that somebody is about to hold.
    pub(super) fn in_use(&self, resource: &str) -> BTreeSet<String> {
        let held = self.grants.iter().filter(|(holder, _)| holder.resource == resource);
        let held = held.flat_map(|(_, grant)| grant.devices.keys());
        let aside = self
            .set_aside
            .values()
            .filter(|(holder, _)| holder.resource == resource)
            .flat_map(|(_, ids)| ids);
        held.chain(aside).cloned().collect()
    }

    /// Keeps these from others until `give_back`.
    pub(super) fn set_aside(&mut self, holder: Holder, ids: BTreeSet<String>) -> u64 {
        self.last = self.last.saturating_add(1);
        self.set_aside.insert(self.last, (holder, ids));
        self.last
    }

    pub(super) fn give_back(&mut self, number: u64) {
        self.set_aside.remove(&number);
    }

    /// Devices of the Pod's init containers before this one that it may have, too: those run no more when it does. What
    /// a sidecar or a main container has is its own.
    pub(super) fn reusable(&self, pod: &Pod, container: &str, resource: &str) -> BTreeSet<String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut reusable = BTreeSet::new();
        for (other, is_init) in in_order(pod).take_while(|(other, _)| other.name != container) {
            let holder =
                Holder { pod_uid: uid.clone(), container: other.name.clone(), resource: resource.to_owned() };
            let Some(grant) = self.grants.get(&holder) else { continue };
            if is_init && other.restart_policy.as_deref() != Some("Always") {
                reusable.extend(grant.devices.keys().cloned());
            } else {
                reusable.retain(|id| !grant.devices.contains_key(id));
            }
        }
        reusable
    }
}

/// The containers in the order of their starts, with whether each is among the init containers.
pub(super) fn in_order(pod: &Pod) -> impl Iterator<Item = (&Container, bool)> {
    let spec = pod.spec.iter();
    let inits = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten()).map(|one| (one, true));
    inits.chain(spec.flat_map(|spec| &spec.containers).map(|one| (one, false)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(ids: &str) -> Grant {
        let devices = ids.split_whitespace().map(|id| (id.to_owned(), Vec::new())).collect();
        Grant { devices, answer: Vec::new(), boot: String::new() }
    }

    fn holder(pod_uid: &str, container: &str) -> Holder {
        Holder { pod_uid: pod_uid.into(), container: container.into(), resource: "r".into() }
    }

    #[test]
    fn nobody_else_gets_what_is_held_or_asked_about() {
        let mut ledger = Ledger::new(vec![(holder("p", "c"), grant("a"))]);
        let number = ledger.set_aside(holder("q", "c"), ["b".to_owned()].into());
        assert!(ledger.has_pod("q"), "what waits for the disk is given back behind it");
        assert_eq!(ledger.in_use("r"), ["a".to_owned(), "b".to_owned()].into());
        assert!(ledger.in_use("other").is_empty());
        ledger.give_back(number);
        assert_eq!(ledger.in_use("r"), ["a".to_owned()].into());
        assert!(ledger.has_pod("p") && !ledger.has_pod("q") && ledger.knows("r"));
        ledger.remove_pod("p");
        assert!(ledger.in_use("r").is_empty());
    }

    #[test]
    fn what_init_containers_leave_is_taken_again() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "p"}, "spec": {
            "initContainers": [{"name": "one"}, {"name": "side", "restartPolicy": "Always"}, {"name": "two"}],
            "containers": [{"name": "main"}, {"name": "last"}],
        }}))
        .unwrap();
        let mut ledger = Ledger::default();
        let check = |ledger: &Ledger, container: &str, expected: &str| {
            let reusable: Vec<String> = ledger.reusable(&pod, container, "r").into_iter().collect();
            assert_eq!(reusable.join(" "), expected, "{container}");
        };
        ledger.insert(holder("p", "one"), grant("a b"));
        check(&ledger, "one", "");
        check(&ledger, "side", "a b");
        ledger.insert(holder("p", "side"), grant("b"));
        check(&ledger, "two", "a");
        ledger.insert(holder("p", "two"), grant("a c"));
        check(&ledger, "main", "a c");
        ledger.insert(holder("p", "main"), grant("c"));
        check(&ledger, "last", "a");
        ledger.insert(holder("other", "one"), grant("z"));
        check(&ledger, "last", "a");
    }
}
