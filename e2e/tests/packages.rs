//! What `pack` writes, judged by those who take it: dpkg, rpm, systemd and containerd.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::devices::program;
use e2e::process::run;
use e2e::run_dir::RunDir;
use e2e::runtime::Runtime;
use e2e::{images, need};
use pack::release::{Program, Release};
use pack::sbom::Crates;

/// In place of edgecore, whose debug build is a hundred times its size: a small program that is linked like it.
const STAND_IN: &str = "/usr/bin/true";

struct Packed {
    run_dir: RunDir,
    names: Vec<String>,
}

impl Packed {
    /// A release of stand-ins. A version with all that package managers could take amiss.
    fn new() -> Result<Self> {
        let run_dir = RunDir::new("packages")?;
        let program = || Program::new(fs::read(STAND_IN)?);
        let names = ["edgecore", "keadm"];
        let programs: BTreeMap<_, _> =
            names.into_iter().map(|name| Ok((name.to_owned(), program()?))).collect::<Result<_>>()?;
        let version = "1.2.3-rc.1";
        let tree: String = names.map(|name| format!("0{name} v{version} (/here)|Apache-2.0|\n\n")).concat();
        let crates = Crates::read(&tree, "")?;
        let manuals = [("keadm.8".to_owned(), b".TH keadm 8\n".to_vec())].into();
        let release = Release {
            programs,
            version,
            date: 1_700_000_000,
            repository: "registry.example",
            crates: &crates,
            manuals: &manuals,
        };
        let files = release.files()?;
        for (name, content) in &files {
            run_dir.write(name, content)?;
        }
        Ok(Self { run_dir, names: files.into_keys().collect() })
    }

    fn path(&self, ending: &str) -> Result<String> {
        let name = self.names.iter().find(|name| name.starts_with("edgecore") && name.ends_with(ending));
        let name = name.with_context(|| format!("no edgecore*{ending} in {:?}", self.names))?;
        Ok(self.run_dir.join(name).to_string_lossy().into_owned())
    }
}

/// Standard output and error, whatever the program says at its end.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn dpkg_takes_and_removes_a_deb() -> Result<()> {
    need::root()?;
    let packed = Packed::new()?;
    let deb = packed.path(".deb")?;
    let field =
        |name: &str| Ok::<_, anyhow::Error>(run("dpkg-deb", &["--field", &deb, name])?.trim().to_owned());
    ensure!(field("Package")? == "edgecore" && field("Version")? == "1.2.3~rc.1");
    ensure!(field("Depends")?.starts_with("libc6 (>= 2."), "{}", field("Depends")?);
    let contents = run("dpkg-deb", &["--contents", &deb])?;
    for line in [
        "./usr/bin/edgecore",
        "./usr/lib/systemd/system/edgecore.service",
        "./usr/share/doc/edgecore/copyright",
        "./usr/share/doc/edgecore/THIRD-PARTY-NOTICES",
    ] {
        ensure!(contents.lines().any(|found| found.ends_with(line)), "{line} in {contents}");
    }
    ensure!(contents.lines().all(|line| line.contains(" root/root ")), "{contents}");

    // A root of its own, without libc's package; scripts run outside it, and must then touch nothing.
    let root = packed.run_dir.folder("debian")?;
    for folder in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(folder))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let root_option = format!("--root={}", root.display());
    let dpkg = |arguments: &[&str]| {
        let options =
            [root_option.as_str(), "--force-depends", "--force-script-chrootless", "--log=/dev/null"];
        run("dpkg", &[&options[..], arguments].concat())
    };
    dpkg(&["--install", &deb])?;
    let installed = root.join("usr/bin/edgecore");
    ensure!(run(&text(&installed), &["--version"])?.contains("coreutils"), "the program runs");
    // dpkg's own check of what it unpacked.
    ensure!(dpkg(&["--verify", "edgecore"])?.is_empty());
    dpkg(&["--remove", "edgecore"])?;
    ensure!(!installed.exists() && !root.join("usr/lib/systemd/system/edgecore.service").exists());
    Ok(())
}

#[test]
fn rpm_takes_and_removes_an_rpm() -> Result<()> {
    need::root()?;
    need::packages(&["rpm"])?;
    let packed = Packed::new()?;
    let file = packed.path(".rpm")?;
    let checked = said("rpm", &["--checksig", "--verbose", &file])?;
    ensure!(checked.contains("SHA256 digest: OK") && !checked.contains("BAD"), "{checked}");
    let query = |what: &str| run("rpm", &["--query", "--package", what, &file]);
    ensure!(query("--list")?.lines().eq([
        "/usr/bin/edgecore",
        "/usr/lib/systemd/system/edgecore.service",
        "/usr/share/doc/edgecore/THIRD-PARTY-NOTICES",
        "/usr/share/doc/edgecore/copyright"
    ]));
    let name = query("--queryformat=%{NEVRA} %{SIZE} %{LICENSE} %{SUMMARY}")?;
    ensure!(name.starts_with("edgecore-1.2.3~rc.1-1."), "{name}");
    ensure!(name.ends_with(" Apache-2.0 Kubernetes node agent for the edge"), "{name}");
    let wants = query("--requires")?;
    ensure!(wants.lines().any(|line| line.starts_with("libc.so.6(GLIBC_2.")), "{wants}");
    let scripts = query("--scripts")?;
    ensure!(scripts.contains("preuninstall scriptlet (using /bin/sh)"), "{scripts}");

    // A root of its own, in which there is neither libc nor a shell.
    let root = text(&packed.run_dir.folder("fedora")?);
    let rpm = |arguments: &[&str]| {
        let options = ["--root", root.as_str(), "--nodeps"];
        run("rpm", &[&options[..], arguments].concat())
    };
    // Debian's rpm is not for installing unless told so.
    rpm(&["--install", "--force-debian", "--noscripts", &file])?;
    let installed = format!("{root}/usr/bin/edgecore");
    ensure!(run(&installed, &["--version"])?.contains("coreutils"), "the program runs");
    // Nothing said: size, digest, mode, owner and date of every file are what the header says.
    ensure!(rpm(&["--verify", "edgecore"])?.is_empty());
    rpm(&["--erase", "--force-debian", "--noscripts", "edgecore"])?;
    ensure!(!Path::new(&installed).exists());
    Ok(())
}

#[test]
fn systemd_and_a_shell_read_the_services() -> Result<()> {
    need::packages(&["systemd"])?;
    let run_dir = RunDir::new("units")?;
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?.join("keadm/units");
    let unit = fs::read_to_string(units.join("edgecore.service"))?;
    let complaints = |unit: &str| -> Result<Vec<String>> {
        let path = run_dir.write("edgecore.service", unit)?;
        let all = said("systemd-analyze", &["verify", &text(&path)])?;
        // What it says of this machine's other units is not ours.
        Ok(all.lines().filter(|line| line.contains("edgecore")).map(str::to_owned).collect())
    };
    // It looks for the program, too.
    let there = unit.replace(pack::products::KEADM_PLACE, STAND_IN);
    let said = complaints(&there)?;
    ensure!(said.is_empty(), "{said:?}");
    let said = complaints(&there.replace("KillMode=", "KilMode="))?;
    ensure!(said.iter().any(|line| line.contains("KilMode")), "a wrong line is seen: {said:?}");

    run("sh", &["-n", &text(&units.join("edgecore.openrc"))])?;
    Ok(())
}

/// The image holds all that its program needs, and containerd takes it.
#[test]
fn the_image_of_cloudcore_runs() -> Result<()> {
    need::for_runtime()?;
    let runtime = Runtime::start("packages")?;
    let folder = runtime.run_dir().folder("shipped")?;
    let (image, name) = images::shipped(&folder, "cloudcore", program)?;
    runtime.import_image(&image)?;
    let cgroup = format!("{}/cloudcore", runtime.cgroup_root());
    let runc = text(&runtime.run_dir().join("runc"));
    let options = ["run", "--rm", "--runc-root", &runc, "--cgroup", &cgroup];
    let command = [name.as_str(), "cloudcore", "/usr/local/bin/cloudcore", "--version"];
    let version = runtime.ctr_ok(&[&options[..], &command].concat())?;
    ensure!(version.trim() == format!("cloudcore {}", env!("CARGO_PKG_VERSION")), "{version}");
    runtime.cleanup()
}
