//! Lifecycle hooks, and the end of containers: preStop, then their turn, then the stop signal, all within one grace period.
//!
//! Carries out what `plan.rs` decided; `hands.rs` calls it for postStart, `worker/ending.rs` to end containers. As with a kubelet
//! events about hooks never hold what a container answered: it may be secret.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, Lifecycle, LifecycleHandler, Pod};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::container::{PORTS, PRE_STOP};
use super::cri::{Runtime, RuntimeError};
use super::plan::{LEAST_GRACE_SECS, Stop};
use super::pod_spec::container_of;
use super::probes::{HttpError, HttpTarget, Said, get};

/// A command of a hook has no limit of its own: preStop ends with the grace period, postStart when the Pod is deleted.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs one hook to its end. Gives what the user should know although it went well, or why it failed.
pub(super) async fn run_hook(
    handler: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    address: &str,
    runtime: &dyn Runtime,
) -> Result<Option<String>, String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(container_id, &command, NO_LIMIT).await {
            Ok(done) if done.exit_code == 0 => Ok(None),
            Ok(done) => Err(format!("the command exited with {}", done.exit_code)),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &handler.http_get {
        let target = HttpTarget::of(action, container, address, "lifecycle")?;
        return match get(&target).await {
            // Whatever it answers: that it does counts.
            Ok(_) => Ok(None),
            Err(HttpError::Plain(_)) => {
                let headers = target.headers.iter();
                let headers = headers.filter(|(name, _)| !name.eq_ignore_ascii_case("Authorization"));
                let plain =
                    HttpTarget { https: false, headers: headers.cloned().collect(), ..target.clone() };
                get(&plain).await.map_err(|error| error.to_string())?;
                let host = target.authority();
                Ok(Some(format!(
                    "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
                )))
            }
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(None);
    }
    // tcpSocket was never carried out by any kubelet; the API still takes it.
    Err("the hook names none of exec, httpGet and sleep".into())
}

/// Containers whose preStop hook has ended, by the runtime's id. Clones share it. A stop that is asked for again (the
/// runtime went away in between, the Pod is to end sooner) does not run the hook a second time.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(Arc<Mutex<BTreeSet<String>>>);

impl Done {
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn has(&self, id: &str) -> bool {
        self.lock().contains(id)
    }

    fn note(&self, id: &str) {
        self.lock().insert(id.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ending containers needs.
pub(super) struct ContainerStopper {
    pub(super) runtime: Arc<dyn Runtime>,
    /// `None`: only the runtime knows of it.
    pub(super) pod: Option<Arc<Pod>>,
    /// The Pod's address, for hooks.
    pub(super) address: String,
    pub(super) say: mpsc::Sender<Said>,
    /// Hooks that are not run again.
    pub(super) done: Done,
}

impl ContainerStopper {
    /// Ends these side by side, each in its turn. All are asked before any failure counts.
    pub(super) async fn stop_all(self, stops: Vec<Stop>) -> Vec<Result<(), RuntimeError>> {
        let last = stops.iter().map(|stop| stop.turn).max().unwrap_or(0);
        let n_of = |turn: usize| stops.iter().filter(|stop| stop.turn == turn).count();
        let alive: Vec<watch::Sender<usize>> =
            (0..=last).map(|turn| watch::Sender::new(n_of(turn))).collect();
        let each = stops.iter().map(|stop| async {
            let stopped = self.stop(stop, alive.get(..stop.turn).unwrap_or_default()).await;
            if let Some(turn) = alive.get(stop.turn) {
                turn.send_modify(|n| *n = n.saturating_sub(1));
            }
            stopped
        });
        join_all(each).await
    }

    /// The hook and the wait for its turn come off the grace period; what is left is never less than two seconds.
    async fn stop(&self, stop: &Stop, before: &[watch::Sender<usize>]) -> Result<(), RuntimeError> {
        let began = Instant::now();
        let grace = Duration::from_secs(u64::try_from(stop.grace_secs).unwrap_or(0));
        if stop.hook && !self.done.has(&stop.id) {
            // One that takes too long is left to itself. One that failed may not have begun: the runtime was away.
            if timeout(grace, self.pre_stop(stop)).await != Ok(HookEnd::Failed) {
                self.done.note(&stop.id);
            }
        }
        let turn = async {
            for earlier in before {
                let _ = earlier.subscribe().wait_for(|n| *n == 0).await;
            }
        };
        let _ = timeout(grace.saturating_sub(began.elapsed()), turn).await;
        // The runtime counts in seconds: those that have begun are not taken away.
        let spent = Duration::from_secs(began.elapsed().as_secs());
        let least = Duration::from_secs(LEAST_GRACE_SECS.unsigned_abs());
        self.runtime.stop_container(&stop.id, grace.saturating_sub(spent).max(least)).await
    }

    /// What was noted on a container when it was made: its hook and ports.
    async fn noted(&self, stop: &Stop) -> Option<Container> {
        let status = self.runtime.container_status(&stop.id).await.ok()?;
        let note = |key: &str| status.annotations.get(key).map_or("null", String::as_str);
        let pre_stop = serde_json::from_str(note(PRE_STOP)).ok()?;
        Some(Container {
            name: stop.name.clone(),
            ports: serde_json::from_str(note(PORTS)).ok()?,
            lifecycle: Some(Lifecycle { pre_stop, ..Lifecycle::default() }),
            ..Container::default()
        })
    }

    async fn pre_stop(&self, stop: &Stop) -> HookEnd {
        let noted;
        let container = match &self.pod {
            Some(pod) => container_of(pod, &stop.name),
            None => {
                noted = self.noted(stop).await;
                noted.as_ref()
            }
        };
        let Some(container) = container else { return HookEnd::Done };
        let lifecycle = container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return HookEnd::Done;
        };
        let hook = run_hook(handler, container, &stop.id, &self.address, &*self.runtime);
        let mut end = HookEnd::Done;
        let (reason, message) = match hook.await {
            Ok(None) => return end,
            Ok(Some(message)) => ("LifecycleHTTPFallback", message),
            Err(error) => {
                end = HookEnd::Failed;
                tracing::warn!(container = %stop.name, %error, "a preStop hook failed; the container is stopped all the same");
                ("FailedPreStopHook", "PreStopHook failed".to_owned())
            }
        };
        // Full: the worker is told of the end itself.
        let _ = self.say.try_send(Said { reason, message, container: stop.name.clone() });
        end
    }
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookEnd {
    Done,
    Failed,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::edged::cri_fake::FakeRuntime;
    use crate::edged::plan::StopReason;
    use ke_cri::v1;

    fn pod(containers: Value) -> Arc<Pod> {
        let body = json!({"metadata": {"name": "web"}, "spec": containers});
        Arc::new(serde_json::from_value(body).unwrap())
    }

    async fn start(runtime: &FakeRuntime, names: &[&str]) -> Vec<String> {
        runtime.add_image("i", "");
        let sandbox = runtime.run_sandbox(&v1::PodSandboxConfig::default(), "").await.unwrap();
        let mut ids = Vec::new();
        for name in names {
            let config = v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: (*name).into(), attempt: 0 }),
                image: Some(v1::ImageSpec { image: "i".into(), ..v1::ImageSpec::default() }),
                ..v1::ContainerConfig::default()
            };
            let id =
                runtime.create_container(&sandbox, &config, &v1::PodSandboxConfig::default()).await.unwrap();
            runtime.start_container(&id).await.unwrap();
            ids.push(id);
        }
        ids
    }

    fn stop(id: &str, name: &str, turn: usize) -> Stop {
        let (id, name) = (id.to_owned(), name.to_owned());
        Stop { id, name, grace_secs: 30, reason: StopReason::PodEnds, turn, hook: true }
    }

    fn stopper(runtime: &FakeRuntime, pod: Arc<Pod>) -> (ContainerStopper, mpsc::Receiver<Said>) {
        let (say, said) = mpsc::channel(16);
        let runtime = Arc::new(runtime.clone());
        let (address, done) = ("127.0.0.1".into(), Done::default());
        (ContainerStopper { runtime, pod: Some(pod), address, say, done }, said)
    }

    #[tokio::test(start_paused = true)]
    async fn the_hook_comes_off_the_grace_period() {
        let check = async |sleep: u64, expected: u64, took: u64| {
            let runtime = FakeRuntime::new();
            let ids = start(&runtime, &["app"]).await;
            let pod = pod(
                json!({"containers": [{"name": "app", "lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}}]}),
            );
            let (stopper, _) = stopper(&runtime, pod);
            let began = Instant::now();
            let done = stopper.stop_all(vec![stop(&ids[0], "app", 0)]).await;
            assert_eq!(done, [Ok(())]);
            assert_eq!(
                (runtime.graces(), began.elapsed().as_secs()),
                (vec![expected], took),
                "sleep {sleep}"
            );
        };
        check(0, 30, 0).await;
        check(12, 18, 12).await;
        check(29, 2, 29).await;
        // Longer than all of it.
        check(100, 2, 30).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_hook_is_told_and_stops_nothing() {
        let check = async |hook: Value, expected: Option<&str>| {
            let runtime = FakeRuntime::new();
            let ids = start(&runtime, &["app"]).await;
            runtime.set_exec("bad", 3, "secret");
            let pod = pod(json!({"containers": [{"name": "app", "lifecycle": {"preStop": hook}}]}));
            let (stopper, mut said) = stopper(&runtime, pod);
            stopper.stop_all(vec![stop(&ids[0], "app", 0)]).await;
            let event = said.try_recv().ok().map(|said| format!("{}: {}", said.reason, said.message));
            assert_eq!(event.as_deref(), expected, "{hook}");
            assert_eq!(runtime.graces(), [30]);
        };
        check(json!({"exec": {"command": ["good"]}}), None).await;
        check(json!({"exec": {"command": ["bad"]}}), Some("FailedPreStopHook: PreStopHook failed")).await;
        check(json!({"tcpSocket": {"port": 1}}), Some("FailedPreStopHook: PreStopHook failed")).await;
        let unknown = json!({"httpGet": {"port": "nope"}});
        check(unknown, Some("FailedPreStopHook: PreStopHook failed")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_without_its_pod_carries_its_hook() {
        let check = async |hook: Option<&str>, expected: u64| {
            let runtime = FakeRuntime::new();
            runtime.add_image("i", "");
            let sandbox = runtime.run_sandbox(&v1::PodSandboxConfig::default(), "").await.unwrap();
            let config = v1::ContainerConfig {
                image: Some(v1::ImageSpec { image: "i".into(), ..v1::ImageSpec::default() }),
                annotations: hook.map(|hook| (PRE_STOP.to_owned(), hook.to_owned())).into_iter().collect(),
                ..v1::ContainerConfig::default()
            };
            let id =
                runtime.create_container(&sandbox, &config, &v1::PodSandboxConfig::default()).await.unwrap();
            runtime.start_container(&id).await.unwrap();
            let (mut stopper, _) = stopper(&runtime, pod(json!({"containers": []})));
            stopper.pod = None;
            stopper.stop_all(vec![stop(&id, "app", 0)]).await;
            assert_eq!(runtime.graces(), [expected], "{hook:?}");
        };
        check(Some(r#"{"sleep":{"seconds":8}}"#), 22).await;
        check(Some("rubbish"), 30).await;
        check(None, 30).await;
    }

    #[tokio::test(start_paused = true)]
    async fn sidecars_wait_for_their_turn_and_their_hooks_do_not() {
        let runtime = FakeRuntime::new();
        let ids = start(&runtime, &["app", "side1", "side2"]).await;
        let sleep = |secs: u64| json!({"preStop": {"sleep": {"seconds": secs}}});
        let pod = pod(json!({
            "initContainers": [{"name": "side1", "lifecycle": sleep(3)}, {"name": "side2"}],
            "containers": [{"name": "app", "lifecycle": sleep(5)}]}));
        let (stopper, _) = stopper(&runtime, pod);
        let began = Instant::now();
        let stops = vec![stop(&ids[0], "app", 0), stop(&ids[2], "side2", 1), stop(&ids[1], "side1", 2)];
        stopper.stop_all(stops).await;
        let order: Vec<String> =
            runtime.changes().into_iter().filter(|call| call.starts_with("stop_container")).collect();
        let expected = [&ids[0], &ids[2], &ids[1]].map(|id| format!("stop_container {id}"));
        assert_eq!(order, expected);
        assert_eq!((runtime.graces(), began.elapsed().as_secs()), (vec![25, 25, 25], 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_at_the_latest_when_the_grace_period_is_over() {
        let runtime = FakeRuntime::new();
        let ids = start(&runtime, &["app", "side"]).await;
        let pod = pod(json!({"initContainers": [{"name": "side"}], "containers": [{"name": "app"}]}));
        let (stopper, _) = stopper(&runtime, pod);
        runtime.hold("stop_container");
        let stops = vec![stop(&ids[0], "app", 0), stop(&ids[1], "side", 1)];
        let ending = tokio::spawn(stopper.stop_all(stops));
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(runtime.graces(), [30], "the sidecar still waits");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(runtime.graces(), [30, 2]);
        runtime.release("stop_container");
        ending.await.unwrap();
    }

    #[tokio::test]
    async fn https_to_a_plain_server_falls_back() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut second = vec![0; 4096];
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let n = stream.read(&mut second).await.unwrap();
                second.truncate(n.max(1));
                stream.write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                if second.first() != Some(&b'G') {
                    second.resize(4096, 0);
                }
            }
            String::from_utf8_lossy(&second).into_owned()
        });
        let handler: LifecycleHandler = serde_json::from_value(json!({"httpGet": {
            "port": port, "path": "/bye", "scheme": "HTTPS",
            "httpHeaders": [{"name": "Authorization", "value": "x"}, {"name": "Keep", "value": "y"}]}}))
        .unwrap();
        let container = Container { name: "app".into(), ..Container::default() };
        let said =
            run_hook(&handler, &container, "c", "127.0.0.1", &FakeRuntime::new()).await.unwrap().unwrap();
        assert_eq!(
            said,
            format!(
                "request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP succeeded"
            )
        );
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /bye HTTP/1.1\r\n") && request.contains("Keep: y"), "{request}");
        assert!(request.contains("kube-lifecycle/1.36") && !request.contains("Authorization"), "{request}");
    }
}
