//! The pods' network of a machine that has none: a CNI configuration with the range of addresses that the cloud gave this Node.
//!
//! Off unless `modules.edged.podNetwork.manage` says so. The file stays on disk, so that a boot without the cloud has a network.
//! A folder with anybody else's configuration is left as it is. The plugins themselves are installed by others. Started by
//! `main.rs`, which also lets it take everything back.

mod conflist;
mod leaving;
mod link;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use ke_api::pod_network::{FILE, POD_RANGE};
use ke_run::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use conflist::{BadRange, NETWORK, PLUGINS, conflist, stranger};
pub use leaving::{Leaving, remove};

/// A disk that is full or read-only may not stay so.
const RETRY: Duration = Duration::from_secs(10);

/// `modules.edged.podNetwork` (not in KubeEdge)
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodNetworkConfig {
    /// Whether pods get their network from here: a bridge `isthmus0` with the range of addresses that the Node's
    /// `spec.podCIDR` names, or else its annotation `isthmus.io/pod-range`, masked as the machine's own. `keadm join` sets it
    /// where no CNI configuration is. Another configuration in the folder is never touched, and counts instead if its name
    /// comes before `99-isthmus.conflist`.
    pub manage: bool,
    /// The folder where the container runtime looks for CNI configurations.
    pub conf_dir: PathBuf,
}

impl Default for PodNetworkConfig {
    fn default() -> Self {
        Self { manage: false, conf_dir: "/etc/cni/net.d".into() }
    }
}

/// The module.
pub struct PodNetwork {
    conf_dir: PathBuf,
    nodes: watch::Receiver<Option<Arc<Node>>>,
    ranges: Vec<String>,
    /// Said last: nothing is said twice in a row.
    told: String,
}

/// What became of the file.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// It is new, or has other ranges.
    Now,
    /// It was there with this content.
    Before,
    /// Somebody else's is there.
    NotOurs(String),
    /// The cloud gave no range yet.
    NoRange,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Range(#[from] BadRange),
    #[error("write {path}: {cause}")]
    File { path: String, cause: io::Error },
}

impl PodNetwork {
    /// `known`: this machine's Node as the store holds it; `nodes` brings it as the cloud pushes it.
    #[must_use]
    pub fn new(
        config: &PodNetworkConfig,
        known: Option<&Node>,
        nodes: watch::Receiver<Option<Arc<Node>>>,
    ) -> Self {
        let ranges = known.map(ranges).unwrap_or_default();
        Self { conf_dir: config.conf_dir.clone(), nodes, ranges, told: String::new() }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            let (folder, wanted) = (self.conf_dir.clone(), self.ranges.clone());
            let written = tokio::task::spawn_blocking(move || write(&folder, &wanted)).await;
            let is_done = match written {
                Ok(outcome) => self.tell(outcome),
                // Only a process that ends stops it midway.
                Err(_) => true,
            };
            tokio::select! {
                Ok(()) = self.nodes.changed() => {
                    let node = self.nodes.borrow_and_update().clone();
                    // A Node that was registered anew has none for a moment; pods go on with what they have.
                    let now = node.map(|node| ranges(&node)).unwrap_or_default();
                    if !now.is_empty() {
                        self.ranges = now;
                    }
                }
                () = tokio::time::sleep(RETRY), if !is_done => {}
                () = shutdown.wait() => return Ok(()),
            }
        }
    }

    /// Says how it went, once; whether that was all.
    fn tell(&mut self, outcome: Result<Written, WriteError>) -> bool {
        let file = self.conf_dir.join(FILE);
        let (is_done, words) = match &outcome {
            Ok(Written::Now) => {
                (true, format!("pods have addresses of {} ({})", self.ranges.join(", "), file.display()))
            }
            Ok(Written::Before) => (true, String::new()),
            Ok(Written::NotOurs(name)) => (
                true,
                format!(
                    "{} is another one's, so pods' network is left to it; if it is of no use, remove it, or set \
                     modules.edged.podNetwork.manage to false",
                    self.conf_dir.join(name).display()
                ),
            ),
            Ok(Written::NoRange) => {
                (true, "pods wait for the range of addresses that the cloud gives this Node".to_owned())
            }
            Err(error) => (false, error.to_string()),
        };
        if words != self.told {
            match outcome {
                Ok(Written::NotOurs(_)) => tracing::warn!("{words}"),
                Ok(_) if words.is_empty() => {}
                Ok(_) => tracing::info!("{words}"),
                Err(_) => tracing::error!("pods have no network: {words}; trying again"),
            }
            self.told = words;
        }
        is_done
    }
}

/// The cluster's, of one family or of both; else cloudcore's; nothing before anybody has given any.
#[must_use]
pub fn ranges(node: &Node) -> Vec<String> {
    let of_the_cluster = node.spec.as_ref().map(|spec| match spec.pod_cidrs.as_deref() {
        None | Some([]) => spec.pod_cidr.clone().into_iter().filter(|range| !range.is_empty()).collect(),
        Some(several) => several.to_vec(),
    });
    let ours = || node.metadata.annotations.as_ref()?.get(POD_RANGE).cloned();
    of_the_cluster
        .filter(|ranges: &Vec<String>| !ranges.is_empty())
        .unwrap_or_else(|| ours().into_iter().collect())
}

fn write(folder: &Path, ranges: &[String]) -> Result<Written, WriteError> {
    let of = |path: &Path| {
        let path = path.display().to_string();
        move |cause| WriteError::File { path, cause }
    };
    if let Some(name) = stranger(&names(folder).map_err(of(folder))?) {
        return Ok(Written::NotOurs(name));
    }
    if ranges.is_empty() {
        return Ok(Written::NoRange);
    }
    let text = conflist(ranges)?;
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(held) if held == text => return Ok(Written::Before),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(of(folder))?;
    // No runtime takes a file with this ending for a configuration.
    let beside = folder.join(format!("{FILE}.new"));
    let put = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(folder)?.sync_all()
    };
    put().map_err(of(&path))?;
    Ok(Written::Now)
}

/// What is in a folder; nothing if it is not there.
fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_written_once_and_never_beside_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("cni/net.d");
        let range = |text: &str| vec![text.to_owned()];
        assert_eq!(write(&conf, &[]).unwrap(), Written::NoRange);
        assert!(!conf.exists());
        assert_eq!(write(&conf, &range("10.208.1.0/24")).unwrap(), Written::Now);
        assert_eq!(write(&conf, &range("10.208.1.0/24")).unwrap(), Written::Before);
        assert_eq!(write(&conf, &range("10.208.2.0/24")).unwrap(), Written::Now);
        assert!(fs::read_to_string(conf.join(FILE)).unwrap().contains("10.208.2.0/24"));
        assert_eq!(names(&conf).unwrap().len(), 1, "nothing stays beside it");
        write(&conf, &range("10.208.2.0")).unwrap_err();

        fs::write(conf.join("10-flannel.conflist"), "{}").unwrap();
        let of_flannel = Written::NotOurs("10-flannel.conflist".into());
        assert_eq!(write(&conf, &range("10.208.3.0/24")).unwrap(), of_flannel);
        assert!(fs::read_to_string(conf.join(FILE)).unwrap().contains("10.208.2.0/24"), "not touched");
    }

    #[test]
    fn ranges_of_a_node() {
        let check = |spec: serde_json::Value, expected: &[&str]| {
            let mut node: Node = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(ranges(&node), expected);
            // What cloudcore gave counts where the cluster gave nothing.
            node.metadata.annotations = Some([(POD_RANGE.to_owned(), "10.99.0.0/24".to_owned())].into());
            let expected = if expected.is_empty() { &["10.99.0.0/24"] } else { expected };
            assert_eq!(ranges(&node), expected);
        };
        check(json!({"podCIDR": "", "podCIDRs": []}), &[]);
        check(json!({}), &[]);
        check(json!({"podCIDR": "10.208.0.0/24"}), &["10.208.0.0/24"]);
        check(
            json!({"podCIDR": "10.208.0.0/24", "podCIDRs": ["10.208.0.0/24", "fd00::/64"]}),
            &["10.208.0.0/24", "fd00::/64"],
        );
    }

    #[tokio::test]
    async fn the_range_comes_from_the_cloud_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = PodNetworkConfig { manage: true, conf_dir: folder.path().to_owned() };
        let node = |range: Option<&str>| {
            let annotations = range.map(|range| json!({POD_RANGE: range})).unwrap_or(json!({}));
            serde_json::from_value::<Node>(json!({"metadata": {"annotations": annotations}})).unwrap()
        };
        let (tell, nodes) = watch::channel(None);
        let (trigger, stop) = Shutdown::new();
        let module = PodNetwork::new(&config, Some(&node(None)), nodes);
        let running = tokio::spawn(module.run(stop));
        let file = folder.path().join(FILE);
        let holds = async |range: &str| {
            let wait = async {
                while !fs::read_to_string(&file).is_ok_and(|text| text.contains(range)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect(range);
        };
        tell.send(Some(Arc::new(node(Some("10.208.7.0/24"))))).unwrap();
        holds("10.208.7.0/24").await;
        // The Node was deleted and is registered anew.
        tell.send(Some(Arc::new(node(None)))).unwrap();
        tell.send(Some(Arc::new(node(Some("10.208.8.0/24"))))).unwrap();
        holds("10.208.8.0/24").await;
        // The cluster gives one later.
        let mut of_the_cluster = node(Some("10.208.8.0/24"));
        of_the_cluster.spec = serde_json::from_value(json!({"podCIDR": "10.244.3.0/24"})).unwrap();
        tell.send(Some(Arc::new(of_the_cluster))).unwrap();
        holds("10.244.3.0/24").await;
        trigger.stop();
        running.await.unwrap().unwrap();
    }
}
