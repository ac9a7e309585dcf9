//! Pure: the address and the port that a Node shows, and what the node itself said.
//!
//! The API server dials what the Node shows: cloudcore. What the machine says of itself stays beside it, as ExternalIP and in two
//! annotations, and goes back to the node unchanged, so that nothing there mistakes cloudcore's address for its own. All of it
//! rides on what the node reports anyway: no write is made for it. Called by `mod.rs`.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// Node annotation: the machine's own addresses, separated by commas.
pub const NODE_ADDRESSES: &str = "isthmus.io/node-addresses";
/// Node annotation: the port that the machine itself says.
pub const KUBELET_PORT: &str = "isthmus.io/kubelet-port";

const INTERNAL: &str = "InternalIP";
const EXTERNAL: &str = "ExternalIP";

/// What a Node is to show as its kubelet's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KubeletEndpoint {
    /// In place of the machine's own InternalIP; `None`: that one.
    pub address: Option<IpAddr>,
    /// In place of the machine's own port; `None`: that one.
    pub port: Option<u16>,
}

/// What a Node shows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    addresses: Vec<Address>,
    /// `status.daemonEndpoints.kubeletEndpoint.Port`
    pub port: Option<u16>,
    own_addresses: Option<String>,
    own_port: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    kind: String,
    text: String,
}

impl Shown {
    /// Of a Node as the API server has it.
    pub(super) fn of(node: &Value) -> Self {
        let annotation =
            |name: &str| Some(node.pointer("/metadata/annotations")?.get(name)?.as_str()?.to_owned());
        Self {
            addresses: addresses(node.pointer("/status/addresses")),
            port: port(node.pointer("/status/daemonEndpoints")),
            own_addresses: annotation(NODE_ADDRESSES),
            own_port: annotation(KUBELET_PORT),
        }
    }

    /// What the machine said when this was shown.
    fn said(&self) -> (Vec<Address>, Option<u16>) {
        let own_port = self.own_port.as_ref().map_or(self.port, |text| text.parse().ok());
        (told(&self.addresses, self.own_addresses.as_deref()), own_port)
    }
}

/// Makes a Node that is about to be created show `endpoint`.
pub(super) fn create(node: &mut Value, endpoint: KubeletEndpoint) {
    if endpoint == KubeletEndpoint::default() {
        return;
    }
    let own = addresses(node.pointer("/status/addresses"));
    let own_port = port(node.pointer("/status/daemonEndpoints"));
    let Some(fields) = node.as_object_mut() else { return };
    let next = next(&own, own_port, endpoint);
    if let Some(metadata) = section(fields, "metadata") {
        annotate(metadata, &Shown::default(), &next);
    }
    // The status of a Node that says nothing of itself yet stays empty, but for the port.
    if let Some(status) = section(fields, "status") {
        if !own.is_empty() {
            status.insert("addresses".to_owned(), listed(&next.addresses));
        }
        insert_port(status, next.port);
    }
}

/// Makes a strategic merge patch of a node's status show `endpoint`. `shown`: the Node as it is, if that is known. A patch that says
/// nothing of address and port stays as it is where the Node shows what it should.
pub(super) fn patch(patch: &mut Map<String, Value>, shown: Option<&Shown>, endpoint: KubeletEndpoint) {
    let is_known = shown.is_some();
    let shown = shown.cloned().unwrap_or_default();
    let (mut own, mut own_port) = shown.said();
    let said_addresses = patch.get("status").and_then(|status| status.get("addresses")).cloned();
    let said_port = patch.get("status").and_then(|status| port(status.get("daemonEndpoints")));
    if let Some(said) = &said_addresses {
        own = merged(own, said);
    }
    own_port = said_port.or(own_port);
    let next = next(&own, own_port, endpoint);
    let differs = is_known && !own.is_empty() && next.addresses != shown.addresses;
    if (said_addresses.is_some() || differs)
        && let Some(status) = section(patch, "status")
    {
        let mut list = vec![json!({"$patch": "replace"})];
        list.extend(next.addresses.iter().map(Address::json));
        status.insert("addresses".to_owned(), Value::Array(list));
    }
    // In whatever form: what we cannot read the API server might, and the port it reads may be another node's.
    let says_endpoints = patch.get("status").is_some_and(|status| status.get("daemonEndpoints").is_some());
    if (says_endpoints || (is_known && next.port != shown.port))
        && let Some(status) = section(patch, "status")
    {
        status.remove("daemonEndpoints");
        insert_port(status, next.port);
    }
    let mut metadata = match patch.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    if is_known || said_addresses.is_some() || said_port.is_some() {
        annotate(&mut metadata, &shown, &next);
    }
    if !metadata.is_empty() {
        patch.insert("metadata".to_owned(), Value::Object(metadata));
    }
}

/// Makes a Node that goes to its machine say what the machine said. Others are not changed.
pub(crate) fn as_the_node_said(node: &mut Value) {
    let shown = Shown::of(node);
    if shown.own_addresses.is_none() && shown.own_port.is_none() {
        return;
    }
    let (own, own_port) = shown.said();
    let Some(fields) = node.as_object_mut() else { return };
    if let Some(status) = section(fields, "status") {
        status.insert("addresses".to_owned(), listed(&own));
        insert_port(status, own_port);
    }
    if let Some(annotations) = fields.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
        && let Some(annotations) = annotations.as_object_mut()
    {
        annotations.remove(NODE_ADDRESSES);
        annotations.remove(KUBELET_PORT);
    }
}

/// What is to be shown of a machine that says this.
fn next(own: &[Address], own_port: Option<u16>, endpoint: KubeletEndpoint) -> Shown {
    let internal: Vec<&str> = own.iter().filter(|one| one.kind == INTERNAL).map(|one| &*one.text).collect();
    let mut addresses = Vec::new();
    addresses.extend(
        endpoint.address.map(|address| Address { kind: INTERNAL.to_owned(), text: address.to_string() }),
    );
    for one in own {
        let kind = if endpoint.address.is_some() && one.kind == INTERNAL { EXTERNAL } else { &one.kind };
        let address = Address { kind: kind.to_owned(), text: one.text.clone() };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Shown {
        addresses,
        port: endpoint.port.or(own_port),
        own_addresses: endpoint.address.map(|_| internal.join(",")),
        own_port: endpoint.port.map(|_| own_port.map_or_else(String::new, |port| port.to_string())),
    }
}

/// What was said before it was shown so.
fn told(shown: &[Address], own: Option<&str>) -> Vec<Address> {
    let Some(own) = own else { return shown.to_vec() };
    let internal: Vec<&str> = own.split(',').filter(|text| !text.is_empty()).collect();
    let is_ours =
        |one: &&Address| one.kind == INTERNAL || (one.kind == EXTERNAL && internal.contains(&&*one.text));
    let said = internal.iter().map(|text| Address { kind: INTERNAL.to_owned(), text: (*text).to_owned() });
    said.chain(shown.iter().filter(|one| !is_ours(one)).cloned()).collect()
}

/// A list of a strategic merge patch laid over the one that was: what it says of a kind counts for all of that kind.
fn merged(own: Vec<Address>, said: &Value) -> Vec<Address> {
    let replaces = said.as_array().is_some_and(|all| {
        all.iter().any(|one| one.get("$patch").and_then(Value::as_str) == Some("replace"))
    });
    let mut result = addresses(Some(said));
    if !replaces {
        let kept: Vec<Address> =
            own.into_iter().filter(|old| !result.iter().any(|new| new.kind == old.kind)).collect();
        result.extend(kept);
    }
    result
}

/// Only what changes, so that a patch which says nothing new stays one.
fn annotate(metadata: &mut Map<String, Value>, shown: &Shown, next: &Shown) {
    let pairs = [
        (NODE_ADDRESSES, &shown.own_addresses, &next.own_addresses),
        (KUBELET_PORT, &shown.own_port, &next.own_port),
    ];
    for (name, now, then) in pairs {
        if now != then
            && let Some(annotations) = section(metadata, "annotations")
        {
            // A merge takes out what is null.
            annotations.insert(name.to_owned(), json!(then));
        }
    }
}

fn addresses(list: Option<&Value>) -> Vec<Address> {
    let read = |one: &Value| {
        let text = |field: &str| Some(one.get(field)?.as_str()?.to_owned());
        Some(Address { kind: text("type")?, text: text("address")? })
    };
    list.and_then(Value::as_array).into_iter().flatten().filter_map(read).collect()
}

fn listed(addresses: &[Address]) -> Value {
    addresses.iter().map(Address::json).collect()
}

/// The field's name begins with a capital, unlike any other.
fn port(endpoints: Option<&Value>) -> Option<u16> {
    let port = endpoints?.pointer("/kubeletEndpoint/Port")?.as_u64()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn insert_port(status: &mut Map<String, Value>, port: Option<u16>) {
    if let Some(port) = port {
        status.insert("daemonEndpoints".to_owned(), json!({"kubeletEndpoint": {"Port": port}}));
    }
}

fn section<'a>(fields: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let section = fields.entry(name).or_insert_with(|| json!({}));
    if section.is_null() {
        *section = json!({});
    }
    section.as_object_mut()
}

impl Address {
    fn json(&self) -> Value {
        json!({"type": self.kind, "address": self.text})
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
