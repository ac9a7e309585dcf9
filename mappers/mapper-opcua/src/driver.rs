//! OPC-UA servers as devices: nodes are read many at a time, changes come by subscription, writes go by the node's own type.
//!
//! Every device has a session of its own. What one node answers badly is that property's error; only the loss of the
//! session is the device's. Called by the SDK.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mapper_sdk::value::Value;
use mapper_sdk::{Connection, Device, Discovered, Driver, DriverError, Property, SettingError};
use opcua::client::SubscriptionCallbacks;
use opcua::types::{
    AttributeId, DataValue, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId,
    ReadValueId, StatusCode, TimestampsToReturn, Variant, VariantScalarTypeId, WriteValue,
};

use crate::discover;
use crate::newest::Newest;
use crate::session::{self, OpenSession};
use crate::settings::{Node, Sampling, Server, ServerUrl};
use crate::trust::Pki;
use crate::values;

/// Nodes in one request, unless the server takes fewer.
const BATCH: usize = 500;

/// Limits of how often the server collects changes into one message.
const FASTEST_PUBLISHING: Duration = Duration::from_millis(50);
const SLOWEST_PUBLISHING: Duration = Duration::from_secs(5);

/// A server with nothing to say says so this often; after nine times without us, it forgets the subscription.
const SUBSCRIPTION_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The OPC-UA driver.
pub struct OpcUa {
    pki: Pki,
    /// Whom to ask for servers that nobody described.
    addresses: Vec<ServerUrl>,
}

/// One device's session.
pub struct OpcUaConnection {
    open: OpenSession,
    nodes: BTreeMap<String, Result<Node, SettingError>>,
    /// Subscribed properties, by their number in the subscription.
    watched: Vec<String>,
    /// Those of them that the server agreed to watch.
    pushed: BTreeSet<String>,
    newest: Arc<Newest<DataValue>>,
    /// Types of nodes that were written to.
    types: BTreeMap<String, VariantScalarTypeId>,
    batch: usize,
}

impl OpcUa {
    /// `state`: the directory for the mapper's key pair and the servers' certificates. `addresses`: of servers, and of
    /// discovery servers, that are asked for servers which nobody described.
    #[must_use]
    pub fn new(state: PathBuf, addresses: Vec<ServerUrl>) -> Self {
        Self { pki: Pki::new(state), addresses }
    }
}

#[async_trait]
impl Driver for OpcUa {
    type Connection = OpcUaConnection;

    fn protocol(&self) -> &'static str {
        "opcua"
    }

    async fn connect(&self, device: &Device) -> Result<OpcUaConnection, DriverError> {
        let server = Server::of(&device.settings)?;
        let open = OpenSession::open(&server, &self.pki).await?;
        let nodes = device.properties.iter().map(|property| (property.name.clone(), Node::of(property)));
        let mut connection = OpcUaConnection {
            open,
            nodes: nodes.collect(),
            watched: Vec::new(),
            pushed: BTreeSet::new(),
            newest: Arc::default(),
            types: BTreeMap::new(),
            batch: BATCH,
        };
        connection.subscribe(device).await?;
        Ok(connection)
    }

    async fn discover(&self) -> Result<Vec<Discovered>, DriverError> {
        if self.addresses.is_empty() {
            return Ok(Vec::new());
        }
        let client = session::asking_client(&self.pki).await?;
        Ok(discover::ask(&client, &self.addresses).await)
    }
}

#[async_trait]
impl Connection for OpcUaConnection {
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let nodes: Vec<_> = properties.iter().map(|property| self.node(property)).collect();
        let wanted: Vec<_> =
            nodes.iter().flatten().map(|node| attribute(&node.id, AttributeId::Value)).collect();
        let mut answers = self.fetch(&wanted).await?.into_iter();
        let value = |(property, node): (&&Property, Result<Node, DriverError>)| {
            let node = node?;
            value(&property.name, &node, &answers.next().unwrap_or_default())
        };
        Ok(properties.iter().zip(nodes).map(value).collect())
    }

    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError> {
        let node = self.node(property)?;
        let place = place(&property.name, &node.id);
        let into = self.type_of(&property.name, &node.id, &place).await?;
        let variant = values::variant_of(value, into)
            .map_err(|reason| DriverError::Refused(format!("{place} {reason}")))?;
        let request = WriteValue {
            node_id: node.id,
            attribute_id: AttributeId::Value as u32,
            // Many servers refuse to be told times.
            value: DataValue { value: Some(variant), ..Default::default() },
            ..Default::default()
        };
        let status = match self.open.session().write(&[request]).await {
            Ok(answers) => answers.first().copied().unwrap_or(StatusCode::BadUnknownResponse),
            Err(error) if self.open.is_lost() || is_of_the_link(error.status()) => {
                return Err(self.open.failed(error.status()));
            }
            Err(error) => error.status(),
        };
        if status.is_bad() {
            // The node may have been given another type.
            self.types.remove(&property.name);
            return Err(refused(&place, status));
        }
        Ok(())
    }

    fn is_pushed(&self, property: &Property) -> bool {
        self.pushed.contains(&property.name)
    }

    async fn pushed(&mut self) -> Result<(String, Result<Value, DriverError>), DriverError> {
        loop {
            let (number, data) = tokio::select! {
                // What came before the end is still told.
                biased;
                next = self.newest.next() => next,
                error = self.open.lost() => return Err(error),
            };
            let name = self.watched.get(number);
            match name.and_then(|name| Some((name, self.nodes.get(name)?.as_ref().ok()?))) {
                Some((name, node)) => return Ok((name.clone(), value(name, node, &data))),
                None => tracing::debug!(number, "the server sent a value that belongs to no property"),
            }
        }
    }
}

impl OpcUaConnection {
    fn node(&self, property: &Property) -> Result<Node, DriverError> {
        match self.nodes.get(&property.name) {
            Some(node) => node.clone().map_err(DriverError::Setting),
            None => Ok(Node::of(property)?),
        }
    }

    /// Reads attributes, in as few requests as the server allows.
    async fn fetch(&mut self, wanted: &[ReadValueId]) -> Result<Vec<DataValue>, DriverError> {
        let session = self.open.session();
        let mut answers = Vec::with_capacity(wanted.len());
        while let Some(rest) = wanted.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            let batch = rest.get(..self.batch).unwrap_or(rest);
            match session.read(batch, TimestampsToReturn::Neither, 0.0).await {
                Ok(got) if got.len() == batch.len() => answers.extend(got),
                Ok(got) => {
                    return Err(DriverError::Lost(format!(
                        "the server answered {} values to a request for {}",
                        got.len(),
                        batch.len()
                    )));
                }
                Err(error) if error.status() == StatusCode::BadTooManyOperations && batch.len() > 1 => {
                    self.batch = batch.len() / 2;
                }
                Err(error) => return Err(self.open.failed(error.status())),
            }
        }
        Ok(answers)
    }

    /// The node's built-in type: as it says, or, where it names a type of its own, that of what it holds.
    async fn type_of(
        &mut self,
        name: &str,
        id: &NodeId,
        place: &str,
    ) -> Result<VariantScalarTypeId, DriverError> {
        if let Some(known) = self.types.get(name) {
            return Ok(*known);
        }
        let answers =
            self.fetch(&[attribute(id, AttributeId::DataType), attribute(id, AttributeId::Value)]).await?;
        let (said, held) = match answers.as_slice() {
            [said, held] => (said, held),
            _ => return Err(refused(place, StatusCode::BadUnknownResponse)),
        };
        if said.status().is_bad() {
            return Err(refused(place, said.status()));
        }
        let said = match &said.value {
            Some(Variant::NodeId(id)) => VariantScalarTypeId::try_from(id.as_ref()).ok(),
            _ => None,
        };
        let held = held.value.as_ref().unwrap_or(&Variant::Empty);
        if held.is_array() {
            return Err(DriverError::Refused(format!("{place} is an array, which properties cannot write")));
        }
        let found = said.or_else(|| held.scalar_type_id()).ok_or_else(|| {
            DriverError::Refused(format!(
                "{place} has a type of its own and no value yet, so nothing can be written"
            ))
        })?;
        self.types.insert(name.to_owned(), found);
        Ok(found)
    }

    /// Asks the server to tell changes. Properties that it will not watch are read instead.
    async fn subscribe(&mut self, device: &Device) -> Result<(), DriverError> {
        let mut items = Vec::new();
        let mut fastest = SLOWEST_PUBLISHING;
        for property in &device.properties {
            let Some(Ok(node)) = self.nodes.get(&property.name) else { continue };
            if node.sampling == Sampling::Poll {
                continue;
            }
            fastest = fastest.min(property.collect_cycle);
            self.watched.push(property.name.clone());
            items.push(monitored(&node.id, self.watched.len(), property.collect_cycle));
        }
        if items.is_empty() {
            return Ok(());
        }
        let session = self.open.session();
        let interval = fastest.max(FASTEST_PUBLISHING);
        let n_keep_alive = (SUBSCRIPTION_KEEP_ALIVE.as_millis() / interval.as_millis().max(1)).max(1);
        let n_keep_alive = u32::try_from(n_keep_alive).unwrap_or(u32::MAX / 9);
        let newest = self.newest.clone();
        let callbacks = SubscriptionCallbacks::new(
            |change| tracing::warn!(status = %change.status, "subscription changed"),
            move |data, item| {
                if let Some(number) = item.client_handle().checked_sub(1) {
                    newest.put(number as usize, data);
                }
            },
            |_, _| {},
        );
        let created = session
            .create_subscription(interval, n_keep_alive * 9, n_keep_alive, 0, 0, true, callbacks)
            .await;
        let subscription = match created {
            Ok(subscription) => subscription,
            Err(error) if self.open.is_lost() || is_of_the_link(error.status()) => {
                return Err(self.open.failed(error.status()));
            }
            Err(error) => {
                tracing::info!(device = %device.name, status = %error.status(), "no subscription: all properties are read in their cycles");
                return Ok(());
            }
        };
        for batch in items.chunks(BATCH) {
            let asked =
                session.create_monitored_items(subscription, TimestampsToReturn::Neither, batch.to_vec());
            let results = match asked.await {
                Ok(results) => results,
                Err(error) if self.open.is_lost() || is_of_the_link(error.status()) => {
                    return Err(self.open.failed(error.status()));
                }
                Err(error) => {
                    tracing::info!(device = %device.name, status = %error.status(), "properties are not watched but read");
                    continue;
                }
            };
            for created in results {
                let number = created.requested_parameters.client_handle.saturating_sub(1) as usize;
                let Some(name) = self.watched.get(number) else { continue };
                let status = created.result.status_code;
                if status.is_bad() {
                    tracing::info!(device = %device.name, property = name, %status, "property is not watched but read");
                } else {
                    self.pushed.insert(name.clone());
                }
            }
        }
        Ok(())
    }
}

fn attribute(id: &NodeId, attribute: AttributeId) -> ReadValueId {
    ReadValueId { node_id: id.clone(), attribute_id: attribute as u32, ..Default::default() }
}

/// `handle`: from 1; the library gives numbers of its own to 0.
fn monitored(id: &NodeId, handle: usize, cycle: Duration) -> MonitoredItemCreateRequest {
    MonitoredItemCreateRequest {
        item_to_monitor: attribute(id, AttributeId::Value),
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: u32::try_from(handle).unwrap_or_default(),
            sampling_interval: cycle.as_secs_f64() * 1000.0,
            // Only the newest counts.
            queue_size: 1,
            discard_oldest: true,
            ..Default::default()
        },
    }
}

/// A property's value of what its node holds. Uncertain ones are told as they are.
fn value(name: &str, node: &Node, data: &DataValue) -> Result<Value, DriverError> {
    let place = place(name, &node.id);
    let status = data.status();
    if status.is_bad() {
        return Err(refused(&place, status));
    }
    let held = data.value.as_ref().unwrap_or(&Variant::Empty);
    values::value_of(held, node.kind).map_err(|reason| DriverError::Refused(format!("{place} {reason}")))
}

fn place(name: &str, id: &NodeId) -> String {
    format!("{name} (node {id})")
}

fn refused(place: &str, status: StatusCode) -> DriverError {
    let hint = match status {
        StatusCode::BadNodeIdUnknown => "the server has no such node; set nodeID to one that it has",
        StatusCode::BadNotWritable | StatusCode::BadUserAccessDenied => {
            "the server does not let this user do that; set userName to one who may, or the property to ReadOnly"
        }
        _ => status.sub_code().description(),
    };
    DriverError::Refused(format!("{place}: {status}: {hint}"))
}

/// Whether a request failed because there is no session any more, or nobody at its other end.
fn is_of_the_link(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadTimeout
            | StatusCode::BadNotConnected
            | StatusCode::BadConnectionClosed
            | StatusCode::BadConnectionRejected
            | StatusCode::BadCommunicationError
            | StatusCode::BadDisconnect
            | StatusCode::BadServerNotConnected
            | StatusCode::BadServerHalted
            | StatusCode::BadShutdown
            | StatusCode::BadSessionClosed
            | StatusCode::BadSessionIdInvalid
            | StatusCode::BadSessionNotActivated
            | StatusCode::BadSecureChannelClosed
            | StatusCode::BadSecureChannelIdInvalid
            | StatusCode::BadTcpSecureChannelUnknown
            | StatusCode::BadNoCommunication
            | StatusCode::BadInvalidState
    )
}
