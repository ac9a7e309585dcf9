//! Writes an ar archive in the one form that Debian's packages use: short names, root's files, one date. Pure.

use anyhow::{Result, ensure};

pub struct Ar {
    bytes: Vec<u8>,
    date: u64,
}

impl Ar {
    pub fn dated(date: u64) -> Self {
        Self { bytes: b"!<arch>\n".to_vec(), date }
    }

    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        ensure!(name.len() <= 16, "{name:?} does not fit into the 16 bytes that ar has for a name");
        let size = content.len();
        ensure!(size < 10_000_000_000, "{name}: {size} bytes do not fit into ar's ten digits");
        // Name, date, user, group, mode, size; each in columns of its own.
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", self.date, 0, 0, "100644");
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        if size % 2 == 1 {
            self.bytes.push(b'\n');
        }
        Ok(())
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_padding_are_as_ar_wants_them() {
        let mut ar = Ar::dated(5);
        ar.file("odd", b"abc").unwrap();
        ar.file("even", b"de").unwrap();
        assert!(ar.file("seventeen-letters", b"").is_err());
        let expected = "!<arch>\n\
                        odd             5           0     0     100644  3         `\nabc\n\
                        even            5           0     0     100644  2         `\nde";
        assert_eq!(String::from_utf8(ar.finish()).unwrap(), expected);
    }
}
