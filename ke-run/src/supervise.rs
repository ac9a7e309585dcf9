//! Runs a process's modules as named tasks that stop together.
//!
//! It restarts nothing: a module that can go on does so itself, and one that cannot ends the process, which the
//! service manager starts anew. Called by `main.rs` only.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

use crate::shutdown::Shutdown;

/// How long modules may take to finish after they were asked to stop. Well below the 30 s after which Kubernetes and
/// the 90 s after which systemd kill.
pub const GRACE: Duration = Duration::from_secs(10);

/// The tasks of a process. Add them all, then `join`.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    tasks: JoinSet<anyhow::Result<()>>,
    running: BTreeMap<Id, &'static str>,
}

impl Supervisor {
    /// `shutdown` is handed to every task, and the supervisor triggers it when one fails.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Starts a task at once. It should return soon after its `stop` is triggered.
    /// An early `Ok` does not stop the others: the task had nothing to do.
    pub fn add<Start, Task, Error>(&mut self, name: &'static str, start: Start)
    where
        Start: FnOnce(Shutdown) -> Task,
        Task: Future<Output = Result<(), Error>> + Send + 'static,
        Error: Into<anyhow::Error>,
    {
        let task = start(self.shutdown.clone());
        let handle = self.tasks.spawn(async move { task.await.map_err(Into::into) });
        self.running.insert(handle.id(), name);
    }

    /// Waits until all tasks have ended. The first failure, by error or panic, asks all others to stop.
    /// Errors: that first failure with the task's name, or the names of tasks that did not end within [`GRACE`] of
    /// being asked, or before a second signal; those are cut off where they stand.
    pub async fn join(mut self) -> anyhow::Result<()> {
        let mut first_failure = None;
        let cut_off = cut_off(self.shutdown.clone());
        tokio::pin!(cut_off);
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next_with_id() => ended,
                why = &mut cut_off => {
                    let names = self.running.values().copied().collect::<Vec<_>>().join(", ");
                    self.tasks.abort_all();
                    let late = anyhow::anyhow!("did not stop {why}: {names}");
                    tracing::error!("{late}");
                    return Err(first_failure.unwrap_or(late));
                }
            };
            let Some(ended) = ended else { break };
            let (id, outcome) = match ended {
                Ok((id, outcome)) => (id, outcome),
                Err(broken) => (broken.id(), Err(anyhow::anyhow!("{}", panic_text(broken)))),
            };
            let name = self.running.remove(&id).unwrap_or("unnamed");
            match outcome {
                Ok(()) if self.shutdown.is_triggered() => tracing::debug!(task = name, "task stopped"),
                Ok(()) => tracing::debug!(task = name, "task has done its work; the others go on"),
                Err(failure) if first_failure.is_none() => {
                    tracing::error!(task = name, "task failed, stopping all: {failure:#}");
                    first_failure = Some(failure.context(format!("task {name} failed")));
                    // Not asked twice when a signal came first: the second wish would cut the others off.
                    if !self.shutdown.is_triggered() {
                        self.shutdown.ask();
                    }
                }
                Err(failure) => tracing::warn!(task = name, "task failed while stopping: {failure:#}"),
            }
        }
        first_failure.map_or(Ok(()), Err)
    }
}

/// Ends when patience does, and says why.
async fn cut_off(shutdown: Shutdown) -> &'static str {
    shutdown.wait().await;
    tokio::select! {
        () = tokio::time::sleep(GRACE) => "within 10 s",
        () = shutdown.wait_hard() => "before the second signal",
    }
}

fn panic_text(broken: tokio::task::JoinError) -> String {
    match broken.try_into_panic() {
        Ok(payload) => match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => format!("panic: {text}"),
            (_, Some(text)) => format!("panic: {text}"),
            _ => "panic".to_owned(),
        },
        Err(cancelled) => cancelled.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Full;

    async fn until_stopped(stop: Shutdown) -> Result<(), Full> {
        stop.wait().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_wish_to_stop_ends_all_tasks_without_error() {
        let (trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown);
        tasks.add("one", until_stopped);
        tasks.add("two", until_stopped);
        tasks.add("nothing_to_do", |_| async { Ok::<_, anyhow::Error>(()) });
        trigger.stop();
        tasks.join().await.unwrap();
    }

    #[tokio::test]
    async fn the_first_failure_stops_the_others_and_is_named() {
        let (_trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown.clone());
        tasks.add("steady", until_stopped);
        tasks.add("store", |_| async { Err(Full) });
        tasks.add("follower", |stop| async move {
            stop.wait().await;
            anyhow::bail!("the store is gone")
        });
        let failure = tasks.join().await.unwrap_err();
        assert_eq!(format!("{failure:#}"), "task store failed: disk full");
        assert!(shutdown.is_triggered());
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_a_name() {
        let (_trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown);
        tasks.add("steady", until_stopped);
        tasks.add("wild", |stop| async move {
            assert!(stop.is_triggered(), "not yet");
            Ok::<_, Full>(())
        });
        let failure = tasks.join().await.unwrap_err();
        assert_eq!(format!("{failure:#}"), "task wild failed: panic: not yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_cut_off_after_the_grace() {
        let (trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown);
        tasks.add("deaf", |_| std::future::pending::<Result<(), Full>>());
        tasks.add("steady", until_stopped);
        trigger.stop();
        let started = tokio::time::Instant::now();
        assert_eq!(tasks.join().await.unwrap_err().to_string(), "did not stop within 10 s: deaf");
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_cuts_off_at_once_and_a_failure_still_comes_first() {
        let (trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown);
        tasks.add("deaf", |_| std::future::pending::<Result<(), Full>>());
        trigger.stop();
        trigger.stop();
        let started = tokio::time::Instant::now();
        assert_eq!(
            tasks.join().await.unwrap_err().to_string(),
            "did not stop before the second signal: deaf"
        );
        assert!(started.elapsed() < GRACE);

        let (_trigger, shutdown) = Shutdown::new();
        let mut tasks = Supervisor::new(shutdown);
        tasks.add("deaf", |_| std::future::pending::<Result<(), Full>>());
        tasks.add("store", |_| async { Err(Full) });
        assert_eq!(format!("{:#}", tasks.join().await.unwrap_err()), "task store failed: disk full");
    }

    #[tokio::test]
    async fn no_tasks_at_all_is_not_an_error() {
        let (_trigger, shutdown) = Shutdown::new();
        Supervisor::new(shutdown).join().await.unwrap();
    }
}
