//! The kubelet's side of device plugins (`v1beta1`): how GPUs and the like come to a Node and into containers.
//!
//! Plugins register at `kubelet.sock` (`registration.rs`) or are found in `plugins_registry` (`found.rs`); each is heard
//! by a task of its own (`plugin.rs`), and what it lists goes into the Node (`registry.rs`). `edged` asks for a Pod's
//! devices through [`Devices`] (`allocate.rs`), whose choice (`pick.rs`) is on disk (`store.rs`) before a container
//! starts, so that it gets the same ones after a kill. `pod_resources.rs` tells others who holds what.
//! Never starts a container, never decides what becomes of a Pod that cannot have its devices.

mod allocate;
mod found;
mod ledger;
mod pick;
mod plugin;
mod pod_resources;
mod registration;
mod registry;
mod store;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ke_kubelet::device_plugin::registration_server::RegistrationServer;
use ke_kubelet::pod_resources::pod_resources_lister_server::PodResourcesListerServer;
use ke_run::shutdown::Shutdown;
use tokio::sync::{Notify, watch};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;

use self::ledger::Ledger;
use self::plugin::Plugin;
use self::pod_resources::Lister;
use self::registration::Desk;
pub use self::registry::Amounts;
use self::registry::{Device, Registry};
use crate::db::{Db, DbError};
use crate::meta_manager::Meta;
use crate::static_pods::StaticSet;

/// Name of the kubelet's socket in each of its folders.
const KUBELET_SOCK: &str = "kubelet.sock";
/// Calls at a time on one connection: more wait. Every caller is root.
const MAX_CALLS: usize = 32;

/// Where plugins and others look for the kubelet.
#[derive(Clone, Debug)]
pub struct Folders {
    /// `modules.edged.devicePluginsDir`: `kubelet.sock` and the plugins' own sockets.
    pub plugins: PathBuf,
    /// `plugins_registry` in the kubelet's root: plugins that wait to be asked.
    pub registry: PathBuf,
    /// `pod-resources` in the kubelet's root.
    pub pod_resources: PathBuf,
}

impl Folders {
    /// `plugins` is `modules.edged.devicePluginsDir`, `root` the kubelet's root.
    #[must_use]
    pub fn new(plugins: &Path, root: &Path) -> Self {
        let (registry, pod_resources) = (root.join("plugins_registry"), root.join("pod-resources"));
        Self { plugins: plugins.to_owned(), registry, pod_resources }
    }

    /// The machine is a node no longer: our sockets go, and folders that nobody has put anything into.
    pub fn remove(&self) -> io::Result<()> {
        for folder in [&self.plugins, &self.pod_resources] {
            match std::fs::remove_file(folder.join(KUBELET_SOCK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for folder in [&self.plugins, &self.registry, &self.pod_resources] {
            // Others' sockets stay, and with them the folder.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// Handle of this module: what is offered, and who holds it. Clones share one.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

struct Inner {
    /// Never held across an await; the database's thread takes it, too.
    state: Mutex<State>,
    db: Db,
    /// The machine's boot.
    boot: String,
    began: Instant,
    amounts: watch::Sender<BTreeMap<String, Amounts>>,
    /// Counts changes of devices' health.
    changes: watch::Sender<u64>,
    /// A plugin is gone: its devices have an end now.
    gone: Notify,
}

struct State {
    registry: Registry<Plugin>,
    ledger: Ledger,
}

/// The module: its sockets.
pub struct DevicePlugins {
    devices: Devices,
    folders: Folders,
    meta: Meta,
    static_pods: watch::Receiver<Option<StaticSet>>,
}

impl DevicePlugins {
    /// Reads what was held before. Errors: the store. `boot`: the machine's boot id.
    pub async fn new(
        folders: Folders,
        db: Db,
        boot: String,
        meta: Meta,
        static_pods: watch::Receiver<Option<StaticSet>>,
    ) -> Result<(Devices, Self), DbError> {
        let devices = Devices::new(db, boot).await?;
        Ok((devices.clone(), Self { devices, folders, meta, static_pods }))
    }

    /// Serves until shutdown. A socket that cannot be opened is told; pods without devices run all the same.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let Self { devices, folders, meta, static_pods } = self;
        let desk = Desk { devices: devices.clone(), folder: folders.plugins.clone() };
        let lister = Lister { devices: devices.clone(), meta, static_pods };
        if let Err(error) = remove_old_sockets(&folders.plugins) {
            tracing::warn!(%error, folder = %folders.plugins.display(), "sockets of an earlier run stay");
        }
        let plugins = serve(&folders.plugins, RegistrationServer::new(desk), shutdown.clone());
        let pod_resources =
            serve(&folders.pod_resources, PodResourcesListerServer::new(lister), shutdown.clone());
        let found = found::watch(devices.clone(), folders.registry.clone());
        let rest = async {
            tokio::select! {
                () = found => {}
                () = devices.expire() => {}
                () = shutdown.wait() => {}
            }
        };
        tokio::join!(plugins, pod_resources, rest);
        Ok(())
    }
}

/// Serves at `kubelet.sock` in this folder until shutdown.
async fn serve<S>(folder: &Path, service: S, shutdown: Shutdown)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let path = folder.join(KUBELET_SOCK);
    let listener = match ke_dmi::socket::listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, socket = %path.display(), "cannot be opened: nobody is served there");
            return shutdown.wait().await;
        }
    };
    let server = Server::builder().concurrency_limit_per_connection(MAX_CALLS).add_service(service);
    // Clients written in Go send the socket's path as the authority.
    let incoming = ke_dmi::incoming(listener);
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, shutdown.wait()).await {
        tracing::error!(%error, socket = %path.display(), "nobody is served there any more");
    }
}

/// As a kubelet does at its start: plugins that watch their own socket see that they have to register again. Those that
/// watch `kubelet.sock` see it being made anew.
fn remove_old_sockets(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Devices {
    async fn new(db: Db, boot: String) -> Result<Self, DbError> {
        let (known, grants) = db.call(|c| Ok((store::resources(c)?, store::grants(c)?))).await?;
        let began = Instant::now();
        let registry = Registry::new(known, began);
        let amounts = watch::Sender::new(registry.amounts());
        let state = Mutex::new(State { registry, ledger: Ledger::new(grants) });
        Ok(Self(Arc::new(Inner {
            state,
            db,
            boot,
            began,
            amounts,
            changes: watch::Sender::new(0),
            gone: Notify::new(),
        })))
    }

    /// What the Node says of each resource that was ever registered.
    #[must_use]
    pub fn amounts(&self) -> watch::Receiver<BTreeMap<String, Amounts>> {
        self.0.amounts.subscribe()
    }

    /// A plugin serves at this socket. Errors: why it is not taken.
    async fn register(&self, name: &str, socket: PathBuf) -> Result<(), String> {
        let full = || {
            let most = registry::MAX_RESOURCES;
            format!("{most} resources are registered, which is all there is room for")
        };
        // Before it is noted: what is on the disk stays there.
        if !self.lock().registry.has_room(name) {
            return Err(full());
        }
        let mut client = plugin::client(socket.clone());
        let options = plugin::options(&mut client).await;
        let options = options.map_err(|status| {
            format!(
                "failed to get device plugin options from {}: {}",
                socket.display(),
                plugin::bottom_of(&status)
            )
        })?;
        let noted = name.to_owned();
        // The Node must go on to say 0 of it after a restart, else its last word would stand.
        let noted = self.0.db.call(move |connection| store::note_resource(connection, &noted)).await;
        noted.map_err(|error| format!("the registration could not be stored: {error}"))?;
        {
            let mut state = self.lock();
            let number = state.registry.next_number();
            // It waits for the lock before it can say anything.
            let task = plugin::hear(self.clone(), client.clone(), name.to_owned(), number);
            let plugin = Plugin::new(client, options, tokio::spawn(task).abort_handle());
            state.registry.came(name, number, plugin).map_err(|_| full())?;
        }
        tracing::info!(resource = name, socket = %socket.display(), "a device plugin registered");
        self.publish();
        Ok(())
    }

    fn on_list(&self, name: &str, number: u64, devices: BTreeMap<String, Device>) {
        let n_devices = devices.len();
        let n_healthy = devices.values().filter(|device| device.healthy).count();
        if self.lock().registry.listed(name, number, devices) {
            tracing::debug!(resource = name, n_devices, n_healthy, "a device plugin lists its devices");
            self.publish();
        }
    }

    fn on_gone(&self, name: &str, number: u64, why: &str) {
        if self.lock().registry.gone(name, number, Instant::now()) {
            tracing::warn!(
                resource = name,
                why,
                "a device plugin is gone: no pod gets its devices until it registers again"
            );
            self.publish();
            self.0.gone.notify_one();
        }
    }

    /// Forgets devices whose plugin stays away. Never ends.
    async fn expire(&self) {
        loop {
            let next = self.lock().registry.expire(Instant::now());
            self.publish();
            let wait = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.0.gone.notified() => {}
            }
        }
    }

    fn publish(&self) {
        self.0.changes.send_modify(|n_changes| *n_changes = n_changes.wrapping_add(1));
        let now = self.lock().registry.amounts();
        self.0.amounts.send_if_modified(|told| {
            let is_news = *told != now;
            *told = now;
            is_news
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
