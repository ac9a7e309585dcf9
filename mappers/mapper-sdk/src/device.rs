//! One device: connects, writes what is wanted, reads what is due, and says whether the device is there.
//!
//! It runs in a task of its own and every call of the driver ends in time, so that a device that hangs concerns no other.
//! `fleet.rs` starts and ends it; reports go to its `Reports` and values to its `Pushes`, which never make it wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ke_dmi::v1beta1 as dmi;
use ke_run::backoff::Backoff;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::carrier::Reports;
use crate::counters::Counters;
use crate::deadband::{Deadband, LastTold};
use crate::desired::{self, Wishes};
use crate::driver::{Connection, Device, Driver, DriverError, Property};
use crate::manifest::Description;
use crate::news::Wish;
use crate::outbox::{Report, State};
use crate::push::{Pushes, Targets};
use crate::sampler::Sampler;
use crate::value::Value;

/// Between tries to reach a device.
const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(30), jitter: 0.0 };

/// Another reason for the same state is told no sooner than this.
const WHY_PAUSE: Duration = Duration::from_secs(10);

/// A state as it was told.
struct Told {
    state: State,
    /// Why it is no better; empty when it is well.
    why: String,
    at: Duration,
}

/// The task.
pub(crate) struct DeviceTask<D> {
    driver: Arc<D>,
    call_limit: Duration,
    descriptions: watch::Receiver<Description>,
    asked: mpsc::Receiver<Wish>,
    reports: Reports,
    targets: Arc<Targets>,
    counters: Counters,
    /// The description in force.
    device: Arc<Device>,
    pushes: Pushes,
    /// Counts changes of them.
    n_pushes_adopted: u64,
    wishes: Wishes,
    /// A connection was lost over a wish, and nothing was read since: nothing is written before. So a device that ignores a
    /// write is read, and one that is away fails no more wishes.
    reads_first: bool,
    /// What is wrong with single properties, as last told in the log.
    problems: BTreeMap<String, String>,
    /// When each property is told; those that are not here are told whenever they are read.
    bands: BTreeMap<String, Band>,
    state: Option<Told>,
    state_due: Option<Duration>,
    /// All durations count from here.
    begin: Instant,
}

struct Band {
    deadband: Deadband,
    last: LastTold,
    /// The `observedDesired` that was told along.
    observed: String,
    /// [`Reports::begins_anew`] when it was told.
    begun: u64,
    /// What the device sent by itself last; `None` for what is read, and while it is not known. Without being told, nothing
    /// would bring its sign of life.
    sent: Option<Value>,
}

impl Band {
    /// When it is told again without anything having come.
    fn next_heartbeat(&self) -> Option<Duration> {
        self.sent.as_ref().and_then(|_| self.last.next_heartbeat(self.deadband))
    }
}

/// Why a device is no longer driven over one connection.
enum End {
    /// Nobody wants it any more.
    Gone,
    /// Its description changed.
    Changed,
    /// It does not answer.
    Lost(String),
}

/// What ends a wait.
enum Event {
    Due,
    Changed,
    Asked(Wish),
    Pushed(Result<(String, Result<Value, DriverError>), DriverError>),
    Gone,
}

impl<D: Driver> DeviceTask<D> {
    pub(crate) fn new(
        driver: Arc<D>,
        call_limit: Duration,
        mut descriptions: watch::Receiver<Description>,
        asked: mpsc::Receiver<Wish>,
        reports: Reports,
        targets: Arc<Targets>,
        counters: Counters,
    ) -> Self {
        let Description { device, pushes } = descriptions.borrow_and_update().clone();
        let pushes = Pushes::new(&targets, &device.name, &pushes, Duration::ZERO);
        Self {
            driver,
            call_limit,
            descriptions,
            asked,
            reports,
            targets,
            counters,
            device,
            pushes,
            n_pushes_adopted: 0,
            wishes: Wishes::default(),
            reads_first: false,
            problems: BTreeMap::new(),
            bands: BTreeMap::new(),
            state: None,
            state_due: None,
            begin: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Runs until its device goes.
    pub(crate) async fn run(mut self) {
        self.adopt(true);
        let mut n_failures = 0_u32;
        loop {
            let driver = Arc::clone(&self.driver);
            let device = Arc::clone(&self.device);
            let connected = self.limited(false, driver.connect(&device)).await;
            let wait = match connected {
                Ok(connection) => match self.drive(connection, &mut n_failures).await {
                    End::Gone => return,
                    End::Changed => continue,
                    End::Lost(reason) => {
                        self.lost(&reason);
                        let wait = RECONNECT.ceiling(n_failures);
                        n_failures = n_failures.saturating_add(1);
                        Some(wait)
                    }
                },
                Err(DriverError::Setting(wrong)) => {
                    tracing::error!(device = %self.device.name, "{wrong}; the device is not driven until its manifest changes");
                    self.tell_state(State::Unhealthy, wrong.to_string());
                    None
                }
                Err(DriverError::Lost(reason) | DriverError::Refused(reason)) => {
                    self.lost(&reason);
                    let wait = RECONNECT.ceiling(n_failures);
                    n_failures = n_failures.saturating_add(1);
                    Some(wait)
                }
            };
            if self.rest(wait).await.is_none() {
                return;
            }
        }
    }

    /// Without a connection: waits, or for ever if there is no use in trying, until the description changes. `None`: gone.
    async fn rest(&mut self, wait: Option<Duration>) -> Option<()> {
        let until = wait.map(|wait| self.now() + wait);
        loop {
            let now = self.now();
            self.repeat_state(now);
            if until.is_some_and(|until| until <= now) {
                return Some(());
            }
            match self.wait(earliest([until, self.state_due]), None::<&mut D::Connection>).await {
                Event::Due | Event::Pushed(_) => {}
                Event::Gone => return None,
                Event::Changed => {
                    self.adopt(false);
                    return Some(());
                }
                Event::Asked(wish) => {
                    let why = "the device is not connected".to_owned();
                    match wish {
                        Wish::Read(_, reply) => drop(reply.send(Err(why))),
                        Wish::Write(_, _, reply) => drop(reply.send(Err(why))),
                    }
                }
            }
        }
    }

    /// Waits until something is to be done. Nothing is lost by dropping any of these waits.
    async fn wait<C: Connection>(&mut self, due: Option<Duration>, connection: Option<&mut C>) -> Event {
        let wait = due.map(|due| due.saturating_sub(self.now()));
        tokio::select! {
            changed = self.descriptions.changed() => match changed {
                Ok(()) => Event::Changed,
                Err(_) => Event::Gone,
            },
            wish = self.asked.recv() => wish.map_or(Event::Gone, Event::Asked),
            pushed = async {
                match connection {
                    Some(connection) => connection.pushed().await,
                    None => std::future::pending().await,
                }
            } => Event::Pushed(pushed),
            () = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            } => Event::Due,
        }
    }

    /// Drives the device over one connection.
    async fn drive(&mut self, mut connection: D::Connection, n_failures: &mut u32) -> End {
        let mut sampler = self.sampler(&connection);
        // From before the connection; nobody knows what was meanwhile.
        self.pushes.forget_all();
        self.bands.values_mut().for_each(|band| band.sent = None);
        if sampler.next_due().is_none() {
            self.reads_first = false;
            self.tell_health();
        }
        loop {
            let now = self.now();
            self.repeat_state(now);
            if !self.reads_first
                && let Err(reason) = self.write_due(&mut connection, &mut sampler).await
            {
                return End::Lost(reason);
            }
            let due = sampler.take_due(self.now());
            if !due.is_empty() {
                match self.sample(&mut connection, &due).await {
                    Ok(()) => (*n_failures, self.reads_first) = (0, false),
                    Err(reason) => return End::Lost(reason),
                }
            }
            self.tell_heartbeats();
            self.tell_health_if_known();
            // After reading, so that what goes out is fresh.
            self.pushes.push_due(self.now(), OffsetDateTime::now_utc());
            let heartbeat = self.bands.values().filter_map(Band::next_heartbeat).min();
            let due = [sampler.next_due(), self.wishes.next_due(), self.state_due, self.pushes.next_due()];
            let due = earliest([earliest(due), heartbeat]);
            match self.wait(due, Some(&mut connection)).await {
                Event::Due => {}
                Event::Gone => return End::Gone,
                Event::Changed => {
                    let n_before = self.n_pushes_adopted;
                    if self.adopt(false) {
                        return End::Changed;
                    }
                    if self.n_pushes_adopted != n_before {
                        // Others may have to be read.
                        sampler = self.sampler(&connection);
                    }
                }
                Event::Asked(wish) => {
                    if let Err(reason) = self.grant(&mut connection, wish).await {
                        return End::Lost(reason);
                    }
                }
                Event::Pushed(Ok((_, Err(DriverError::Lost(reason))))) => return End::Lost(reason),
                Event::Pushed(Ok((name, answer))) => {
                    *n_failures = 0;
                    self.sent(&name, answer);
                }
                Event::Pushed(Err(error)) => return End::Lost(error.to_string()),
            }
        }
    }

    fn sampler(&self, connection: &D::Connection) -> Sampler {
        let cycle = |property: &Property| match property.report_to_cloud {
            true => Some(property.collect_cycle),
            false => self.pushes.take(&property.name).then_some(property.report_cycle),
        };
        let sampled = (0..).zip(&self.device.properties);
        let sampled = sampled.filter(|(_, property)| !connection.is_pushed(property));
        let cycles = sampled.filter_map(|(index, property)| Some((index, cycle(property)?)));
        Sampler::new(cycles, self.now())
    }

    /// Takes the newest description. Gives back whether the device must be connected anew for it.
    fn adopt(&mut self, is_first: bool) -> bool {
        let Description { device: new, pushes } = self.descriptions.borrow_and_update().clone();
        let old = std::mem::replace(&mut self.device, new);
        if !self.pushes.are(&pushes) {
            // The old ones go afterwards, so that a target of both keeps its queue.
            self.pushes = Pushes::new(&self.targets, &self.device.name, &pushes, self.now());
            self.n_pushes_adopted = self.n_pushes_adopted.wrapping_add(1);
        }
        let device = Arc::clone(&self.device);
        // What nobody reads any more is no problem.
        let wanted = device.properties.iter().filter(|property| self.is_wanted(property));
        let wanted: BTreeSet<&str> = wanted.map(|property| property.name.as_str()).collect();
        self.problems.retain(|name, _| wanted.contains(name.as_str()));
        for (property, why) in self.wishes.update(&device, is_first) {
            tracing::warn!(device = %device.name, property, "the desired value is not written: {why}");
        }
        if device.state_cycle != old.state_cycle || is_first {
            self.state_due = device.state_cycle.map(|cycle| self.now() + cycle);
        }
        let is_other = connected_with(&old) != connected_with(&device);
        if is_other || is_first {
            self.problems.clear();
            self.bands.clear();
            for property in &device.properties {
                match Deadband::of(&property.settings) {
                    Ok(Some(deadband)) => {
                        let (last, observed) = (LastTold::default(), String::new());
                        let band = Band { deadband, last, observed, begun: 0, sent: None };
                        self.bands.insert(property.name.clone(), band);
                    }
                    Ok(None) => {}
                    Err(wrong) => {
                        tracing::warn!(device = %device.name, property = property.name, "{wrong}; every sample is reported");
                    }
                }
            }
        }
        is_other
    }

    /// Writes what is wanted. Errors: the device is lost.
    async fn write_due(
        &mut self,
        connection: &mut D::Connection,
        sampler: &mut Sampler,
    ) -> Result<(), String> {
        let device = Arc::clone(&self.device);
        for wish in self.wishes.due(self.now()) {
            let mut places = (0..).zip(&device.properties);
            let Some((index, property)) = places.find(|(_, property)| property.name == wish.property) else {
                continue;
            };
            // An earlier run of this process may have written it; devices wear out with every write.
            if wish.may_hold && !connection.is_pushed(property) {
                let answers = self.read(connection, &[property]).await;
                let answers = answers.inspect_err(|reason| self.lost_over(property, reason))?;
                if matches!(answers.first(), Some(Ok(held)) if *held == wish.value) {
                    self.wishes.written(&property.name);
                    continue;
                }
            }
            match self.limited(connection.has_limit(), connection.write(property, &wish.value)).await {
                Ok(()) => {
                    tracing::info!(device = %device.name, property = property.name, "the desired value was written");
                    self.counters.writes.inc();
                    self.wishes.written(&property.name);
                    // What the device makes of it is told soon.
                    sampler.hurry(index, self.now());
                }
                Err(DriverError::Lost(reason)) => {
                    self.lost_over(property, &reason);
                    return Err(reason);
                }
                Err(DriverError::Refused(why)) => {
                    tracing::warn!(device = %device.name, property = property.name, "the device refuses the desired value, which is tried again: {why}");
                    self.counters.refused_writes.inc();
                    self.wishes.failed(&property.name, &why, self.now());
                }
                Err(DriverError::Setting(why)) => {
                    tracing::warn!(device = %device.name, property = property.name, "the desired value cannot be written: {why}");
                    self.wishes.give_up(&property.name, &why.to_string());
                }
            }
        }
        Ok(())
    }

    /// The device was lost while a wish was written. That counts as a failed try of the wish, which may be all that is wrong.
    fn lost_over(&mut self, property: &Property, reason: &str) {
        tracing::warn!(device = %self.device.name, property = property.name, "lost while the desired value was written, which is tried again: {reason}");
        self.wishes.failed(&property.name, reason, self.now());
        self.reads_first = true;
    }

    /// Reads and reports one round. Errors: the device is lost.
    async fn sample(&mut self, connection: &mut D::Connection, due: &[usize]) -> Result<(), String> {
        let device = Arc::clone(&self.device);
        let properties: Vec<&Property> =
            due.iter().filter_map(|index| device.properties.get(*index)).collect();
        let answers = self.read(connection, &properties).await?;
        self.take(properties.into_iter().zip(answers));
        // It answered.
        self.tell_health();
        Ok(())
    }

    /// What the device sent by itself, which nobody need have asked for.
    fn sent(&mut self, name: &str, answer: Result<Value, DriverError>) {
        let device = Arc::clone(&self.device);
        match device.properties.iter().find(|property| property.name == name) {
            Some(property) if self.is_wanted(property) => {
                if let Some(band) = self.bands.get_mut(name) {
                    band.sent = answer.as_ref().ok().cloned();
                }
                self.take([(property, answer)]);
            }
            Some(_) => {}
            None => tracing::debug!(device = %device.name, name, "the device sent what nobody knows"),
        }
    }

    /// Tells again what did not change for long, of what nobody reads.
    fn tell_heartbeats(&mut self) {
        let now = self.now();
        let device = Arc::clone(&self.device);
        let due = device.properties.iter().filter_map(|property| {
            let band = self.bands.get(&property.name)?;
            let value = band.next_heartbeat().is_some_and(|due| due <= now).then(|| band.sent.clone())?;
            Some((property, value?))
        });
        self.tell(due.collect());
    }

    /// Whether a property's value goes anywhere.
    fn is_wanted(&self, property: &Property) -> bool {
        property.report_to_cloud || self.pushes.take(&property.name)
    }

    /// Tells the values among answers, whether asked for or sent, and keeps what is wrong with the others.
    fn take<'a>(&mut self, answers: impl IntoIterator<Item = (&'a Property, Result<Value, DriverError>)>) {
        let mut values = Vec::new();
        for (property, answer) in answers {
            let (device, name) = (&self.device.name, &property.name);
            match answer {
                Ok(value) => {
                    if self.problems.remove(name).is_some() {
                        tracing::info!(%device, property = name, "it is read again");
                    }
                    values.push((property, value));
                }
                Err(why) => {
                    let why = why.to_string();
                    self.counters.failed_reads.inc();
                    self.pushes.forget(name);
                    if self.problems.get(name) != Some(&why) {
                        tracing::warn!(%device, property = name, "it cannot be read: {why}");
                        self.problems.insert(name.clone(), why);
                    }
                }
            }
        }
        self.tell(values);
    }

    /// One answer for each property. Errors: the device is lost.
    async fn read(
        &self,
        connection: &mut D::Connection,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, String> {
        let mut answers = self
            .limited(connection.has_limit(), connection.read(properties))
            .await
            .map_err(|error| error.to_string())?;
        for answer in &answers {
            if let Err(DriverError::Lost(reason)) = answer {
                return Err(reason.clone());
            }
        }
        let none = || Err(DriverError::Refused("the driver gave no answer".to_owned()));
        answers.resize_with(properties.len(), none);
        Ok(answers)
    }

    /// `has_limit`: the driver's own.
    async fn limited<T>(
        &self,
        has_limit: bool,
        call: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        if has_limit {
            return call.await;
        }
        match timeout(self.call_limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(DriverError::Lost(format!("no answer within {} s", self.call_limit.as_secs()))),
        }
    }

    /// Does what somebody at the REST API wants. Errors: the device is lost.
    async fn grant(&self, connection: &mut D::Connection, wish: Wish) -> Result<(), String> {
        let device = Arc::clone(&self.device);
        let find = |name: &str| {
            let found = device.properties.iter().find(|property| property.name == name);
            found.ok_or_else(|| format!("property {name} is not in the device"))
        };
        match wish {
            Wish::Read(name, reply) => {
                let answer = match find(&name) {
                    Ok(property) => self.read(connection, &[property]).await,
                    Err(why) => {
                        let _ = reply.send(Err(why));
                        return Ok(());
                    }
                };
                let is_lost = answer.as_ref().map(drop).map_err(Clone::clone);
                let one = answer.and_then(|answers| match answers.into_iter().next() {
                    Some(Ok(value)) => Ok(value),
                    Some(Err(why)) => Err(why.to_string()),
                    None => Err("the driver gave no answer".to_owned()),
                });
                let _ = reply.send(one);
                is_lost
            }
            Wish::Write(name, text, reply) => {
                let asked = find(&name).and_then(|property| {
                    let value = desired::value(property, &text).map_err(|why| format!("{name}: {why}"))?;
                    Ok((property, value))
                });
                let done = match asked {
                    Ok((property, value)) => {
                        self.limited(connection.has_limit(), connection.write(property, &value)).await
                    }
                    Err(why) => Err(DriverError::Refused(why)),
                };
                let is_lost = match &done {
                    Err(DriverError::Lost(reason)) => Err(reason.clone()),
                    _ => Ok(()),
                };
                let _ = reply.send(done.map_err(|why| why.to_string()));
                is_lost
            }
        }
    }

    /// Reports values of one round together, and keeps them for pushes.
    fn tell(&mut self, values: Vec<(&Property, Value)>) {
        let now = self.now();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let begun = self.reports.begins_anew();
        let mut twins = Vec::with_capacity(values.len());
        for (property, value) in values {
            self.counters.values.inc();
            self.pushes.note(&property.name, &value);
            if !property.report_to_cloud {
                continue;
            }
            let observed = self.wishes.observed(&property.name);
            if let Some(band) = self.bands.get_mut(&property.name) {
                if band.begun != begun {
                    (band.begun, band.last) = (begun, LastTold::default());
                }
                let is_due = band.last.is_due(band.deadband, &value, now);
                if !is_due && band.observed == observed {
                    continue;
                }
                observed.clone_into(&mut band.observed);
            }
            let half = |value: String| {
                let kind = ("type".to_owned(), property.kind.to_string().to_lowercase());
                let time = ("timestamp".to_owned(), since_epoch.as_millis().to_string());
                Some(dmi::TwinProperty { value, metadata: [kind, time].into() })
            };
            twins.push(dmi::Twin {
                property_name: property.name.clone(),
                observed_desired: half(observed.to_owned()),
                reported: half(value.to_string()),
            });
        }
        if !twins.is_empty() {
            self.reports.push(Report::Values(twins));
        }
    }

    fn lost(&mut self, reason: &str) {
        if self.state.as_ref().map(|told| told.state) != Some(State::Offline) {
            tracing::warn!(device = %self.device.name, "the device is lost and is tried again: {reason}");
            self.counters.lost.inc();
        }
        self.tell_state(State::Offline, reason.to_owned());
    }

    /// Once it was told that the device answers, wishes may change how it is.
    fn tell_health_if_known(&mut self) {
        if matches!(self.state, Some(Told { state: State::Online | State::Unhealthy, .. })) {
            self.tell_health();
        }
    }

    fn tell_health(&mut self) {
        if self.problems.is_empty() && !self.wishes.has_refused() {
            return self.tell_state(State::Online, String::new());
        }
        let unread = self.problems.iter().map(|(name, why)| format!("{name} cannot be read: {why}"));
        let unwritten = self
            .wishes
            .refusals()
            .map(|(name, why)| format!("the desired value of {name} is not written: {why}"));
        let why = unread.chain(unwritten).collect::<Vec<_>>().join("; ");
        self.tell_state(State::Unhealthy, why);
    }

    /// Tells a state that changed at once; also if nobody asked for a cycle, as it is rare and people look at it.
    fn tell_state(&mut self, state: State, why: String) {
        let at = self.now();
        let before = self.state.as_ref().filter(|told| told.state == state);
        let is_told = before.is_some_and(|told| told.why == why || at < told.at + WHY_PAUSE);
        if !is_told {
            tracing::info!(device = %self.device.name, state = state.word(), "the device's state");
            self.reports.push(Report::State(state, why.clone()));
            self.state = Some(Told { state, why, at });
            self.state_due = self.device.state_cycle.map(|cycle| self.now() + cycle);
        }
    }

    fn repeat_state(&mut self, now: Duration) {
        if self.state_due.is_some_and(|due| due <= now) {
            if let Some(Told { state, why, .. }) = &self.state {
                self.reports.push(Report::State(*state, why.clone()));
            }
            self.state_due = self.device.state_cycle.map(|cycle| now + cycle);
        }
    }
}

/// The part of a description that a connection depends on.
fn connected_with(device: &Device) -> Device {
    let mut part = Device { methods: Vec::new(), state_cycle: None, ..device.clone() };
    for property in &mut part.properties {
        property.desired = None;
        // Of pushes, which are compared by themselves.
        property.report_cycle = Duration::ZERO;
    }
    part
}

fn earliest<const N: usize>(times: [Option<Duration>; N]) -> Option<Duration> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
