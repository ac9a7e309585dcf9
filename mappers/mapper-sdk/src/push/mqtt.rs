//! MQTT: a message on a topic. One connection for all topics of a broker, without login, as in KubeEdge.
//!
//! KubeEdge connects anew for every message, which brokers on the same machine bear and radio links do not.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rumqttc::{AsyncClient, ConnectionError, EventLoop, MqttOptions, PublishOptions, QoS};
use tokio::task::JoinSet;

use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::Broker;

/// Requests to the library that it did not take yet; there is one at a time.
const REQUESTS: usize = 4;
/// Seconds between signs of life.
const KEEP_ALIVE_SECS: u16 = 30;
/// Longer values are not pushed.
const LONGEST_PACKET: usize = 1 << 20;

/// What is delivered.
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) text: String,
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
}

/// A connection that stands, or stood.
pub(crate) struct Session {
    client: AsyncClient,
    /// Why it is over.
    lost: Arc<Mutex<Option<String>>>,
    /// Drives the library; ends with the session.
    _events: JoinSet<()>,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}", self.0)
    }
}

impl Target for Broker {
    type Parcel = Message;
    type Session = Session;

    async fn connect(&self, _: &Secrets) -> Result<Session, Failure> {
        // Without a name of its own the broker gives it one: two mappers cannot throw each other out.
        let mut options = MqttOptions::new("", (self.0.host.clone(), self.0.port));
        options.set_clean_session(true);
        options.set_keep_alive(KEEP_ALIVE_SECS);
        options.set_max_packet_size(LONGEST_PACKET, LONGEST_PACKET);
        let (client, mut events) = AsyncClient::builder(options)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|error| Failure::Away(error.to_string()))?;
        // The first event is the broker's consent.
        events.poll().await.map_err(|error| Failure::Away(reason(&error)))?;
        let lost = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(events, Arc::clone(&lost)));
        Ok(Session { client, lost, _events: tasks })
    }

    async fn deliver(&self, session: &mut Session, message: &Message) -> Result<(), Failure> {
        if message.topic.len() + message.text.len() + 16 > LONGEST_PACKET {
            return Err(Failure::Refused("the value is too long for a message".to_owned()));
        }
        let qos = match message.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let options = PublishOptions::new(qos).retain(message.is_retained);
        let sent = async {
            let text = message.text.clone().into_bytes();
            let notice = session.client.publish_tracked(message.topic.clone(), text, options).await.ok()?;
            // With QoS 0 it is on its way, otherwise the broker has it.
            notice.wait_async().await.ok()
        };
        if sent.await.is_some() { Ok(()) } else { Err(session.broken()) }
    }
}

impl Session {
    fn broken(&self) -> Failure {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Failure::Away(lost.unwrap_or_else(|| "the connection broke".to_owned()))
    }
}

/// Until the connection is over: the library would connect anew by itself, and a line does it with its own patience.
async fn listen(mut events: EventLoop, lost: Arc<Mutex<Option<String>>>) {
    let error = loop {
        if let Err(error) = events.poll().await {
            break error;
        }
    };
    // Before the library's own end, so that whoever waits for an answer finds the reason.
    *lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason(&error));
}

fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refuses the connection ({code:?}); pushes come without login")
        }
        error => error.to_string(),
    }
}
