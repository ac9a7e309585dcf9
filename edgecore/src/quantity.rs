//! Kubernetes quantities: `500m`, `64Mi`, `1e3`. Pure.
//!
//! Exact arithmetic in billionths, rounded up only when a number leaves: a limit of 0.1 m must not become none.
//! Used for resources, cgroups, environment references and volume sizes.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::Add;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount of anything, in billionths. Sums stop at the largest number instead of turning over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// The text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity: write a number with an optional suffix, such as 500m, 2, 1.5Gi or 1e3")]
pub struct BadQuantity(pub String);

const NANO: i128 = 1_000_000_000;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads a quantity as the API server accepts it.
    pub fn parse(text: &str) -> Result<Self, BadQuantity> {
        parse(text).ok_or_else(|| BadQuantity(text.to_owned()))
    }

    /// Whole units: bytes, pods, cores.
    #[must_use]
    pub fn of_units(units: i64) -> Self {
        Self(i128::from(units) * NANO)
    }

    /// Thousandths: milli-cores.
    #[must_use]
    pub fn of_millis(millis: i64) -> Self {
        Self(i128::from(millis) * (NANO / 1000))
    }

    /// Whole units, rounded up.
    #[must_use]
    pub fn units(self) -> i64 {
        saturate(divide_up(self.0, NANO))
    }

    /// Thousandths, rounded up.
    #[must_use]
    pub fn millis(self) -> i64 {
        saturate(divide_up(self.0, NANO / 1000))
    }

    /// How many `divisor`s, rounded up; a divisor of zero counts as one. What a `resourceFieldRef` shows.
    #[must_use]
    pub fn in_units_of(self, divisor: Self) -> i64 {
        if divisor.0 <= 0 { self.units() } else { saturate(divide_up(self.0, divisor.0)) }
    }

    /// True for nothing at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// One resource of a list such as `limits`. Text that is no quantity counts as absent: the API server let it through
/// only if it is one, and a pod must not fail on it here.
#[must_use]
pub fn amount_in(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<Amount> {
    Amount::parse(&list?.get(resource)?.0).ok()
}

fn parse(text: &str) -> Option<Amount> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (ten, binary) = scale(suffix)?;
    let mut value: i128 = 0;
    let mut exponent = ten + 9;
    for digit in whole.bytes() {
        value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    for digit in fraction.bytes() {
        // Digits that cannot matter are not worth an overflow.
        if value > i128::MAX / 1_000_000_000_000_000_000_000 {
            break;
        }
        value = value * 10 + i128::from(digit - b'0');
        exponent -= 1;
    }
    for _ in 0..binary {
        value = value.saturating_mul(1024);
    }
    if value != 0 {
        for _ in 0..exponent.clamp(0, 60) {
            value = value.saturating_mul(10);
        }
    }
    for _ in 0..(-exponent).clamp(0, 60) {
        value = divide_up(value, 10);
    }
    Some(Amount(if negative { -value } else { value }))
}

/// Power of ten and power of 1024 of a suffix.
fn scale(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 1),
        "Mi" => (0, 2),
        "Gi" => (0, 3),
        "Ti" => (0, 4),
        "Pi" => (0, 5),
        "Ei" => (0, 6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let digits = digits.strip_prefix('+').unwrap_or(digits);
            (digits.parse::<i32>().ok()?.clamp(-100, 100), 0)
        }
    })
}

/// Away from zero for positive numbers; quantities here are hardly ever negative.
fn divide_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// An amount as people write it in a file: a text, or a number without quotes.
pub(crate) fn written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Written;
    impl serde::de::Visitor<'_> for Written {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an amount")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    deserializer.deserialize_any(Written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_millis() {
        let check = |text: &str, units: i64, millis: i64| {
            let amount = Amount::parse(text).unwrap();
            assert_eq!((amount.units(), amount.millis()), (units, millis), "{text}");
        };
        check("0", 0, 0);
        check("2", 2, 2000);
        check("500m", 1, 500);
        check("1500m", 2, 1500);
        check("0.1", 1, 100);
        check(".5", 1, 500);
        check("5.", 5, 5000);
        check("0.0001", 1, 1);
        check("1n", 1, 1);
        check("100u", 1, 1);
        check("64Mi", 67_108_864, 67_108_864_000);
        check("1.5Gi", 1_610_612_736, 1_610_612_736_000);
        check("1k", 1000, 1_000_000);
        check("1e3", 1000, 1_000_000);
        check("1E3", 1000, 1_000_000);
        check("12E-1", 2, 1200);
        check("1e+2", 100, 100_000);
        check("1E", 1_000_000_000_000_000_000, i64::MAX);
        check("100Ei", i64::MAX, i64::MAX);
        check("-2", -2, -2000);
        check("999999999999999999999999999999999999999999", i64::MAX, i64::MAX);
        check("0e99", 0, 0);
    }

    #[test]
    fn refused() {
        for text in ["", "m", "1.2.3", "1x", "1 Mi", "--1", "1mi", "e3", "1e", "1e3.5", "."] {
            assert_eq!(Amount::parse(text), Err(BadQuantity(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn divisors() {
        let check = |amount: &str, divisor: &str, expected: i64| {
            let n = Amount::parse(amount).unwrap().in_units_of(Amount::parse(divisor).unwrap());
            assert_eq!(n, expected, "{amount} / {divisor}");
        };
        check("1500m", "1", 2);
        check("1500m", "1m", 1500);
        check("64Mi", "1Mi", 64);
        check("64Mi", "0", 67_108_864);
        check("65Mi", "64Mi", 2);
    }
}
