//! Writes a cpio archive (SVR4 "newc", magic 070701), which is what an RPM holds. Pure.

use anyhow::{Context, Result};

pub struct Cpio {
    bytes: Vec<u8>,
    date: u32,
    n_files: u32,
}

/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";

impl Cpio {
    pub fn dated(date: u32) -> Self {
        Self { bytes: Vec::new(), date, n_files: 0 }
    }

    /// `mode` holds the kind of file too. Entries get inode numbers from 1 up.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.n_files += 1;
        self.entry(self.n_files, name, mode, self.date, content)
    }

    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(0, END, 0, 0, b"")?;
        Ok(self.bytes)
    }

    fn entry(&mut self, inode: u32, name: &str, mode: u32, date: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} has 4 GiB or more"))?;
        let name_size = u32::try_from(name.len() + 1).context("a name of 4 GiB")?;
        let (user, group, n_links, device, checksum) = (0, 0, 1, 0, 0);
        let fields = [
            inode, mode, user, group, n_links, date, size, device, device, device, device, name_size,
            checksum,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// Names and contents end at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_in_hexadecimal_a_name_and_the_bytes() {
        let mut cpio = Cpio::dated(16);
        cpio.file("./a", 0o100_644, b"hello").unwrap();
        let bytes = cpio.finish().unwrap();
        let first = "070701\
                     00000001000081a40000000000000000000000010000001000000005\
                     0000000000000000000000000000000000000004\
                     00000000./a\0\0\0hello\0\0\0";
        assert_eq!(std::str::from_utf8(&bytes[..first.len()]).unwrap(), first);
        let end = &bytes[first.len()..];
        assert!(end.starts_with(b"070701"));
        assert_eq!(&end[110..], b"TRAILER!!!\0\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
    }
}
