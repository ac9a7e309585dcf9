//! What becomes of an action that failed: it is told, and tried again later.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::state::Worker;
use crate::edged::backoff::later;
use crate::edged::events::Severity;
use crate::edged::hands::{Failure, POST_START_FAILED};
use crate::edged::observed::StartFailure;
use crate::edged::plan::LONGEST_HOLD_SECS;

/// First wait after an action that failed.
pub(super) const FIRST_HOLD_SECS: i64 = 1;

impl Worker {
    /// A failed action that concerns the whole Pod: told, then tried again later.
    pub(super) async fn on_failure(&mut self, failure: Failure) {
        let doubled = FIRST_HOLD_SECS.checked_shl(self.memory.n_failed.min(16)).unwrap_or(LONGEST_HOLD_SECS);
        let wait = SignedDuration::from_secs(doubled.clamp(FIRST_HOLD_SECS, LONGEST_HOLD_SECS));
        self.memory.n_failed = self.memory.n_failed.saturating_add(1);
        self.memory.hold = Some(later(Timestamp::now(), wait));
        if !failure.runtime_away {
            tracing::warn!(pod = %self.uid, reason = failure.reason, error = %failure.message, "an action on a pod failed and is tried again");
            self.say(Severity::Warning, failure.reason, failure.message, None).await;
        }
    }

    pub(super) async fn on_start_failure(&mut self, name: &str, failure: Failure) {
        if failure.runtime_away {
            self.memory.hold = Some(later(Timestamp::now(), SignedDuration::from_secs(FIRST_HOLD_SECS)));
            return;
        }
        let times = self.memory.failures.get(name).map_or(0, |before| before.times).saturating_add(1);
        let doublings = times.saturating_sub(1).min(16);
        let secs = match failure.reason {
            // Images keep their own back-off and answer at once while it lasts.
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
            | "ImageInspectError" => 10,
            // Mostly a ConfigMap that is still on its way.
            "CreateContainerConfigError" => {
                let longest = StartFailure::LONGEST_WAIT_SECS;
                1_i64.checked_shl(doublings).unwrap_or(longest).clamp(1, longest)
            }
            // As a kubelet: a container that never was has no back-off.
            _ => 10,
        };
        let retry_at = later(Timestamp::now(), SignedDuration::from_secs(secs));
        if failure.reason == POST_START_FAILED {
            // It was told, and the container has ended: its next start waits as after any crash.
            return;
        }
        let reason = failure.reason.to_owned();
        // The kubelet's event says `Failed`; the exact word stands in the status. Back-off was said by the images.
        if !matches!(failure.reason, "ImagePullBackOff" | "ErrImageNeverPull") {
            self.say(Severity::Warning, "Failed", format!("Error: {}", failure.message), Some(name)).await;
        }
        let failure = StartFailure { reason, message: failure.message, retry_at, times };
        self.memory.failures.insert(name.to_owned(), failure);
    }
}
