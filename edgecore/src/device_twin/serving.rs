//! Who serves the devices: mappers come, are found to answer or not, and their devices are told when nobody does.
//!
//! The half of DeviceTwin that is about mappers. What follows is decided by `presence.rs` and `delivery.rs`.

use std::collections::BTreeMap;

use ke_dmi::v1beta1 as dmi;
use ke_wire::{DeviceId, Trouble};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use super::catalogue::{self, Message};
use super::dmi::Registration;
use super::mapper::{Change, Found, Mapper};
use super::presence::{self, Answers, Verdict};
use super::record::Registered;
use super::{DeviceTwin, moment, store};

/// A mapper's task; ended when this is dropped.
pub(super) struct Served {
    pub(super) registered: Registered,
    pub(super) changes: mpsc::Sender<Change>,
    task: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DeviceTwin {
    pub(super) async fn on_register(&mut self, Registration { mapper, with_data, reply }: Registration) {
        let wanted = self.catalogue.wanted(&mapper.protocol);
        let mut response = dmi::MapperRegisterResponse::default();
        let mut held = BTreeMap::new();
        if with_data {
            for (key, wanted) in &wanted {
                match &wanted.message {
                    Message::Model(model) => response.model_list.push(model.clone()),
                    Message::Device(device, _) => response.device_list.push((**device).clone()),
                }
                held.insert(key.clone(), wanted.digest);
            }
        }
        let (row, holds) = (mapper.clone(), held.clone());
        if let Err(error) = self.db.call(move |connection| store::register(connection, &row, &holds)).await {
            tracing::error!(%error, name = mapper.name, "a mapper could not be registered");
            let _ = reply
                .send(Err(Status::unavailable(format!("the registration could not be stored: {error}"))));
            return;
        }
        // As on disk: one name, one socket, one protocol.
        let is_same = |served: &Served| {
            served.registered.protocol != mapper.protocol
                && (served.registered.name == mapper.name || served.registered.address == mapper.address)
        };
        let left: Vec<String> =
            self.mappers.iter().filter(|(_, served)| is_same(served)).map(|(left, _)| left.clone()).collect();
        for protocol in left {
            tracing::warn!(
                name = mapper.name,
                protocol,
                now = mapper.protocol,
                "a mapper serves another protocol than before"
            );
            self.mappers.remove(&protocol);
            // Its word was the mapper's; whoever else reports says so again.
            self.spoken_for.clear();
            self.presence.went(&protocol);
        }
        if self.mappers.contains_key(&mapper.protocol) {
            tracing::info!(
                protocol = mapper.protocol,
                name = mapper.name,
                "a mapper registered again, or another took its place"
            );
        } else {
            tracing::info!(protocol = mapper.protocol, name = mapper.name, "a mapper registered");
        }
        self.serve_mapper(&mapper, held, Answers::Yes);
        let _ = reply.send(Ok(response));
        self.on_look().await;
    }

    pub(super) fn serve_mapper(
        &mut self,
        mapper: &Registered,
        held: BTreeMap<catalogue::Key, catalogue::Digest>,
        answers: Answers,
    ) {
        self.presence.came(mapper, answers);
        // Full: DeviceTwin waits for the task, which takes changes at any time.
        let (changes, receiver) = mpsc::channel(64);
        let wanted = self.catalogue.wanted(&mapper.protocol);
        let task = Mapper::new(mapper, wanted, held, receiver, self.finding.clone(), self.db.clone());
        let task = tokio::spawn(task.run()).abort_handle();
        let registered = mapper.clone();
        self.mappers.insert(mapper.protocol.clone(), Served { registered, changes, task });
    }

    pub(super) async fn on_found(&mut self, Found { protocol, address, answers }: Found) {
        match &answers {
            Answers::No(why) => tracing::warn!(protocol, why, "a mapper does not answer"),
            _ => tracing::info!(protocol, "a mapper answers"),
        }
        if self.presence.found(&protocol, &address, answers) {
            self.on_look().await;
        }
    }

    /// Tells of all devices whether somebody serves them, where that is not as it was told.
    pub(super) async fn on_look(&mut self) {
        let (now, at) = (Instant::now(), moment());
        self.look = None;
        let (mut effects, mut told) = (Vec::new(), Vec::new());
        self.presence.expect(&self.catalogue.protocols().map(|(_, protocol)| protocol).collect());
        for (id, protocol) in self.catalogue.protocols() {
            let unserved = match self.presence.verdict(protocol, now.into_std()) {
                Verdict::Wait(until) => {
                    let until = until.map(Instant::from_std);
                    self.look = [self.look, until].into_iter().flatten().min();
                    continue;
                }
                Verdict::Unserved(unserved)
                    if unserved.trouble == Trouble::NoMapper && self.spoken_for.contains(id) =>
                {
                    None
                }
                Verdict::Unserved(unserved) => Some(unserved),
                Verdict::Served => None,
            };
            if unserved.is_some() && self.unserved.get(id) == unserved.as_ref() {
                continue;
            }
            if unserved.is_some() || self.twins.is_unserved(id) {
                effects.extend(self.twins.unserved(id, unserved.as_ref(), &at));
                told.push((id.clone(), unserved));
            }
        }
        if effects.is_empty() {
            return;
        }
        if let Err(error) = self.settle(effects).await {
            tracing::error!(%error, "which devices nobody serves is not on disk; it is tried again");
            self.look = Some(now + presence::GRACE);
            return;
        }
        for (id, unserved) in told {
            match unserved {
                Some(unserved) => drop(self.unserved.insert(id, unserved)),
                None => drop(self.unserved.remove(&id)),
            }
        }
    }

    /// Somebody reports on this device: it does not matter whether he has registered.
    pub(super) fn note_spoken_for(&mut self, id: &DeviceId) {
        if !self.spoken_for.contains(id) && self.twins.has(id) {
            self.spoken_for.insert(id.clone());
            if self.twins.is_unserved(id) {
                self.look = Some(Instant::now());
            }
        }
    }
}

/// Never, if there is no time.
pub(super) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
