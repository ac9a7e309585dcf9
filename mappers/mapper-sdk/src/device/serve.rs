//! A standing connection at work: due samples, desired values, orders from REST.

use std::sync::Arc;

use super::{Device, End, Line, Order, Place, REWRITE, check_range, kind_name, random, wall_clock};
use crate::driver::{DriverError, Sample, Update};
use crate::outbox::{Outbox, Told};
use crate::settings::{Access, DeviceSettings, PropertyName, PropertySettings};
use crate::value::Value;

enum Event {
    Stop,
    Settings,
    Again,
    Order(Order),
    Update(Update),
    Time,
}

impl Device {
    /// Uses the connection until there is a reason not to.
    pub(super) async fn serve(&mut self, mut line: Line) -> End {
        let mut settings = Arc::clone(&self.settings.borrow());
        if !settings.properties.iter().any(|property| property.is_reported) {
            // Nothing will be read that could prove it good.
            self.refresh_state(line.health);
        }
        loop {
            let done = match self.next_event(&mut line).await {
                Event::Stop => Err(End::Stop),
                Event::Again => {
                    self.outbox.change(Outbox::again);
                    Ok(())
                }
                Event::Settings => {
                    let new = self.take_settings();
                    let is_same = is_same_line(&settings, &new, &line.subscribed);
                    settings = new;
                    if is_same {
                        line.sampler = self.sampler(&settings, &line.subscribed);
                        line.state_next = settings.state_cycle.map(|_| self.now());
                        self.refresh_state(line.health);
                        Ok(())
                    } else {
                        Err(End::Changed)
                    }
                }
                Event::Order(order) => self.on_order(&settings, &mut line, order).await,
                Event::Update(Update::Lost(reason)) => Err(End::Lost(reason)),
                Event::Update(Update::Sample(name, sample)) => {
                    let taken = self.on_sample(&settings, &name, sample, false);
                    self.refresh_state(line.health);
                    taken
                }
                Event::Time => self.on_time(&settings, &mut line).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn next_event(&mut self, line: &mut Line) -> Event {
        let times = [line.sampler.next(), line.state_next, self.wishes.next()];
        let next = times.into_iter().flatten().min();
        let epoch = self.epoch;
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(epoch + next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.wait() => Event::Stop,
            changed = self.settings.changed() => if changed.is_ok() { Event::Settings } else { Event::Stop },
            changed = self.again.changed() => if changed.is_ok() { Event::Again } else { Event::Stop },
            order = self.orders.recv() => order.map_or(Event::Stop, Event::Order),
            Some(update) = line.updates.recv() => Event::Update(update),
            () = due => Event::Time,
        }
    }

    async fn on_time(&mut self, settings: &DeviceSettings, line: &mut Line) -> Result<(), End> {
        for (name, text) in self.wishes.due(self.now()) {
            self.fulfil(settings, line, &name, &text).await?;
        }
        let due = line.sampler.due(self.now());
        let due: Vec<&PropertySettings> =
            due.into_iter().filter_map(|index| settings.properties.get(index)).map(Arc::as_ref).collect();
        if !due.is_empty() {
            self.sample(settings, line, &due, false).await?;
        }
        if let Some(cycle) = settings.state_cycle
            && line.state_next.is_some_and(|next| next <= self.now())
        {
            line.health = match self.limited("asking for the state", line.connection.state()).await? {
                Ok(health) => health,
                Err(DriverError::Lost(reason)) => return Err(End::Lost(reason)),
                Err(error) => {
                    tracing::warn!(device = %settings.name, %error, "the device's state is not known");
                    crate::driver::DeviceState::Unhealthy
                }
            };
            line.state_next = Some(self.now() + cycle);
            self.refresh_state(line.health);
            if let Some(state) = self.state {
                self.outbox.change(|outbox| outbox.tell_state(state));
            }
        }
        Ok(())
    }

    /// Reads properties and tells what is worth telling.
    async fn sample(
        &mut self,
        settings: &DeviceSettings,
        line: &mut Line,
        properties: &[&PropertySettings],
        is_forced: bool,
    ) -> Result<(), End> {
        let samples = match self.limited("reading", line.connection.read(properties)).await? {
            Ok(samples) => samples,
            Err(DriverError::Lost(reason)) => return Err(End::Lost(reason)),
            Err(error) => properties.iter().map(|_| Err(error.clone())).collect(),
        };
        let n_missing = properties.len().saturating_sub(samples.len());
        let missing = || Err(DriverError::Refused("the driver gave no answer for it".to_owned()));
        let samples = samples.into_iter().chain(std::iter::repeat_with(missing).take(n_missing));
        for (property, sample) in properties.iter().zip(samples) {
            self.on_sample(settings, &property.name, sample, is_forced)?;
        }
        self.refresh_state(line.health);
        Ok(())
    }

    fn on_sample(
        &mut self,
        settings: &DeviceSettings,
        name: &PropertyName,
        sample: Sample,
        is_forced: bool,
    ) -> Result<(), End> {
        let Some(property) = settings.property(name.as_str()) else { return Ok(()) };
        let value = match sample {
            Ok(value) => value,
            Err(DriverError::Lost(reason)) => return Err(End::Lost(reason)),
            Err(error) => {
                self.counters.read_errors.inc();
                // An answer, be it a refusal, shows that the device is there.
                self.on_answer(settings);
                self.set_fault(settings, name, Place::Read, Some(error.to_string()));
                return Ok(());
            }
        };
        self.counters.reads.inc();
        self.on_answer(settings);
        self.set_fault(settings, name, Place::Read, None);
        // Told all the same: it is what the device shows.
        self.set_fault(settings, name, Place::Range, check_range(property, &value).err());
        if !property.is_reported {
            return Ok(());
        }
        let observed = self.wishes.observed(name).to_owned();
        let now = self.now();
        let (last, last_observed) = self.told.entry(name.clone()).or_default();
        let is_due = last.is_due(property.deadband, &value, now);
        if is_due || is_forced || *last_observed != observed {
            last_observed.clone_from(&observed);
            let reported = value.to_string();
            let told = Told { reported, observed, at: wall_clock(), kind: kind_name(property.kind) };
            let fault = self.edge.fault(name, &told);
            if fault.is_none() {
                self.outbox.change(|outbox| outbox.tell(name.clone(), told));
            }
            self.set_fault(settings, name, Place::Report, fault);
        }
        Ok(())
    }

    /// Writes a desired value, then reads it back so that the cloud sees both.
    async fn fulfil(
        &mut self,
        settings: &DeviceSettings,
        line: &mut Line,
        name: &PropertyName,
        text: &str,
    ) -> Result<(), End> {
        let Some(property) = settings.property(name.as_str()) else { return Ok(()) };
        let value = match parse(property, text) {
            Ok(value) => value,
            Err(fault) => {
                self.wishes.on_refused(name);
                self.counters.write_errors.inc();
                self.set_fault(settings, name, Place::Write, Some(fault));
                self.refresh_state(line.health);
                return Ok(());
            }
        };
        match self.limited("writing", line.connection.write(property, &value)).await? {
            Ok(()) => {
                self.on_answer(settings);
                self.counters.writes.inc();
                self.wishes.on_written(name);
                self.set_fault(settings, name, Place::Write, None);
                tracing::info!(device = %settings.name, property = %name, "desired value written");
                if property.is_reported {
                    self.sample(settings, line, &[property], true).await?;
                }
            }
            Err(DriverError::Lost(reason)) => return Err(End::Lost(reason)),
            Err(DriverError::Setting(error)) => {
                self.wishes.on_refused(name);
                self.counters.write_errors.inc();
                self.set_fault(settings, name, Place::Write, Some(error.to_string()));
            }
            Err(DriverError::Refused(reason)) => {
                let now = self.now();
                self.wishes.on_failed(name, now, |attempt| REWRITE.delay(attempt, random()));
                self.counters.write_errors.inc();
                self.set_fault(settings, name, Place::Write, Some(reason));
            }
        }
        self.refresh_state(line.health);
        Ok(())
    }

    async fn on_order(
        &mut self,
        settings: &DeviceSettings,
        line: &mut Line,
        order: Order,
    ) -> Result<(), End> {
        match order {
            Order::Read { property, reply } => {
                let Some(property) = settings.property(property.as_str()) else {
                    let _ = reply.send(Err(format!("the device has no property {property:?}")));
                    return Ok(());
                };
                let read = self.limited("reading", line.connection.read(&[property])).await;
                let (answer, end) = flatten(read);
                let answer = answer.and_then(|samples| {
                    let missing = || Err(DriverError::Refused("the driver gave no answer".to_owned()));
                    samples.into_iter().next().unwrap_or_else(missing).map_err(|error| error.to_string())
                });
                let _ = reply.send(answer);
                end.map_or(Ok(()), Err)
            }
            Order::Write { method, property, data, reply } => {
                let Some(property) = settings.property(property.as_str()) else {
                    let _ = reply.send(Err(format!("the device has no property {property:?}")));
                    return Ok(());
                };
                let value = match parse(property, &data) {
                    Ok(value) => value,
                    Err(fault) => {
                        let _ = reply.send(Err(format!("{}: {fault}", property.name)));
                        return Ok(());
                    }
                };
                let call = self.limited("writing", line.connection.call(&method, property, &value)).await;
                let (answer, end) = flatten(call);
                let is_written = answer.is_ok();
                let _ = reply.send(answer);
                if let Some(end) = end {
                    return Err(end);
                }
                if is_written && property.is_reported && property.access == Access::ReadWrite {
                    self.counters.writes.inc();
                    self.sample(settings, line, &[property], true).await?;
                }
                Ok(())
            }
        }
    }
}

/// What to answer, and whether the connection is done for.
fn flatten<T>(called: Result<Result<T, DriverError>, End>) -> (Result<T, String>, Option<End>) {
    match called {
        Ok(Ok(done)) => (Ok(done), None),
        Ok(Err(DriverError::Lost(reason))) => (Err(reason.clone()), Some(End::Lost(reason))),
        Ok(Err(error)) => (Err(error.to_string()), None),
        Err(End::Lost(reason)) => (Err(reason.clone()), Some(End::Lost(reason))),
        Err(end) => (Err("the device stops".to_owned()), Some(end)),
    }
}

fn parse(property: &PropertySettings, text: &str) -> Result<Value, String> {
    let value = property.kind.parse(text).map_err(|error| error.to_string())?;
    check_range(property, &value)?;
    Ok(value)
}

/// Whether a connection made for one configuration serves another.
fn is_same_line(old: &DeviceSettings, new: &DeviceSettings, subscribed: &[PropertyName]) -> bool {
    let reads_the_same = |name: &PropertyName| {
        let (old, new) = (old.property(name.as_str()), new.property(name.as_str()));
        matches!((old, new), (Some(old), Some(new)) if old.visitor == new.visitor && old.kind == new.kind && new.is_reported)
    };
    let has_new = || {
        new.properties
            .iter()
            .any(|property| property.is_reported && old.property(property.name.as_str()).is_none())
    };
    old.protocol == new.protocol
        && (subscribed.is_empty() || (subscribed.iter().all(reads_the_same) && !has_new()))
}
