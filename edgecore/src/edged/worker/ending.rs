//! How a worker ends what is to end, and removes what is left: containers with their logs, the Pod's cgroup. `hooks.rs` makes
//! the calls that take a grace period; meanwhile the Pod is still told of.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::state::Worker;
use crate::edged::container::log_directory;
use crate::edged::desired::DesiredPod;
use crate::edged::events::Severity;
use crate::edged::failure_reason::FailureReason;
use crate::edged::hands::Failure;
use crate::edged::hooks::ContainerStopper;
use crate::edged::log_links;
use crate::edged::log_rotation;
use crate::edged::plan::{Stop, StopReason};
use crate::edged::pod_spec::{inits, is_sidecar};
use crate::edged::probes::Said;
use crate::edged::remove_pods::remove_logs;
use crate::edged::resources::qos;

impl Worker {
    pub(super) async fn stop_containers(
        &mut self,
        desired: &DesiredPod,
        stops: &[Stop],
    ) -> Result<(), Failure> {
        if desired.pod().is_some() {
            for stop in stops {
                let message = killing(desired, stop);
                self.say(Severity::Normal, "Killing", message, Some(&stop.name)).await;
            }
        }
        let address = self.address(desired.pod().map(Arc::as_ref));
        let stopper = ContainerStopper {
            runtime: self.shared.hands.runtime.clone(),
            pod: desired.pod().cloned(),
            address,
            say: self.memory.probes.voice(),
            done: self.memory.hooks_done.clone(),
        };
        let results = self.meanwhile(desired, stopper.stop_all(stops.to_vec())).await;
        // What hooks had to say.
        while let Some(said) = self.memory.probes.said_already() {
            self.say_probe(said).await;
        }
        let failed = results.into_iter().find_map(Result::err);
        failed.map_or(Ok(()), |error| {
            Err(Failure::of(FailureReason::FailedKillPod, "error killing container", error))
        })
    }

    /// Awaits something that may take a grace period, and tells what the Pod does until then: it may lose its readiness.
    pub(super) async fn meanwhile<T>(&mut self, desired: &DesiredPod, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let wake = self.ears.wake.clone();
        loop {
            let said = tokio::select! {
                biased;
                done = &mut work => return done,
                said = self.memory.probes.said() => Some(said),
                () = wake.notified() => None,
            };
            // A slow look must not keep the work from its time limits.
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.tell_between(desired, said) => {}
            }
        }
    }

    async fn tell_between(&mut self, desired: &DesiredPod, said: Option<Said>) {
        if let Some(said) = said {
            self.say_probe(said).await;
        } else if let Ok(listings) = self.shared.observer.look().await {
            let listing = listings.get(&self.uid).cloned().unwrap_or_default();
            if let Ok(observed) = self.observe(desired, &listing).await {
                self.report(desired, &observed, Timestamp::now()).await;
            }
        }
    }

    pub(super) async fn remove_container(&mut self, id: &str) -> Result<(), Failure> {
        let removed = self.shared.hands.runtime.remove_container(id).await;
        removed.map_err(|e| Failure::of(FailureReason::FailedKillPod, "error removing container", e))?;
        self.memory.hooks_done.forget(id);
        let log = self.memory.inspector.removed(id);
        // Only below our own directory: the path comes from the runtime.
        if std::path::Path::new(&log).starts_with(&self.shared.hands.settings.pod_logs_root) {
            log_rotation::remove(std::path::Path::new(&log));
            log_links::remove(&self.shared.hands.settings.pod_logs_root, std::path::Path::new(&log));
        }
        Ok(())
    }

    /// Cgroup and logs of a Pod of which nothing runs.
    pub(super) async fn remove_rest(&mut self, desired: &DesiredPod) -> Result<(), Failure> {
        let hands = &self.shared.hands;
        if let Some(pod) = desired.pod() {
            if let Some(cgroups) = &hands.cgroups {
                let removed = cgroups.remove_pod(qos(pod), self.uid.as_str());
                removed.map_err(|error| Failure::new(FailureReason::FailedKillPod, error.to_string()))?;
            }
            let logs = log_directory(&hands.settings.pod_logs_root, pod);
            let _ = tokio::fs::remove_dir_all(&logs).await;
            log_links::remove(&hands.settings.pod_logs_root, std::path::Path::new(&logs));
        } else if let Some(cgroups) = &hands.cgroups {
            for (class, uid) in cgroups.pods().into_iter().filter(|(_, uid)| *uid == self.uid.as_str()) {
                let removed = cgroups.remove_pod(class, &uid);
                removed.map_err(|error| Failure::new(FailureReason::FailedKillPod, error.to_string()))?;
            }
        }
        if desired.pod().is_none() {
            // Its folder's name ends with its uid; whose it was besides, nobody knows any more.
            let (root, uids) = (hands.settings.pod_logs_root.clone(), BTreeSet::from([self.uid.to_string()]));
            let _ = tokio::task::spawn_blocking(move || remove_logs(&root, &uids)).await;
        }
        self.release_devices().await?;
        self.memory.cleaned = true;
        Ok(())
    }
}

/// Kubernetes' words for why a container is ended.
fn killing(desired: &DesiredPod, stop: &Stop) -> String {
    let name = &stop.name;
    let spec = desired.pod().and_then(|pod| pod.spec.as_ref());
    let is_sidecar = spec.is_some_and(|spec| inits(spec).iter().any(|c| c.name == *name && is_sidecar(c)));
    match stop.reason {
        StopReason::PodEnds | StopReason::Lost => format!("Stopping container {name}"),
        StopReason::SpecChanged => format!("Container {name} definition changed, will be restarted"),
        StopReason::SandboxChanged => format!("Stopping container {name}: its sandbox changed"),
        StopReason::Resized => format!("Container {name} resize requires restart"),
        StopReason::HookFailed => "FailedPostStartHook".into(),
        StopReason::Unwell { probe, restarts } => {
            let probe = probe.as_str().to_lowercase();
            match (is_sidecar, restarts) {
                (true, _) => format!("Init container {name} failed {probe} probe"),
                (false, true) => format!("Container {name} failed {probe} probe, will be restarted"),
                (false, false) => format!("Container {name} failed {probe} probe"),
            }
        }
    }
}
