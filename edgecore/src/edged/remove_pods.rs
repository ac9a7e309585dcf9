//! The end of this machine as a node: every pod's containers, sandboxes, mounts, files and cgroups go.
//!
//! For `edgecore remove-pods`, which keadm runs while no edgecore does; called by `main.rs`. Containers that are no pod's
//! (made by hand with another tool) are left alone. A kill in between leaves work for the next call.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::cgroups::{CgroupError, PodCgroups};
use super::container::POD_UID;
use super::cri::{Runtime, RuntimeError};
use super::log_links;
use super::volumes;

/// What a pod's processes have to end by themselves. Kubernetes' default is 30; who removes a node waits for it.
const GRACE: Duration = Duration::from_secs(10);

/// Why something of a pod is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The runtime does not do it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Files or mounts.
    #[error("remove {0}: {1}")]
    Files(PathBuf, io::Error),
    /// Cgroups.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
}

/// Says how many sandboxes were removed.
pub async fn remove_pods(
    runtime: &dyn Runtime,
    root_directory: &Path,
    pod_logs_root: &Path,
    cgroups: Option<&PodCgroups>,
) -> Result<usize, RemoveError> {
    let containers = runtime.list_containers().await?;
    let mut ending: FuturesUnordered<_> = containers
        .iter()
        .filter(|container| container.labels.contains_key(POD_UID))
        .map(|container| runtime.stop_container(&container.id, GRACE))
        .collect();
    while let Some(ended) = ending.next().await {
        ended?;
    }
    let mut n_sandboxes = 0;
    let mut uids = BTreeSet::new();
    for sandbox in runtime.list_sandboxes().await? {
        let Some(uid) = sandbox.labels.get(POD_UID) else { continue };
        uids.insert(uid.clone());
        runtime.stop_sandbox(&sandbox.id).await?;
        runtime.remove_sandbox(&sandbox.id).await?;
        n_sandboxes += 1;
    }
    let pods = root_directory.join("pods");
    uids.extend(names(&pods));
    remove_logs(pod_logs_root, &uids)?;
    volumes::remove_all(&pods).map_err(|error| RemoveError::Files(pods, error))?;
    if let Some(cgroups) = cgroups {
        for (qos, uid) in cgroups.pods() {
            cgroups.remove_pod(qos, &uid)?;
        }
        cgroups.remove_classes()?;
    }
    Ok(n_sandboxes)
}

/// Of these pods: `<namespace>_<name>_<uid>`. Another kubelet's may be there, too.
pub(super) fn remove_logs(pod_logs_root: &Path, uids: &BTreeSet<String>) -> Result<(), RemoveError> {
    for name in names(pod_logs_root) {
        if name.rsplit_once('_').is_some_and(|(_, uid)| uids.contains(uid)) {
            let folder = pod_logs_root.join(name);
            log_links::remove(pod_logs_root, &folder);
            std::fs::remove_dir_all(&folder).map_err(|error| RemoveError::Files(folder, error))?;
        }
    }
    Ok(())
}

/// What is in a folder; nothing if there is none.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::cri_fake::FakeRuntime;
    use ke_cri::v1;

    #[tokio::test]
    async fn pods_go_and_what_is_no_pods_stays() {
        let runtime = FakeRuntime::new();
        let sandbox = |name: &str, label: Option<&str>| {
            let labels = label.map(|uid| (POD_UID.to_owned(), uid.to_owned()));
            v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata { name: name.to_owned(), ..Default::default() }),
                labels: labels.into_iter().collect(),
                ..Default::default()
            }
        };
        runtime.run_sandbox(&sandbox("web", Some("u1")), "").await.unwrap();
        runtime.run_sandbox(&sandbox("by-hand", None), "").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("pods/u1/volumes")).unwrap();
        std::fs::write(folder.path().join("pods/u1/volumes/secret"), "s").unwrap();
        // A pod whose sandbox is gone already.
        std::fs::create_dir_all(folder.path().join("pods/u2")).unwrap();
        let logs = folder.path().join("logs");
        for name in ["default_web_u1", "default_old_u2", "kube-system_proxy_u9", "strange"] {
            std::fs::create_dir_all(logs.join(name).join("main")).unwrap();
        }
        let links = folder.path().join("containers");
        std::fs::create_dir(&links).unwrap();
        for of in ["default_web_u1", "kube-system_proxy_u9"] {
            std::os::unix::fs::symlink(logs.join(of).join("main/0.log"), links.join(format!("{of}.log")))
                .unwrap();
        }
        assert_eq!(remove_pods(&runtime, folder.path(), &logs, None).await.unwrap(), 1);
        assert_eq!(names(&links), ["kube-system_proxy_u9.log"]);
        let mut kept = names(&logs);
        kept.sort();
        assert_eq!(kept, ["kube-system_proxy_u9", "strange"]);
        let left = runtime.list_sandboxes().await.unwrap();
        assert_eq!(left.len(), 1);
        assert!(!folder.path().join("pods").exists());
        assert_eq!(remove_pods(&runtime, folder.path(), &logs, None).await.unwrap(), 0, "again does no harm");
    }
}
