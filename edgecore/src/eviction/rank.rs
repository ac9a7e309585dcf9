//! Pure: which pod goes first.
//!
//! The kubelet's order: those of which nothing is known, those that use more than they asked for, then the rest; within each the
//! lower priority first, then whoever is further above its request.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;

use crate::config::Signal;
use crate::edged::{pod_request, priority};
use crate::kubelet_server::{ContainerFigures, Disk, PodFigures};

/// What counts of one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) uid: String,
    pub(super) priority: i32,
    /// In the unit of the signal, as `asked`: bytes, inodes or process ids. `None`: not known.
    pub(super) used: Option<u64>,
    pub(super) asked: u64,
}

/// Where pods' files and containers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disks {
    One,
    /// Images and containers have their own.
    Two,
}

/// How a Pod stands when this runs out.
pub(super) fn standing(pod: &Pod, figures: Option<&PodFigures>, signal: Signal, disks: Disks) -> Standing {
    let asked = |resource| u64::try_from(pod_request(pod, resource).units()).unwrap_or(0);
    let asked = match signal {
        Signal::Memory => asked("memory"),
        Signal::Disk | Signal::ImageDisk => asked("ephemeral-storage"),
        // Nobody asks for inodes, and for process ids only the number counts.
        Signal::Inodes | Signal::ImageInodes | Signal::Pids => 0,
    };
    let used = figures.map(|figures| match signal {
        Signal::Memory => figures.memory.and_then(|memory| memory.working_set_bytes).unwrap_or(0),
        Signal::Pids => figures.n_processes.unwrap_or(0),
        Signal::Disk | Signal::ImageDisk => on_disk(figures, signal, disks, |disk| disk.used_bytes),
        Signal::Inodes | Signal::ImageInodes => on_disk(figures, signal, disks, |disk| disk.inodes_used),
    });
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    Standing { uid, priority: priority(pod), used, asked }
}

/// What the Pod has in the file system that is full.
fn on_disk(figures: &PodFigures, signal: Signal, disks: Disks, of: fn(&Disk) -> Option<u64>) -> u64 {
    let of = |disk: Option<&Disk>| disk.and_then(of).unwrap_or(0);
    let is_images = matches!(signal, Signal::ImageDisk | Signal::ImageInodes);
    let (layers, files) = match disks {
        Disks::One => (true, true),
        Disks::Two => (is_images, !is_images),
    };
    let container = |one: &ContainerFigures| {
        let layer = if layers { of(one.written.as_ref()) } else { 0 };
        layer.saturating_add(if files { of(one.logs.as_ref()) } else { 0 })
    };
    let volumes = figures.volumes.iter().filter(|_| files).map(|(_, disk)| of(Some(disk)));
    figures.containers.iter().map(container).chain(volumes).fold(0, u64::saturating_add)
}

/// Orders pods; the first goes first.
pub(super) fn rank(pods: &mut [Standing], signal: Signal) {
    pods.sort_by_key(|pod| {
        let excess = pod.used.map_or(i128::MAX, |used| i128::from(used) - i128::from(pod.asked));
        // For process ids the priority alone comes first.
        let group = match pod.used {
            _ if signal == Signal::Pids => 0,
            None => 0,
            Some(used) if used > pod.asked => 1,
            Some(_) => 2,
        };
        (group, pod.priority, Reverse(excess), pod.uid.clone())
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kubelet_server::Memory;

    fn one(uid: &str, priority: i32, used: Option<u64>, asked: u64) -> Standing {
        Standing { uid: uid.into(), priority, used, asked }
    }

    #[track_caller]
    fn check(signal: Signal, mut pods: Vec<Standing>, expected: &str) {
        rank(&mut pods, signal);
        let found: Vec<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn the_kubelets_order() {
        let pods = vec![
            one("modest", 0, Some(10), 100),
            one("important", 1000, Some(500), 100),
            one("greedy", 0, Some(300), 100),
            one("greedier", 0, Some(301), 100),
            one("exact", -5, Some(100), 100),
            one("unknown", 2000, None, 100),
        ];
        check(Signal::Memory, pods.clone(), "unknown greedier greedy important exact modest");
        check(Signal::Disk, pods.clone(), "unknown greedier greedy important exact modest");
        check(Signal::Pids, pods, "exact greedier greedy modest important unknown");
        check(Signal::Memory, Vec::new(), "");
    }

    fn figures() -> PodFigures {
        let disk = |used, n| Some(Disk { used_bytes: Some(used), inodes_used: Some(n), ..Disk::default() });
        PodFigures {
            memory: Some(Memory { working_set_bytes: Some(7), ..Memory::default() }),
            n_processes: Some(4),
            containers: vec![ContainerFigures {
                written: disk(100, 10),
                logs: disk(20, 2),
                ..ContainerFigures::default()
            }],
            volumes: vec![("v".into(), disk(3, 1).unwrap())],
            ..PodFigures::default()
        }
    }

    #[test]
    fn what_counts() {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"priority": 9, "containers": [
            {"name": "a", "resources": {"requests": {"memory": "1Ki", "ephemeral-storage": "2Ki"}}},
            {"name": "b", "resources": {"limits": {"memory": "1Ki"}}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let check = |signal, disks, used, asked| {
            let expected = one("u", 9, Some(used), asked);
            assert_eq!(standing(&pod, Some(&figures()), signal, disks), expected, "{signal:?} {disks:?}");
        };
        check(Signal::Memory, Disks::One, 7, 2048);
        check(Signal::Pids, Disks::One, 4, 0);
        check(Signal::Disk, Disks::One, 123, 2048);
        check(Signal::ImageDisk, Disks::One, 123, 2048);
        check(Signal::Disk, Disks::Two, 23, 2048);
        check(Signal::ImageDisk, Disks::Two, 100, 2048);
        check(Signal::Inodes, Disks::One, 13, 0);
        check(Signal::Inodes, Disks::Two, 3, 0);
        check(Signal::ImageInodes, Disks::Two, 10, 0);
        assert_eq!(standing(&pod, None, Signal::Memory, Disks::One).used, None);
    }

    fn any_pod() -> impl Strategy<Value = Standing> {
        ("[a-z]{6}", -3..3_i32, proptest::option::weighted(0.9, 0..40_u64), 0..40_u64)
            .prop_map(|(uid, priority, used, asked)| one(&uid, priority, used, asked))
    }

    proptest! {
        /// Of any two neighbours the first is no better off; and the order in which pods come does not matter.
        #[test]
        fn nobody_goes_before_a_worse_one(mut pods in proptest::collection::vec(any_pod(), 0..20), seed in any::<usize>()) {
            let mut turned = pods.clone();
            turned.rotate_left(seed % pods.len().max(1));
            rank(&mut pods, Signal::Memory);
            rank(&mut turned, Signal::Memory);
            prop_assert_eq!(&pods, &turned);
            for pair in pods.windows(2) {
                let [first, second] = pair else { continue };
                let exceeds = |pod: &Standing| pod.used.map(|used| used > pod.asked);
                match (exceeds(first), exceeds(second)) {
                    (Some(_), None) => prop_assert!(false, "an unknown one comes later: {:?} {:?}", first, second),
                    (Some(false), Some(true)) => prop_assert!(false, "{:?} before {:?}", first, second),
                    (one, other) if one == other => {
                        prop_assert!(first.priority <= second.priority);
                        if let (Some(more), Some(less)) = (first.used, second.used)
                            && first.priority == second.priority
                        {
                            let above = |used: u64, pod: &Standing| i128::from(used) - i128::from(pod.asked);
                            prop_assert!(above(more, first) >= above(less, second));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
