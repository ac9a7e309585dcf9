//! One simulated node: dials, moves messages between its socket, `EdgeEnd` and `Client`, and dials again when the link ends.
//!
//! Every object counts as stored the moment it arrives. Called by `main.rs`, one task a node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use ke_link::edge::Output;
use ke_link::{EdgeConfig, EdgeEnd};
use ke_wire::{Delete, Down, MessageId, NodeName, Put};
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::client::{Client, News};
use crate::{Counts, Shared};

type Conn = WebSocketStream<TlsStream<TcpStream>>;

const DIAL_LIMIT: Duration = Duration::from_secs(30);
const WRITE_LIMIT: Duration = Duration::from_secs(15);
/// Before the next dial.
const PAUSE: Duration = Duration::from_secs(1);
/// Reasons that are printed; the others are only counted.
const SHOWN: u64 = 10;

/// Lives until the process ends.
pub(crate) async fn live(shared: Arc<Shared>, number: u32) {
    let node: NodeName = match format!("{}-{number:05}", shared.args.prefix).parse() {
        Ok(node) => node,
        Err(error) => return failed(&shared.counts, &format!("--prefix: {error}")),
    };
    let args = &shared.args;
    let mut client = Client::new(node.clone(), args.register, args.lease_secs, Instant::now());
    loop {
        // Boxed: a dial's state must not live as long as the connection.
        let dialled = match shared.room.acquire().await {
            Ok(_permit) => Box::pin(tokio::time::timeout(DIAL_LIMIT, dial(&shared, &node, number))).await,
            Err(_) => return,
        };
        let why = match dialled {
            Ok(Ok(conn)) => {
                shared.counts.connected.fetch_add(1, Ordering::Relaxed);
                client.reconnected(Instant::now());
                let ended = Link { conn, client: &mut client, counts: &shared.counts }.run().await;
                shared.counts.connected.fetch_sub(1, Ordering::Relaxed);
                match ended {
                    Ok(()) => "the link ended".into(),
                    Err(error) => format!("{error:#}"),
                }
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no connection within {} s", DIAL_LIMIT.as_secs()),
        };
        failed(&shared.counts, &format!("{node}: {why}"));
        tokio::time::sleep(PAUSE).await;
    }
}

fn failed(counts: &Counts, why: &str) {
    if counts.errors.fetch_add(1, Ordering::Relaxed) < SHOWN {
        eprintln!("edgemark: {why}");
    }
}

async fn dial(shared: &Shared, node: &NodeName, number: u32) -> Result<Conn> {
    let server = shared.args.server;
    let tls = shared.authority.client(node)?;
    let socket =
        if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.context("open a socket")?;
    if server.ip().is_loopback() && server.is_ipv4() {
        // Several addresses, since one has fewer ports than there may be nodes.
        let last = u8::try_from(number % u32::from(shared.args.addresses)).unwrap_or(0).saturating_add(2);
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0)).context("bind")?;
    }
    let stream = socket.connect(server).await.context("connect")?;
    stream.set_nodelay(true).context("set no delay")?;
    let stream = TlsConnector::from(tls)
        .connect(ServerName::IpAddress(server.ip().into()), stream)
        .await
        .context("TLS")?;
    let request = Request::get(format!("wss://{server}/e632aba927ea4ac2b575ec1603d56f10/{node}/events"))
        .header("Host", server.to_string())
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key())
        .header("Node_id", node.as_str())
        .header("Project_id", "e632aba927ea4ac2b575ec1603d56f10")
        .header("ConnectionUse", "msg")
        // As an edge of ours: a link is not measured without what it brings along.
        .header(ke_link::streams::HEADER, ke_link::streams::VERSION)
        .body(())?;
    let limits = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
    let (conn, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(limits))
        .await
        .context("WebSocket handshake")?;
    Ok(conn)
}

/// One connection.
struct Link<'a> {
    conn: Conn,
    client: &'a mut Client,
    counts: &'a Counts,
}

impl Link<'_> {
    async fn run(mut self) -> Result<()> {
        let mut end = EdgeEnd::new(Instant::now(), EdgeConfig::default());
        loop {
            let now = Instant::now();
            if self.client.due().is_some_and(|due| due <= now)
                && let Some(question) = self.client.question(now, &renewed_at())?
            {
                end.ask(now, question);
            }
            self.flush(&mut end).await?;
            let timeout = [end.poll_timeout(), self.client.due()].into_iter().flatten().min();
            let timeout = timeout.unwrap_or_else(Instant::now);
            tokio::select! {
                frame = self.conn.next() => {
                    let now = Instant::now();
                    match frame {
                        Some(Ok(Message::Text(text))) => end.handle_bytes(now, text.as_bytes())?,
                        Some(Ok(Message::Binary(bytes))) => end.handle_bytes(now, &bytes)?,
                        Some(Ok(Message::Pong(_))) => end.handle_pong(now),
                        Some(Ok(Message::Ping(_) | Message::Frame(_))) => end.handle_life(now),
                        Some(Ok(Message::Close(reason))) => bail!("closed by the cloud: {reason:?}"),
                        Some(Err(error)) => return Err(error).context("the connection broke"),
                        None => bail!("the cloud closed the connection"),
                    }
                }
                () = tokio::time::sleep_until(timeout.into()) => end.handle_timeout(Instant::now()),
            }
        }
    }

    /// Does everything that `end` wants done.
    async fn flush(&mut self, end: &mut EdgeEnd) -> Result<()> {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        while let Some(output) = end.poll_output() {
            let now = Instant::now();
            match output {
                Output::Transmit(bytes) => {
                    let text = String::from_utf8(bytes.to_vec()).context("a frame is text")?;
                    self.write(Message::text(text)).await?;
                }
                Output::Ping => self.write(Message::Ping(Vec::new().into())).await?,
                Output::Received(Down::Put(Put { id, .. }) | Down::Delete(Delete { id, .. })) => {
                    self.acknowledge(end, now, &id);
                }
                // Devices, rules and jobs: a simulated node has none.
                Output::Received(_) => {}
                Output::Answered { answer, receipt, .. } => {
                    if let Some(receipt) = receipt {
                        self.acknowledge(end, now, &receipt);
                    }
                    match self.client.answered(now, &answer) {
                        News::Registered => drop(count(&self.counts.registered)),
                        News::Leased => drop(count(&self.counts.leased)),
                        News::Renewed => {}
                        News::Refused => failed(self.counts, &format!("refused: {answer:?}")),
                    }
                }
                Output::TimedOut { .. } => {
                    failed(self.counts, "a question was not answered");
                    self.client.unanswered(now);
                }
                Output::Ignored { why } => failed(self.counts, &format!("a frame without effect: {why}")),
                Output::Closed(why) => bail!("the link is given up: {why:?}"),
            }
        }
        Ok(())
    }

    fn acknowledge(&self, end: &mut EdgeEnd, now: Instant, id: &MessageId) {
        if end.acknowledge(now, id) {
            self.counts.acked.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn write(&mut self, message: Message) -> Result<()> {
        match tokio::time::timeout(WRITE_LIMIT, self.conn.send(message)).await {
            Ok(sent) => sent.context("the connection broke"),
            Err(_) => bail!("the cloud took nothing for {} s", WRITE_LIMIT.as_secs()),
        }
    }
}

/// Now, in microseconds, as leases carry it.
fn renewed_at() -> String {
    let now = OffsetDateTime::now_utc();
    let whole = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
    format!("{}.{:06}Z", whole.trim_end_matches('Z'), now.microsecond())
}
