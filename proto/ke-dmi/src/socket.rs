//! The unix sockets of both ends: who may open one, and how a call reaches it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// Listens, over what an earlier run left behind. Only root may open it: whoever can may report for every device, or write to it.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects when first used, within `limit`, and again whenever the socket was lost.
#[must_use]
pub fn channel(socket: PathBuf, limit: Duration) -> Channel {
    // The host of this address is the `:authority` that servers see, which Go's take; the connector knows the way.
    Endpoint::from_static("http://localhost").connect_timeout(limit).connect_with_connector_lazy(
        tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }),
    )
}
