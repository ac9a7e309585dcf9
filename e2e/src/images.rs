//! Container images made on this machine: nothing can be pulled in a test.
//!
//! The archives are those of `pack`, which makes the images that ship. Called by `runtime` and by stories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pack::arch::Arch;
use pack::elf::Elf;
use pack::libraries::with_libraries;
use pack::oci::{self, Image, Packing};
use pack::products;
use pack::release::{Program, Release};
use pack::sbom::Crates;
use pack::tar::Tar;
use pack::tree::{Role, Tree};

use crate::need;
use crate::process::run;
use crate::program::stripped;

pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
/// The application of the stories: a busybox that a story tells what to run.
pub const APP: &str = "isthmus.test/app:1";
/// The same with a tag that Kubernetes pulls each time unless told otherwise.
pub const APP_LATEST: &str = "isthmus.test/app:latest";

/// The same content gives the same image id on every machine and day.
const DATE: u64 = 1;

/// What an image starts when the pod says nothing.
struct Start<'a> {
    entrypoint: &'a [&'a str],
    command: &'a [&'a str],
}

/// Makes the archive of every image above in `folder`.
pub fn make_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let pause = pause_layer()?;
    let busybox = busybox_layer(&[])?;
    let shell = Start { entrypoint: &[], command: &["sh"] };
    Ok(vec![
        archive(folder, "pause", &[PAUSE], &pause, &Start { entrypoint: &["/pause"], command: &[] })?,
        archive(folder, "busybox", &[BUSYBOX, APP, APP_LATEST], &busybox, &shell)?,
    ])
}

/// An image that goes by another's names: it serves at `port` how it was started, and that it is well under the names that the
/// documents' probes have. It is also the program `/bin/<also>`, which
/// finds a port by itself.
pub fn stand_in(folder: &Path, tags: &[&str], port: &str, also: &str) -> Result<PathBuf> {
    let script = "#!/bin/sh\nport=10261\ncase \"$1\" in [0-9]*) port=$1; shift;; esac\nmkdir -p /tmp/www\n\
                  printf '%s\\n' \"$@\" >/tmp/www/arguments\ntouch /tmp/www/health /tmp/www/ready\nexec httpd -f -p $port -h /tmp/www\n";
    let layer = busybox_layer(&[("bin/stand-in", script), (&format!("bin/{also}"), script)])?;
    let start = Start { entrypoint: &["/bin/stand-in", port], command: &[] };
    archive(folder, also, tags, &layer, &start)
}

/// An image whose program says these words, and ends well after so many seconds.
pub fn short_lived(folder: &Path, tag: &str, words: &str, secs: u32) -> Result<PathBuf> {
    let script = format!("echo '{words}'; exec sleep {secs}");
    let start = Start { entrypoint: &["sh", "-c", &script], command: &[] };
    archive(folder, "short-lived", &[tag], &busybox_layer(&[])?, &start)
}

/// The layer of such an image with a file of so many MiB beside the programs; nothing in it is packed.
pub fn heavy_layer(mib: usize) -> Result<Vec<u8>> {
    busybox_layer(&[("var/heavy", &"heavy as lead. ".repeat((mib << 20) / 15))])
}

/// This machine's, as images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// What a Dockerfile of one program makes, but on this machine's libraries. `program`: what the word of its COPY names.
pub fn of_dockerfile(
    folder: &Path,
    tag: &str,
    dockerfile: &str,
    program: impl FnOnce(&str) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let line = |word: &str| {
        let found = dockerfile.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        found.with_context(|| format!("no {word} in the Dockerfile"))
    };
    ensure!(line("FROM")?.starts_with("debian:"), "only Debian's libraries are like those here");
    let (from, place) = line("COPY")?.split_once(' ').context("COPY wants two words")?;
    let entrypoint: Vec<String> = serde_json::from_str(line("ENTRYPOINT")?)?;
    let entrypoint: Vec<&str> = entrypoint.iter().map(String::as_str).collect();
    of_program(folder, tag, &program(from)?, place, &entrypoint)
}

fn of_program(folder: &Path, tag: &str, program: &Path, place: &str, entrypoint: &[&str]) -> Result<PathBuf> {
    let program = fs::read(program).context("read the program")?;
    let tree = Tree::default().with(place, 0o755, Role::Plain, &program);
    let layer = with_libraries(tree, &Elf::read(&program)?)?.tar(DATE, "")?;
    archive(folder, "program", &[tag], &layer, &Start { entrypoint, command: &[] })
}

/// The archive of an image that ships, with the programs that are built here, and its name.
pub fn shipped(
    folder: &Path,
    name: &str,
    program: impl Fn(&str) -> Result<PathBuf>,
) -> Result<(PathBuf, String)> {
    shipped_by("registry.example", folder, name, program)
}

/// What that of [`cloudcore`] is called.
pub fn cloudcore_name() -> String {
    format!("docker.io/isthmus/cloudcore:v{}", env!("CARGO_PKG_VERSION"))
}

/// The archive of cloudcore's image under the name that the chart has for it, as a runtime completes it.
pub fn cloudcore(folder: &Path) -> Result<PathBuf> {
    let program = stripped("cloudcore")?;
    Ok(shipped_by("docker.io/isthmus", folder, "cloudcore", |_| Ok(program.clone()))?.0)
}

fn shipped_by(
    repository: &str,
    folder: &Path,
    name: &str,
    program: impl Fn(&str) -> Result<PathBuf>,
) -> Result<(PathBuf, String)> {
    let image = products::IMAGES.iter().find(|image| image.name == name).context("no such image ships")?;
    let read = |(name, _): &(&str, &str)| -> Result<(String, Program)> {
        let path = program(name)?;
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(((*name).to_owned(), Program::new(bytes)?))
    };
    let version = env!("CARGO_PKG_VERSION");
    let programs = image.programs.iter().map(read).collect::<Result<_>>()?;
    let release = Release {
        programs,
        version,
        date: DATE,
        repository,
        crates: &Crates::default(),
        manuals: &BTreeMap::new(),
    };
    let archive = release.image(image, Packing::Plain)?.context("its program is missing")?;
    let path = folder.join(format!("{name}.tar"));
    fs::write(&path, archive).with_context(|| format!("write {}", path.display()))?;
    Ok((path, format!("{repository}/{name}:v{version}")))
}

fn pause_layer() -> Result<Vec<u8>> {
    let program = fs::read(need::c_program("pause")?).context("read the pause program")?;
    let mut layer = Tar::dated(DATE);
    layer.file("pause", 0o755, &program)?;
    Ok(layer.finish())
}

/// `more`: programs beside busybox.
fn busybox_layer(more: &[(&str, &str)]) -> Result<Vec<u8>> {
    need::packages(&["busybox-static"])?;
    let program = fs::read("/bin/busybox").context("read busybox")?;
    let mut layer = Tar::dated(DATE);
    for folder in
        ["bin", "dev", "etc", "home", "lib", "proc", "root", "sbin", "sys", "usr", "usr/bin", "var", "www"]
    {
        layer.folder(folder, 0o755)?;
    }
    layer.folder("tmp", 0o1777)?;
    layer.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    layer.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    for (path, script) in more {
        layer.file(path, 0o755, script.as_bytes())?;
    }
    layer.file("bin/busybox", 0o755, &program)?;
    for applet in run("/bin/busybox", &["--list"])?.lines().filter(|name| *name != "busybox") {
        layer.link(&format!("bin/{applet}"), "/bin/busybox")?;
    }
    Ok(layer.finish())
}

fn archive(folder: &Path, name: &str, tags: &[&str], layer: &[u8], start: &Start<'_>) -> Result<PathBuf> {
    let image = Image {
        arch: if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 },
        date: DATE,
        layer,
        packing: Packing::Plain,
        entrypoint: start.entrypoint,
        command: start.command,
        user: "",
        folder: "/",
        labels: &[],
    };
    let path = folder.join(format!("{name}.tar"));
    fs::write(&path, oci::archive(&image, tags)?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
