//! What is granted, what is changed and how wide the Pod's own level is meanwhile.

use serde_json::{Value, json};

use super::*;
use crate::edged::observed::{ContainerState, ObservedContainer};

fn pod(uid: &str, containers: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": containers}}))
        .unwrap()
}

fn container(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}})
}

fn run(pod: Pod) -> DesiredPod {
    DesiredPod { want: Desired::Run(Arc::new(pod)), hashes: BTreeMap::new() }
}

fn room() -> Room {
    let there = [("cpu", "2"), ("memory", "1Gi")];
    Room::new(
        &there.map(|(name, amount)| (name.to_owned(), serde_json::from_value(json!(amount)).unwrap())).into(),
    )
}

fn running(names: &[&str]) -> ObservedPod {
    let started_at = Timestamp::UNIX_EPOCH;
    let running = |name: &&str| {
        ObservedContainer::first(&format!("id-{name}"), name, ContainerState::Running { started_at })
    };
    ObservedPod { containers: names.iter().map(running).collect(), ..ObservedPod::default() }
}

#[test]
fn what_fits_is_granted() {
    let check = |cpu: &str, memory: &str, expected: Option<&str>| {
        let room = room();
        room.note("other", &pod("other", json!([container("o", "500m", "512Mi")])));
        let (before, wish) = (
            pod("u", json!([container("a", "100m", "128Mi")])),
            pod("u", json!([container("a", cpu, memory)])),
        );
        room.note("u", &before);
        let verdict = room.judge("u", &before, &wish).err().map(|pending| pending.message);
        assert_eq!(verdict.as_deref(), expected, "{cpu} {memory}");
    };
    check("1500m", "512Mi", None);
    check(
        "1501m",
        "1",
        Some("Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"),
    );
    check("2001m", "1Gi", Some("Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000"));
    check(
        "1",
        "1Gi",
        Some(
            "Node didn't have enough resource: memory, requested: 1073741824, used: 536870912, capacity: 1073741824",
        ),
    );
    check("50m", "1", None);
}

/// Less is always granted, even on a node that has been given away twice over.
#[test]
fn less_is_always_granted() {
    let room = room();
    room.note("other", &pod("other", json!([container("o", "2", "1Gi")])));
    let before = pod("u", json!([container("a", "1", "512Mi")]));
    assert!(room.judge("u", &before, &pod("u", json!([container("a", "900m", "512Mi")]))).is_ok());
    assert!(room.judge("u", &before, &pod("u", json!([container("a", "1100m", "1")]))).is_err());
    room.leave("other");
    assert!(room.judge("u", &before, &pod("u", json!([container("a", "1100m", "1")]))).is_ok());
}

#[test]
fn other_spellings_change_nothing() {
    let (mut resizer, room) = (Resizer::default(), room());
    let first = pod("u", json!([container("a", "1", "128Mi")]));
    resizer.admit(run(first.clone()), "u", &PodStatus::default(), &room);
    let observed = running(&["a"]);
    resizer.look(&first, &observed, &Listing::default(), &PodStatus::default());
    let respelled = pod("u", json!([container("a", "1000m", "131072Ki")]));
    let (_, word) = resizer.admit(run(respelled.clone()), "u", &PodStatus::default(), &room);
    assert_eq!(word, None);
    let (resizes, _) = resizer.look(&respelled, &observed, &Listing::default(), &PodStatus::default());
    assert_eq!((resizes.due, resizes.progress), (None, None));
    assert_eq!(resizes.actual["id-a"].limits.as_ref().unwrap()["cpu"].0, "1000m");
}

#[test]
fn the_pods_level_is_wide_while_its_containers_change() {
    let (mut resizer, room) = (Resizer::default(), room());
    let before = pod("u", json!([container("a", "100m", "100Mi"), container("b", "300m", "300Mi")]));
    let after = pod("u", json!([container("a", "400m", "400Mi"), container("b", "200m", "200Mi")]));
    resizer.admit(run(before.clone()), "u", &PodStatus::default(), &room);
    let mut observed = running(&["a", "b"]);
    resizer.look(&before, &observed, &Listing::default(), &PodStatus::default());
    let (granted, word) = resizer.admit(run(after.clone()), "u", &PodStatus::default(), &room);
    assert_eq!(word.unwrap().reason, "ResizeStarted");
    let (resizes, _) =
        resizer.look(granted.pod().unwrap(), &observed, &Listing::default(), &PodStatus::default());
    assert!(resizes.due.is_some() && resizes.progress.as_deref() == Some(""));
    observed.resizes = resizes;
    let turn = resizer.turn(&after, &observed, CpuQuota::default(), 1 << 30);
    let level = |of: PodResources| (of.cpu_quota.unwrap().0, of.memory_limit.unwrap() >> 20);
    assert_eq!((level(turn.wide), level(turn.last.unwrap())), ((60_000, 600), (60_000, 600)));
    let less: Vec<_> = turn.changes.iter().map(|change| (change.name.as_str(), change.less_memory)).collect();
    assert_eq!(less, [("a", None), ("b", Some(200 << 20))]);
    for change in turn.changes {
        resizer.changed(change);
    }
    resizer.settled();
    let (resizes, word) = resizer.look(&after, &observed, &Listing::default(), &PodStatus::default());
    assert_eq!((resizes.due, resizes.progress), (None, None));
    assert_eq!(word.unwrap().reason, "ResizeCompleted");
}

#[test]
fn levels_that_hold_both() {
    let level = |quota: i64, memory: i64| PodResources {
        cpu_shares: 2,
        cpu_quota: Some((quota, 100_000)),
        memory_limit: Some(memory),
    };
    let check = |one: (i64, i64), other: (i64, i64), expected: (i64, i64)| {
        assert_eq!(widest(level(one.0, one.1), level(other.0, other.1)), level(expected.0, expected.1));
    };
    check((10, 20), (20, 10), (20, 20));
    check((-1, 20), (20, -1), (-1, -1));
    let none = PodResources { cpu_shares: 2, ..PodResources::default() };
    assert_eq!(explicit(none, CpuQuota::default()), level(-1, -1));
}
