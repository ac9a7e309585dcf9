//! One mapper: carries the calls that `delivery.rs` decides to its socket, one after the other.
//!
//! Between the calls it asks now and then whether the mapper is there (`presence.rs`), since none says that it goes.
//! A mapper that hangs or is away concerns nobody else; what it should know waits in memory and is repeated until it was
//! taken. What it has taken is on disk, so that a restart of edgecore tells it only what changed meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ke_dmi::v1beta1 as dmi;
use ke_dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use ke_wire::DeviceId;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::catalogue::{Digest, Key, Message, Wanted};
use super::delivery::{Call, Delivery};
use super::presence::{Answers, Pulse};
use super::record::Registered;
use super::store;
use crate::db::Db;

/// What KubeEdge gives a call.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// What a question gets that is answered without doing anything.
const PULSE_LIMIT: Duration = Duration::from_secs(5);

/// What changes for a mapper: nothing stands for "no longer".
pub(super) type Change = (Key, Option<Wanted>);

/// What was found out about the mapper of a protocol at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) protocol: String,
    pub(super) address: PathBuf,
    pub(super) answers: Answers,
}

/// The task of one mapper.
pub(super) struct Mapper {
    protocol: String,
    address: PathBuf,
    channel: Channel,
    client: DeviceMapperServiceClient<Channel>,
    pulse: Pulse,
    /// Full: it is found out again.
    found: mpsc::Sender<Found>,
    delivery: Delivery,
    changes: mpsc::Receiver<Change>,
    db: Db,
}

/// What the mapper is asked: a change of what it holds, or nothing but whether it is there.
#[derive(Clone)]
enum Asked {
    Change(Key, Call),
    Pulse,
}

enum Event {
    Change(Option<Change>),
    Called(Result<(), Status>),
    Due,
}

impl Mapper {
    /// `held`: what the mapper is known to hold already.
    pub(super) fn new(
        registered: &Registered,
        wanted: BTreeMap<Key, Wanted>,
        held: BTreeMap<Key, Digest>,
        changes: mpsc::Receiver<Change>,
        found: mpsc::Sender<Found>,
        db: Db,
    ) -> Self {
        let channel = ke_dmi::socket::channel(registered.address.clone(), CALL_LIMIT);
        Self {
            protocol: registered.protocol.clone(),
            address: registered.address.clone(),
            client: DeviceMapperServiceClient::new(channel.clone()),
            channel,
            pulse: Pulse::new(Instant::now()),
            found,
            delivery: Delivery::new(wanted, held),
            changes,
            db,
        }
    }

    /// Runs until its sender is dropped.
    pub(super) async fn run(mut self) {
        let mut under_way: Option<Asked> = None;
        let mut calling = std::pin::pin!(None);
        loop {
            if under_way.is_none() {
                under_way = self.next(Instant::now());
                let (client, channel) = (self.client.clone(), self.channel.clone());
                calling.set(under_way.clone().map(|asked| ask(client, channel, asked)));
            }
            let due = self.delivery.next_try().into_iter().chain([self.pulse.due()]).min();
            let event = tokio::select! {
                change = self.changes.recv() => Event::Change(change),
                result = async {
                    match calling.as_mut().as_pin_mut() {
                        Some(calling) => calling.await,
                        None => std::future::pending().await,
                    }
                } => Event::Called(result),
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due.into()).await,
                        None => std::future::pending().await,
                    }
                }, if under_way.is_none() => Event::Due,
            };
            match event {
                Event::Change(Some((key, wanted))) => self.delivery.want(key, wanted),
                Event::Change(None) => return,
                Event::Due => {}
                Event::Called(result) => {
                    calling.set(None);
                    self.on_pulse(&result);
                    if let Some(Asked::Change(key, call)) = under_way.take() {
                        self.on_called(&key, &call, result).await;
                    }
                }
            }
        }
    }

    fn next(&self, now: Instant) -> Option<Asked> {
        let change = self.delivery.next(now).map(|(key, call)| Asked::Change(key, call));
        // Every answer is a sign of life: who is told much is asked nothing.
        change.or_else(|| (self.pulse.due() <= now).then_some(Asked::Pulse))
    }

    fn on_pulse(&mut self, result: &Result<(), Status>) {
        let now = Instant::now();
        let news = match result {
            Err(status) if ke_dmi::is_nobody(status) => self.pulse.failed(now, ke_dmi::bottom_of(status)),
            _ => self.pulse.answered(now),
        };
        let Some(answers) = news else { return };
        let (protocol, address) = (self.protocol.clone(), self.address.clone());
        if self.found.try_send(Found { protocol, address, answers: answers.clone() }).is_ok() {
            self.pulse.told(answers);
        }
    }

    async fn on_called(&mut self, key: &Key, call: &Call, result: Result<(), Status>) {
        match result {
            Ok(()) => {
                let digest = self.delivery.done(key, call);
                let (protocol, key) = (self.protocol.clone(), key.clone());
                let noted = self
                    .db
                    .call(move |connection| store::note_held(connection, &protocol, &key, digest))
                    .await;
                if let Err(error) = noted {
                    tracing::warn!(%error, "what a mapper holds is not on disk; after a restart it is told again");
                }
            }
            Err(status) => {
                let is_away = status.code() == Code::Unavailable;
                if self.delivery.n_failures() == 0 || !is_away {
                    tracing::warn!(
                        protocol = self.protocol,
                        ?key,
                        error = status.message(),
                        "a mapper did not take a change; it is told again until it does"
                    );
                }
                let is_clear = !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
                self.delivery.failed(key, is_clear, Instant::now());
            }
        }
    }
}

/// Whether somebody answers at a mapper's socket, soon.
pub(super) async fn is_alive(address: PathBuf, limit: Duration) -> bool {
    tokio::time::timeout(limit, ke_dmi::alive(ke_dmi::socket::channel(address, CALL_LIMIT)))
        .await
        .is_ok_and(|alive| alive.is_ok())
}

async fn ask(
    client: DeviceMapperServiceClient<Channel>,
    channel: Channel,
    asked: Asked,
) -> Result<(), Status> {
    match asked {
        Asked::Change(_, call) => carry(client, call).await,
        Asked::Pulse => match tokio::time::timeout(PULSE_LIMIT, ke_dmi::alive(channel)).await {
            Ok(alive) => alive,
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", PULSE_LIMIT.as_secs()))),
        },
    }
}

async fn carry(mut client: DeviceMapperServiceClient<Channel>, call: Call) -> Result<(), Status> {
    let done = async move {
        match call {
            // Go mappers refuse to update a model they lack, and overwrite one they have.
            Call::Create(Message::Model(model)) | Call::Update(Message::Model(model)) => client
                .create_device_model(dmi::CreateDeviceModelRequest { model: Some(model) })
                .await
                .map(drop),
            Call::Create(Message::Device(device, _)) => {
                client.register_device(dmi::RegisterDeviceRequest { device: Some(*device) }).await.map(drop)
            }
            Call::Update(Message::Device(device, _)) => {
                client.update_device(dmi::UpdateDeviceRequest { device: Some(*device) }).await.map(drop)
            }
            Call::Remove(Key::Device(DeviceId { namespace, name })) => {
                let request = dmi::RemoveDeviceRequest {
                    device_name: name.to_string(),
                    device_namespace: namespace.to_string(),
                };
                gone(client.remove_device(request).await.map(drop))
            }
            Call::Remove(Key::Model(DeviceId { namespace, name })) => {
                let request = dmi::RemoveDeviceModelRequest {
                    model_name: name.to_string(),
                    model_namespace: namespace.to_string(),
                };
                gone(client.remove_device_model(request).await.map(drop))
            }
        }
    };
    match tokio::time::timeout(CALL_LIMIT, done).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
    }
}

/// A mapper that says it does not have what it is to remove has done so. Go's plain errors have one code for all.
fn gone(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if matches!(status.code(), Code::Unknown | Code::NotFound) => Ok(()),
        other => other,
    }
}
