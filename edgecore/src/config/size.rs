//! Pure: an amount of bytes in the configuration, as the kubelet writes it: `10Mi`, `500Ki`, `1000000`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::{Amount, written};

/// Bytes; below nothing means without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(i64);

impl Size {
    /// So many times 2^20.
    #[must_use]
    pub const fn of_mi(n: i64) -> Self {
        Self(n << 20)
    }

    /// Bytes; `None`: without bound.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        u64::try_from(self.0).ok()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 1.. if bytes % (1 << 20) == 0 => write!(f, "{}Mi", bytes >> 20),
            bytes @ 1.. if bytes % (1 << 10) == 0 => write!(f, "{}Ki", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = written(deserializer)?;
        let amount = Amount::parse(&text).ok().map(Amount::units).filter(|bytes| *bytes != 0);
        amount.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "found \"{text}\", expected an amount of bytes such as 10Mi; -1: no bound"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        let check = |text: &str, bytes: Option<u64>, written: &str| {
            let size: Size = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, written), "{text}");
        };
        check("10Mi", Some(10 << 20), "10Mi");
        check("1024Ki", Some(1 << 20), "1Mi");
        check("16Ki", Some(16 << 10), "16Ki");
        check("1000", Some(1000), "1000");
        check("-1", None, "-1");
        for wrong in ["", "0", "ten", "10 Mi"] {
            assert!(serde_json::from_str::<Size>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }
}
