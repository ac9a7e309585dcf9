//! What becomes of an action that failed: it is told, and tried again later.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::state::Worker;
use crate::edged::backoff::later;
use crate::edged::events::Severity;
use crate::edged::failure_reason::FailureReason;
use crate::edged::hands::Failure;
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
        if let Failure::Failed { reason, message } = failure {
            let reason = reason.word();
            tracing::warn!(pod = %self.uid, reason, error = %message, "an action on a pod failed and is tried again");
            self.say(Severity::Warning, reason, message, None).await;
        }
    }

    pub(super) async fn on_start_failure(&mut self, name: &str, failure: Failure) {
        let Failure::Failed { reason, message } = failure else {
            self.memory.hold = Some(later(Timestamp::now(), SignedDuration::from_secs(FIRST_HOLD_SECS)));
            return;
        };
        if reason == FailureReason::PostStartHookError {
            // It was told, and the container has ended: its next start waits as after any crash.
            return;
        }
        let times = self.memory.failures.get(name).map_or(0, |before| before.times).saturating_add(1);
        let retry_at = later(Timestamp::now(), SignedDuration::from_secs(reason.wait_secs(times)));
        // The kubelet's event says `Failed`; the exact word stands in the status.
        if !reason.was_told_by_images() {
            self.say(Severity::Warning, "Failed", format!("Error: {message}"), Some(name)).await;
        }
        let failure = StartFailure { reason, message, retry_at, times };
        self.memory.failures.insert(name.to_owned(), failure);
    }
}
