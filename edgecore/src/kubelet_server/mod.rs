//! The kubelet's HTTP face of this node: logs, commands and ports of containers, pods as they are, and what they use.
//!
//! Whoever hands it a byte stream of this process, [`KubeletHandle::serve`], gets every route: the cloud has seen who asks. A port
//! on loopback shows the rest, and refuses what reads or writes containers. It reads the store and asks the runtime; it decides
//! nothing about pods and changes none. `main.rs` starts it; the tunnel to the cloud holds its handle.

mod answer;
mod containers;
mod du;
mod exposition;
mod figures;
mod kernel;
mod logs;
mod measure;
mod own;
mod pods;
mod relay;
mod route;
mod streaming;
mod summary;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ke_run::accept::{self, Limits};
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::answer::{Answer, PROMETHEUS, Refused, TEXT, whole};
#[cfg(test)]
pub(crate) use self::figures::Memory;
pub(crate) use self::figures::{ContainerFigures, Disk, Figures, NodeFigures, PodFigures};
pub use self::measure::{Gauge, Machine};
use self::own::with_own;
use self::relay::{Joint, farewell, relay};
use self::route::{Entrance, NoRoute, Route, route};
use crate::db::Db;
use crate::edged::logs::Endings;
use crate::edged::{ProbeCounts, Runtime};
use crate::meta_manager::Meta;
use crate::query;
use crate::static_pods::StaticSet;

/// Followed logs and open terminals of one node, each with its buffers. More at once are refused with a sentence.
const MAX_SERVED: usize = 1024;
/// Scrapers of this machine. More at once wait.
const MAX_LOOPBACK: usize = 16;
/// Nothing at the loopback port takes long.
const LOOPBACK_LIMIT: Duration = Duration::from_secs(60);
/// A command's words are in the URL, which has at most 64 KiB. Also what waits for a reader that is slow.
const MAX_BUFFER: usize = 96 << 10;
/// How long a head may take to come.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Until the port is tried again that somebody else holds.
const AGAIN: Duration = Duration::from_secs(30);

/// What answers are made of.
pub struct Sources {
    /// Pods as the cloud wants them.
    pub meta: Meta,
    /// Static pods of now, of which the mirrors are.
    pub static_pods: watch::Receiver<Option<StaticSet>>,
    /// Statuses as this machine last noted them.
    pub db: Db,
    /// Containers as they are.
    pub runtime: Arc<dyn Runtime>,
    /// `podLogsDir`.
    pub pod_logs_root: PathBuf,
    /// Of those whose logs are followed.
    pub endings: Endings,
    /// What they use.
    pub gauge: Arc<Gauge>,
    /// What probes found.
    pub probes: ProbeCounts,
    /// All numbers of this process as text.
    pub numbers: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Serves connections that come some other way than over the port. Cheap to clone.
#[derive(Clone)]
pub struct KubeletHandle {
    sources: Arc<Sources>,
    room: Arc<Semaphore>,
}

/// The module.
pub struct KubeletServer {
    /// `None`: no port.
    address: Option<SocketAddr>,
    sources: Arc<Sources>,
}

impl KubeletServer {
    /// `address` is where the machine's own programs ask; its port is taken by `run`.
    #[must_use]
    pub fn new(address: Option<SocketAddr>, sources: Sources) -> (KubeletHandle, Self) {
        let sources = Arc::new(sources);
        let room = Arc::new(Semaphore::new(MAX_SERVED));
        (KubeletHandle { sources: Arc::clone(&sources), room }, Self { address, sources })
    }

    /// Serves the port until shutdown. One that somebody else holds is told and tried again: pods matter more.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let Some(address) = self.address else {
            shutdown.wait().await;
            return Ok(());
        };
        let mut was_told = false;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if !was_told => {
                    was_told = true;
                    tracing::error!(
                        %error,
                        "listen on {address} (tailoredKubeletConfig.address and readOnlyPort): programs of this machine \
                         get no metrics until the port is free"
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = shutdown.wait() => return Ok(()),
            }
        };
        self.accept(listener, shutdown).await;
        Ok(())
    }

    async fn accept(self, listener: TcpListener, shutdown: Shutdown) {
        let limits =
            Limits { name: "the kubelet's port", n_connections: MAX_LOOPBACK, time: Some(LOOPBACK_LIMIT) };
        let served = |stream| {
            let sources = Arc::clone(&self.sources);
            async move { serve(&sources, Entrance::Loopback, stream).await }
        };
        accept::serve(&listener, limits, &shutdown, served).await;
    }
}

impl KubeletHandle {
    /// Serves one request, on whatever byte stream, with every route; returns when nothing is left to do on it, which for a
    /// terminal is when one of its ends has gone. Dropping the future breaks the stream off.
    ///
    /// One request: whoever chose this node for the stream has read the first head only.
    pub async fn serve<T>(&self, stream: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let permit = self.room.try_acquire();
        let entrance = if permit.is_ok() { Entrance::Handed } else { Entrance::Full };
        serve(&self.sources, entrance, stream).await;
    }
}

async fn serve<T>(sources: &Arc<Sources>, entrance: Entrance, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let joint = Joint::default();
    let refused: Arc<Mutex<Option<OnUpgrade>>> = Arc::default();
    let answer = service_fn(|request: Request<Incoming>| {
        let (sources, joint) = (Arc::clone(sources), Arc::clone(&joint));
        *refused.lock().unwrap_or_else(PoisonError::into_inner) = request.extensions().get().cloned();
        async move { Ok::<_, Infallible>(sources.answer(entrance, request, &joint).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_BUFFER)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    // Whoever breaks off hurts only himself.
    let _ = connection.await;
    let joined = joint.lock().unwrap_or_else(PoisonError::into_inner).take();
    let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (joined, refused) {
        (Some((front, back)), _) => relay(front, back).await,
        // It wanted to leave HTTP and was told no. hyper then gives the connection back open: dropped so, it would be
        // broken off, and the answer lost that is still under way.
        (None, Some(front)) => farewell(front).await,
        (None, None) => {}
    }
}

impl Sources {
    async fn answer(&self, entrance: Entrance, request: Request<Incoming>, joint: &Joint) -> Answer {
        let mut answer = match self.try_answer(entrance, request, joint).await {
            Ok(answer) => answer,
            Err(refused) => refused.answer(),
        };
        if entrance != Entrance::Loopback && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn try_answer(
        &self,
        entrance: Entrance,
        request: Request<Incoming>,
        joint: &Joint,
    ) -> Result<Answer, Refused> {
        let uri = request.uri().clone();
        let found = route(request.method().as_str(), uri.path()).map_err(|why| match why {
            NoRoute::Path => Refused::not_found("404 page not found"),
            NoRoute::Method => Refused::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        })?;
        match entrance {
            Entrance::Full => {
                let text = format!("this node serves {MAX_SERVED} streams already: end some, or try again");
                return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, text));
            }
            Entrance::Loopback if !found.is_open_at(entrance) => {
                let text = "exec, attach, portForward, containerLogs and run are not offered at this port, which asks \
                            nobody who he is: on this machine, as root, type keadm ctl logs or keadm ctl exec";
                return Err(Refused::new(StatusCode::FORBIDDEN, text));
            }
            Entrance::Loopback | Entrance::Handed => {}
        }
        let query = query::pairs(uri.query().unwrap_or_default()).map_err(Refused::bad)?;
        match found {
            Route::Health => Ok(whole(TEXT, "ok")),
            Route::Logs(path) => self.log(path, &query).await,
            Route::Exec(path) => self.exec(path, &query, request, joint).await,
            Route::Attach(path) => self.attach(path, &query, request, joint).await,
            Route::Run(path) => self.run(path, &query).await,
            Route::PortForward(path) => self.port_forward(path, &query, request, joint).await,
            Route::Pods => self.pod_list().await,
            Route::RunningPods => self.running_pods().await,
            Route::Summary => self.stats_summary(&query).await,
            Route::MetricsResource => self.metrics_resource().await,
            Route::MetricsCadvisor => self.metrics_cadvisor().await,
            Route::Metrics => {
                let numbers = (self.numbers)();
                let numbers = numbers.ok_or_else(|| Refused::broken(&"the metrics cannot be written"))?;
                let own = self.gauge.own(&*self.runtime).await;
                Ok(whole(Metrics::CONTENT_TYPE, with_own(&numbers, &own)))
            }
            Route::MetricsProbes => Ok(whole(PROMETHEUS, self.probes.text())),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::bench;
