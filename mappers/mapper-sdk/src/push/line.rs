//! One line to each target: a queue and a task that delivers what is in it, in order.
//!
//! Whoever pushes never waits, and nobody feels the target of another. All properties of one target configuration share its
//! line; it ends with the last of them. A value may be delivered twice when a connection breaks before the answer, never
//! changed. `mod.rs` hands lines out; what targets are is in the files beside this one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ke_run::backoff::Backoff;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::push::queue::Queue;
use crate::push::secrets::Secrets;

/// For a connection, and for each delivery.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Between tries.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(30), jitter: 0.0 };
/// A server that is there and cannot do it may have been choked by this very value.
const TRIES: u32 = 5;
/// That a target is too slow is told no more often.
const TELL_DROPPED: Duration = Duration::from_secs(60);

/// Somewhere that values are pushed to. Equal targets share a line.
pub(crate) trait Target: Clone + Ord + fmt::Display + Send + Sync + 'static {
    /// What is delivered.
    type Parcel: Send + Sync + 'static;
    /// A connection.
    type Session: Send;

    /// Reaches it.
    fn connect(&self, secrets: &Secrets) -> impl Future<Output = Result<Self::Session, Failure>> + Send;

    /// Delivers one, and waits for the answer. Dropped when it takes too long, and the session with it.
    fn deliver(
        &self,
        session: &mut Self::Session,
        parcel: &Self::Parcel,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why something was not delivered. Texts are for people and hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is not reached, or does not let us in. Tried again until it is.
    Away(String),
    /// It answers that it cannot at present. Tried again a few times.
    Busy(String),
    /// It will never take this one, which is left out.
    Refused(String),
}

impl Failure {
    /// Of a socket.
    pub(crate) fn io(error: &std::io::Error) -> Self {
        Self::Away(error.to_string())
    }
}

/// All lines to targets of one sort.
pub(crate) struct Lines<T: Target> {
    lines: Mutex<BTreeMap<T, Weak<Line<T>>>>,
    secrets: Arc<Secrets>,
}

impl<T: Target> Lines<T> {
    pub(crate) fn new(secrets: Arc<Secrets>) -> Self {
        Self { lines: Mutex::default(), secrets }
    }

    /// The one line to a target.
    pub(crate) fn to(&self, target: &T) -> Arc<Line<T>> {
        // What one of these steps leaves behind is whole.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.strong_count() > 0);
        if let Some(line) = lines.get(target).and_then(Weak::upgrade) {
            return line;
        }
        let shared = Arc::new(Shared { queue: Mutex::default(), added: Notify::new() });
        let carrier = Carrier::new(target.clone(), Arc::clone(&self.secrets), Arc::clone(&shared));
        let task = tokio::spawn(carrier.run()).abort_handle();
        let line = Arc::new(Line { target: target.clone(), shared, task });
        lines.insert(target.clone(), Arc::downgrade(&line));
        line
    }
}

/// The way to one target.
pub(crate) struct Line<T: Target> {
    target: T,
    shared: Arc<Shared<T::Parcel>>,
    task: AbortHandle,
}

impl<T: Target> Line<T> {
    /// Leaves something to be delivered. `whose`: device and property, for people.
    pub(crate) fn push(&self, whose: String, parcel: T::Parcel) {
        self.shared.queue().push(Letter { whose, parcel });
        self.shared.added.notify_one();
    }
}

impl<T: Target> Drop for Line<T> {
    fn drop(&mut self) {
        self.task.abort();
        let n_lost = self.shared.queue().len();
        if n_lost > 0 {
            tracing::info!(to = %self.target, n_lost, "nothing is pushed there any more; what still waited is lost");
        }
    }
}

struct Letter<P> {
    whose: String,
    parcel: P,
}

/// What those who push and the task both touch. The lock is never held across an await.
struct Shared<P> {
    queue: Mutex<Queue<Letter<P>>>,
    added: Notify,
}

impl<P> Shared<P> {
    fn queue(&self) -> MutexGuard<'_, Queue<Letter<P>>> {
        // Its methods do one thing each: whoever panicked left it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task.
struct Carrier<T: Target> {
    target: T,
    secrets: Arc<Secrets>,
    shared: Arc<Shared<T::Parcel>>,
    session: Option<T::Session>,
    is_told_away: bool,
    /// Properties of which the last push was refused.
    refused: BTreeSet<String>,
    told_dropped: Option<Instant>,
}

impl<T: Target> Carrier<T> {
    fn new(target: T, secrets: Arc<Secrets>, shared: Arc<Shared<T::Parcel>>) -> Self {
        Self {
            target,
            secrets,
            shared,
            session: None,
            is_told_away: false,
            refused: BTreeSet::new(),
            told_dropped: None,
        }
    }

    async fn run(mut self) {
        let mut n_failures = 0_u32;
        let mut tries = (0_u64, 0_u32);
        loop {
            let Some((number, letter)) = self.oldest() else {
                let shared = Arc::clone(&self.shared);
                shared.added.notified().await;
                continue;
            };
            if tries.0 != number {
                tries = (number, 0);
            }
            tries.1 = tries.1.saturating_add(1);
            match self.attempt(&letter.parcel).await {
                Ok(()) => self.on_delivered(&letter.whose),
                Err(Failure::Refused(why)) => self.on_refused(&letter.whose, &why),
                Err(Failure::Busy(why)) if tries.1 >= TRIES => self.on_refused(&letter.whose, &why),
                Err(Failure::Away(why) | Failure::Busy(why)) => {
                    self.tell_away(&why);
                    sleep(AGAIN.ceiling(n_failures)).await;
                    n_failures = n_failures.saturating_add(1);
                    continue;
                }
            }
            n_failures = 0;
            self.shared.queue().done(number);
        }
    }

    fn oldest(&self) -> Option<(u64, Arc<Letter<T::Parcel>>)> {
        self.shared.queue().oldest()
    }

    async fn attempt(&mut self, parcel: &T::Parcel) -> Result<(), Failure> {
        let was_open = self.session.is_some();
        match self.once(parcel).await {
            // Servers close connections that were silent for a while: that is no failure yet.
            Err(Failure::Away(_)) if was_open => self.once(parcel).await,
            outcome => outcome,
        }
    }

    /// A session that broke, or whose answer is still to come, is not used again.
    async fn once(&mut self, parcel: &T::Parcel) -> Result<(), Failure> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => limited(self.target.connect(&self.secrets)).await?,
        };
        let outcome = limited(self.target.deliver(&mut session, parcel)).await;
        if !matches!(outcome, Err(Failure::Away(_))) {
            self.session = Some(session);
        }
        outcome
    }

    fn on_delivered(&mut self, whose: &str) {
        let n_dropped = self.dropped_to_tell();
        if self.is_told_away {
            tracing::info!(to = %self.target, n_dropped, "pushes arrive again");
            self.is_told_away = false;
        } else if n_dropped > 0 {
            tracing::warn!(to = %self.target, n_dropped, "more is pushed than the target takes, the oldest is lost; push less often");
        }
        if self.refused.remove(whose) {
            tracing::info!(to = %self.target, property = whose, "its pushes are taken again");
        }
    }

    fn on_refused(&mut self, whose: &str, why: &str) {
        if self.refused.insert(whose.to_owned()) {
            tracing::warn!(to = %self.target, property = whose, "pushes are refused and left out: {why}");
        }
    }

    fn tell_away(&mut self, why: &str) {
        if !self.is_told_away {
            self.is_told_away = true;
            tracing::warn!(to = %self.target, "pushes do not arrive, they wait and are tried again: {why}");
        }
    }

    /// Those that were not told yet, now and then.
    fn dropped_to_tell(&mut self) -> u64 {
        let is_due = self.told_dropped.is_none_or(|told| told.elapsed() >= TELL_DROPPED);
        if !(is_due || self.is_told_away) {
            return 0;
        }
        let n_dropped = self.shared.queue().take_dropped();
        if n_dropped > 0 {
            self.told_dropped = Some(Instant::now());
        }
        n_dropped
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(CALL_LIMIT, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Away(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
    }
}

#[cfg(test)]
mod tests;
