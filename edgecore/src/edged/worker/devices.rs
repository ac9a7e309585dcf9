//! The worker's part in devices of plugins: when it asks for them, when it gives them back, and what becomes of a Pod that
//! cannot have its own. Chooses nothing itself.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;

use super::state::{Admission, Worker};
use crate::edged::admission::{Refusal, UNEXPECTED_ADMISSION, refused};
use crate::edged::cri::RuntimeError;
use crate::edged::desired::{Desired, DesiredPod};
use crate::edged::events::Severity;
use crate::edged::failure_reason::FailureReason;
use crate::edged::hands::Failure;
use crate::edged::observed::{ObservedContainer, ObservedPod};
use crate::edged::outcome::outcome;
use crate::edged::unsupported::{FEATURE_UNSUPPORTED, NO_GROUPS_POLICY, NO_STRICT_GROUPS, unsupported};

impl Worker {
    /// The Pod as the store has it; one that was refused as one that has failed. A Pod that ends while plugins are
    /// asked does not wait for them.
    pub(super) async fn admitted(
        &mut self,
        desired: DesiredPod,
        observed: &ObservedPod,
    ) -> Result<DesiredPod, RuntimeError> {
        let pod = match &desired.want {
            Desired::Run(pod) => Arc::clone(pod),
            Desired::Terminate(_) | Desired::Removed(_) => return Ok(desired),
        };
        if outcome(&pod, observed, Timestamp::now()).is_some() {
            if !observed.containers.iter().any(ObservedContainer::may_be_alive) {
                // Tried again, else nobody had them until edgecore starts anew.
                if let Err(failure) = self.release_devices().await {
                    self.on_failure(failure).await;
                }
            }
            return Ok(desired);
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
                None if !shared.hands.has_groups_policy(&pod).await? => {
                    Err((NO_GROUPS_POLICY, NO_STRICT_GROUPS.to_owned()))
                }
                None => tokio::select! {
                    answer = shared.hands.devices.admit(&pod, &running) => answer.map_err(|why| {
                        (UNEXPECTED_ADMISSION, format!("Allocate failed due to {why}, which is unexpected"))
                    }),
                    () = ends => return Ok(desired),
                },
            };
            self.memory.admission = match answer {
                Ok(()) => Admission::Admitted,
                Err((reason, why)) => {
                    tracing::warn!(pod = %self.uid, reason, error = %why, "a pod is refused");
                    self.say(Severity::Warning, reason, why.clone(), None).await;
                    Admission::Refused(Refusal { reason: reason.to_owned(), message: why })
                }
            };
        }
        Ok(match &self.memory.admission {
            // As every Pod of which the cloud knows already that it has failed: plan and status go by that.
            Admission::Refused(refusal) => {
                self.shared.room.leave(self.uid.as_str());
                DesiredPod { want: Desired::Run(Arc::new(refused(&pod, refusal))), hashes: desired.hashes }
            }
            Admission::NotAsked | Admission::Admitted => desired,
        })
    }

    /// Errors: they are held still, since the disk is full or broken.
    pub(super) async fn release_devices(&self) -> Result<(), Failure> {
        let released = self.shared.hands.devices.release(self.uid.as_str()).await;
        released.map_err(|error| {
            Failure::new(
                FailureReason::FailedKillPod,
                format!("the devices of the pod could not be given back: {error}"),
            )
        })
    }

    /// How its devices are goes into each container's status.
    pub(super) fn tell_device_health(&self, status: &mut PodStatus) {
        for container in status.container_statuses.iter_mut().flatten() {
            let health = self.shared.hands.devices.health(self.uid.as_str(), &container.name);
            container.allocated_resources_status = (!health.is_empty()).then_some(health);
        }
    }
}
