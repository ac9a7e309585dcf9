//! Writes an RPM (format 4): lead, signature, header and the files as cpio.gz. Pure.
//!
//! Written here: rpmbuild is on few machines, and the one crate for it brings some forty others for signatures and
//! compressions that are not used. What is written is what rpm's manual calls version 4 of the format, which rpm 4.14
//! and later read and check by SHA-256; nothing is signed. rpm itself is the judge in the story `packages`.

mod header;

use anyhow::{Context, Result};

use crate::cpio::Cpio;
use crate::gzip::gzip;
use crate::package::{LICENCE, MAINTAINER, Package, READ_UNITS, STOP, only_libc};
use crate::sha256::{hex, sha256};
use crate::tree::{File, Role};
use header::{Header, Value};

/// A build of the same version gets a higher one; ours get a new version.
const RELEASE: &str = "1";
const REGULAR_FILE: u16 = 0o100_000;

/// Bits of a dependency.
const LESS: u32 = 1 << 1;
const EQUAL: u32 = 1 << 3;
const OF_SCRIPT: u32 = 1 << 8;
const FOUND_IN_PROGRAM: u32 = 1 << 14;
const OF_RPM_ITSELF: u32 = 1 << 24;

/// The bit of a file that holds terms.
const LICENCE_FILE: u32 = 1 << 7;

/// SHA-256, by OpenPGP's number.
const DIGEST: u32 = 8;

pub fn file_name(package: &Package<'_>) -> String {
    let arch = package.program.arch.rpm();
    format!("{}-{}-{RELEASE}.{arch}.rpm", package.name, package.sortable_version())
}

pub fn write(package: &Package<'_>) -> Result<Vec<u8>> {
    let archive = archive(package)?;
    let payload = gzip(&archive)?;
    let header = header(package, &payload)?.bytes()?;
    let mut bytes = lead(package);
    let signature = signature(&header, &payload, archive.len())?.bytes()?;
    bytes.extend_from_slice(&signature);
    // What follows the signature starts at a multiple of eight.
    bytes.resize(bytes.len() + signature.len().next_multiple_of(8) - signature.len(), 0);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// 96 bytes by which `file` knows an RPM; rpm itself takes nothing else from them.
fn lead(package: &Package<'_>) -> Vec<u8> {
    let name = format!("{}-{}-{RELEASE}", package.name, package.sortable_version());
    let mut bytes = vec![0xed, 0xab, 0xee, 0xdb];
    // Version 3.0 of the lead, a binary package, for some processor.
    bytes.extend_from_slice(&[3, 0, 0, 0, 0, 1]);
    // The name is cut to 65 bytes and ends with a zero.
    bytes.extend(name.bytes().take(65));
    bytes.resize(76, 0);
    // Linux, and a signature that is a header.
    bytes.extend_from_slice(&[0, 1, 0, 5]);
    bytes.resize(96, 0);
    bytes
}

/// Sizes and digests. Its tags are numbers of their own.
fn signature(header: &[u8], payload: &[u8], n_unpacked: usize) -> Result<Header> {
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, header);
    let mut signature = Header::of_region(62);
    signature.put(269, Value::Text(hex(sha1.as_ref())));
    signature.put(273, Value::Text(sha256(header)));
    signature.put(1000, Value::Int32(vec![small(header.len() + payload.len())?]));
    signature.put(1007, Value::Int32(vec![small(n_unpacked)?]));
    Ok(signature)
}

fn small(size: usize) -> Result<u32> {
    u32::try_from(size).context("a package of 4 GiB or more")
}

fn archive(package: &Package<'_>) -> Result<Vec<u8>> {
    let mut cpio = Cpio::dated(date(package)?);
    for (path, file) in package.tree.files() {
        cpio.file(&format!("./{path}"), u32::from(mode(file)), &file.content)?;
    }
    cpio.finish()
}

fn date(package: &Package<'_>) -> Result<u32> {
    u32::try_from(package.date).context("a date after 2106, which no RPM holds")
}

fn mode(file: &File) -> u16 {
    REGULAR_FILE | u16::try_from(file.mode & 0o7777).unwrap_or_default()
}

fn header(package: &Package<'_>, payload: &[u8]) -> Result<Header> {
    let version = package.sortable_version();
    let mut header = Header::of_region(63);
    let text = |text: &str| Value::Text(text.to_owned());
    header.put(100, Value::Texts(vec!["C".to_owned()])); // the languages of translated texts
    header.put(1000, text(package.name));
    header.put(1001, text(&version));
    header.put(1002, text(RELEASE));
    header.put(1004, Value::Translated(package.summary.to_owned()));
    header.put(1005, Value::Translated(package.description.to_owned()));
    header.put(1006, Value::Int32(vec![date(package)?])); // when it was built
    header.put(1007, text("isthmus.invalid")); // where; the same everywhere
    header.put(1009, Value::Int32(vec![small(package.tree.n_bytes())?]));
    header.put(1014, text(LICENCE));
    header.put(1015, text(MAINTAINER));
    header.put(1016, Value::Translated("Unspecified".to_owned())); // group
    header.put(1021, text("linux"));
    header.put(1022, text(package.program.arch.rpm()));
    // Without the name of a source package it would count as one.
    header.put(1044, text(&format!("{}-{version}-{RELEASE}.src.rpm", package.name)));
    header.put(1124, text("cpio"));
    header.put(1125, text("gzip"));
    header.put(1126, text("9"));
    header.put(5062, text("utf-8"));
    header.put(5092, Value::Texts(vec![sha256(payload)]));
    header.put(5093, Value::Int32(vec![DIGEST]));
    put_files(&mut header, package)?;
    put_scripts(&mut header, package);
    put_dependencies(&mut header, package, &version)?;
    Ok(header)
}

/// One value a file in each of these, in the order of the archive.
fn put_files(header: &mut Header, package: &Package<'_>) -> Result<()> {
    let files: Vec<(&str, &File)> = package.tree.files().collect();
    let n_files = small(files.len())?;
    let int32 =
        |value: &dyn Fn(&File) -> u32| Value::Int32(files.iter().map(|(_, file)| value(file)).collect());
    let each = |value: &str| Value::Texts(vec![value.to_owned(); files.len()]);
    let sizes: Result<Vec<u32>> = files.iter().map(|(_, file)| small(file.content.len())).collect();
    header.put(1028, Value::Int32(sizes?));
    header.put(1030, Value::Int16(files.iter().map(|(_, file)| mode(file)).collect()));
    header.put(1033, Value::Int16(vec![0; files.len()])); // no device files
    let date = date(package)?;
    header.put(1034, int32(&|_| date));
    header.put(1035, Value::Texts(files.iter().map(|(_, file)| sha256(&file.content)).collect()));
    header.put(1036, each("")); // no links
    header.put(1037, int32(&flags));
    header.put(1039, each("root"));
    header.put(1040, each("root"));
    header.put(1045, int32(&|_| u32::MAX)); // `rpm -V` verifies everything of them
    header.put(1095, int32(&|_| 1)); // one device, and an inode each: no hard links
    header.put(1096, Value::Int32((1..=n_files).collect()));
    header.put(1097, each("")); // of no language
    header.put(5011, Value::Int32(vec![DIGEST]));
    // A path is the number of its folder and a name.
    let split = |path: &str| -> (String, String) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        (if folder.is_empty() { "/".to_owned() } else { format!("/{folder}/") }, name.to_owned())
    };
    let mut folders: Vec<String> = Vec::new();
    let mut numbers = Vec::new();
    let mut names = Vec::new();
    for (path, _) in &files {
        let (folder, name) = split(path);
        let number = folders.iter().position(|known| *known == folder).unwrap_or_else(|| {
            folders.push(folder);
            folders.len() - 1
        });
        numbers.push(small(number)?);
        names.push(name);
    }
    header.put(1116, Value::Int32(numbers));
    header.put(1117, Value::Texts(names));
    header.put(1118, Value::Texts(folders));
    Ok(())
}

fn flags(file: &File) -> u32 {
    match file.role {
        Role::Plain => 0,
        Role::Licence => LICENCE_FILE,
    }
}

fn put_scripts(header: &mut Header, package: &Package<'_>) {
    // After installing, before and after removing: body, interpreter, condition, command.
    for (body, interpreter, condition, command) in [
        (1024, 1086, "true", READ_UNITS),
        // An upgrade removes the old package after the new one is there; then one is left.
        (1025, 1087, "[ \"$1\" = 0 ]", STOP),
        (1026, 1088, "true", READ_UNITS),
    ] {
        if let Some(script) = package.script(condition, command) {
            // A script that fails would leave a package half there.
            header.put(body, Value::Text(format!("{script}exit 0\n")));
            header.put(interpreter, Value::Text("/bin/sh".to_owned()));
        }
    }
}

fn put_dependencies(header: &mut Header, package: &Package<'_>, version: &str) -> Result<()> {
    only_libc(package.program)?;
    let arch = package.program.arch;
    let full = format!("{version}-{RELEASE}");
    header.put(1047, Value::Texts(vec![package.name.to_owned()]));
    header.put(1112, Value::Int32(vec![EQUAL]));
    header.put(1113, Value::Texts(vec![full]));
    // Name, bits, version.
    let mut wants: Vec<(String, u32, &str)> = Vec::new();
    let of_rpm = LESS | EQUAL | OF_RPM_ITSELF;
    wants.push(("rpmlib(CompressedFileNames)".to_owned(), of_rpm, "3.0.4-1"));
    wants.push(("rpmlib(FileDigests)".to_owned(), of_rpm, "4.6.0-1"));
    wants.push(("rpmlib(PayloadFilesHavePrefix)".to_owned(), of_rpm, "4.0-1"));
    if version.contains('~') {
        wants.push(("rpmlib(TildeInVersions)".to_owned(), of_rpm, "4.10.0-1"));
    }
    if package.unit.is_some() {
        wants.push(("/bin/sh".to_owned(), OF_SCRIPT, ""));
    }
    let bits = arch.rpm_bits();
    for library in &package.program.needed {
        let plain = if bits.is_empty() { library.clone() } else { format!("{library}(){bits}") };
        wants.push((plain, FOUND_IN_PROGRAM, ""));
    }
    for (library, versions) in &package.program.versions {
        let versions = versions.iter().filter(|version| !version.ends_with("_PRIVATE"));
        wants.extend(versions.map(|version| (format!("{library}({version}){bits}"), FOUND_IN_PROGRAM, "")));
    }
    wants.sort();
    header.put(1048, Value::Int32(wants.iter().map(|(_, bits, _)| *bits).collect()));
    header.put(1049, Value::Texts(wants.iter().map(|(name, ..)| name.clone()).collect()));
    header.put(1050, Value::Texts(wants.iter().map(|(.., version)| (*version).to_owned()).collect()));
    Ok(())
}

#[cfg(test)]
mod tests;
