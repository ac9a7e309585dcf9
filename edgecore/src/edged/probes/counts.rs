//! How many probes were made, as the kubelet's `/metrics/probes` counts them: `prober_probe_total`.
//!
//! `mod.rs` counts, whoever serves that page asks for its text. A Pod that is forgotten takes its numbers along.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::schedule::Found;
use crate::edged::verdict::Kind;

/// The numbers of all pods. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts(Arc<Mutex<BTreeMap<Counted, Counts>>>);

/// Which probe of which container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counted {
    /// The Pod's uid.
    pub(super) pod_uid: String,
    /// The Pod's namespace.
    pub(super) namespace: String,
    /// The Pod's name.
    pub(super) pod: String,
    /// The container's name.
    pub(super) container: String,
    /// Which of its probes.
    pub(super) kind: Kind,
}

#[derive(Debug, Default)]
struct Counts {
    n_well: u64,
    n_unwell: u64,
}

impl ProbeCounts {
    pub(super) fn count(&self, counted: &Counted, found: Found) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = match all.get_mut(counted) {
            Some(counts) => counts,
            None => all.entry(counted.clone()).or_default(),
        };
        let n = match found {
            Found::Well => &mut counts.n_well,
            Found::Unwell => &mut counts.n_unwell,
        };
        *n = n.saturating_add(1);
    }

    pub(in crate::edged) fn forget(&self, pod_uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|counted, _| counted.pod_uid != pod_uid);
    }

    /// As after one readiness probe that found a container well, for tests of who shows the numbers.
    #[cfg(test)]
    pub(crate) fn of_one_success(namespace: &str, pod: &str, pod_uid: &str, container: &str) -> Self {
        let counts = Self::default();
        let [namespace, pod, pod_uid, container] = [namespace, pod, pod_uid, container].map(str::to_owned);
        counts.count(&Counted { pod_uid, namespace, pod, container, kind: Kind::Readiness }, Found::Well);
        counts
    }

    /// All numbers in Prometheus' text form, under the kubelet's names. Empty while nothing was probed.
    #[must_use]
    pub fn text(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if all.is_empty() {
            return text;
        }
        text.push_str(
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a \
             container by result.\n# TYPE prober_probe_total counter\n",
        );
        for (counted, counts) in all.iter() {
            for (result, n) in [("failed", counts.n_unwell), ("successful", counts.n_well)] {
                if n > 0 {
                    // Names of Kubernetes objects hold nothing that would need an escape.
                    let Counted { pod_uid, namespace, pod, container, kind } = counted;
                    let _ = writeln!(
                        text,
                        "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",\
                         pod_uid=\"{pod_uid}\",probe_type=\"{}\",result=\"{result}\"}} {n}",
                        kind.as_str()
                    );
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_kubelets() {
        let counts = ProbeCounts::default();
        assert_eq!(counts.text(), "");
        let counted = |uid: &str| Counted {
            pod_uid: uid.into(),
            namespace: "shop".into(),
            pod: "web".into(),
            container: "app".into(),
            kind: Kind::Readiness,
        };
        counts.count(&counted("u1"), Found::Well);
        counts.count(&counted("u1"), Found::Well);
        counts.count(&counted("u1"), Found::Unwell);
        counts.count(&counted("u2"), Found::Well);
        counts.forget("u2");
        let labels = r#"container="app",namespace="shop",pod="web",pod_uid="u1",probe_type="Readiness""#;
        let lines: Vec<String> = counts.text().lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "# TYPE prober_probe_total counter".to_owned(),
                format!("prober_probe_total{{{labels},result=\"failed\"}} 1"),
                format!("prober_probe_total{{{labels},result=\"successful\"}} 2"),
            ]
        );
    }
}
