//! What this machine must offer, and the making of what can be made: packages, the control plane, the pause program.
//!
//! A missing need is an error that holds the line to type, never a skip. Builds are kept outside the clone, in
//! `$ISTHMUS_CACHE` (or `~/.cache/isthmus`), under the hash of what they were built from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Debian package, and a file that shows that it (or something as good) is there.
const PACKAGES: &[(&str, &[&str])] = &[
    ("containerd", &["/usr/bin/containerd", "/usr/local/bin/containerd"]),
    ("runc", &["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"]),
    ("containernetworking-plugins", &["/usr/lib/cni/bridge"]),
    ("busybox-static", &["/bin/busybox"]),
    ("iptables", &["/usr/sbin/iptables", "/sbin/iptables"]),
    ("iproute2", &["/sbin/ip", "/usr/sbin/ip", "/bin/ip"]),
];
/// Only some stories want these; they ask with `packages`.
const EXTRA_PACKAGES: &[(&str, &[&str])] = &[
    ("bsdutils", &["/usr/bin/script"]),
    ("bash-static", &["/bin/bash-static", "/usr/bin/bash-static"]),
    ("bind9-dnsutils", &["/usr/bin/dig"]),
    ("curl", &["/usr/bin/curl"]),
    ("faketime", &["/usr/bin/faketime"]),
    ("hostname", &["/bin/hostname", "/usr/bin/hostname"]),
    ("libfuse3-dev", &["/usr/include/fuse3/fuse.h"]),
    ("mariadb-server", &["/usr/sbin/mariadbd"]),
    ("mosquitto", &["/usr/sbin/mosquitto"]),
    ("mosquitto-clients", &["/usr/bin/mosquitto_sub"]),
    ("netcat-openbsd", &["/bin/nc.openbsd", "/usr/bin/nc.openbsd"]),
    ("openssh-client", &["/usr/bin/ssh"]),
    ("openssh-server", &["/usr/sbin/sshd"]),
    ("python3", &["/usr/bin/python3"]),
    ("redis-server", &["/usr/bin/redis-server"]),
    ("rpm", &["/usr/bin/rpm"]),
    ("systemd", &["/usr/bin/systemd-analyze"]),
    ("tinyproxy-bin", &["/usr/bin/tinyproxy"]),
    (
        "python3-venv",
        &["/usr/lib/python3.11/ensurepip/__init__.py", "/usr/lib/python3.13/ensurepip/__init__.py"],
    ),
];
/// Kubernetes' components each hold some hundreds of files and sockets open.
const OPEN_FILES: u64 = 4096;

/// Needs of a control plane: programs only, no root.
pub fn for_cluster() -> Result<()> {
    go()?;
    tool("kubectl", "install kubectl 1.31 or newer (https://kubernetes.io/docs/tasks/tools/)")?;
    open_files()
}

pub fn go() -> Result<()> {
    tool("go", "install Go 1.26 or newer (https://go.dev/dl/) and put its bin folder on PATH")
}

/// Needs of a container runtime: root, cgroups, Debian's packages (installed here), a C compiler for pause.
pub fn for_runtime() -> Result<()> {
    root()?;
    if !Path::new("/sys/fs/cgroup/memory").is_dir()
        && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    {
        bail!("no cgroups below /sys/fs/cgroup; type: mount -t cgroup2 none /sys/fs/cgroup");
    }
    packages(&PACKAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    tool("gcc", "apt-get install -y gcc libc6-dev")?;
    open_files()
}

pub fn root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this needs root (containers, mounts, bridges); type: sudo -E make e2e");
    }
    Ok(())
}

/// A program on PATH. `line` is what a person types to get it.
pub fn tool(name: &str, line: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Ok(());
    }
    bail!("`{name}` is not on PATH; {line}")
}

fn open_files() -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|n| n < OPEN_FILES) {
        bail!(
            "at most {:?} files may be open, {OPEN_FILES} are needed; type: ulimit -n {OPEN_FILES}",
            limit.current
        );
    }
    Ok(())
}

/// Installs those of `names` that are not there yet. Two runs at once do not collide: apt has one lock of ours before it.
pub fn packages(names: &[&str]) -> Result<()> {
    if missing(names)?.is_empty() {
        return Ok(());
    }
    let _lock = lock("apt")?;
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("packages are missing; type: sudo {line}");
    }
    eprintln!("installing packages: {}", missing.join(" "));
    let apt = |arguments: &[&str]| -> Result<bool> {
        let status = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .context("run apt-get (this testbed is made for Debian 12)")?;
        Ok(status.success())
    };
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    // A machine fresh from its image has no package lists, or old ones.
    let installed = apt(&install)? || (apt(&["update", "-q"])? && apt(&install)?);
    if !installed {
        bail!("packages could not be installed; type: apt-get update && {line}");
    }
    Ok(())
}

fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for name in names {
        let known = PACKAGES.iter().chain(EXTRA_PACKAGES).find(|(package, _)| package == name);
        let Some((_, files)) = known else { bail!("package {name} has no line in need.rs") };
        if !files.iter().any(|file| Path::new(file).exists()) {
            missing.push(*name);
        }
    }
    Ok(missing)
}

/// Where builds are kept between runs and clones.
pub fn cache() -> Result<PathBuf> {
    let folder = match std::env::var_os("ISTHMUS_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => match std::env::var_os("HOME") {
            Some(home) => PathBuf::from(home).join(".cache/isthmus"),
            None => {
                bail!("neither ISTHMUS_CACHE nor HOME is set; type: export ISTHMUS_CACHE=/var/cache/isthmus")
            }
        },
    };
    fs::create_dir_all(&folder).with_context(|| format!("create cache {}", folder.display()))?;
    Ok(folder)
}

/// Held until dropped, and let go by the kernel if the holder dies.
fn lock(name: &str) -> Result<File> {
    let path = cache()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// The control plane's one binary, built at the first call on a machine (3 to 10 minutes), later found.
pub fn devcluster() -> Result<PathBuf> {
    for_cluster()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("devcluster");
    let inputs: Vec<PathBuf> = ["go.mod", "go.sum", "main.go"].iter().map(|f| source.join(f)).collect();
    built("devcluster", &inputs, "control plane from its Go module (3 to 10 minutes, once)", |target| {
        let version = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                       -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-ldflags", &format!("-s -w {version}"), "-o"]);
        go.arg(target).arg(".").current_dir(&source).env("CGO_ENABLED", "0");
        go
    })
}

/// Kubernetes' sample of a device plugin, built from the module of `e2e/conformance` at the first call on a machine (half a
/// minute), later found.
pub fn sample_device_plugin() -> Result<PathBuf> {
    go()?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let inputs: Vec<PathBuf> = ["go.mod", "go.sum"].iter().map(|file| module.join(file)).collect();
    built("sample-device-plugin", &inputs, "Kubernetes' sample of a device plugin", |target| {
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(target);
        go.arg("k8s.io/kubernetes/test/images/sample-device-plugin");
        go.current_dir(&module).env("CGO_ENABLED", "0");
        go
    })
}

/// Helm, built from its Go module at the first call on a machine (1 to 3 minutes), later found.
pub fn helm() -> Result<PathBuf> {
    const VERSION: &str = "v3.19.0";
    go()?;
    let folder = cache()?.join(format!("helm-{VERSION}"));
    let program = folder.join("helm");
    if program.exists() {
        return Ok(program);
    }
    let _lock = lock("helm")?;
    if !program.exists() {
        eprintln!("building helm from its Go module (1 to 3 minutes, once)");
        let module = format!("helm.sh/helm/v3/cmd/helm@{VERSION}");
        // As Helm's own releases are built: the Kubernetes that it takes for granted where it asks none.
        let kubernetes = "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
                          -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34";
        let mut go = Command::new("go");
        go.args(["install", "-trimpath", "-ldflags", &format!("-s -w {kubernetes}"), &module]);
        go.env("GOBIN", &folder).env("CGO_ENABLED", "0");
        if !go.status().context("run go")?.success() {
            bail!("helm could not be built: {go:?}");
        }
    }
    Ok(program)
}

/// metrics-server, built from its Go module at the first call on a machine (1 to 3 minutes), later found.
pub fn metrics_server() -> Result<PathBuf> {
    const VERSION: &str = "v0.9.0";
    tool("go", "install Go 1.26 or newer (https://go.dev/dl/) and put its bin folder on PATH")?;
    let folder = cache()?.join(format!("metrics-server-{VERSION}"));
    let program = folder.join("metrics-server");
    if program.exists() {
        return Ok(program);
    }
    let _lock = lock("metrics-server")?;
    if !program.exists() {
        eprintln!("building metrics-server from its Go module (1 to 3 minutes, once)");
        let module = format!("sigs.k8s.io/metrics-server/cmd/metrics-server@{VERSION}");
        let mut go = Command::new("go");
        go.args(["install", "-trimpath", "-ldflags", "-s -w", &module]);
        go.env("GOBIN", &folder).env("CGO_ENABLED", "0");
        if !go.status().context("run go")?.success() {
            bail!("metrics-server could not be built: {go:?}");
        }
    }
    Ok(program)
}

/// The interpreter of a virtual environment that holds exactly these packages of PyPI, made at the first call on a machine.
pub fn python(requirements: &[&str]) -> Result<PathBuf> {
    if tool("python3", "").is_err() {
        packages(&["python3", "python3-venv"])?;
    }
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    hash.update(requirements.join("\n").as_bytes());
    let key: String = hash.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let target = cache()?.join(format!("python-{key}"));
    // Written last: a killed run leaves a folder without it.
    let complete = target.join("complete");
    if !complete.exists() {
        let _lock = lock("python")?;
        if !complete.exists() {
            eprintln!("installing from PyPI: {}", requirements.join(" "));
            fs::remove_dir_all(&target).ok();
            let make = |python: &str| -> Result<bool> {
                let mut make = Command::new(python);
                make.args(["-m", "venv"]).arg(&target).stdout(Stdio::null()).stderr(Stdio::null());
                Ok(make.status().with_context(|| format!("run {python}"))?.success())
            };
            if !make("python3")? {
                // Debian's own Python keeps what this needs in another package.
                packages(&["python3-venv"])?;
                fs::remove_dir_all(&target).ok();
                if !make("/usr/bin/python3")? {
                    bail!("no virtual environment could be made; type: python3 -m venv {}", target.display());
                }
            }
            let mut pip = Command::new(target.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(requirements);
            if !pip.status().context("run pip")?.success() {
                bail!("{} could not be installed from PyPI: {pip:?}", requirements.join(" "));
            }
            File::create(&complete).with_context(|| format!("create {}", complete.display()))?;
        }
    }
    Ok(target.join("bin/python"))
}

/// A static program from one C file of this crate.
pub fn c_program(name: &str) -> Result<PathBuf> {
    c_program_with(name, &[])
}

/// The same with libraries (`-lfuse3`), whose package is installed before by `packages`.
pub fn c_program_with(name: &str, libraries: &[&str]) -> Result<PathBuf> {
    tool("gcc", "apt-get install -y gcc libc6-dev")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images").join(format!("{name}.c"));
    built(name, std::slice::from_ref(&source), name, |target| {
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-Os", "-Wall", "-Werror", "-o"]).arg(target).arg(&source).args(libraries);
        gcc
    })
}

/// Finds or makes `name` for exactly these inputs. Built under another name and renamed, so that a killed build leaves nothing half done.
pub fn built(
    name: &str,
    inputs: &[PathBuf],
    what: &str,
    command: impl FnOnce(&Path) -> Command,
) -> Result<PathBuf> {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for input in inputs {
        let content = fs::read(input).with_context(|| format!("read {}", input.display()))?;
        hash.update(&(content.len() as u64).to_le_bytes());
        hash.update(&content);
    }
    let key: String = hash.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let target = cache()?.join(format!("{name}-{key}"));
    if target.exists() {
        return Ok(target);
    }
    let _lock = lock(name)?;
    if target.exists() {
        return Ok(target);
    }
    eprintln!("building {what}");
    let start = Instant::now();
    let unfinished = cache()?.join(format!("{name}-{key}.{}", std::process::id()));
    let mut command = command(&unfinished);
    let mut child = command.spawn().with_context(|| format!("build {name}: start {command:?}"))?;
    let mut told = start;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            eprintln!("  still building {name}: {:.0} s", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        fs::remove_file(&unfinished).ok();
        bail!("building {name} failed ({status}): {command:?}");
    }
    fs::rename(&unfinished, &target).with_context(|| format!("rename to {}", target.display()))?;
    eprintln!("  {name} built in {:.0} s", start.elapsed().as_secs_f64());
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_the_line_to_type() {
        let error = tool("no-such-tool", "type: get it").unwrap_err().to_string();
        assert_eq!(error, "`no-such-tool` is not on PATH; type: get it");
    }
}
