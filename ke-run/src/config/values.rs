//! The kinds of values a configuration key can have beyond text and yes-or-no. Each refuses a bad value while it is
//! parsed, in words that say what is allowed. Pure.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Within<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Within<MIN, MAX> {
    /// A number known while compiling; one out of range does not compile.
    #[must_use]
    pub const fn of<const NUMBER: i64>() -> Self {
        const { assert!(MIN <= NUMBER && NUMBER <= MAX) };
        Self(NUMBER)
    }

    /// A number known only while running, if it is in range.
    #[must_use]
    pub fn new(number: i64) -> Option<Self> {
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The number as another whole-number type, at that type's nearest end if it does not fit.
    #[must_use]
    pub fn to_u16(self) -> u16 {
        u16::try_from(self.0.max(0)).unwrap_or(u16::MAX)
    }

    /// As [`Within::to_u16`].
    #[must_use]
    pub fn to_u32(self) -> u32 {
        u32::try_from(self.0.max(0)).unwrap_or(u32::MAX)
    }

    /// As [`Within::to_u16`].
    #[must_use]
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0.max(0)).unwrap_or(usize::MAX)
    }

    /// The number taken as seconds; below zero counts as zero.
    #[must_use]
    pub fn secs(self) -> Duration {
        Duration::from_secs(self.0.max(0).unsigned_abs())
    }
}

impl<const MIN: i64, const MAX: i64> fmt::Display for Within<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: i64, const MAX: i64> Serialize for Within<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(WithinVisitor::<MIN, MAX>)
    }
}

struct WithinVisitor<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for WithinVisitor<MIN, MAX> {
    type Value = Within<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Within::new(number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let fits = i64::try_from(number).ok().and_then(Within::new);
        fits.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

/// A duration in Go's text form (`10s`, `1m30s`, `500ms`), from `MIN` to `MAX` seconds. Kubelet's keys are written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> GoDuration<MIN, MAX> {
    /// Whole seconds known while compiling; out of range does not compile.
    #[must_use]
    pub const fn of_secs<const SECONDS: u64>() -> Self {
        const { assert!(MIN <= SECONDS && SECONDS <= MAX) };
        Self(Duration::from_secs(SECONDS))
    }

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for GoDuration<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&go_text(self.0))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for GoDuration<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(GoDurationVisitor::<MIN, MAX>)
    }
}

struct GoDurationVisitor<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Visitor<'_> for GoDurationVisitor<MIN, MAX> {
    type Value = GoDuration<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = (Duration::from_secs(MIN), Duration::from_secs(MAX));
        write!(f, "a duration such as \"1m30s\" from {} to {}", go_text(min), go_text(max))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match from_go_text(text) {
            Some(found) if found >= Duration::from_secs(MIN) && found <= Duration::from_secs(MAX) => {
                Ok(GoDuration(found))
            }
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

fn from_go_text(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) =
            tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

fn go_text(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes, milliseconds) {
        (0, 0, 1..) if seconds == 0 => format!("{milliseconds}ms"),
        (0, 0, 0) => format!("{seconds}s"),
        (0, _, 0) => format!("{minutes}m{}s", seconds % 60),
        (_, _, 0) => format!("{hours}h{minutes}m{}s", seconds % 60),
        _ => format!("{hours}h{minutes}m{}.{milliseconds:03}s", seconds % 60),
    }
}

/// Text that must not be seen: it shows itself nowhere, not in logs, errors or printed configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(hidden)" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(hidden)" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `deserialize_str`: its error would repeat what it found.
        match serde_json::Value::deserialize(deserializer) {
            Ok(serde_json::Value::String(text)) => Ok(Self(text)),
            _ => Err(D::Error::custom("found something else (hidden), expected text in quotes")),
        }
    }
}

/// `host:port`, where host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// Takes the parts as they are.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => host.to_owned(),
        };
        let plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
        (plain && (bare.is_some() || !host.contains(':'))).then_some(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Str(&text), &"host:port such as \"cloud.example:10000\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: for<'de> Deserialize<'de> + Serialize>(json: &str, expected: Result<&str, &str>) {
        let got = serde_json::from_str::<serde_json::Value>(json)
            .and_then(serde_json::from_value::<T>)
            .and_then(|value| serde_json::to_string(&value))
            .map_err(|e| e.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{json}");
    }

    #[test]
    fn whole_numbers_within_a_range() {
        check::<Within<5, 600>>("5", Ok("5"));
        check::<Within<5, 600>>("600", Ok("600"));
        check::<Within<-1, 9>>("-1", Ok("-1"));
        let range = "expected a whole number from 5 to 600";
        check::<Within<5, 600>>("601", Err(&format!("invalid value: integer `601`, {range}")));
        check::<Within<5, 600>>("4.5", Err(&format!("invalid type: floating point `4.5`, {range}")));
        check::<Within<5, 600>>("\"7\"", Err(&format!("invalid type: string \"7\", {range}")));
        check::<Within<5, 600>>(
            "18446744073709551615",
            Err(&format!("invalid value: integer `18446744073709551615`, {range}")),
        );
        assert_eq!(Within::<-5, 99_999_999>::of::<-5>().secs(), Duration::ZERO);
        assert_eq!(Within::<0, 99_999_999>::of::<70_000>().to_u16(), u16::MAX);
    }

    #[test]
    fn go_durations() {
        for (text, back) in
            [("10s", "10s"), ("1m0s", "1m0s"), ("90s", "1m30s"), ("1h", "1h0m0s"), ("1.5s", "0h0m1.500s")]
        {
            check::<GoDuration<1, 7200>>(&format!("{text:?}"), Ok(&format!("{back:?}")));
        }
        for bad in ["", "10", "s", "1x", "-3s", "3h", "0", "1..2s", "500ms"] {
            let range = "expected a duration such as \"1m30s\" from 1s to 2h0m0s";
            check::<GoDuration<1, 7200>>(
                &format!("{bad:?}"),
                Err(&format!("invalid value: string {bad:?}, {range}")),
            );
        }
    }

    #[test]
    fn secrets_stay_hidden() {
        check::<Secret>("\"hush\"", Ok("\"(hidden)\""));
        check::<Secret>("\"\"", Ok("\"\""));
        check::<Secret>("4711", Err("found something else (hidden), expected text in quotes"));
        assert_eq!(format!("{:?}", Secret::new("hush".into())), "Secret(hidden)");
    }

    #[test]
    fn hosts_and_ports() {
        for good in ["a.example:10000", "10.0.0.1:1", "[fd00::1]:10000"] {
            check::<HostPort>(&format!("{good:?}"), Ok(&format!("{good:?}")));
        }
        for bad in ["", "host", ":10000", "host:0", "host:99999", "fd00::1:10000", "https://x:1", "[x]:1"] {
            check::<HostPort>(
                &format!("{bad:?}"),
                Err(&format!(
                    "invalid value: string {bad:?}, expected host:port such as \"cloud.example:10000\""
                )),
            );
        }
    }
}
