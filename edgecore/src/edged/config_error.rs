//! A pod that no container or sandbox can be made of.

/// Why no container can be made of this; the text of `CreateContainerConfigError`. Only a change of the pod helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);
