//! Volumes that are images: pulled as a container's own image is, and mounted by the runtime.
//!
//! Nothing of them lies among the Pod's volumes. A runtime that knows no such mounts (containerd before 2.1) refuses the
//! container, with words of its own. Called by `hands.rs` at each start of a container.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, VolumeMount};
use ke_cri::v1;

use super::hands::{Failure, Hands, Tell};
use super::volumes::{propagation, sub_path};

/// The images that a container has mounted, by the volume's name.
#[derive(Debug, Default)]
pub(super) struct VolumeImages(BTreeMap<String, v1::ImageSpec>);

impl Hands {
    /// Makes sure of them. What cannot be had is told as of a container's own image.
    pub(super) async fn volume_images(
        &self,
        pod: &Pod,
        container: &Container,
        (sandbox, handler): (&v1::PodSandboxConfig, &str),
        tell: Tell<'_>,
    ) -> Result<VolumeImages, Failure> {
        let mut images = BTreeMap::new();
        for (name, source) in mounted_images(pod, container) {
            let reference = source.reference.as_deref().unwrap_or_default();
            let wanted = (reference, source.pull_policy.as_deref());
            let spec = v1::ImageSpec {
                image: self.image(pod, wanted, (sandbox, handler), tell).await?,
                user_specified_image: reference.to_owned(),
                runtime_handler: handler.to_owned(),
                annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
                ..v1::ImageSpec::default()
            };
            images.insert(name.to_owned(), spec);
        }
        Ok(VolumeImages(images))
    }
}

impl VolumeImages {
    /// The container with those mounts only that lie on this machine's disk.
    pub(super) fn left_of<'a>(&self, container: &'a Container) -> Cow<'a, Container> {
        if self.0.is_empty() {
            return Cow::Borrowed(container);
        }
        let mut left = container.clone();
        if let Some(mounts) = &mut left.volume_mounts {
            mounts.retain(|mount| !self.0.contains_key(&mount.name));
        }
        Cow::Owned(left)
    }

    /// All mounts in the order of the container's. `mounts`: those of what is left, in their order, and what else there is.
    pub(super) fn woven(
        &self,
        container: &Container,
        mounts: Vec<v1::Mount>,
        env: &[(String, String)],
    ) -> Result<Vec<v1::Mount>, String> {
        if self.0.is_empty() {
            return Ok(mounts);
        }
        let mut on_disk = mounts.into_iter();
        let mut woven = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            match self.0.get(&wanted.name) {
                Some(image) => woven.push(mount(wanted, image, env)?),
                None => woven.extend(on_disk.next()),
            }
        }
        woven.extend(on_disk);
        Ok(woven)
    }
}

fn mounted_images<'a>(pod: &'a Pod, container: &Container) -> Vec<(&'a str, &'a ImageVolumeSource)> {
    let mounts = || container.volume_mounts.iter().flatten();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = volumes.filter(|volume| mounts().any(|mount| mount.name == volume.name));
    mounted.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?))).collect()
}

/// Where a mount appears in the container.
pub(super) fn container_path(wanted: &VolumeMount) -> String {
    let slash = if wanted.mount_path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", wanted.mount_path)
}

fn mount(wanted: &VolumeMount, image: &v1::ImageSpec, env: &[(String, String)]) -> Result<v1::Mount, String> {
    Ok(v1::Mount {
        container_path: container_path(wanted),
        // An image is never written to.
        readonly: true,
        propagation: propagation(wanted)?.into(),
        image: Some(image.clone()),
        image_sub_path: sub_path(wanted, env)?.unwrap_or_default(),
        ..v1::Mount::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_stand_among_the_other_mounts() {
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "a", "mountPath": "/a"},
            {"name": "model", "mountPath": "model", "subPathExpr": "v$(V)"},
            {"name": "b", "mountPath": "/b"},
        ]}))
        .unwrap();
        let image = v1::ImageSpec { image: "sha256:1".into(), ..v1::ImageSpec::default() };
        let images = VolumeImages([("model".to_owned(), image.clone())].into());
        let left = images.left_of(&container);
        let names: Vec<&str> = left.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let plain = |path: &str| v1::Mount { container_path: path.into(), ..v1::Mount::default() };
        let on_disk = vec![plain("/a"), plain("/b"), plain("/etc/hosts")];
        let env = [("V".to_owned(), "7".to_owned())];
        let woven = images.woven(&container, on_disk.clone(), &env).unwrap();
        let paths: Vec<&str> = woven.iter().map(|mount| mount.container_path.as_str()).collect();
        assert_eq!(paths, ["/a", "/model", "/b", "/etc/hosts"]);
        let mounted = &woven[1];
        assert_eq!((mounted.image.as_ref(), mounted.image_sub_path.as_str()), (Some(&image), "v7"));
        assert!(mounted.readonly && mounted.host_path.is_empty());
        assert!(
            images.woven(&container, on_disk.clone(), &[]).unwrap_err().contains("missing value for \"V\"")
        );
        let none = VolumeImages::default();
        assert_eq!(none.woven(&container, on_disk.clone(), &[]).unwrap(), on_disk);
        assert!(matches!(none.left_of(&container), Cow::Borrowed(_)));
    }
}
