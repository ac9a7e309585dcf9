//! Plugins that wait in `plugins_registry` to be asked who they are. Device plugins are taken; of others is said that
//! this node does not have them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ke_kubelet::plugin_registration as api;
use ke_kubelet::plugin_registration::registration_client::RegistrationClient;

use super::Devices;
use super::registration::VERSION;
use crate::resource_name::is_extended_resource;

/// A folder that is nearly always empty or unchanged: reading it costs microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Sockets that are looked at; a folder with more is no plugins' folder.
const MAX_SOCKETS: usize = 256;

/// A socket that was made anew is another one.
type Made = (u64, i64);

/// Never ends.
pub(super) async fn watch(devices: Devices, folder: PathBuf) {
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(%error, folder = %folder.display(), "no plugin is found there");
    }
    let mut asked: BTreeMap<PathBuf, Made> = BTreeMap::new();
    loop {
        let sockets = look(&folder).unwrap_or_default();
        asked.retain(|path, made| sockets.get(path) == Some(made));
        for (path, made) in sockets {
            // One that does not answer is asked again at the next look: it may be on its way up.
            if !asked.contains_key(&path) && ask(&devices, &path).await.is_ok() {
                asked.insert(path, made);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn look(folder: &Path) -> io::Result<BTreeMap<PathBuf, Made>> {
    let mut sockets = BTreeMap::new();
    for entry in std::fs::read_dir(folder)?.take(MAX_SOCKETS) {
        let path = entry?.path();
        if let Some(made) = made(&path) {
            sockets.insert(path, made);
        }
    }
    Ok(sockets)
}

/// `None`: no socket, or gone since its name was read.
fn made(path: &Path) -> Option<Made> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    meta.file_type().is_socket().then(|| (meta.ino(), meta.mtime_nsec() ^ meta.mtime()))
}

/// Errors: nobody answers.
async fn ask(devices: &Devices, socket: &Path) -> Result<(), ()> {
    let channel = ke_dmi::socket::channel(socket.to_owned(), CALL_LIMIT);
    let mut client = RegistrationClient::new(channel);
    let info = tokio::time::timeout(CALL_LIMIT, client.get_info(api::InfoRequest {})).await;
    let info = info.map_err(drop)?.map_err(drop)?.into_inner();
    let taken = match check(&info, socket) {
        Ok(endpoint) => devices.register(&info.name, endpoint).await,
        Err(why) => Err(why),
    };
    let error = taken.err().unwrap_or_default();
    if !error.is_empty() {
        tracing::warn!(plugin = info.name, sort = info.r#type, socket = %socket.display(), error, "a plugin is not taken");
    }
    let status = api::RegistrationStatus { plugin_registered: error.is_empty(), error };
    // Whoever asks for it hears it; nothing depends on that.
    let _ = tokio::time::timeout(CALL_LIMIT, client.notify_registration_status(status)).await;
    Ok(())
}

/// Where the plugin itself serves.
fn check(info: &api::PluginInfo, socket: &Path) -> Result<PathBuf, String> {
    if info.r#type != "DevicePlugin" {
        return Err(format!("this node takes plugins of type DevicePlugin only, not {:?}", info.r#type));
    }
    if !info.supported_versions.iter().any(|version| version == VERSION) {
        return Err(format!("versions {:?} are not supported, {VERSION} is", info.supported_versions));
    }
    if !is_extended_resource(&info.name) {
        return Err(format!(
            "the resource name {:?} is invalid: expected one such as vendor.com/gpu",
            info.name
        ));
    }
    Ok(if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_goes_disturbs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(path("a.sock")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        assert_eq!(look(folder.path()).unwrap().into_keys().collect::<Vec<_>>(), [path("a.sock")]);
        assert!(made(&path("a.sock")).is_some());
        assert_eq!((made(&path("gone.sock")), made(&path("file"))), (None, None));
    }

    #[test]
    fn only_device_plugins_are_taken() {
        let check = |sort: &str, name: &str, endpoint: &str, expected: Result<&str, &str>| {
            let info = api::PluginInfo {
                r#type: sort.into(),
                name: name.into(),
                endpoint: endpoint.into(),
                supported_versions: vec!["v1beta1".into()],
            };
            match (check(&info, Path::new("/r/own.sock")), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, Path::new(expected)),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, _) => panic!("{found:?}"),
            }
        };
        check("DevicePlugin", "v.com/gpu", "", Ok("/r/own.sock"));
        check("DevicePlugin", "v.com/gpu", "/other.sock", Ok("/other.sock"));
        check("DevicePlugin", "gpu", "", Err("is invalid"));
        check("CSIPlugin", "csi.v.com", "", Err("not \"CSIPlugin\""));
    }
}
