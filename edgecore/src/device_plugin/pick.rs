//! Which devices a container gets. Pure.
//!
//! First those of the Pod's init containers that have ended, then what the plugin prefers, then the first ones by name.
//! The words of a refusal are the kubelet's: they stand in the status of the Pod that is refused.

use std::collections::BTreeSet;

/// What there is to choose from.
pub(super) struct Choice<'a> {
    pub(super) resource: &'a str,
    pub(super) n_wanted: usize,
    /// Held by init containers of the same Pod that do not run beside this container.
    pub(super) reusable: &'a BTreeSet<String>,
    pub(super) healthy: &'a BTreeSet<String>,
    /// Held by anybody.
    pub(super) in_use: &'a BTreeSet<String>,
}

/// What is sure, and from what the rest is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) n_wanted: usize,
    /// Chosen already.
    pub(super) sure: BTreeSet<String>,
    /// Free; more than are wanted, else all of them are sure.
    pub(super) free: BTreeSet<String>,
}

impl Choice<'_> {
    /// Errors: why there is none, as the kubelet says it.
    pub(super) fn pick(&self) -> Result<Pick, String> {
        if self.healthy.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {}",
                self.resource
            ));
        }
        let mut sure: BTreeSet<String> =
            self.reusable.intersection(self.healthy).take(self.n_wanted).cloned().collect();
        let n_needed = self.n_wanted.saturating_sub(sure.len());
        let mut free: BTreeSet<String> = self.healthy.difference(self.in_use).cloned().collect();
        if free.len() < n_needed {
            return Err(format!(
                "requested number of devices unavailable for {}. Requested: {n_needed}, Available: {}",
                self.resource,
                free.len()
            ));
        }
        if free.len() == n_needed || n_needed == 0 {
            if n_needed > 0 {
                sure.append(&mut free);
            }
            free.clear();
        }
        Ok(Pick { n_wanted: self.n_wanted, sure, free })
    }
}

impl Pick {
    /// Whether the plugin has something to say.
    pub(super) fn is_open(&self) -> bool {
        self.sure.len() < self.n_wanted
    }

    /// The whole choice. What the plugin prefers is a wish: only what is free counts.
    pub(super) fn complete(&self, preferred: &[String]) -> BTreeSet<String> {
        let mut chosen = self.sure.clone();
        let preferred = preferred.iter().filter(|id| self.free.contains(*id));
        for id in preferred.chain(&self.free) {
            if chosen.len() >= self.n_wanted {
                break;
            }
            chosen.insert(id.clone());
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &str) -> BTreeSet<String> {
        ids.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn devices_are_chosen() {
        // Wanted, reusable, healthy, in use, preferred: the choice, or why not.
        let check = |n_wanted, reusable, healthy, in_use, preferred: &str, expected: Result<&str, &str>| {
            let (reusable, healthy, in_use) = (set(reusable), set(healthy), set(in_use));
            let choice = Choice {
                resource: "e.com/gpu",
                n_wanted,
                reusable: &reusable,
                healthy: &healthy,
                in_use: &in_use,
            };
            let preferred: Vec<String> = preferred.split_whitespace().map(str::to_owned).collect();
            let chosen = choice.pick().map(|pick| pick.complete(&preferred));
            assert_eq!(chosen, expected.map(set).map_err(str::to_owned), "{n_wanted} of {healthy:?}");
        };
        check(1, "", "a b c", "", "", Ok("a"));
        check(2, "", "a b c", "a", "", Ok("b c"));
        check(1, "", "a b c", "", "c", Ok("c"));
        check(2, "", "a b c", "", "c", Ok("a c"));
        check(1, "", "a b c", "c", "c", Ok("a"));
        check(1, "", "a b", "", "nonsense", Ok("a"));
        check(1, "b", "a b c", "b", "c", Ok("b"));
        check(2, "b", "a b c d", "b", "d", Ok("b d"));
        check(1, "b", "a b c", "a b c", "", Ok("b"));
        check(1, "b", "a c", "b", "", Ok("a"));
        check(
            1,
            "",
            "",
            "",
            "",
            Err("no healthy devices present; cannot allocate unhealthy devices e.com/gpu"),
        );
        check(
            2,
            "",
            "a b",
            "b",
            "",
            Err("requested number of devices unavailable for e.com/gpu. Requested: 2, Available: 1"),
        );
    }
}
