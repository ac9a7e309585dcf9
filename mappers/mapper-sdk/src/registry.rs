//! Which devices and models this mapper has, and their tasks.
//!
//! Serves the node's calls and the answer of a registration alike; applies each at once and never waits for a device.
//! A device whose model is missing waits here for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ke_dmi::v1beta1 as wire;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::device::{self, DeviceHandle, Order};
use crate::driver::Driver;
use crate::edge::Edge;
use crate::metrics::Counters;
use crate::settings::{DeviceName, DeviceSettings, join};

/// Why a device cannot be taken. The text goes to the node's log and to ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("the call names no device")]
    Nameless,
    #[error("device {device}: {text}")]
    Unusable { device: DeviceName, text: String },
    #[error("device {device} has the protocol {theirs:?}, and this mapper serves {ours:?}")]
    Protocol { device: DeviceName, theirs: String, ours: String },
    #[error("the mapper stops")]
    Stopping,
}

pub(crate) struct Registry {
    driver: Arc<dyn Driver>,
    edge: Edge,
    counters: Counters,
    protocol: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<DeviceName, Stamped<wire::DeviceModel>>,
    devices: BTreeMap<DeviceName, Stamped<Known>>,
    /// Removed by a call; matters to an answer that was made before.
    gone: BTreeMap<DeviceName, u64>,
    /// Counts the node's calls.
    clock: u64,
    is_stopping: bool,
    /// Tasks that were told to stop.
    ending: Vec<JoinHandle<()>>,
}

struct Stamped<T> {
    what: T,
    at: u64,
}

struct Known {
    device: wire::Device,
    /// `None`: its model is missing.
    running: Option<DeviceHandle>,
}

/// A moment between the node's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

impl Registry {
    pub(crate) fn new(driver: Arc<dyn Driver>, edge: Edge, counters: Counters, protocol: String) -> Self {
        Self { driver, edge, counters, protocol, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Poisoned: a panic between two assignments; the maps themselves are whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take it before asking for an answer that [`Registry::reconcile`] gets.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.state().clock)
    }

    /// A new or changed model.
    pub(crate) fn put_model(&self, model: wire::DeviceModel) {
        let mut state = self.state();
        state.clock += 1;
        self.insert_model(&mut state, model);
    }

    fn insert_model(&self, state: &mut State, model: wire::DeviceModel) {
        let name = DeviceName::new(&model.namespace, &model.name);
        let at = state.clock;
        let is_same = state.models.get(&name).is_some_and(|known| known.what == model);
        state.models.insert(name.clone(), Stamped { what: model, at });
        if is_same {
            return;
        }
        let users = state.devices.iter().filter(|(_, known)| model_name(&known.what.device) == name);
        let users: Vec<wire::Device> = users.map(|(_, known)| known.what.device.clone()).collect();
        for device in users {
            if let Err(error) = self.apply(state, device) {
                tracing::warn!(model = %name, %error, "the model changed and does not fit");
            }
        }
    }

    /// Devices that run with it go on.
    pub(crate) fn remove_model(&self, name: &DeviceName) {
        let mut state = self.state();
        state.clock += 1;
        state.models.remove(name);
        let n_users = state.devices.values().filter(|known| model_name(&known.what.device) == *name).count();
        if n_users > 0 {
            tracing::warn!(model = %name, n_users, "model removed; its devices go on as they are");
        }
    }

    /// A new or changed device; the same again changes nothing.
    pub(crate) fn put_device(&self, device: wire::Device) -> Result<(), RegistryError> {
        let mut state = self.state();
        state.clock += 1;
        self.apply(&mut state, device)
    }

    fn apply(&self, state: &mut State, device: wire::Device) -> Result<(), RegistryError> {
        if state.is_stopping {
            return Err(RegistryError::Stopping);
        }
        if device.name.is_empty() {
            return Err(RegistryError::Nameless);
        }
        let name = DeviceName::new(&device.namespace, &device.name);
        let protocol = device.spec.as_ref().and_then(|spec| spec.protocol.as_ref());
        let theirs = protocol.map_or("", |protocol| &protocol.protocol_name);
        if !theirs.is_empty() && theirs != self.protocol {
            let theirs = theirs.to_owned();
            return Err(RegistryError::Protocol { device: name, theirs, ours: self.protocol.clone() });
        }
        let at = state.clock;
        let before = state.devices.remove(&name).and_then(|known| known.what.running);
        state.gone.remove(&name);
        let settings = state.models.get(&model_name(&device)).map(|model| join(&device, &model.what));
        let (running, outcome) = match (settings, before) {
            (None, before) => {
                let model = model_name(&device);
                tracing::warn!(device = %name, %model, "the model is not here yet; the device waits for it");
                (before, Ok(()))
            }
            (Some(Err(text)), before) => {
                (before, Err(RegistryError::Unusable { device: name.clone(), text }))
            }
            (Some(Ok(settings)), Some(running)) => {
                running.settings.send_if_modified(|current| {
                    let is_new = **current != settings;
                    if is_new {
                        *current = Arc::new(settings);
                    }
                    is_new
                });
                (Some(running), Ok(()))
            }
            (Some(Ok(settings)), None) => {
                let (driver, edge) = (Arc::clone(&self.driver), self.edge.clone());
                (Some(device::start(driver, edge, self.counters.clone(), settings)), Ok(()))
            }
        };
        state.devices.insert(name, Stamped { what: Known { device, running }, at });
        self.count(state);
        outcome
    }

    /// An unknown one is removed already.
    pub(crate) fn remove_device(&self, name: &DeviceName) {
        let mut state = self.state();
        state.clock += 1;
        let at = state.clock;
        state.gone.insert(name.clone(), at);
        self.drop_device(&mut state, name);
    }

    fn drop_device(&self, state: &mut State, name: &DeviceName) {
        if let Some(running) = state.devices.remove(name).and_then(|known| known.what.running) {
            state.ending.retain(|task| !task.is_finished());
            state.ending.push(running.stop());
        }
        self.count(state);
    }

    fn count(&self, state: &State) {
        self.counters.devices.set(i64::try_from(state.devices.len()).unwrap_or(i64::MAX));
    }

    /// Takes over what the node said it has, except where a call of the node said something newer since `asked`.
    pub(crate) fn reconcile(&self, asked: Moment, answer: wire::MapperRegisterResponse) {
        let mut state = self.state();
        let is_newer = |at: u64| at > asked.0;
        for model in answer.model_list {
            let name = DeviceName::new(&model.namespace, &model.name);
            if !state.models.get(&name).is_some_and(|known| is_newer(known.at)) {
                self.insert_model(&mut state, model);
            }
        }
        let mut named = Vec::new();
        for device in answer.device_list {
            let name = DeviceName::new(&device.namespace, &device.name);
            let is_outdated = state.devices.get(&name).is_some_and(|known| is_newer(known.at))
                || state.gone.get(&name).is_some_and(|at| is_newer(*at));
            named.push(name);
            if !is_outdated && let Err(error) = self.apply(&mut state, device) {
                tracing::warn!(%error, "a device of the node cannot be used");
            }
        }
        let stale = state.devices.iter().filter(|(name, known)| !named.contains(name) && !is_newer(known.at));
        let stale: Vec<DeviceName> = stale.map(|(name, _)| name.clone()).collect();
        for name in stale {
            tracing::info!(device = %name, "the node has this device no more");
            self.drop_device(&mut state, &name);
        }
        state.gone.clear();
    }

    /// All devices report everything once more.
    pub(crate) fn tell_again(&self) {
        for known in self.state().devices.values() {
            if let Some(running) = &known.what.running {
                running.tell_again();
            }
        }
    }

    /// Whether a registration might bring a model that a device waits for.
    pub(crate) fn has_waiting(&self) -> bool {
        self.state().devices.values().any(|known| known.what.running.is_none())
    }

    /// The node's own words about a device.
    pub(crate) fn device(&self, name: &DeviceName) -> Option<wire::Device> {
        self.state().devices.get(name).map(|known| known.what.device.clone())
    }

    /// The model of a device.
    pub(crate) fn model_of(&self, name: &DeviceName) -> Option<wire::DeviceModel> {
        let state = self.state();
        let known = state.devices.get(name)?;
        state.models.get(&model_name(&known.what.device)).map(|model| model.what.clone())
    }

    /// A running device's settings and where its orders go.
    pub(crate) fn running(&self, name: &DeviceName) -> Option<(Arc<DeviceSettings>, mpsc::Sender<Order>)> {
        let state = self.state();
        let running = state.devices.get(name)?.what.running.as_ref()?;
        let settings = Arc::clone(&running.settings.borrow());
        Some((settings, running.orders.clone()))
    }

    /// Stops all devices and waits until they have closed their connections.
    pub(crate) async fn stop(&self) {
        let tasks = {
            let mut state = self.state();
            state.is_stopping = true;
            let devices = std::mem::take(&mut state.devices).into_values();
            let stopped = devices.filter_map(|known| known.what.running).map(DeviceHandle::stop);
            std::mem::take(&mut state.ending).into_iter().chain(stopped).collect::<Vec<_>>()
        };
        for task in tasks {
            let _ = task.await;
        }
    }
}

fn model_name(device: &wire::Device) -> DeviceName {
    let model = device.spec.as_ref().map_or("", |spec| &spec.device_model_reference);
    DeviceName::new(&device.namespace, model)
}
