//! The few mounts that volumes need, and the kernel's list of those that are there.
//!
//! Decides nothing. Behind a trait, since making mounts takes root and tests do without.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// One line of the kernel's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is.
    pub path: PathBuf,
    /// `tmpfs`, `ext4`.
    pub kind: String,
}

/// Makes and ends mounts.
pub trait Mounter: Send + Sync + 'static {
    /// Mounts at `dir` and below, in the order in which they were made. `dir` is free of links.
    fn at_and_below(&self, dir: &Path) -> io::Result<Vec<MountPoint>>;
    /// Mounts memory, at most `size` bytes.
    fn memory(&self, target: &Path, size: Option<u64>) -> io::Result<()>;
    /// Shows an open file or directory at `target`, which is of the same kind.
    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;
    /// Ends the newest mount at `target`; one that is in use disappears from here and ends with its last user.
    fn unmount(&self, target: &Path) -> io::Result<()>;
}

/// The kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemMounter;

impl Mounter for SystemMounter {
    fn at_and_below(&self, dir: &Path) -> io::Result<Vec<MountPoint>> {
        let mounts = parse(&std::fs::read("/proc/self/mountinfo")?);
        Ok(mounts.into_iter().filter(|mount| mount.path.starts_with(dir)).collect())
    }

    fn memory(&self, target: &Path, size: Option<u64>) -> io::Result<()> {
        let size = size.map(|size| format!("size={size}"));
        // Out of the swap where the kernel can (6.4 and later): what is in memory may be a secret.
        let with_noswap = ["noswap"].into_iter().chain(size.as_deref()).collect::<Vec<_>>().join(",");
        match mount_tmpfs(target, &with_noswap) {
            Err(error) if error == rustix::io::Errno::INVAL => {
                mount_tmpfs(target, size.as_deref().unwrap_or_default())
            }
            other => other,
        }
        .map_err(Into::into)
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), target)?)
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Err(error) if error == rustix::io::Errno::BUSY => {
                rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            }
            other => other,
        }
        .map_err(Into::into)
    }
}

fn mount_tmpfs(target: &Path, options: &str) -> rustix::io::Result<()> {
    let options = CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), options.as_c_str())
}

/// Reads the format of `/proc/<pid>/mountinfo`. Lines that are cut short are left out.
fn parse(text: &[u8]) -> Vec<MountPoint> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut words = line.split(|byte| *byte == b' ');
            let path = unescape(words.nth(4)?);
            let mut words = words.skip_while(|word| *word != b"-").skip(1);
            let kind = String::from_utf8_lossy(words.next()?).into_owned();
            Some(MountPoint { path: PathBuf::from(std::ffi::OsString::from_vec(path)), kind })
        })
        .collect()
}

/// Space, tab, line end and backslash stand as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_list() {
        let text = b"22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
            301 28 0:50 / /var/lib/k/pods/u\\040x/volumes/a\\134b rw,relatime shared:7 master:1 - tmpfs tmpfs rw,size=4k\n\
            302 28 8:1 /d//deleted /mnt rw - ext4 /dev/sda1 rw\n\
            cut short";
        let mounts = parse(text);
        let found: Vec<_> = mounts.iter().map(|m| (m.path.to_str().unwrap(), m.kind.as_str())).collect();
        assert_eq!(
            found,
            [("/proc", "proc"), ("/var/lib/k/pods/u x/volumes/a\\b", "tmpfs"), ("/mnt", "ext4")]
        );
    }

    #[test]
    fn this_machines_list_can_be_read() {
        assert!(SystemMounter.at_and_below(Path::new("/proc")).unwrap().iter().any(|m| m.kind == "proc"));
    }
}
