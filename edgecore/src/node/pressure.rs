//! Pure: when this machine counts as short of something, by the kubelet's `evictionHard`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host::{Measured, Share};
use crate::quantity::Amount;

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

/// What the machine is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

impl EvictionHard {
    pub(super) fn judge(&self, measured: &Measured) -> Pressure {
        Pressure {
            memory: self.memory.is_above(measured.memory_bytes),
            disk: self.disk.is_above(measured.disk_bytes) || self.inodes.is_above(measured.inodes),
            pids: self.pids.is_above(measured.pids),
        }
    }
}

impl Threshold {
    /// The amount, where `whole` is all there is.
    pub(super) fn of(self, whole: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            // Rounded down, as the kubelet does. A share of a number of bytes: what an f64 cannot hold does not matter.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            Self::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }

    /// What could not be measured, and what the file system does not count (btrfs has no number of inodes), is not short.
    fn is_above(self, share: Option<Share>) -> bool {
        share.is_some_and(|share| share.whole > 0 && share.free < self.of(share.whole))
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
        let text = String::deserialize(deserializer)?;
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

    #[test]
    fn short_is_below_the_threshold() {
        let measured = |memory, disk, inodes, pids| {
            let of = |free| Some(Share { free, whole: 1000 });
            Measured { memory_bytes: of(memory), disk_bytes: of(disk), inodes: of(inodes), pids: of(pids) }
        };
        let percent = Threshold::Percent(10.0);
        let hard =
            EvictionHard { memory: Threshold::Amount(5), disk: percent, inodes: percent, pids: percent };
        let check = |measured: Measured, memory: bool, disk: bool, pids: bool| {
            assert_eq!(hard.judge(&measured), Pressure { memory, disk, pids }, "{measured:?}");
        };
        check(measured(5, 100, 100, 100), false, false, false);
        check(measured(4, 100, 100, 100), true, false, false);
        check(measured(5, 99, 100, 100), false, true, false);
        check(measured(5, 100, 99, 100), false, true, false);
        check(measured(5, 100, 100, 99), false, false, true);
        check(
            Measured { memory_bytes: None, disk_bytes: None, inodes: None, pids: None },
            false,
            false,
            false,
        );
        let uncounted = Some(Share { free: 0, whole: 0 });
        check(Measured { inodes: uncounted, ..measured(5, 100, 0, 100) }, false, false, false);
        let never = Threshold::Amount(0);
        let never = EvictionHard { memory: never, disk: Threshold::Percent(0.0), inodes: never, pids: never };
        assert_eq!(never.judge(&measured(0, 0, 0, 0)), Pressure { memory: false, disk: false, pids: false });
    }
}
