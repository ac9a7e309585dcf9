//! Finds the loader and the libraries of a program on the machine that builds, for images that hold nothing else.
//!
//! It reads files and changes none. Called by the program `pack`, and by the stories for images of one program.
//!
//! Why images bring libraries and are not one static program: a static glibc resolves names by loading the very
//! libraries it was built without, and crashes where those are another version's; musl, which does not, has no standard
//! library of Rust on every build machine. So an image holds the same bytes as the packages, and the glibc they were
//! linked with. A static program (built for musl) gets nothing added.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::elf::Elf;
use crate::tree::{Role, Tree};

/// `tree` with everything that loads `program`. Where a library lies there is where it lies here, so that the loader,
/// which knows its system's folders, finds it.
pub fn with_libraries(mut tree: Tree, program: &Elf) -> Result<Tree> {
    for (path, content) in found(program)? {
        tree = tree.with(&path, 0o755, Role::Plain, &content);
    }
    if program.interpreter.is_some() {
        // Who passes on a library passes on its terms.
        for package in ["libc6", "libgcc-s1"] {
            let path = format!("/usr/share/doc/{package}/copyright");
            if let Ok(terms) = fs::read(&path) {
                tree = tree.with(&path, 0o644, Role::Licence, &terms);
            }
        }
    }
    Ok(tree)
}

/// Path in the image, and bytes.
fn found(program: &Elf) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let Some(interpreter) = &program.interpreter else { return Ok(found) };
    let name = file_name(interpreter);
    let loader = [PathBuf::from(interpreter)].into_iter().chain(places(program.arch, name));
    let (_, content) = first(program.arch, loader).with_context(|| missing(interpreter, program.arch))?;
    found.insert(interpreter.clone(), content);
    let mut wanted = program.needed.clone();
    let mut seen = vec![name.to_owned()];
    while let Some(library) = wanted.pop() {
        if seen.contains(&library) {
            continue;
        }
        let (path, content) = first(program.arch, places(program.arch, &library).into_iter())
            .with_context(|| missing(&library, program.arch))?;
        wanted.extend(Elf::read(&content).with_context(|| format!("read {}", path.display()))?.needed);
        found.insert(place_in_image(&path, &library, program.arch), content);
        seen.push(library);
    }
    Ok(found)
}

fn missing(library: &str, arch: Arch) -> String {
    let package = if library.starts_with("libgcc") { "libgcc-s1" } else { "libc6" };
    format!(
        "{library} for {} is not on this machine; on Debian type: apt-get install {package}-{}-cross",
        arch.debian(),
        arch.debian()
    )
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Debian's folders, Fedora's, and the one of Debian's libraries for other processors.
fn places(arch: Arch, library: &str) -> Vec<PathBuf> {
    let triplet = arch.triplet();
    [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}"), "/lib64".into(), "/usr/lib64".into()]
        .into_iter()
        .chain([cross(arch)])
        .map(|folder| Path::new(&folder).join(library))
        .collect()
}

fn cross(arch: Arch) -> String {
    format!("/usr/{}/lib", arch.triplet())
}

/// The first that is there and for this processor.
fn first(arch: Arch, places: impl Iterator<Item = PathBuf>) -> Result<(PathBuf, Vec<u8>)> {
    for path in places {
        let Ok(content) = fs::read(&path) else { continue };
        if Elf::read(&content).is_ok_and(|elf| elf.arch == arch) {
            return Ok((path, content));
        }
    }
    bail!("not found in the folders of libraries")
}

fn place_in_image(path: &Path, library: &str, arch: Arch) -> String {
    if path.starts_with(cross(arch)) {
        format!("/lib/{}/{library}", arch.triplet())
    } else {
        path.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test runs, so all that it needs is here.
    #[test]
    fn everything_a_program_needs_is_found() {
        let own = Elf::read(&fs::read(std::env::current_exe().unwrap()).unwrap()).unwrap();
        let tree = with_libraries(Tree::default(), &own).unwrap();
        let paths: Vec<&str> = tree.files().map(|(path, _)| path).collect();
        let interpreter = own.interpreter.unwrap();
        assert!(paths.contains(&interpreter.trim_start_matches('/')), "{paths:?}");
        assert!(paths.iter().any(|path| path.ends_with("/libc.so.6")), "{paths:?}");
    }

    #[test]
    fn a_library_for_another_processor_is_not_taken() {
        let mut elf = Elf::read(&crate::elf::tests::made("GLIBC_2.34")).unwrap();
        elf.arch = Arch::Armv7;
        elf.interpreter = Some("/lib/ld-of-nobody.so.9".to_owned());
        let error = format!("{:#}", with_libraries(Tree::default(), &elf).unwrap_err());
        assert!(error.contains("apt-get install libc6-armhf-cross"), "{error}");
        elf.interpreter = None;
        assert!(with_libraries(Tree::default(), &elf).unwrap().is_empty(), "a static program needs nothing");
    }
}
