//! Pure: what a Node keeps back from pods, as the kubelet's `systemReserved` and `kubeReserved` write it. `node` takes it off.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::KubeletConfig;
use crate::quantity::{Amount, written};

/// What is kept for programs that are no pods. Same names and units as the kubelet's; what is left out is `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Reserved {
    /// Processors: `500m` is half of one.
    pub cpu: Reserve,
    /// Memory.
    pub memory: Reserve,
    /// Room in the file system under `rootDirectory`.
    #[serde(rename = "ephemeral-storage")]
    pub disk: Reserve,
}

impl Reserved {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: Reserve(self.cpu.0 + other.cpu.0),
            memory: Reserve(self.memory.0 + other.memory.0),
            disk: Reserve(self.disk.0 + other.disk.0),
        }
    }
}

impl KubeletConfig {
    /// All that pods do not get.
    #[must_use]
    pub fn reserved(&self) -> Reserved {
        self.system_reserved.and(self.kube_reserved)
    }
}

/// One amount, never below nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve(Amount);

impl Reserve {
    /// Thousandths of a processor, rounded up.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.millis()).unwrap_or_default()
    }

    /// Bytes, rounded up.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::try_from(self.0.units()).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        Amount::parse(text).ok().filter(|amount| *amount >= Amount::ZERO).map(Self)
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, millis) = (self.bytes(), self.millis());
        match bytes {
            1.. if bytes.is_multiple_of(1 << 20) => write!(f, "{}Mi", bytes >> 20),
            _ if bytes.saturating_mul(1000) == millis => write!(f, "{bytes}"),
            _ => write!(f, "{millis}m"),
        }
    }
}

impl Serialize for Reserve {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reserve {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = written(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("found \"{text}\", expected an amount such as 500m or 512Mi"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written() {
        let check = |text: &str, millis: u64, bytes: u64, written: &str| {
            let reserve = Reserve::parse(text).unwrap();
            assert_eq!((reserve.millis(), reserve.bytes()), (millis, bytes), "{text}");
            assert_eq!(reserve.to_string(), written);
        };
        check("0", 0, 0, "0");
        check("500m", 500, 1, "500m");
        check("1.5", 1500, 2, "1500m");
        check("2", 2000, 2, "2");
        check("512Mi", 536_870_912_000, 512 << 20, "512Mi");
        let bare: Reserved = serde_json::from_str(r#"{"cpu": 1.5, "memory": 1024}"#).unwrap();
        assert_eq!((bare.cpu.millis(), bare.memory.bytes()), (1500, 1024));
        for wrong in ["", "-1", "-500m", "10%", "half"] {
            assert_eq!(Reserve::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_reservations_add_up() {
        let of = |cpu: &str, memory: &str| Reserved {
            cpu: Reserve::parse(cpu).unwrap(),
            memory: Reserve::parse(memory).unwrap(),
            ..Reserved::default()
        };
        assert_eq!(of("500m", "512Mi").and(of("500m", "1Gi")), of("1", "1536Mi"));
    }
}
