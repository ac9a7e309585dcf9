//! Pure: whether this machine is short of something.

use super::host::{Measured, Share};
use crate::config::{EvictionHard, Threshold};

/// What the machine is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

/// Judges what was measured.
pub(super) fn judge(hard: &EvictionHard, measured: &Measured) -> Pressure {
    Pressure {
        memory: is_short(hard.memory, measured.memory_bytes),
        disk: is_short(hard.disk, measured.disk_bytes) || is_short(hard.inodes, measured.inodes),
        pids: is_short(hard.pids, measured.pids),
    }
}

/// What could not be measured, and what the file system does not count (btrfs has no number of inodes), is not short.
fn is_short(threshold: Threshold, share: Option<Share>) -> bool {
    share.is_some_and(|share| share.whole > 0 && share.free < threshold.of(share.whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_is_below_the_threshold() {
        let measured = |memory, disk, inodes, pids| {
            let of = |free| Some(Share { free, whole: 1000 });
            Measured { memory_bytes: of(memory), disk_bytes: of(disk), inodes: of(inodes), pids: of(pids) }
        };
        let percent = Threshold::Percent(10.0);
        let hard =
            EvictionHard { memory: Threshold::Amount(5), disk: percent, inodes: percent, pids: percent };
        let check = |measured: Measured, memory: bool, disk: bool, pids: bool| {
            assert_eq!(judge(&hard, &measured), Pressure { memory, disk, pids }, "{measured:?}");
        };
        check(measured(5, 100, 100, 100), false, false, false);
        check(measured(4, 100, 100, 100), true, false, false);
        check(measured(5, 99, 100, 100), false, true, false);
        check(measured(5, 100, 99, 100), false, true, false);
        check(measured(5, 100, 100, 99), false, false, true);
        check(
            Measured { memory_bytes: None, disk_bytes: None, inodes: None, pids: None },
            false,
            false,
            false,
        );
        let uncounted = Some(Share { free: 0, whole: 0 });
        check(Measured { inodes: uncounted, ..measured(5, 100, 0, 100) }, false, false, false);
        let never = Threshold::Amount(0);
        let never = EvictionHard { memory: never, disk: Threshold::Percent(0.0), inodes: never, pids: never };
        assert_eq!(
            judge(&never, &measured(0, 0, 0, 0)),
            Pressure { memory: false, disk: false, pids: false }
        );
    }
}
