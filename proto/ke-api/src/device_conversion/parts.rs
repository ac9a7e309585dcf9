//! Reading and cutting JSON for the conversion of devices. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(super) type Object = Map<String, Value>;

/// A field whose shape no version admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrongField {
    pub(super) field: String,
    pub(super) problem: &'static str,
}

/// The object at `name`; `null` counts as absent. `path` is where `of` stands.
pub(super) fn object<'a>(
    of: Option<&'a Object>,
    path: &str,
    name: &str,
) -> Result<Option<&'a Object>, WrongField> {
    match of.and_then(|of| of.get(name)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(found)) => Ok(Some(found)),
        Some(_) => Err(WrongField { field: format!("{path}{name}"), problem: "is no object" }),
    }
}

/// The entries of the list at `name`, found by `name_field`. A list that is absent is `None`.
pub(super) fn entries<'a>(
    of: Option<&'a Object>,
    path: &str,
    name: &str,
    name_field: &str,
) -> Result<Option<Entries<'a>>, WrongField> {
    let list = match of.and_then(|of| of.get(name)) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(WrongField { field: format!("{path}{name}"), problem: "is no list" }),
    };
    let mut found = Entries::default();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, entry) in list.iter().enumerate() {
        let Value::Object(members) = entry else {
            return Err(WrongField { field: format!("{path}{name}[{index}]"), problem: "is no object" });
        };
        let name = match members.get(name_field) {
            None | Some(Value::Null) => "",
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(WrongField {
                    field: format!("{path}{name}[{index}].{name_field}"),
                    problem: "is no text",
                });
            }
        };
        let time = times.entry(name).or_default();
        *time += 1;
        let key = if *time == 1 { name.to_owned() } else { format!("{name}#{time}") };
        found.index.insert(key.clone(), found.list.len());
        found.list.push(Entry { key, name, members });
    }
    Ok(Some(found))
}

/// One entry of a list of named things. A name that stands there again has another key, so that nothing is lost.
pub(super) struct Entry<'a> {
    pub(super) key: String,
    pub(super) name: &'a str,
    pub(super) members: &'a Object,
}

/// Named things in their order.
#[derive(Default)]
pub(super) struct Entries<'a> {
    pub(super) list: Vec<Entry<'a>>,
    index: BTreeMap<String, usize>,
}

impl<'a> Entries<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Object> {
        self.index.get(key).and_then(|index| self.list.get(*index)).map(|entry| entry.members)
    }

    pub(super) fn keys(&self) -> Value {
        self.list.iter().map(|entry| Value::from(entry.key.as_str())).collect()
    }
}

/// The value at `name`; absent is `null`.
pub(super) fn member(of: Option<&Object>, name: &str) -> Value {
    of.and_then(|of| of.get(name)).cloned().unwrap_or_default()
}

/// Everything but the named members.
pub(super) fn without(of: Option<&Object>, names: &[&str]) -> Object {
    let mut rest = of.cloned().unwrap_or_default();
    rest.retain(|name, _| !names.contains(&name.as_str()));
    rest
}

/// A part that is an object; without the named members, which are not its business.
pub(super) fn kept_object(kept: &Object, part: &str, names: &[&str]) -> Object {
    without(kept.get(part).and_then(Value::as_object), names)
}

/// Sets what is there.
pub(super) fn put(into: &mut Object, name: &str, value: Value) {
    if !value.is_null() {
        into.insert(name.to_owned(), value);
    }
}

/// Sets what has members.
pub(super) fn put_members(into: &mut Object, name: &str, members: Object) {
    if !members.is_empty() {
        into.insert(name.to_owned(), Value::Object(members));
    }
}

/// The form that `given` had on the other side, when what is kept of it still leads to `given`; else a new one.
pub(super) fn restored(
    kept: Option<&Value>,
    may_be: fn(&Value) -> bool,
    given: &Value,
    lead: impl Fn(&Value) -> Value,
    anew: impl Fn(&Value) -> Value,
) -> Value {
    match kept {
        Some(kept) if may_be(kept) && lead(kept) == *given => kept.clone(),
        _ => anew(given),
    }
}

/// Puts things into a remembered order; those that it does not know come last, in their own.
pub(super) fn arrange<T>(things: &mut [T], order: Option<&Value>, key: impl Fn(&T) -> &str) {
    let Some(order) = order.and_then(Value::as_array) else { return };
    let places = order.iter().enumerate().filter_map(|(place, key)| Some((key.as_str()?, place)));
    let places: BTreeMap<&str, usize> = places.collect();
    things.sort_by_key(|thing| places.get(key(thing)).copied().unwrap_or(usize::MAX));
}
