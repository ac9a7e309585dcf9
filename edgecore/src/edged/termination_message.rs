//! What an application left behind when it ended: its termination message file, or the end of its log.
//!
//! Reads files that applications write: never more than is shown, and never through a link, pipe or device. Called by
//! `inspector.rs` once for each container that has ended; decides nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use ke_cri::v1;

use super::container::{TERMINATION_MESSAGE_PATH, TERMINATION_MESSAGE_POLICY};
use super::logs::Decoder;

/// Kubernetes keeps this much of a termination message, the last of it.
const MAX_MESSAGE: u64 = 4096;
/// And this much of a log that stands in for one.
const MAX_LOG: usize = 2048;
const MAX_LINES: usize = 80;
/// Enough of a log file for that, heads of lines included: a runtime breaks lines after 16 KiB.
const WINDOW: u64 = 64 * 1024;

/// Adds what the application left to what the runtime says of a container that has ended.
pub(super) async fn add_termination_message(status: &mut v1::ContainerStatus) {
    let policy = status.annotations.get(TERMINATION_MESSAGE_POLICY).map(String::as_str);
    let falls_back = policy == Some("FallbackToLogsOnError") && status.exit_code != 0;
    let path = status.annotations.get(TERMINATION_MESSAGE_PATH).filter(|path| !path.is_empty());
    let mount = path.and_then(|path| status.mounts.iter().find(|mount| mount.container_path == *path));
    let file = mount.map(|mount| mount.host_path.clone());
    let log = falls_back.then(|| status.log_path.clone());
    let words = tokio::task::spawn_blocking(move || {
        let left = file.and_then(|file| end_of(Path::new(&file), MAX_MESSAGE).ok()).unwrap_or_default();
        match log.filter(|_| left.is_empty()) {
            None => String::from_utf8_lossy(&left).into_owned(),
            Some(log) => end_of_log(Path::new(&log))
                .unwrap_or_else(|error| format!("Error on reading termination message from logs: {error}")),
        }
    });
    if let Ok(words) = words.await
        && !words.is_empty()
    {
        if !status.message.is_empty() {
            status.message.push_str(": ");
        }
        status.message.push_str(&words);
    }
}

/// The last bytes of a plain file.
fn end_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("no plain file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines of a log as the application wrote them.
fn end_of_log(path: &Path) -> io::Result<String> {
    let bytes = end_of(path, WINDOW)?;
    let is_cut = bytes.len() as u64 == WINDOW;
    // What is cut off begins within a line.
    let begin = if is_cut { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1) } else { 0 };
    let mut shown = Vec::new();
    let mut decoder = Decoder::new(None, false, None);
    decoder.feed(bytes.get(begin..).unwrap_or_default(), &mut shown);
    decoder.end_file(&mut shown);
    let ends = shown.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    // The newline at the very end ends the last line, it does not begin another one.
    let first = ends.filter(|at| *at < shown.len()).nth(MAX_LINES - 1).unwrap_or(0);
    let begin = first.max(shown.len().saturating_sub(MAX_LOG));
    Ok(String::from_utf8_lossy(shown.get(begin..).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that ended so, with this in its message file and log.
    async fn words(policy: &str, exit_code: i32, message: Option<&str>, log: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (file, log_path) = (folder.path().join("message"), folder.path().join("0.log"));
        if let Some(message) = message {
            std::fs::write(&file, message).unwrap();
        }
        std::fs::write(&log_path, log).unwrap();
        let mut status = v1::ContainerStatus {
            exit_code,
            log_path: log_path.display().to_string(),
            annotations: [
                (TERMINATION_MESSAGE_PATH.to_owned(), "/dev/termination-log".to_owned()),
                (TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
            ]
            .into(),
            mounts: vec![v1::Mount {
                container_path: "/dev/termination-log".into(),
                host_path: file.display().to_string(),
                ..v1::Mount::default()
            }],
            ..v1::ContainerStatus::default()
        };
        add_termination_message(&mut status).await;
        status.message
    }

    fn line(text: &str) -> String {
        format!("2026-01-31T12:00:00.000000001Z stdout F {text}\n")
    }

    #[tokio::test]
    async fn the_file_goes_before_the_log_and_the_log_only_after_an_error() {
        let log = line("one") + &line("two");
        let fallback = "FallbackToLogsOnError";
        assert_eq!(words("File", 1, Some("bye"), &log).await, "bye");
        assert_eq!(words("File", 1, Some(""), &log).await, "");
        assert_eq!(words(fallback, 1, Some("bye"), &log).await, "bye");
        assert_eq!(words(fallback, 1, Some(""), &log).await, "one\ntwo\n");
        assert_eq!(words(fallback, 1, None, &log).await, "one\ntwo\n");
        assert_eq!(words(fallback, 0, Some(""), &log).await, "");
        let partial = "2026-01-31T12:00:00.000000001Z stdout P DONE\n";
        assert_eq!(words(fallback, 1, Some(""), partial).await, "DONE");
    }

    #[tokio::test]
    async fn the_end_counts() {
        let long = "x".repeat(5000) + "end";
        let message = words("File", 0, Some(&long), "").await;
        assert_eq!((message.len(), message.ends_with("end")), (4096, true));
        let fallback = "FallbackToLogsOnError";
        let lines: String = (0..100).map(|n| line(&n.to_string())).collect();
        let message = words(fallback, 1, None, &lines).await;
        assert_eq!((message.lines().count(), message.lines().next()), (80, Some("20")));
        let wide: String = (0..2000).map(|n| line(&format!("{n:0100}"))).collect();
        let message = words(fallback, 1, None, &wide).await;
        assert_eq!((message.len(), message.ends_with("1999\n")), (2048, true));
    }

    #[tokio::test]
    async fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(end_of(&link, 10).is_err());
    }
}
