//! Removes a dead pod's directory: first every mount in it, then the files.
//!
//! Never deletes what a mount shows: directories are emptied by moving what is in them to one flat place, and the kernel
//! refuses to move a mount or to move across one. No link is followed, and depth does not matter: a container may have
//! made a tree deeper than any stack or number of open files. A kill in between leaves work for the next call.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::mount_table::Mounter;
use super::on_path;

/// Holds directories on their way out.
const BIN: &str = ".removing";

/// Mounts on top of each other at one place; more than this is somebody working against us.
const ROUNDS: usize = 64;

/// Removes `dir`; gone already is success.
pub(super) fn remove(dir: &Path, mounter: &dyn Mounter) -> io::Result<()> {
    let pod = match open_dir(CWD, dir) {
        Ok(pod) => pod,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    unmount_all(&dir.canonicalize()?, mounter)?;
    match mkdirat(&pod, BIN, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let bin = open_dir(&pod, BIN)?;
    // Numbers that an earlier call has used go on.
    let mut next =
        names(&bin)?.iter().filter_map(|(name, _)| name.parse::<u64>().ok()).max().map_or(0, |n| n + 1);
    empty(&pod, &bin, &mut next, Some(BIN))?;
    loop {
        let waiting = names(&bin)?;
        if waiting.is_empty() {
            break;
        }
        for (name, kind) in waiting {
            if kind == FileType::Directory {
                let inner = open_dir(&bin, name.as_str())?;
                empty(&inner, &bin, &mut next, None)?;
                unlinkat(&bin, name.as_str(), AtFlags::REMOVEDIR)?;
            } else {
                unlinkat(&bin, name.as_str(), AtFlags::empty())?;
            }
        }
    }
    unlinkat(&pod, BIN, AtFlags::REMOVEDIR)?;
    Ok(unlinkat(CWD, dir, AtFlags::REMOVEDIR)?)
}

/// Ends every mount below `dir`, the newest first.
fn unmount_all(dir: &Path, mounter: &dyn Mounter) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let mounts = mounter.at_and_below(dir)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for mount in mounts.iter().rev() {
            mounter.unmount(&mount.path).map_err(|error| on_path("unmount", &mount.path, &error))?;
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("mounts below {} come back", dir.display())))
}

/// Unlinks what is in `dir` except `keep`, and moves directories to the bin under the next numbers.
fn empty(dir: &OwnedFd, bin: &OwnedFd, next: &mut u64, keep: Option<&str>) -> io::Result<()> {
    // A listing may leave out what moves while it is read.
    loop {
        let mut n_gone = 0_usize;
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..")
                || keep.is_some_and(|keep| name.to_bytes() == keep.as_bytes())
            {
                continue;
            }
            n_gone += 1;
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    renameat(dir, name, bin, next.to_string().as_str()).map_err(|error| {
                        let what = format!("remove {}: {error}", name.to_string_lossy());
                        io::Error::new(io::Error::from(error).kind(), what)
                    })?;
                    *next += 1;
                }
                Err(error) => {
                    let what = format!("remove {}: {error}", name.to_string_lossy());
                    return Err(io::Error::new(io::Error::from(error).kind(), what));
                }
            }
        }
        if n_gone == 0 {
            return Ok(());
        }
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<(String, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(dir, &name)?,
                known => known,
            };
            names.push((name, kind));
        }
    }
    Ok(names)
}

/// For file systems whose listings do not say.
fn kind_of(dir: &OwnedFd, name: &str) -> io::Result<FileType> {
    let meta = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(meta.st_mode))
}

fn open_dir(dir: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}
