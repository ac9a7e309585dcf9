//! MetaManager: store, then acknowledge, then tell.
//!
//! EdgeHub hands it what the cloud pushed. A change is on disk before its acknowledgement leaves, and acknowledged before
//! Edged hears of it: an answer of the store is all that the cloud waits for. Readers ask the [`Meta`] handle, which looks
//! into the store and, where it has nothing, asks the cloud and keeps the answer. MetaManager never runs anything and never
//! talks to the API server.

mod handle;
mod kubeedge;
mod look;
mod refill;
mod runtime_class;
mod store;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::List;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use ke_api::device::{Device, DeviceModel};
use ke_run::shutdown::Shutdown;
use ke_wire::{
    Answer, Delete, DeviceId, Kind, Namespace, NodeName, ObjectKey, ObjectName, Put, Question, Reason, Scope,
    Version,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};

pub use handle::{DeviceNews, LookupError, News, Objects};
pub use kubeedge::import;
pub use look::{everything, token_bodies};
pub use refill::{is_refilled, watch_refill};
use store::HeldToken;
pub use store::{Applied, Held};

use crate::db::{Db, DbError};
use crate::edge_hub::handle::{Answered, AskError, Cloud, Peer};

/// At most so many changes share one commit: one wait for the disk then serves a burst.
const BATCH: usize = 64;

/// A container's start waits for what the cloud says of Services no longer than this.
const SERVICES_LIMIT: Duration = Duration::from_secs(3);

/// A change the cloud pushed.
#[derive(Clone, Debug)]
pub enum Pushed {
    /// Hold this.
    Put(Put),
    /// Hold this no longer.
    Delete(Delete),
}

/// A pushed change and where to say that it is on disk.
type Change = (Pushed, oneshot::Sender<Result<Applied, MetaError>>);

/// Why a change was not kept.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The store refused; worth sending again.
    #[error("write to the store: {0}")]
    Write(Arc<DbError>),
    /// The object is no object of its kind; sending it again will not help.
    #[error("{key} cannot be read: {why}")]
    Malformed {
        /// Which object.
        key: ObjectKey,
        /// What is wrong with it.
        why: String,
    },
}

/// The module: owns the order of changes.
pub struct MetaManager {
    changes: mpsc::Receiver<Change>,
    db: Db,
    node: NodeName,
    news: mpsc::Sender<News>,
    devices: mpsc::Sender<DeviceNews>,
    nodes: watch::Sender<Option<Arc<Node>>>,
}

/// Cloneable handle: changes in, objects out.
#[derive(Clone)]
pub struct Meta {
    changes: mpsc::Sender<Change>,
    db: Db,
    cloud: Cloud,
}

impl MetaManager {
    /// `news` tells Edged of every change after it is stored, `devices` DeviceTwin, `nodes` the node agent of this machine's
    /// Node. Full: MetaManager waits, so acknowledgements do, so the cloud's window does.
    pub fn new(
        db: Db,
        node: NodeName,
        cloud: Cloud,
        news: mpsc::Sender<News>,
        devices: mpsc::Sender<DeviceNews>,
        nodes: watch::Sender<Option<Arc<Node>>>,
    ) -> (Meta, Self) {
        // Full: what EdgeHub was pushed waits unacknowledged, and the cloud's window closes.
        let (sender, changes) = mpsc::channel(BATCH);
        (Meta { changes: sender, db: db.clone(), cloud }, Self { changes, db, node, news, devices, nodes })
    }

    /// Runs until shutdown. Errors: none; a store that refuses is told to the sender of each change.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), MetaError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                n_changes = self.changes.recv_many(&mut batch, BATCH) => {
                    if n_changes == 0 {
                        return Ok(());
                    }
                }
                () = shutdown.wait() => return Ok(()),
            }
            self.on_changes(batch.drain(..)).await;
        }
    }

    async fn on_changes(&mut self, batch: impl Iterator<Item = Change>) {
        let mut told = Vec::new();
        let mut work = Vec::new();
        for (pushed, reply) in batch {
            match uid_of(&pushed) {
                Ok(uid) => {
                    work.push((pushed, uid));
                    told.push(reply);
                }
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        if work.is_empty() {
            return;
        }
        let shared: Arc<[(Pushed, String)]> = work.into();
        let job = Arc::clone(&shared);
        let stored = self
            .db
            .call(move |connection| {
                // One transaction: all of the batch is on disk when `commit` returns, or none is acknowledged.
                let transaction = connection.transaction()?;
                let mut applied = Vec::with_capacity(job.len());
                for (pushed, uid) in job.iter() {
                    applied.push(match pushed {
                        Pushed::Put(put) => store::put(&transaction, put, uid)?,
                        Pushed::Delete(delete) => store::delete(&transaction, delete)?,
                    });
                }
                transaction.commit()?;
                Ok(applied)
            })
            .await;
        match stored {
            Ok(applied) => {
                for (reply, applied) in told.into_iter().zip(&applied) {
                    let _ = reply.send(Ok(*applied));
                }
                for ((pushed, _), applied) in shared.iter().zip(applied) {
                    if let Some(news) = self.news_of(pushed, applied) {
                        // Closed at shutdown only; the next start reads the store.
                        if let News::NodePut(node) = &news {
                            self.nodes.send_replace(Some(Arc::clone(node)));
                        }
                        let _ = self.news.send(news).await;
                    }
                    if let Some(news) = device_news(pushed, applied) {
                        let _ = self.devices.send(news).await;
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store refused {} changes; the cloud will send them again", told.len());
                let error = Arc::new(error);
                for reply in told {
                    let _ = reply.send(Err(MetaError::Write(Arc::clone(&error))));
                }
            }
        }
    }

    /// Who must hear of this change. Every `Kind` is named: a new one must be given a reader here.
    fn news_of(&self, pushed: &Pushed, applied: Applied) -> Option<News> {
        let key = match pushed {
            Pushed::Put(put) => &put.key,
            Pushed::Delete(delete) => &delete.key,
        };
        match (&key.kind, pushed, applied) {
            (_, _, Applied::Stale) => None,
            (Kind::Pod, Pushed::Put(put), _) => {
                typed::<Pod>(&put.body).ok().map(|pod| News::PodPut(Arc::new(pod)))
            }
            (Kind::Pod, Pushed::Delete(delete), _) => {
                Some(News::PodDeleted(delete.key.clone(), delete.uid.clone()))
            }
            (Kind::ConfigMap | Kind::Secret, _, _) => Some(News::ConfigChanged(key.clone())),
            (Kind::Node, Pushed::Put(put), _) if key.name.as_str() == self.node.as_str() => {
                typed::<Node>(&put.body).ok().map(|node| News::NodePut(Arc::new(node)))
            }
            (Kind::Node, _, _) => None,
            // Told to DeviceTwin.
            (Kind::Device | Kind::DeviceModel, _, _) => None,
            // Stored for the modules that will read them: storage, the local API.
            (
                Kind::Lease
                | Kind::Event
                | Kind::PersistentVolume
                | Kind::PersistentVolumeClaim
                | Kind::VolumeAttachment
                | Kind::CertificateSigningRequest
                | Kind::ServiceAccountAccess
                | Kind::ServiceList
                | Kind::RuntimeClass
                | Kind::Watched(_),
                _,
                _,
            ) => None,
        }
    }
}

/// What DeviceTwin must hear of this change, whatever part of the cloud it came from: a Go cloud repairs devices as if they
/// were no devices.
fn device_news(pushed: &Pushed, applied: Applied) -> Option<DeviceNews> {
    if applied == Applied::Stale {
        return None;
    }
    let (key, body) = match pushed {
        Pushed::Put(put) => (&put.key, Some(&put.body)),
        Pushed::Delete(delete) => (&delete.key, None),
    };
    let id = || device_id(key);
    match (&key.kind, body) {
        (Kind::Device, Some(body)) => device_put(id()?, body).ok(),
        (Kind::Device, None) => Some(DeviceNews::Device(id()?, None)),
        (Kind::DeviceModel, Some(body)) => model_put(id()?, body).ok(),
        (Kind::DeviceModel, None) => Some(DeviceNews::Model(id()?, None)),
        (
            Kind::Pod
            | Kind::ConfigMap
            | Kind::Secret
            | Kind::Node
            | Kind::Lease
            | Kind::Event
            | Kind::PersistentVolume
            | Kind::PersistentVolumeClaim
            | Kind::VolumeAttachment
            | Kind::CertificateSigningRequest
            | Kind::ServiceAccountAccess
            | Kind::ServiceList
            | Kind::RuntimeClass
            | Kind::Watched(_),
            _,
        ) => None,
    }
}

fn device_put(id: DeviceId, body: &[u8]) -> Result<DeviceNews, serde_json::Error> {
    Ok(DeviceNews::Device(id, Some(Arc::new(typed(body)?))))
}

fn model_put(id: DeviceId, body: &[u8]) -> Result<DeviceNews, serde_json::Error> {
    Ok(DeviceNews::Model(id, Some(Arc::new(typed(body)?))))
}

fn device_id(key: &ObjectKey) -> Option<DeviceId> {
    match &key.scope {
        Scope::Namespace(namespace) => {
            Some(DeviceId { namespace: namespace.clone(), name: key.name.clone() })
        }
        Scope::Cluster => None,
    }
}

#[derive(Deserialize)]
struct Headed {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: String,
    resource_version: String,
}

/// The uid of a pushed object; a Pod that is no Pod is found out here, before it is stored over a good one.
fn uid_of(pushed: &Pushed) -> Result<String, MetaError> {
    let put = match pushed {
        Pushed::Delete(_) => return Ok(String::new()),
        Pushed::Put(put) => put,
    };
    let malformed =
        |why: serde_json::Error| MetaError::Malformed { key: put.key.clone(), why: why.to_string() };
    let headed: Headed = serde_json::from_slice(&put.body).map_err(malformed)?;
    match put.key.kind {
        Kind::Pod => drop(typed::<Pod>(&put.body).map_err(malformed)?),
        Kind::Node => drop(typed::<Node>(&put.body).map_err(malformed)?),
        Kind::ConfigMap => drop(typed::<ConfigMap>(&put.body).map_err(malformed)?),
        Kind::Secret => drop(typed::<Secret>(&put.body).map_err(malformed)?),
        Kind::Device => drop(typed::<Device>(&put.body).map_err(malformed)?),
        Kind::DeviceModel => drop(typed::<DeviceModel>(&put.body).map_err(malformed)?),
        // Read by nobody here, or where it is used.
        Kind::Lease
        | Kind::Event
        | Kind::PersistentVolume
        | Kind::PersistentVolumeClaim
        | Kind::VolumeAttachment
        | Kind::CertificateSigningRequest
        | Kind::ServiceAccountAccess
        | Kind::ServiceList
        | Kind::RuntimeClass
        | Kind::Watched(_) => {}
    }
    Ok(headed.metadata.uid)
}

fn typed<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

impl Meta {
    /// Stores one pushed change; returns when it is on disk.
    pub fn apply(&self, pushed: Pushed) -> impl Future<Output = Result<Applied, MetaError>> + Send + 'static {
        let changes = self.changes.clone();
        async move {
            let closed = || MetaError::Write(Arc::new(DbError::Closed));
            let (sender, receiver) = oneshot::channel();
            changes.send((pushed, sender)).await.map_err(|_| closed())?;
            receiver.await.map_err(|_| closed())?
        }
    }

    /// Every Pod in the store. One that cannot be read is told and left out.
    pub async fn pods(&self) -> Result<Vec<Arc<Pod>>, DbError> {
        let rows = self.db.call(|connection| store::list(connection, &Kind::Pod)).await?;
        let read = |held: &Held| match typed::<Pod>(&held.body) {
            Ok(pod) => Some(Arc::new(pod)),
            Err(error) => {
                tracing::error!(pod = %held.key, %error, "a stored Pod cannot be read and is not run");
                None
            }
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Every model and Device in the store. One that cannot be read is told and left out.
    pub async fn devices(&self) -> Result<Vec<DeviceNews>, DbError> {
        let mut news = Vec::new();
        type Put = fn(DeviceId, &[u8]) -> Result<DeviceNews, serde_json::Error>;
        let readers: [(Kind, Put); 2] = [(Kind::DeviceModel, model_put), (Kind::Device, device_put)];
        for (kind, put) in readers {
            for held in self.db.call(move |connection| store::list(connection, &kind)).await? {
                let Some(id) = device_id(&held.key) else { continue };
                match put(id, &held.body) {
                    Ok(read) => news.push(read),
                    Err(error) => {
                        tracing::error!(device = %held.key, %error, "a stored device or model cannot be read")
                    }
                }
            }
        }
        Ok(news)
    }

    /// This machine's Node as the cloud last said.
    pub async fn node(&self, name: &NodeName) -> Result<Option<Node>, DbError> {
        let Ok(name) = name.as_str().parse() else { return Ok(None) };
        let held = self.held(ObjectKey::cluster(Kind::Node, name)).await?;
        Ok(held.and_then(|held| typed(&held.body).ok()))
    }

    /// Keeps an object that an answer brought.
    pub async fn keep_answer(&self, key: ObjectKey, body: Bytes) -> Result<(), LookupError> {
        let broken = |what: &dyn std::fmt::Display| LookupError::Broken(format!("keep {key}: {what}"));
        let headed: Headed = typed(&body).map_err(|error| broken(&error))?;
        let version = headed.metadata.resource_version.parse().unwrap_or(Version::NONE);
        let put = Put {
            id: ke_wire::MessageId::fresh(),
            key: key.clone(),
            version,
            change: ke_wire::Change::Updated,
            origin: ke_wire::Origin::EdgeController,
            body,
        };
        // Through the same queue as pushes, so that an answer never overtakes a newer push.
        self.apply(Pushed::Put(put)).await.map(|_| ()).map_err(|error| broken(&error))
    }

    async fn held(&self, key: ObjectKey) -> Result<Option<Held>, DbError> {
        self.db.call(move |connection| store::get(connection, &key)).await
    }

    /// From the store; else from the cloud, and then kept.
    async fn object<T: DeserializeOwned>(&self, key: ObjectKey) -> Result<Arc<T>, LookupError> {
        let broken = |what: &dyn std::fmt::Display| LookupError::Broken(format!("read {key}: {what}"));
        if let Some(held) = self.held(key.clone()).await.map_err(|error| broken(&error))? {
            return typed(&held.body).map(Arc::new).map_err(|error| broken(&error));
        }
        let answered = match self.cloud.ask(Question::Get(key.clone())).await {
            Ok(answered) => answered,
            Err(AskError::Offline | AskError::NoAnswer) => return Err(LookupError::Offline(key.to_string())),
        };
        match answered.answer {
            Answer::Object(body) | Answer::Stored(body) => {
                let object = typed(&body).map(Arc::new).map_err(|error| broken(&error))?;
                self.keep_answer(key, body).await?;
                self.cloud.kept(answered.receipt).await;
                Ok(object)
            }
            Answer::Refused(refusal) | Answer::NotStored(refusal) => Err(LookupError::Refused(refusal)),
            Answer::Done | Answer::Pem(_) => Err(broken(&"the cloud's answer holds no object")),
        }
    }

    async fn kept_token(
        &self,
        namespace: &Namespace,
        account: &ObjectName,
        request: &str,
    ) -> Result<Option<(i64, TokenRequest)>, LookupError> {
        let row = (namespace.to_string(), account.to_string(), request.to_owned());
        let kept = self.db.call(move |connection| store::token(connection, &row.0, &row.1, &row.2)).await;
        let kept =
            kept.map_err(|error| LookupError::Broken(format!("read the token of {account}: {error}")))?;
        Ok(kept.and_then(|(obtained_at, body)| Some((obtained_at, typed(&body).ok()?))))
    }
}

#[async_trait]
impl Objects for Meta {
    async fn config_map(
        &self,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<Arc<ConfigMap>, LookupError> {
        self.object(ObjectKey::namespaced(Kind::ConfigMap, namespace.clone(), name.clone())).await
    }

    async fn secret(&self, namespace: &Namespace, name: &ObjectName) -> Result<Arc<Secret>, LookupError> {
        self.object(ObjectKey::namespaced(Kind::Secret, namespace.clone(), name.clone())).await
    }

    async fn services(&self, namespace: &Namespace) -> Vec<Service> {
        let Ok(name) = "all".parse() else { return Vec::new() };
        let key = ObjectKey::namespaced(Kind::ServiceList, namespace.clone(), name);
        if self.cloud.peer() == Some(Peer::Isthmus) {
            let asked = self.cloud.ask(Question::Get(key.clone()));
            match tokio::time::timeout(SERVICES_LIMIT, asked).await {
                Ok(Ok(Answered { answer: Answer::Object(body), receipt, .. })) => {
                    let keep = body.clone();
                    let kept = self.db.call(move |connection| store::replace(connection, &key, &keep)).await;
                    match kept {
                        Ok(()) => self.cloud.kept(receipt).await,
                        Err(error) => tracing::warn!(%error, "the services of a namespace are not kept"),
                    }
                    return services_in(&body);
                }
                Ok(Ok(Answered { answer: Answer::Refused(refusal), .. })) => {
                    tracing::debug!(%namespace, "no services: {refusal}");
                }
                _ => {}
            }
        }
        self.held(key).await.ok().flatten().map(|held| services_in(&held.body)).unwrap_or_default()
    }

    async fn runtime_handler(&self, class: &ObjectName) -> Result<String, LookupError> {
        runtime_class::handler(&self.db, &self.cloud, class).await
    }

    async fn token(
        &self,
        namespace: &Namespace,
        account: &ObjectName,
        request: TokenRequest,
    ) -> Result<TokenRequest, LookupError> {
        let broken = |what: &dyn std::fmt::Display| {
            LookupError::Broken(format!("token of service account {namespace}/{account}: {what}"))
        };
        let wanted = request.spec.clone().unwrap_or_default();
        let asked = serde_json::to_string(&wanted).map_err(|error| broken(&error))?;
        let kept = self.kept_token(namespace, account, &asked).await?;
        if let Some((obtained_at, token)) = &kept
            && token_is_young(*obtained_at, unix_now(), wanted.expiration_seconds)
        {
            return Ok(token.clone());
        }
        let body = serde_json::to_vec(&request).map_err(|error| broken(&error))?;
        let question =
            Question::Token { namespace: namespace.clone(), account: account.clone(), request: body.into() };
        let answer = self.cloud.ask(question).await.map(|answered| answered.answer);
        match (answer, kept) {
            (Ok(Answer::Object(body) | Answer::Stored(body)), _) => {
                let answer: TokenRequest = typed(&body).map_err(|error| broken(&error))?;
                if answer
                    .status
                    .as_ref()
                    .and_then(|status| status.token.as_ref())
                    .is_none_or(String::is_empty)
                {
                    return Err(broken(&"the cloud's answer holds no token"));
                }
                let bound_to = wanted.bound_object_ref.and_then(|bound| bound.uid).unwrap_or_default();
                let token = HeldToken {
                    namespace: namespace.to_string(),
                    account: account.to_string(),
                    request: asked,
                    pod_uid: bound_to,
                    obtained_at: unix_now(),
                    body,
                };
                let kept = self.db.call(move |connection| store::keep_token(connection, &token)).await;
                kept.map_err(|error| broken(&error))?;
                Ok(answer)
            }
            // An application that starts offline must find its file; the cluster decides what the token is still worth.
            (Err(_), Some((_, token))) => Ok(token),
            (Ok(Answer::Refused(refusal) | Answer::NotStored(refusal)), kept) => match kept {
                Some((_, token))
                    if refusal.reason != Reason::NotFound && refusal.reason != Reason::Forbidden =>
                {
                    Ok(token)
                }
                _ => Err(LookupError::Refused(refusal)),
            },
            (Ok(_), _) => Err(broken(&"the cloud's answer holds no token")),
            (Err(_), None) => {
                Err(LookupError::Offline(format!("a token for service account {namespace}/{account}")))
            }
        }
    }
}

fn services_in(list: &[u8]) -> Vec<Service> {
    typed::<List<Service>>(list).map(|list| list.items).unwrap_or_default()
}

/// Whether a token obtained then still has a fifth of its life before it. All in Unix seconds; a clock that was set back
/// counts as no life left, since nobody can tell.
fn token_is_young(obtained_at: i64, now: i64, life: Option<i64>) -> bool {
    let life = life.unwrap_or(3600).max(1);
    let age = now - obtained_at;
    (0..life / 5 * 4).contains(&age)
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_after_four_fifths() {
        let check =
            |age: i64, expected| assert_eq!(token_is_young(1000, 1000 + age, Some(3600)), expected, "{age}");
        check(0, true);
        check(2879, true);
        check(2880, false);
        check(-1, false);
    }
}
