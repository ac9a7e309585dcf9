//! Writes a tar archive (POSIX ustar) into memory: files, folders and symbolic links of root, all of one date. Pure.
//!
//! Names of up to 100 bytes; no reading. Used by `tree` and `oci`, and by the stories for their images.

use anyhow::{Result, bail};

const BLOCK: usize = 512;

pub struct Tar {
    bytes: Vec<u8>,
    date: u64,
}

impl Tar {
    /// `date`: what every entry says of its last change, in seconds since 1970.
    pub fn dated(date: u64) -> Self {
        Self { bytes: Vec::new(), date }
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.header(name, mode, content.len(), b'0', "")?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    pub fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.header(&format!("{name}/"), mode, 0, b'5', "")
    }

    pub fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.header(name, 0o777, 0, b'2', target)
    }

    /// Two empty blocks end an archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8, target: &str) -> Result<()> {
        let mut header = Vec::with_capacity(BLOCK);
        field(&mut header, name.as_bytes(), 100)?;
        field(&mut header, format!("{mode:07o}").as_bytes(), 8)?;
        // User and group: root.
        field(&mut header, b"0000000", 8)?;
        field(&mut header, b"0000000", 8)?;
        field(&mut header, format!("{size:011o}").as_bytes(), 12)?;
        field(&mut header, format!("{:011o}", self.date).as_bytes(), 12)?;
        let sum_at = header.len();
        // The checksum is taken over the header with spaces in its own place.
        header.extend_from_slice(b"        ");
        header.push(kind);
        field(&mut header, target.as_bytes(), 100)?;
        header.extend_from_slice(b"ustar\x0000");
        field(&mut header, b"root", 32)?;
        field(&mut header, b"root", 32)?;
        header.resize(BLOCK, 0);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        header.splice(sum_at..sum_at + 8, text.into_bytes());
        self.bytes.append(&mut header);
        Ok(())
    }
}

/// `value` and zeros up to `length`.
fn field(header: &mut Vec<u8>, value: &[u8], length: usize) -> Result<()> {
    if value.len() > length {
        bail!("{:?} does not fit into {length} bytes of a tar header", String::from_utf8_lossy(value));
    }
    let end = header.len() + length;
    header.extend_from_slice(value);
    header.resize(end, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The machine's own tar is the judge.
    #[test]
    fn another_program_reads_it() {
        let mut tar = Tar::dated(1_700_000_000);
        tar.folder("etc", 0o755).unwrap();
        tar.file("etc/text", 0o600, b"hello").unwrap();
        tar.link("etc/other", "text").unwrap();
        assert!(tar.file(&"x".repeat(101), 0o600, b"").is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, tar.finish()).unwrap();
        let list = Command::new("tar").args(["--utc", "-tvf"]).arg(&path).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let words: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["drwxr-xr-x", "root/root", "0", "2023-11-14", "22:13", "etc/"]);
        assert_eq!(words[1], ["-rw-------", "root/root", "5", "2023-11-14", "22:13", "etc/text"]);
        assert_eq!(words[2][5..], ["etc/other", "->", "text"]);
        let status = Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(folder.path().join("etc/other")).unwrap(), b"hello");
    }
}
