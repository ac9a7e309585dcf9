//! Pure: how long pods have to end when the machine goes down, as the kubelet's configuration writes it.

use ke_run::config::{Problem, Within};
use serde::{Deserialize, Serialize};

use super::KubeletConfig;
use crate::edged::{Period, periods};

/// One group of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShutdownPeriod {
    /// Pods of this priority and above, up to the next one. Below the least one listed they end with it.
    pub priority: i32,
    /// What they have. Seconds, 0 to 86400.
    pub shutdown_grace_period_seconds: Within<0, 86_400>,
}

impl KubeletConfig {
    /// The groups in which pods end, the first first. Empty: they are not ended.
    #[must_use]
    pub fn shutdown_periods(&self) -> Vec<Period> {
        let own = self.shutdown_grace_period_by_pod_priority.iter().map(|period| Period {
            priority: period.priority,
            secs: period.shutdown_grace_period_seconds.get(),
        });
        let own: Vec<Period> = own.collect();
        periods(self.shutdown_grace_period.get(), self.shutdown_grace_period_critical_pods.get(), &own)
    }

    pub(super) fn shutdown_problems(&self) -> Option<Problem> {
        const SECTION: &str = "modules.edged.tailoredKubeletConfig";
        let (all, critical) = (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        if critical.get() > all.get() {
            let text = format!(
                "found {} s, expected at most shutdownGracePeriod, which is {} s",
                critical.get().as_secs(),
                all.get().as_secs()
            );
            return Some(Problem::new(&format!("{SECTION}.shutdownGracePeriodCriticalPods"), text));
        }
        let has_both = !all.get().is_zero() && !self.shutdown_grace_period_by_pod_priority.is_empty();
        has_both.then(|| {
            let text = "found both this and shutdownGracePeriod; leave one of them out";
            Problem::new(&format!("{SECTION}.shutdownGracePeriodByPodPriority"), text)
        })
    }
}
