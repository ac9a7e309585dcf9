//! Pure: pods that have written more than they may, whatever is free on the machine.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::rank::Disks;
use crate::edged::pod_limit;
use crate::kubelet_server::PodFigures;
use crate::quantity::{Amount, amount_in};

const STORAGE: &str = "ephemeral-storage";

/// Whether anything of the Pod has such a limit: then it is worth measuring.
pub(super) fn has_limits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    volume_limits(spec).next().is_some() || !pod_limit(pod, STORAGE).is_zero()
}

/// Which limit the Pod is beyond, in the kubelet's words.
pub(super) fn beyond(pod: &Pod, figures: &PodFigures, disks: Disks) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for (volume, limit) in volume_limits(spec) {
        let used = figures.volumes.iter().find(|(name, _)| name == volume);
        if used.and_then(|(_, disk)| disk.used_bytes).is_some_and(|used| is_more(used, &limit)) {
            return Some(format!("Usage of EmptyDir volume {volume:?} exceeds the limit {limit:?}. "));
        }
    }
    let limit = pod_limit(pod, STORAGE);
    let used = figures.on_disk().and_then(|disk| disk.used_bytes).unwrap_or(0);
    if !limit.is_zero() && amount(used) > limit {
        let limit = u64::try_from(limit.units()).unwrap_or(0);
        let limit = super::words::bytes(limit);
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    for container in &spec.containers {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let Some(limit) = limits.and_then(|limits| limits.get(STORAGE)) else { continue };
        let has_limit = amount_in(limits, STORAGE).is_some_and(|limit| !limit.is_zero());
        let Some(figures) = figures.containers.iter().find(|one| one.name == container.name) else {
            continue;
        };
        // What is in the images' own file system does not fill the one that the limit is about.
        let written = figures.written.filter(|_| disks == Disks::One);
        let used = [written, figures.logs].into_iter().flatten().filter_map(|disk| disk.used_bytes);
        if has_limit && is_more(used.fold(0, u64::saturating_add), &limit.0) {
            let name = &container.name;
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit {:?}. ",
                limit.0
            ));
        }
    }
    None
}

/// Volumes on the disk with a limit, as it is written. Those in memory cannot grow beyond theirs.
fn volume_limits(spec: &PodSpec) -> impl Iterator<Item = (&str, String)> {
    spec.volumes.iter().flatten().filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        let limit = source.size_limit.as_ref()?;
        let is_on_disk = source.medium.as_deref().unwrap_or_default().is_empty();
        let is_limit = Amount::parse(&limit.0).is_ok_and(|limit| limit > Amount::ZERO);
        (is_on_disk && is_limit).then(|| (volume.name.as_str(), limit.0.clone()))
    })
}

fn is_more(used: u64, limit: &str) -> bool {
    Amount::parse(limit).is_ok_and(|limit| amount(used) > limit)
}

fn amount(bytes: u64) -> Amount {
    Amount::of_units(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubelet_server::{ContainerFigures, Disk};

    #[test]
    fn who_has_written_too_much() {
        let disk = |used| Disk { used_bytes: Some(used), ..Disk::default() };
        let check = |spec: Value, (written, logs, volume): (u64, u64, u64), disks, expected: Option<&str>| {
            let body = json!({"metadata": {"name": "p"}, "spec": spec});
            let pod: Pod = serde_json::from_value(body).unwrap();
            let app = ContainerFigures {
                name: "app".into(),
                written: Some(disk(written)),
                logs: Some(disk(logs)),
                ..ContainerFigures::default()
            };
            let figures = PodFigures {
                containers: vec![app],
                volumes: vec![("scratch".into(), disk(volume))],
                ..PodFigures::default()
            };
            assert_eq!(beyond(&pod, &figures, disks).as_deref(), expected, "{spec}");
            assert!(expected.is_none() || has_limits(&pod));
        };
        let volume = |medium: &str, limit: &str| {
            json!({"containers": [{"name": "app"}],
                "volumes": [{"name": "scratch", "emptyDir": {"medium": medium, "sizeLimit": limit}}]})
        };
        let beyond_volume = Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ");
        check(volume("", "1Mi"), (0, 0, 1 << 20), Disks::One, None);
        check(volume("", "1Mi"), (0, 0, (1 << 20) + 1), Disks::One, beyond_volume);
        check(volume("Memory", "1Mi"), (0, 0, 2 << 20), Disks::One, None);
        check(volume("", "0"), (0, 0, 2 << 20), Disks::One, None);
        let limited = |more: Value| {
            let app = json!({"name": "app", "resources": {"limits": {"ephemeral-storage": "1Ki"}}});
            json!({"containers": [app, more]})
        };
        let other = json!({"name": "other", "resources": {"limits": {"ephemeral-storage": "3Ki"}}});
        let beyond_app = Some("Container app exceeded its local ephemeral storage limit \"1Ki\". ");
        let beyond_pod =
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Ki. ");
        check(limited(other.clone()), (1000, 24, 1), Disks::One, None);
        check(limited(other.clone()), (1000, 25, 1), Disks::One, beyond_app);
        check(limited(other.clone()), (1000, 25, 1), Disks::Two, None);
        check(limited(other), (1000, 24, 3073), Disks::One, beyond_pod);
        check(json!({"containers": [{"name": "app"}]}), (1 << 40, 1 << 40, 1 << 40), Disks::One, None);
    }
}
