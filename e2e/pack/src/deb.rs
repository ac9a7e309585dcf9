//! Writes a Debian package: an ar archive of a version, the control files and the files, both as tar.gz. Pure.
//!
//! Written here and not by dpkg-deb, which only Debian's kin have: the format is small, and so the bytes depend on no
//! machine's version of a packer. dpkg-deb is the judge in the story `packages`.

use anyhow::{Result, ensure};

use crate::ar::Ar;
use crate::gzip::gzip;
use crate::package::{MAINTAINER, Package, READ_UNITS, STOP, only_libc};
use crate::tree::{Role, Tree};

pub fn file_name(package: &Package<'_>) -> String {
    format!("{}_{}_{}.deb", package.name, package.sortable_version(), package.program.arch.debian())
}

pub fn write(package: &Package<'_>) -> Result<Vec<u8>> {
    let mut ar = Ar::dated(package.date);
    ar.file("debian-binary", b"2.0\n")?;
    ar.file("control.tar.gz", &gzip(&control_files(package)?.tar(package.date, "./")?)?)?;
    ar.file("data.tar.gz", &gzip(&package.tree.tar(package.date, "./")?)?)?;
    Ok(ar.finish())
}

fn control_files(package: &Package<'_>) -> Result<Tree> {
    let mut files = Tree::default().with("control", 0o644, Role::Plain, control(package)?.as_bytes());
    for (name, condition, command) in [
        ("postinst", "[ \"$1\" = configure ]", READ_UNITS),
        // Not before an upgrade: the program goes on, and nothing would start it again.
        ("prerm", "[ \"$1\" = remove ]", STOP),
        ("postrm", "true", READ_UNITS),
    ] {
        if let Some(script) = package.script(condition, command) {
            files = files.with(name, 0o755, Role::Plain, format!("#!/bin/sh\nset -e\n{script}").as_bytes());
        }
    }
    Ok(files)
}

fn control(package: &Package<'_>) -> Result<String> {
    ensure!(!package.summary.contains('\n'), "a package's summary is one line");
    only_libc(package.program)?;
    // libgcc comes with libc6, which depends on it.
    let depends = match package.program.glibc() {
        Some((major, minor)) => format!("Depends: libc6 (>= {major}.{minor})\n"),
        None => String::new(),
    };
    Ok(format!(
        "Package: {}\n\
         Version: {}\n\
         Architecture: {}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {}\n\
         {depends}\
         Section: admin\n\
         Priority: optional\n\
         Description: {}\n\
         {}",
        package.name,
        package.sortable_version(),
        package.program.arch.debian(),
        package.tree.n_bytes().div_ceil(1024),
        package.summary,
        folded(package.description),
    ))
}

/// A line of a description starts with a space, and an empty one is a dot.
fn folded(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Elf;
    use crate::package::tests::{package, tree};
    use std::io::Read;

    /// The members of an ar archive, read by its columns.
    fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut rest = bytes.strip_prefix(b"!<arch>\n").unwrap();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let column = |from: usize, to: usize| std::str::from_utf8(&rest[from..to]).unwrap().trim_end();
            assert_eq!(&rest[58..60], b"`\n");
            assert_eq!(column(16, 28), "1700000000");
            let size: usize = column(48, 58).parse().unwrap();
            found.push((column(0, 16).to_owned(), rest[60..60 + size].to_vec()));
            rest = &rest[60 + size.next_multiple_of(2)..];
        }
        found
    }

    fn unpacked(gzip: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(gzip).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_package_is_its_version_its_control_and_its_files_in_this_order() {
        let elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        let tree = tree();
        let package = package("1.2.3-rc.1", &elf, &tree);
        assert_eq!(file_name(&package), "edgecore_1.2.3~rc.1_amd64.deb");
        let bytes = write(&package).unwrap();
        assert_eq!(bytes, write(&package).unwrap());
        let members = members(&bytes);
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        assert_eq!(members[0].1, b"2.0\n");
        assert_eq!(unpacked(&members[2].1), tree.tar(1_700_000_000, "./").unwrap());
        let control = unpacked(&members[1].1);
        assert_eq!(control, control_files(&package).unwrap().tar(1_700_000_000, "./").unwrap());
    }

    #[test]
    fn the_control_file_says_what_dpkg_wants_to_know() {
        let elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        let tree = tree();
        let package = package("1.2.3", &elf, &tree);
        assert_eq!(
            control(&package).unwrap(),
            "Package: edgecore\nVersion: 1.2.3\nArchitecture: amd64\n\
             Maintainer: Isthmus maintainers <maintainers@isthmus.invalid>\nInstalled-Size: 1\n\
             Depends: libc6 (>= 2.34)\nSection: admin\nPriority: optional\nDescription: runs pods\n \
             Runs the pods of this machine.\n .\n And its devices.\n"
        );
        let files = control_files(&package).unwrap();
        let names: Vec<(&str, u32)> = files.files().map(|(path, file)| (path, file.mode)).collect();
        assert_eq!(names, [("control", 0o644), ("postinst", 0o755), ("postrm", 0o755), ("prerm", 0o755)]);
    }

    #[test]
    fn a_static_program_depends_on_nothing() {
        let mut elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        (elf.needed, elf.versions) = Default::default();
        let tree = tree();
        assert!(!control(&package("1.2.3", &elf, &tree)).unwrap().contains("Depends"));
    }
}
