//! A client of an external broker: dials, listens, says what edgecore says, for ever.
//!
//! It never holds anybody up: what it cannot say waits in a bounded queue whose oldest goes. A broker that is away at the
//! start is as good as one that leaves later. Called by `mod.rs`.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use ke_mqtt::{
    AckId, Client, ClientError, ClientOutput, Connect, DecodeError, Message, PACKET_LIMIT, Version, decode,
    encode,
};
use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::config::{Address, EventBusConfig, EventBusTls};
use super::hearing::Hearing;
use super::lossy::Lossy;
use super::tls::{self, TlsError};

/// TCP and TLS together have this long, an answer of the broker as well.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_SECS: u16 = 30;
/// Messages heard and taken by nobody. Brokers send no more than a few dozen of QoS 1 before the first is acknowledged;
/// beyond this, what comes is dropped unacknowledged.
const MAX_BACKLOG: usize = 256;
/// A connection that stood for so long was good: begin anew with the short pause.
const GOOD: Duration = Duration::from_secs(60);

/// The module's part.
pub(super) struct External {
    address: Address,
    tls: EventBusTls,
    client: Client,
    hearing: Hearing<Option<AckId>>,
    says: Lossy<Message>,
    filters: watch::Receiver<Vec<String>>,
    n_lost: u64,
    /// The broker said welcome since the last loss was told.
    was_open: bool,
}

/// Why a connection ended, or never was.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect: {0}")]
    Connect(std::io::Error),
    #[error("it did not answer within {limit} s", limit = ANSWER_LIMIT.as_secs())]
    Timeout,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0:?} is no name that a certificate can hold")]
    Name(String),
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What is to be written.
#[derive(Default)]
struct Outgoing {
    bytes: BytesMut,
    /// The stream may hold some of it and wants a flush.
    is_held: bool,
}

enum Event {
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<()>),
    Kept(Option<AckId>),
    Say(Message),
    Filters,
    Due,
    Stop,
}

impl External {
    /// `random` is uniform in 0..1 and tells this node's client id from those of others.
    pub(super) fn new(
        config: &EventBusConfig,
        address: Address,
        says: Lossy<Message>,
        filters: watch::Receiver<Vec<String>>,
        hearing: Hearing<Option<AckId>>,
    ) -> Self {
        let client = if config.mqtt_sub_client_id.is_empty() {
            // KubeEdge takes the clock, by which two nodes of one broker throw each other out.
            format!("hub-client-{}", uuid::Uuid::new_v4().simple())
        } else {
            config.mqtt_sub_client_id.clone()
        };
        let has_user = !config.mqtt_username.is_empty();
        let password = || config.mqtt_password.reveal().to_owned().into_bytes().into();
        let hello = Connect {
            version: Version::V311,
            clean: true,
            keep_alive_secs: KEEP_ALIVE_SECS,
            client,
            will: None,
            user: has_user.then(|| config.mqtt_username.clone()),
            password: (has_user && !config.mqtt_password.is_empty()).then(password),
        };
        let wanted = filters.borrow().clone();
        let client = Client::new(Instant::now(), hello, ANSWER_LIMIT, wanted);
        Self { address, tls: config.tls.clone(), client, hearing, says, filters, n_lost: 0, was_open: false }
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let backoff =
            Backoff { jitter: 0.5, ..Backoff::full_jitter(Duration::from_secs(1), Duration::from_secs(30)) };
        let (mut attempt, mut is_told) = (0_u32, false);
        loop {
            let started = Instant::now();
            let ended = tokio::select! {
                stream = dial(&self.address, &self.tls) => stream,
                () = shutdown.wait() => return,
                () = keep_hearing(&mut self.hearing) => return,
            };
            let why = match ended {
                Ok(stream) => match self.drive(stream, &shutdown).await {
                    Ok(()) => return,
                    Err(why) => why,
                },
                Err(why) => why,
            };
            self.client.handle_end();
            if started.elapsed() > GOOD {
                attempt = 0;
            }
            is_told &= !std::mem::take(&mut self.was_open);
            // Once is enough: a broker may be away for weeks.
            if is_told {
                tracing::debug!(%why, attempt, "the external MQTT broker is still not there");
            } else {
                is_told = true;
                let (host, port) = (&self.address.host, self.address.port);
                tracing::warn!(%why, host, port, "no connection to the external MQTT broker; edgecore keeps trying");
            }
            let pause = backoff.delay(attempt, random_fraction());
            attempt = attempt.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.wait() => return,
                () = keep_hearing(&mut self.hearing) => return,
            }
        }
    }

    /// One connection. `Ok`: edgecore stops.
    async fn drive(&mut self, stream: Box<dyn Stream>, shutdown: &Shutdown) -> Result<(), LinkError> {
        let (mut read_half, mut write_half) = tokio::io::split(stream);
        let (mut buffer, mut out) = (BytesMut::new(), Outgoing::default());
        let filters = self.filters.borrow_and_update().clone();
        self.client.set_filters(Instant::now(), filters);
        self.client.handle_connection(Instant::now());
        loop {
            self.do_outputs(&mut out.bytes);
            match self.next_event(&mut read_half, &mut buffer, &mut write_half, &mut out, shutdown).await {
                Event::Read(Ok(0)) => return Err(LinkError::Closed),
                Event::Read(Ok(_)) => {
                    while let Some(packet) = decode(&mut buffer, PACKET_LIMIT)? {
                        self.client.handle_packet(Instant::now(), packet)?;
                    }
                    if buffer.is_empty() && buffer.capacity() > 4096 {
                        buffer = BytesMut::new();
                    }
                }
                Event::Read(Err(error)) | Event::Wrote(Err(error)) => return Err(LinkError::Broken(error)),
                Event::Wrote(Ok(())) => {}
                Event::Kept(Some(ack)) => self.client.acknowledge(Instant::now(), ack),
                Event::Kept(None) => {}
                Event::Say(message) => self.client.publish(Instant::now(), message),
                Event::Filters => {
                    let filters = self.filters.borrow_and_update().clone();
                    self.client.set_filters(Instant::now(), filters);
                }
                Event::Due => self.client.handle_timeout(Instant::now())?,
                Event::Stop => return Ok(()),
            }
        }
    }

    /// The only select while connected.
    async fn next_event(
        &mut self,
        read_half: &mut ReadHalf<Box<dyn Stream>>,
        buffer: &mut BytesMut,
        write_half: &mut WriteHalf<Box<dyn Stream>>,
        out: &mut Outgoing,
        shutdown: &Shutdown,
    ) -> Event {
        let (has_room, due) = (self.client.has_room(), self.client.poll_timeout());
        buffer.reserve(1024);
        let filters = async {
            if self.filters.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let timeout = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        // First: what comes when the others stop is not theirs any more. The rest in no order, so that nobody starves.
        if shutdown.is_triggered() {
            return Event::Stop;
        }
        tokio::select! {
            () = shutdown.wait() => Event::Stop,
            wrote = write_some(write_half, out), if out.is_held || !out.bytes.is_empty() => Event::Wrote(wrote),
            token = self.hearing.next() => Event::Kept(token),
            read = read_half.read_buf(buffer) => Event::Read(read),
            message = self.says.pop(), if has_room => Event::Say(message),
            () = filters => Event::Filters,
            () = timeout => Event::Due,
        }
    }

    fn do_outputs(&mut self, out: &mut BytesMut) {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Send(packet) => {
                    if encode(&packet, out).is_err() {
                        self.n_lost += 1;
                        tracing::warn!(
                            n_lost = self.n_lost,
                            "a topic is too long for MQTT; its message is dropped"
                        );
                    }
                }
                ClientOutput::Open => {
                    self.was_open = true;
                    let (host, port) = (&self.address.host, self.address.port);
                    let n_dropped = self.says.n_dropped();
                    tracing::info!(host, port, n_dropped, "connected to the external MQTT broker");
                }
                ClientOutput::FilterRefused(filter) => {
                    tracing::warn!(%filter, "the external MQTT broker does not let edgecore listen to this");
                }
                ClientOutput::GivenUp(message) => {
                    self.n_lost += 1;
                    tracing::warn!(topic = %message.topic, n_lost = self.n_lost, "the external MQTT broker never took this");
                }
                ClientOutput::Said { message, ack } if self.hearing.n_backlog() < MAX_BACKLOG => {
                    self.hearing.take(message, ack);
                }
                ClientOutput::Said { message, .. } => {
                    self.n_lost += 1;
                    if self.n_lost.is_power_of_two() {
                        tracing::warn!(
                            topic = %message.topic,
                            n_lost = self.n_lost,
                            "more is said over MQTT than can be kept: dropped, so many since the start"
                        );
                    }
                }
            }
        }
    }
}

/// What was heard before a connection broke is handed on; its acknowledgements have nowhere to go. Never ends.
async fn keep_hearing(hearing: &mut Hearing<Option<AckId>>) {
    loop {
        hearing.next().await;
    }
}

/// Cancellation-safe: what was written is gone from `out`, and what TLS still holds is remembered.
async fn write_some<W: AsyncWrite + Unpin>(half: &mut W, out: &mut Outgoing) -> std::io::Result<()> {
    while out.bytes.has_remaining() {
        out.is_held = true;
        if half.write_buf(&mut out.bytes).await? == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
    }
    half.flush().await?;
    out.is_held = false;
    Ok(())
}

async fn dial(address: &Address, tls: &EventBusTls) -> Result<Box<dyn Stream>, LinkError> {
    let dialled = async {
        let stream =
            TcpStream::connect((address.host.as_str(), address.port)).await.map_err(LinkError::Connect)?;
        let _ = stream.set_nodelay(true);
        if !address.is_tls {
            return Ok(Box::new(stream) as Box<dyn Stream>);
        }
        let name =
            ServerName::try_from(address.host.clone()).map_err(|_| LinkError::Name(address.host.clone()))?;
        let connector = TlsConnector::from(tls::client(tls)?);
        let stream = connector.connect(name, stream).await.map_err(LinkError::Connect)?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    };
    tokio::time::timeout(ANSWER_LIMIT, dialled).await.unwrap_or(Err(LinkError::Timeout))
}

/// Uniform in 0..1: many nodes of one broker must not dial in step.
fn random_fraction() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
