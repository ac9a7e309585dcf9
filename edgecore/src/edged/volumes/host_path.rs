//! `hostPath`: checks that what lies on the machine is what the pod wants, and makes it where the type says so.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks `path` for a `hostPath.type`; an empty one wants nothing. The error is Kubernetes' text.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let failed = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    if kind == "DirectoryOrCreate" && !path.exists() {
        make_dir(path).map_err(|error| format!("cannot make directory {shown}: {error}"))?;
    }
    if kind == "FileOrCreate" && !path.exists() {
        make_file(path).map_err(|error| format!("cannot make file {shown}: {error}"))?;
    }
    let found = fs::metadata(path).map(|meta| meta.file_type()).ok();
    let is = |test: &dyn Fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match kind {
        "" => Ok(()),
        "Directory" | "DirectoryOrCreate" if !is(&fs::FileType::is_dir) => failed("a directory"),
        "File" | "FileOrCreate" if !is(&|found| !found.is_dir()) => failed("a file"),
        "Socket" if !is(&FileTypeExt::is_socket) => failed("a socket file"),
        "CharDevice" if !is(&FileTypeExt::is_char_device) => failed("a character device"),
        "BlockDevice" if !is(&FileTypeExt::is_block_device) => failed("a block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn make_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn types() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("f"), "x").unwrap();
        std::os::unix::fs::symlink("d", dir.join("l")).unwrap();
        let _socket = UnixListener::bind(dir.join("s")).unwrap();
        let check = |name: &str, kind: &str, expected: Option<&str>| {
            let path = if name.starts_with('/') { name.into() } else { dir.join(name) };
            let expected = expected.map(|what| match what.strip_prefix('=') {
                Some(whole) => whole.to_owned(),
                None => format!("hostPath type check failed: {} is not {what}", path.display()),
            });
            assert_eq!(super::check(&path, kind).err(), expected, "{name} {kind}");
        };
        check("none", "", None);
        check("d", "Directory", None);
        check("l", "Directory", None);
        check("f", "Directory", Some("a directory"));
        check("none", "Directory", Some("a directory"));
        check("new/below", "DirectoryOrCreate", None);
        check("new/below", "Directory", None);
        check("f", "DirectoryOrCreate", Some("a directory"));
        check("f", "File", None);
        check("d", "File", Some("a file"));
        check("none", "File", Some("a file"));
        check("newf", "FileOrCreate", None);
        check("newf", "File", None);
        check("f", "FileOrCreate", None);
        check("d", "FileOrCreate", Some("a file"));
        check("s", "Socket", None);
        check("f", "Socket", Some("a socket file"));
        check("/dev/null", "CharDevice", None);
        check("f", "CharDevice", Some("a character device"));
        check("/dev/null", "BlockDevice", Some("a block device"));
        check("f", "Fifo", Some("=Fifo is an invalid volume type"));
        assert_eq!(fs::read(dir.join("f")).unwrap(), b"x");
        let none_above = super::check(&dir.join("no/f"), "FileOrCreate").unwrap_err();
        assert!(none_above.starts_with("cannot make file"), "{none_above}");
    }
}
