//! What each volume of a pod should hold, before anything touches the disk.
//!
//! Asks `Objects` for ConfigMaps, Secrets and tokens. A type that is not named here is refused by its name, never
//! mounted as an empty directory.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::jiff::Timestamp;

use super::VolumeError;
use super::atomic::Payload;
use super::layout::{Plugin, PodDir};
use super::projected::{self, Sources};
use crate::edged::fields::PodFacts;
use crate::edged::resources::pod_limit;
use crate::meta_manager::Objects;
use crate::quantity::{Amount, amount_in};

/// Kubernetes' mode for files that say nothing else.
const DEFAULT_MODE: i32 = 0o644;

/// One volume as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An empty directory at first, the containers' own afterwards.
    Directory,
    /// The same in memory, of at most this many bytes.
    Memory { size: Option<u64> },
    /// A path of this machine.
    HostPath { path: PathBuf, kind: String },
    /// Files that follow objects.
    /// `uncertain`: write them only where none are.
    Files { plugin: Plugin, payload: Payload, renew_at: Option<Timestamp>, uncertain: bool },
}

impl Content {
    pub(super) fn renew_at(&self) -> Option<Timestamp> {
        match self {
            Self::Files { renew_at, .. } => *renew_at,
            _ => None,
        }
    }
}

/// Where a volume lies on this machine, and whether containers may only read it.
pub(super) fn place(volume: &Volume, dir: &PodDir) -> Result<(PathBuf, bool), String> {
    if let Some(source) = &volume.host_path {
        return Ok((PathBuf::from(&source.path), false));
    }
    let plugin = match volume {
        Volume { empty_dir: Some(_), .. } => Plugin::EmptyDir,
        Volume { config_map: Some(_), .. } => Plugin::ConfigMap,
        Volume { secret: Some(_), .. } => Plugin::Secret,
        Volume { downward_api: Some(_), .. } => Plugin::DownwardApi,
        Volume { projected: Some(_), .. } => Plugin::Projected,
        _ => return Err(unsupported(volume).to_string()),
    };
    Ok((dir.volume(plugin, &volume.name)?, plugin != Plugin::EmptyDir))
}

/// What `volume` of `pod` should hold now.
pub(super) async fn content(
    pod: &Pod,
    volume: &Volume,
    objects: &dyn Objects,
    facts: &PodFacts,
) -> Result<Content, VolumeError> {
    let mut sources = Sources::new(pod, &volume.name, objects, facts);
    if let Some(source) = &volume.empty_dir {
        return empty_dir(pod, &volume.name, source, facts);
    }
    if let Some(source) = &volume.host_path {
        let kind = source.type_.clone().unwrap_or_default();
        if !Path::new(&source.path).is_absolute() {
            let what = format!("hostPath {:?} is not an absolute path", source.path);
            return Err(VolumeError::refused(&volume.name, what));
        }
        return Ok(Content::HostPath { path: PathBuf::from(&source.path), kind });
    }
    let plugin = if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        sources.config_map(&source.name, source.items.as_deref(), source.optional, mode).await?;
        Plugin::ConfigMap
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        sources.secret(name, source.items.as_deref(), source.optional, mode).await?;
        Plugin::Secret
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        sources.downward_api(source.items.as_deref().unwrap_or_default(), mode)?;
        Plugin::DownwardApi
    } else if let Some(source) = &volume.projected {
        projected::collect(&mut sources, source, source.default_mode.unwrap_or(DEFAULT_MODE)).await?;
        Plugin::Projected
    } else {
        return Err(unsupported(volume));
    };
    let Sources { payload, renew_at, uncertain, .. } = sources;
    Ok(Content::Files { plugin, payload, renew_at, uncertain })
}

fn empty_dir(
    pod: &Pod,
    volume: &str,
    source: &EmptyDirVolumeSource,
    facts: &PodFacts,
) -> Result<Content, VolumeError> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => return Ok(Content::Directory),
        "Memory" => {}
        other => {
            let kind = format!("emptyDir with medium {other}");
            return Err(VolumeError::Unsupported { volume: volume.to_owned(), kind });
        }
    }
    let asked = match &source.size_limit {
        Some(limit) => {
            Some(Amount::parse(&limit.0).map_err(|error| VolumeError::refused(volume, error.to_string()))?)
        }
        None => None,
    };
    // Never more than the pod or the node may use: otherwise one volume can take the whole machine's memory.
    let bounds = [asked, Some(pod_limit(pod, "memory")), amount_in(Some(&facts.allocatable), "memory")];
    let least = bounds.into_iter().flatten().filter(|bound| !bound.is_zero()).min();
    Ok(Content::Memory { size: least.and_then(|bound| u64::try_from(bound.units()).ok()) })
}

fn unsupported(volume: &Volume) -> VolumeError {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let mut keys = json.as_object().into_iter().flat_map(|map| map.keys()).filter(|key| *key != "name");
    let kind = keys.next().cloned().unwrap_or_else(|| "unknown".to_owned());
    VolumeError::Unsupported { volume: volume.name.clone(), kind }
}
