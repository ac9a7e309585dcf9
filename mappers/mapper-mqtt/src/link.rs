//! One connection to a broker: what comes on its topics goes into an [`Inbox`], what is written is acknowledged.
//!
//! It never connects anew: the driver's caller does, when this one is lost. A task of its own drives the client library, so
//! that signs of life are sent and acknowledgements come whatever else goes on. Called by `driver.rs`.

use std::path::Path as File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mapper_sdk::DriverError;
use mapper_sdk::value::Kind;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet,
    PublishOptions, QoS, StateError, SubscribeFilterInput, SubscribeReasonCode, Transport,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::inbox::{Inbox, Known, Told};
use crate::payload::{Message, Path};
use crate::settings::{Broker, Password, Tls};
use crate::topic::matches;

/// Requests to the library that it did not take yet; when full, whoever writes waits.
const REQUESTS: usize = 16;
/// A broker that sends more at once is left: nothing that we read is so long.
const LONGEST_PACKET: usize = 16 << 20;
/// A message longer than this has no value.
const LONGEST_MESSAGE: usize = 1 << 20;
/// Subscriptions in one packet.
const BATCH: usize = 50;

/// A property that is told on topics.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its number in the inbox.
    pub number: usize,
    /// Its name.
    pub property: String,
    /// The topics.
    pub filter: String,
    /// Where its value is in a message.
    pub path: Option<Path>,
    /// Its type.
    pub kind: Kind,
}

/// A connection that stands, or stood.
pub struct Link {
    client: AsyncClient,
    shared: Arc<Shared>,
    /// Of the broker, for people.
    place: String,
    timeout: Duration,
}

/// What the task and the driver both touch. The lock is never held across an await.
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    began: Instant,
}

struct State {
    inbox: Inbox,
    /// Why it is over.
    lost: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Something new from the device.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A message about the property of this number.
    Told(usize, Told),
    /// There was none about it for so long.
    TooOld(usize, Duration),
}

impl Link {
    /// Connects. `max_ages`: of the properties' values, by number; `routes` use these numbers.
    pub async fn open(
        broker: &Broker,
        routes: Vec<Route>,
        max_ages: Vec<Option<Duration>>,
    ) -> Result<Self, DriverError> {
        let place = format!("broker {}:{}", broker.host, broker.port);
        let (client, mut events) = AsyncClient::builder(options(broker).await?)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|error| DriverError::Lost(format!("{place}: {error}")))?;
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(broker.timeout.as_secs());
        events.set_network_options(network);
        // The first event is the broker's consent.
        if let Err(error) = events.poll().await {
            return Err(DriverError::Lost(reason(&error, broker, &place)));
        }
        let began = Instant::now();
        let state = Mutex::new(State { inbox: Inbox::new(max_ages, Duration::ZERO), lost: None });
        let shared = Arc::new(Shared { state, changed: Notify::new(), began });
        tokio::spawn(listen(events, routes, shared.clone(), broker.clone(), place.clone()));
        Ok(Self { client, shared, place, timeout: broker.timeout })
    }

    /// Subscribes, and waits until the broker has said yes. Gives the filters that it refuses.
    pub async fn subscribe(&self, filters: &[(String, QoS)]) -> Result<Vec<String>, DriverError> {
        let mut refused = Vec::new();
        for batch in filters.chunks(BATCH) {
            let wanted = batch.iter().map(|(filter, qos)| SubscribeFilterInput::new(filter.clone(), *qos));
            let asked = async {
                let notice = self.client.subscribe_many_tracked(wanted).await.ok()?;
                notice.wait_async().await.ok()
            };
            let answer = match timeout(self.timeout, asked).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.broken()),
                Err(_) => return Err(self.silent("the subscription")),
            };
            let codes = batch.iter().zip(answer.return_codes);
            let failed = codes.filter(|(_, code)| *code == SubscribeReasonCode::Failure);
            refused.extend(failed.map(|((filter, _), _)| filter.clone()));
        }
        Ok(refused)
    }

    /// Sends a message, and waits until the broker has it.
    pub async fn publish(
        &self,
        topic: &str,
        message: Vec<u8>,
        qos: QoS,
        retain: bool,
    ) -> Result<(), DriverError> {
        self.check()?;
        let sent = async {
            let options = PublishOptions::new(qos).retain(retain);
            let notice = self.client.publish_tracked(topic.to_owned(), message, options).await.ok()?;
            notice.wait_async().await.ok()
        };
        match timeout(self.timeout, sent).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(self.broken()),
            Err(_) => Err(self.silent("the message")),
        }
    }

    /// What is known of a property; nothing any more once the connection is lost.
    pub fn known(&self, number: usize) -> Result<Known, DriverError> {
        self.check()?;
        Ok(self.shared.state().inbox.known(number, self.shared.now()))
    }

    /// The next news; what came before the end is still told. Cancellation-safe.
    pub async fn next(&self) -> Result<News, DriverError> {
        loop {
            let changed = self.shared.changed.notified();
            let next_old = {
                let mut state = self.shared.state();
                let n_dropped = state.inbox.take_dropped();
                if n_dropped > 0 {
                    tracing::warn!(place = %self.place, n_dropped, "values came faster than they were taken; the oldest are gone");
                }
                if let Some((number, told)) = state.inbox.pop() {
                    return Ok(News::Told(number, told));
                }
                if let Some(why) = &state.lost {
                    return Err(DriverError::Lost(why.clone()));
                }
                if let Some((number, age)) = state.inbox.pop_old(self.shared.now()) {
                    return Ok(News::TooOld(number, age));
                }
                state.inbox.next_old()
            };
            match next_old {
                Some(at) => {
                    // Whichever of both: look again.
                    timeout(at.saturating_sub(self.shared.now()), changed).await.ok();
                }
                None => changed.await,
            }
        }
    }

    fn check(&self) -> Result<(), DriverError> {
        self.shared.state().lost.clone().map_or(Ok(()), |why| Err(DriverError::Lost(why)))
    }

    fn broken(&self) -> DriverError {
        let why = self.shared.state().lost.clone();
        DriverError::Lost(why.unwrap_or_else(|| format!("{}: the connection broke", self.place)))
    }

    fn silent(&self, what: &str) -> DriverError {
        let secs = self.timeout.as_secs();
        DriverError::Lost(format!("{} did not acknowledge {what} within {secs} s", self.place))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the task as well; a connection that is lost already has none.
        self.client.try_disconnect_now().ok();
    }
}

/// Until the connection is over.
async fn listen(
    mut events: EventLoop,
    routes: Vec<Route>,
    shared: Arc<Shared>,
    broker: Broker,
    place: String,
) {
    let error = loop {
        match events.poll().await {
            Ok(event) => receive(&event, &routes, &shared),
            Err(error) => break error,
        }
    };
    // What the library had read before it saw the end.
    events.state.events.iter().for_each(|event| receive(event, &routes, &shared));
    // Before the library's own end, so that whoever waits for an answer finds the reason.
    shared.state().lost = Some(reason(&error, &broker, &place));
    shared.changed.notify_one();
}

fn receive(event: &Event, routes: &[Route], shared: &Shared) {
    let Event::Incoming(Packet::Publish(publish)) = event else { return };
    // By the standard there are no others.
    let Ok(topic) = std::str::from_utf8(&publish.topic) else { return };
    let n_bytes = publish.payload.len();
    let message = Message::new(&publish.payload);
    for route in routes.iter().filter(|route| matches(&route.filter, topic)) {
        let told = if n_bytes > LONGEST_MESSAGE {
            Err(format!("a message of {n_bytes} bytes is too long for a value"))
        } else {
            message.value(route.path.as_ref(), route.kind).map_err(|error| error.to_string())
        };
        let told = told.map_err(|why| format!("{} (topic {topic}): {why}", route.property));
        let now = shared.now();
        shared.state().inbox.put(route.number, told, now);
        shared.changed.notify_one();
    }
}

async fn options(broker: &Broker) -> Result<MqttOptions, DriverError> {
    let mut options = MqttOptions::new(broker.client_id.clone(), (broker.host.clone(), broker.port));
    options.set_keep_alive(broker.keep_alive_secs);
    options.set_max_packet_size(LONGEST_PACKET, LONGEST_PACKET);
    options.set_clean_session(broker.is_clean);
    if let Some(login) = &broker.login {
        let password = match &login.password {
            Password::Literal(password) => password.clone().into_bytes(),
            Password::File(path) => {
                let mut password = file("password", path).await?;
                while password.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    password.pop();
                }
                password
            }
        };
        options.set_credentials(login.user.clone(), password);
    }
    if let Some(tls) = &broker.tls {
        options.set_transport(transport(tls).await?);
    }
    Ok(options)
}

async fn transport(tls: &Tls) -> Result<Transport, DriverError> {
    let Some(authorities) = &tls.authorities else {
        return Transport::try_tls_with_default_config().map_err(|error| {
            DriverError::Lost(format!("no authorities to trust: {error}; set caCertificate"))
        });
    };
    let authorities = file("caCertificate", authorities).await?;
    let own = match &tls.own {
        Some((certificate, key)) => {
            Some((file("certificate", certificate).await?, file("privateKey", key).await?))
        }
        None => None,
    };
    Ok(Transport::tls(authorities, own, None))
}

/// A file that a setting names. It may be put there any time, so it is tried again; the path may be a password and is not
/// told.
async fn file(key: &str, path: &str) -> Result<Vec<u8>, DriverError> {
    let lost = |error| DriverError::Lost(format!("{key} names a file that cannot be read: {error}"));
    tokio::fs::read(File::new(path)).await.map_err(lost)
}

/// Why a connection was not, or is no more.
fn reason(error: &ConnectionError, broker: &Broker, place: &str) -> String {
    let id = &broker.client_id;
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                format!("{place} refuses the login; set username and password to one that it knows")
            }
            ConnectReturnCode::BadClientId => format!("{place} refuses the client id {id:?}; set clientID"),
            ConnectReturnCode::RefusedProtocolVersion => format!("{place} does not speak MQTT 3.1.1"),
            ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => {
                format!("{place} refuses connections at present")
            }
        },
        ConnectionError::NetworkTimeout => {
            format!("{place} did not answer within {} s", broker.timeout.as_secs())
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => format!(
            "{place} closed the connection; it stopped, or another client came with the client id {id:?}"
        ),
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            format!("{place} gave no sign of life for {} s", broker.keep_alive_secs)
        }
        ConnectionError::MqttState(error) => format!("{place}: {error}"),
        ConnectionError::Io(error) => format!("{place}: {error}"),
        error => format!("{place}: {error}"),
    }
}
