//! Devices of plugins as a Pod sees them: chosen when it is taken on, put into its containers, given back at its end.
//!
//! [`PodDevices`] is `device_plugin/`; `worker/devices.rs` asks it. Chooses nothing itself.

use std::collections::BTreeSet;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceStatus};
use ke_cri::v1;
use tokio::sync::watch;

/// Devices of this machine that plugins bring.
#[async_trait]
pub trait PodDevices: Send + Sync + 'static {
    /// Chooses the devices of all containers and keeps the choice. Done already: success. `running`: containers that run,
    /// which have what they need. Errors: why the Pod cannot have them, for its status.
    async fn admit(&self, pod: &Pod, running: &BTreeSet<String>) -> Result<(), String>;
    /// What one start of a container gets. Errors are worth trying again.
    async fn for_start(&self, pod: &Pod, container: &Container) -> Result<Extras, String>;
    /// Nothing of the Pod runs any more: others may have its devices. Gone already: success.
    async fn release(&self, pod_uid: &str) -> Result<(), String>;
    /// Uids of pods that hold devices.
    fn holders(&self) -> BTreeSet<String>;
    /// Changes whenever the health of any device does.
    fn changes(&self) -> watch::Receiver<u64>;
    /// How the devices of a container are.
    fn health(&self, pod_uid: &str, container: &str) -> Vec<ResourceStatus>;
    /// Whether a plugin offers this resource, or did: then `admit` knows what is left of it.
    fn serves(&self, resource: &str) -> bool;
}

/// What a container gets with its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Before the container's own variables, which win.
    pub envs: Vec<(String, String)>,
    /// Files and folders of the machine.
    pub mounts: Vec<v1::Mount>,
    /// Device nodes.
    pub devices: Vec<v1::Device>,
    /// For the runtime.
    pub annotations: Vec<(String, String)>,
    /// Devices that the runtime finds by name.
    pub cdi_devices: Vec<v1::CdiDevice>,
}

impl Extras {
    /// Puts all but the variables into the runtime's form of a start. Annotations of ours win.
    pub(super) fn put_into(self, config: &mut v1::ContainerConfig) {
        config.mounts.splice(0..0, self.mounts);
        config.devices.extend(self.devices);
        config.cdi_devices.extend(self.cdi_devices);
        for (key, value) in self.annotations {
            config.annotations.entry(key).or_insert(value);
        }
    }
}

/// A machine without any.
#[derive(Clone, Copy, Debug)]
pub struct NoDevices;

#[async_trait]
impl PodDevices for NoDevices {
    async fn admit(&self, _: &Pod, _: &BTreeSet<String>) -> Result<(), String> {
        Ok(())
    }
    async fn for_start(&self, _: &Pod, _: &Container) -> Result<Extras, String> {
        Ok(Extras::default())
    }
    async fn release(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
    fn holders(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    fn health(&self, _: &str, _: &str) -> Vec<ResourceStatus> {
        Vec::new()
    }
    fn serves(&self, _: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_asks_for_wins() {
        let mount = |path: &str| v1::Mount { container_path: path.into(), ..v1::Mount::default() };
        let mut config = v1::ContainerConfig {
            mounts: vec![mount("/own")],
            annotations: [("a".to_owned(), "own".to_owned())].into(),
            ..v1::ContainerConfig::default()
        };
        let device = v1::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/y".into(),
            permissions: "rw".into(),
        };
        let extras = Extras {
            mounts: vec![mount("/plugin")],
            devices: vec![device.clone()],
            annotations: vec![("a".into(), "plugin".into()), ("b".into(), "plugin".into())],
            cdi_devices: vec![v1::CdiDevice { name: "e.com/gpu=0".into() }],
            ..Extras::default()
        };
        extras.put_into(&mut config);
        assert_eq!(config.mounts, [mount("/plugin"), mount("/own")]);
        assert_eq!(config.devices, [device]);
        assert_eq!((config.annotations["a"].as_str(), config.annotations["b"].as_str()), ("own", "plugin"));
        assert_eq!(config.cdi_devices.len(), 1);
    }
}
