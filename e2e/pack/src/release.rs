//! All files of a release, made of the built programs: the table of `products` carried out.
//!
//! It writes nothing, and reads nothing but the libraries that images bring (`libraries`). Called by the program `pack`, and
//! by the stories for an image that ships.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::elf::Elf;
use crate::gzip::gzip;
use crate::libraries::with_libraries;
use crate::oci::{self, Image, Packing};
use crate::package::Package;
use crate::products::{ARCHIVES, Archive, Contained, IMAGES, KEADM_PLACE, PACKAGE_PLACE, PACKAGES, Packaged};
use crate::sbom::{self, Crates};
use crate::tree::{Role, Tree};
use crate::{deb, rpm};

const LICENCE: &str = include_str!("../../../LICENSE");

/// A built program.
pub struct Program {
    bytes: Vec<u8>,
    elf: Elf,
}

impl Program {
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let elf = Elf::read(&bytes)?;
        Ok(Self { bytes, elf })
    }

    pub fn elf(&self) -> &Elf {
        &self.elf
    }
}

pub struct Release<'a> {
    pub programs: BTreeMap<String, Program>,
    /// As Cargo has it.
    pub version: &'a str,
    /// Seconds since 1970.
    pub date: u64,
    /// What stands before an image's name, such as `registry.example/isthmus`.
    pub repository: &'a str,
    pub crates: &'a Crates,
    /// keadm's man pages: names and texts.
    pub manuals: &'a BTreeMap<String, Vec<u8>>,
}

impl Release<'_> {
    /// Names and bytes, without their sums.
    pub fn files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let arch = self.arch()?;
        let ending = format!("v{}-linux-{}", self.version, arch.kubeedge());
        let mut files = BTreeMap::new();
        for archive in ARCHIVES {
            if let Some(tree) = self.tree_of(archive.programs, &format!("{}-{ending}/", archive.name)) {
                let packed =
                    self.archive(archive, &ending, tree).with_context(|| format!("pack {}", archive.name))?;
                files.insert(format!("{}-{ending}.tar.gz", archive.name), packed);
            }
        }
        for packaged in PACKAGES {
            if let Some(program) = self.programs.get(packaged.program) {
                let made = self.packages(packaged, program);
                files.extend(made.with_context(|| format!("package {}", packaged.program))?);
            }
        }
        for image in IMAGES {
            if let Some(packed) =
                self.image(image, Packing::Gzip).with_context(|| format!("make the image {}", image.name))?
            {
                files.insert(format!("{}-{ending}.oci.tar", image.name), packed);
            }
        }
        for (name, program) in &self.programs {
            let subject = sbom::Program {
                name,
                version: self.version,
                arch: arch.kubeedge(),
                bytes: &program.bytes,
                date: self.date,
            };
            let bill = serde_json::to_string_pretty(&self.crates.spdx(&subject)?)
                .context("write a bill of materials")?;
            files.insert(format!("{name}-{ending}.spdx.json"), (bill + "\n").into_bytes());
        }
        Ok(files)
    }

    /// The archive of one image, or nothing if its first program was not built.
    pub fn image(&self, contained: &Contained, packing: Packing) -> Result<Option<Vec<u8>>> {
        let Some(mut tree) = self.tree_of(contained.programs, "") else { return Ok(None) };
        for (name, _) in contained.programs {
            if let Some(program) = self.programs.get(*name) {
                tree = with_libraries(tree, &program.elf)?;
            }
        }
        let terms = format!("usr/share/doc/{}", contained.name);
        tree = self.with_terms(tree, &terms, "copyright", contained.programs);
        let image = Image {
            arch: self.arch()?,
            date: self.date,
            layer: &tree.tar(self.date, "")?,
            packing,
            entrypoint: contained.entrypoint,
            command: contained.command,
            user: contained.user,
            folder: contained.folder,
            labels: &[
                ("org.opencontainers.image.title", contained.name),
                ("org.opencontainers.image.version", self.version),
                ("org.opencontainers.image.licenses", crate::package::LICENCE),
            ],
        };
        let name = format!("{}/{}:v{}", self.repository, contained.name, self.version);
        Ok(Some(oci::archive(&image, &[&name])?))
    }

    /// Our licence under the name that people look for there, and whose work else is in the programs.
    fn with_terms(&self, tree: Tree, folder: &str, name: &str, programs: &[(&str, &str)]) -> Tree {
        let there: Vec<&str> =
            programs.iter().map(|(name, _)| *name).filter(|name| self.programs.contains_key(*name)).collect();
        let notices = self.crates.notices(&there, self.version);
        tree.with(&format!("{folder}/{name}"), 0o644, Role::Licence, LICENCE.as_bytes()).with(
            &format!("{folder}/THIRD-PARTY-NOTICES"),
            0o644,
            Role::Licence,
            notices.as_bytes(),
        )
    }

    /// That of all programs.
    fn arch(&self) -> Result<Arch> {
        let mut archs = self.programs.values().map(|program| program.elf.arch);
        let arch = archs.next().context("there is no program to pack")?;
        ensure!(archs.all(|other| other == arch), "the programs are for different processors");
        Ok(arch)
    }

    fn tree_of(&self, programs: &[(&str, &str)], before: &str) -> Option<Tree> {
        let (first, _) = programs.first()?;
        self.programs.get(*first)?;
        let there = programs.iter().filter_map(|(name, place)| Some((self.programs.get(*name)?, place)));
        Some(there.fold(Tree::default(), |tree, (program, place)| {
            tree.with(&format!("{before}{place}"), 0o755, Role::Plain, &program.bytes)
        }))
    }

    fn archive(&self, archive: &Archive, ending: &str, tree: Tree) -> Result<Vec<u8>> {
        let folder = format!("{}-{ending}", archive.name);
        let version = format!("v{}\n", self.version);
        let tree = tree.with(&format!("{folder}/version"), 0o644, Role::Plain, version.as_bytes());
        let tree = self.with_terms(tree, &folder, "LICENSE", archive.programs);
        gzip(&tree.tar(self.date, "")?)
    }

    fn packages(&self, packaged: &Packaged, program: &Program) -> Result<[(String, Vec<u8>); 2]> {
        let name = packaged.program;
        let tree = Tree::default().with(&format!("usr/bin/{name}"), 0o755, Role::Plain, &program.bytes);
        let mut tree = self.with_terms(tree, &format!("usr/share/doc/{name}"), "copyright", &[(name, "")]);
        if let Some((unit, text)) = packaged.unit {
            let text = text.replace(KEADM_PLACE, PACKAGE_PLACE);
            tree = tree.with(&format!("usr/lib/systemd/system/{unit}"), 0o644, Role::Plain, text.as_bytes());
        }
        if name == "keadm" {
            for (page, text) in self.manuals {
                let place = format!("usr/share/man/man8/{page}.gz");
                tree = tree.with(&place, 0o644, Role::Plain, &gzip(text)?);
            }
        }
        let package = Package {
            name,
            version: self.version,
            summary: packaged.summary,
            description: packaged.description,
            program: &program.elf,
            tree: &tree,
            unit: packaged.unit.map(|(unit, _)| unit),
            date: self.date,
        };
        Ok([
            (deb::file_name(&package), deb::write(&package)?),
            (rpm::file_name(&package), rpm::write(&package)?),
        ])
    }
}

/// What `sha256sum --check` reads.
pub fn sums<'a>(files: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    files.map(|(name, digest)| format!("{digest}  {name}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256::sha256;

    const TREE: &str = "0edgecore v1.2.3 (/x)|Apache-2.0|\n\n0cloudcore v1.2.3 (/x)|Apache-2.0|\n\n\
                        0mapper-modbus v1.2.3 (/x)|Apache-2.0|\n\n0keadm v1.2.3 (/x)|Apache-2.0|\n";

    /// A static program, whose image wants no library of this machine.
    fn program() -> Vec<u8> {
        let mut bytes = crate::elf::tests::made("GLIBC_2.34");
        // No segments.
        bytes[56] = 0;
        bytes
    }

    static NONE: BTreeMap<String, Vec<u8>> = BTreeMap::new();

    fn release<'a>(names: &[&str], crates: &'a Crates) -> Release<'a> {
        let programs = names.iter().map(|name| ((*name).to_owned(), Program::new(program()).unwrap()));
        let (version, repository) = ("1.2.3", "registry.example/isthmus");
        Release {
            programs: programs.collect(),
            version,
            date: 1_700_000_000,
            repository,
            crates,
            manuals: &NONE,
        }
    }

    #[test]
    fn what_is_there_is_made_and_nothing_else() {
        let crates = Crates::read(TREE, "").unwrap();
        let check = |names: &[&str], expected: &[&str]| {
            let files = release(names, &crates).files().unwrap();
            assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        };
        check(
            &["edgecore", "cloudcore", "mapper-modbus"],
            &[
                "cloudcore-v1.2.3-linux-amd64.oci.tar",
                "cloudcore-v1.2.3-linux-amd64.spdx.json",
                "edgecore-1.2.3-1.x86_64.rpm",
                "edgecore-v1.2.3-linux-amd64.spdx.json",
                "edgecore_1.2.3_amd64.deb",
                "installation-package-v1.2.3-linux-amd64.oci.tar",
                "kubeedge-v1.2.3-linux-amd64.tar.gz",
                "mapper-modbus-v1.2.3-linux-amd64.oci.tar",
                "mapper-modbus-v1.2.3-linux-amd64.spdx.json",
            ],
        );
        check(
            &["keadm"],
            &[
                "keadm-1.2.3-1.x86_64.rpm",
                "keadm-v1.2.3-linux-amd64.spdx.json",
                "keadm-v1.2.3-linux-amd64.tar.gz",
                "keadm_1.2.3_amd64.deb",
            ],
        );
        assert!(release(&[], &crates).files().is_err());
    }

    #[test]
    fn an_archive_has_the_shape_that_kubeedges_users_type() {
        let crates = Crates::read(TREE, "").unwrap();
        let check = |name: &str, expected: &[&str]| {
            let files = release(&["edgecore", "cloudcore", "keadm"], &crates).files().unwrap();
            let mut tar = Vec::new();
            let packed = files[&format!("{name}-v1.2.3-linux-amd64.tar.gz")].as_slice();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut tar).unwrap();
            let names = crate::oci::tests::files(&tar);
            let folder = format!("{name}-v1.2.3-linux-amd64/");
            let names: Vec<&str> = names.keys().map(|path| path.strip_prefix(&folder).unwrap()).collect();
            assert_eq!(names, expected);
        };
        check("keadm", &["", "LICENSE", "THIRD-PARTY-NOTICES", "keadm/", "keadm/keadm", "version"]);
        check(
            "kubeedge",
            &[
                "",
                "LICENSE",
                "THIRD-PARTY-NOTICES",
                "cloud/",
                "cloud/cloudcore/",
                "cloud/cloudcore/cloudcore",
                "edge/",
                "edge/edgecore",
                "edge/keadm",
                "version",
            ],
        );
    }

    #[test]
    fn the_same_programs_give_the_same_bytes() {
        let crates = Crates::read(TREE, "").unwrap();
        let names = ["edgecore", "cloudcore", "keadm", "mapper-modbus"];
        let mut reversed = names;
        reversed.reverse();
        let (one, other) =
            (release(&names, &crates).files().unwrap(), release(&reversed, &crates).files().unwrap());
        assert!(one == other);
        let mut later = release(&names, &crates);
        later.date += 1;
        assert!(later.files().unwrap() != one, "the date is in them");
    }

    #[test]
    fn programs_for_two_processors_are_no_release() {
        let crates = Crates::read(TREE, "").unwrap();
        let mut release = release(&["edgecore"], &crates);
        let mut bytes = program();
        bytes[18] = 183;
        release.programs.insert("cloudcore".to_owned(), Program::new(bytes).unwrap());
        assert!(release.files().unwrap_err().to_string().contains("different processors"));
    }

    #[test]
    fn sums_are_as_sha256sum_writes_them() {
        let (name, digest) = ("a.tar.gz".to_owned(), sha256(b"a"));
        assert_eq!(
            sums([(&name, &digest)].into_iter()),
            "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a.tar.gz\n"
        );
    }
}
