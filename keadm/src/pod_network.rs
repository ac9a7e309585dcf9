//! The pods' network of a machine that has none: edgecore makes it, if the plugins are there.
//!
//! Decides for `cmd/join.rs` from what edgecore found; touches nothing itself. What is made on the way is taken back with the
//! pods, by `edgecore remove-pods`; empty folders that were not there before go with the join.

use std::path::{Path, PathBuf};

use ke_api::pod_network::{FILE, NoNetwork, is_of_others};

use crate::failure::Failure;
use crate::host::Host;
use crate::journal::Undo;
use crate::render::CONF_DIR;
use crate::step::Step;
use crate::supplies::{PLUGIN_FOLDERS, Supplies};

/// Made by plugins and runtimes on the way, in this order; others may use them as well.
const SHARED: [&str; 5] =
    ["/etc/cni", CONF_DIR, "/var/lib/cni", "/var/lib/cni/networks", "/var/lib/cni/results"];

/// The folder of the configuration that edgecore is to write; `None`: pods have a network, or somebody's configuration is
/// there. Errors: one sentence on the plugins that are missing.
pub(crate) fn wanted(
    host: &dyn Host,
    found: Option<&NoNetwork>,
    supplies: &Supplies,
    say: &mut dyn FnMut(&str),
) -> Result<Option<PathBuf>, Failure> {
    let conf_dir = found.and_then(|found| found.conf_dir.clone()).unwrap_or_else(|| CONF_DIR.into());
    let held = host.list(&conf_dir).unwrap_or_default();
    if held.iter().any(|name| is_of_others(name)) {
        return Ok(None);
    }
    let Some(found) = found else {
        // Of a node that was here before: the runtime takes it for a network, but nobody would give it this node's range.
        return Ok(held.iter().any(|name| name == FILE).then_some(conf_dir));
    };
    let folder = plugins(host, found, supplies).map_err(Failure::Refused)?;
    say(&format!(
        "there is no network for pods in {}: edgecore makes one, with the plugins in {}",
        conf_dir.display(),
        folder.display()
    ));
    if found.plugin_folders.is_empty() {
        say(&format!(
            "the container runtime does not tell where it looks for plugins: if the node does not get Ready, let it look there \
             (containerd: bin_dir, CRI-O: plugin_dirs), or link them to {}",
            PLUGIN_FOLDERS.join(" or ")
        ));
    }
    Ok(Some(conf_dir))
}

/// Where all of them are, or will be.
fn plugins(host: &dyn Host, found: &NoNetwork, supplies: &Supplies) -> Result<PathBuf, String> {
    let has_all = |folder: &Path| found.plugins.iter().all(|name| host.exists(&folder.join(name)));
    let known: Vec<&Path> = PLUGIN_FOLDERS.iter().map(Path::new).collect();
    let looks_in: Vec<&Path> = match found.plugin_folders.as_slice() {
        [] => known.clone(),
        folders => folders.iter().map(PathBuf::as_path).collect(),
    };
    if let Some(folder) = looks_in.iter().find(|folder| has_all(folder)) {
        return Ok((*folder).to_owned());
    }
    let shown = looks_in.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ");
    if let Some(elsewhere) = known.iter().find(|folder| has_all(folder)) {
        let from = elsewhere.display();
        return Err(format!(
            "the container runtime looks for network plugins in {shown}, and they are in {from}: set its bin_dir to {from} and \
             restart it, or type: mkdir -p {shown} && ln -s {from}/* {shown}/"
        ));
    }
    if let Some(folder) = supplies.plugin_folder(host, &found.plugins) {
        if looks_in.contains(&folder) {
            return Ok(folder.to_owned());
        }
        let to = folder.display();
        return Err(format!(
            "the container runtime looks for network plugins in {shown}, and those of the bundle go to {to}: set its bin_dir to \
             {to} and restart it"
        ));
    }
    Err(format!(
        "this machine has no network for pods, and no plugins to make one: {} are not in {shown}. Install them (apt-get install \
         containernetworking-plugins, or --offline-bundle with a bundle that has them), or install a network of your own",
        found.plugins.join(", ")
    ))
}

/// Folders that this node may be the first to fill, and that others may use later: taken back if they are empty then.
pub(crate) fn steps(host: &dyn Host, conf_dir: &Path) -> Vec<Step> {
    let folders = SHARED.iter().map(Path::new).chain((conf_dir != Path::new(CONF_DIR)).then_some(conf_dir));
    let missing = folders.filter(|folder| !host.exists(folder));
    missing.map(|folder| Step::OnUndo(Undo::RemoveEmptyFolder(folder.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::supplies::Sources;

    fn found(conf_dir: Option<&str>, folders: &[&str]) -> NoNetwork {
        NoNetwork {
            conf_dir: conf_dir.map(Into::into),
            plugin_folders: folders.iter().map(Into::into).collect(),
            plugins: ["bridge", "portmap"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn who_makes_the_network() {
        const BOTH: [&str; 2] = ["/usr/lib/cni/bridge", "/usr/lib/cni/portmap"];
        let check = |there: &[&str], found: Option<NoNetwork>, expected: Result<Option<&str>, &str>| {
            let host = FakeHost::new(there);
            let decided = wanted(&host, found.as_ref(), &Supplies::default(), &mut |_| {});
            match (decided, expected) {
                (Ok(folder), Ok(expected)) => assert_eq!(folder.as_deref(), expected.map(Path::new)),
                (Err(Failure::Refused(why)), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (decided, _) => panic!("{decided:?}, expected {expected:?}"),
            }
        };
        check(&[], None, Ok(None));
        let debians = || found(None, &["/usr/lib/cni"]);
        check(&BOTH, Some(debians()), Ok(Some(CONF_DIR)));
        check(&BOTH, Some(found(Some("/k/net.d"), &["/usr/lib/cni"])), Ok(Some("/k/net.d")));
        check(&BOTH, Some(found(None, &[])), Ok(Some(CONF_DIR)));
        check(&[&BOTH[..], &["/etc/cni/net.d/10-x.conflist"]].concat(), Some(debians()), Ok(None));
        check(&[&BOTH[..], &["/etc/cni/net.d/zz.conf"]].concat(), Some(debians()), Ok(None));
        check(&[&BOTH[..], &["/etc/cni/net.d/README"]].concat(), Some(debians()), Ok(Some(CONF_DIR)));
        // Left over from an edgecore that was here before.
        let left = [&BOTH[..], &["/etc/cni/net.d/99-isthmus.conflist"]].concat();
        check(&left, Some(debians()), Ok(Some(CONF_DIR)));
        check(&left, None, Ok(Some(CONF_DIR)));
        check(&[&left[..], &["/etc/cni/net.d/10-x.conf"]].concat(), None, Ok(None));
        check(&BOTH[..1], Some(debians()), Err("apt-get install containernetworking-plugins"));
        check(&BOTH, Some(found(None, &["/opt/cni/bin"])), Err("ln -s /usr/lib/cni/* /opt/cni/bin/"));
    }

    #[test]
    fn a_bundle_may_bring_the_plugins() {
        let host = FakeHost::new(&["/media/edge.tar.gz"]);
        let bundle = Some(Path::new("/media/edge.tar.gz"));
        let sources = Sources { bundle, runtime: "", repository: None, is_dry_run: false };
        let supplies = Supplies::gather(&host, sources, &mut |_| {}).unwrap();
        let needs = |folder: &str| NoNetwork { plugins: vec!["bridge".into()], ..found(None, &[folder]) };
        let decide = |folder: &str| wanted(&host, Some(&needs(folder)), &supplies, &mut |_| {});
        assert_eq!(decide("/opt/cni/bin").unwrap().as_deref(), Some(Path::new(CONF_DIR)));
        let Err(Failure::Refused(why)) = decide("/usr/lib/cni") else { panic!("they go elsewhere") };
        assert!(why.contains("bin_dir to /opt/cni/bin"), "{why}");
    }

    #[test]
    fn a_bundle_brings_the_plugins_that_are_missing() {
        let decide = |there: &[&str]| {
            let host = FakeHost::new(&[there, &["/media/edge.tar.gz"]].concat());
            let bundle = Some(Path::new("/media/edge.tar.gz"));
            let sources = Sources { bundle, runtime: "", repository: None, is_dry_run: false };
            let supplies = Supplies::gather(&host, sources, &mut |_| {}).unwrap();
            let needs = found(None, &["/opt/cni/bin"]);
            let decided = wanted(&host, Some(&needs), &supplies, &mut |_| {});
            (decided.is_ok(), crate::step::print(&supplies.plugin_steps(&host, &needs.plugins)))
        };
        let of_bundle = |line: &String| Some(line.rsplit_once(" as ")?.1.to_owned());
        let check = |there: &[&str], expected: &[&str]| {
            let (is_good, steps) = decide(there);
            assert!(is_good, "{there:?}");
            let installed: Vec<String> = steps.iter().filter_map(of_bundle).collect();
            assert_eq!(installed, expected, "{there:?}");
        };
        const BOTH: [&str; 2] = ["/opt/cni/bin/bridge", "/opt/cni/bin/portmap"];
        check(&[], &BOTH);
        // What is there stays as it is.
        check(&BOTH[..1], &BOTH[1..]);
        check(&BOTH[1..], &BOTH[..1]);
        check(&BOTH, &[]);
        // The runtime looks in one folder for all of them.
        check(&["/usr/lib/cni/bridge"], &BOTH);
    }

    #[test]
    fn folders_that_were_there_stay() {
        let host = FakeHost::new(&["/etc/cni/", "/var/lib/cni/"]);
        let undo: Vec<Step> = steps(&host, Path::new(CONF_DIR));
        let expected = [CONF_DIR, "/var/lib/cni/networks", "/var/lib/cni/results"];
        let expected = expected.map(|path| Step::OnUndo(Undo::RemoveEmptyFolder(path.into())));
        assert_eq!(undo, expected);
    }
}
