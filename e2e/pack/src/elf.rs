//! Reads of an ELF file what decides where it runs: processor, interpreter, libraries and their versions. Pure.
//!
//! The bytes are a build's own, yet nothing is trusted: a file cut short or turned wrong is an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::{Arch, Libc};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    pub arch: Arch,
    /// `None`: nothing loads it, it is static (or a library).
    pub interpreter: Option<String>,
    /// The libraries it is linked with, in its order.
    pub needed: Vec<String>,
    /// Library, and the versions of it that symbols ask for, such as GLIBC_2.34.
    pub versions: BTreeMap<String, BTreeSet<String>>,
}

const EM_ARM: u64 = 40;
const EM_X86_64: u64 = 62;
const EM_AARCH64: u64 = 183;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;

const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_VERNEED: u64 = 0x6fff_fffe;
const DT_VERNEEDNUM: u64 = 0x6fff_ffff;

/// More than any program has; what says more is broken.
const MOST: u64 = 10_000;

impl Elf {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"\x7fELF"), "this is no ELF program");
        let wide = match bytes.get(4) {
            Some(1) => false,
            Some(2) => true,
            _ => bail!("this ELF file is neither of 32 nor of 64 bits"),
        };
        ensure!(bytes.get(5) == Some(&1), "only little-endian ELF files are known");
        let file = File { bytes, wide };
        let arch = match (file.number(18, 2)?, wide) {
            (EM_X86_64, true) => Arch::Amd64,
            (EM_AARCH64, true) => Arch::Arm64,
            (EM_ARM, false) => Arch::Armv7,
            (machine, _) => {
                bail!("ELF machine {machine} is not one that is packed: x86_64, aarch64 or armv7")
            }
        };
        let segments = file.segments()?;
        let interpreter = match segments.iter().find(|segment| segment.kind == PT_INTERP) {
            Some(segment) => Some(file.text(segment.offset)?),
            None => None,
        };
        let mut elf = Self { arch, interpreter, needed: Vec::new(), versions: BTreeMap::new() };
        if let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
            elf.read_dynamic(&file, &segments, dynamic)?;
        }
        Ok(elf)
    }

    /// A static program has no interpreter to tell; ours are then musl's or glibc's, whose crates are the same.
    pub fn libc(&self) -> Libc {
        match &self.interpreter {
            Some(path) if !path.contains("ld-musl") => Libc::Gnu,
            _ => Libc::Musl,
        }
    }

    /// The oldest glibc that has all that is asked for; `None` for what asks for none.
    pub fn glibc(&self) -> Option<(u32, u32)> {
        let number = |version: &str| -> Option<(u32, u32)> {
            // Not a number, and in glibc since 2.36.
            if version == "GLIBC_ABI_DT_RELR" {
                return Some((2, 36));
            }
            let (major, rest) = version.strip_prefix("GLIBC_")?.split_once('.')?;
            let minor = rest.split('.').next()?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        self.versions.values().flatten().filter_map(|version| number(version)).max()
    }

    fn read_dynamic(&mut self, file: &File<'_>, segments: &[Segment], dynamic: &Segment) -> Result<()> {
        let word = file.word();
        let mut entries = Vec::new();
        for number in 0..(dynamic.size / (2 * word)).min(MOST) {
            let at = sum(dynamic.offset, number * 2 * word)?;
            let (tag, value) = (file.number(at, word)?, file.number(at + word, word)?);
            if tag == 0 {
                break;
            }
            entries.push((tag, value));
        }
        let value = |wanted: u64| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
        let Some(strings) = value(DT_STRTAB) else { return Ok(()) };
        let strings = offset_of(segments, strings)?;
        for (_, name) in entries.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
            self.needed.push(file.text(sum(strings, *name)?)?);
        }
        let (Some(first), Some(n_libraries)) = (value(DT_VERNEED), value(DT_VERNEEDNUM)) else {
            return Ok(());
        };
        let mut library_at = offset_of(segments, first)?;
        for _ in 0..n_libraries.min(MOST) {
            let name = file.text(sum(strings, file.number(library_at + 4, 4)?)?)?;
            let n_versions = file.number(library_at + 2, 2)?;
            let mut version_at = sum(library_at, file.number(library_at + 8, 4)?)?;
            let versions = self.versions.entry(name).or_default();
            for _ in 0..n_versions {
                versions.insert(file.text(sum(strings, file.number(version_at + 8, 4)?)?)?);
                match file.number(version_at + 12, 4)? {
                    0 => break,
                    next => version_at = sum(version_at, next)?,
                }
            }
            match file.number(library_at + 12, 4)? {
                0 => break,
                next => library_at = sum(library_at, next)?,
            }
        }
        Ok(())
    }
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// Where in the file lies what will lie at `address` in memory.
fn offset_of(segments: &[Segment], address: u64) -> Result<u64> {
    let mut loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let inside = |segment: &&Segment| {
        address.checked_sub(segment.address).is_some_and(|distance| distance < segment.size)
    };
    let segment = loaded.find(inside).context("an ELF table lies outside the file")?;
    sum(segment.offset, address - segment.address)
}

/// No offset of a real file is near the end of numbers.
fn sum(one: u64, other: u64) -> Result<u64> {
    one.checked_add(other).filter(|sum| *sum < 1 << 48).context("an ELF offset is past every file's end")
}

struct File<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl File<'_> {
    fn word(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    fn slice(&self, at: u64) -> Result<&[u8]> {
        let at = usize::try_from(at).context("an ELF offset is past every file's end")?;
        self.bytes.get(at..).context("this ELF file is cut short")
    }

    /// `n_bytes` is at most eight.
    fn number(&self, at: u64, n_bytes: u64) -> Result<u64> {
        let bytes = self.slice(at)?;
        let bytes = usize::try_from(n_bytes).ok().and_then(|n_bytes| bytes.get(..n_bytes));
        let bytes = bytes.context("this ELF file is cut short")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn text(&self, at: u64) -> Result<String> {
        let bytes = self.slice(at)?;
        let end = bytes.iter().position(|byte| *byte == 0).context("an ELF string has no end")?;
        let text = bytes.get(..end).unwrap_or_default();
        String::from_utf8(text.to_vec()).context("an ELF string is not text")
    }

    fn segments(&self) -> Result<Vec<Segment>> {
        // Where the tables' columns are, in files of 64 and of 32 bits.
        let (table, size, count) = if self.wide { (32, 54, 56) } else { (28, 42, 44) };
        let (offset, address, in_file) = if self.wide { (8, 16, 32) } else { (4, 8, 16) };
        let (table, size, count) =
            (self.number(table, self.word())?, self.number(size, 2)?, self.number(count, 2)?);
        let read = |number: u64| -> Result<Segment> {
            let at = sum(table, number * size)?;
            Ok(Segment {
                kind: self.number(at, 4)?,
                offset: self.number(at + offset, self.word())?,
                address: self.number(at + address, self.word())?,
                size: self.number(at + in_file, self.word())?,
            })
        };
        (0..count).map(read).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A made program of 64 bits for x86_64: one loaded segment that is the file, an interpreter, two libraries.
    pub(crate) fn made(libc_version: &str) -> Vec<u8> {
        let interpreter = "/lib64/ld-linux-x86-64.so.2";
        let strings = format!("\0libgcc_s.so.1\0libc.so.6\0{libc_version}\0");
        let (libgcc, libc, version) = (1_u64, 15_u64, 25_u64);
        let (interpreter_at, strings_at) = (0x100_u64, 0x140_u64);
        let (versions_at, dynamic_at) = (0x180_u64, 0x1c0_u64);
        let base = 0x40_0000_u64;
        let mut bytes = vec![0; 0x300];
        let mut put = |at: u64, content: &[u8]| {
            let at = usize::try_from(at).unwrap();
            bytes[at..at + content.len()].copy_from_slice(content);
        };
        put(0, b"\x7fELF\x02\x01\x01");
        put(18, &62_u16.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &3_u16.to_le_bytes());
        for (number, (kind, offset, size)) in
            [(PT_LOAD, 0, 0x300), (PT_INTERP, interpreter_at, 28), (PT_DYNAMIC, dynamic_at, 0x60_u64)]
                .into_iter()
                .enumerate()
        {
            let at = 64 + 56 * number as u64;
            put(at, &(kind as u32).to_le_bytes());
            put(at + 8, &u64::to_le_bytes(offset));
            put(at + 16, &(base + offset).to_le_bytes());
            put(at + 32, &size.to_le_bytes());
        }
        put(interpreter_at, interpreter.as_bytes());
        put(strings_at, strings.as_bytes());
        // One library with one version.
        put(versions_at, &[1, 0, 1, 0]);
        put(versions_at + 4, &(libc as u32).to_le_bytes());
        put(versions_at + 8, &16_u32.to_le_bytes());
        put(versions_at + 16 + 8, &(version as u32).to_le_bytes());
        let dynamic = [
            (DT_NEEDED, libgcc),
            (DT_NEEDED, libc),
            (DT_STRTAB, base + strings_at),
            (DT_VERNEED, base + versions_at),
            (DT_VERNEEDNUM, 1),
        ];
        for (number, (tag, value)) in dynamic.into_iter().enumerate() {
            put(dynamic_at + 16 * number as u64, &tag.to_le_bytes());
            put(dynamic_at + 16 * number as u64 + 8, &value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_program_names_its_interpreter_libraries_and_versions() {
        let elf = Elf::read(&made("GLIBC_2.34")).unwrap();
        assert_eq!(elf.arch, Arch::Amd64);
        assert_eq!(elf.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(elf.needed, ["libgcc_s.so.1", "libc.so.6"]);
        assert_eq!(elf.versions["libc.so.6"].iter().collect::<Vec<_>>(), ["GLIBC_2.34"]);
        assert_eq!(elf.libc(), Libc::Gnu);
    }

    #[test]
    fn the_oldest_glibc_that_will_do_is_the_newest_asked_for() {
        let check = |version: &str, expected: Option<(u32, u32)>| {
            assert_eq!(Elf::read(&made(version)).unwrap().glibc(), expected, "{version}");
        };
        check("GLIBC_2.2.5", Some((2, 2)));
        check("GLIBC_2.34", Some((2, 34)));
        check("GLIBC_ABI_DT_RELR", Some((2, 36)));
        check("GLIBC_PRIVATE", None);
        check("GCC_3.0", None);
    }

    #[test]
    fn what_is_broken_is_an_error_wherever_it_is_cut() {
        let whole = made("GLIBC_2.34");
        for end in 0..0x210 {
            // Cut inside the dynamic entries some are zeros, which end the table.
            let _ = Elf::read(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut turned = whole.clone();
            turned[at] ^= 0xff;
            let _ = Elf::read(&turned);
        }
        let check = |bytes: &[u8], said: &str| {
            let error = format!("{:#}", Elf::read(bytes).unwrap_err());
            assert!(error.contains(said), "{error}");
        };
        check(b"#!/bin/sh\n", "no ELF program");
        check(&whole[..40], "cut short");
        let mut other = whole.clone();
        other[18] = 3;
        check(&other, "ELF machine 3");
        let mut other = whole;
        other[5] = 2;
        check(&other, "little-endian");
    }

    /// This test's own program is the judge of what was read right: it runs, so its interpreter is there.
    #[test]
    fn a_real_program_is_read() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::read(&own).unwrap();
        let interpreter = elf.interpreter.clone().unwrap();
        assert!(std::path::Path::new(&interpreter).is_file(), "{interpreter}");
        assert!(elf.needed.iter().any(|library| library.starts_with("libc.so")), "{:?}", elf.needed);
        assert!(elf.glibc().is_some_and(|version| version >= (2, 17)), "{:?}", elf.versions);
    }
}
