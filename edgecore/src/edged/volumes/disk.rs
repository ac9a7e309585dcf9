//! Puts a volume's content on the disk or into memory, with the kubelet's owners and modes.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::content::Content;
use super::layout::{Layout, Plugin, PodDir, make_dirs};
use super::mount_table::Mounter;
use super::{VolumeError, atomic, host_path, on_path};

/// Where everything lies and who makes mounts.
pub(super) struct Disk {
    pub(super) layout: Layout,
    pub(super) mounter: Arc<dyn Mounter>,
}

/// Bits of a directory that its group may use: the group owns what is made in it.
const SET_GID: u32 = 0o2000;

impl Disk {
    /// Makes one volume or brings it up to date; true if its files changed.
    pub(super) fn write(
        &self,
        dir: &PodDir,
        volume: &str,
        content: &Content,
        group: Option<u32>,
    ) -> Result<bool, VolumeError> {
        let plugin = match content {
            Content::HostPath { path, kind } => {
                return host_path::check(path, kind)
                    .map(|()| false)
                    .map_err(|what| VolumeError::refused(volume, what));
            }
            Content::Directory | Content::Memory { .. } => Plugin::EmptyDir,
            Content::Files { plugin, .. } => *plugin,
        };
        let path = dir.volume(plugin, volume).map_err(|what| VolumeError::refused(volume, what))?;
        let written = match content {
            Content::HostPath { .. } => return Ok(false),
            Content::Directory => make_dir(&path, group).map(|()| false),
            Content::Memory { size } => self.make_memory(&path, *size, group).map(|()| false),
            Content::Files { plugin, payload, uncertain, .. } => {
                let made = if plugin.in_memory() {
                    self.make_memory(&path, None, group)
                } else {
                    make_dir(&path, group)
                };
                made.and_then(|()| {
                    if *uncertain && atomic::is_filled(&path) {
                        return Ok(false);
                    }
                    atomic::write(&path, payload, group, Timestamp::now())
                })
            }
        };
        written.map_err(|error| VolumeError::refused(volume, error.to_string()))
    }

    /// Memory at `path`, mounted unless it is there already: after a cold boot only the empty directory is.
    fn make_memory(&self, path: &Path, size: Option<u64>, group: Option<u32>) -> io::Result<()> {
        make_dir(path, None)?;
        let real = path.canonicalize()?;
        let mounts = self.mounter.at_and_below(&real)?;
        if !mounts.iter().any(|mount| mount.path == real) {
            self.mounter.memory(&real, size).map_err(|error| on_path("mount memory at", path, &error))?;
        }
        // The root of what is mounted is another directory than the one made above.
        open_to_all(path, group)
    }
}

fn make_dir(path: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_dirs(parent).map_err(|error| on_path("make", parent, &error))?;
    }
    match DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(on_path("make", path, &error));
        }
        _ => {}
    }
    open_to_all(path, group)
}

/// Everybody in the pod may write here; with a group, what is made inside belongs to it. Only the top is looked at: it
/// is new when it needs a change, and what the containers made inside is theirs.
fn open_to_all(path: &Path, group: Option<u32>) -> io::Result<()> {
    let failed = |error: io::Error| on_path("set owner and mode of", path, &error);
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is no directory", path.display()),
        ));
    }
    let wanted = 0o777 | if group.is_some() { SET_GID } else { 0 };
    let same_group = group.is_none_or(|group| meta.gid() == group);
    if same_group && meta.mode() & wanted == wanted {
        return Ok(());
    }
    let dir = File::open(path).map_err(failed)?;
    if !same_group {
        fchown(&dir, None, group).map_err(failed)?;
    }
    // A sticky bit, as memory has it, stays.
    dir.set_permissions(Permissions::from_mode((meta.mode() & 0o7777) | wanted)).map_err(failed)
}
