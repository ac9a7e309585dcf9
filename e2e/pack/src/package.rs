//! One program as a system's package manager takes it: what `deb` and `rpm` write down each in their own way. Pure.

use anyhow::{Result, ensure};

use crate::elf::Elf;
use crate::tree::Tree;

/// None of its files is a setting that people change and an upgrade must leave alone (a "conffile"): `keadm join` writes
/// the configuration, and what a site changes in a unit is a drop-in.
pub struct Package<'a> {
    pub name: &'a str,
    /// As Cargo has it: `1.2.3`, or `1.2.3-rc.1`.
    pub version: &'a str,
    /// One line, without a full stop.
    pub summary: &'a str,
    /// A paragraph of any width.
    pub description: &'a str,
    /// The program, which decides the processor and the libraries.
    pub program: &'a Elf,
    pub tree: &'a Tree,
    /// The unit that this package brings.
    pub unit: Option<&'a str>,
    /// Seconds since 1970.
    pub date: u64,
}

/// Nobody in particular: packages need one.
pub(crate) const MAINTAINER: &str = "Isthmus maintainers <maintainers@isthmus.invalid>";
pub(crate) const LICENCE: &str = "Apache-2.0";

impl Package<'_> {
    /// Both package managers sort `1.2.3~rc.1` before `1.2.3`, and take a dash for the end of a version.
    pub fn sortable_version(&self) -> String {
        self.version.replacen('-', "~", 1).replace('-', ".")
    }

    /// A script for a moment when something happened to the unit, run where systemd is process 1 (`/run/systemd/system`
    /// is how one asks) and not while a machine is only being laid out in a folder.
    pub(crate) fn script(&self, condition: &str, command: &str) -> Option<String> {
        let unit = self.unit?;
        let command = command.replace("UNIT", unit);
        Some(format!(
            "if {condition} && [ -z \"${{DPKG_ROOT:-}}\" ] && [ -d /run/systemd/system ]; then\n    {command}\nfi\n"
        ))
    }
}

/// systemd reads units when told to. Nothing is started: before `keadm join` there is nothing to run, and after an upgrade
/// the old program goes on until somebody restarts it.
pub(crate) const READ_UNITS: &str = "systemctl daemon-reload";
/// A service whose program is about to vanish. A unit in /etc goes before the package's: it is keadm's, which starts a copy of
/// its own, or the site's.
pub(crate) const STOP: &str = "[ -e /etc/systemd/system/UNIT ] || systemctl stop UNIT";

/// What a package may ask of a system without naming more packages than libc's own.
pub(crate) fn only_libc(program: &Elf) -> Result<()> {
    const OF_LIBC: [&str; 7] = [
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "ld-linux",
    ];
    for library in &program.needed {
        ensure!(
            OF_LIBC.iter().any(|known| library.starts_with(known)),
            "the program wants {library}, which comes with no libc: it must be linked in, or become a dependency here"
        );
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tree::Role;

    pub(crate) fn tree() -> Tree {
        Tree::default()
            .with("usr/bin/edgecore", 0o755, Role::Plain, b"program")
            .with("usr/lib/systemd/system/edgecore.service", 0o644, Role::Plain, b"[Unit]\n")
            .with("usr/share/doc/edgecore/copyright", 0o644, Role::Licence, b"terms")
    }

    pub(crate) fn package<'a>(version: &'a str, program: &'a Elf, tree: &'a Tree) -> Package<'a> {
        Package {
            name: "edgecore",
            version,
            summary: "runs pods",
            description: "Runs the pods of this machine.\n\nAnd its devices.",
            program,
            tree,
            unit: Some("edgecore.service"),
            date: 1_700_000_000,
        }
    }

    #[test]
    fn versions_sort_as_they_came() {
        let elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        let tree = tree();
        let check = |version: &str, expected: &str| {
            assert_eq!(package(version, &elf, &tree).sortable_version(), expected);
        };
        check("1.2.3", "1.2.3");
        check("1.2.3-rc.1", "1.2.3~rc.1");
        check("1.2.3-rc-1", "1.2.3~rc.1");
    }

    #[test]
    fn scripts_touch_only_a_running_systemd() {
        let elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        let tree = tree();
        let mut package = package("1.2.3", &elf, &tree);
        assert_eq!(
            package.script("[ \"$1\" = remove ]", STOP).unwrap(),
            "if [ \"$1\" = remove ] && [ -z \"${DPKG_ROOT:-}\" ] && [ -d /run/systemd/system ]; then\n    \
             [ -e /etc/systemd/system/edgecore.service ] || systemctl stop edgecore.service\nfi\n"
        );
        package.unit = None;
        assert_eq!(package.script("true", READ_UNITS), None);
    }

    #[test]
    fn a_library_of_nobody_is_told() {
        let mut elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        assert!(only_libc(&elf).is_ok());
        elf.needed.push("libssl.so.3".to_owned());
        assert!(only_libc(&elf).unwrap_err().to_string().contains("libssl.so.3"));
    }
}
