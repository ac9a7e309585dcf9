//! What is copied to a node before keadm runs there: a tar archive, put together in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;

use crate::arch;

/// Two empty blocks end an archive; what is to be continued lacks them.
const END: usize = 1024;
const PROGRAMS: [&str; 2] = ["keadm", "edgecore"];

/// The programs of one kind of machine, the same for all its nodes.
#[derive(Clone)]
pub(super) struct Programs(Arc<Vec<u8>>);

impl Programs {
    /// Of the folder: its package for that kind of machine, or the programs themselves. Of no folder: this very keadm, and
    /// edgecore where it lies beside it.
    pub(super) fn find(folder: Option<&Path>, own: &Path, version: &str, arch: &str) -> Result<Self> {
        let Some(folder) = folder else {
            if arch != arch::own() {
                bail!(
                    "this keadm is for {}, and the node is {arch}: put keadm-VERSION-linux-{arch}.tar.gz into a folder, and \
                     name it with keadm.offlinePackageDir",
                    arch::own()
                );
            }
            return Self::beside(own);
        };
        let version = if version.is_empty() { crate::version::own() } else { version };
        // KubeEdge has edgecore in the second.
        let packages =
            ["keadm", "kubeedge"].map(|name| folder.join(format!("{name}-{version}-linux-{arch}.tar.gz")));
        Self::in_folder(folder, &packages)
    }

    fn beside(own: &Path) -> Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, own, "keadm")?;
        let edgecore = own.with_file_name("edgecore");
        if edgecore.is_file() {
            add(&mut archive, &edgecore, "edgecore")?;
        }
        Self::open(archive)
    }

    /// The programs, wherever in the packages they are; what lies in the folder itself fills up.
    fn in_folder(folder: &Path, packages: &[PathBuf]) -> Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut found: Vec<String> = Vec::new();
        for package in packages.iter().filter(|package| package.is_file()) {
            let shown = || format!("read {}", package.display());
            let file = fs::File::open(package).with_context(shown)?;
            for entry in tar::Archive::new(GzDecoder::new(file)).entries().with_context(shown)? {
                let entry = entry.with_context(shown)?;
                let path = entry.path().with_context(shown)?.into_owned();
                let name =
                    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let is_program = PROGRAMS.contains(&name.as_str()) && entry.header().entry_type().is_file();
                if is_program && !found.contains(&name) {
                    let mut header = header(entry.size(), 0o755);
                    archive.append_data(&mut header, &name, entry).with_context(shown)?;
                    found.push(name);
                }
            }
        }
        for name in PROGRAMS {
            let path = folder.join(name);
            if !found.iter().any(|found| found == name) && path.is_file() {
                add(&mut archive, &path, name)?;
                found.push(name.to_owned());
            }
        }
        if !found.iter().any(|found| found == "keadm") {
            let names: Vec<String> = packages.iter().map(|package| package.display().to_string()).collect();
            let names = names.join(" nor ");
            bail!(
                "keadm.offlinePackageDir: there is no program keadm, neither in {} nor in {names}",
                folder.display()
            );
        }
        Self::open(archive)
    }

    fn open(archive: tar::Builder<Vec<u8>>) -> Result<Self> {
        let mut bytes = archive.into_inner().context("pack the programs")?;
        bytes.truncate(bytes.len().saturating_sub(END));
        Ok(Self(Arc::new(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The rest of the archive: what one node gets for itself, as files beside keadm.
pub(super) fn own_files(copy_from: Option<&Path>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    if let Some(path) = copy_from {
        let context = || format!("copyFrom: read {}", path.display());
        if fs::metadata(path).with_context(context)?.is_dir() {
            archive.append_dir_all(".", path).with_context(context)?;
        } else {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            archive.append_path_with_name(path, name).with_context(context)?;
        }
    }
    archive.into_inner().context("pack files for the node")
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &Path, name: &str) -> Result<()> {
    let body = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut header = header(u64::try_from(body.len()).unwrap_or(u64::MAX), 0o755);
    archive
        .append_data(&mut header, name, body.as_slice())
        .with_context(|| format!("pack {}", path.display()))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn files(programs: &Programs, own: &[u8]) -> Vec<(String, String)> {
        let bytes = [programs.bytes(), own].concat();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.filter(|(name, _)| !name.ends_with('/') && name != ".").collect()
    }

    #[test]
    fn programs_come_from_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("keadm"), "own").unwrap();
        fs::write(path.join("script.sh"), "x").unwrap();
        let own = Programs::find(None, &path.join("keadm"), "", arch::own()).unwrap();
        let extra = own_files(Some(path)).unwrap();
        let found = files(&own, &extra);
        assert_eq!(found.first().unwrap(), &("keadm".to_owned(), "own".to_owned()));
        assert!(found.iter().any(|(name, _)| name.ends_with("script.sh")), "{found:?}");
        let one = own_files(Some(&path.join("script.sh"))).unwrap();
        assert!(files(&own, &one).contains(&("script.sh".to_owned(), "x".to_owned())));
        let error = Programs::find(None, &path.join("keadm"), "", "mips").err().unwrap().to_string();
        assert!(error.contains("keadm.offlinePackageDir"), "{error}");

        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        archive
            .append_data(&mut header(3, 0o755), "keadm-v9-linux-arm/keadm/keadm", b"new".as_slice())
            .unwrap();
        fs::write(path.join("keadm-v9-linux-arm.tar.gz"), archive.into_inner().unwrap().finish().unwrap())
            .unwrap();
        fs::write(path.join("edgecore"), "edge").unwrap();
        let packed = Programs::find(Some(path), Path::new("/x"), "v9", "arm").unwrap();
        let both = |keadm: &str| {
            [("keadm", keadm), ("edgecore", "edge")].map(|(name, text)| (name.to_owned(), text.to_owned()))
        };
        assert_eq!(files(&packed, &own_files(None).unwrap()), both("new"));
        let beside = Programs::find(Some(path), Path::new("/x"), "v8", "arm").unwrap();
        assert_eq!(files(&beside, &own_files(None).unwrap()), both("own"));
        assert!(Programs::find(Some(&path.join("none")), Path::new("/x"), "v8", "arm").is_err());
    }
}
