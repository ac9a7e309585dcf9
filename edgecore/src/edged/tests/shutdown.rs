//! The machine goes down: pods end group by group, and the cloud hears why.

use super::*;

fn of_priority(uid: &str, name: &str, priority: i32) -> Pod {
    let mut pod = pod(uid, json!({"priority": priority}));
    pod.metadata.name = Some(name.into());
    pod
}

fn why(status: &PodStatus) -> Option<(&str, &str)> {
    Some((status.phase.as_deref()?, status.reason.as_deref()?))
}

#[tokio::test]
async fn pods_end_by_priority_and_say_why() {
    let machine = Machine::new();
    let pods = [of_priority("u1", "web", 0), of_priority("u2", "critical", 2_000_001_000)];
    let mut edged = machine.start(pods.iter().cloned().map(Arc::new).collect());
    until("both run", || machine.n_calls("start_container") == 2).await;
    edged.running().await;
    machine.runtime.hold("stop_container");
    let periods = periods(Duration::from_secs(60), Duration::from_secs(30), &[]);
    let keeper = edged.keeper.clone();
    let ending = tokio::spawn(async move { node_shutdown::end_all(&keeper, &periods).await });
    until("the first is being stopped", || machine.n_calls("stop_container") == 1).await;
    // What the cloud says meanwhile brings none back, and none is taken any more.
    edged.news.send(News::PodPut(Arc::new(pods[0].clone()))).await.unwrap();
    edged.news.send(News::PodPut(Arc::new(of_priority("u3", "late", 0)))).await.unwrap();
    let late = |s: &PodStatus| why(s) == Some(("Failed", "NodeShutdown"));
    let late = edged.status("turned away", late).await;
    assert_eq!(late.message.as_deref(), Some("Pod was rejected as the node is shutting down."));
    assert_eq!(machine.n_calls("stop_container"), 1, "the critical one still has its time");
    machine.runtime.release("stop_container");
    let ended = |s: &PodStatus| why(s) == Some(("Failed", "Terminated"));
    for _ in 0..2 {
        let status = edged.status("ended", ended).await;
        let expected = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(status.message.as_deref(), Some(expected));
        let disrupted = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").unwrap();
        assert_eq!(disrupted.reason.as_deref(), Some("TerminationByKubelet"));
    }
    ending.await.unwrap();
    assert_eq!(machine.runtime.graces().len(), 2);
    assert!(machine.runtime.graces().iter().all(|secs| *secs == 30), "{:?}", machine.runtime.graces());
    assert_eq!(machine.n_calls("create_container"), 2, "nothing is started any more");
    edged.end().await;
}

/// The wish to stop is passed on at once when the machine does not go down: containers go on.
#[tokio::test]
async fn without_a_grace_period_pods_live_on() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    let (asked, wish) = Shutdown::new();
    asked.stop();
    let passed = node_shutdown::pass_on(wish, edged.stop.clone(), edged.keeper.clone(), Vec::new());
    let passing = tokio::spawn(passed);
    edged.task.await.unwrap().unwrap();
    passing.abort();
    assert_eq!(machine.n_calls("stop_container"), 0);
}
