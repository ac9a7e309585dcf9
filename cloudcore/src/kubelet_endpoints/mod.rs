//! What each edge node's Node shows to the API server: EdgeController passes every registration and status through here.
//!
//! A port is opened before a Node says it, so that nobody dials in vain; once open it stays so. Cloneable; its lock is held for a
//! moment, never across an await. The decisions are `ports.rs` and `status.rs`. CloudStream serves the ports that are
//! opened here.

mod ports;
mod status;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ke_wire::NodeName;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use self::ports::NodePorts;
use self::status::{KubeletEndpoint, Shown};
use crate::gate::{ListenError, Port};
use crate::ranges::PortRange;

pub(crate) use self::status::as_the_node_said;
pub use self::status::{KUBELET_PORT, NODE_ADDRESSES};

const KEY: &str = "modules.cloudStream.kubeletPorts";

/// Handle to what Nodes show.
#[derive(Clone)]
pub struct KubeletEndpoints(Arc<Inner>);

struct Inner {
    /// `None`: Nodes show what their machines say, and what was shown before is taken back.
    served: Option<Served>,
    state: Mutex<State>,
    opened: Notify,
}

struct Served {
    address: Option<IpAddr>,
    shared_port: u16,
    listen: Listen,
}

/// Takes a port; tests have one of their own.
type Listen = Box<dyn Fn(u16) -> Result<Port, ListenError> + Send + Sync>;

#[derive(Default)]
struct State {
    ports: NodePorts,
    shown: HashMap<NodeName, Shown>,
    open: BTreeSet<u16>,
    /// A port could not be opened for a reason that passes: said once, until one could.
    is_short: bool,
    /// Opened, and not yet taken by the module: at most as many as there are ports.
    fresh: Vec<(u16, Port)>,
}

/// By which port a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// That of one node.
    Of(NodeName),
    /// The one for all, or one that belongs to nobody at present.
    Shared,
}

impl KubeletEndpoints {
    /// Nobody is served here.
    #[must_use]
    pub fn off() -> Self {
        Self(Arc::new(Inner { served: None, state: Mutex::default(), opened: Notify::new() }))
    }

    /// Nodes show `address`, if any, and a port of `range` or else `shared_port`.
    pub(crate) fn new(
        address: Option<IpAddr>,
        range: PortRange,
        shared_port: u16,
        listen_on: IpAddr,
        tls: TlsAcceptor,
    ) -> Self {
        let listen = move |port| Port::with_tls(KEY, listen_on, port, tls.clone());
        Self::with(address, range, shared_port, Box::new(listen))
    }

    fn with(address: Option<IpAddr>, range: PortRange, shared_port: u16, listen: Listen) -> Self {
        let state = State { ports: NodePorts::new(range), ..State::default() };
        let served = Some(Served { address, shared_port, listen });
        Self(Arc::new(Inner { served, state: Mutex::new(state), opened: Notify::new() }))
    }

    /// All Nodes show this.
    #[cfg(test)]
    pub(crate) fn showing(address: IpAddr, port: u16) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // No port is opened.
        let nothing = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(nothing);
        let tls = TlsAcceptor::from(Arc::new(tls));
        Self::new(Some(address), PortRange::default(), port, address, tls)
    }

    /// The Node as the API server has it now.
    pub(crate) fn seen(&self, node: &NodeName, object: &Value) {
        let shown = Shown::of(object);
        let mut state = self.state();
        state.ports.seen(node, shown.port);
        if let (Some(served), Some(port)) = (&self.0.served, shown.port)
            && state.ports.owner(port) == Some(node)
        {
            self.open(served, &mut state, port);
        }
        state.shown.insert(node.clone(), shown);
    }

    /// It is no edge node any more.
    pub(crate) fn gone(&self, node: &NodeName) {
        let mut state = self.state();
        state.shown.remove(node);
        state.ports.gone(node);
    }

    /// A Node that is about to be created.
    pub(crate) fn create(&self, node: &NodeName, object: &mut Value) {
        let mut state = self.state();
        let endpoint = self.endpoint(&mut state, node);
        status::create(object, endpoint);
    }

    /// A strategic merge patch of a Node's status that is about to be sent.
    pub(crate) fn patch(&self, node: &NodeName, patch: &mut Map<String, Value>) {
        let mut state = self.state();
        let endpoint = self.endpoint(&mut state, node);
        status::patch(patch, state.shown.get(node), endpoint);
    }

    /// By which way a request came that came to this port.
    pub(crate) fn entrance(&self, port: u16) -> Entrance {
        self.state().ports.owner(port).cloned().map_or(Entrance::Shared, Entrance::Of)
    }

    /// Ports that were opened since this was asked last; waits for the first.
    pub(crate) async fn opened(&self) -> Vec<(u16, Port)> {
        loop {
            let waiting = self.0.opened.notified();
            let fresh = std::mem::take(&mut self.state().fresh);
            if !fresh.is_empty() {
                return fresh;
            }
            waiting.await;
        }
    }

    fn endpoint(&self, state: &mut State, node: &NodeName) -> KubeletEndpoint {
        let Some(served) = &self.0.served else { return KubeletEndpoint::default() };
        // Ends: each turn that goes on takes one port out of the range.
        let own = loop {
            let Some(port) = state.ports.give(node) else { break None };
            match self.open(served, state, port) {
                Opened::Yes => break Some(port),
                Opened::Never => {}
                // It stays the node's, which shows the shared port until its next report.
                Opened::NotNow => break None,
            }
        };
        KubeletEndpoint { address: served.address, port: Some(own.unwrap_or(served.shared_port)) }
    }

    fn open(&self, served: &Served, state: &mut State, port: u16) -> Opened {
        if state.open.contains(&port) {
            return Opened::Yes;
        }
        match (served.listen)(port) {
            Ok(listener) => {
                state.open.insert(port);
                state.fresh.push((port, listener));
                state.is_short = false;
                self.0.opened.notify_one();
                Opened::Yes
            }
            Err(cause) if is_for_good(&cause) => {
                tracing::warn!("port {port} is given to no node: {cause}");
                state.ports.is_unusable(port);
                Opened::Never
            }
            Err(cause) => {
                if !std::mem::replace(&mut state.is_short, true) {
                    tracing::warn!("nodes without a port of their own show the shared one for now: {cause}");
                }
                Opened::NotNow
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of opening a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    Yes,
    /// It cannot be had on this machine.
    Never,
    /// This process is short of something, such as file descriptors: the next port would fail as well.
    NotNow,
}

fn is_for_good(cause: &ListenError) -> bool {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let ListenError::Bind { source, .. } = cause else { return false };
    matches!(source.kind(), AddrInUse | AddrNotAvailable | PermissionDenied)
}

impl std::fmt::Debug for KubeletEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} nodes", self.state().shown.len())
    }
}

impl Default for KubeletEndpoints {
    fn default() -> Self {
        Self::off()
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
