//! Pure: of whom a refusal was logged lately.
//!
//! A Go edge that is refused asks again every two seconds, and anybody may ask. Called by `mod.rs`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same one's is logged again after this long.
const PAUSE: Duration = Duration::from_secs(60);
/// Of whom it is remembered: more at once are not logged, since each of them could be made up.
const MAX_TOLD: usize = 256;

/// Whom, by the name of the certificate or else the address.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<String, Instant>);

impl Told {
    /// Whether it is time to log one of this name; if so it counts as logged.
    pub(super) fn is_due(&mut self, name: &str, now: Instant) -> bool {
        let is_recent = |last: &Instant| now.saturating_duration_since(*last) < PAUSE;
        if self.0.get(name).is_some_and(is_recent) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.retain(|_, last| is_recent(last));
        }
        let has_room = self.0.len() < MAX_TOLD;
        if has_room {
            self.0.insert(name.to_owned(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_a_minute_and_not_too_many_of_them() {
        let (mut told, start) = (Told::default(), Instant::now());
        let mut check = |name: &str, seconds: u64, expected: bool| {
            assert_eq!(told.is_due(name, start + Duration::from_secs(seconds)), expected, "{name} {seconds}");
        };
        check("edge-1", 0, true);
        check("edge-1", 2, false);
        check("192.0.2.7", 2, true);
        check("edge-1", 59, false);
        check("edge-1", 60, true);
        check("edge-1", 61, false);
        for n in 2..MAX_TOLD {
            check(&format!("n{n}"), 61, true);
        }
        check("one more", 61, false);
        check("edge-1", 119, false);
        // What is long ago makes room.
        check("one more", 122, true);
    }
}
