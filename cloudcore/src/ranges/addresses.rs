//! Pure: ranges of addresses, and the next one that is free.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: IpAddr,
    /// How many bits are the same.
    prefix: u8,
}

/// Not address/bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRange;

impl FromStr for Range {
    type Err = NoRange;

    /// Bits that are no part of the range are cleared.
    fn from_str(text: &str) -> Result<Self, NoRange> {
        let (address, prefix) = text.split_once('/').ok_or(NoRange)?;
        let address: IpAddr = address.parse().map_err(|_| NoRange)?;
        let prefix: u8 = prefix.parse().map_err(|_| NoRange)?;
        let width = if address.is_ipv6() { 128 } else { 32 };
        if prefix > width {
            return Err(NoRange);
        }
        let first = number(address) & !below(width.abs_diff(prefix));
        Ok(Self { first: as_address(first, address.is_ipv6()), prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Ord for Range {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.first, self.prefix).cmp(&(other.first, other.prefix))
    }
}

impl PartialOrd for Range {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Range {
    fn width(&self) -> u8 {
        if self.first.is_ipv6() { 128 } else { 32 }
    }

    fn start(&self) -> u128 {
        number(self.first)
    }

    fn end(&self) -> u128 {
        self.start() | below(self.width().abs_diff(self.prefix))
    }

    /// For the name of an object.
    pub(crate) fn in_a_name(&self) -> String {
        match self.first {
            IpAddr::V4(first) => format!("{first}-{}", self.prefix),
            // Colons are not allowed there, and what is short is not unique without them.
            IpAddr::V6(_) => format!("{:032x}-{}", self.start(), self.prefix),
        }
    }

    #[cfg(test)]
    fn overlaps(&self, other: &Self) -> bool {
        self.width() == other.width() && self.start() <= other.end() && other.start() <= self.end()
    }
}

/// The last so many bits.
fn below(n_bits: u8) -> u128 {
    1_u128.checked_shl(u32::from(n_bits)).map_or(u128::MAX, |bit| bit.wrapping_sub(1))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn as_address(number: u128, is_v6: bool) -> IpAddr {
    if is_v6 {
        IpAddr::V6(Ipv6Addr::from(number))
    } else {
        // Only ever made of numbers of this width.
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    }
}

/// What ranges of one size are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    whole: Range,
    prefix: u8,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl Pool {
    /// Errors: the key of the configuration, and what is wrong with it.
    pub fn new(range: &str, prefix: u8) -> Result<Self, (&'static str, String)> {
        let whole: Range = range
            .parse()
            .map_err(|_| ("range", format!("found \"{range}\", expected a range such as 10.208.0.0/12")))?;
        let shown = whole.to_string();
        if range.split('/').next().and_then(|text| text.parse().ok()) != Some(whole.first) {
            return Err((
                "range",
                format!("found \"{range}\", which is in the middle of {shown}: write that"),
            ));
        }
        // Network plugins want four addresses at least.
        let (least, most) = (whole.prefix.saturating_add(1), whole.width().abs_diff(2));
        if !(least..=most).contains(&prefix) {
            let text = format!("found {prefix}, expected {least} to {most} for a range of {shown}");
            return Err(("nodeMaskSize", text));
        }
        Ok(Self { whole, prefix })
    }

    /// The first that has no address in common with any of `taken`, which may be of any size; `None`: there is none.
    pub(crate) fn next_free(&self, taken: &BTreeSet<Range>) -> Option<Range> {
        let last_bits = below(self.whole.width().abs_diff(self.prefix));
        let mut candidate = self.whole.start();
        let same_width = taken.iter().filter(|range| range.width() == self.whole.width());
        // In the order of their first addresses.
        for range in same_width.filter(|range| range.end() >= self.whole.start()) {
            if range.start() > candidate | last_bits {
                break;
            }
            if range.end() >= candidate {
                candidate = (range.end() | last_bits).checked_add(1)?;
            }
        }
        let is_in = candidate | last_bits <= self.whole.end();
        let first = as_address(candidate, self.whole.first.is_ipv6());
        is_in.then_some(Range { first, prefix: self.prefix })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(texts: &[&str]) -> BTreeSet<Range> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_next_one_that_is_free() {
        let check = |pool: (&str, u8), taken: &[&str], expected: Option<&str>| {
            let free = Pool::new(pool.0, pool.1).unwrap().next_free(&ranges(taken));
            assert_eq!(free.map(|range| range.to_string()).as_deref(), expected, "{pool:?} {taken:?}");
        };
        let pool = ("10.208.0.0/22", 24);
        check(pool, &[], Some("10.208.0.0/24"));
        check(pool, &["10.208.0.0/24"], Some("10.208.1.0/24"));
        check(pool, &["10.208.1.0/24"], Some("10.208.0.0/24"));
        check(pool, &["10.208.0.0/24", "10.208.2.0/24"], Some("10.208.1.0/24"));
        // Of other sizes, after nodeMaskSize was changed.
        check(pool, &["10.208.0.0/23"], Some("10.208.2.0/24"));
        check(pool, &["10.208.0.128/25", "10.208.1.7/32"], Some("10.208.2.0/24"));
        check(pool, &["10.0.0.0/8"], None);
        check(pool, &["10.208.0.0/23", "10.208.2.0/23"], None);
        // Elsewhere.
        check(pool, &["10.207.255.0/24", "10.208.4.0/24", "fd00::/8"], Some("10.208.0.0/24"));
        check(("255.255.255.0/24", 25), &["255.255.255.0/25"], Some("255.255.255.128/25"));
        check(("255.255.255.0/24", 25), &["255.255.255.0/24"], None);
        check(("fd00:1::/48", 64), &["fd00:1::/64"], Some("fd00:1:0:1::/64"));
        check(("ffff:ffff:ffff:ffff::/64", 80), &["::/0"], None);
    }

    #[test]
    fn names() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Range>().unwrap().in_a_name(), expected);
        };
        check("10.208.1.0/24", "10.208.1.0-24");
        check("fd00:1::/64", "fd000001000000000000000000000000-64");
    }

    proptest! {
        /// Whatever is taken: what is given is in the pool, has the size, and is nobody's; nothing is given only when all is taken.
        #[test]
        fn nothing_is_given_twice(taken in prop::collection::vec((0_u32..4096, 20_u8..=32), 0..40)) {
            let base = u32::from(Ipv4Addr::new(10, 208, 0, 0));
            let taken: BTreeSet<Range> = taken
                .iter()
                .map(|(offset, prefix)| format!("{}/{prefix}", Ipv4Addr::from(base + offset)).parse().unwrap())
                .collect();
            let pool = Pool::new("10.208.0.0/21", 24).unwrap();
            let free = pool.next_free(&taken);
            let all = (0..8).map(|n| format!("10.208.{n}.0/24").parse::<Range>().unwrap());
            let expected = all.filter(|range| !taken.iter().any(|other| range.overlaps(other))).min();
            prop_assert_eq!(free, expected);
        }

        /// A fleet fills the pool to its last range.
        #[test]
        fn a_pool_can_be_filled(prefix in 17_u8..=24) {
            let pool = Pool::new("10.208.0.0/16", prefix).unwrap();
            let mut taken = BTreeSet::new();
            while let Some(range) = pool.next_free(&taken) {
                prop_assert!(taken.insert(range));
            }
            prop_assert_eq!(taken.len(), 1 << (prefix - 16));
        }
    }
}
