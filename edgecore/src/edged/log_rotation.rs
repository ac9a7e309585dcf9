//! Container logs are bounded: one that has grown too large is moved aside and begun anew, older parts are packed, the
//! oldest go. A machine that nobody visits must not be filled by a talkative program.
//!
//! Names are the kubelet's (`0.log.20260131-120000`, then `.gz`), so each finds the other's files. The newest part stays
//! plain text for whoever reads or follows the log (`logs/`). Nothing is remembered: a kill between any two lines leaves
//! files that the next look deals with. Of dead containers nothing grows; their files go with them ([`remove`]).
//!
//! A look is one at the files (`due.rs`); the runtime is asked only for the container of a log that is to be rotated.

mod due;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1;
use ke_run::shutdown::Shutdown;

use self::due::due;
use super::container::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, log_path};
use super::cri::{Runtime, RuntimeError};

const PACKED: &str = ".gz";
const UNFINISHED: &str = ".tmp";

/// When a log is rotated and what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `containerLogMaxSize` in bytes: a file that is larger is rotated. `None`: never.
    pub max_bytes: Option<u64>,
    /// `containerLogMaxFiles`, the one being written included. At least two.
    pub max_files: usize,
    /// `containerLogMonitorInterval`.
    pub interval: Duration,
}

/// Rotates the logs of containers that run.
pub struct LogRotation {
    runtime: Arc<dyn Runtime>,
    bounds: Bounds,
    /// The folder of all logs. Files outside are left alone.
    root: PathBuf,
}

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    Files(#[from] io::Error),
    #[error("the runtime does not begin a new file: {0}")]
    Runtime(#[from] RuntimeError),
    #[error("the work was broken off")]
    BrokenOff,
}

impl LogRotation {
    /// Nothing happens before `run`.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, root: PathBuf, bounds: Bounds) -> Self {
        Self { runtime, bounds, root }
    }

    /// Looks until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.bounds.interval) => {}
                () = shutdown.wait() => return Ok(()),
            }
            self.look().await;
        }
    }

    async fn look(&self) {
        let Some(max_bytes) = self.bounds.max_bytes else { return };
        let root = self.root.clone();
        // Broken off: the next look is near.
        let logs = tokio::task::spawn_blocking(move || due(&root, max_bytes)).await.unwrap_or_default();
        if logs.is_empty() {
            return;
        }
        // A runtime that is away is everybody's affair and told elsewhere.
        let Ok(containers) = self.runtime.list_containers().await else { return };
        let running = containers
            .iter()
            .filter(|container| container.state() == v1::ContainerState::ContainerRunning)
            .filter_map(|container| Some((&container.id, log_of(&self.root, container)?)));
        for (id, log) in running.filter(|(_, log)| logs.contains(log)) {
            if let Err(error) = self.rotate(id, &log).await {
                tracing::warn!(container = %id, %error, "a container's log could not be rotated; it is tried again");
            }
        }
    }

    async fn rotate(&self, id: &str, path: &Path) -> Result<(), RotationError> {
        // Somebody else may have made the container, with its log in another place.
        match self.runtime.container_status(id).await {
            Ok(status) if Path::new(&status.log_path) == path => {}
            Ok(_) | Err(_) => return Ok(()),
        }
        if !tokio::fs::try_exists(path).await? {
            // An earlier rotation was killed after it moved the file: the runtime still writes to that one.
            return Ok(self.runtime.reopen_log(id).await?);
        }
        let (old, max_files) = (path.to_owned(), self.bounds.max_files);
        // Packing takes a processor for a while.
        let packed = tokio::task::spawn_blocking(move || pack_and_prune(&old, max_files)).await;
        packed.map_err(|_| RotationError::BrokenOff)??;
        let aside = with_end(path, &stamp(Timestamp::now()));
        tokio::fs::rename(path, &aside).await?;
        if let Err(error) = self.runtime.reopen_log(id).await {
            // It writes on into the file that it has open: under its own name, so that nothing is lost.
            let _ = tokio::fs::rename(&aside, path).await;
            return Err(error.into());
        }
        tracing::debug!(container = %id, log = %aside.display(), "a container's log was rotated");
        Ok(())
    }
}

/// Where a container that edged or a kubelet made writes its log; `None` for every other one.
fn log_of(root: &Path, container: &v1::Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key);
    let pod = format!("{}_{}_{}", label(POD_NAMESPACE)?, label(POD_NAME)?, label(POD_UID)?);
    let attempt = container.metadata.as_ref()?.attempt;
    Some(root.join(pod).join(log_path(label(CONTAINER_NAME)?, attempt)))
}

/// Removes a log with all that was rotated of it.
pub(super) fn remove(path: &Path) {
    for part in rotated(path).into_iter().chain([path.to_owned()]) {
        let _ = fs::remove_file(part);
    }
}

/// Makes room for one more part: packs what is plain, removes the oldest and what was left unfinished.
fn pack_and_prune(path: &Path, max_files: usize) -> io::Result<()> {
    let mut parts = Vec::new();
    for part in rotated(path) {
        if has_end(&part, UNFINISHED) {
            fs::remove_file(part)?;
        } else {
            parts.push(part);
        }
    }
    // Packed, and the plain one was not removed any more.
    parts.retain(|part| {
        has_end(part, PACKED) || !with_end(part, PACKED).exists() || fs::remove_file(part).is_err()
    });
    // Beside these there will be the newest part and the file that is written.
    let n_over = parts.len().saturating_sub(max_files.saturating_sub(2));
    for part in parts.drain(..n_over) {
        fs::remove_file(part)?;
    }
    for part in parts.iter().filter(|part| !has_end(part, PACKED)) {
        pack(part)?;
    }
    Ok(())
}

fn pack(part: &Path) -> io::Result<()> {
    let unfinished = with_end(part, UNFINISHED);
    let about = fs::metadata(part)?;
    let mut packed = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(part)?, &mut packed)?;
    let file = packed.finish()?;
    file.set_permissions(about.permissions())?;
    file.sync_all()?;
    fs::rename(unfinished, with_end(part, PACKED))?;
    fs::remove_file(part)
}

/// Everything that was rotated of this log, oldest first: names end in their time.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let is_part = |other: &str| {
        let time = other.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        time.is_some_and(|time| time.starts_with(|c: char| c.is_ascii_digit()))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut parts: Vec<PathBuf> = names.filter(|name| is_part(name)).map(|name| folder.join(name)).collect();
    parts.sort();
    parts
}

fn stamp(now: Timestamp) -> String {
    format!(".{}", now.strftime("%Y%m%d-%H%M%S"))
}

fn has_end(path: &Path, end: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::edged::cri_fake::FakeRuntime;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A container that runs, and its log.
    async fn talker(runtime: &FakeRuntime, root: &Path) -> (String, PathBuf) {
        runtime.add_image("i", "");
        let labels = [(POD_UID, "u1"), (POD_NAME, "web"), (POD_NAMESPACE, "shop"), (CONTAINER_NAME, "app")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let folder = root.join("shop_web_u1");
        fs::create_dir_all(folder.join("app")).unwrap();
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata { name: "web".into(), ..Default::default() }),
            log_directory: folder.display().to_string(),
            labels: labels.clone().into(),
            ..Default::default()
        };
        let sandbox_id = runtime.run_sandbox(&sandbox, "").await.unwrap();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 3 }),
            image: Some(v1::ImageSpec { image: "i".into(), ..Default::default() }),
            labels: labels.into(),
            log_path: "app/3.log".into(),
            ..Default::default()
        };
        let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        (id, folder.join("app/3.log"))
    }

    fn rotation(runtime: &FakeRuntime, root: &Path, max_files: usize) -> LogRotation {
        let bounds = Bounds { max_bytes: Some(10), max_files, interval: Duration::from_secs(10) };
        LogRotation::new(Arc::new(runtime.clone()), root.to_owned(), bounds)
    }

    #[tokio::test]
    async fn a_log_that_grew_is_begun_anew() {
        let root = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new();
        let (id, log) = talker(&runtime, root.path()).await;
        let folder = log.parent().unwrap();
        let rotation = rotation(&runtime, root.path(), 3);
        let n_reopened =
            || runtime.calls().iter().filter(|call| call.name == "reopen_log" && call.subject == id).count();
        fs::write(&log, "0123456789").unwrap();
        let n_calls = runtime.calls().len();
        rotation.look().await;
        assert_eq!(names(folder), ["3.log"], "it may have ten bytes");
        assert_eq!(runtime.calls().len(), n_calls, "sizes are the files' affair");
        fs::write(&log, "0123456789+").unwrap();
        rotation.look().await;
        let parts = names(folder);
        assert_eq!((parts.len(), n_reopened()), (1, 1), "{parts:?}");
        assert!(parts[0].starts_with("3.log.2"), "{parts:?}");
        // The runtime began a new file; a kill between the two steps is made good.
        rotation.look().await;
        assert_eq!(n_reopened(), 2, "the file is not there, so it is asked for once more");
        // -1: never.
        let never = LogRotation { bounds: Bounds { max_bytes: None, ..rotation.bounds }, ..rotation };
        fs::write(&log, "0123456789+").unwrap();
        never.look().await;
        assert_eq!((names(folder).len(), n_reopened()), (2, 2));
        remove(&log);
        assert!(names(folder).is_empty());
    }

    #[tokio::test]
    async fn what_nobody_writes_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new();
        let (id, log) = talker(&runtime, root.path()).await;
        let rotation = rotation(&runtime, root.path(), 3);
        // Of another pod, of which the runtime knows nothing.
        let other = root.path().join("shop_gone_u2/app");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("0.log"), "0123456789+").unwrap();
        rotation.look().await;
        assert_eq!(names(&other), ["0.log"]);
        // It has ended.
        fs::write(&log, "0123456789+").unwrap();
        runtime.exit_container(&id, 0, "Completed");
        rotation.look().await;
        assert_eq!(names(log.parent().unwrap()), ["3.log"]);
        assert!(!runtime.calls().iter().any(|call| call.name == "reopen_log"));
    }

    #[tokio::test]
    async fn a_runtime_that_cannot_leaves_the_log_in_its_place() {
        let root = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new();
        let (_, log) = talker(&runtime, root.path()).await;
        fs::write(&log, "0123456789+").unwrap();
        runtime.fail_next("reopen_log", RuntimeError::NotOffered("ReopenContainerLog"));
        rotation(&runtime, root.path(), 3).look().await;
        assert_eq!(names(log.parent().unwrap()), ["3.log"]);
    }

    #[test]
    fn older_parts_are_packed_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), name).unwrap();
        for name in [
            "0.log",
            "1.log.20260101-000000",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000002",
            "0.log.20260101-000002.gz",
            "0.log.20260101-000003",
            "0.log.20260101-000004.tmp",
            "0.log.20260101-000004",
        ] {
            write(name);
        }
        let log = folder.path().join("0.log");
        pack_and_prune(&log, 5).unwrap();
        let expected = [
            "0.log",
            "0.log.20260101-000002.gz",
            "0.log.20260101-000003.gz",
            "0.log.20260101-000004.gz",
            "1.log.20260101-000000",
        ];
        assert_eq!(names(folder.path()), expected);
        let mut text = String::new();
        let packed = File::open(folder.path().join("0.log.20260101-000003.gz")).unwrap();
        GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "0.log.20260101-000003");
        pack_and_prune(&log, 2).unwrap();
        assert_eq!(names(folder.path()), ["0.log", "1.log.20260101-000000"]);
    }

    #[test]
    fn names_tell_the_time() {
        let at = "2026-01-31T12:00:05Z".parse().unwrap();
        assert_eq!(stamp(at), ".20260131-120005");
    }
}
