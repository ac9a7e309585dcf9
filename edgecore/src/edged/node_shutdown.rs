//! The machine goes down: pods end in the order of their priority, each within its group's share of the grace period, and the
//! cloud hears that they did.
//!
//! Without D-Bus: systemd sends SIGTERM to edgecore's unit as to every other when the machine goes down, and says `stopping`
//! if asked then. A SIGTERM at any other time (an upgrade, `systemctl restart`) ends no pod. That systemd waits so long sees
//! `service_manager.rs` to. With no grace period configured nothing here runs.
//! Called by `main.rs`; `Edged` carries it out.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::{Shutdown, Trigger};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::evicted::disruption;
use super::keeper::Keeper;
use super::periods::Period;

/// How often it is looked whether a group has ended.
const LOOK: Duration = Duration::from_millis(500);
/// systemd answers at once or not at all.
const ANSWER: Duration = Duration::from_secs(5);

/// Ends group after group; one that has ended sooner is not waited for.
pub async fn end_all(keeper: &Keeper, periods: &[Period]) {
    for (index, period) in periods.iter().enumerate() {
        let end = Instant::now() + Duration::from_secs(period.secs.unsigned_abs());
        loop {
            match keeper.n_left(periods, index).await {
                Some(0) | None => break,
                Some(n_left) if Instant::now() >= end => {
                    tracing::warn!(n_left, priority = period.priority, "pods did not end in their time");
                    break;
                }
                Some(_) => sleep(LOOK).await,
            }
        }
    }
}

/// Passes the wish to stop on: at once, or after the pods have ended when the machine goes down. A second wish waits for
/// nothing.
pub async fn pass_on(asked: Shutdown, stop: Trigger, keeper: Keeper, periods: Vec<Period>) {
    asked.wait().await;
    if !periods.is_empty() && machine_goes_down("systemctl").await {
        tracing::info!("the machine goes down: pods are ended first");
        tokio::select! {
            () = end_all(&keeper, &periods) => {}
            () = asked.wait_hard() => {}
        }
    }
    stop.stop();
    asked.wait_hard().await;
    stop.stop();
}

/// What systemd says of the whole machine. Without systemd: no.
async fn machine_goes_down(systemctl: &str) -> bool {
    let asked = Command::new(systemctl).arg("is-system-running").kill_on_drop(true).output();
    match timeout(ANSWER, asked).await {
        // Its exit code is not 0 then.
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The Pod as ended by this, with what it has left. Its containers end, and its status says why.
pub(super) fn ended(pod: &Pod, period: Period, now: Timestamp) -> Pod {
    let mut pod = marked(pod, "Terminated", "Pod was terminated in response to imminent node shutdown.");
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let grace_secs = own.map_or(period.secs, |own| own.min(period.secs));
    pod.metadata.deletion_grace_period_seconds = Some(grace_secs);
    let message = pod.status.as_ref().and_then(|status| status.message.clone());
    let condition = disruption(&pod, message, Timestamp::from_second(now.as_second()).unwrap_or(now));
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|known| known.type_ != condition.type_);
    conditions.push(condition);
    pod
}

/// A Pod that came while the machine goes down.
pub(super) fn turned_away(pod: &Pod) -> Pod {
    marked(pod, "NodeShutdown", "Pod was rejected as the node is shutting down.")
}

fn marked(pod: &Pod, reason: &str, message: &str) -> Pod {
    let mut pod = pod.clone();
    let status: &mut PodStatus = pod.status.get_or_insert_default();
    status.phase = Some("Failed".into());
    (status.reason, status.message) = (Some(reason.into()), Some(message.into()));
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ended_pod_says_why() {
        let check = |own: Option<i64>, expected: i64| {
            let body = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "terminationGracePeriodSeconds": own}});
            let pod: Pod = serde_json::from_value(body).unwrap();
            let ended = ended(&pod, Period { priority: 0, secs: 20 }, Timestamp::UNIX_EPOCH);
            assert_eq!(ended.metadata.deletion_grace_period_seconds, Some(expected), "{own:?}");
            let status = ended.status.unwrap();
            assert_eq!(
                (status.phase.as_deref(), status.reason.as_deref()),
                (Some("Failed"), Some("Terminated"))
            );
            assert_eq!(status.conditions.unwrap()[0].type_, "DisruptionTarget");
        };
        check(None, 20);
        check(Some(5), 5);
        check(Some(30), 20);
    }

    /// A recorded systemctl.
    #[tokio::test]
    async fn systemd_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let check = async |script: &str, expected: bool| {
            let path = folder.path().join("systemctl");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            assert_eq!(machine_goes_down(&path.to_string_lossy()).await, expected, "{script}");
        };
        check("echo stopping; exit 1", true).await;
        check("echo running", false).await;
        check("echo degraded; exit 1", false).await;
        check("exit 1", false).await;
        assert!(!machine_goes_down("/no/such/systemctl").await);
    }
}
