//! What one start of a container gets mounted, in the runtime's words.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use ke_cri::v1::{Mount, MountPropagation};

use super::disk::Disk;
use super::layout::{PodDir, make_dirs};
use super::{content, hosts, subpath};
use crate::edged::expand::expand;
use crate::edged::fields::PodFacts;
use crate::edged::sandbox::on_host_network;

/// Why a container cannot have its mounts: the message of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Only a change of the pod, or of what is in the volume, helps.
    #[error("{0}")]
    Refused(String),
    /// The disk or the kernel said no.
    #[error("{0}")]
    Failed(String),
}

/// Termination messages of earlier starts that are kept. More than the runtime keeps dead containers; a crash loop must
/// not fill the disk with empty files.
const N_MESSAGES: usize = 8;

/// All mounts of one start. Blocks on the disk.
pub(super) fn mounts(
    disk: &Disk,
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    facts: &PodFacts,
) -> Result<Vec<Mount>, MountError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = disk.layout.pod(uid).map_err(MountError::Refused)?;
    dir.create().map_err(|error| MountError::Failed(format!("make {}: {error}", dir.path().display())))?;
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(disk, &dir, pod, container, (index, wanted), env)?);
    }
    let has = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.container_path == path);
    if !has(&mounts, "/etc/hosts") && (on_host_network(pod) || !facts.pod_ips.is_empty()) {
        mounts.push(plain("/etc/hosts", &hosts_file(&dir, pod, facts)?));
    }
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !path.is_empty() {
        let file = message_file(&dir, &container.name)?;
        mounts.push(plain(path, &file));
    }
    Ok(mounts)
}

fn volume_mount(
    disk: &Disk,
    dir: &PodDir,
    pod: &Pod,
    container: &Container,
    (index, wanted): (usize, &VolumeMount),
    env: &[(String, String)],
) -> Result<Mount, MountError> {
    let refused = |what: String| MountError::Refused(what);
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volume = volumes.find(|volume| volume.name == wanted.name).ok_or_else(|| {
        refused(format!(
            "cannot find volume \"{}\" to mount into container \"{}\"",
            wanted.name, container.name
        ))
    })?;
    let (mut host_path, only_read) = content::place(volume, dir).map_err(refused)?;
    if let Some(part) = part(wanted, env).map_err(refused)? {
        let failed = |what: String| {
            MountError::Failed(format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {what}",
                wanted.name, container.name
            ))
        };
        let source = subpath::open_below(&host_path, &part).map_err(|error| failed(error.to_string()))?;
        let target = dir.subpath(&wanted.name, &container.name, index).map_err(failed)?;
        host_path =
            subpath::bind(&source, &target, disk.mounter.as_ref()).map_err(|e| failed(e.to_string()))?;
    }
    let propagation = propagation(wanted).map_err(refused)?;
    let slash = if wanted.mount_path.starts_with('/') { "" } else { "/" };
    Ok(Mount {
        container_path: format!("{slash}{}", wanted.mount_path),
        host_path: text(&host_path),
        readonly: only_read || wanted.read_only == Some(true),
        propagation: propagation.into(),
        ..Mount::default()
    })
}

/// Whether mounts made later are seen on the other side.
pub(in crate::edged) fn propagation(wanted: &VolumeMount) -> Result<MountPropagation, String> {
    match wanted.mount_propagation.as_deref() {
        None | Some("" | "None") => Ok(MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(MountPropagation::PropagationBidirectional),
        Some(other) => Err(format!("invalid MountPropagation mode: \"{other}\"")),
    }
}

/// The part of the volume that is mounted, `None` for all of it.
pub(in crate::edged) fn part(
    wanted: &VolumeMount,
    env: &[(String, String)],
) -> Result<Option<String>, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = if let Some(expression) = given(&wanted.sub_path_expr) {
        let missing = std::cell::RefCell::new(None);
        let path = expand(&expression, |name| {
            let value = env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            if value.as_ref().is_none_or(String::is_empty) {
                missing.borrow_mut().get_or_insert_with(|| name.to_owned());
            }
            value
        });
        if let Some(name) = missing.into_inner() {
            return Err(format!("missing value for \"{name}\""));
        }
        path
    } else if let Some(path) = given(&wanted.sub_path) {
        path
    } else {
        return Ok(None);
    };
    // The value of a variable must not end up in an error: it may come from a Secret.
    if path.starts_with('/') {
        return Err(format!("error SubPath of volumeMount \"{}\" must not be an absolute path", wanted.name));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(format!(
            "unable to provision SubPath of volumeMount \"{}\": must not contain '..'",
            wanted.name
        ));
    }
    Ok(Some(path))
}

fn hosts_file(dir: &PodDir, pod: &Pod, facts: &PodFacts) -> Result<PathBuf, MountError> {
    let path = dir.hosts_file();
    let failed = |error: io::Error| MountError::Failed(format!("write {}: {error}", path.display()));
    let of_host = match fs::read("/etc/hosts") {
        Ok(text) if on_host_network(pod) => String::from_utf8_lossy(&text).into_owned(),
        _ => String::new(),
    };
    let text = hosts::text(pod, facts, &of_host).map_err(MountError::Refused)?;
    hosts::write(&path, &text).map_err(failed)?;
    Ok(path)
}

/// A new file for the last words of one start, open to whoever the container runs as.
fn message_file(dir: &PodDir, container: &str) -> Result<PathBuf, MountError> {
    let dir = dir.container(container).map_err(MountError::Refused)?;
    let failed = |error: io::Error| {
        MountError::Failed(format!("make a termination message file in {}: {error}", dir.display()))
    };
    make_dirs(&dir).map_err(failed)?;
    forget_old_messages(&dir).map_err(failed)?;
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    let path = dir.join(id);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(path)
}

fn forget_old_messages(dir: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((meta.modified()?, entry.path()));
        }
    }
    files.sort();
    let n_old = files.len().saturating_sub(N_MESSAGES);
    for (_, path) in files.iter().take(n_old) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn plain(container_path: &str, host_path: &Path) -> Mount {
    Mount { container_path: container_path.to_owned(), host_path: text(host_path), ..Mount::default() }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
