//! Removes images that nobody uses: when the disk fills up, when they are too old, and before any pod must go.
//!
//! `edged/image_gc.rs` decides which; this asks the runtime and removes. Never touched: images of containers in any state, images
//! that a pod of this Node names (it may wait for its next start), what the runtime pins, the image of sandboxes, and what came
//! from the image folder: a machine without a network gets none of them again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;
use serde_json::Value;

use crate::edged::{Disk, GcPolicy, ImageLedger, Kept, Runtime, RuntimeError, images_of_folder, inits};
use crate::image_name::ImageName;

/// Cares for one machine's images.
pub(super) struct ImageCare {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) policy: GcPolicy,
    /// `podSandboxImage`; empty: the runtime knows.
    pub(super) sandbox_image: String,
    /// Where image archives lie.
    pub(super) folder: PathBuf,
    pub(super) ledger: ImageLedger,
}

/// Space that should have been freed, and that which could be. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lacking {
    pub(super) wanted: u64,
    pub(super) found: u64,
}

impl ImageCare {
    /// The regular look. Says so when there is less to remove than should be.
    pub(super) async fn collect(
        &mut self,
        disk: Option<Disk>,
        pods: &[Kept],
    ) -> Result<Option<Lacking>, RuntimeError> {
        self.observe(pods).await?;
        let removal = self.ledger.to_remove(
            Instant::now(),
            disk.unwrap_or(Disk { capacity: 0, available: 0 }),
            &self.policy,
        );
        self.remove(&removal.ids).await;
        let wanted = removal.found.saturating_add(removal.missing);
        Ok((removal.missing > 0).then_some(Lacking { wanted, found: removal.found }))
    }

    /// Removes all that nobody uses.
    pub(super) async fn remove_unused(&mut self, pods: &[Kept]) -> Result<(), RuntimeError> {
        self.observe(pods).await?;
        let unused = self.ledger.unused(Instant::now(), &self.policy);
        self.remove(&unused).await;
        Ok(())
    }

    async fn observe(&mut self, pods: &[Kept]) -> Result<(), RuntimeError> {
        let containers = self.runtime.list_containers().await?;
        let mut used: BTreeSet<String> = containers
            .into_iter()
            .flat_map(|container| [container.image.map(|image| image.image), Some(container.image_ref)])
            .flatten()
            .collect();
        used.extend(pods.iter().flat_map(|kept| named(&kept.pod)));
        let folder = self.folder.clone();
        used.extend(tokio::task::spawn_blocking(move || images_of_folder(&folder)).await.unwrap_or_default());
        let images = self.runtime.list_images().await?;
        let mut sandbox_image = self.sandbox_image.clone();
        if sandbox_image.is_empty() {
            let shown = self.runtime.shown_config().await.ok().flatten();
            sandbox_image = shown.as_deref().and_then(sandbox_image_in).unwrap_or_default();
        }
        used.extend(
            images.iter().filter(|image| may_be_sandbox(image, &sandbox_image)).map(|image| image.id.clone()),
        );
        self.ledger.observe(Instant::now(), &images, &used, &sandbox_image);
        Ok(())
    }

    async fn remove(&self, ids: &[String]) {
        for id in ids {
            let spec = v1::ImageSpec { image: id.clone(), ..v1::ImageSpec::default() };
            match self.runtime.remove_image(&spec).await {
                Ok(()) => tracing::info!(image = %id, "an image that nobody uses was removed"),
                Err(error) => tracing::warn!(image = %id, %error, "remove an image that nobody uses"),
            }
        }
    }
}

/// Images that the Pod names, in full.
fn named(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = inits(spec).iter().chain(&spec.containers).filter_map(|one| one.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    let mounted = volumes.filter_map(|source| source.reference.as_deref());
    let names = containers.chain(mounted).filter_map(|image| ImageName::parse(image).ok());
    names.map(|name| name.to_string()).collect()
}

/// The image of sandboxes where the runtime shows its configuration.
fn sandbox_image_in(config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    let image = config.get("sandboxImage").and_then(Value::as_str)?;
    Some(ImageName::parse(image).map_or_else(|_| image.to_owned(), |name| name.to_string()))
}

/// Whoever does not say which image its sandboxes have, has one that is called so.
fn may_be_sandbox(image: &v1::Image, known: &str) -> bool {
    let is_pause = |name: &String| {
        let last = name.rsplit('/').next().unwrap_or_default();
        last.split([':', '@']).next() == Some("pause")
    };
    known.is_empty() && image.repo_tags.iter().chain(&image.repo_digests).any(is_pause)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::edged::{FakeRuntime, Life, note_images};

    #[tokio::test]
    async fn what_is_needed_stays() {
        let runtime = FakeRuntime::new();
        for image in [
            "docker.io/library/used:1",
            "docker.io/library/waits:1",
            "docker.io/library/from-folder:1",
            "registry.k8s.io/pause:3",
            "docker.io/library/old:1",
        ] {
            runtime.add_image(image, "");
        }
        let sandbox = v1::PodSandboxConfig::default();
        let id = runtime.run_sandbox(&sandbox, "").await.unwrap();
        let config = v1::ContainerConfig {
            image: Some(v1::ImageSpec { image: "docker.io/library/used:1".into(), ..Default::default() }),
            ..Default::default()
        };
        runtime.create_container(&id, &config, &sandbox).await.unwrap();
        let pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "waits:1"}]}});
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        let pods = [Kept { pod, life: Life::Active, is_evicted: false }];
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), "").unwrap();
        note_images(folder.path(), "a.tar", &["docker.io/library/from-folder:1".to_owned()]).unwrap();
        let mut care = ImageCare {
            runtime: Arc::new(runtime.clone()),
            policy: GcPolicy { min_age: Duration::ZERO, ..GcPolicy::default() },
            sandbox_image: String::new(),
            folder: folder.path().into(),
            ledger: ImageLedger::default(),
        };
        let tags = async || {
            let mut tags: Vec<String> =
                runtime.list_images().await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
            tags.sort();
            tags
        };
        // Room enough: all stay.
        let lacking = care.collect(Some(Disk { capacity: 100, available: 50 }), &pods).await.unwrap();
        assert_eq!((lacking, tags().await.len()), (None, 5));
        care.remove_unused(&pods).await.unwrap();
        let kept = [
            "docker.io/library/from-folder:1",
            "docker.io/library/used:1",
            "docker.io/library/waits:1",
            "registry.k8s.io/pause:3",
        ];
        assert_eq!(tags().await, kept);
        // A disk that is full of something else.
        let lacking = care.collect(Some(Disk { capacity: 100, available: 0 }), &pods).await.unwrap();
        assert_eq!(lacking, Some(Lacking { wanted: 20, found: 0 }));
        assert_eq!(tags().await, kept);
    }

    #[test]
    fn sandbox_images_are_known() {
        let shown = sandbox_image_in(r#"{"sandboxImage": "registry.k8s.io/pause:3.9", "x": 1}"#);
        assert_eq!(shown.as_deref(), Some("registry.k8s.io/pause:3.9"));
        assert_eq!(sandbox_image_in("no"), None);
        let image = |tag: &str| v1::Image { repo_tags: vec![tag.into()], ..v1::Image::default() };
        assert!(may_be_sandbox(&image("r.example/team/pause:1"), ""));
        assert!(!may_be_sandbox(&image("r.example/pause/app:1"), ""));
        assert!(!may_be_sandbox(&image("r.example/pause:1"), "other"));
    }
}
