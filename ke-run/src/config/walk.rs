//! Pure: compares what a file says with what there is, key by key. Three lists: ours (the default configuration is the
//! list), KubeEdge's keys that we know and do not support, and everything else, which is an error.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::tree::{Entry, Tree};
use super::{KnownKeys, Problem};

/// What the walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The file's supported keys with their values, nulls left out.
    pub(super) kept: Map<String, Value>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<Problem>,
    /// Last names of the keys that were passed over in silence.
    pub(super) unused: Vec<String>,
}

/// `defaults` is `T::default()` as JSON.
pub(super) fn walk<T: DeserializeOwned>(entries: &[Entry], defaults: &Value, known: &KnownKeys) -> Walked {
    walk_below::<T>(entries, &[], defaults, known)
}

/// The same for a file that has the keys of one section, by that section's path.
pub(super) fn walk_below<T: DeserializeOwned>(
    entries: &[Entry],
    above: &[&str],
    defaults: &Value,
    known: &KnownKeys,
) -> Walked {
    let whose = if above.is_empty() { "KubeEdge's" } else { "the kubelet's" };
    let mut walk = Walk {
        defaults,
        known,
        found: Walked::default(),
        fits: &fits::<T>,
        whose,
        is_lenient: !above.is_empty(),
    };
    let section = above.iter().try_fold(defaults, |value, part| value.get(part));
    walk.section(entries, above, section.unwrap_or(&Value::Null));
    walk.found
}

/// Why the configuration with one value replaced is refused.
fn fits<T: DeserializeOwned>(whole: Value) -> Result<(), String> {
    serde_json::from_value::<T>(whole).map(drop).map_err(|e| e.to_string())
}

struct Walk<'a> {
    defaults: &'a Value,
    known: &'a KnownKeys,
    found: Walked,
    fits: &'a dyn Fn(Value) -> Result<(), String>,
    /// Whose keys they are that we do not have.
    whose: &'static str,
    /// A file of another program, perhaps of a newer one than we know: what it says beyond that stops nobody.
    is_lenient: bool,
}

impl Walk<'_> {
    fn section(&mut self, entries: &[Entry], above: &[&str], ours: &Value) {
        for entry in entries {
            let mut path = above.to_vec();
            path.push(&entry.key);
            let full = path.join(".");
            if let Some(known) = self.known.get(&full) {
                if known.needs_no_warning(&entry.value.to_value()) {
                    self.found.unused.push(entry.key.clone());
                } else {
                    let hint = known.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
                    self.found.warnings.push(format!(
                        "{full}: {} key, not supported here, ignored{hint} (line {})",
                        self.whose, entry.line
                    ));
                }
                continue;
            }
            let Some(default) = ours.get(&entry.key) else {
                let text = self.unknown(above, ours, &entry.key);
                if self.is_lenient {
                    self.found.warnings.push(format!("{full}: {text}; ignored (line {})", entry.line));
                } else {
                    self.problem(full, entry.line, text);
                }
                continue;
            };
            if entry.value.is_null() {
                continue;
            }
            match (default, &entry.value) {
                (Value::Object(fields), Tree::Section(below)) if !fields.is_empty() => {
                    self.section(below, &path, default);
                }
                (Value::Object(fields), _) if !fields.is_empty() => {
                    let keys = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    let text =
                        format!("found {}, expected a section with the keys {keys}", entry.value.sort());
                    self.problem(full, entry.line, text);
                }
                _ => self.value(full, &path, entry),
            }
        }
    }

    /// Tries one value in the default configuration, so that a refusal can only be about this key.
    fn value(&mut self, full: String, path: &[&str], entry: &Entry) {
        let value = entry.value.to_value();
        let mut whole = self.defaults.clone();
        if let Some(fields) = whole.as_object_mut() {
            put(fields, path, value.clone());
        }
        match (self.fits)(whole) {
            Ok(()) => put(&mut self.found.kept, path, value),
            Err(text) => self.problem(full, entry.line, text),
        }
    }

    fn problem(&mut self, key: String, line: u64, text: String) {
        self.found.problems.push(Problem { key, line: Some(line), text });
    }

    fn unknown(&self, above: &[&str], ours: &Value, key: &str) -> String {
        let here = above.iter().map(|part| format!("{part}.")).collect::<String>();
        let ours_here = ours.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
        let known_here =
            self.known.paths().filter_map(|path| path.strip_prefix(&here)).filter(|k| !k.contains('.'));
        let siblings: Vec<&str> = ours_here.chain(known_here).collect();
        if let Some(near) = nearest(key, &siblings) {
            return format!("unknown key; did you mean \"{near}\"?");
        }
        // A key in the wrong section, as when an older file is brought along.
        let mut everywhere = Vec::new();
        leaves(self.defaults, "", &mut everywhere);
        let same =
            |path: &&String| path.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(key));
        if let Some(path) = everywhere.iter().find(same) {
            return format!("unknown key here; did you mean \"{path}\"?");
        }
        let allowed =
            ours.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect::<Vec<_>>();
        format!("unknown key; allowed here are {}", allowed.join(", "))
    }
}

/// Sets the value at a path, making sections on the way.
pub(super) fn put(fields: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            fields.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let below = fields.entry(*first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}

fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
    for (key, below) in value.as_object().into_iter().flatten() {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        leaves(below, &full, into);
        into.push(full);
    }
}

/// The most similar of `choices`, if it is similar enough to be a slip: at most a third of its letters differ.
fn nearest<'a>(key: &str, choices: &[&'a str]) -> Option<&'a str> {
    // Of equals the first: ours stand before those that we would ignore.
    let best = choices.iter().map(|choice| (distance(key, choice), *choice)).min_by_key(|near| near.0)?;
    let limit = (best.1.chars().count() / 3).max(1);
    (best.0 <= limit).then_some(best.1)
}

/// How many letters must be added, removed or changed to get from one word to the other; case counts for nothing.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (removed, letter) in from.to_lowercase().chars().enumerate() {
        let mut left = removed + 1;
        let mut next = vec![left];
        for ((wanted, diagonal), above) in to.iter().zip(&row).zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(*wanted != letter)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The keys of a parsed file's top, or why there are none.
pub(super) fn top(tree: &Tree) -> Result<&[Entry], String> {
    match tree {
        Tree::Section(entries) => Ok(entries),
        Tree::Plain(Value::Null) => Ok(&[]),
        _ => Err(format!("found {}, expected keys such as \"modules:\"", tree.sort())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in [
            ("sever", "server", 1),
            ("server", "server", 0),
            ("tlsCAFile", "tlsCaFile", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("heartbeet", "heartbeat", 1),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn only_a_slip_has_a_neighbour() {
        let choices = ["enable", "server", "handshakeTimeout"];
        for (key, expected) in [
            ("sever", Some("server")),
            ("enabled", Some("enable")),
            ("handshake_timeout", Some("handshakeTimeout")),
            ("port", None),
        ] {
            assert_eq!(nearest(key, &choices), expected, "{key}");
        }
    }
}
