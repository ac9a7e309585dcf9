//! The images that the suite names, made on this machine: nothing is pulled, and nothing of upstream's images is copied.
//!
//! Their contents are Debian's programs and the suite's own test program. What a spec asks of an image beyond that stands here
//! beside the reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use e2e::pki::Ca;
use e2e::{need, process};
use pack::arch::Arch;
use pack::elf::Elf;
use pack::libraries::with_libraries;
use pack::oci::{self, Image, Packing};
use pack::tar::Tar;
use pack::tree::{Role, Tree};

/// What every file says of its last change.
const DATE: u64 = 1;
const PACKAGES: [&str; 6] =
    ["bash-static", "bind9-dnsutils", "busybox-static", "curl", "hostname", "netcat-openbsd"];

/// The names are those of `test/utils/image/manifest.go` in the module; pause is in every runtime of ours.
const AGNHOST: [&str; 2] =
    ["registry.k8s.io/e2e-test-images/agnhost:2.63.0", "registry.k8s.io/e2e-test-images/agnhost:2.55"];
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const GLIBC: &str = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0";
const NGINX: [&str; 2] =
    ["registry.k8s.io/e2e-test-images/nginx:1.15-4", "registry.k8s.io/e2e-test-images/nginx:1.27-0"];
const NONEWPRIVS: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.4";
const NONROOT: &str = "registry.k8s.io/e2e-test-images/nonroot:1.5";

/// A user and a group that agnhost's image knows and its specs name.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nuser-defined-in-image:x:1000:\n\
                     group-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n";
/// Whether a container may make a link is what the specs ask; of what kind, the kernel must know. A bridge is in every kernel that
/// has pods.
const LINK_OF_ANOTHER_KIND: &str = "#!/bin/sh\n\
     for word; do shift; [ \"$word\" = dummy ] && word=bridge; set -- \"$@\" \"$word\"; done\n\
     exec /bin/busybox ip \"$@\"\n";

/// What an image starts when the pod says nothing.
#[derive(Default)]
struct Start<'a> {
    entrypoint: &'a [&'a str],
    command: &'a [&'a str],
    user: &'a str,
}

/// A root file system with a shell.
struct Root {
    tree: Tree,
    /// Name to target.
    links: BTreeMap<String, String>,
}

/// Makes them in `folder`, one archive after another, and hands each to `import`, so that no two lie on the disk.
pub(crate) fn make_all(folder: &Path, test_image: &Path, import: impl Fn(&Path) -> Result<()>) -> Result<()> {
    need::packages(&PACKAGES)?;
    let shell = Start { command: &["sh"], ..Start::default() };
    let agnhost = Start { entrypoint: &["/agnhost"], command: &["pause"], ..Start::default() };
    let images: [(&[&str], Root, Start<'_>); 6] = [
        (&AGNHOST, agnhost_root(folder, test_image)?, agnhost),
        (&[BUSYBOX], busybox_root()?, Start { ..shell }),
        // Only glibc's `hostname -f` asks as most programs do.
        (&[GLIBC], Root::new()?.program("/usr/bin/dig")?.program("/bin/hostname")?, Start { ..shell }),
        (
            &NGINX,
            Root::new()?,
            Start { command: &["httpd", "-f", "-p", "80", "-h", "/tmp"], ..Start::default() },
        ),
        (
            &[NONEWPRIVS],
            Root::new()?.file("usr/local/bin/nnp", 0o6755, &read(&need::c_program("nnp")?)?),
            Start { command: &["nnp"], ..Start::default() },
        ),
        (&[NONROOT], Root::new()?, Start { user: "1234", ..shell }),
    ];
    for (names, root, start) in images {
        let archive = archive(folder, names, root, &start)?;
        import(&archive)?;
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    }
    Ok(())
}

fn agnhost_root(folder: &Path, program: &Path) -> Result<Root> {
    let mut root =
        Root::new()?.program("/usr/bin/curl")?.program("/usr/bin/dig")?.program("/bin/nc.openbsd")?;
    root = root.file("agnhost", 0o755, &read(program)?).file("etc/passwd", 0o644, PASSWD.as_bytes());
    // Debian's busybox takes its own `nc`, which knows no UDP, before it looks for another.
    root = root.file("bin/sh", 0o755, &read(Path::new("/bin/bash-static"))?);
    // By these names specs have it serve HTTPS; whom it is signed by, no kubelet asks.
    let serving = Ca::new(folder, "image-ca")?.issue("localhost", "localhost", &[], &["localhost"])?;
    root = root.file("localhost.crt", 0o644, &read(&serving.cert)?).file(
        "localhost.key",
        0o644,
        &read(&serving.key)?,
    );
    root = registry(folder, root)?;
    root.links.insert("bin/nc".into(), "/bin/nc.openbsd".into());
    root.links.insert("agnhost-2".into(), "agnhost".into());
    Ok(root)
}

/// What agnhost hands out where it plays a registry: an image that does nothing, under the name that specs pull.
fn registry(folder: &Path, mut root: Root) -> Result<Root> {
    let tree = Tree::default().with("pause", 0o755, Role::Plain, &read(&need::c_program("pause")?)?);
    let pause = Root { tree, links: BTreeMap::new() };
    let start = Start { entrypoint: &["/pause"], ..Start::default() };
    let archive = archive(folder, &["localhost/pause:testing"], pause, &start)?;
    let unpacked = folder.join("registry");
    fs::create_dir_all(&unpacked)?;
    process::run("tar", &["-xf", &archive.to_string_lossy(), "-C", &unpacked.to_string_lossy()])?;
    let index: serde_json::Value = serde_json::from_slice(&read(&unpacked.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"].as_str().context("an archive without a manifest")?;
    root = root.file("r/pause/manifests/testing", 0o644, digest.as_bytes());
    for blob in fs::read_dir(unpacked.join("blobs/sha256"))? {
        let blob = blob?.path();
        let hash = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = if digest.ends_with(&hash) { "manifests" } else { "blobs" };
        let start = hash.get(..2).context("a blob without a digest")?;
        root = root.file(&format!("r/pause/{kind}/sha256/{start}/{hash}/data"), 0o644, &read(&blob)?);
    }
    // Where it looks; below that name these would be too long for the archive.
    root.links.insert("var/registry".into(), "/r".into());
    fs::remove_dir_all(&unpacked)?;
    Ok(root)
}

fn busybox_root() -> Result<Root> {
    let root = Root::new()?;
    if kernel_has_dummy_links()? {
        return Ok(root);
    }
    Ok(root.file("bin/ip", 0o755, LINK_OF_ANOTHER_KIND.as_bytes()))
}

/// Asked in a network of its own, which is gone with the question.
fn kernel_has_dummy_links() -> Result<bool> {
    need::packages(&["iproute2"])?;
    let mut ask = Command::new("unshare");
    ask.args(["--net", "ip", "link", "add", "dummy1", "type", "dummy"]);
    Ok(ask.stdout(Stdio::null()).stderr(Stdio::null()).status().context("start unshare")?.success())
}

impl Root {
    /// Busybox, with a shell as upstream's (`images/shell.c` says how).
    fn new() -> Result<Self> {
        let tree = Tree::default()
            .with("bin/busybox", 0o755, Role::Plain, &read(Path::new("/bin/busybox"))?)
            .with("bin/bash", 0o755, Role::Plain, &read(Path::new("/bin/bash-static"))?)
            .with("bin/sh", 0o755, Role::Plain, &read(&need::c_program("shell")?)?)
            .with("etc/passwd", 0o644, Role::Plain, PASSWD.as_bytes())
            .with("etc/group", 0o644, Role::Plain, GROUP.as_bytes());
        let applets = process::run("/bin/busybox", &["--list"])?;
        let applets = applets.lines().filter(|name| *name != "busybox");
        let mut links: BTreeMap<String, String> =
            applets.map(|name| (format!("bin/{name}"), "/bin/busybox".to_owned())).collect();
        links.remove("bin/sh");
        Ok(Self { tree, links })
    }

    #[must_use]
    fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        // A link of this name would be unpacked over it.
        self.links.remove(path);
        self.tree = self.tree.with(path, mode, Role::Plain, content);
        self
    }

    /// One of this machine's programs, with the libraries it wants.
    fn program(self, path: &str) -> Result<Self> {
        let content = read(Path::new(path))?;
        let mut root = self.file(path.trim_start_matches('/'), 0o755, &content);
        root.tree = with_libraries(root.tree, &Elf::read(&content)?)?;
        Ok(root)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::dated(DATE);
        for folder in ["dev", "home", "proc", "root", "sys", "uploads", "var"] {
            tar.folder(folder, 0o755)?;
        }
        tar.folder("tmp", 0o1777)?;
        for folder in self.tree.folders() {
            tar.folder(folder, 0o755)?;
        }
        for (path, file) in self.tree.files() {
            tar.file(path, file.mode, &file.content)?;
        }
        for (name, target) in &self.links {
            tar.link(name, target)?;
        }
        Ok(tar.finish())
    }
}

fn archive(folder: &Path, names: &[&str], root: Root, start: &Start<'_>) -> Result<PathBuf> {
    let image = Image {
        arch: if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 },
        date: DATE,
        layer: &root.layer()?,
        packing: Packing::Plain,
        entrypoint: start.entrypoint,
        command: start.command,
        user: start.user,
        folder: "/",
        labels: &[],
    };
    let path = folder.join("image.tar");
    fs::write(&path, oci::archive(&image, names)?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_takes_the_place_of_the_link_of_its_name() {
        let mut root = Root { tree: Tree::default(), links: BTreeMap::new() };
        root.links.insert("bin/ip".into(), "/bin/busybox".into());
        let root = root.file("bin/ip", 0o755, b"#!/bin/sh\n");
        assert!(root.links.is_empty());
    }

    #[test]
    fn only_the_kind_of_the_link_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let script = LINK_OF_ANOTHER_KIND.replace("exec /bin/busybox ip", "printf '<%s>'");
        let path = folder.path().join("ip");
        fs::write(&path, script).unwrap();
        let said =
            process::run("sh", &[&path.to_string_lossy(), "link", "add", "dummy1", "type", "dummy"]).unwrap();
        assert_eq!(said, "<link><add><dummy1><type><bridge>");
    }
}
