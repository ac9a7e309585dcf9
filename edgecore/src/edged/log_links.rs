//! Names by which collectors of logs (fluent-bit and others) find each container's log and read off whose it is:
//! `containers/<pod>_<namespace>_<container>-<id>.log` beside `podLogsDir`, which is `/var/log/containers` unless that lies
//! elsewhere. Each is a link to the file that the runtime writes.
//!
//! A link is made when its container starts and goes with its log. [`LogLinks`] looks now and then at what is there: it makes
//! what is missing for containers that ran before, and sweeps up what leads nowhere. Called by `hands.rs`, `worker.rs` and
//! `remove_pods.rs`; it reads no log, and nobody here reads a link.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;
use ke_run::shutdown::Shutdown;

use super::container::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, RESTART_COUNT, log_path};
use super::cri::Runtime;

/// Name of the folder beside `podLogsDir`.
const FOLDER: &str = "containers";
const END: &str = ".log";
/// Longest name of a file on Linux' file systems; what is longer is cut, as by a kubelet.
const MAX_NAME: usize = 255;
/// A link that leads nowhere does no harm for so long.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps the folder of links in order.
pub struct LogLinks {
    runtime: Arc<dyn Runtime>,
    pod_logs_root: PathBuf,
}

impl LogLinks {
    /// Nothing happens before `run`.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, pod_logs_root: PathBuf) -> Self {
        Self { runtime, pod_logs_root }
    }

    /// Looks until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            // A runtime that is away is everybody's affair and told elsewhere.
            if let Ok(containers) = self.runtime.list_containers().await {
                let wanted = wanted(&self.pod_logs_root, &containers);
                let root = self.pod_logs_root.clone();
                let _ = tokio::task::spawn_blocking(move || tidy(&root, &wanted)).await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.wait() => return Ok(()),
            }
        }
    }
}

/// A container has started and writes to `log`.
pub(super) fn make(pod_logs_root: &Path, pod: &Pod, container: &str, id: &str, log: &Path) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = name(&text(&pod.metadata.name), &text(&pod.metadata.namespace), container, id);
    put(&folder(pod_logs_root), &name, log);
}

/// A log, or a folder with all logs in it, is gone.
pub(super) fn remove(pod_logs_root: &Path, logs: &Path) {
    for (link, log) in links(&folder(pod_logs_root)) {
        if log.starts_with(logs) {
            let _ = fs::remove_file(link);
        }
    }
}

fn folder(pod_logs_root: &Path) -> PathBuf {
    pod_logs_root.with_file_name(FOLDER)
}

fn name(pod: &str, namespace: &str, container: &str, id: &str) -> String {
    let mut name = format!("{pod}_{namespace}_{container}-{id}");
    // All of it is ASCII: names of Kubernetes and an id of the runtime.
    name.truncate(MAX_NAME.saturating_sub(END.len()));
    name + END
}

/// The links of these containers, with where each leads. Those of somebody else's containers are none of ours.
fn wanted(pod_logs_root: &Path, containers: &[v1::Container]) -> BTreeMap<String, PathBuf> {
    let link = |one: &v1::Container| {
        let label = |key: &str| one.labels.get(key).map(String::as_str);
        let (pod, namespace) = (label(POD_NAME)?, label(POD_NAMESPACE)?);
        let (uid, container) = (label(POD_UID)?, label(CONTAINER_NAME)?);
        let attempt = one.annotations.get(RESTART_COUNT)?.parse().ok()?;
        let of_pod = pod_logs_root.join(format!("{namespace}_{pod}_{uid}"));
        Some((name(pod, namespace, container, &one.id), of_pod.join(log_path(container, attempt))))
    };
    containers.iter().filter_map(link).collect()
}

/// Blocking, but only on the disk.
fn tidy(pod_logs_root: &Path, wanted: &BTreeMap<String, PathBuf>) {
    let folder = folder(pod_logs_root);
    for (name, log) in wanted {
        put(&folder, name, log);
    }
    for (link, log) in links(&folder) {
        let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A log that is being rotated is away for a moment; where it leads elsewhere, somebody else made it.
        if !wanted.contains_key(name) && log.starts_with(pod_logs_root) && !log.exists() {
            let _ = fs::remove_file(link);
        }
    }
}

/// Makes a link if there is none and there is a log: some runtimes keep theirs elsewhere. Said, but nobody's failure.
fn put(folder: &Path, name: &str, log: &Path) {
    let link = folder.join(name);
    if !log.exists() || fs::symlink_metadata(&link).is_ok() {
        return;
    }
    let made = fs::create_dir_all(folder).and_then(|()| std::os::unix::fs::symlink(log, &link));
    if let Err(error) = made.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    }) {
        tracing::warn!(%error, link = %link.display(), "collectors of logs will not find a container's log");
    }
}

/// Every link that ends as ours do, with where it leads.
fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = entries.filter(|path| path.to_string_lossy().ends_with(END));
    ours.filter_map(|path| fs::read_link(&path).ok().map(|log| (path, log))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_tell_whose_log_it_is() {
        assert_eq!(name("web", "shop", "app", "4f6c"), "web_shop_app-4f6c.log");
        let long = name(&"p".repeat(253), "shop", "app", "4f6c");
        assert_eq!((long.len(), long.ends_with("p.log")), (255, true));
    }

    #[test]
    fn a_link_comes_with_its_log_and_goes_with_it() {
        let place = tempfile::tempdir().unwrap();
        let (root, folder) = (place.path().join("pods"), place.path().join("containers"));
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}}))
                .unwrap();
        let log = |attempt: u32| root.join("shop_web_u1").join(log_path("app", attempt));
        make(&root, &pod, "app", "c0", &log(0));
        assert!(names(&folder).is_empty(), "there is no log");
        fs::create_dir_all(root.join("shop_web_u1/app")).unwrap();
        for attempt in [0, 1] {
            fs::write(log(attempt), format!("life {attempt}")).unwrap();
            make(&root, &pod, "app", &format!("c{attempt}"), &log(attempt));
            make(&root, &pod, "app", &format!("c{attempt}"), &log(attempt));
        }
        assert_eq!(names(&folder), ["web_shop_app-c0.log", "web_shop_app-c1.log"]);
        assert_eq!(fs::read_to_string(folder.join("web_shop_app-c1.log")).unwrap(), "life 1");
        remove(&root, &log(0));
        assert_eq!(names(&folder), ["web_shop_app-c1.log"]);
        remove(&root, &root.join("shop_web_u10"));
        assert_eq!(names(&folder).len(), 1, "another pod's folder");
        remove(&root, &root.join("shop_web_u1"));
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn what_is_missing_is_made_and_what_leads_nowhere_goes() {
        let place = tempfile::tempdir().unwrap();
        let (root, folder) = (place.path().join("pods"), place.path().join("containers"));
        fs::create_dir_all(root.join("shop_web_u1/app")).unwrap();
        fs::write(root.join("shop_web_u1/app/2.log"), "").unwrap();
        fs::create_dir_all(&folder).unwrap();
        let dead = |name: &str, to: PathBuf| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
        dead("orphan.log", root.join("shop_old_u9/app/0.log"));
        dead("rotated_shop_app-c9.log", root.join("shop_rotated_u2/app/0.log"));
        dead("others.log", "/no/such/place/0.log".into());
        dead("link", root.join("shop_old_u9"));
        fs::write(folder.join("file.log"), "").unwrap();
        let container = |pod: &str, uid: &str, id: &str, attempt: &str| {
            let labels = [(POD_NAME, pod), (POD_NAMESPACE, "shop"), (POD_UID, uid), (CONTAINER_NAME, "app")];
            v1::Container {
                id: id.into(),
                labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                annotations: [(RESTART_COUNT.to_owned(), attempt.to_owned())].into(),
                ..v1::Container::default()
            }
        };
        let by_hand = v1::Container { id: "c7".into(), ..v1::Container::default() };
        let containers = [container("web", "u1", "c1", "2"), container("rotated", "u2", "c9", "0"), by_hand];
        tidy(&root, &wanted(&root, &containers));
        let expected = ["file.log", "link", "others.log", "rotated_shop_app-c9.log", "web_shop_app-c1.log"];
        assert_eq!(names(&folder), expected);
    }
}
