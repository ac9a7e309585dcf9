//! What `keadm ctl` asks this machine's edgecore, over a unix socket that only root may use: pods and devices as they are now,
//! logs, commands in containers, restarts, the release of held pods. It works with the cloud away.
//!
//! Paths and objects are Kubernetes' own. It reads the store and asks the runtime; it decides nothing about pods (a restart
//! only ends containers, and edged does what it does then) and changes nothing that the cloud wants. `main.rs` starts it.

mod devices;
mod holds;
mod pods;
mod refused;
mod route;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use ke_api::selector::Selector;
use ke_run::accept::{self, Limits};
use ke_run::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use self::refused::Refused;
use self::route::{Route, route};
use crate::db::Db;
use crate::edged::Holds;
use crate::edged::Runtime;
use crate::edged::logs::LogOptions;
use crate::meta_manager::Meta;
use crate::query;
use crate::static_pods::StaticSet;

/// People at this machine and their scripts; each followed log is one. More at once wait.
const MAX_CONNECTIONS: usize = 64;
/// A command with its words.
const MAX_REQUEST: usize = 1 << 20;

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
#[error("listen on {path}: {why}")]
pub struct ControlError {
    path: PathBuf,
    why: io::Error,
}

/// What answers are made of.
pub struct Sources {
    /// Pods and devices as the cloud wants them.
    pub meta: Meta,
    /// Static pods of now, of which the mirrors are.
    pub static_pods: watch::Receiver<Option<StaticSet>>,
    /// Statuses and twins as this machine last noted them.
    pub db: Db,
    /// Containers as they are.
    pub runtime: Arc<dyn Runtime>,
    /// `podLogsDir`.
    pub pod_logs_root: PathBuf,
    /// Releases held pods.
    pub holds: Holds,
}

/// The module.
pub struct Control {
    listener: UnixListener,
    sources: Arc<Sources>,
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket())
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl Control {
    /// Takes the socket. One that an earlier run left is replaced; one that somebody answers at is not.
    pub fn bind(path: &Path, sources: Sources) -> Result<Self, ControlError> {
        let failed = |why| ControlError { path: path.into(), why };
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(failed(io::ErrorKind::AddrInUse.into())),
            // The kernel refuses a connection to an ordinary file, too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Until this is done others may connect; `may_ask` refuses them.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, sources: Arc::new(sources) })
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ControlError> {
        // A log is followed for as long as somebody reads.
        let limits = Limits { name: "the control socket", n_connections: MAX_CONNECTIONS, time: None };
        let served = |stream: UnixStream| {
            let (sources, stop) = (Arc::clone(&self.sources), shutdown.clone());
            async move {
                if !may_ask(&stream) {
                    tracing::warn!("a user other than root was refused at the control socket");
                    return;
                }
                let answer = service_fn(|request| {
                    let sources = Arc::clone(&sources);
                    async move { Ok::<_, Infallible>(sources.answer(request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    // Whoever breaks off hurts only himself.
                    _ = connection => {}
                    () = stop.wait() => {}
                }
            }
        };
        accept::serve(&self.listener, limits, &shutdown, served).await;
        Ok(())
    }
}

/// Root, or whoever runs this program, which is root but in tests.
fn may_ask(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

impl Sources {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match self.try_answer(request).await {
            Ok(answer) => answer,
            Err(refused) => json_answer(refused.code, &refused.status()),
        }
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let path = request.uri().path().to_owned();
        let query = query::pairs(request.uri().query().unwrap_or_default()).map_err(Refused::bad)?;
        let route = route(request.method().as_str(), &path).ok_or_else(|| Refused::no_such_path(&path))?;
        let selector = || -> Result<Selector, Refused> {
            let text = query.iter().find(|(name, _)| name == "labelSelector").map(|(_, text)| text.as_str());
            text.unwrap_or_default().parse().map_err(Refused::bad)
        };
        let found = match route {
            Route::Pods(namespace) => {
                let pods = self.pods(namespace, &selector()?).await?;
                list("v1", "PodList", &pods.iter().map(Arc::as_ref).collect::<Vec<_>>())?
            }
            Route::Pod(namespace, name) => value(self.pod(namespace, name).await?.as_ref())?,
            Route::Events(namespace) => list("v1", "EventList", &self.events(namespace).await?)?,
            Route::Devices(namespace) => {
                let devices = self.devices(namespace, &selector()?).await?;
                list(devices::API_VERSION, "DeviceList", &devices)?
            }
            Route::Device(namespace, name) => value(&self.device(namespace, name).await?)?,
            Route::Log(namespace, name) => {
                let options = LogOptions::parse(&query, Timestamp::now()).map_err(Refused::bad)?;
                let log = self.log(namespace, name, &options).await?;
                return Ok(stream(log.into_stream()));
            }
            Route::Restart(namespace, name) => self.restart(namespace, name).await?,
            Route::Exec(namespace, name) => self.exec(namespace, name, &whole(request).await?).await?,
            Route::UnholdPod => self.unhold_pod(&whole(request).await?).await?,
            Route::UnholdNode => self.unhold_node(&whole(request).await?).await?,
        };
        Ok(json_answer(200, &found))
    }
}

async fn whole(request: Request<Incoming>) -> Result<Bytes, Refused> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    Ok(body.map_err(|error| Refused::bad(format!("read the request: {error}")))?.to_bytes())
}

fn value(object: &impl serde::Serialize) -> Result<Value, Refused> {
    serde_json::to_value(object).map_err(|error| Refused::broken(&error))
}

fn list(api_version: &str, kind: &str, items: &[impl serde::Serialize]) -> Result<Value, Refused> {
    let items = items.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"apiVersion": api_version, "kind": kind, "metadata": {}, "items": items}))
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn stream(blocks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Answer {
    let mut answer = Response::new(StreamBody::new(blocks.map_ok(Frame::data)).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

#[cfg(test)]
mod tests;
