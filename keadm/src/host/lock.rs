//! A lock between processes that is a file, and goes with it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often one that somebody holds is tried.
const TRY: Duration = Duration::from_millis(100);

/// Held while this lives, and no longer than this process does. Its file goes with it.
pub(crate) struct Lock {
    held: Option<(File, PathBuf)>,
}

#[cfg(test)]
impl Lock {
    /// A machine in memory has no others.
    pub(crate) fn of_nothing() -> Self {
        Self { held: None }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_file, path)) = &self.held {
            // While it is locked: who waits for it looks whether it is still there. One that stays does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

pub(super) fn take(path: &Path, limit: Duration) -> io::Result<Option<Lock>> {
    let begin = Instant::now();
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => {
                return Ok(Some(Lock { held: Some((file, path.to_owned())) }));
            }
            // Who held it removed it between the two calls.
            Ok(()) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) if begin.elapsed() >= limit => {
                return Ok(None);
            }
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(TRY),
        }
    }
}

/// Whether that is still the file at that path.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |file: &fs::Metadata| (file.dev(), file.ino());
    file.metadata().and_then(|held| Ok(id(&held) == id(&fs::metadata(path)?))).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_and_its_file_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let take = |limit| take(&path, limit).unwrap();
        let held = take(Duration::ZERO).unwrap();
        assert!(take(Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            // Who waited gets it, under the file that is there then.
            let waiting = scope.spawn(|| take(Duration::from_secs(30)));
            std::thread::sleep(TRY);
            drop(held);
            let got = waiting.join().unwrap().unwrap();
            assert!(take(Duration::ZERO).is_none());
            drop(got);
        });
        assert!(!path.exists());
    }
}
