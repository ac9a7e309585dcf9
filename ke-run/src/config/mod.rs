//! From a configuration file to a struct, strictly: a key that nobody reads is told, never passed over.
//!
//! It never writes the file. Called by each binary's `main` through `cli.rs`; the structs stand in each binary.

mod tree;
mod underlay;
mod values;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use underlay::Underlay;
pub use values::{GoDuration, HostPort, Secret, Within};

/// A binary's whole configuration. Its default, serialized, is the list of all supported keys: sections are structs
/// with `#[serde(default)]`, a map that starts empty takes any keys, an `Option` that starts as `None` takes a value.
pub trait ConfigFile: Default + Serialize + DeserializeOwned {
    /// The binary's name, for the command a person should type next.
    const PROGRAM: &'static str;
    /// Where the file is if nobody says otherwise.
    const PATH: &'static str;
    /// What `kind` must say.
    const KIND: &'static str;
    /// What `apiVersion` may say; the first is written.
    const API_VERSIONS: &'static [&'static str];
    /// Spellings of `apiVersion` that are taken with a warning.
    const OLD_API_VERSIONS: &'static [&'static str];
    /// KubeEdge's keys that we do not support, one a line; see [`KnownKeys::parse`].
    const UNSUPPORTED: &'static str;
    /// The keys that somebody who starts from nothing should look at.
    const MINIMAL: &'static [&'static str];
    /// A file of another program that counts where this one says nothing.
    const UNDERLAY: Option<Underlay> = None;

    /// What is wrong although each value by itself is fine.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// A configuration and what its reader should tell the person who wrote it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What the process runs with.
    pub config: T,
    /// One sentence each, to be logged.
    pub warnings: Vec<String>,
}

/// One thing wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full path, such as `modules.edgeHub.heartbeat`.
    pub key: String,
    /// Where it is in the file.
    pub line: Option<u64>,
    /// What was found and what is allowed.
    pub text: String,
}

impl Problem {
    /// A problem whose line is not known.
    #[must_use]
    pub fn new(key: &str, text: impl Into<String>) -> Self {
        Self { key: key.to_owned(), line: None, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read {}: {source}; \"{program} config default\" prints one to start from", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The binary.
        program: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{} is not valid YAML: {text}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's reason with the place.
        text: String,
    },
    /// Keys are wrong; all of them are listed.
    #[error("{}", told(path, program, problems))]
    Keys {
        /// The file.
        path: PathBuf,
        /// The binary.
        program: &'static str,
        /// What is wrong, in the file's order.
        problems: Vec<Problem>,
    },
}

fn told(path: &Path, program: &str, problems: &[Problem]) -> String {
    let path = path.display();
    let lines = problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>();
    format!("{path} cannot be used:{lines}\ncorrect it, then run \"{program} config check {path}\"")
}

/// Reads a file. All problems are found at once, not one per try.
pub fn load<T: ConfigFile>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        program: T::PROGRAM,
        source,
    })?;
    check(&text, path)
}

/// Reads text, and the file that lies under it; `path` is only for the messages.
pub fn check<T: ConfigFile>(text: &str, path: &Path) -> Result<Loaded<T>, ConfigError> {
    let refused = |problems| ConfigError::Keys { path: path.to_owned(), program: T::PROGRAM, problems };
    let tree = tree::Tree::parse(text)
        .map_err(|text| ConfigError::Yaml { path: path.to_owned(), text: text.trim_end().to_owned() })?;
    let entries = walk::top(&tree).map_err(|text| refused(vec![Problem::new("(top)", text)]))?;
    let known = KnownKeys::parse(T::UNSUPPORTED);
    let mut defaults = serde_json::to_value(T::default())
        .map_err(|e| refused(vec![Problem::new("(default)", e.to_string())]))?;
    if let Value::Object(fields) = &mut defaults {
        // The two keys that every file has and no struct needs.
        fields.insert("apiVersion".to_owned(), Value::from(""));
        fields.insert("kind".to_owned(), Value::from(""));
    }
    let mut walked = walk::walk::<T>(entries, &defaults, &known);
    check_heading::<T>(entries, &mut walked);
    if let Some(underlay) = &T::UNDERLAY {
        underlay::lay::<T>(underlay, &mut walked, &defaults, &known);
    }
    if !walked.problems.is_empty() {
        return Err(refused(walked.problems));
    }
    let config: T = serde_json::from_value(Value::Object(walked.kept))
        .map_err(|e| refused(vec![Problem::new("(whole file)", e.to_string())]))?;
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    Ok(Loaded { config, warnings: walked.warnings })
}

/// Looks at `kind` and `apiVersion`, and takes them out of what becomes the struct.
fn check_heading<T: ConfigFile>(entries: &[tree::Entry], walked: &mut walk::Walked) {
    walked.kept.remove("apiVersion");
    walked.kept.remove("kind");
    for entry in entries.iter().filter(|entry| !entry.value.is_null()) {
        let found = entry.value.to_value();
        let is = |allowed: &&str| found.as_str() == Some(allowed);
        let text = match entry.key.as_str() {
            "kind" if !is(&T::KIND) => format!("found {found}, expected \"{}\"", T::KIND),
            "apiVersion" if T::OLD_API_VERSIONS.iter().any(is) => {
                let newest = T::API_VERSIONS.first().copied().unwrap_or_default();
                walked.warnings.push(format!("apiVersion: {found} is old and read as {newest}"));
                continue;
            }
            "apiVersion" if !T::API_VERSIONS.iter().any(is) => {
                format!("found {found}, expected \"{}\"", T::API_VERSIONS.join("\" or \""))
            }
            _ => continue,
        };
        walked.problems.push(Problem { key: entry.key.clone(), line: Some(entry.line), text });
    }
}

/// The configuration that holds when the file says nothing, as a file.
#[must_use]
pub fn default_yaml<T: ConfigFile>() -> String {
    yaml::<T>(&T::default())
}

/// The keys to look at first, as a file.
#[must_use]
pub fn minimal_yaml<T: ConfigFile>() -> String {
    let whole = serde_json::to_value(T::default()).unwrap_or_default();
    let mut kept = Map::new();
    for path in T::MINIMAL {
        let parts: Vec<&str> = path.split('.').collect();
        let found = parts.iter().try_fold(&whole, |value, part| value.get(part));
        walk::put(&mut kept, &parts, found.cloned().unwrap_or_default());
    }
    yaml::<T>(&kept)
}

fn yaml<T: ConfigFile>(body: &impl Serialize) -> String {
    let version = T::API_VERSIONS.first().copied().unwrap_or_default();
    let heading = format!("apiVersion: {version}\nkind: {}\n", T::KIND);
    // Cannot fail for structs of text and numbers; if it ever does, the reason is a comment in the output.
    let body = serde_saphyr::to_string(body).unwrap_or_else(|e| format!("# {e}\n"));
    heading + &body
}

/// KubeEdge's keys that we know and do not support.
#[derive(Debug)]
pub struct KnownKeys(BTreeMap<&'static str, KnownKey>);

#[derive(Debug)]
struct KnownKey {
    quiet: Quiet,
    hint: Option<&'static str>,
}

#[derive(Debug)]
enum Quiet {
    Never,
    Always,
    When(Value),
}

impl KnownKeys {
    /// One key a line: its full path, which stands for everything below it too. After a space, optionally, the one
    /// value (JSON) that needs no warning because it asks for nothing we would not do anyway, or `*` for any value.
    /// After ` # `, optionally, what to do instead. Without a value, a section with `enable: false` needs no warning.
    #[must_use]
    pub fn parse(lines: &'static str) -> Self {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        Self(lines.map(Self::line).collect())
    }

    fn line(line: &'static str) -> (&'static str, KnownKey) {
        let (rest, hint) = line.split_once(" # ").map_or((line, None), |(rest, hint)| (rest, Some(hint)));
        let (path, value) = rest.split_once(' ').unwrap_or((rest, ""));
        let quiet = match value.trim() {
            "" => Quiet::Never,
            "*" => Quiet::Always,
            json => serde_json::from_str(json).map_or(Quiet::Never, Quiet::When),
        };
        (path, KnownKey { quiet, hint })
    }

    fn get(&self, path: &str) -> Option<&KnownKey> {
        self.0.get(path)
    }

    fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

impl KnownKey {
    fn needs_no_warning(&self, found: &Value) -> bool {
        let asked_for_nothing = match &self.quiet {
            Quiet::Always => true,
            Quiet::When(value) => found == value,
            Quiet::Never => false,
        };
        asked_for_nothing || found.is_null() || found.get("enable") == Some(&Value::Bool(false))
    }
}

#[cfg(test)]
mod tests;
