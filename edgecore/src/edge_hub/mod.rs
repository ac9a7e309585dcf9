//! EdgeHub: dial, drive `EdgeEnd`, back off, again.
//!
//! Every connection to the cloud is dialled in this folder: the link, which it holds, enrolment (`identity.rs`), and for
//! `edge_stream::go_tunnel` the one to KubeEdge's stream port (`stream_port.rs`), which that holds. All messages pass here,
//! bytes of that tunnel do not.
//!
//! What comes down goes to MetaManager and is acknowledged when that has it on disk; what goes up comes from the report
//! queue and from modules that ask through the [`Cloud`] handle. It stores nothing and decides nothing about objects.

mod dial;
pub mod handle;
mod identity;
mod link;
mod patch;
mod proxy;
mod sending;
mod stream_port;
mod tls;

use std::time::{Duration, Instant};

use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use ke_wire::NodeName;
use tokio::sync::mpsc;

pub use handle::{Answered, AskError, Cloud, CloudInbox, LinkState, Membership, Peer, Receipt};
pub use identity::{Identity, IdentityError, Prospect};
pub(crate) use stream_port::dial as dial_stream_port;

use crate::config::EdgeHubConfig;
use crate::edge_stream::EdgeStreams;
use crate::meta_manager::Meta;
use crate::report_queue::{DeviceOutbox, Fate, Outbox, ParcelNews};
use dial::Offer;
use handle::Request;
use link::Ends;
use tls::DialError;

/// Whether this machine has been a node of this cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// What is wrong with its token or certificate ends the process: whoever joins it is looking.
    Never,
    /// Nobody may be near: it goes on alone and keeps trying.
    Before,
}

/// The module.
pub struct EdgeHub {
    config: EdgeHubConfig,
    node: NodeName,
    joined: Joined,
    identity: Identity,
    inbox: CloudInbox,
    meta: Meta,
    outbox: Outbox,
    devices: DeviceEnds,
    streams: Option<EdgeStreams>,
    n_connections: u64,
}

/// Where device messages come from and go to.
pub struct DeviceEnds {
    /// Device reports that must go up.
    pub outbox: DeviceOutbox,
    /// Who hears which devices are here. Full: the message is dropped with a word; the next connection brings all of them.
    pub membership: mpsc::Sender<Membership>,
}

/// Gets this machine its certificate if it has none, once and without a link: whoever joins it learns at once what is wrong.
pub async fn enroll(config: &EdgeHubConfig, node: NodeName) -> Result<(), IdentityError> {
    Identity::new(config, node).ensure().await
}

/// Whether it has one or could get one. Changes nothing. `now`: Unix seconds.
pub async fn look(config: &EdgeHubConfig, node: NodeName, now: i64) -> Result<Prospect, IdentityError> {
    Identity::new(config, node).look(now).await
}

impl EdgeHub {
    /// Nothing is dialled before `run`.
    pub fn new(
        config: EdgeHubConfig,
        node: NodeName,
        joined: Joined,
        inbox: CloudInbox,
        meta: Meta,
        outbox: Outbox,
        devices: DeviceEnds,
    ) -> Self {
        let identity = Identity::new(&config, node.clone());
        Self { config, node, joined, identity, inbox, meta, outbox, devices, streams: None, n_connections: 0 }
    }

    /// Offers the cloud byte streams, and hands over those that it opens. Without, none are offered.
    #[must_use]
    pub fn with_streams(mut self, streams: EdgeStreams) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Runs until shutdown. Errors: only what trying again cannot heal (a token or certificate that was refused).
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), IdentityError> {
        let backoff = Backoff::full_jitter(Duration::from_secs(1), self.config.reconnect_max_secs.secs());
        let mut attempt = 0_u32;
        loop {
            let ended = self.one_connection(&shutdown).await;
            // Nobody waits for an answer of a link that is gone, and everything under way goes again.
            self.inbox.set(LinkState::Away);
            self.refuse_requests();
            // A link that stood until it fell silent was good, however often that happens: begin anew with the short delay.
            if ended.as_ref().is_ok_and(|ended| ended.stood >= self.config.heartbeat.secs() * 2) {
                attempt = 0;
            }
            let _ = self.outbox.fates.send(Fate::LinkLost).await;
            let _ = self.devices.outbox.news.send(ParcelNews::LinkLost).await;
            if shutdown.is_triggered() {
                return Ok(());
            }
            match ended {
                Ok(Ended { why, .. }) => {
                    tracing::warn!(why, "the link to the cloud ended; this node goes on without it")
                }
                Err(LinkError::Identity(error)) if error.is_final() && self.joined == Joined::Never => {
                    return Err(error);
                }
                // Its pods go on, cold boots included, until somebody comes.
                Err(LinkError::Identity(error)) if error.is_final() => {
                    tracing::error!(%error, "this machine cannot prove who it is and goes on without the cloud");
                }
                Err(error) => tracing::warn!(%error, attempt, "the cloud is not reachable; trying again"),
            }
            let delay = backoff.delay(attempt, random_fraction());
            attempt = attempt.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.refuse_requests_until_cancelled() => {}
                () = shutdown.wait() => return Ok(()),
            }
        }
    }

    async fn one_connection(&mut self, shutdown: &Shutdown) -> Result<Ended, LinkError> {
        let dialled = async {
            self.identity.ensure().await?;
            let offer = if self.streams.is_some() { Offer::Streams } else { Offer::Nothing };
            Ok::<_, LinkError>(dial::websocket(&self.config, &self.node, &self.identity, offer).await?)
        };
        // Only dialling may be dropped anywhere; the link itself ends in order.
        let dialled = tokio::select! {
            dialled = dialled => dialled?,
            () = shutdown.wait() => return Ok(Ended { why: "edgecore stops".into(), stood: Duration::ZERO }),
        };
        let connected = Instant::now();
        self.joined = Joined::Before;
        self.n_connections += 1;
        tracing::info!(server = %self.config.websocket.server, "connected to the cloud");
        let peer = if dialled.streams.is_some() { Peer::Isthmus } else { Peer::KubeEdge };
        self.inbox.set(LinkState::Connected { number: self.n_connections, peer });
        let ends = Ends {
            inbox: &mut self.inbox,
            outbox: &mut self.outbox,
            devices: &mut self.devices,
            streams: self.streams.as_ref(),
        };
        let link = link::Link::new(dialled, &self.config, &self.meta, ends);
        let why = link.run(&mut self.identity, shutdown).await;
        Ok(Ended { why, stood: connected.elapsed() })
    }

    fn refuse_requests(&mut self) {
        while let Ok(request) = self.inbox.requests.try_recv() {
            refuse(request);
        }
    }

    /// Requests that slipped in while the link broke are refused at once, not after the pause.
    async fn refuse_requests_until_cancelled(&mut self) {
        while let Some(request) = self.inbox.requests.recv().await {
            refuse(request);
        }
        std::future::pending::<()>().await;
    }
}

fn refuse(request: Request) {
    match request {
        Request::Ask(_, reply) => drop(reply.send(Err(AskError::Offline))),
        Request::Kept(_) | Request::Tell(_) => {}
    }
}

/// How a link ended.
struct Ended {
    why: String,
    /// Since it was connected; dialling does not count.
    stood: Duration,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// Uniform in 0..1, for jitter: many edges of one cloud must not dial in step.
fn random_fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    let random = ring::rand::SystemRandom::new();
    match ring::rand::SecureRandom::fill(&random, &mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests;
