//! Versions of objects and the only comparison of two.

use std::fmt;
use std::str::FromStr;

/// A Kubernetes resourceVersion. Within one cluster a later write has a greater one (the API server promises
/// comparable integers since 1.35, and every server before it behaved so).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

/// The text is no unsigned decimal number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resource version: an unsigned number is needed")]
pub struct InvalidVersion(String);

impl Version {
    /// Older than anything an API server hands out.
    pub const NONE: Self = Self(0);

    /// The version with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Whether `self` says something that `held` does not yet say.
    #[must_use]
    pub fn is_newer_than(self, held: Self) -> bool {
        self.0 > held.0
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        text.parse().map(Self).map_err(|_| InvalidVersion(text.chars().take(32).collect()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
