//! `recursiveReadOnly`: whether what is mounted below a read-only volume is read-only, too.
//!
//! Promised but not kept would be worse than not started: `Enabled` is refused where the runtime cannot do it. Called by
//! `hands.rs` with the mounts of one start.

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use ke_cri::v1;

use super::failure_reason::FailureReason;
use super::hands::{Failure, Hands};
use super::image_volumes::container_path;
use super::runtime_handler::has_recursive_read_only;

impl Hands {
    /// Marks the mounts that are read-only to the last one below them.
    pub(super) async fn bind_read_only(
        &self,
        container: &Container,
        handler: &str,
        mounts: &mut [v1::Mount],
    ) -> Result<(), Failure> {
        let wanted = container.volume_mounts.iter().flatten();
        let wanted: Vec<&VolumeMount> = wanted.filter(|mount| !is_off(mount)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let reason = FailureReason::CreateContainerConfigError;
        let status = self.runtime.status().await;
        let status =
            status.map_err(|error| Failure::of(reason, "Failed to ask what the runtime can do", error))?;
        let can = has_recursive_read_only(&status, handler);
        for wanted in wanted {
            let is_bound = is_recursive(wanted, can).map_err(|why| {
                Failure::new(reason, format!("failed to resolve recursive read-only mode: {why}"))
            })?;
            let path = container_path(wanted);
            for mount in mounts.iter_mut().filter(|mount| mount.container_path == path) {
                mount.recursive_read_only = is_bound;
            }
        }
        Ok(())
    }
}

fn is_off(wanted: &VolumeMount) -> bool {
    matches!(wanted.recursive_read_only.as_deref(), None | Some("Disabled"))
}

/// Errors: the kubelet's words.
fn is_recursive(wanted: &VolumeMount, can: bool) -> Result<bool, String> {
    let start = format!("volume {:?} requested recursive read-only mode, but it is not", wanted.name);
    if is_off(wanted) {
        return Ok(false);
    }
    if wanted.read_only != Some(true) {
        return Err(format!("{start} read-only"));
    }
    if let Some(propagation) = wanted.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        return Err(format!("{start} compatible with propagation {propagation:?}"));
    }
    match wanted.recursive_read_only.as_deref() {
        Some("IfPossible") => Ok(can),
        Some("Enabled") if can => Ok(true),
        Some("Enabled") => Err(format!("{start} supported by the runtime")),
        other => Err(format!("unknown recursive read-only mode {:?}", other.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn modes() {
        let check = |mount: Value, can: bool, expected: Result<bool, &str>| {
            let mut full = json!({"name": "v", "mountPath": "/v", "readOnly": true});
            full.as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
            let wanted: VolumeMount = serde_json::from_value(full).unwrap();
            let start = "volume \"v\" requested recursive read-only mode, but it is not ";
            let got = is_recursive(&wanted, can);
            let got = got.as_ref().copied().map_err(|why| why.strip_prefix(start).unwrap_or(why));
            assert_eq!(got, expected, "{mount} {can}");
        };
        let mode = |mode: &str| json!({"recursiveReadOnly": mode});
        check(json!({}), true, Ok(false));
        check(mode("Disabled"), true, Ok(false));
        check(mode("IfPossible"), true, Ok(true));
        check(mode("IfPossible"), false, Ok(false));
        check(mode("Enabled"), true, Ok(true));
        check(mode("Enabled"), false, Err("supported by the runtime"));
        check(mode("Always"), true, Err("unknown recursive read-only mode \"Always\""));
        check(json!({"recursiveReadOnly": "Enabled", "readOnly": false}), true, Err("read-only"));
        check(
            json!({"recursiveReadOnly": "IfPossible", "mountPropagation": "HostToContainer"}),
            true,
            Err("compatible with propagation \"HostToContainer\""),
        );
        check(json!({"recursiveReadOnly": "Enabled", "mountPropagation": "None"}), true, Ok(true));
    }
}
