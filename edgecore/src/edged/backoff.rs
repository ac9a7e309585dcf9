//! How long a container that keeps crashing waits for its next start. Pure.
//!
//! Kubernetes' rule: the first restart is immediate, the next ones wait 10 s, 20 s and so on up to 300 s, counted from
//! the end of the container; ten minutes without a restart begin anew. The memory is this process's: after a start of
//! edgecore the first restart is immediate again, as with a kubelet.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The first wait.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// No wait is longer.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// Between looking at the clock and hearing of a container's end.
const SLACK: SignedDuration = SignedDuration::from_secs(5);
/// A container that ran this long has left its crashes behind.
const FORGIVEN: SignedDuration = SignedDuration::from_secs(600);

/// The waits of one Pod's containers, by container name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoffs(BTreeMap<String, Backoff>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Backoff {
    delay: SignedDuration,
    restarted_at: Timestamp,
    image: String,
}

impl Backoffs {
    /// When a container that ended at `finished_at` may start, and the wait that leads there; `None` is now.
    #[must_use]
    pub fn wait(
        &self,
        name: &str,
        finished_at: Timestamp,
        now: Timestamp,
    ) -> Option<(Timestamp, SignedDuration)> {
        let backoff = self.0.get(name)?;
        if backoff.is_forgiven(finished_at) {
            return None;
        }
        let age = now.duration_since(finished_at);
        // An end in the far future means that the clock was set back: its age says nothing, and waiting for the old time
        // could take years. One in the near future is an end that came after `now` was looked at.
        (age > -SLACK && age < backoff.delay).then(|| (later(finished_at, backoff.delay), backoff.delay))
    }

    /// A container that has got another image is another one: its crashes are no longer its own.
    pub fn forget_changed<'a>(&mut self, image_of: impl Fn(&str) -> Option<&'a str>) {
        self.0.retain(|name, backoff| image_of(name).is_none_or(|image| image == backoff.image));
    }

    /// Notes that a container that ended at `finished_at` is started again.
    pub fn restarted(&mut self, name: &str, image: &str, finished_at: Timestamp, now: Timestamp) {
        let delay = match self.0.get(name) {
            Some(backoff) if !backoff.is_forgiven(finished_at) => {
                std::cmp::min(backoff.delay.saturating_add(backoff.delay), LONGEST)
            }
            _ => FIRST,
        };
        self.0.insert(name.to_owned(), Backoff { delay, restarted_at: now, image: image.to_owned() });
    }
}

impl Backoff {
    fn is_forgiven(&self, finished_at: Timestamp) -> bool {
        finished_at.duration_since(self.restarted_at) >= FORGIVEN
    }
}

/// Whether `time` is still to come. One further away than the longest wait there is comes from a clock that was set back since;
/// waiting for it could take years.
#[must_use]
pub(super) fn is_ahead(time: Timestamp, now: Timestamp, longest_secs: i64) -> bool {
    time > now && time.duration_since(now) <= SignedDuration::from_secs(longest_secs).saturating_add(SLACK)
}

/// `time` and a wait; at the end of time it stays there.
pub(super) fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let mut backoffs = Backoffs::default();
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoffs.wait("app", at(now), at(now)).map_or(0, |(_, delay)| delay.as_secs());
            waits.push(wait);
            backoffs.restarted("app", "i:1", at(now), at(now + wait));
            now += wait + 1;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn another_image_begins_anew() {
        let mut backoffs = Backoffs::default();
        backoffs.restarted("app", "i:1", at(100), at(100));
        backoffs.forget_changed(|_| Some("i:1"));
        backoffs.forget_changed(|_| None);
        assert!(backoffs.wait("app", at(101), at(101)).is_some());
        backoffs.forget_changed(|_| Some("i:2"));
        assert_eq!(backoffs.wait("app", at(101), at(101)), None);
    }

    #[test]
    fn the_wait_counts_from_the_end_and_ends() {
        let mut backoffs = Backoffs::default();
        backoffs.restarted("app", "i:1", at(100), at(100));
        let check = |finished, now, expected: Option<i64>| {
            assert_eq!(
                backoffs.wait("app", at(finished), at(now)).map(|(until, _)| until.as_second()),
                expected,
                "ended {finished}, now {now}"
            );
        };
        check(101, 101, Some(111));
        check(101, 110, Some(111));
        check(101, 111, None);
        check(101, 100, Some(111)); // it ended while we looked
        check(101, 50, None); // the clock was set back
        check(100 + 599, 100 + 599, Some(100 + 609));
        check(100 + 600, 100 + 600, None); // ran ten minutes
        assert_eq!(backoffs.wait("other", at(101), at(101)), None);
    }

    #[test]
    fn ten_good_minutes_begin_anew() {
        let mut backoffs = Backoffs::default();
        for now in [100, 101, 102, 103] {
            backoffs.restarted("app", "i:1", at(now), at(now));
        }
        backoffs.restarted("app", "i:1", at(1_000), at(1_000));
        assert_eq!(backoffs.wait("app", at(1_001), at(1_001)), Some((at(1_011), FIRST)));
    }
}
