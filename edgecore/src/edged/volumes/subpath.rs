//! `subPath`: the part of a volume that a container sees, found without ever leaving the volume.
//!
//! Containers write into volumes, so every name on the way may become a link at any moment. Each step opens one name
//! relative to the directory that is already open and never follows a link by itself; the result is bound from the
//! open file, not from its path. Works on kernels without `openat2` too.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::layout::make_dirs;
use super::mount_table::Mounter;
use super::on_path;

/// As many links as the kernel follows.
const N_LINKS: usize = 40;

/// Why a part of a volume cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubpathError {
    #[error("subPath leads out of the volume")]
    Escape,
    #[error("too many links in subPath")]
    Links,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for SubpathError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Opens `path` below `volume`. Directories that are missing are made with the volume's mode, as Kubernetes does.
pub(super) fn open_below(volume: &Path, path: &str) -> Result<OwnedFd, SubpathError> {
    let root = rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode & 0o7777);
    let mut open = vec![root];
    let mut names = split(OsStr::new(path))?;
    let mut n_links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            open.pop();
            if open.is_empty() {
                return Err(SubpathError::Escape);
            }
            continue;
        }
        let Some(here) = open.last() else { return Err(SubpathError::Escape) };
        let next = match open_one(here, &name) {
            Err(Errno::NOENT) => {
                make_one(here, &name, mode)?;
                open_one(here, &name)?
            }
            other => other?,
        };
        if kind(&rustix::fs::fstat(&next)?) == FileType::Symlink {
            n_links += 1;
            if n_links > N_LINKS {
                return Err(SubpathError::Links);
            }
            let target = OsString::from_vec(rustix::fs::readlinkat(&next, c"", Vec::new())?.into_bytes());
            for name in split(&target)?.into_iter().rev() {
                names.push_front(name);
            }
        } else {
            open.push(next);
        }
    }
    open.pop().ok_or(SubpathError::Escape)
}

/// Shows an open part of a volume at `target` and gives the target's path for the runtime.
pub(super) fn bind(source: &OwnedFd, target: &Path, mounter: &dyn Mounter) -> io::Result<PathBuf> {
    let parent = target.parent().unwrap_or(target);
    make_dirs(parent).map_err(|error| on_path("make", parent, &error))?;
    let target = parent.canonicalize()?.join(target.file_name().unwrap_or_default());
    let wanted = rustix::fs::fstat(source)?;
    let mounted = || -> io::Result<usize> {
        Ok(mounter.at_and_below(&target)?.iter().filter(|mount| mount.path == target).count())
    };
    // Left from the container's last start. It stays if it is the same file; a file that was replaced is not.
    let n_mounts = mounted()?;
    if n_mounts > 0 {
        let there = rustix::fs::stat(&target);
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino)) {
            return Ok(target);
        }
        for _ in 0..n_mounts {
            mounter.unmount(&target).map_err(|error| on_path("unmount", &target, &error))?;
        }
    }
    make_target(&target, kind(&wanted) == FileType::Directory)
        .map_err(|error| on_path("make", &target, &error))?;
    mounter.bind(source.as_fd(), &target).map_err(|error| on_path("bind to", &target, &error))?;
    Ok(target)
}

/// What is mounted on must be of the same kind.
fn make_target(target: &Path, directory: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == directory && !meta.is_symlink() => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if directory { fs::create_dir(target) } else { fs::File::create_new(target).map(drop) }
}

/// Names of a relative path. A path from the top of the machine leads out of the volume.
fn split(path: &OsStr) -> Result<VecDeque<OsString>, SubpathError> {
    let bytes = path.as_bytes();
    if bytes.starts_with(b"/") {
        return Err(SubpathError::Escape);
    }
    let names = bytes.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

fn open_one(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_one(dir: &OwnedFd, name: &OsStr, mode: Mode) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(dir, name, mode) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    // Past the process's mask. Through an open directory, so that no link put there meanwhile is followed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&made, mode)
}

fn kind(meta: &Stat) -> FileType {
    FileType::from_raw_mode(meta.st_mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn parts_of_a_volume() {
        let temp = tempfile::tempdir().unwrap();
        let (volume, outside) = (temp.path().join("v"), temp.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(volume.join("a/file"), "x").unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        for (target, link) in [
            ("a/b", "in"),
            ("../a/file", "a/deep"),
            ("../outside", "up"),
            ("../../../outside", "a/b/up"),
            ("loop", "loop"),
            ("a/b/../../../outside/secret", "sneaky"),
            ("not/yet", "dangling"),
        ] {
            symlink(target, volume.join(link)).unwrap();
        }
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("/", volume.join("a/root")).unwrap();
        let check = |path: &str, expected: Result<&str, &str>| {
            let found = open_below(&volume, path).map(|fd| rustix::fs::fstat(&fd).unwrap().st_ino);
            let expected = expected.map(|path| fs::metadata(volume.join(path)).unwrap().ino());
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e), "{path}");
        };
        check("a/b", Ok("a/b"));
        check("./a//b/", Ok("a/b"));
        check("a/file", Ok("a/file"));
        check("in", Ok("a/b"));
        check("a/deep", Ok("a/file"));
        let out = Err("subPath leads out of the volume");
        check("up", out);
        check("up/secret", out);
        check("a/b/up", out);
        check("sneaky", out);
        check("absolute", out);
        check("absolute/secret", out);
        check("a/root", out);
        check("..", out);
        check("/etc", out);
        check("a/../../outside", out);
        check("loop", Err("too many links in subPath"));
        assert!(open_below(&volume, "a/file/below").is_err());
        assert!(!outside.join("new").exists() && open_below(&volume, "up/new").is_err());
        assert!(!outside.join("new").exists(), "nothing is made outside");
    }

    #[test]
    fn missing_directories_get_the_volumes_mode() {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        open_below(temp.path(), "x/y").unwrap();
        for made in ["x", "x/y"] {
            assert_eq!(fs::metadata(temp.path().join(made)).unwrap().mode() & 0o7777, 0o777, "{made}");
        }
        symlink("later/on", temp.path().join("dangling")).unwrap();
        open_below(temp.path(), "dangling/z").unwrap();
        assert!(temp.path().join("later/on/z").is_dir());
    }
}
