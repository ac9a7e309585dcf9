//! A file of another program that counts where ours says nothing: its keys are those of one of our sections.
//!
//! It is walked like our own file, so that every refusal names the key, the line and what is allowed. Keys that do nothing here
//! are told in one sentence.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::tree::{Entry, Tree};
use super::walk::{self, Walked};
use super::{KnownKeys, Problem};

/// Which file, and what it must be.
#[derive(Clone, Copy, Debug)]
pub struct Underlay {
    /// Our key that names the file; empty: none.
    pub key: &'static str,
    /// Our section that has the same keys.
    pub section: &'static str,
    /// What its `kind` must say.
    pub kind: &'static str,
    /// What its `apiVersion` must say.
    pub api_version: &'static str,
    /// Whether a key with this value counts as left out.
    pub is_left_out: fn(&str, &Value) -> bool,
}

/// Lays the file that `walked` names under what it has kept.
pub(super) fn lay<T: DeserializeOwned>(
    underlay: &Underlay,
    walked: &mut Walked,
    defaults: &Value,
    known: &KnownKeys,
) {
    let Some(path) = at(&walked.kept, underlay.key).and_then(Value::as_str).filter(|path| !path.is_empty())
    else {
        return;
    };
    let path = path.to_owned();
    match read::<T>(underlay, Path::new(&path), defaults, known) {
        Ok(below) => {
            let section: Vec<&str> = underlay.section.split('.').collect();
            for (key, value) in below.kept {
                // Ours wins.
                if at(&walked.kept, &format!("{}.{key}", underlay.section)).is_none() {
                    let place: Vec<&str> = section.iter().copied().chain([key.as_str()]).collect();
                    walk::put(&mut walked.kept, &place, value);
                }
            }
            walked.warnings.extend(below.warnings);
            walked.problems.extend(below.problems);
        }
        Err(text) => walked.problems.push(Problem::new(underlay.key, format!("{path}: {text}"))),
    }
}

/// The file's own keys with their values; warnings and problems name the file.
fn read<T: DeserializeOwned>(
    underlay: &Underlay,
    path: &Path,
    defaults: &Value,
    known: &KnownKeys,
) -> Result<Walked, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("cannot be read: {error}; take the key out, or write the file's whole path")
    })?;
    let tree = Tree::parse(&text).map_err(|text| format!("is not valid YAML: {}", text.trim_end()))?;
    let Tree::Section(entries) = tree else {
        return Err(format!("is {}, expected a whole {}", tree.sort(), underlay.kind));
    };
    let (heading, entries): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| matches!(entry.key.as_str(), "kind" | "apiVersion"));
    for (key, expected) in [("apiVersion", underlay.api_version), ("kind", underlay.kind)] {
        let found = heading.iter().find(|entry| entry.key == key).map(|entry| entry.value.to_value());
        let found = found.unwrap_or_default();
        if found.as_str() != Some(expected) {
            return Err(format!("{key}: found {found}, expected \"{expected}\""));
        }
    }
    let is_said = |entry: &Entry| !(underlay.is_left_out)(&entry.key, &entry.value.to_value());
    let entries: Vec<Entry> = entries.into_iter().filter(is_said).collect();
    let above: Vec<&str> = underlay.section.split('.').collect();
    let mut walked = walk::walk_below::<T>(&entries, &above, defaults, known);
    let file = path.display();
    let own = |text: &str| {
        let text =
            text.strip_prefix(underlay.section).and_then(|rest| rest.strip_prefix('.')).unwrap_or(text);
        format!("{file}: {text}")
    };
    for warning in &mut walked.warnings {
        *warning = own(warning);
    }
    for problem in &mut walked.problems {
        problem.key = own(&problem.key);
    }
    if !walked.unused.is_empty() {
        walked.warnings.push(format!("{file}: nothing on this node goes by {}", walked.unused.join(", ")));
    }
    let kept = at(&walked.kept, underlay.section).and_then(Value::as_object).cloned();
    walked.kept = kept.unwrap_or_default();
    Ok(walked)
}

/// What stands at a path.
fn at<'a>(fields: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = fields.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}
