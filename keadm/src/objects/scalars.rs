//! Pure: the kinds of values that one key can have, each refusing what the chart's schema refuses while it is parsed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ke_run::config::Within;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// As Kubernetes has it, handed on unread.
pub(super) type Object = Map<String, Value>;
pub(super) type Texts = BTreeMap<String, String>;
pub(super) type Port = Within<1, 65_535>;

/// On or off; KubeEdge's files have it in quotes at times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Switch(bool);

impl Switch {
    pub(super) const fn is_on(self) -> bool {
        self.0
    }
}

/// In cloudcore.yaml.
impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quotable;
        impl Visitor<'_> for Quotable {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }
            fn visit_bool<E: Error>(self, is_on: bool) -> Result<Switch, E> {
                Ok(Switch(is_on))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Switch, E> {
                text.parse().map(Switch).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Quotable)
    }
}

/// A whole number that may stand in quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Quoted<MIN, MAX> {
    pub(super) const fn get(self) -> i64 {
        self.0
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Quoted<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Value::deserialize(deserializer)?;
        let plain = match &found {
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse::<i64>().map_or(found.clone(), Value::from)
            }
            _ => found,
        };
        Within::<MIN, MAX>::deserialize(plain).map(|number| Self(number.get())).map_err(D::Error::custom)
    }
}

/// How long pods stay on a lost node, seconds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Toleration {
    Forever,
    Seconds(i64),
}

impl<'de> Deserialize<'de> for Toleration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "forever" => Ok(Self::Forever),
            found => Within::<0, 31_536_000>::deserialize(found)
                .map(|seconds| Self::Seconds(seconds.get()))
                .map_err(|error| D::Error::custom(format!("{error}, or forever"))),
        }
    }
}

/// All addresses of one family, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum ListenAddress {
    #[serde(rename = "0.0.0.0")]
    Ipv4,
    #[serde(rename = "::")]
    Both,
}

/// Labels of all objects: others may be added to those by which pods are found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Labels(Texts);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels = Texts::deserialize(deserializer)?;
        for (name, value) in [("k8s-app", "kubeedge"), ("kubeedge", "cloudcore")] {
            if labels.get(name).is_none_or(|found| found != value) {
                return Err(D::Error::custom(format!(
                    "the label {name} must stay {value}: selectors cannot be changed"
                )));
            }
        }
        Ok(Self(labels))
    }
}

/// A text that is refused unless the test likes it.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $allowed:literal, $is_good:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        pub(crate) struct $name(String);

        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let is_good: fn(&str) -> bool = $is_good;
                if is_good(&text) {
                    Ok(Self(text))
                } else {
                    Err(D::Error::invalid_value(Unexpected::Str(&text), &$allowed))
                }
            }
        }
    };
}

text!(
    /// Empty, as KubeEdge's default has it, is none.
    Address, "an IP address; names belong into dnsNames",
    |text| text.is_empty() || text.parse::<IpAddr>().is_ok()
);
text!(
    /// Empty: none. cloudcore itself looks closer.
    AddressRange, "a range of addresses such as 10.208.0.0/12",
    |text| text.is_empty() || text.split_once('/').is_some_and(|(address, bits)| {
        let is_address = |letter: char| letter.is_ascii_hexdigit() || ".:".contains(letter);
        let is_digit = |letter: char| letter.is_ascii_digit();
        !address.is_empty() && address.chars().all(is_address) && (1..=3).contains(&bits.len()) && bits.chars().all(is_digit)
    })
);
text!(
    /// Empty: what cloudcore finds out.
    KubeletAddress, "an IP address, or node",
    |text| text.is_empty() || text == "node" || text.parse::<IpAddr>().is_ok()
);
text!(
    /// Empty: none. cloudcore itself looks closer.
    Ports, "ports such as 10400-11399 or 20001,20005-20010",
    |text| {
        let is_port = |text: &str| (1..=5).contains(&text.len()) && text.chars().all(|letter| letter.is_ascii_digit());
        let is_part = |part: &str| part.split_once('-').map_or(is_port(part), |(first, last)| is_port(first) && is_port(last));
        text.is_empty() || text.split(',').all(is_part)
    }
);
text!(DnsName, "a DNS name", |text| only(text, ".*_-"));
text!(Advertise, "a host, or host:port", |text| only(text, ".:_[]-"));
text!(Repository, "an image name such as registry.example/isthmus/cloudcore", |text| text
    .starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
    && only(text, "._:/-"));
text!(Tag, "an image tag such as v1.2.3", |text| only(text, "_.@:-"));
text!(Levels, "off, error, warn, info, debug or trace, or module=level, with commas between", |text| {
    text.split(',').all(|entry| {
        let (module, level) = entry.split_once('=').unwrap_or(("all", entry));
        let is_level = matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace");
        is_level && !module.is_empty() && only(module, "_:")
    })
});
text!(Interval, "a time as Prometheus writes it, such as 30s", |text| {
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let after = ["ms", "s", "m", "h"].iter().find_map(|name| unit.strip_prefix(name));
        match after {
            Some(after) if unit.len() < rest.len() => rest = after,
            _ => return false,
        }
    }
    !text.is_empty()
});

impl Ports {
    /// First and last, of each that has both.
    pub(super) fn ranges(&self) -> Vec<(u32, Option<u32>)> {
        let number = |text: &str| text.parse::<u32>().ok();
        let range = |part: &str| match part.split_once('-') {
            Some((first, last)) => Some((number(first)?, number(last))),
            None => Some((number(part)?, None)),
        };
        self.0.split(',').filter_map(range).collect()
    }
}

fn only(text: &str, marks: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || marks.contains(letter))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check<T: for<'de> Deserialize<'de>>(good: &[Value], bad: &[Value]) {
        for value in good {
            let taken = serde_json::from_value::<T>(value.clone());
            assert!(taken.is_ok(), "{value}: {:?}", taken.err());
        }
        for value in bad {
            assert!(serde_json::from_value::<T>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn each_kind_takes_and_refuses() {
        check::<Switch>(&[json!(true), json!("false")], &[json!("yes"), json!(1), json!(null)]);
        check::<Quoted<1, 1000>>(
            &[json!(1), json!("1000")],
            &[json!(0), json!("1001"), json!("many"), json!(""), json!("-1"), json!(1.5)],
        );
        check::<Toleration>(&[json!("forever"), json!(0)], &[json!("never"), json!(-1), json!("300")]);
        check::<ListenAddress>(&[json!("::")], &[json!("192.0.2.1")]);
        check::<Address>(
            &[json!("192.0.2.1"), json!("2001:db8::1"), json!("")],
            &[json!("a.example"), json!("300.1.1.1")],
        );
        check::<AddressRange>(
            &[json!("10.208.0.0/12"), json!("fd00::/48"), json!("")],
            &[json!("10.208.0.0"), json!("/12"), json!("10.0.0.0/x"), json!("10.0.0.0/1000"), json!("a b/1")],
        );
        check::<Ports>(
            &[json!(""), json!("10400-11399"), json!("20001,20005-20010")],
            &[json!("10351-"), json!("1,,2"), json!("a"), json!("1 2"), json!(10351), json!("123456")],
        );
        check::<KubeletAddress>(
            &[json!(""), json!("node"), json!("192.0.2.1"), json!("2001:db8::1")],
            &[json!("cloud.example"), json!("Node")],
        );
        check::<DnsName>(&[json!("*.a-b.example"), json!("")], &[json!("a b"), json!("https://a")]);
        check::<Repository>(&[json!("reg.example:5000/a/b")], &[json!(""), json!("/a"), json!("a b")]);
        check::<Tag>(&[json!(""), json!("v1@sha256:00")], &[json!("v 1"), json!(1)]);
        check::<Levels>(
            &[json!("info"), json!("info,cloudcore::cloud_hub=debug")],
            &[json!("loud"), json!(""), json!("info,"), json!("=info"), json!("a b=info")],
        );
        check::<Interval>(
            &[json!("30s"), json!("1m30s"), json!("500ms")],
            &[json!(""), json!("30"), json!("s"), json!("3d")],
        );
        check::<Labels>(
            &[json!({"k8s-app": "kubeedge", "kubeedge": "cloudcore", "team": "edge"})],
            &[json!({}), json!({"k8s-app": "kubeedge", "kubeedge": "mine"})],
        );
    }
}
