//! What a join installs: edgecore, and with a bundle the images and CNI plugins of a machine without a network.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::binary;
use crate::bundle::Unpacked;
use crate::failure::Failure;
use crate::host::Host;
use crate::plan::Step;

/// A bundle lies here unpacked while a join runs. On disk: images are larger than memory.
const FOLDER: &str = "/var/lib/keadm-unpacked";
/// edgecore imports what it finds here.
const IMAGES: &str = "/var/lib/kubeedge/images";
/// Where plugins are looked for by container runtimes that are told nothing, and by Debian's.
pub(crate) const PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Until it is [cleared](Supplies::clear).
#[derive(Debug, Default)]
pub(crate) struct Supplies {
    pub(crate) edgecore: PathBuf,
    /// The bundle's, or this program.
    pub(crate) keadm: PathBuf,
    images: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
}

impl Supplies {
    /// From the bundle; without one, from this machine.
    pub(crate) fn gather(
        host: &dyn Host,
        bundle: Option<&Path>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, Failure> {
        // Of a join that was killed.
        host.remove_tree(Path::new(FOLDER)).with_context(|| format!("clear {FOLDER}"))?;
        let Some(bundle) = bundle else {
            let edgecore = binary::find(host).map_err(Failure::Refused)?;
            let keadm = host.own_program().context("find this program")?;
            return Ok(Self { edgecore, keadm, ..Self::default() });
        };
        if !host.exists(bundle) {
            return Err(Failure::Usage(format!("--offline-bundle: there is no {}", bundle.display())));
        }
        let folder = Path::new(FOLDER);
        host.make_folder(folder, 0o700).with_context(|| format!("make {FOLDER}"))?;
        say(&format!("unpacking {}", bundle.display()));
        match host.unpack(bundle, folder) {
            Ok(Unpacked { edgecore, keadm, images, plugins }) => {
                Ok(Self { edgecore, keadm, images, plugins })
            }
            Err(why) => {
                host.remove_tree(folder).with_context(|| format!("clear {FOLDER}"))?;
                Err(Failure::Refused(why))
            }
        }
    }

    /// Images into edgecore's folder.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.images.is_empty() {
            steps.push(Step::Folder { path: IMAGES.into(), mode: 0o700 });
            steps.extend(copies(&self.images, Path::new(IMAGES), false));
        }
        steps
    }

    /// Plugins where there are none. Before anything that makes pods: these go by the plugins.
    pub(crate) fn plugin_steps(&self, host: &dyn Host) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.plugins.is_empty() && !has_plugins(host) {
            let [folder, _] = PLUGIN_FOLDERS;
            let above = ["/opt", "/opt/cni", folder];
            steps.extend(above.map(|path| Step::SharedFolder { path: path.into(), mode: 0o755 }));
            steps.extend(copies(&self.plugins, Path::new(folder), true));
        }
        steps
    }

    /// Where the bundle's plugins will be, if it has all of these and this machine has none.
    pub(crate) fn plugin_folder(&self, host: &dyn Host, plugins: &[String]) -> Option<&'static Path> {
        let brings = |name: &String| self.plugins.iter().any(|from| from.ends_with(name));
        let [folder, _] = PLUGIN_FOLDERS;
        (!has_plugins(host) && plugins.iter().all(brings)).then_some(Path::new(folder))
    }

    /// What was unpacked is of no more use.
    pub(crate) fn clear(&self, host: &dyn Host) -> Result<(), Failure> {
        Ok(host.remove_tree(Path::new(FOLDER)).with_context(|| format!("clear {FOLDER}"))?)
    }
}

fn has_plugins(host: &dyn Host) -> bool {
    PLUGIN_FOLDERS.iter().any(|folder| host.exists(&Path::new(folder).join("bridge")))
}

fn copies<'a>(files: &'a [PathBuf], folder: &'a Path, are_programs: bool) -> impl Iterator<Item = Step> + 'a {
    files.iter().filter_map(move |from| {
        let to = folder.join(from.file_name()?);
        Some(if are_programs {
            Step::Program { from: from.clone(), to }
        } else {
            Step::Copy { from: from.clone(), to }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::plan;

    #[test]
    fn a_bundle_brings_all_that_a_machine_lacks() {
        let check = |there: &[&str], expected: &[&str]| {
            let host = FakeHost::new(&[there, &["/media/edge.tar.gz"]].concat());
            let bundle = Some(Path::new("/media/edge.tar.gz"));
            let supplies = Supplies::gather(&host, bundle, &mut |_| {}).unwrap();
            assert_eq!(supplies.edgecore, Path::new("/var/lib/keadm-unpacked/edgecore"));
            let lines = plan::print(&[supplies.steps(), supplies.plugin_steps(&host)].concat());
            let installed: Vec<&str> =
                lines.iter().filter_map(|line| line.rsplit_once(' ').map(|(_, to)| to)).collect();
            assert_eq!(installed, expected);
            supplies.clear(&host).unwrap();
            assert!(!host.exists(Path::new(FOLDER)));
        };
        let images = ["/var/lib/kubeedge/images", "/var/lib/kubeedge/images/app.tar"];
        check(&[], &[&images[..], &["/opt", "/opt/cni", "/opt/cni/bin", "/opt/cni/bin/bridge"]].concat());
        check(&["/usr/lib/cni/bridge"], &images);
        let Err(Failure::Usage(why)) =
            Supplies::gather(&FakeHost::new(&[]), Some(Path::new("/no/such")), &mut |_| {})
        else {
            panic!("there is none")
        };
        assert!(why.contains("/no/such"), "{why}");
    }
}
