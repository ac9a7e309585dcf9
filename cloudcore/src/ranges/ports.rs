//! Pure: lists of ports as people write them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Ports for nodes, as a text such as `10400-11399` or `20001,20005-20010`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRange(BTreeSet<u16>);

/// Why a text is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{0}\", expected ports from 1 to 65535 such as 10400-11399 or 20001,20005-20010; empty: none"
)]
pub struct BadRange(String);

impl PortRange {
    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &u16> {
        self.0.iter()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let mut ports = BTreeSet::new();
        for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                return Err(bad());
            }
            ports.extend(first..=last);
        }
        Ok(Self(ports))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ports", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, expected: Option<&[u16]>| {
            let got = text.parse::<PortRange>();
            assert_eq!(
                got.as_ref().ok().map(|range| range.0.iter().copied().collect()),
                expected.map(<[_]>::to_vec),
                "{text}"
            );
        };
        check("", Some(&[]));
        check(" ", Some(&[]));
        check("7-9", Some(&[7, 8, 9]));
        check("7, 9-10,8", Some(&[7, 8, 9, 10]));
        check("65535", Some(&[65535]));
        for bad in ["0", "9-7", "7-", "-7", "a", "7,,8", "65536", "1-2-3"] {
            check(bad, None);
        }
    }
}
