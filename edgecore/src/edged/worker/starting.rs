//! How a worker brings its Pod up: volumes, sandbox, containers, one action of the plan at a time. `hands.rs` makes the calls;
//! here is told what they said, and noted what came of them.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::state::{Worker, tags_of};
use crate::edged::backoff::later;
use crate::edged::desired::DesiredPod;
use crate::edged::events::Severity;
use crate::edged::failure_reason::FailureReason;
use crate::edged::hands::Failure;
use crate::edged::images::ImageNotice;
use crate::edged::observed::{ObservedPod, Volumes};
use crate::edged::plan::LONGEST_HOLD_SECS;
use crate::edged::pod_spec::{ephemeral, find_container};

/// A token that could not be renewed is asked for again no more often than this.
const RENEW_SECS: i64 = 30;

impl Worker {
    pub(super) async fn prepare_volumes(
        &mut self,
        desired: &DesiredPod,
        observed: &ObservedPod,
    ) -> Result<(), Failure> {
        let Some(pod) = desired.pod() else { return Ok(()) };
        let has_files = observed.has_files();
        let host_ips = self.shared.facts.borrow().host_ips.clone();
        let facts = self.shared.hands.pod_facts(pod, &host_ips, &self.memory.addresses);
        match self.shared.hands.files.prepare(pod, &facts).await {
            Ok(renew_at) => {
                // A time that has passed: the cloud is away, and is asked again at leisure.
                let soonest = later(Timestamp::now(), SignedDuration::from_secs(RENEW_SECS));
                self.memory.refresh_at = renew_at.map(|at| at.max(soonest));
                self.memory.written_from = tags_of(pod);
                self.memory.volumes = Volumes::Ready;
                self.memory.n_stale = 0;
                Ok(())
            }
            Err(error) if has_files => {
                // The files of before are there, and the Pod goes on with them; tried again without holding anything up.
                let secs = 1_i64.checked_shl(self.memory.n_stale.min(16)).unwrap_or(LONGEST_HOLD_SECS);
                let wait = SignedDuration::from_secs(secs.clamp(1, LONGEST_HOLD_SECS));
                self.memory.n_stale = self.memory.n_stale.saturating_add(1);
                self.memory.refresh_at = Some(later(Timestamp::now(), wait));
                self.memory.written_from = tags_of(pod);
                self.memory.volumes = Volumes::Ready;
                self.say(Severity::Warning, "FailedMount", error.to_string(), None).await;
                Ok(())
            }
            Err(error) => Err(Failure::new(FailureReason::FailedMount, error.to_string())),
        }
    }

    pub(super) async fn create_sandbox(
        &mut self,
        desired: &DesiredPod,
        observed: &ObservedPod,
        attempt: u32,
    ) -> Result<(), Failure> {
        let Some(pod) = desired.pod() else { return Ok(()) };
        if !observed.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.say(Severity::Normal, "SandboxChanged", message, None).await;
        }
        let warnings = self.shared.hands.create_sandbox(pod, attempt).await?;
        for (reason, message) in warnings {
            self.say(Severity::Warning, reason, message, None).await;
        }
        Ok(())
    }

    /// A container that cannot start holds up no other one: its failure is its own. Always goes on.
    pub(super) async fn start_container(
        &mut self,
        desired: &DesiredPod,
        observed: &ObservedPod,
        (name, sandbox, attempt, ended): (&str, &str, u32, Option<Timestamp>),
    ) -> bool {
        let Some((pod, container)) = desired.pod().and_then(|pod| Some((pod, find_container(pod, name)?)))
        else {
            return true;
        };
        let seen = observed.sandboxes.iter().find(|s| s.id == sandbox);
        let (sandbox_attempt, ips) = seen.map_or((0, Vec::new()), |s| (s.attempt, s.ips.clone()));
        let host_ips = self.shared.facts.borrow().host_ips.clone();
        let mut facts = self.shared.hands.pod_facts(pod, &host_ips, &ips);
        facts.service_env = self.shared.hands.service_env(pod).await;
        if let Some(ended) = ended {
            let image = container.image.as_deref().unwrap_or_default();
            self.memory.backoffs.restarted(name, image, ended, Timestamp::now());
        }
        let result = {
            // Unbounded is bounded here: one start says a handful of sentences.
            let (said, mut heard) = mpsc::unbounded_channel();
            let tell = move |notice: ImageNotice| {
                let _ = said.send(notice);
            };
            let shared = self.shared.clone();
            // Whose processes an ephemeral container sees.
            let target = ephemeral(pod, name).and_then(|one| one.target_container_name.as_deref());
            let target = match target.map(|target| (target, observed.newest(target))) {
                Some((target, None)) => {
                    let message = format!("unable to find target container \"{target}\"");
                    let failure = Failure::new(FailureReason::CreateContainerConfigError, message);
                    self.on_start_failure(name, failure).await;
                    return true;
                }
                Some((_, seen)) => seen,
                None => None,
            };
            let start = shared.hands.start_container(
                pod,
                (&container, target.map(|target| target.id.as_str())),
                (sandbox, sandbox_attempt),
                &facts,
                attempt,
                &tell,
            );
            tokio::pin!(start);
            let result = loop {
                tokio::select! {
                    biased;
                    Some(notice) = heard.recv() => self.say_notice(notice, name).await,
                    result = &mut start => break result,
                }
            };
            while let Ok(notice) = heard.try_recv() {
                self.say_notice(notice, name).await;
            }
            result
        };
        match result {
            Ok(()) => {
                self.memory.failures.remove(name);
            }
            Err(failure) => self.on_start_failure(name, failure).await,
        }
        true
    }
}
