//! Whether a container has ended, asked once a second for all who follow its log, however many they are.
//!
//! Calls the runtime; remembers a container for as long as somebody may still follow it. Called by `mod.rs`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ke_cri::v1;
use tokio::time::Instant;

use super::super::cri::Runtime;

/// How often the runtime is asked about one container.
const ASK: Duration = Duration::from_secs(1);
/// Nobody has followed a container about which nobody has asked for so long.
const FORGET: Duration = Duration::from_secs(10);

/// Clones share what they were told.
#[derive(Clone)]
pub struct Endings {
    runtime: Arc<dyn Runtime>,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

struct Known {
    asked_at: Instant,
    has_ended: bool,
}

impl Endings {
    /// As this runtime knows them.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, known: Arc::default() }
    }

    /// At most a second old. A runtime that is away says nothing about its containers.
    pub(super) async fn has_ended(&self, id: &str) -> bool {
        if let Some(answer) = self.remembered(id) {
            return answer;
        }
        let has_ended = match self.runtime.container_status(id).await {
            Ok(status) => status.state() == v1::ContainerState::ContainerExited,
            Err(error) => error.is_not_found(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(id) {
            known.has_ended = has_ended;
        }
        has_ended
    }

    /// `None`: it is this caller's turn to ask; meanwhile the others hear what was so before.
    fn remembered(&self, id: &str) -> Option<bool> {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(id) {
            if known.has_ended || now.duration_since(known.asked_at) < ASK {
                return Some(known.has_ended);
            }
            known.asked_at = now;
            return None;
        }
        known.retain(|_, known| now.duration_since(known.asked_at) < FORGET);
        known.insert(id.to_owned(), Known { asked_at: now, has_ended: false });
        None
    }
}

impl fmt::Debug for Endings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::cri_fake::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn many_followers_are_one_question() {
        let runtime = FakeRuntime::new();
        // Away: it says nothing about the container.
        runtime.go_away();
        let endings = Endings::new(Arc::new(runtime.clone()));
        assert!(!endings.has_ended("c").await);
        // Now it knows of none, but was not asked again.
        runtime.heal();
        for _ in 0..200 {
            assert!(!endings.clone().has_ended("c").await);
        }
        tokio::time::advance(ASK).await;
        assert!(endings.has_ended("c").await);
        // What has ended stays so, whatever becomes of the runtime.
        runtime.go_away();
        tokio::time::advance(ASK).await;
        assert!(endings.has_ended("c").await);
        // Those whom nobody follows any more are forgotten.
        tokio::time::advance(FORGET).await;
        assert!(!endings.has_ended("d").await);
        assert_eq!(endings.known.lock().unwrap().len(), 1);
    }
}
