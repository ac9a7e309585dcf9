//! What a join installs: edgecore, and with a bundle the images and CNI plugins of a machine without a network.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::binary;
use crate::bundle::Unpacked;
use crate::failure::Failure;
use crate::host::Host;
use crate::image::of_programs;
use crate::step::Step;

/// A bundle, or what an image held, lies here unpacked while a join runs. On disk: images are larger than memory.
pub(crate) const FOLDER: &str = "/var/lib/keadm-unpacked";
/// edgecore imports what it finds here.
const IMAGES: &str = "/var/lib/kubeedge/images";
/// Where plugins are looked for by container runtimes that are told nothing, and by Debian's.
pub(crate) const PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Where things may come from beside this machine's own folders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) bundle: Option<&'a Path>,
    /// Socket of the container runtime, which has the image or pulls it.
    pub(crate) runtime: &'a str,
    /// Registry and folder of the image.
    pub(crate) repository: Option<&'a str>,
    /// No container is run for a look.
    pub(crate) is_dry_run: bool,
}

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
    /// From the bundle; without one, from this machine; if there is nothing, from the image.
    pub(crate) fn gather(
        host: &dyn Host,
        sources: Sources<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, Failure> {
        // Of a join that was killed.
        host.remove_tree(Path::new(FOLDER)).with_context(|| format!("clear {FOLDER}"))?;
        let Some(bundle) = sources.bundle else {
            let Ok(edgecore) = binary::find(host) else { return Self::from_image(host, sources, say) };
            let keadm = host.own_program().context("find this program")?;
            return Ok(Self { edgecore, keadm, ..Self::default() });
        };
        if !host.exists(bundle) {
            return Err(Failure::Usage(format!("--offline-bundle: there is no {}", bundle.display())));
        }
        say(&format!("unpacking {}", bundle.display()));
        let Unpacked { edgecore, keadm, images, plugins } =
            unpack(host, |folder| host.unpack(bundle, folder))?.map_err(Failure::Refused)?;
        Ok(Self { edgecore, keadm, images, plugins })
    }

    fn from_image(host: &dyn Host, sources: Sources<'_>, say: &mut dyn FnMut(&str)) -> Result<Self, Failure> {
        let image = of_programs(sources.repository);
        if sources.is_dry_run {
            return Err(Failure::Refused(format!(
                "there is no edgecore on this machine: join would take it from the image {image}, and what it finds then cannot \
                 be said without it"
            )));
        }
        say(&format!("there is no edgecore on this machine: taking it from the image {image}"));
        let fetched =
            unpack(host, |folder| host.fetch(sources.runtime, &image, sources.repository.is_some(), folder))?;
        fetched.map_err(|why| {
            Failure::Refused(format!(
                "there is no edgecore to install, and nothing was changed. Looked at:\n  \
                 a bundle: none was named; --offline-bundle FILE\n  \
                 beside keadm, the installed one, that of a package, in PATH: {}; put the program beside keadm\n  \
                 the image {image}: {why}; --image-repository PREFIX names the registry that has it",
                binary::looked(host)
            ))
        })?;
        let folder = Path::new(FOLDER);
        Ok(Self { edgecore: folder.join("edgecore"), keadm: folder.join("keadm"), ..Self::default() })
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

    /// Plugins where these are not all, beside those that are there. Before anything that makes pods: these go by the plugins.
    pub(crate) fn plugin_steps(&self, host: &dyn Host, plugins: &[String]) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.plugins.is_empty() && !has_plugins(host, plugins) {
            let [folder, _] = PLUGIN_FOLDERS.map(Path::new);
            let above = [Path::new("/opt"), Path::new("/opt/cni"), folder];
            steps.extend(above.map(|path| Step::SharedFolder { path: path.into(), mode: 0o755 }));
            let is_new =
                |from: &&PathBuf| !from.file_name().is_some_and(|name| host.exists(&folder.join(name)));
            let new: Vec<PathBuf> = self.plugins.iter().filter(is_new).cloned().collect();
            steps.extend(copies(&new, folder, true));
        }
        steps
    }

    /// Where all of these will be, if no folder has them all and the bundle brings those that are missing.
    pub(crate) fn plugin_folder(&self, host: &dyn Host, plugins: &[String]) -> Option<&'static Path> {
        let [folder, _] = PLUGIN_FOLDERS.map(Path::new);
        let brings = |name: &String| {
            host.exists(&folder.join(name)) || self.plugins.iter().any(|from| from.ends_with(name))
        };
        (!has_plugins(host, plugins) && plugins.iter().all(brings)).then_some(folder)
    }

    /// What was unpacked is of no more use.
    pub(crate) fn clear(&self, host: &dyn Host) -> Result<(), Failure> {
        Ok(host.remove_tree(Path::new(FOLDER)).with_context(|| format!("clear {FOLDER}"))?)
    }
}

/// Whether one folder has all of them. None are named where somebody made a network: who has its bridge has the rest.
fn has_plugins(host: &dyn Host, plugins: &[String]) -> bool {
    let bridge = ["bridge".to_owned()];
    let plugins = if plugins.is_empty() { &bridge } else { plugins };
    PLUGIN_FOLDERS.iter().any(|folder| plugins.iter().all(|name| host.exists(&Path::new(folder).join(name))))
}

/// Into the folder, which is gone again if that fails.
fn unpack<T>(
    host: &dyn Host,
    fill: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<Result<T, String>, Failure> {
    let folder = Path::new(FOLDER);
    host.make_folder(folder, 0o700).with_context(|| format!("make {FOLDER}"))?;
    let done = fill(folder);
    if done.is_err() {
        host.remove_tree(folder).with_context(|| format!("clear {FOLDER}"))?;
    }
    Ok(done)
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
    use crate::step;

    fn from(bundle: Option<&str>) -> Sources<'_> {
        Sources {
            bundle: bundle.map(Path::new),
            runtime: "/run/runtime.sock",
            repository: Some("r.example/x"),
            is_dry_run: false,
        }
    }

    #[test]
    fn the_image_comes_last() {
        let gather = |there: &[&str]| {
            let host = FakeHost::new(there);
            let done = Supplies::gather(&host, from(None), &mut |_| {});
            (done.map(|supplies| supplies.edgecore), host)
        };
        let (found, _) = gather(&["/run/runtime.sock", "/usr/bin/edgecore"]);
        assert_eq!(found.unwrap(), Path::new("/usr/bin/edgecore"));
        let (found, host) = gather(&["/run/runtime.sock"]);
        let found = found.unwrap();
        assert_eq!(found, Path::new("/var/lib/keadm-unpacked/edgecore"));
        let image = String::from_utf8(host.read(&found).unwrap().unwrap()).unwrap();
        assert!(image.starts_with("r.example/x/installation-package:v"), "{image}");

        let (Err(Failure::Refused(why)), host) = gather(&[]) else { panic!("there is none") };
        for place in [
            "--offline-bundle",
            "/usr/local/bin/edgecore",
            "/usr/bin/edgecore",
            "nobody is at /run/runtime.sock",
        ] {
            assert!(why.contains(place), "{place}: {why}");
        }
        assert!(!host.exists(Path::new(FOLDER)), "left behind");
    }

    #[test]
    fn an_image_that_is_here_is_asked_of_no_registry() {
        let gather = |held: bool, repository: Option<&'static str>, is_dry_run: bool| {
            let host = FakeHost::new(&["/run/runtime.sock"]);
            let image = of_programs(repository);
            host.images.borrow_mut().extend(held.then_some(image));
            let sources = Sources { repository, is_dry_run, ..from(None) };
            let done = Supplies::gather(&host, sources, &mut |_| {});
            let ran = host.ran.borrow().clone();
            (done, ran, host.exists(Path::new(FOLDER)))
        };
        for repository in [None, Some("r.example/x")] {
            let (done, ran, _) = gather(true, repository, false);
            done.unwrap();
            assert!(ran.is_empty(), "{repository:?}: {ran:?}");
        }
        // Which registry, nobody said: none is guessed.
        let (Err(Failure::Refused(why)), ran, is_left) = gather(false, None, false) else {
            panic!("not here")
        };
        assert!(why.contains("is not here; --image-repository PREFIX"), "{why}");
        assert!(ran.is_empty() && !is_left, "{ran:?}");
        let (done, ran, _) = gather(false, Some("r.example/x"), false);
        done.unwrap();
        assert_eq!(ran, [format!("pull {}", of_programs(Some("r.example/x")))]);
        // A look neither pulls nor runs a container.
        for held in [true, false] {
            let (Err(Failure::Refused(_)), ran, is_left) = gather(held, Some("r.example/x"), true) else {
                panic!("there is no edgecore to look with")
            };
            assert!(ran.is_empty() && !is_left, "{ran:?}");
        }
    }

    #[test]
    fn a_bundle_brings_all_that_a_machine_lacks() {
        let check = |there: &[&str], expected: &[&str]| {
            let host = FakeHost::new(&[there, &["/media/edge.tar.gz"]].concat());
            let supplies = Supplies::gather(&host, from(Some("/media/edge.tar.gz")), &mut |_| {}).unwrap();
            assert_eq!(supplies.edgecore, Path::new("/var/lib/keadm-unpacked/edgecore"));
            let lines = step::print(&[supplies.steps(), supplies.plugin_steps(&host, &[])].concat());
            let installed: Vec<&str> =
                lines.iter().filter_map(|line| line.rsplit_once(' ').map(|(_, to)| to)).collect();
            assert_eq!(installed, expected);
            supplies.clear(&host).unwrap();
            assert!(!host.exists(Path::new(FOLDER)));
        };
        let images = ["/var/lib/kubeedge/images", "/var/lib/kubeedge/images/app.tar"];
        check(
            &[],
            &[
                &images[..],
                &["/opt", "/opt/cni", "/opt/cni/bin", "/opt/cni/bin/bridge", "/opt/cni/bin/portmap"],
            ]
            .concat(),
        );
        check(&["/usr/lib/cni/bridge"], &images);
        let Err(Failure::Usage(why)) =
            Supplies::gather(&FakeHost::new(&[]), from(Some("/no/such")), &mut |_| {})
        else {
            panic!("there is none")
        };
        assert!(why.contains("/no/such"), "{why}");
    }
}
