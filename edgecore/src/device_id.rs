//! Which device: what DeviceTwin, its reports, the store and MQTT's topics have in common.

use std::fmt;

use ke_wire::{Namespace, ObjectName};

/// A Device by its place in the cluster. As text, also in topics: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
