//! Pure: the kubelet's managers of CPUs, memory and topology, and its ways with swap. This node has none of them: the only
//! policy taken is that of having none, and every other one is refused by its name.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// `cpuManagerPolicy`, `memoryManagerPolicy` or `topologyManagerPolicy`, as it is written: `none` or `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoManager(String);

impl NoManager {
    /// As the CPU manager's and the topology manager's is written.
    #[must_use]
    pub fn lower() -> Self {
        Self("none".to_owned())
    }

    /// As the memory manager's is written.
    #[must_use]
    pub fn upper() -> Self {
        Self("None".to_owned())
    }
}

impl<'de> Deserialize<'de> for NoManager {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.eq_ignore_ascii_case("none") {
            return Ok(Self(text));
        }
        Err(D::Error::custom(format!(
            "found \"{text}\", expected none: no container gets CPUs, memory or a NUMA node of its own on this node; take \
             the key out"
        )))
    }
}

/// `memorySwap`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemorySwap {
    /// `NoSwap` or empty. Containers get no share of the machine's swap counted out to them.
    pub swap_behavior: SwapBehavior,
}

/// What `memorySwap.swapBehavior` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwapBehavior(String);

impl<'de> Deserialize<'de> for SwapBehavior {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text == "NoSwap" {
            return Ok(Self(text));
        }
        Err(D::Error::custom(format!(
            "found \"{text}\", expected NoSwap: this node gives no container a share of its swap; take the key out"
        )))
    }
}
