//! Looks where a container runtime looks for pods' network, and says what is there of the one that edgecore can make. Changes
//! nothing; `judge.rs` decides what it means.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ke_api::pod_network::NoNetwork;

use crate::pod_network::{PLUGINS, PodNetworkConfig, stranger};

/// Where runtimes look that are told nothing.
const PLUGIN_FOLDER: &str = "/opt/cni/bin";

/// The network that edgecore is to make, and what stands in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnNetwork {
    pub(super) conf_dir: PathBuf,
    /// Another one's file that is in that folder.
    pub(super) stranger: Option<String>,
    /// The folder that the runtime reads instead.
    pub(super) elsewhere: Option<PathBuf>,
    /// Plugins that are in none of the folders.
    pub(super) missing: Vec<&'static str>,
    pub(super) plugin_folders: Vec<PathBuf>,
}

/// From the configuration that the runtime shows: containerd's is JSON. CRI-O's, TOML, is not read.
pub(super) fn no_network(shown: Option<&str>) -> NoNetwork {
    let config: Option<serde_json::Value> = shown.and_then(|shown| serde_json::from_str(shown).ok());
    let cni = config.as_ref().and_then(|config| config.get("cni"));
    let path = |key: &str| {
        cni.and_then(|cni| cni.get(key)?.as_str()).filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    // containerd 2.1 and later may look into several.
    let several = cni.and_then(|cni| cni.get("binDirs")?.as_array()).map(Vec::as_slice).unwrap_or_default();
    let several = several.iter().filter_map(|path| path.as_str()).map(PathBuf::from);
    let mut plugin_folders: Vec<PathBuf> = path("binDir").into_iter().chain(several).collect();
    plugin_folders.dedup();
    NoNetwork { conf_dir: path("confDir"), plugin_folders, plugins: PLUGINS.map(str::to_owned).into() }
}

impl OwnNetwork {
    pub(super) fn look(config: &PodNetworkConfig, runtime: &NoNetwork) -> Self {
        let names: BTreeSet<String> = std::fs::read_dir(&config.conf_dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let mut plugin_folders = runtime.plugin_folders.clone();
        if plugin_folders.is_empty() {
            plugin_folders.push(Path::new(PLUGIN_FOLDER).to_owned());
        }
        let is_there = |plugin: &&str| plugin_folders.iter().any(|folder| folder.join(plugin).exists());
        Self {
            conf_dir: config.conf_dir.clone(),
            stranger: stranger(&names),
            elsewhere: runtime.conf_dir.clone().filter(|folder| *folder != config.conf_dir),
            missing: PLUGINS.into_iter().filter(|plugin| !is_there(plugin)).collect(),
            plugin_folders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_shows() {
        let check = |shown: Option<&str>, conf_dir: Option<&str>, plugin_folders: &[&str]| {
            let found = no_network(shown);
            assert_eq!(found.conf_dir.as_deref(), conf_dir.map(Path::new), "{shown:?}");
            let folders: Vec<&Path> = plugin_folders.iter().map(Path::new).collect();
            assert_eq!(found.plugin_folders, folders, "{shown:?}");
        };
        check(None, None, &[]);
        check(Some("[crio]\n"), None, &[]);
        check(Some("{}"), None, &[]);
        // 1.6 of Debian
        check(
            Some(r#"{"cni":{"binDir":"/usr/lib/cni","confDir":"/etc/cni/net.d","maxConfNum":1}}"#),
            Some("/etc/cni/net.d"),
            &["/usr/lib/cni"],
        );
        check(
            Some(r#"{"cni":{"binDir":"","binDirs":["/opt/cni/bin","/usr/lib/cni"],"confDir":"/c"}}"#),
            Some("/c"),
            &["/opt/cni/bin", "/usr/lib/cni"],
        );
    }

    #[test]
    fn what_stands_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let config = PodNetworkConfig { manage: true, conf_dir: folder.path().join("net.d") };
        let runtime = NoNetwork {
            conf_dir: Some("/elsewhere".into()),
            plugin_folders: vec![folder.path().to_owned()],
            plugins: PLUGINS.map(str::to_owned).into(),
        };
        let found = OwnNetwork::look(&config, &runtime);
        assert_eq!((found.missing.len(), found.stranger), (PLUGINS.len(), None));
        assert_eq!(found.elsewhere.as_deref(), Some(Path::new("/elsewhere")));
        for plugin in PLUGINS {
            std::fs::write(folder.path().join(plugin), "").unwrap();
        }
        std::fs::create_dir(&config.conf_dir).unwrap();
        std::fs::write(config.conf_dir.join("10-a.conf"), "").unwrap();
        let found = OwnNetwork::look(&config, &runtime);
        assert!(found.missing.is_empty());
        assert_eq!(found.stranger.as_deref(), Some("10-a.conf"));
    }
}
