//! Pure: below which amounts a Node says that it is short, as the kubelet's `evictionHard` writes it. `node` judges by it.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::{Amount, written};

/// Below which amount the Node says that it is short. Same names and units as the kubelet's; a key that is left out keeps
/// its default, and `0` means never short.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct EvictionHard {
    /// Memory that could be handed out at once.
    #[serde(rename = "memory.available")]
    pub memory: Threshold,
    /// Room in the file system under `rootDirectory`.
    #[serde(rename = "nodefs.available")]
    pub disk: Threshold,
    /// Inodes in the same file system.
    #[serde(rename = "nodefs.inodesFree")]
    pub inodes: Threshold,
    /// Process ids.
    #[serde(rename = "pid.available")]
    pub pids: Threshold,
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self {
            memory: Threshold::Amount(100 << 20),
            disk: Threshold::Percent(10.0),
            inodes: Threshold::Percent(5.0),
            pids: Threshold::Percent(10.0),
        }
    }
}

/// An amount (`100Mi`, `2000`) or a share of all there is (`10%`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes, inodes, process ids.
    Amount(u64),
    /// Of the whole, 0 to 100.
    Percent(f64),
}

impl Threshold {
    /// The amount, where `whole` is all there is.
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            // Rounded down, as the kubelet does. A share of a number of bytes: what an f64 cannot hold does not matter.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            Self::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = Amount::parse(text).ok()?.units();
            return u64::try_from(amount).ok().map(Self::Amount);
        };
        let percent: f64 = percent.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount(amount) if *amount > 0 && amount.is_multiple_of(1 << 20) => {
                write!(f, "{}Mi", amount >> 20)
            }
            Self::Amount(amount) => write!(f, "{amount}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = written(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "found \"{text}\", expected an amount such as 100Mi or a share such as 10%"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_and_written() {
        let check = |text: &str, expected: Option<Threshold>, written: &str| {
            assert_eq!(Threshold::parse(text), expected, "{text}");
            assert_eq!(expected.map(|it| it.to_string()).unwrap_or_default(), written);
        };
        check("100Mi", Some(Threshold::Amount(100 << 20)), "100Mi");
        check("0", Some(Threshold::Amount(0)), "0");
        check("1500", Some(Threshold::Amount(1500)), "1500");
        check("10%", Some(Threshold::Percent(10.0)), "10%");
        check("7.5%", Some(Threshold::Percent(7.5)), "7.5%");
        check("0%", Some(Threshold::Percent(0.0)), "0%");
        for wrong in ["", "%", "-1", "-5%", "101%", "NaN%", "ten", "10 %"] {
            check(wrong, None, "");
        }
    }
}
