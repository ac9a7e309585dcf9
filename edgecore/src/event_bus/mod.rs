//! EventBus: MQTT in and out, over the embedded broker, an external one, or both.
//!
//! What devices and applications say on topics of ours goes to DeviceTwin, everything else that edgecore listens to goes to
//! the cloud; what edgecore says goes to every broker. It decides nothing about devices. No broker ever holds up edgecore:
//! queues towards brokers are bounded and lose their oldest, and count it.

mod broker;
mod config;
mod external;
mod hearing;
mod lossy;
mod store;
mod tls;
pub mod topic;
mod upload;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use ke_mqtt::{Broker, BrokerConfig, Message, Qos, is_filter, is_topic};
use ke_run::shutdown::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

pub use config::{EventBusConfig, EventBusTls};
pub use topic::{DeviceTopic, NodeTopic, Topic};
pub use upload::pass_on;

use crate::db::{Db, DbError};
use broker::{Embedded, Manner};
use config::{Mode, Place};
use external::External;
use hearing::Hearing;
use lossy::Lossy;

/// What edgecore says and a broker has not taken: a few seconds of a node with a thousand busy devices.
const MAX_SAID: usize = 1024;
const MAX_SAID_BYTES: usize = 4 * 1024 * 1024;
/// Between two tries to take the embedded broker's address.
const LISTEN_PAUSE: Duration = Duration::from_secs(5);

/// What a local client said on a topic that edgecore listens to.
#[derive(Debug)]
pub struct Heard {
    /// About which device or node.
    pub topic: Topic,
    /// Any bytes.
    pub payload: Bytes,
    /// The publisher's acknowledgement (QoS 1 and 2) waits for this, or for its drop.
    pub kept: oneshot::Sender<()>,
}

/// Everything else that was heard; the cloud may know what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// As the client said it.
    pub topic: String,
    /// Bytes that are no UTF-8 are replaced.
    pub payload: String,
}

/// Why MQTT ends. Brokers that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub enum EventBusError {
    /// The config is not one that `problems` lets through.
    #[error("modules.eventBus.{0}: no address of a broker")]
    Address(&'static str),
    /// The store cannot be read, or is closed.
    #[error("keep MQTT sessions: {0}")]
    Db(#[from] DbError),
}

#[derive(Debug, thiserror::Error)]
#[error("modules.eventBus.mqttServerInternal: listen on {0}: {1}")]
struct ListenError(String, std::io::Error);

/// Cloneable handle.
#[derive(Clone, Debug)]
pub struct Bus {
    brokers: Vec<Lossy<Message>>,
    wishes: mpsc::Sender<Wish>,
}

#[derive(Debug)]
struct Wish {
    filter: String,
    is_wanted: bool,
}

impl Bus {
    /// For tests: nobody hears.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self { brokers: Vec::new(), wishes: mpsc::channel(1).0 }
    }

    /// Says something on every broker. Never waits: what finds no room pushes out the oldest, which is counted. Nothing
    /// happens if the topic is none.
    pub fn publish(&self, topic: String, payload: Bytes) {
        if !is_topic(&topic) {
            tracing::warn!(topic, "cannot be said over MQTT: not a topic");
            return;
        }
        let n_bytes = topic.len() + payload.len();
        let message = Message { topic: topic.into(), payload };
        for broker in &self.brokers {
            broker.push(message.clone(), n_bytes);
        }
    }

    /// Listens to one more filter, for the cloud, from now on and after restarts.
    pub async fn listen(&self, filter: String) {
        self.wish(filter, true).await;
    }

    /// No longer listens to it.
    pub async fn unlisten(&self, filter: String) {
        self.wish(filter, false).await;
    }

    /// Messages of edgecore that were dropped because a broker was slow or away.
    #[must_use]
    pub fn n_dropped(&self) -> u64 {
        self.brokers.iter().map(Lossy::n_dropped).sum()
    }

    async fn wish(&self, filter: String, is_wanted: bool) {
        if !is_filter(&filter) {
            tracing::warn!(filter, "cannot be listened to over MQTT: not a filter");
            return;
        }
        // Closed: edgecore stops, or MQTT is disabled.
        let _ = self.wishes.send(Wish { filter, is_wanted }).await;
    }
}

/// The module.
pub struct EventBus {
    config: EventBusConfig,
    db: Db,
    heard: mpsc::Sender<Heard>,
    uploads: mpsc::Sender<Upload>,
    to_embedded: Lossy<Message>,
    to_external: Lossy<Message>,
    wishes: mpsc::Receiver<Wish>,
}

impl EventBus {
    /// Nothing is opened before `run`. `heard` full: publishers wait for their acknowledgements, and no more is read of
    /// them. `uploads` full: what comes is dropped and counted.
    #[must_use]
    pub fn new(
        config: EventBusConfig,
        db: Db,
        heard: mpsc::Sender<Heard>,
        uploads: mpsc::Sender<Upload>,
    ) -> (Bus, EventBus) {
        let to_embedded = Lossy::new(MAX_SAID, MAX_SAID_BYTES);
        let to_external = Lossy::new(MAX_SAID, MAX_SAID_BYTES);
        let brokers = match config.mode() {
            _ if !config.enable => Vec::new(),
            Mode::Embedded => vec![to_embedded.clone()],
            Mode::External => vec![to_external.clone()],
            Mode::Both => vec![to_embedded.clone(), to_external.clone()],
        };
        // Full: whoever asks waits; it is the cloud, and rare.
        let (sender, wishes) = mpsc::channel(16);
        let module = EventBus { config, db, heard, uploads, to_embedded, to_external, wishes };
        (Bus { brokers, wishes: sender }, module)
    }

    /// Runs until shutdown. A taken address is no error: pods must not stop because of it. Errors: the store is closed.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), EventBusError> {
        if !self.config.enable {
            shutdown.wait().await;
            return Ok(());
        }
        let Self { config, db, heard, uploads, to_embedded, to_external, wishes } = self;
        let (rows, wanted) =
            db.call(|connection| Ok((store::load(connection)?, store::wanted(connection)?))).await?;
        let (told, filters) = watch::channel(all_filters(&wanted));
        let embedded_filters = filters.clone();
        let hearing = Hearing::new(heard.clone(), uploads.clone());
        let embedded = async {
            if config.mode() == Mode::External {
                return Ok(());
            }
            let place = config.place().ok_or(EventBusError::Address("mqttServerInternal"))?;
            let Some(listener) = listen_sometime(&place, &shutdown).await else { return Ok(()) };
            let session_queue = config.mqtt_session_queue_size.to_usize();
            let core = Broker::restore(BrokerConfig { session_queue, ..BrokerConfig::default() }, rows);
            let qos = u8::try_from(config.mqtt_qos.get()).ok().and_then(Qos::from_number).unwrap_or_default();
            let manner = Manner { qos, retain: config.mqtt_retain };
            let embedded =
                Embedded::new(listener, core, db.clone(), to_embedded, embedded_filters, hearing, manner);
            embedded.run(shutdown.clone()).await
        };
        let hearing = Hearing::new(heard, uploads);
        let external = async {
            if config.mode() != Mode::Embedded {
                let address = config.external().ok_or(EventBusError::Address("mqttServerExternal"))?;
                External::new(&config, address, to_external, filters, hearing).run(shutdown.clone()).await;
            }
            Ok(())
        };
        let wishes = keep_wishes(db.clone(), wishes, wanted, told, shutdown.clone());
        tokio::try_join!(embedded, external, wishes).map(|_| ())
    }
}

fn all_filters(wanted: &[String]) -> Vec<String> {
    let always = topic::LISTENED.iter().map(|filter| (*filter).to_owned());
    always.chain(wanted.iter().cloned()).collect()
}

/// Stores what the cloud wants to hear, then lets the brokers know.
async fn keep_wishes(
    db: Db,
    mut wishes: mpsc::Receiver<Wish>,
    mut wanted: Vec<String>,
    told: watch::Sender<Vec<String>>,
    shutdown: Shutdown,
) -> Result<(), EventBusError> {
    loop {
        let wish = tokio::select! {
            wish = wishes.recv() => wish,
            () = shutdown.wait() => None,
        };
        let Some(Wish { filter, is_wanted }) = wish else { return Ok(()) };
        wanted.retain(|known| *known != filter);
        if is_wanted {
            wanted.push(filter.clone());
        }
        if let Err(error) = db.call(move |connection| store::want(connection, &filter, is_wanted)).await {
            tracing::error!(%error, "what the cloud wants to hear over MQTT is not kept over a restart");
        }
        told.send_replace(all_filters(&wanted));
    }
}

/// `None` when edgecore stops before the address is free.
async fn listen_sometime(place: &Place, shutdown: &Shutdown) -> Option<TcpListener> {
    let mut is_told = false;
    loop {
        match listen(place).await {
            Ok(listener) => return Some(listener),
            Err(error) if is_told => tracing::debug!(%error, "still no embedded MQTT broker"),
            Err(error) => {
                is_told = true;
                tracing::error!(%error, "no embedded MQTT broker until this address is free; edgecore keeps trying");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_PAUSE) => {}
            () = shutdown.wait() => return None,
        }
    }
}

/// `None` when another broker is there.
async fn listen_if_free(address: SocketAddr) -> Option<TcpListener> {
    // Somebody may answer there without holding the very address, such as a forwarded port.
    let answer = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
    if matches!(answer, Ok(Ok(_))) { None } else { TcpListener::bind(address).await.ok() }
}

async fn listen(place: &Place) -> Result<TcpListener, ListenError> {
    let (host, port) = match place {
        Place::At(host, port) => (host.as_str(), *port),
        Place::Free => {
            let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
            if let Some(listener) = listen_if_free(usual).await {
                tracing::info!(address = %usual, "the embedded MQTT broker listens");
                return Ok(listener);
            }
            tracing::info!("port 1883 is another broker's; the embedded one takes 1884");
            ("127.0.0.1", 1884)
        }
    };
    let shown = format!("{host}:{port}");
    let listener = TcpListener::bind((host, port)).await.map_err(|error| ListenError(shown, error))?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "the embedded MQTT broker listens");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the embedded MQTT broker knows no users: whoever reaches it may change devices");
        }
    }
    Ok(listener)
}
