//! Which logs are to be rotated, by the files alone: names and sizes below the folder of logs. The runtime is not asked, which
//! is what makes a machine cheap whose pods say little.
//!
//! The layout is the kubelet's: `<namespace>_<pod>_<uid>/<container>/<restarts>.log`. Of one container only the newest log
//! can grow; links and everything else that lies there are passed over.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Logs below `root` that are larger than `max_bytes`, and those that were moved aside without a new one begun: the runtime
/// still writes to the old file. What cannot be read is not there.
pub(super) fn due(root: &Path, max_bytes: u64) -> Vec<PathBuf> {
    let containers = folders(root).into_iter().flat_map(|pod| folders(&pod));
    containers.filter_map(|container| due_in(&container, max_bytes)).collect()
}

fn due_in(container: &Path, max_bytes: u64) -> Option<PathBuf> {
    let entries = fs::read_dir(container).ok()?.flatten();
    let newest = entries.filter_map(|entry| number(&entry.file_name())).max()?;
    let log = container.join(format!("{newest}.log"));
    match fs::symlink_metadata(&log) {
        Ok(about) => (about.is_file() && about.len() > max_bytes).then_some(log),
        // It was seen a moment ago, or a part of it was.
        Err(_) => (!super::rotated(&log).is_empty()).then_some(log),
    }
}

/// Which start of the container a file is of: 3 for `3.log`, and for `3.log.20260131-120000.gz`.
fn number(name: &OsStr) -> Option<u32> {
    let (number, rest) = name.to_str()?.split_once('.')?;
    let is_log = rest == "log"
        || rest.strip_prefix("log.").is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()));
    number.parse().ok().filter(|_| is_log)
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(is_folder).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: usize| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; bytes]).unwrap();
        };
        let check = |expected: &[&str]| {
            let mut found: Vec<String> = due(root.path(), 10)
                .iter()
                .map(|path| path.strip_prefix(root.path()).unwrap().display().to_string())
                .collect();
            found.sort();
            assert_eq!(found, expected);
        };
        check(&[]);
        put("n_small_u/app/0.log", 10);
        put("n_large_u/app/0.log", 11);
        put("n_large_u/quiet/0.log", 1);
        // Ten comes after nine, and an older start's log grows no more.
        put("n_often_u/app/9.log", 99);
        put("n_often_u/app/10.log", 1);
        put("n_often_u/other/9.log", 1);
        put("n_often_u/other/10.log", 11);
        // Moved aside, and nothing begun.
        put("n_cut_u/app/1.log.20260131-120000", 1);
        // A newer start than that.
        put("n_begun_u/app/1.log.20260131-120000", 99);
        put("n_begun_u/app/2.log", 1);
        // No logs of ours.
        put("n_strange_u/app/notes.txt", 99);
        put("n_strange_u/app/1.logs", 99);
        put("n_strange_u/app/x.log", 99);
        put("n_strange_u/0.log", 99);
        fs::create_dir_all(root.path().join("n_strange_u/folder/0.log")).unwrap();
        let linked = root.path().join("n_strange_u/linked");
        fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(root.path().join("n_large_u/app/0.log"), linked.join("0.log")).unwrap();
        std::os::unix::fs::symlink(root.path().join("n_large_u"), root.path().join("n_again_u")).unwrap();
        check(&["n_cut_u/app/1.log", "n_large_u/app/0.log", "n_often_u/other/10.log"]);
        assert_eq!(due(&root.path().join("nowhere"), 10), Vec::<PathBuf>::new());
    }
}
