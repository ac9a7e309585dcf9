//! What probes say of a container, in the words that plan and status decide with. Pure; `probes/` finds out.

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whether it is up; until then the others wait. Fails: the container is killed.
    Startup,
    /// Whether it still works. Fails: the container is killed.
    Liveness,
    /// Whether it takes requests.
    Readiness,
}

impl Kind {
    /// Kubernetes' word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// This container's probe of the kind.
    #[must_use]
    pub fn probe(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What the probes of a running container say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// Started, and the readiness probe passes or there is none.
    pub ready: bool,
    /// This probe asks for the container's end.
    pub failed: Option<Kind>,
}

impl Default for Verdict {
    /// Of a container without probes.
    fn default() -> Self {
        Self { started: true, ready: true, failed: None }
    }
}

/// What was known of a container before this process saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// It had started.
    pub started: bool,
    /// It was ready.
    pub ready: bool,
}
