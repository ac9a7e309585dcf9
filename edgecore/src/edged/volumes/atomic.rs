//! Files of a volume that change all at once: a reader sees all old or all new ones, also after a kill in between.
//!
//! The layout is Kubernetes': the files lie in a directory named after the time of writing, `..data` is a link to it,
//! and each name in the volume is a link through `..data`. Only `..data` changes, by one rename.
//! Nothing is synced: after a power failure the content is compared with what it should be before a container starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use k8s_openapi::jiff::Timestamp;

use super::on_path;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileContent {
    pub(super) data: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
    /// Whom it belongs to instead of us.
    pub(super) owner: Option<u32>,
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.data.len(), self.mode)
    }
}

/// All files of a volume by their path in it.
pub(super) type Payload = BTreeMap<String, FileContent>;

/// Is this a path below the volume that does not meet our own names?
pub(super) fn is_path(path: &str) -> bool {
    path.len() <= 4096
        && !path.contains('\0')
        && !path.starts_with("..")
        && !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes `dir` hold exactly `payload`; true if readers see something new. `group` may read everything then.
pub(super) fn write(dir: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    if let Some(path) = payload.keys().find(|path| !is_path(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}")));
    }
    let mut current = current(dir);
    let changed = !current.as_ref().is_some_and(|name| holds(&dir.join(name), payload, group));
    if changed {
        let name = make_dir(dir, now)?;
        fill(&dir.join(&name), payload, group)?;
        let link = dir.join(NEW_DATA);
        remove_link(&link)?;
        symlink(&name, &link).map_err(|error| on_path("link", &link, &error))?;
        fs::rename(&link, dir.join(DATA)).map_err(|error| on_path("rename", &link, &error))?;
        current = Some(name);
    }
    let names = payload.keys().filter_map(|path| path.split('/').next()).collect();
    show(dir, &names)?;
    clean(dir, &names, current.as_deref())?;
    Ok(changed)
}

/// True if the files of some earlier write are there.
pub(super) fn is_filled(dir: &Path) -> bool {
    current(dir).is_some()
}

/// Name of the directory that readers see now.
fn current(dir: &Path) -> Option<String> {
    let target = fs::read_link(dir.join(DATA)).ok()?;
    let name = target.to_str()?;
    (name.starts_with("..") && name != ".." && !name.contains('/') && dir.join(name).is_dir())
        .then(|| name.to_owned())
}

fn make_dir(dir: &Path, now: Timestamp) -> io::Result<String> {
    let base = now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    // A clock that stands still, or went back to a moment of before, must not stop us.
    for attempt in 0..1000_u32 {
        let name = if attempt == 0 { base.clone() } else { format!("{base}_{attempt}") };
        match fs::DirBuilder::new().mode(0o700).create(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(on_path("make", &dir.join(&name), &error)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("too many directories named {base}")))
}

fn fill(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    for (path, content) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| on_path("make", parent, &error))?;
        }
        write_file(&path, content, group).map_err(|error| on_path("write", &path, &error))?;
    }
    // Last the top one: nobody looks in before all is there.
    open_dirs(dir, group)
}

fn write_file(path: &Path, content: &FileContent, group: Option<u32>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&content.data)?;
    std::os::unix::fs::fchown(&file, content.owner, group)?;
    file.set_permissions(Permissions::from_mode(file_mode(content, group)))
}

fn open_dirs(dir: &Path, group: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_dirs(&entry.path(), group)?;
        }
    }
    let dir = File::open(dir)?;
    std::os::unix::fs::fchown(&dir, None, group)?;
    dir.set_permissions(Permissions::from_mode(if group.is_some() { 0o2755 } else { 0o755 }))
}

/// These volumes are read-only, so their group may read.
fn file_mode(content: &FileContent, group: Option<u32>) -> u32 {
    (content.mode & 0o7777) | if group.is_some() { 0o440 } else { 0 }
}

/// True if `dir` is what [`fill`] would make of the payload.
fn holds(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = BTreeSet::new();
    if list(dir, "", &mut found).is_err() || !found.iter().eq(payload.keys()) {
        return false;
    }
    payload.iter().all(|(path, content)| {
        let path = dir.join(path);
        let same_rights = fs::symlink_metadata(&path).is_ok_and(|meta| {
            meta.mode() & 0o7777 == file_mode(content, group)
                && content.owner.is_none_or(|owner| meta.uid() == owner)
                && group.is_none_or(|group| meta.gid() == group)
                && meta.len() == u64::try_from(content.data.len()).unwrap_or(u64::MAX)
        });
        same_rights && fs::read(&path).is_ok_and(|data| data == content.data)
    })
}

fn list(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.insert(name);
        }
    }
    Ok(())
}

/// Makes each name a link through `..data`.
fn show(dir: &Path, names: &BTreeSet<&str>) -> io::Result<()> {
    for name in names {
        let (link, target) = (dir.join(name), format!("{DATA}/{name}"));
        if fs::read_link(&link).is_ok_and(|there| there == Path::new(&target)) {
            continue;
        }
        // A container may have asked for a part of the volume that was not there: a directory was made for it.
        if link.is_dir() && !link.is_symlink() {
            fs::remove_dir(&link).map_err(|error| on_path("remove", &link, &error))?;
        }
        remove_link(&link)?;
        symlink(&target, &link).map_err(|error| on_path("link", &link, &error))?;
    }
    Ok(())
}

/// Removes names that are no more, directories that readers left, and what a killed process did not finish.
fn clean(dir: &Path, names: &BTreeSet<&str>, current: Option<&str>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, kind) = (entry.path(), entry.file_type()?);
        if name == DATA || Some(name.as_str()) == current || names.contains(name.as_str()) {
            continue;
        }
        let result = if kind.is_dir() && name.starts_with("..") {
            fs::remove_dir_all(&path)
        } else if kind.is_symlink() {
            fs::remove_file(&path)
        } else {
            continue;
        };
        result.map_err(|error| on_path("remove", &path, &error))?;
    }
    Ok(())
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on_path("remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
