//! Why an action on a Pod failed, in Kubernetes' words, and how soon a container is tried again for it. Pure.
//!
//! What follows from a reason is decided by it, never by its word: words are for statuses and events only. That the runtime is
//! away is no reason: nothing is wrong with the Pod then.

/// Why. Those of containers stand in their statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// The registry said no, or nothing.
    ErrImagePull,
    /// It did before, and is not asked again yet.
    ImagePullBackOff,
    /// The image is not here and may not be pulled.
    ErrImageNeverPull,
    /// No image is called like this.
    InvalidImageName,
    /// The runtime does not say whether the image is here.
    ImageInspectError,
    /// The runtime's own word for a registry that does not answer.
    RegistryUnavailable,
    /// The runtime's own word for an image whose signature is wrong.
    SignatureValidationFailed,
    /// No container can be made of what the Pod, its ConfigMaps and Secrets say.
    CreateContainerConfigError,
    /// The runtime does not make the container.
    CreateContainerError,
    /// The runtime refused to start what it had made: its command is not there, mostly. Such a container has ended, and its
    /// next start waits as after any crash.
    RunContainerError,
    /// It was started, and ended at once since its hook failed.
    PostStartHookError,
    /// The Pod has no sandbox, or none can be described.
    FailedCreatePodSandBox,
    /// Something of it does not end or go.
    FailedKillPod,
    /// Its volumes are not there.
    FailedMount,
    /// Its volumes do not go.
    FailedUnMount,
    /// Its new size is not carried out.
    ResizeError,
}

/// No container that could not be started waits longer to be tried again.
pub(super) const LONGEST_WAIT_SECS: i64 = 30;

/// Seconds between two tries of most starts. As a kubelet: a container that never was has no back-off. Images keep their own,
/// and answer at once while it lasts.
const PLAIN_SECS: i64 = 10;

impl FailureReason {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::InvalidImageName => "InvalidImageName",
            Self::ImageInspectError => "ImageInspectError",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::SignatureValidationFailed => "SignatureValidationFailed",
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
            Self::PostStartHookError => "PostStartHookError",
            Self::FailedCreatePodSandBox => "FailedCreatePodSandBox",
            Self::FailedKillPod => "FailedKillPod",
            Self::FailedMount => "FailedMount",
            Self::FailedUnMount => "FailedUnMount",
            Self::ResizeError => "ResizeError",
        }
    }

    /// How long a container waits that could not be started for the `times`th time in a row.
    #[must_use]
    pub(super) fn wait_secs(self, times: u32) -> i64 {
        if self != Self::CreateContainerConfigError {
            return PLAIN_SECS;
        }
        // Mostly a ConfigMap that is still on its way.
        let doublings = times.saturating_sub(1).min(16);
        1_i64.checked_shl(doublings).unwrap_or(LONGEST_WAIT_SECS).clamp(1, LONGEST_WAIT_SECS)
    }

    /// Whether the images told the user already, with an event of their own.
    #[must_use]
    pub(super) fn was_told_by_images(self) -> bool {
        matches!(self, Self::ImagePullBackOff | Self::ErrImageNeverPull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_reason() {
        use FailureReason as R;
        let check = |reason: R, word: &str, waits: [i64; 4], is_told: bool| {
            let got = [1, 2, 5, 40].map(|times| reason.wait_secs(times));
            assert_eq!((reason.word(), got, reason.was_told_by_images()), (word, waits, is_told));
        };
        check(R::ErrImagePull, "ErrImagePull", [10; 4], false);
        check(R::ImagePullBackOff, "ImagePullBackOff", [10; 4], true);
        check(R::ErrImageNeverPull, "ErrImageNeverPull", [10; 4], true);
        check(R::InvalidImageName, "InvalidImageName", [10; 4], false);
        check(R::ImageInspectError, "ImageInspectError", [10; 4], false);
        check(R::CreateContainerConfigError, "CreateContainerConfigError", [1, 2, 16, 30], false);
        check(R::CreateContainerError, "CreateContainerError", [10; 4], false);
        check(R::RunContainerError, "RunContainerError", [10; 4], false);
        check(R::FailedCreatePodSandBox, "FailedCreatePodSandBox", [10; 4], false);
    }
}
