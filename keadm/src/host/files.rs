//! Files of this machine: whole or not at all, and on disk when a call returns.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::{Rights, beside, hexadecimal};

pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(body) => Ok(Some(body)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn list(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn size(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

pub(super) fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(digest.finish().as_ref())),
            n_bytes => digest.update(buffer.get(..n_bytes).unwrap_or_default()),
        }
    }
}

pub(super) fn holds(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let (mut seen, mut piece) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        let n_bytes = file.read(&mut piece)?;
        if n_bytes == 0 {
            return Ok(false);
        }
        seen.extend_from_slice(piece.get(..n_bytes).unwrap_or_default());
        if memchr::memmem::find(&seen, bytes).is_some() {
            return Ok(true);
        }
        // What may be the beginning of it.
        seen.drain(..seen.len().saturating_sub(bytes.len()));
    }
}

pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<bool> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            sync_folder_of(path)?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn write(path: &Path, body: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path);
    // Of a killed run, and perhaps with other rights.
    remove_file(&beside)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(body).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
        // A full disk is not left fuller.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder_of(path)
}

pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    let is_new = path.symlink_metadata().is_err();
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    if is_new { sync_folder_of(path) } else { Ok(()) }
}

pub(super) fn copy(from: &Path, to: &Path, rights: Rights) -> io::Result<()> {
    let beside = beside(to);
    // Of a killed run, and perhaps with other rights.
    remove_file(&beside)?;
    let copied = fs::copy(from, &beside).and_then(|_| {
        if rights == Rights::Program {
            fs::set_permissions(&beside, Permissions::from_mode(0o755))?;
        }
        File::open(&beside)?.sync_all()?;
        fs::rename(&beside, to)
    });
    if let Err(error) = copied {
        // A full disk is not left fuller.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder_of(to)
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        failed => gone(failed),
    }
}

pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // The fifth word is where it is mounted; what is odd in a path is written in octal there.
    let below =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|at| Path::new(at).starts_with(path));
    if let Some(at) = below {
        let why = format!("{at} is mounted there; type: umount {at}");
        return Err(io::Error::new(ErrorKind::ResourceBusy, why));
    }
    gone(fs::remove_dir_all(path))
}

pub(super) fn remove_empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other),
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// A bare name's is the one that this program was started in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        None => Path::new("/"),
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host as _, Machine};

    #[test]
    fn what_a_killed_write_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, host) = (folder.path().join("token"), Machine::new());
        let original = folder.path().join("original");
        let leave_half = || {
            fs::write(beside(&path), "half of it").unwrap();
            // Others could read what is written now.
            fs::set_permissions(beside(&path), Permissions::from_mode(0o666)).unwrap();
        };
        leave_half();
        host.write(&path, b"whole", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(host.mode(&path).unwrap(), 0o600);
        assert!(!beside(&path).exists());

        host.write(&original, b"other", 0o640).unwrap();
        leave_half();
        host.copy(&original, &path, Rights::Same).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(host.mode(&path).unwrap(), 0o640);
        assert!(!beside(&path).exists());

        // What cannot be put in its place leaves no half.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("by-a-folder")).unwrap();
        host.write(&taken, b"whole", 0o600).unwrap_err();
        assert!(!beside(&taken).exists());
        host.copy(&original, &taken, Rights::Program).unwrap_err();
        assert!(!beside(&taken).exists());
    }

    #[test]
    fn a_file_without_a_folder_is_in_this_one() {
        for (path, folder) in [("config.yaml", "."), ("./a", "."), ("/a", "/"), ("/a/b", "/a"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
        sync_folder_of(Path::new("config.yaml")).unwrap();
    }

    #[test]
    fn bytes_are_found_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let mut body = vec![b'x'; (256 << 10) - 3];
        body.extend(b"needle");
        fs::write(&path, &body).unwrap();
        assert!(Machine::new().holds(&path, b"needle").unwrap());
        assert!(!Machine::new().holds(&path, b"needles").unwrap());
    }
}
