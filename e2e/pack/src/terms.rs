//! Reads what packages bring beside programs: the licence files of the crates in them, out of the sources that cargo has
//! fetched, and keadm's man pages, which keadm itself writes. It changes nothing. Called by the program `pack`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Beginnings of the names under which authors put terms beside their sources, in small letters.
const NAMES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];
/// A file that is longer is no licence. Bytes.
const LIMIT: u64 = 256 << 10;

/// Name and version of a crate, to the texts of its licence files in the order of their names.
pub type Terms = BTreeMap<(String, String), Vec<String>>;

/// Of all crates that the lock file names.
pub fn read(source: &Path) -> Result<Terms> {
    // Cargo says by which one it was called, if it was.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--locked", "--format-version=1", "--quiet"]).current_dir(source);
    let output = cargo.output().context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("cargo metadata names no packages")?;
    let mut terms = Terms::new();
    for package in packages {
        let text = |key: &str| package.get(key).and_then(Value::as_str);
        let (Some(name), Some(version), Some(manifest)) =
            (text("name"), text("version"), text("manifest_path"))
        else {
            continue;
        };
        let folder = Path::new(manifest).parent().context("a manifest lies nowhere")?;
        terms.insert((name.to_owned(), version.to_owned()), texts(folder)?);
    }
    Ok(terms)
}

fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry.context("read a folder")?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let file = entry.metadata().context("look at a file")?;
        if NAMES.iter().any(|begin| name.starts_with(begin)) && file.is_file() && file.len() <= LIMIT {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("read {}", path.display())))
        .map(|bytes| {
            // Line ends and blanks at them differ where the words do not.
            let text = String::from_utf8_lossy(&bytes?).into_owned();
            Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned())
        })
        .collect()
}

/// What `keadm man` writes: names and pages.
pub fn manuals(keadm: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = std::env::temp_dir().join(format!("pack-man-{}", std::process::id()));
    let made = Command::new(keadm).args(["man", "--out"]).arg(&folder).output();
    let read = made.context("run keadm man").and_then(|output| {
        ensure!(output.status.success(), "keadm man: {}", String::from_utf8_lossy(&output.stderr).trim());
        let mut pages = BTreeMap::new();
        for entry in fs::read_dir(&folder).context("read the man pages")? {
            let path = entry.context("read the man pages")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            pages.insert(name, fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(pages)
    });
    // Of a failed run there may be none.
    let _ = fs::remove_dir_all(&folder);
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_of_a_crate_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("LICENSE-MIT", "mit\r\n"), ("COPYING", "all \n"), ("README.md", "hello"), ("build.rs", "")]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("licenses")).unwrap();
        assert_eq!(texts(folder.path()).unwrap(), ["all", "mit"]);
    }
}
