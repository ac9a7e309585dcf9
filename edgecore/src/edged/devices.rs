//! Devices of plugins as a Pod sees them: chosen when it is taken on, put into its containers, given back at its end.
//!
//! [`PodDevices`] is `device_plugin/`; what is here is the worker's part: when it asks, and what becomes of a Pod that is
//! refused. Chooses nothing itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceStatus};
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1;
use tokio::sync::watch;

use super::events::Severity;
use super::hands::Failure;
use super::observed::{ObservedContainer, ObservedPod};
use super::plan::{Desired, DesiredPod, outcome};
use super::unsupported::{FEATURE_UNSUPPORTED, unsupported};
use super::worker::Worker;

/// What a kubelet calls a Pod that it cannot give its devices to.
pub(super) const UNEXPECTED_ADMISSION: &str = "UnexpectedAdmissionError";

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
}

/// What became of a Pod's devices in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Admission {
    #[default]
    NotAsked,
    Admitted,
    /// With the words for its status.
    Refused {
        reason: &'static str,
        why: String,
    },
}

impl Worker {
    /// The Pod as the store has it; one that was refused as one that has failed. A Pod that ends while plugins are
    /// asked does not wait for them.
    pub(super) async fn admitted(&mut self, desired: DesiredPod, observed: &ObservedPod) -> DesiredPod {
        let pod = match &desired.want {
            Desired::Run(pod) => Arc::clone(pod),
            Desired::Terminate(_) | Desired::Removed(_) => return desired,
        };
        if outcome(&pod, observed, Timestamp::now()).is_some() {
            if !observed.containers.iter().any(ObservedContainer::may_be_alive) {
                // Tried again, else nobody had them until edgecore starts anew.
                if let Err(failure) = self.release_devices().await {
                    self.on_failure(failure).await;
                }
            }
            return desired;
        }
        if self.memory.admission == Admission::NotAsked {
            let running = observed.containers.iter().filter(|one| one.is_running());
            let running = running.map(|one| one.name.clone()).collect();
            let mut newer = self.ears.desired.clone();
            let ends = async {
                while newer.changed().await.is_ok() {
                    if !matches!(newer.borrow().want, Desired::Run(_)) {
                        return;
                    }
                }
                std::future::pending().await
            };
            let shared = self.shared.clone();
            let answer = match unsupported(&pod) {
                Some(why) => Err((FEATURE_UNSUPPORTED, why)),
                None => tokio::select! {
                    answer = shared.hands.devices.admit(&pod, &running) => answer.map_err(|why| {
                        (UNEXPECTED_ADMISSION, format!("Allocate failed due to {why}, which is unexpected"))
                    }),
                    () = ends => return desired,
                },
            };
            self.memory.admission = match answer {
                Ok(()) => Admission::Admitted,
                Err((reason, why)) => {
                    tracing::warn!(pod = %self.uid, reason, error = %why, "a pod is refused");
                    self.say(Severity::Warning, reason, why.clone(), None).await;
                    Admission::Refused { reason, why }
                }
            };
        }
        match &self.memory.admission {
            Admission::Refused { reason, why } => refused(&desired, &pod, reason, why),
            Admission::NotAsked | Admission::Admitted => desired,
        }
    }

    /// Errors: they are held still, since the disk is full or broken.
    pub(super) async fn release_devices(&self) -> Result<(), Failure> {
        let released = self.shared.hands.devices.release(&self.uid).await;
        released.map_err(|error| {
            Failure::new("FailedKillPod", format!("the devices of the pod could not be given back: {error}"))
        })
    }

    /// How its devices are goes into each container's status.
    pub(super) fn tell_device_health(&self, status: &mut PodStatus) {
        for container in status.container_statuses.iter_mut().flatten() {
            let health = self.shared.hands.devices.health(&self.uid, &container.name);
            container.allocated_resources_status = (!health.is_empty()).then_some(health);
        }
    }
}

/// The Pod with a status that says that it has failed before anything of it ran. This is what plan and status go by, as
/// by every Pod of which the cloud knows already that it has failed.
fn refused(desired: &DesiredPod, pod: &Pod, reason: &str, why: &str) -> DesiredPod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Failed".into());
    status.reason = Some(reason.into());
    status.message = Some(format!("Pod was rejected: {why}"));
    DesiredPod { want: Desired::Run(Arc::new(pod)), hashes: desired.hashes.clone() }
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
