//! Pure: one change to one device's twin, and everything that follows from it.
//!
//! The rules are KubeEdge's (`expected` is what a property should be, `actual` what it is; each side counts its writes),
//! without its faults: a half without a value counts as absent, a null for an unknown property is passed over, order is
//! kept by whoever calls. It reads no clock and keeps nothing. Called by `mod.rs`, stored by `store.rs`.

use std::collections::BTreeMap;

use ke_wire::{TwinProperty, TwinTime, TwinType, TwinValue, TwinVersion};

/// Longest value that KubeEdge's own edges take, bytes.
const MAX_STRICT_VALUE: usize = 512;
/// Longest value that we take, bytes.
const MAX_OPEN_VALUE: usize = 64 << 10;
/// Longest name of a property, bytes.
const MAX_NAME: usize = 128;
/// Most properties of a device: each costs memory for as long as the device is there.
const MAX_PROPERTIES: usize = 4096;

/// What names and values may hold, and who says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Letters, digits and `-_.,:/@#`, as Go edges demand of MQTT clients. What is wrong with one property refuses all.
    KubeEdge,
    /// Any text. A mapper, which knows its device: its word on a type is the last, and what is wrong with one property does
    /// not touch the others.
    Open,
}

/// One side of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// A text, whatever the type.
    pub value: String,
    /// Edge clock, Unix milliseconds.
    pub at_ms: i64,
    /// How often each end wrote it.
    pub version: TwinVersion,
}

/// One property. Deleted ones stay as tombstones, so that versions go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// What it should be.
    pub expected: Option<Half>,
    /// What it is.
    pub actual: Option<Half>,
    /// Whether the device may lack it. Only ever goes from true to false.
    pub optional: bool,
    /// `string`, `int`, `integer`, `float`, `boolean`; `deleted` for a tombstone.
    pub kind: String,
}

/// The word for a tombstone's type.
pub const DELETED: &str = "deleted";

impl Property {
    fn is_tombstone(&self) -> bool {
        self.kind == DELETED
    }
}

/// All properties of a device, tombstones included.
pub type Twin = BTreeMap<String, Property>;
/// Properties as they are told, by name; `None` for one that was removed.
pub type Told = BTreeMap<String, Option<TwinProperty>>;

/// Last and current form of a changed property.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// Before; `None` when there was none.
    pub last: Option<TwinProperty>,
    /// After; `None` when it was removed.
    pub current: Option<TwinProperty>,
}

/// What an accepted change comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The rows to store, in one transaction.
    pub rows: Twin,
    /// For `update/result`: what changed, without versions.
    pub result: Told,
    /// For `update/document`.
    pub document: BTreeMap<String, Step>,
    /// For the cloud: what changed, with versions.
    pub report: Told,
    /// What was not taken of it.
    pub left_out: Vec<Refused>,
}

/// Why a change is refused as a whole. The texts are KubeEdge's where programs may look at them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A name that no property may have.
    #[error("the property name {name:?} must be 1 to 128 {}", if *is_strict { "of the characters a-z A-Z 0-9 - _ . , : / @ #" } else { "bytes without control characters" })]
    Name {
        /// As it was said.
        name: String,
        /// Whether the characters are limited too.
        is_strict: bool,
    },
    /// More properties than a device may have.
    #[error("{0:?} would be more than the {MAX_PROPERTIES} properties that a device may have")]
    TooMany(String),
    /// A value that may not be stored.
    #[error("the value of {name} must be at most {limit} bytes{}", characters(.is_strict))]
    Value {
        /// The property.
        name: String,
        /// Bytes.
        limit: usize,
        /// Whether the characters are limited too.
        is_strict: bool,
    },
    /// A value that does not fit the property's type.
    #[error("{why} (property {name})")]
    Type {
        /// The property.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
}

fn characters(is_strict: &bool) -> &'static str {
    if *is_strict { " of the characters a-z A-Z 0-9 - _ . , : / @ #" } else { "" }
}

/// Applies one request to the twin, which it changes only if it is accepted: all of it, or of a mapper's a part. `now_ms`: edge
/// clock.
/// Writing the value that is there already is a change: people use it as a sign of life.
pub fn update(twin: &mut Twin, request: &Told, alphabet: Alphabet, now_ms: i64) -> Result<Merged, Refused> {
    let mut merged = Merged::default();
    let mut n_properties = twin.len();
    for (name, asked) in request {
        let last = twin.get(name);
        let next = match (asked, last) {
            (Some(asked), last) => changed(name, asked, last, n_properties, alphabet, now_ms).map(Some),
            (None, Some(last)) if last.optional && !last.is_tombstone() => Ok(Some(tombstone(last))),
            (None, _) => check_name(name, alphabet).map(|()| None),
        };
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(refused) if alphabet == Alphabet::Open && request.len() > 1 => {
                merged.left_out.push(refused);
                continue;
            }
            Err(refused) => return Err(refused),
        };
        n_properties += usize::from(last.is_none());
        let told = |property: &Property| (!property.is_tombstone()).then(|| told(property, Versions::Hidden));
        let current = told(&next);
        merged.document.insert(name.clone(), Step { last: last.and_then(told), current: current.clone() });
        merged.result.insert(name.clone(), current.map(|current| touched(&current, asked.as_ref())));
        merged.report.insert(name.clone(), reported(&next, asked.as_ref()));
        merged.rows.insert(name.clone(), next);
    }
    twin.extend(merged.rows.clone());
    Ok(merged)
}

/// Everything that may be told of a device, without versions and tombstones.
#[must_use]
pub fn all(twin: &Twin) -> Told {
    let live = twin.iter().filter(|(_, property)| !property.is_tombstone());
    live.map(|(name, property)| (name.clone(), Some(told(property, Versions::Hidden)))).collect()
}

/// Properties that are not as they should be: the wanted value of each, by name. Empty: nothing to do.
#[must_use]
pub fn delta(twin: &Twin) -> BTreeMap<String, String> {
    let differs = |property: &Property| {
        let wanted = property.expected.as_ref().map(|half| &half.value).filter(|value| !value.is_empty())?;
        let is = property.actual.as_ref().map(|half| &half.value);
        (is != Some(wanted)).then(|| wanted.clone())
    };
    let live = twin.iter().filter(|(_, property)| !property.is_tombstone());
    live.filter_map(|(name, property)| Some((name.clone(), differs(property)?))).collect()
}

/// Whether versions are told: to the cloud, never to MQTT clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    Told,
    Hidden,
}

fn changed(
    name: &str,
    asked: &TwinProperty,
    last: Option<&Property>,
    n_properties: usize,
    alphabet: Alphabet,
    now_ms: i64,
) -> Result<Property, Refused> {
    check_name(name, alphabet)?;
    if last.is_none() && n_properties >= MAX_PROPERTIES {
        return Err(Refused::TooMany(name.to_owned()));
    }
    let asked_kind = asked.metadata.as_ref().map(|kind| kind.name.as_str()).filter(|name| !name.is_empty());
    if asked_kind == Some(DELETED) {
        return Err(wrong_type(name, "the value type is not allowed"));
    }
    let kind = match (last, asked_kind) {
        // The model may have changed.
        (_, Some(kind)) if alphabet == Alphabet::Open => kind.to_owned(),
        (Some(last), _) if !last.is_tombstone() => last.kind.clone(),
        // A tombstone comes to life again with the type it is given now.
        (Some(_) | None, kind) => kind.unwrap_or("string").to_owned(),
    };
    let half = |asked: Option<&TwinValue>, last: Option<&Half>, is_checked: bool| {
        // A half without a value is no half.
        let Some(value) = asked.and_then(|half| half.value.as_ref()) else { return Ok(last.cloned()) };
        check_value(name, value, alphabet)?;
        if is_checked {
            check_type(name, &kind, value)?;
        }
        let before = last.map(|half| half.version).unwrap_or_default();
        let version = TwinVersion { cloud: before.cloud, edge: before.edge.saturating_add(1) };
        Ok(Some(Half { value: value.clone(), at_ms: now_ms, version }))
    };
    let last_expected = last.and_then(|last| last.expected.as_ref());
    let last_actual = last.and_then(|last| last.actual.as_ref());
    // As Go edges do: what is wanted of a known property is checked only once something was wanted of it before.
    let expected = half(asked.expected.as_ref(), last_expected, last.is_none() || last_expected.is_some())?;
    let actual = half(asked.actual.as_ref(), last_actual, true)?;
    let was_optional = last.is_none_or(|last| last.optional);
    Ok(Property { expected, actual, optional: was_optional && asked.optional.unwrap_or(true), kind })
}

/// The row stays, with empty values and its versions counted on.
fn tombstone(last: &Property) -> Property {
    let empty = |half: &Half| Half {
        value: String::new(),
        at_ms: 0,
        version: TwinVersion { cloud: half.version.cloud, edge: half.version.edge.saturating_add(1) },
    };
    Property {
        expected: last.expected.as_ref().map(empty),
        actual: last.actual.as_ref().map(empty),
        optional: last.optional,
        kind: DELETED.to_owned(),
    }
}

fn told(property: &Property, versions: Versions) -> TwinProperty {
    let value = |half: &Half| TwinValue {
        value: Some(half.value.clone()),
        metadata: Some(TwinTime { timestamp: half.at_ms }),
    };
    let version =
        |half: &Option<Half>| half.as_ref().filter(|_| versions == Versions::Told).map(|half| half.version);
    TwinProperty {
        expected: property.expected.as_ref().map(value),
        actual: property.actual.as_ref().map(value),
        optional: Some(property.optional),
        metadata: Some(TwinType { name: property.kind.clone() }),
        expected_version: version(&property.expected),
        actual_version: version(&property.actual),
    }
}

/// Only the halves that the request wrote.
fn touched(current: &TwinProperty, asked: Option<&TwinProperty>) -> TwinProperty {
    let wrote = |half: fn(&TwinProperty) -> Option<&TwinValue>| {
        asked.and_then(half).is_some_and(|half| half.value.is_some())
    };
    let (expected, actual) = (wrote(|asked| asked.expected.as_ref()), wrote(|asked| asked.actual.as_ref()));
    TwinProperty {
        expected: current.expected.clone().filter(|_| expected),
        actual: current.actual.clone().filter(|_| actual),
        expected_version: current.expected_version.filter(|_| expected),
        actual_version: current.actual_version.filter(|_| actual),
        ..current.clone()
    }
}

fn reported(next: &Property, asked: Option<&TwinProperty>) -> Option<TwinProperty> {
    let whole = told(next, Versions::Told);
    match asked {
        Some(_) => Some(touched(&whole, asked)),
        None => Some(whole),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.,:/@#".contains(&byte)
}

fn check_name(name: &str, alphabet: Alphabet) -> Result<(), Refused> {
    let is_strict = alphabet == Alphabet::KubeEdge;
    let is_plain = if is_strict { name.bytes().all(is_plain) } else { !name.contains(char::is_control) };
    let is_good = (1..=MAX_NAME).contains(&name.len()) && is_plain;
    if is_good { Ok(()) } else { Err(Refused::Name { name: name.to_owned(), is_strict }) }
}

fn check_value(name: &str, value: &str, alphabet: Alphabet) -> Result<(), Refused> {
    let (limit, is_strict) = match alphabet {
        Alphabet::KubeEdge => (MAX_STRICT_VALUE, true),
        Alphabet::Open => (MAX_OPEN_VALUE, false),
    };
    if value.len() <= limit && (!is_strict || value.bytes().all(is_plain)) {
        Ok(())
    } else {
        Err(Refused::Value { name: name.to_owned(), limit, is_strict })
    }
}

fn wrong_type(name: &str, why: &'static str) -> Refused {
    Refused::Type { name: name.to_owned(), why }
}

fn check_type(name: &str, kind: &str, value: &str) -> Result<(), Refused> {
    let (fits, why) = match kind {
        "" | "string" | DELETED => (true, ""),
        "int" | "integer" => (value.parse::<i64>().is_ok(), "the value is not int or integer"),
        "float" => (value.parse::<f64>().is_ok(), "the value is not float"),
        "boolean" => (matches!(value, "true" | "false"), "the bool value must be true or false"),
        _ => (false, "the value type is not allowed"),
    };
    if fits { Ok(()) } else { Err(wrong_type(name, why)) }
}

#[cfg(test)]
mod tests;
