//! Which resources device plugins offer, and whether each is there. Pure.
//!
//! `P` is how a plugin is called; this file only keeps it. A plugin that comes again is another one: whatever the one
//! before says later, by its number, counts no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the devices of a plugin that is gone stay in the Node's capacity, as with a kubelet: it may be upgraded.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(300);
/// Most resources that plugins may register. More is a program that went wrong.
pub(super) const MAX_RESOURCES: usize = 256;
/// Most devices of one resource; those beyond are left out.
pub(super) const MAX_DEVICES: usize = 16_384;

/// What the Node says of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// All devices.
    pub capacity: usize,
    /// The healthy ones.
    pub allocatable: usize,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) healthy: bool,
    /// NUMA nodes that it is near to.
    pub(super) numa: Vec<i64>,
}

pub(super) struct Registry<P> {
    resources: BTreeMap<String, Resource<P>>,
    last_number: u64,
}

struct Resource<P> {
    devices: BTreeMap<String, Device>,
    plugin: Plugin<P>,
}

enum Plugin<P> {
    Here {
        number: u64,
        call: P,
    },
    Gone {
        since: Instant,
    },
    /// Its time in the capacity is over; the Node says 0 from here on, as a kubelet's does.
    Forgotten,
}

/// The registry holds no more resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<P: Clone> Registry<P> {
    /// These were registered before this process began; their plugins come again or not.
    pub(super) fn new(known: impl IntoIterator<Item = String>, now: Instant) -> Self {
        let gone = |name| (name, Resource { devices: BTreeMap::new(), plugin: Plugin::Gone { since: now } });
        // A store that an older edgecore let grow beyond it.
        Self { resources: known.into_iter().take(MAX_RESOURCES).map(gone).collect(), last_number: 0 }
    }

    /// Whether this resource is known or may become so.
    pub(super) fn has_room(&self, name: &str) -> bool {
        self.resources.len() < MAX_RESOURCES || self.resources.contains_key(name)
    }

    /// Number of the next plugin.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        self.last_number
    }

    /// A plugin registered. What its forerunner listed stays, unhealthy, until it lists its own.
    pub(super) fn came(&mut self, name: &str, number: u64, call: P) -> Result<(), Full> {
        if !self.has_room(name) {
            return Err(Full);
        }
        let resource = self
            .resources
            .entry(name.to_owned())
            .or_insert_with(|| Resource { devices: BTreeMap::new(), plugin: Plugin::Forgotten });
        for device in resource.devices.values_mut() {
            device.healthy = false;
        }
        resource.plugin = Plugin::Here { number, call };
        Ok(())
    }

    /// A plugin's list. False: it changes nothing, or the plugin is not the one that counts.
    pub(super) fn listed(&mut self, name: &str, number: u64, devices: BTreeMap<String, Device>) -> bool {
        let Some(resource) = self.here(name, number) else { return false };
        let is_news = resource.devices != devices;
        resource.devices = devices;
        is_news
    }

    /// A plugin is gone. False: it was not the one that counts.
    pub(super) fn gone(&mut self, name: &str, number: u64, now: Instant) -> bool {
        let Some(resource) = self.here(name, number) else { return false };
        for device in resource.devices.values_mut() {
            device.healthy = false;
        }
        resource.plugin = Plugin::Gone { since: now };
        true
    }

    fn here(&mut self, name: &str, number: u64) -> Option<&mut Resource<P>> {
        let resource = self.resources.get_mut(name)?;
        let is_here = matches!(&resource.plugin, Plugin::Here { number: here, .. } if *here == number);
        is_here.then_some(resource)
    }

    /// Devices whose time in the capacity is over are forgotten. Says when the next one's is.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for resource in self.resources.values_mut() {
            let Plugin::Gone { since } = resource.plugin else { continue };
            let until = since + STOP_GRACE;
            if until <= now {
                resource.plugin = Plugin::Forgotten;
                resource.devices.clear();
            } else {
                next = Some(next.map_or(until, |next: Instant| next.min(until)));
            }
        }
        next
    }

    /// Whether a plugin has offered this resource, now or before.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.resources.contains_key(name)
    }

    /// How the plugin is called that is there now.
    pub(super) fn call(&self, name: &str) -> Option<P> {
        match &self.resources.get(name)?.plugin {
            Plugin::Here { call, .. } => Some(call.clone()),
            Plugin::Gone { .. } | Plugin::Forgotten => None,
        }
    }

    pub(super) fn healthy(&self, name: &str) -> BTreeSet<String> {
        let devices = self.resources.get(name).into_iter().flat_map(|resource| &resource.devices);
        devices.filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect()
    }

    /// NUMA nodes of a device; none if it is not known.
    pub(super) fn numa(&self, name: &str, id: &str) -> Vec<i64> {
        let device = self.resources.get(name).and_then(|resource| resource.devices.get(id));
        device.map_or_else(Vec::new, |device| device.numa.clone())
    }

    /// Whether a device is known to be unwell; one that nobody lists is taken for well, as with a kubelet.
    pub(super) fn is_unwell(&self, name: &str, id: &str) -> bool {
        let device = self.resources.get(name).and_then(|resource| resource.devices.get(id));
        device.is_some_and(|device| !device.healthy)
    }

    /// Every healthy device with its resource and NUMA nodes.
    pub(super) fn all_healthy(&self) -> impl Iterator<Item = (&str, &str, &[i64])> {
        self.resources.iter().flat_map(|(name, resource)| {
            let healthy = resource.devices.iter().filter(|(_, device)| device.healthy);
            healthy.map(move |(id, device)| (name.as_str(), id.as_str(), device.numa.as_slice()))
        })
    }

    /// What the Node says of each.
    pub(super) fn amounts(&self) -> BTreeMap<String, Amounts> {
        let of = |resource: &Resource<P>| Amounts {
            capacity: resource.devices.len(),
            allocatable: resource.devices.values().filter(|device| device.healthy).count(),
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), of(resource))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(devices: &[(&str, bool)]) -> BTreeMap<String, Device> {
        let device =
            |(id, healthy): &(&str, bool)| ((*id).to_owned(), Device { healthy: *healthy, numa: Vec::new() });
        devices.iter().map(device).collect()
    }

    const GPU: &str = "example.com/gpu";

    #[test]
    fn a_plugin_comes_falls_ill_goes_and_is_forgotten() {
        let begin = Instant::now();
        let mut registry = Registry::new([], begin);
        let check = |registry: &Registry<&str>, capacity, allocatable| {
            assert_eq!(registry.amounts()[GPU], Amounts { capacity, allocatable });
        };
        let first = registry.next_number();
        registry.came(GPU, first, "first").unwrap();
        check(&registry, 0, 0);
        assert!(registry.listed(GPU, first, list(&[("a", true), ("b", true)])));
        check(&registry, 2, 2);
        assert!(registry.listed(GPU, first, list(&[("a", true), ("b", false)])));
        check(&registry, 2, 1);
        assert!(!registry.is_unwell(GPU, "a") && registry.is_unwell(GPU, "b"));
        assert!(registry.gone(GPU, first, begin));
        check(&registry, 2, 0);
        assert_eq!(registry.call(GPU), None);
        assert_eq!(registry.expire(begin + Duration::from_secs(10)), Some(begin + STOP_GRACE));
        check(&registry, 2, 0);
        assert_eq!(registry.expire(begin + STOP_GRACE), None);
        check(&registry, 0, 0);
        assert!(registry.knows(GPU), "the Node goes on saying 0");
    }

    #[test]
    fn the_one_before_counts_no_more() {
        let begin = Instant::now();
        let mut registry = Registry::new([GPU.to_owned()], begin);
        assert_eq!(registry.amounts()[GPU], Amounts::default());
        let first = registry.next_number();
        registry.came(GPU, first, "first").unwrap();
        registry.listed(GPU, first, list(&[("a", true)]));
        let second = registry.next_number();
        registry.came(GPU, second, "second").unwrap();
        assert_eq!(registry.amounts()[GPU], Amounts { capacity: 1, allocatable: 0 });
        assert!(!registry.gone(GPU, first, begin) && !registry.listed(GPU, first, list(&[])));
        assert!(registry.listed(GPU, second, list(&[("a", true)])));
        assert_eq!((registry.call(GPU), registry.healthy(GPU).len()), (Some("second"), 1));
    }

    #[test]
    fn resources_without_end_are_refused() {
        let begin = Instant::now();
        let mut registry = Registry::new((0..MAX_RESOURCES + 5).map(|n| format!("example.com/{n}")), begin);
        assert_eq!(registry.came(GPU, 1, "more"), Err(Full));
        assert_eq!(registry.came("example.com/7", 1, "known"), Ok(()));
    }
}
