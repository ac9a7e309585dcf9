//! Who was let in and waits until others have made room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ke_wire::Uid;
use tokio::time::Instant;

/// Pods that were let in and wait until others have ended, by uid. A restart forgets them: then all of them begin at once.
#[derive(Default)]
pub(in crate::edged) struct Waiting {
    pub(super) pods: BTreeMap<Uid, Wait>,
}

/// For whom one waits, and how long.
pub(super) struct Wait {
    pub(super) for_pods: BTreeSet<Uid>,
    /// As long as a kubelet waits: one and a half of the longest grace period, and ten seconds at least.
    pub(super) until: Instant,
}

/// No wait is shorter.
pub(super) const LEAST_WAIT: Duration = Duration::from_secs(10);

impl Waiting {
    pub(in crate::edged) fn holds(&self, uid: &Uid) -> bool {
        self.pods.contains_key(uid)
    }
}
