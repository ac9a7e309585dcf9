//! Where things of pods lie below the root directory: the kubelet's names.
//!
//! Every name that comes from a pod passes [`segment`], so no path leaves the pod's directory by its text.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ke_wire::Uid;

/// The root directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// One pod's directory.
#[derive(Clone, Debug)]
pub(super) struct PodDir(PathBuf);

/// Kinds of volumes that have a directory of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    ConfigMap,
    Secret,
    EmptyDir,
    DownwardApi,
    Projected,
}

impl Plugin {
    fn directory(self) -> &'static str {
        match self {
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Projected => "kubernetes.io~projected",
        }
    }

    /// Lies in memory: its data must not reach the disk. The kubelet's choice; ConfigMaps are no secrets.
    pub(super) fn in_memory(self) -> bool {
        matches!(self, Self::Secret | Self::DownwardApi | Self::Projected)
    }
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn pod(&self, uid: &str) -> Result<PodDir, String> {
        let uid =
            segment(uid).ok_or_else(|| format!("the pod's uid {uid:?} cannot be a directory's name"))?;
        Ok(PodDir(self.root.join("pods").join(uid)))
    }

    /// Pods that have a directory. What is no uid there is not ours.
    pub(super) fn pods(&self) -> io::Result<Vec<Uid>> {
        let entries = match fs::read_dir(self.root.join("pods")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut uids = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Some(uid) =
                    entry.file_name().to_str().and_then(segment).and_then(|name| name.parse().ok())
            {
                uids.push(uid);
            }
        }
        Ok(uids)
    }
}

impl PodDir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, closed to users of the machine: volumes in it are open to everybody.
    pub(super) fn create(&self) -> io::Result<()> {
        make_dirs(&self.0.join("volumes"))
    }

    pub(super) fn volume(&self, plugin: Plugin, name: &str) -> Result<PathBuf, String> {
        Ok(self.0.join("volumes").join(plugin.directory()).join(part(name)?))
    }

    pub(super) fn container(&self, name: &str) -> Result<PathBuf, String> {
        Ok(self.0.join("containers").join(part(name)?))
    }

    pub(super) fn hosts_file(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }

    /// Where the part of a volume that mount number `index` of a container shows is bound to.
    pub(super) fn subpath(&self, volume: &str, container: &str, index: usize) -> Result<PathBuf, String> {
        let dir = self.0.join("volume-subpaths").join(part(volume)?).join(part(container)?);
        Ok(dir.join(index.to_string()))
    }
}

/// Makes a directory and those above it, each for the owner and its group only.
pub(super) fn make_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}

fn part(name: &str) -> Result<&str, String> {
    segment(name).ok_or_else(|| format!("{name:?} cannot be a directory's name"))
}

fn segment(name: &str) -> Option<&str> {
    let bad = name.is_empty() || name.len() > 255 || name.starts_with('.') || name.contains(['/', '\0']);
    (!bad).then_some(name)
}
