//! Container images made on this machine: nothing can be pulled in a test.
//!
//! An image is a docker-archive: one layer, its config and a manifest in a tar. Called by `runtime`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::need;
use crate::process::run;
use crate::tar::Tar;

pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
/// The application of the stories: a busybox that a story tells what to run.
pub const APP: &str = "isthmus.test/app:1";
/// The same with a tag that Kubernetes pulls each time unless told otherwise.
pub const APP_LATEST: &str = "isthmus.test/app:latest";

/// What an image starts when the pod says nothing.
struct Start<'a> {
    entrypoint: &'a [&'a str],
    command: &'a [&'a str],
}

/// Makes the archive of every image above in `folder`.
pub fn make_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let pause = pause_layer()?;
    let busybox = busybox_layer()?;
    let shell = Start { entrypoint: &[], command: &["sh"] };
    Ok(vec![
        archive(folder, "pause", &[PAUSE], &pause, &Start { entrypoint: &["/pause"], command: &[] })?,
        archive(folder, "busybox", &[BUSYBOX, APP, APP_LATEST], &busybox, &shell)?,
    ])
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
    let mut layer = Tar::default();
    for line in run("ldd", &[&program.to_string_lossy()])?.lines() {
        // `libc.so.6 => /lib/libc.so.6 (0x7f)` or `/lib64/ld.so (0x7f)`; the kernel's own has no path.
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        layer.file(
            path.trim_start_matches('/'),
            0o755,
            &fs::read(path).with_context(|| format!("read {path}"))?,
        )?;
    }
    layer.file(place.trim_start_matches('/'), 0o755, &fs::read(program).context("read the program")?)?;
    archive(folder, "program", &[tag], &layer.finish(), &Start { entrypoint, command: &[] })
}

fn pause_layer() -> Result<Vec<u8>> {
    let program = fs::read(need::c_program("pause")?).context("read the pause program")?;
    let mut layer = Tar::default();
    layer.file("pause", 0o755, &program)?;
    Ok(layer.finish())
}

fn busybox_layer() -> Result<Vec<u8>> {
    need::packages(&["busybox-static"])?;
    let program = fs::read("/bin/busybox").context("read busybox")?;
    let mut layer = Tar::default();
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
    layer.file("bin/busybox", 0o755, &program)?;
    for applet in run("/bin/busybox", &["--list"])?.lines().filter(|name| *name != "busybox") {
        layer.link(&format!("bin/{applet}"), "/bin/busybox")?;
    }
    Ok(layer.finish())
}

fn archive(folder: &Path, name: &str, tags: &[&str], layer: &[u8], start: &Start<'_>) -> Result<PathBuf> {
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        // The same content gives the same image id on every machine and day.
        "created": "1970-01-01T00:00:01Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": start.entrypoint,
            "Cmd": start.command,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))]},
        "history": [{"created": "1970-01-01T00:00:01Z", "created_by": "isthmus e2e"}],
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let layer_name = format!("{}/layer.tar", sha256(layer));
    let manifest = serde_json::json!([{"Config": config_name, "RepoTags": tags, "Layers": [layer_name]}]);
    let mut tar = Tar::default();
    tar.file(&config_name, 0o644, config.as_bytes())?;
    tar.file(&layer_name, 0o644, layer)?;
    tar.file("manifest.json", 0o644, manifest.to_string().as_bytes())?;
    let path = folder.join(format!("{name}.tar"));
    fs::write(&path, tar.finish()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
