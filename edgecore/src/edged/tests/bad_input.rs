//! Pods that cannot run as they are written: the right word each time, and the others go on.

use tonic::Code;

use super::*;
use crate::edged::cri::RuntimeError;

fn waiting(status: &PodStatus) -> Option<String> {
    let app = status.container_statuses.as_ref()?.first()?;
    app.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

#[tokio::test]
async fn a_command_that_is_not_there() {
    let machine = Machine::new();
    let why = "exec: \"/no/such\": stat /no/such: no such file or directory: unknown";
    let error = || RuntimeError::Refused { code: Code::Unknown, message: why.into() };
    // As containerd does: the container has ended with 128 and the reason `StartError`.
    machine.runtime.fail_start(error(), 128, "StartError");
    let mut edged = machine.start(vec![web()]);
    let status = edged
        .status("RunContainerError", |status| waiting(status).as_deref() == Some("RunContainerError"))
        .await;
    let app = &status.container_statuses.unwrap()[0];
    assert!(app.state.as_ref().unwrap().waiting.as_ref().unwrap().message.as_ref().unwrap().contains(why));
    let failed = |report: &Report| event(report).filter(|(reason, _)| reason == "Failed");
    let (_, message) = edged.wait("Failed", failed).await;
    assert!(message.starts_with("Error: ") && message.contains(why), "{message}");
    let looping = |status: &PodStatus| waiting(status).as_deref() == Some("CrashLoopBackOff");
    let status = edged.status("CrashLoopBackOff", looping).await;
    let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code), (Some("StartError"), 128));
    edged.end().await;
}

#[tokio::test]
async fn a_probe_port_that_nobody_names() {
    let machine = Machine::new();
    let probe = json!({"tcpSocket": {"port": "nope"}, "periodSeconds": 1, "failureThreshold": 1});
    let mut edged = machine.start(vec![Arc::new(probed("livenessProbe", probe))]);
    edged.running().await;
    let said = |report: &Report| event(report).filter(|(reason, _)| reason == "Unhealthy");
    let (_, message) = edged.wait("Unhealthy", said).await;
    let expected = "Liveness probe errored and resulted in unknown state: port nope not found";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(machine.n_calls("stop_container"), 0, "it kills nobody");
    edged.end().await;
}
