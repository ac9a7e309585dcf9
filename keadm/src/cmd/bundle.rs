//! `keadm bundle`: makes and checks the file by which machines without a network join. It changes nothing on this machine but
//! that file. What is in it: `bundle.rs`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Failure;
use crate::arch;
use crate::binary;
use crate::bundle::{self, EDGECORE, KEADM, Manifest, Source};
use crate::host::Host;
use crate::node;

/// What a pod network of one machine needs: keadm's own CNI configuration names these.
const PLUGINS: [&str; 4] = ["bridge", "portmap", "host-local", "loopback"];
/// Where plugins are installed: by their own releases, and by distributions.
const PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a bundle of edgecore, keadm, CNI plugins and images.
    Create(Create),
    /// Say what is in a bundle, and whether it came over whole.
    Check {
        /// The bundle.
        file: PathBuf,
    },
}

#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Example: keadm bundle create --out edge.tar.gz --image app.tar --image pause.tar\n\
                        On the machine: tar -xzf edge.tar.gz keadm, then ./keadm join --offline-bundle edge.tar.gz ...\n\
                        An image becomes a file with `ctr -n k8s.io images export FILE.tar IMAGE` or `docker save -o FILE.tar IMAGE`.")]
pub(crate) struct Create {
    /// The bundle, as a .tar.gz; one that is there is replaced.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// The edgecore that goes into it [default: beside keadm, the installed one, or in PATH]
    #[arg(long, value_name = "PROGRAM")]
    edgecore: Option<PathBuf>,
    /// The keadm that goes into it, where the machines have another processor than this one [default: this one]
    #[arg(long, value_name = "PROGRAM")]
    keadm: Option<PathBuf>,
    /// An image archive; the flag again for another. edgecore imports them at its start.
    #[arg(long = "image", value_name = "TAR")]
    images: Vec<PathBuf>,
    /// Folder with bridge, portmap, host-local and loopback [default: /opt/cni/bin or /usr/lib/cni, if they are there]
    #[arg(long, value_name = "FOLDER")]
    cni_plugins: Option<PathBuf>,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let mut say = |line: &str| println!("{line}");
    match &args.command {
        Command::Create(args) => create(host, args, &mut say),
        Command::Check { file } => check(file, &mut say),
    }
}

fn create(host: &dyn Host, args: &Create, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let edgecore = match &args.edgecore {
        Some(program) => program.clone(),
        None => binary::find(host)
            .map_err(|why| Failure::Refused(format!("{why}, or name it with --edgecore")))?,
    };
    let keadm = match &args.keadm {
        Some(program) => program.clone(),
        None => host.own_program().map_err(anyhow::Error::from)?,
    };
    let arch = arch::of_program(&edgecore).map_err(Failure::Refused)?;
    if arch == arch::own() {
        is_of_this_release(host, &edgecore)?;
    }
    let images = args.images.iter().cloned().map(Source::image).collect::<Result<Vec<_>, _>>();
    let images = images.map_err(|why| Failure::Usage(format!("--image: {why}")))?;
    let mut sources = vec![Source::program(EDGECORE, edgecore.clone()), Source::program(KEADM, keadm)];
    sources.extend(plugins(args.cni_plugins.as_deref(), say)?);
    for program in &sources {
        let found = arch::of_program(&program.from).map_err(Failure::Refused)?;
        if found != arch {
            return Err(Failure::Refused(format!(
                "{} is for {found}, and {} is for {arch}: a bundle is for one processor; --edgecore, --keadm and --cni-plugins \
                 name others",
                program.from.display(),
                edgecore.display()
            )));
        }
    }
    sources.extend(images);
    let version = crate::version::own();
    let manifest = bundle::create(&args.out, version, arch, &sources)
        .map_err(|why| Failure::Undone(anyhow::anyhow!(why)))?;
    list(&manifest, say);
    let out = args.out.display();
    say(&format!(
        "{out} is made. On the machine: tar -xzf {out} keadm && ./keadm join --offline-bundle {out} ..."
    ));
    Ok(())
}

fn check(file: &Path, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let bundle = bundle::open(file).map_err(Failure::Refused)?;
    bundle.unpack(None).map_err(Failure::Refused)?;
    list(&bundle.manifest, say);
    say("every sum is right");
    Ok(())
}

fn list(manifest: &Manifest, say: &mut dyn FnMut(&str)) {
    for listed in &manifest.files {
        say(&format!("{:>12} {}", listed.size, listed.path));
    }
    say(&format!("edgecore {} for {}", manifest.version, manifest.arch));
}

/// A node and the keadm that looks after it are of one release. What is for another processor cannot be asked.
fn is_of_this_release(host: &dyn Host, edgecore: &Path) -> Result<(), Failure> {
    if node::is_kubeedges(host, edgecore) {
        return Err(Failure::Refused(format!(
            "{} is KubeEdge's edgecore: name ours with --edgecore FILE",
            edgecore.display()
        )));
    }
    let ran = host.run(edgecore, &["--version".to_owned()]).map_err(anyhow::Error::from)?;
    let own = crate::version::own().trim_start_matches('v');
    let said = ran.stdout.trim();
    if ran.is_good && said.split(' ').next_back() == Some(own) {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{} says {said:?} of itself, and this is keadm {own}: take the edgecore of the same release",
        edgecore.display()
    )))
}

fn plugins(wanted: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Vec<Source>, Failure> {
    let lacks = |folder: &Path| PLUGINS.into_iter().find(|name| !folder.join(name).is_file());
    let folder = match wanted {
        Some(folder) => match lacks(folder) {
            Some(missing) => {
                return Err(Failure::Usage(format!(
                    "--cni-plugins: there is no {missing} in {}; {} must be there",
                    folder.display(),
                    PLUGINS.join(", ")
                )));
            }
            None => folder,
        },
        None => match PLUGIN_FOLDERS.map(Path::new).into_iter().find(|folder| lacks(folder).is_none()) {
            Some(folder) => folder,
            None => {
                say(&format!(
                    "no CNI plugins in {}: the bundle is made without them (--cni-plugins names a folder)",
                    PLUGIN_FOLDERS.join(" and ")
                ));
                return Ok(Vec::new());
            }
        },
    };
    Ok(PLUGINS.into_iter().map(|name| Source::plugin(name, folder.join(name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use std::fs;

    /// A folder with edgecore and plugins that are programs only by their headers.
    fn machine(machine: u8) -> (tempfile::TempDir, Create, FakeHost) {
        let folder = tempfile::tempdir().unwrap();
        let mut elf = [0u8; 20];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = machine;
        for name in PLUGINS.into_iter().chain([EDGECORE, KEADM]) {
            fs::write(folder.path().join(name), elf).unwrap();
        }
        fs::write(folder.path().join("app.tar"), b"image").unwrap();
        let at = |name: &str| Some(folder.path().join(name));
        let args = Create {
            out: folder.path().join("edge.tar.gz"),
            edgecore: at(EDGECORE),
            keadm: at(KEADM),
            images: at("app.tar").into_iter().collect(),
            cni_plugins: at(""),
        };
        let host = FakeHost::default();
        host.prints.borrow_mut().push((
            folder.path().join(EDGECORE).display().to_string(),
            format!("edgecore {}", env!("CARGO_PKG_VERSION")),
        ));
        (folder, args, host)
    }

    fn own() -> u8 {
        match arch::own() {
            "amd64" => 62,
            "arm64" => 183,
            _ => 40,
        }
    }

    #[test]
    fn a_bundle_is_made_and_checked() {
        let (_folder, args, host) = machine(own());
        create(&host, &args, &mut |_| {}).unwrap();
        let mut lines = Vec::new();
        check(&args.out, &mut |line| lines.push(line.to_owned())).unwrap();
        let names: Vec<&str> = lines.iter().map(|line| line.trim().split(' ').next_back().unwrap()).collect();
        let [files @ .., arch, last] = names.as_slice() else { panic!("{lines:?}") };
        assert_eq!(
            files,
            [
                "edgecore",
                "keadm",
                "cni/bridge",
                "cni/portmap",
                "cni/host-local",
                "cni/loopback",
                "images/app.tar"
            ]
        );
        assert_eq!((*arch, *last), (arch::own(), "right"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let check = |change: &dyn Fn(&Path, &mut Create, &FakeHost), code: u8, expected: &str| {
            let (folder, mut args, host) = machine(own());
            change(folder.path(), &mut args, &host);
            let failure = create(&host, &args, &mut |_| {}).unwrap_err();
            let found = match failure {
                Failure::Usage(_) => 2,
                Failure::Refused(_) => 3,
                _ => 1,
            };
            assert_eq!(found, code, "{failure}");
            assert!(failure.to_string().contains(expected), "no {expected:?} in {failure}");
            assert!(!args.out.exists());
        };
        check(&|folder, _, _| fs::remove_file(folder.join("portmap")).unwrap(), 2, "there is no portmap in");
        check(&|_, args, _| args.images = vec!["x.zip".into()], 2, "must have letters");
        check(&|_, args, _| args.images = vec!["/no/such.tar".into()], 1, "/no/such.tar");
        check(&|_, args, _| args.edgecore = Some("/no/such".into()), 3, "/no/such");
        check(&|folder, _, _| fs::write(folder.join(EDGECORE), "#!/bin/sh").unwrap(), 3, "no Linux program");
        check(&|_, _, host| host.prints.borrow_mut().clear(), 3, "take the edgecore of the same release");
        let other = if own() == 62 { 183 } else { 62 };
        check(
            &|folder, _, _| {
                let mut elf = fs::read(folder.join(KEADM)).unwrap();
                elf[18] = other;
                fs::write(folder.join(KEADM), elf).unwrap();
            },
            3,
            "a bundle is for one processor",
        );
        check(&|_, args, _| args.edgecore = None, 3, "or name it with --edgecore");
    }

    #[test]
    fn programs_for_other_machines_are_not_run() {
        let (_folder, args, host) = machine(if own() == 62 { 183 } else { 62 });
        create(&host, &args, &mut |_| {}).unwrap();
        assert!(host.ran.borrow().is_empty());
        let failure = check(&args.out, &mut |_| {}).unwrap_err();
        assert!(failure.to_string().contains("machines, and this one is"), "{failure}");
    }
}
