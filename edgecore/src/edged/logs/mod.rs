//! A container's log as it is asked for: the files that the runtime writes below `podLogsDir`, from the part that is wanted
//! on, and what comes while somebody follows.
//!
//! Files that were rotated away belong to the log as long as they are plain text. Never holds more than one block of it,
//! never changes it, and needs the runtime only to know when to stop following. Whoever serves logs calls it.

mod endings;
mod line;
mod options;
mod tail;

use std::collections::VecDeque;
use std::fs::Metadata;
use std::io::{self, ErrorKind, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

pub use self::endings::Endings;
pub(super) use self::line::Decoder;
pub use self::options::{LogOptions, LogStream};
use self::tail::TailScan;
use super::container::{log_directory, log_path};

/// One read.
const BLOCK: usize = 32 << 10;
/// How often a followed file is looked at when nothing came.
const LOOK: Duration = Duration::from_millis(200);

/// Where the log of one start of a container lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The file that is written now, or was last.
    pub path: PathBuf,
    /// The runtime's id of the container; empty if it is not known.
    pub container_id: String,
}

/// The file of the container that the pod's status tells of; `previous`: of the one before it. Errors: a sentence that says
/// why there is none.
pub fn log_file(root: &Path, pod: &Pod, container: &str, previous: bool) -> Result<LogFile, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    let lists = status.map(|status| {
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
    });
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let status = all.find(|status| status.name == container);
    let Some((id, attempt)) = status.and_then(|status| started(status, previous)) else {
        let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
        return Err(match (previous, waiting) {
            (true, _) => format!(
                "container {container} of pod {name} has not ended and been started again: there is no previous log"
            ),
            (false, Some(why)) => format!("container {container} of pod {name} waits to start: {why}"),
            (false, None) => format!("container {container} of pod {name} has not been started yet"),
        });
    };
    let path = Path::new(&log_directory(root, pod)).join(log_path(container, attempt));
    Ok(LogFile { path, container_id: id.rsplit("://").next().unwrap_or_default().to_owned() })
}

/// Id and number of the start that is meant.
fn started(status: &ContainerStatus, previous: bool) -> Option<(String, u32)> {
    let attempt = u32::try_from(status.restart_count).ok()?;
    let is_waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last_id = || last.and_then(|last| last.container_id.clone()).unwrap_or_default();
    match (previous, is_waiting, last) {
        // It waits for its next start: the last one is both what is there and what was before.
        (_, true, Some(_)) => Some((last_id(), attempt)),
        (false, true, None) => None,
        (false, false, _) => Some((status.container_id.clone()?, attempt)),
        (true, _, None) => None,
        (true, false, Some(_)) => Some((last_id(), attempt.checked_sub(1)?)),
    }
}

/// Between the last block and the end: the API server drops a block that comes in one piece with the end when it hands a log to
/// a WebSocket.
const BEFORE_END: Duration = Duration::from_millis(10);

/// A log that is being read.
pub struct Log {
    path: PathBuf,
    endings: Endings,
    container_id: String,
    follow: bool,
    file: File,
    position: u64,
    /// What comes after it.
    next: VecDeque<File>,
    /// Which file the newest one is.
    newest: (u64, u64),
    decoder: Decoder,
    left: Option<u64>,
    buffer: Vec<u8>,
    has_ended: bool,
}

impl Log {
    /// Opens the log and finds where to begin. Errors: `NotFound` where there is none yet, or none any more.
    pub async fn open(file: LogFile, options: &LogOptions, endings: Endings) -> io::Result<Self> {
        let current = File::open(&file.path).await?;
        let newest = identity(&current.metadata().await?);
        // A file that is rotated away now is found twice, not never.
        let mut files = older(&file.path, newest).await?;
        files.push(current);
        let mut position = 0;
        if let Some(wanted) = options.tail_lines {
            let (first, begin) = tail(&mut files, wanted).await?;
            files.drain(..first);
            position = begin;
        }
        let mut next: VecDeque<File> = files.into();
        let mut file_now = next.pop_front().ok_or(ErrorKind::NotFound)?;
        file_now.seek(SeekFrom::Start(position)).await?;
        Ok(Self {
            path: file.path,
            endings,
            container_id: file.container_id,
            follow: options.follow,
            file: file_now,
            position,
            next,
            newest,
            decoder: Decoder::new(options.since, options.timestamps, options.stream),
            left: options.limit_bytes,
            buffer: vec![0; BLOCK],
            has_ended: false,
        })
    }

    /// What is shown, block by block. Ends with the log, or when a followed container has ended.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures_util::stream::try_unfold(self, |mut log| async move {
            let block = log.next().await?;
            if block.is_none() {
                tokio::time::sleep(BEFORE_END).await;
            }
            Ok(block.map(|block| (block, log)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.left != Some(0) {
            let mut shown = Vec::new();
            let n_read = self.file.read(&mut self.buffer).await?;
            if n_read > 0 {
                self.position = self.position.saturating_add(n_read as u64);
                self.decoder.feed(self.buffer.get(..n_read).unwrap_or_default(), &mut shown);
            } else if let Some(next) = self.next.pop_front() {
                self.decoder.end_file(&mut shown);
                (self.file, self.position) = (next, 0);
            } else if self.follow && !self.has_ended {
                self.wait().await?;
            } else {
                return Ok(None);
            }
            if let Some(left) = &mut self.left {
                shown.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left = left.saturating_sub(shown.len() as u64);
            }
            if !shown.is_empty() {
                return Ok(Some(shown.into()));
            }
        }
        Ok(None)
    }

    /// The end was reached: until there is more. Whoever finds that the container has ended reads once more.
    async fn wait(&mut self) -> io::Result<()> {
        loop {
            let may_grow = match tokio::fs::metadata(&self.path).await {
                Ok(now) if identity(&now) != self.newest => {
                    // Rotated. What the old file still got is read before this one.
                    let file = File::open(&self.path).await?;
                    self.newest = identity(&file.metadata().await?);
                    self.next.push_back(file);
                    return Ok(());
                }
                Ok(now) if now.len() < self.position => {
                    // Emptied in place.
                    self.position = 0;
                    self.file.seek(SeekFrom::Start(0)).await?;
                    return Ok(());
                }
                Ok(now) if now.len() > self.position => return Ok(()),
                Ok(_) => false,
                // Moved away, and the runtime has not begun the next one; or gone with its pod.
                Err(error) if error.kind() == ErrorKind::NotFound => true,
                Err(error) => return Err(error),
            };
            if self.endings.has_ended(&self.container_id).await {
                self.has_ended = true;
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
            if may_grow {
                return Ok(());
            }
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Files that were rotated away, oldest first: the name and a time. Packed ones are left out.
async fn older(path: &Path, newest: (u64, u64)) -> io::Result<Vec<File>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let other = entry.file_name();
        let time = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.'));
        if time.is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')) {
            names.push(other);
        }
    }
    names.sort();
    let mut files = Vec::new();
    for name in names {
        match File::open(folder.join(name)).await {
            Ok(file) if identity(&file.metadata().await?) != newest => files.push(file),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// In which file the last lines begin, and where in it.
async fn tail(files: &mut [File], mut wanted: u64) -> io::Result<(usize, u64)> {
    if wanted == 0 {
        let last = files.len().saturating_sub(1);
        let length = match files.last() {
            Some(file) => file.metadata().await?.len(),
            None => 0,
        };
        return Ok((last, length));
    }
    for (index, file) in files.iter_mut().enumerate().rev() {
        let length = file.metadata().await?.len();
        let mut scan = TailScan::new(wanted, length);
        let mut end = length;
        while end > 0 {
            let begin = end.saturating_sub(BLOCK as u64);
            let mut block = vec![0; usize::try_from(end - begin).unwrap_or(BLOCK)];
            file.seek(SeekFrom::Start(begin)).await?;
            file.read_exact(&mut block).await?;
            if let Some(found) = scan.feed(&block, begin) {
                return Ok((index, found));
            }
            end = begin;
        }
        wanted = scan.missing();
        if wanted == 0 {
            return Ok((index, 0));
        }
        file.seek(SeekFrom::Start(0)).await?;
    }
    Ok((0, 0))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::sync::Arc;

    use futures_util::StreamExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::edged::cri_fake::FakeRuntime;

    fn lines(from: usize, to: usize) -> String {
        (from..=to).map(|n| format!("2026-01-31T12:00:{n:02}Z stdout F line {n}\n")).collect()
    }

    fn shown(from: usize, to: usize) -> String {
        (from..=to).map(|n| format!("line {n}\n")).collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// A log of lines 1 to 9 in three files.
    fn log() -> (tempfile::TempDir, LogFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        append(&folder.path().join("0.log.20260131-120003"), &lines(1, 3));
        append(&folder.path().join("0.log.20260131-120006"), &lines(4, 6));
        append(&folder.path().join("0.log.20260131-110000.gz"), "packed");
        append(&folder.path().join("1.log"), "another start's");
        append(&path, &lines(7, 9));
        (folder, LogFile { path, container_id: "c".into() })
    }

    #[tokio::test]
    async fn rotated_files_belong_to_the_log() {
        let (_folder, file) = log();
        let check = async |options: LogOptions, expected: String| {
            let endings = Endings::new(Arc::new(FakeRuntime::new()));
            let log = Log::open(file.clone(), &options, endings).await.unwrap();
            let blocks: Vec<Bytes> = log.into_stream().map(Result::unwrap).collect().await;
            assert_eq!(String::from_utf8(blocks.concat()).unwrap(), expected, "{options:?}");
        };
        let tail = |n: u64| LogOptions { tail_lines: Some(n), ..LogOptions::default() };
        check(LogOptions::default(), shown(1, 9)).await;
        check(tail(0), String::new()).await;
        check(tail(1), shown(9, 9)).await;
        check(tail(3), shown(7, 9)).await;
        check(tail(4), shown(6, 9)).await;
        check(tail(8), shown(2, 9)).await;
        check(tail(100), shown(1, 9)).await;
        let since = "2026-01-31T12:00:05Z".parse().ok();
        check(LogOptions { since, ..LogOptions::default() }, shown(5, 9)).await;
        check(LogOptions { since, ..tail(2) }, shown(8, 9)).await;
        let limit = LogOptions { limit_bytes: Some(10), ..LogOptions::default() };
        check(limit, "line 1\nlin".into()).await;
        let limit = LogOptions { limit_bytes: Some(10), follow: true, ..LogOptions::default() };
        check(limit, "line 1\nlin".into()).await;
    }

    #[tokio::test]
    async fn a_followed_log_is_rotated_emptied_and_ends() {
        let (_folder, file) = log();
        let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
        let runtime = FakeRuntime::new();
        // Away: it says nothing about the container.
        runtime.go_away();
        let endings = Endings::new(Arc::new(runtime.clone()));
        let log = Log::open(file.clone(), &options, endings).await.unwrap();
        let mut stream = Box::pin(log.into_stream());
        let mut next =
            async || stream.next().await.map(|block| String::from_utf8(block.unwrap().into()).unwrap());
        assert_eq!(next().await, Some(shown(9, 9)));
        append(&file.path, &lines(10, 10));
        assert_eq!(next().await, Some(shown(10, 10)));
        fs::rename(&file.path, file.path.with_extension("log.20260131-120010")).unwrap();
        append(&file.path, &lines(11, 12));
        assert_eq!(next().await, Some(shown(11, 12)));
        OpenOptions::new().write(true).open(&file.path).unwrap().set_len(0).unwrap();
        append(&file.path, &lines(13, 13));
        assert_eq!(next().await, Some(shown(13, 13)));
        // It answers again, and knows of no such container.
        runtime.heal();
        assert_eq!(next().await, None);
    }

    #[test]
    fn the_status_says_which_start_is_meant() {
        let check = |status: Value, previous: bool, expected: Result<(&str, &str), &str>| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": "web", "uid": "u1"},
                "status": {"containerStatuses": [status.clone()]},
            }))
            .unwrap();
            let got = log_file(Path::new("/logs"), &pod, "app", previous);
            match (got, expected) {
                (Ok(file), Ok((path, id))) => {
                    assert_eq!(file.path, Path::new("/logs/shop_web_u1/app").join(path), "{status}");
                    assert_eq!(file.container_id, id, "{status}");
                }
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{status}: {why}"),
                (got, _) => panic!("{status}: {got:?}"),
            }
        };
        let status = |restarts: u32, state: Value, last: Value| {
            json!({
                "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": restarts,
                "containerID": "containerd://now", "state": state, "lastState": last,
            })
        };
        let ended = json!({"terminated": {"exitCode": 1, "containerID": "containerd://last"}});
        let running = json!({"running": {}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        check(status(0, running.clone(), json!({})), false, Ok(("0.log", "now")));
        check(status(0, running.clone(), json!({})), true, Err("no previous log"));
        check(status(3, running.clone(), ended.clone()), false, Ok(("3.log", "now")));
        check(status(3, running, ended.clone()), true, Ok(("2.log", "last")));
        check(status(3, waiting.clone(), ended.clone()), false, Ok(("3.log", "last")));
        check(status(3, waiting.clone(), ended.clone()), true, Ok(("3.log", "last")));
        check(status(3, ended.clone(), ended), true, Ok(("2.log", "last")));
        check(status(0, waiting, json!({})), false, Err("waits to start: CrashLoopBackOff"));
        check(
            json!({"name": "other", "image": "", "imageID": "", "ready": false, "restartCount": 0}),
            false,
            Err("not been started"),
        );
    }
}
