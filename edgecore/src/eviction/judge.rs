//! Pure: which thresholds are crossed, for how long, and what this Node therefore says of itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{Limit, Signal};
use crate::edged::Pressures;
use crate::kubelet_server::NodeFigures;

/// How much of something is free: bytes of memory and disks, else a number of inodes or of process ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) free: u64,
    pub(super) whole: u64,
}

/// What was measured. A signal that is not in it could not be, and is never short.
pub(super) type Seen = BTreeMap<Signal, Capacity>;

/// What a Node's shortage shows as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Memory,
    Disk,
    Pids,
}

/// Remembers since when thresholds are crossed.
#[derive(Debug)]
pub(super) struct Judge {
    limits: Vec<Limit>,
    transition: Duration,
    /// By place in `limits`: since when it is crossed.
    since: BTreeMap<usize, Instant>,
    /// Those that were acted upon last, and hold until enough is free again.
    acted: Vec<usize>,
    /// When a shortage was seen last.
    last: BTreeMap<Kind, Instant>,
}

/// What one look comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) pressures: Pressures,
    /// What something must be done about now, the first first.
    pub(super) starved: Vec<Limit>,
}

/// The figures of a Node by signal.
pub(super) fn seen(node: &NodeFigures) -> Seen {
    let mut seen = Seen::new();
    let mut put = |signal, free: Option<u64>, whole: Option<u64>| {
        // A file system that does not count its inodes (btrfs) has a whole of 0.
        if let (Some(free), Some(whole)) = (free, whole.filter(|whole| *whole > 0)) {
            seen.insert(signal, Capacity { free, whole });
        }
    };
    let memory = node.memory.unwrap_or_default();
    put(Signal::Memory, memory.available_bytes, Some(node.memory_bytes));
    let disk = node.disk.unwrap_or_default();
    put(Signal::Disk, disk.available_bytes, disk.capacity_bytes);
    put(Signal::Inodes, disk.inodes_free, disk.inodes);
    let images = node.image_disk.unwrap_or_default();
    put(Signal::ImageDisk, images.available_bytes, images.capacity_bytes);
    put(Signal::ImageInodes, images.inodes_free, images.inodes);
    let free_pids =
        node.max_pid.zip(node.n_processes).map(|(most, processes)| most.saturating_sub(processes));
    put(Signal::Pids, free_pids, node.max_pid);
    seen
}

impl Judge {
    pub(super) fn new(limits: Vec<Limit>, transition: Duration) -> Self {
        Self { limits, transition, since: BTreeMap::new(), acted: Vec::new(), last: BTreeMap::new() }
    }

    /// Takes in what was measured now.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) -> Verdict {
        let crossed: Vec<(usize, Limit)> = self
            .limits
            .iter()
            .copied()
            .enumerate()
            .filter(|(at, limit)| {
                is_crossed(limit, seen, false) || (self.acted.contains(at) && is_crossed(limit, seen, true))
            })
            .collect();
        self.since.retain(|at, _| crossed.iter().any(|(crossed, _)| crossed == at));
        for (at, limit) in &crossed {
            self.since.entry(*at).or_insert(now);
            self.last.insert(kind(limit.signal), now);
        }
        let is_due = |at: usize, limit: &Limit| {
            let since = self.since.get(&at).copied().unwrap_or(now);
            now.saturating_duration_since(since) >= limit.grace.unwrap_or_default()
        };
        let mut due: Vec<(usize, Limit)> =
            crossed.into_iter().filter(|(at, limit)| is_due(*at, limit)).collect();
        // Memory runs out fastest; what is hard cannot wait.
        due.sort_by_key(|(_, limit)| (limit.signal != Signal::Memory, limit.grace.is_some(), limit.signal));
        self.acted = due.iter().map(|(at, _)| *at).collect();
        let is_short = |kind: Kind| {
            let last = self.last.get(&kind);
            last.is_some_and(|last| now.saturating_duration_since(*last) < self.transition)
        };
        let pressures = Pressures {
            memory: is_short(Kind::Memory),
            disk: is_short(Kind::Disk),
            pids: is_short(Kind::Pids),
        };
        Verdict { pressures, starved: due.into_iter().map(|(_, limit)| limit).collect() }
    }

    /// Whether anything is short still, or not free by as much as it should be after something was done.
    pub(super) fn is_short(&self, seen: &Seen) -> bool {
        self.limits.iter().any(|limit| is_crossed(limit, seen, true))
    }
}

fn is_crossed(limit: &Limit, seen: &Seen, with_reclaim: bool) -> bool {
    seen.get(&limit.signal).is_some_and(|capacity| {
        let more = limit.reclaim.filter(|_| with_reclaim).map_or(0, |reclaim| reclaim.of(capacity.whole));
        capacity.free < limit.threshold.of(capacity.whole).saturating_add(more)
    })
}

fn kind(signal: Signal) -> Kind {
    match signal {
        Signal::Memory => Kind::Memory,
        Signal::Disk | Signal::Inodes | Signal::ImageDisk | Signal::ImageInodes => Kind::Disk,
        Signal::Pids => Kind::Pids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Threshold;
    use crate::kubelet_server::{Disk, Memory};

    fn limit(signal: Signal, amount: u64) -> Limit {
        Limit { signal, threshold: Threshold::Amount(amount), grace: None, reclaim: None }
    }

    fn free(all: &[(Signal, u64)]) -> Seen {
        all.iter().map(|(signal, free)| (*signal, Capacity { free: *free, whole: 1000 })).collect()
    }

    /// At which second, what is free, which pressures hold then, and what is starved.
    type Row<'a> = (u64, &'a [(Signal, u64)], &'a str, &'a [Signal]);

    fn check(limits: Vec<Limit>, rows: &[Row<'_>]) {
        let start = Instant::now();
        let mut judge = Judge::new(limits, Duration::from_secs(30));
        for (secs, free_now, pressures, starved) in rows {
            let verdict = judge.look(&free(free_now), start + Duration::from_secs(*secs));
            let Pressures { memory, disk, pids } = verdict.pressures;
            let said: String = [(memory, 'm'), (disk, 'd'), (pids, 'p')]
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, c)| c)
                .collect();
            let found: Vec<Signal> = verdict.starved.iter().map(|limit| limit.signal).collect();
            assert_eq!((said.as_str(), found.as_slice()), (*pressures, *starved), "at {secs} s");
        }
    }

    #[test]
    fn a_hard_threshold_acts_at_once_and_its_condition_stays_a_while() {
        use Signal::{Disk, Memory};
        check(
            vec![limit(Memory, 100), limit(Disk, 10)],
            &[
                (0, &[(Memory, 100), (Disk, 10)], "", &[]),
                (10, &[(Memory, 99), (Disk, 10)], "m", &[Memory]),
                (20, &[(Memory, 100), (Disk, 9)], "md", &[Disk]),
                (39, &[(Memory, 100), (Disk, 10)], "md", &[]),
                (40, &[(Memory, 100), (Disk, 10)], "d", &[]),
                (50, &[(Memory, 100), (Disk, 10)], "", &[]),
                // What cannot be measured is not short.
                (60, &[], "", &[]),
            ],
        );
    }

    #[test]
    fn a_soft_threshold_has_patience_but_tells() {
        use Signal::Memory;
        let soft = Limit { grace: Some(Duration::from_secs(20)), ..limit(Memory, 200) };
        check(
            vec![soft],
            &[
                (0, &[(Memory, 150)], "m", &[]),
                (19, &[(Memory, 150)], "m", &[]),
                (20, &[(Memory, 150)], "m", &[Memory]),
                (25, &[(Memory, 200)], "m", &[]),
                // Patience begins anew.
                (30, &[(Memory, 150)], "m", &[]),
                (50, &[(Memory, 150)], "m", &[Memory]),
            ],
        );
    }

    #[test]
    fn what_was_acted_upon_holds_until_enough_is_free() {
        use Signal::Disk;
        let more = Limit { reclaim: Some(Threshold::Amount(50)), ..limit(Disk, 100) };
        check(
            vec![more],
            &[
                (0, &[(Disk, 120)], "", &[]),
                (10, &[(Disk, 99)], "d", &[Disk]),
                (20, &[(Disk, 149)], "d", &[Disk]),
                (30, &[(Disk, 150)], "d", &[]),
                (40, &[(Disk, 120)], "d", &[]),
                (70, &[(Disk, 120)], "", &[]),
            ],
        );
        assert!(Judge::new(vec![more], Duration::ZERO).is_short(&free(&[(Disk, 149)])));
        assert!(!Judge::new(vec![more], Duration::ZERO).is_short(&free(&[(Disk, 150)])));
    }

    #[test]
    fn memory_comes_first_then_what_is_hard() {
        use Signal::{Disk, Inodes, Memory, Pids};
        let soft = |signal| Limit { grace: Some(Duration::from_secs(1)), ..limit(signal, 500) };
        let limits = vec![limit(Disk, 500), limit(Pids, 500), soft(Inodes), soft(Memory)];
        let all: &[(Signal, u64)] = &[(Disk, 1), (Inodes, 1), (Memory, 1), (Pids, 1)];
        check(limits, &[(0, all, "mdp", &[Disk, Pids]), (1, all, "mdp", &[Memory, Disk, Pids, Inodes])]);
    }

    #[test]
    fn figures_are_read_by_signal() {
        let disk = |available| {
            Some(Disk {
                available_bytes: Some(available),
                capacity_bytes: Some(100),
                inodes_free: Some(0),
                inodes: Some(0),
                ..Disk::default()
            })
        };
        let node = NodeFigures {
            memory_bytes: 1000,
            memory: Some(Memory { available_bytes: Some(7), ..Memory::default() }),
            disk: disk(8),
            image_disk: disk(9),
            max_pid: Some(50),
            n_processes: Some(20),
            ..NodeFigures::default()
        };
        let capacity = |free, whole| Capacity { free, whole };
        let expected = [
            (Signal::Memory, capacity(7, 1000)),
            (Signal::Disk, capacity(8, 100)),
            (Signal::ImageDisk, capacity(9, 100)),
            (Signal::Pids, capacity(30, 50)),
        ];
        assert_eq!(seen(&node), expected.into());
        assert!(seen(&NodeFigures::default()).is_empty());
    }
}
