//! One task per device: connects, samples, writes what is desired, answers REST.
//!
//! Nothing that a device does reaches another one: every call to the driver has a limit, and a connection that was cut
//! short is never used again. Started and stopped by the registry. The node is told through the outbox only. This file
//! makes connections, `serve.rs` uses them.

mod serve;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ke_run::backoff::Backoff;
use ke_run::shutdown::{Shutdown, Trigger};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::deadband::LastTold;
use crate::driver::{Connection, DeviceState, Driver, DriverError, Update, Updates};
use crate::edge::Edge;
use crate::metrics::Counters;
use crate::reporter::{self, SharedOutbox};
use crate::sampler::Sampler;
use crate::settings::{Access, DeviceSettings, PropertyName, PropertySettings};
use crate::value::{Kind, Value};
use crate::wishes::Wishes;

/// A device that does not answer is dialled at growing intervals, and found within 15 s of coming back.
const REDIAL: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(15), jitter: 0.3 };
/// A device that refused a desired value is asked again at growing intervals.
const REWRITE: Backoff =
    Backoff { first: Duration::from_secs(2), factor: 2.0, max: Duration::from_secs(60), jitter: 0.3 };

/// A request from REST. The texts of its errors are shown to whoever asked.
#[derive(Debug)]
pub(crate) enum Order {
    Read { property: PropertyName, reply: oneshot::Sender<Result<Value, String>> },
    Write { method: String, property: PropertyName, data: String, reply: oneshot::Sender<Result<(), String>> },
}

/// What the registry holds of a running device.
#[derive(Debug)]
pub(crate) struct DeviceHandle {
    pub(crate) settings: watch::Sender<Arc<DeviceSettings>>,
    /// Full: the device is busy, and whoever asked is told so.
    pub(crate) orders: mpsc::Sender<Order>,
    again: watch::Sender<()>,
    stop: Trigger,
    pub(crate) task: JoinHandle<()>,
}

impl DeviceHandle {
    /// The node may have lost what it was told.
    pub(crate) fn tell_again(&self) {
        self.again.send_replace(());
    }

    pub(crate) fn stop(self) -> JoinHandle<()> {
        self.stop.stop();
        self.task
    }
}

/// Starts a device's task. Must be called inside a tokio runtime.
pub(crate) fn start(
    driver: Arc<dyn Driver>,
    edge: Edge,
    counters: Counters,
    settings: DeviceSettings,
) -> DeviceHandle {
    let (settings_sender, settings) = watch::channel(Arc::new(settings));
    let (again_sender, again) = watch::channel(());
    let (orders_sender, orders) = mpsc::channel(16);
    let (trigger, stop) = Shutdown::new();
    let device = Device {
        call_limit: driver.call_limit(),
        driver,
        edge,
        counters,
        outbox: Arc::default(),
        settings,
        again,
        orders,
        stop,
        epoch: Instant::now(),
        wishes: Wishes::default(),
        faults: BTreeMap::new(),
        told: BTreeMap::new(),
        state: None,
        failures: 0,
    };
    let task = tokio::spawn(device.run());
    DeviceHandle {
        settings: settings_sender,
        orders: orders_sender,
        again: again_sender,
        stop: trigger,
        task,
    }
}

/// Where something is wrong with a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Setting,
    Read,
    Range,
    Write,
    Report,
}

struct Device {
    driver: Arc<dyn Driver>,
    call_limit: Duration,
    edge: Edge,
    counters: Counters,
    outbox: Arc<SharedOutbox>,
    settings: watch::Receiver<Arc<DeviceSettings>>,
    again: watch::Receiver<()>,
    orders: mpsc::Receiver<Order>,
    stop: Shutdown,
    epoch: Instant,
    wishes: Wishes,
    faults: BTreeMap<(PropertyName, Place), String>,
    /// The last value and observed desired value that were told.
    told: BTreeMap<PropertyName, (LastTold, String)>,
    state: Option<DeviceState>,
    /// Connections that failed or broke since one last proved good.
    failures: u32,
}

/// Why a connection is given up.
enum End {
    Stop,
    Lost(String),
    /// It is fine, but the configuration is another one.
    Changed,
}

struct Line {
    connection: Box<dyn Connection>,
    updates: mpsc::Receiver<Update>,
    /// Properties that come by themselves.
    subscribed: Vec<PropertyName>,
    sampler: Sampler,
    state_next: Option<Duration>,
    /// What the driver last said about the device.
    health: DeviceState,
}

impl Device {
    async fn run(mut self) {
        let settings = self.take_settings();
        let (reporter_trigger, reporter_stop) = Shutdown::new();
        let (edge, outbox, counters) = (self.edge.clone(), Arc::clone(&self.outbox), self.counters.clone());
        let reporter =
            tokio::spawn(reporter::run(settings.name.clone(), edge, outbox, counters, reporter_stop));
        tracing::info!(device = %settings.name, n_properties = settings.properties.len(), "device starts");
        loop {
            let settings = self.take_settings();
            let end = match self.connect(&settings).await {
                Ok(line) => {
                    self.counters.connected.inc();
                    let end = self.serve(line).await;
                    self.counters.connected.dec();
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Stop => break,
                End::Changed => {}
                End::Lost(reason) => {
                    if self.rest(&settings, &reason).await.is_none() {
                        break;
                    }
                }
            }
        }
        self.set_state(DeviceState::Offline);
        reporter_trigger.stop();
        let _ = reporter.await;
        tracing::info!(device = %settings.name, "device stopped");
    }

    fn take_settings(&mut self) -> Arc<DeviceSettings> {
        let settings = Arc::clone(&self.settings.borrow_and_update());
        self.wishes.update(&settings);
        let is_kept = |name: &PropertyName| settings.property(name.as_str()).is_some();
        self.told.retain(|name, _| is_kept(name));
        self.outbox.change(|outbox| outbox.keep(is_kept));
        self.faults.retain(|(name, place), _| *place != Place::Setting && is_kept(name));
        for (property, fault) in &settings.faults {
            tracing::warn!(device = %settings.name, %property, "property is left out: it {fault}");
            self.faults.insert((property.clone(), Place::Setting), fault.clone());
        }
        for property in &settings.properties {
            if property.access == Access::ReadOnly && property.desired.is_some() {
                tracing::warn!(
                    device = %settings.name, property = %property.name,
                    "its desired value is not written: the model says ReadOnly"
                );
            }
        }
        settings
    }

    async fn connect(&mut self, settings: &DeviceSettings) -> Result<Line, End> {
        let driver = Arc::clone(&self.driver);
        let connected = tokio::select! {
            connected = tokio::time::timeout(self.call_limit, driver.connect(settings)) => connected,
            () = self.stop.wait() => return Err(End::Stop),
        };
        let mut connection = match connected {
            Ok(connected) => connected.map_err(|error| End::Lost(error.to_string()))?,
            Err(_) => return Err(End::Lost(self.too_slow("connecting"))),
        };
        self.counters.connects.inc();
        let (sender, updates) = Updates::channel();
        let reported = settings.properties.iter().filter(|property| property.is_reported);
        let reported: Vec<&PropertySettings> = reported.map(Arc::as_ref).collect();
        let subscribed = self.limited("subscribing", connection.subscribe(&reported, sender)).await?;
        let subscribed = match subscribed {
            Ok(subscribed) => subscribed,
            Err(DriverError::Lost(reason)) => return Err(End::Lost(reason)),
            Err(error) => {
                tracing::warn!(device = %settings.name, %error, "nothing subscribed; reads in cycles instead");
                Vec::new()
            }
        };
        let sampler = self.sampler(settings, &subscribed);
        let state_next = settings.state_cycle.map(|_| self.now());
        Ok(Line { connection, updates, subscribed, sampler, state_next, health: DeviceState::Online })
    }

    fn sampler(&self, settings: &DeviceSettings, subscribed: &[PropertyName]) -> Sampler {
        let sampled = settings.properties.iter().enumerate();
        let sampled =
            sampled.filter(|(_, property)| property.is_reported && !subscribed.contains(&property.name));
        Sampler::new(sampled.map(|(index, property)| (index, property.collect)), self.now())
    }

    /// Offline for a while. `None`: stop.
    async fn rest(&mut self, settings: &DeviceSettings, reason: &str) -> Option<()> {
        if self.failures == 0 {
            tracing::warn!(device = %settings.name, reason, "device is not reachable, goes on trying");
        }
        self.set_state(DeviceState::Offline);
        let pause = REDIAL.delay(self.failures, random());
        self.failures = self.failures.saturating_add(1);
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = self.stop.wait() => return None,
                changed = self.settings.changed() => {
                    changed.ok()?;
                    return Some(());
                }
                changed = self.again.changed() => {
                    changed.ok()?;
                    self.outbox.change(crate::outbox::Outbox::again);
                }
                order = self.orders.recv() => match order? {
                    Order::Read { reply, .. } => drop(reply.send(Err(format!("the device is offline: {reason}")))),
                    Order::Write { reply, .. } => drop(reply.send(Err(format!("the device is offline: {reason}")))),
                },
                () = tokio::time::sleep_until(until) => return Some(()),
            }
        }
    }

    /// One call to the driver. `Err`: it took too long or the mapper stops; the connection is not to be used again.
    async fn limited<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            done = tokio::time::timeout(self.call_limit, call) => {
                done.map_err(|_| End::Lost(self.too_slow(what)))
            }
            () = self.stop.wait() => Err(End::Stop),
        }
    }

    fn too_slow(&self, what: &str) -> String {
        format!("{what} took longer than {} s", self.call_limit.as_secs())
    }

    /// Time since this device's task began.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The connection proved good.
    fn on_answer(&mut self, settings: &DeviceSettings) {
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!(device = %settings.name, "device is reachable again");
        }
    }

    fn set_state(&mut self, state: DeviceState) {
        if self.state != Some(state) {
            self.state = Some(state);
            self.outbox.change(|outbox| outbox.tell_state(state));
        }
    }

    /// The state of a connected device.
    fn refresh_state(&mut self, health: DeviceState) {
        let is_well = self.faults.is_empty();
        self.set_state(if is_well { health } else { DeviceState::Unhealthy });
    }

    /// Notes or clears what is wrong with a property, and logs it when that is new.
    fn set_fault(
        &mut self,
        settings: &DeviceSettings,
        name: &PropertyName,
        place: Place,
        fault: Option<String>,
    ) {
        let key = (name.clone(), place);
        match fault {
            Some(fault) => {
                if self.faults.get(&key) != Some(&fault) {
                    tracing::warn!(device = %settings.name, property = %name, reason = %fault, "{}", place.verb());
                }
                self.faults.insert(key, fault);
            }
            None => {
                if self.faults.remove(&key).is_some() {
                    tracing::info!(device = %settings.name, property = %name, "works again ({})", place.verb());
                }
            }
        }
    }
}

impl Place {
    fn verb(self) -> &'static str {
        match self {
            Self::Setting => "property is left out",
            Self::Read => "cannot be read",
            Self::Range => "reads a value outside of the model's range",
            Self::Write => "desired value is not written",
            Self::Report => "value is not reported",
        }
    }
}

/// Why a value may not be written, as the model says.
fn check_range(property: &PropertySettings, value: &Value) -> Result<(), String> {
    let Some(number) = value.number() else { return Ok(()) };
    let is_low = property.minimum.is_some_and(|minimum| number < minimum);
    let is_high = property.maximum.is_some_and(|maximum| number > maximum);
    if !is_low && !is_high {
        return Ok(());
    }
    let bound = |bound: Option<f64>| bound.map_or("any".to_owned(), |bound| bound.to_string());
    let (minimum, maximum) = (bound(property.minimum), bound(property.maximum));
    Err(format!("{value} is outside of the model's range, {minimum} to {maximum}"))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Int => "int",
        Kind::Float => "float",
        Kind::Double => "double",
        Kind::Text => "string",
        Kind::Bool => "boolean",
        Kind::Bytes => "bytes",
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_clock() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// Uniform in 0..1, for jitter; the standard library's hash keys are random enough for that.
#[expect(clippy::cast_precision_loss, reason = "53 bits of chance are plenty")]
pub(crate) fn random() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
