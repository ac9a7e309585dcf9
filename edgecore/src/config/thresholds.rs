//! Pure: below which amounts a Node is short, as the kubelet's `evictionHard`, `evictionSoft` and `evictionMinimumReclaim` write it.
//! `eviction` judges by them, `node` keeps the hard ones from pods.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ke_run::config::{GoDuration, Problem};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::{Amount, written};

/// What may run out. The order is that in which the Node sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Signal {
    /// Memory that could be handed out at once.
    #[serde(rename = "memory.available")]
    Memory,
    /// Room in the file system under `rootDirectory`.
    #[serde(rename = "nodefs.available")]
    Disk,
    /// Inodes in the same file system.
    #[serde(rename = "nodefs.inodesFree")]
    Inodes,
    /// Room in the file system that the container runtime keeps images and containers in.
    #[serde(rename = "imagefs.available")]
    ImageDisk,
    /// Inodes in that.
    #[serde(rename = "imagefs.inodesFree")]
    ImageInodes,
    /// Process ids.
    #[serde(rename = "pid.available")]
    Pids,
}

/// Amounts by signal; what is left out is none.
pub type Amounts = BTreeMap<Signal, Threshold>;
/// How long a soft threshold may be crossed. 0s to 24h.
pub type Graces = BTreeMap<Signal, GoDuration<0, 86_400>>;

/// One threshold with all that is said about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// What it is about.
    pub signal: Signal,
    /// Below which the Node is short.
    pub threshold: Threshold,
    /// How long it may be. `None`: a hard one.
    pub grace: Option<Duration>,
    /// How much more than the threshold must be free again.
    pub reclaim: Option<Threshold>,
}

/// Every threshold that can be crossed. One of 0, or a soft one without a grace period, never is.
#[must_use]
pub fn limits(hard: &EvictionHard, soft: &Amounts, graces: &Graces, reclaims: &Amounts) -> Vec<Limit> {
    let limit = |signal, threshold, grace| Limit {
        signal,
        threshold,
        grace,
        reclaim: reclaims.get(&signal).copied(),
    };
    let hard = hard.all().into_iter().map(|(signal, threshold)| limit(signal, threshold, None));
    let soft = soft.iter().filter_map(|(signal, threshold)| {
        // One without patience is a soft one still: its pods get their time to end.
        Some(limit(*signal, *threshold, Some(graces.get(signal)?.get())))
    });
    hard.chain(soft).filter(|limit| !limit.threshold.is_zero()).collect()
}

/// Soft thresholds for which nobody says how long they may be crossed.
pub(super) fn problems(soft: &Amounts, graces: &Graces) -> Vec<Problem> {
    let without = soft.keys().filter(|signal| !graces.contains_key(signal));
    let problem = |signal: &Signal| {
        let name = serde_json::to_value(signal).unwrap_or_default();
        let name = name.as_str().unwrap_or_default();
        let key = format!("modules.edged.tailoredKubeletConfig.evictionSoft.{name}");
        Problem::new(
            &key,
            format!(
                "found no evictionSoftGracePeriod for it: write evictionSoftGracePeriod: {{{name}: 1m30s}} beside it"
            ),
        )
    };
    without.map(problem).collect()
}

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
    /// Room in the file system that the container runtime keeps images and containers in.
    #[serde(rename = "imagefs.available")]
    pub image_disk: Threshold,
    /// Inodes in that.
    #[serde(rename = "imagefs.inodesFree")]
    pub image_inodes: Threshold,
}

impl EvictionHard {
    fn all(&self) -> [(Signal, Threshold); 6] {
        [
            (Signal::Memory, self.memory),
            (Signal::Disk, self.disk),
            (Signal::Inodes, self.inodes),
            (Signal::ImageDisk, self.image_disk),
            (Signal::ImageInodes, self.image_inodes),
            (Signal::Pids, self.pids),
        ]
    }
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self {
            memory: Threshold::Amount(100 << 20),
            disk: Threshold::Percent(10.0),
            inodes: Threshold::Percent(5.0),
            pids: Threshold::Percent(10.0),
            image_disk: Threshold::Percent(15.0),
            image_inodes: Threshold::Percent(5.0),
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

    fn is_zero(self) -> bool {
        match self {
            Self::Amount(amount) => amount == 0,
            Self::Percent(percent) => percent <= 0.0,
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
    fn what_can_be_crossed() {
        let hard = EvictionHard {
            inodes: Threshold::Amount(0),
            pids: Threshold::Percent(0.0),
            ..EvictionHard::default()
        };
        let soft = serde_json::from_str(
            r#"{"memory.available": "1Gi", "pid.available": "20%", "nodefs.available": "5%"}"#,
        );
        let graces: Graces =
            serde_json::from_str(r#"{"memory.available": "1m", "nodefs.available": "0s"}"#).unwrap();
        let (soft, reclaims) = (soft.unwrap(), Amounts::from([(Signal::Memory, Threshold::Amount(5))]));
        let all = limits(&hard, &soft, &graces, &reclaims);
        let all: Vec<_> = all
            .iter()
            .map(|limit| (limit.signal, limit.grace.map(|grace| grace.as_secs()), limit.reclaim))
            .collect();
        let more = Some(Threshold::Amount(5));
        assert_eq!(
            all,
            [
                (Signal::Memory, None, more),
                (Signal::Disk, None, None),
                (Signal::ImageDisk, None, None),
                (Signal::ImageInodes, None, None),
                (Signal::Memory, Some(60), more),
                (Signal::Disk, Some(0), None),
            ]
        );
        let found: Vec<String> = problems(&soft, &graces).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("evictionSoft.pid.available: found no evictionSoftGracePeriod"),
            "{found:?}"
        );
    }

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
