//! One connection: TLS, one request's head, who asks and for which node, then bytes both ways until an end.
//!
//! Nothing of a request but its head is read here, and of the answer nothing: what follows belongs to client and node. A second
//! request on the same connection is nobody's: each head that goes to a node was judged. Called by `mod.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ke_wire::{Namespace, NodeName, ObjectName};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::{Identity, TrustedClients};
use super::crowd::Turn;
use super::dial::Dial;
use super::head::{self, Head, MAX_HEAD, Onward};
use super::places::{Place, Places};
use super::pump;
use super::review::{Judge, Reviews, Right};
use super::route::{self, Asked, NotHere};
use crate::edge_controller::Graph;
use crate::gate::handshake;
use crate::kubelet_endpoints::{Entrance, KubeletEndpoints};

/// Times that tests shorten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the end of the handshake to the end of the head. The API server sends its head at once.
    pub head: Duration,
    /// A tunnel is a message to a connected node; one that does not come in this time will not.
    pub dial: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), dial: Duration::from_secs(15) }
    }
}

/// Somebody who is sent away has this long to take it.
const PARTING_LIMIT: Duration = Duration::from_secs(2);

/// Where pods are, so that tests need no watch.
pub(super) trait Pods: Send + Sync + 'static {
    /// Which edge node a pod is bound to; `None`: none.
    fn node_of(&self, namespace: &Namespace, pod: &ObjectName) -> Option<NodeName>;
}

impl Pods for Graph {
    fn node_of(&self, namespace: &Namespace, pod: &ObjectName) -> Option<NodeName> {
        self.node_of_pod(namespace, pod)
    }
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    /// Requests that went on to a node.
    pub served: Counter,
    /// Requests that did not.
    pub refused: Counter,
    /// Streams to nodes now.
    pub open: Gauge,
}

/// What each connection needs.
pub(super) struct Desk<R> {
    pub trusted: TrustedClients,
    pub judge: Judge<R>,
    pub pods: Arc<dyn Pods>,
    pub endpoints: KubeletEndpoints,
    pub dial: Arc<dyn Dial>,
    pub counters: Counters,
    pub limits: Limits,
    pub places: Places,
}

/// An answer of ours, in place of the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    text: String,
}

impl<R: Reviews> Desk<R> {
    /// Serves one connection to its end. `port`: by which it came. `turn`: it is one of those that are not judged yet.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        tls: TlsAcceptor,
        from: SocketAddr,
        port: u16,
        turn: Turn,
    ) {
        let mut stream = match handshake(&tls, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%from, port, error, "TLS on a port for the API server");
                return;
            }
        };
        let (head, rest) = match tokio::time::timeout(self.limits.head, read_head(&mut stream)).await {
            Ok(Ok(Some(read))) => read,
            // Said nothing: opened ahead of need, or a probe.
            Ok(Ok(None)) => return,
            Ok(Err(refusal)) => return self.refuse(stream, from, &refusal).await,
            Err(_) => {
                let text = format!("the request's head did not come within {:?}", self.limits.head);
                let refusal = Refusal::new(408, text);
                return self.refuse(stream, from, &refusal).await;
            }
        };
        // Boxed: the state of all this must not live as long as the stream.
        let admitted = Box::pin(self.admit(&head, &stream, port)).await;
        let (node, how, place) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(stream, from, &refusal).await,
        };
        drop(turn);
        let dialled = match tokio::time::timeout(self.limits.dial, self.dial.dial(&node)).await {
            Ok(dialled) => dialled.map_err(|why| why.to_string()),
            Err(_) => Err(format!("its tunnel was not opened within {:?}", self.limits.dial)),
        };
        let mut tunnel = match dialled {
            Ok(tunnel) => tunnel,
            Err(why) => {
                // Not 503: in the place of that one's text the API server puts words of its own, and kubectl shows nothing else.
                let refusal = Refusal::new(502, format!("node {node} cannot be reached: {why}"));
                return self.refuse(stream, from, &refusal).await;
            }
        };
        self.counters.served.inc();
        let mut first = head.onward(how);
        first.extend_from_slice(&rest);
        drop((head, rest));
        let written = match tokio::time::timeout(self.limits.dial, tunnel.write_all(&first)).await {
            Ok(written) => written.map_err(|why| why.to_string()),
            Err(_) => Err(format!("it did not take the request within {:?}", self.limits.dial)),
        };
        if let Err(why) = written {
            let refusal = Refusal::new(502, format!("node {node} cannot be reached: {why}"));
            return self.refuse(stream, from, &refusal).await;
        }
        drop(first);
        let ended = pump::both_ways(stream, tunnel).await;
        tracing::debug!(node = %place.node, %from, "a stream has ended: {ended:?}");
    }

    /// Where the request goes, and how.
    async fn admit(
        &self,
        head: &Head,
        stream: &TlsStream<TcpStream>,
        port: u16,
    ) -> Result<(NodeName, Onward, Place), Refusal> {
        let who = self.who(head, stream.get_ref().1.peer_certificates().unwrap_or_default()).await?;
        let route = route::route(head.path()).map_err(|why| Refusal::new(status(&why), why.to_string()))?;
        let entrance = self.endpoints.entrance(port);
        let node = route::node(&entrance, &route.asked, |namespace, pod| self.pods.node_of(namespace, pod));
        // Whoever may nothing learns nothing: not whether a pod exists, nor where.
        let judged_for = match (&node, &entrance, &route.asked) {
            (Ok(node), _, _) | (Err(_), Entrance::Of(node), _) => node.to_string(),
            (Err(_), Entrance::Shared, Asked::Pod(..) | Asked::Node) => String::new(),
        };
        self.may(&who, head, route.rights, &judged_for).await?;
        let node = node.map_err(|why| Refusal::new(status(&why), why.to_string()))?;
        let how = if route.may_upgrade && head.asks_for_upgrade() { Onward::Upgrade } else { Onward::Once };
        let full = |what: String| Refusal::new(429, format!("{what} are open already; try again later"));
        let place = self.places.take(&node, route.asked).map_err(full)?;
        Ok((node, how, place))
    }

    /// As a kubelet: by certificate, else by token, else nobody.
    async fn who(&self, head: &Head, shown: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        let unknown = || Refusal::new(401, "Unauthorized".to_owned());
        if let Some(who) = self.trusted.who(shown) {
            return Ok(who);
        }
        let Some(token) = head.bearer() else { return Err(unknown()) };
        match self.judge.whose(token).await {
            Ok(Some(who)) => Ok(who),
            Ok(None) => Err(unknown()),
            Err(why) => {
                tracing::warn!("a token cannot be judged: {why}");
                Err(unknown())
            }
        }
    }

    async fn may(
        &self,
        who: &Identity,
        head: &Head,
        rights: &'static [&'static str],
        node: &str,
    ) -> Result<(), Refusal> {
        let verb = route::verb(&head.method);
        for subresource in rights {
            let right = Right { verb, subresource, node: node.to_owned() };
            match self.judge.may(who, right).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(user = who.user, "a right cannot be judged: {why}");
                    let user = &who.user;
                    let text = format!(
                        "Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})"
                    );
                    return Err(Refusal::new(500, text));
                }
            }
        }
        let (user, subresources) = (&who.user, rights.join(" "));
        let text = format!(
            "Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n"
        );
        Err(Refusal::new(403, text))
    }

    async fn refuse(&self, mut stream: TlsStream<TcpStream>, from: SocketAddr, refusal: &Refusal) {
        self.counters.refused.inc();
        tracing::debug!(%from, status = refusal.status, "refused: {}", refusal.text);
        let parting = async {
            let _ = stream.write_all(&refusal.bytes()).await;
            let _ = stream.shutdown().await;
            // Closing a socket with unread bytes in it resets the connection, and the answer would be lost.
            let mut dropped = [0; 2048];
            let mut room = MAX_HEAD;
            while let Ok(n_read @ 1..) = stream.read(&mut dropped).await {
                room = room.saturating_sub(n_read);
                if room == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(PARTING_LIMIT, Box::pin(parting)).await;
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Refusal {
    pub(super) fn new(status: u16, text: String) -> Self {
        Self { status, text }
    }

    /// Plain text, as a kubelet's: kubectl shows it as it is.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let reason = hyper::StatusCode::from_u16(self.status).ok().and_then(|code| code.canonical_reason());
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.status,
            reason.unwrap_or("Refused"),
            self.text.len(),
            self.text
        )
        .into_bytes()
    }
}

fn status(why: &NotHere) -> u16 {
    match why {
        NotHere::Path => 400,
        NotHere::NoPod | NotHere::Unknown(..) | NotHere::Elsewhere(..) | NotHere::WhichNode => 404,
    }
}

/// The head, and what came with it; `None`: the client has said nothing at all.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    let mut bytes = Vec::with_capacity(2048);
    let mut looked_at = 0;
    loop {
        if let Some(end) = head::end(&bytes, looked_at) {
            let rest = bytes.split_off(end);
            let head = Head::parse(&bytes).map_err(|bad| Refusal::new(400, bad.to_string()))?;
            return Ok(Some((head, rest)));
        }
        looked_at = bytes.len();
        if looked_at >= MAX_HEAD {
            return Err(Refusal::new(431, "the request's head is larger than 64 KiB".to_owned()));
        }
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) if bytes.is_empty() => return Ok(None),
            Ok(0) | Err(_) => {
                return Err(Refusal::new(400, "the request broke off in its head".to_owned()));
            }
        }
    }
}
