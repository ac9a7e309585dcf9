//! Pure: which of the devices that a node found become Devices, by the rules that DeviceModels carry.
//!
//! A model's annotations `discover.isthmus.io/<key>` are its rule: each is a regular expression that must match what the
//! mapper knows under that key (`id` and `node` are keys, too; capitals do not matter), and the mapper's protocol must be
//! the model's. Of several models the first takes the device, by namespace and name. A Device that was made so is never
//! deleted here: what is unplugged is offline. Called by `running.rs`.

use std::collections::BTreeMap;

use ke_wire::{DeviceId, DiscoveredDevice, Discovery, NodeName, Uid};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::object::{SeenDevice, SeenModel};

/// What annotations of a rule begin with.
pub(super) const RULE: &str = "discover.isthmus.io/";
/// Label of Devices that were made here.
const MADE: &str = "isthmus.io/discovered";
/// Annotation: the id that the mapper gave.
const FOUND_ID: &str = "isthmus.io/discovered-id";
/// Annotation: what the mapper knew of it.
const FOUND_DATA: &str = "isthmus.io/discovered-data";
/// More of one mapper are not looked at.
const MOST: usize = 1000;

/// What follows from what was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A Device is to be made.
    Create(DeviceId, Value),
    /// It is reached in another way now: to be merged into its `spec.protocol.configData`.
    Reach(DeviceId, Uid, Map<String, Value>),
}

/// A rule that can match nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRule {
    pub(super) model: DeviceId,
    pub(super) uid: Uid,
    /// For people: the annotation and what is wrong with it.
    pub(super) why: String,
}

struct Rule<'a> {
    model: &'a SeenModel,
    matches: Vec<(String, Regex)>,
    /// Of the model, in its order.
    properties: Vec<String>,
}

#[derive(Deserialize)]
struct ModelBody {
    metadata: Metadata,
    #[serde(default)]
    spec: ModelSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelSpec {
    protocol: String,
    properties: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// What is to be done about what a mapper of this node finds, and which rules cannot be used.
pub(super) fn steps<'a>(
    node: &NodeName,
    discovery: &Discovery,
    models: &[&SeenModel],
    device: impl Fn(&DeviceId) -> Option<&'a SeenDevice>,
) -> (Vec<Step>, Vec<BadRule>) {
    let (mut rules, mut bad) = (Vec::new(), Vec::new());
    for model in models {
        match rule(model, &discovery.protocol) {
            Ok(found) => rules.extend(found),
            Err(why) => {
                let (model, uid) = (model.stored.id.clone(), model.stored.uid.clone());
                bad.push(BadRule { model, uid, why });
            }
        }
    }
    let mut steps = Vec::new();
    for found in discovery.devices.iter().take(MOST).filter(|found| is_name(&found.id)) {
        let Some(rule) = rules.iter().find(|rule| rule.takes(found, node)) else { continue };
        let Some(id) = rule.device(found) else { continue };
        match device(&id) {
            None => steps.push(Step::Create(id.clone(), object(&id, rule, found, node, discovery))),
            Some(seen) => steps.extend(reached_anew(&id, seen, found, node)),
        }
    }
    (steps, bad)
}

/// The rule of a model of this protocol, if it has one.
fn rule<'a>(model: &'a SeenModel, protocol: &str) -> Result<Option<Rule<'a>>, String> {
    let Ok(body) = serde_json::from_slice::<ModelBody>(&model.stored.body) else { return Ok(None) };
    if body.spec.protocol != protocol {
        return Ok(None);
    }
    let mut matches = Vec::new();
    for (name, expression) in &body.metadata.annotations {
        let Some(key) = name.strip_prefix(RULE) else { continue };
        let expression = Regex::new(expression)
            .map_err(|why| format!("the annotation {name} is no regular expression: {why}"))?;
        matches.push((key.to_ascii_lowercase(), expression));
    }
    let properties = body.spec.properties.into_iter().map(|property| property.name).collect();
    Ok((!matches.is_empty()).then_some(Rule { model, matches, properties }))
}

impl Rule<'_> {
    fn takes(&self, found: &DiscoveredDevice, node: &NodeName) -> bool {
        self.matches.iter().all(|(key, expression)| {
            let known = match key.as_str() {
                "id" => Some(found.id.as_str()),
                "node" => Some(node.as_str()),
                _ => {
                    let mut data = found.data.iter();
                    data.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
                }
            };
            known.is_some_and(|known| expression.is_match(known))
        })
    }

    /// The name of the Device: it says what the thing is and where it was found.
    fn device(&self, found: &DiscoveredDevice) -> Option<DeviceId> {
        let id = &self.model.stored.id;
        let name = format!("{}-{}", id.name, found.id.to_ascii_lowercase());
        Some(DeviceId { namespace: id.namespace.clone(), name: name.parse().ok()? })
    }
}

/// What Kubernetes takes behind a model's name.
fn is_name(id: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&id.len()) && id.bytes().all(is_good) && !id.ends_with('-')
}

fn object(
    id: &DeviceId,
    rule: &Rule<'_>,
    found: &DiscoveredDevice,
    node: &NodeName,
    discovery: &Discovery,
) -> Value {
    let properties: Vec<Value> =
        rule.properties.iter().map(|name| json!({"name": name, "reportToCloud": true})).collect();
    let data = serde_json::to_string(&found.data).unwrap_or_default();
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {
            "name": id.name.as_str(),
            "namespace": id.namespace.as_str(),
            "labels": {MADE: "true"},
            "annotations": {FOUND_ID: found.id, FOUND_DATA: data},
        },
        "spec": {
            "deviceModelRef": {"name": rule.model.stored.id.name.as_str()},
            "nodeName": node.as_str(),
            "protocol": {"protocolName": discovery.protocol, "configData": found.config_data},
            "stateReport": {"reportToCloud": true, "reportCycle": 60_000},
            "properties": properties,
        },
    })
}

/// A Device of ours whose address changed. What people added to its settings stays; a Device of theirs is never touched, nor
/// one that another node reaches.
fn reached_anew(id: &DeviceId, seen: &SeenDevice, found: &DiscoveredDevice, node: &NodeName) -> Option<Step> {
    #[derive(Deserialize)]
    struct Body {
        metadata: Metadata,
        spec: Value,
    }
    let body = serde_json::from_slice::<Body>(&seen.stored.body).ok()?;
    let is_ours = body.metadata.labels.get(MADE).is_some_and(|made| made == "true")
        && body.metadata.annotations.get(FOUND_ID) == Some(&found.id)
        && seen.says.node == node.as_str();
    let held =
        body.spec.pointer("/protocol/configData").and_then(Value::as_object).cloned().unwrap_or_default();
    let is_new = |(key, value): &(&String, &Value)| held.get(*key) != Some(*value);
    let new: Map<String, Value> =
        found.config_data.iter().filter(is_new).map(|(key, value)| (key.clone(), value.clone())).collect();
    (is_ours && !new.is_empty()).then(|| Step::Reach(id.clone(), seen.stored.uid.clone(), new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, protocol: &str, rule: &[(&str, &str)]) -> SeenModel {
        let rule: Map<String, Value> =
            rule.iter().map(|(key, expression)| (format!("{RULE}{key}"), (*expression).into())).collect();
        SeenModel::new(json!({
            "metadata": {"name": name, "namespace": "plant", "uid": "u", "resourceVersion": "7", "annotations": rule},
            "spec": {"protocol": protocol, "properties": [{"name": "heat", "type": "FLOAT"}]},
        }))
        .unwrap()
    }

    fn found(id: &str, name: &str) -> DiscoveredDevice {
        DiscoveredDevice {
            id: id.into(),
            data: [("applicationname".to_owned(), name.to_owned())].into(),
            config_data: Map::from_iter([("url".to_owned(), "opc.tcp://10.0.0.1:4840".into())]),
        }
    }

    fn look(
        models: &[SeenModel],
        devices: &[DiscoveredDevice],
        held: Option<&SeenDevice>,
    ) -> (Vec<Step>, Vec<BadRule>) {
        let discovery = Discovery { protocol: "opcua".into(), devices: devices.to_vec() };
        let models: Vec<&SeenModel> = models.iter().collect();
        steps(&"edge-1".parse().unwrap(), &discovery, &models, |_| held)
    }

    #[test]
    fn rules() {
        let check = |rule: &[(&str, &str)], expected: &[&str]| {
            let devices = [
                found("a-1", "Press 3"),
                found("b-2", "Lathe"),
                found("no name", "Press"),
                found("", "Press"),
            ];
            let (steps, bad) = look(&[model("m", "opcua", rule)], &devices, None);
            assert!(bad.is_empty());
            let names: Vec<String> = steps
                .iter()
                .map(|step| match step {
                    Step::Create(id, _) => id.to_string(),
                    Step::Reach(..) => panic!("{step:?}"),
                })
                .collect();
            assert_eq!(names, expected, "{rule:?}");
        };
        check(&[], &[]);
        check(&[("applicationName", "^Press")], &["plant/m-a-1"]);
        check(&[("applicationName", "")], &["plant/m-a-1", "plant/m-b-2"]);
        check(&[("applicationName", "."), ("node", "^edge-1$")], &["plant/m-a-1", "plant/m-b-2"]);
        check(&[("applicationName", "."), ("node", "^edge-2$")], &[]);
        check(&[("id", "^b")], &["plant/m-b-2"]);
        check(&[("maker", ".*")], &[]);
    }

    #[test]
    fn a_bad_rule_is_told_and_stops_no_other() {
        let models = [model("a", "opcua", &[("id", "(")]), model("b", "opcua", &[("id", ".")])];
        let (steps, bad) = look(&models, &[found("x", "Press")], None);
        assert!(matches!(&steps[..], [Step::Create(id, _)] if id.to_string() == "plant/b-x"));
        assert_eq!(bad.len(), 1);
        assert!(bad[0].why.starts_with("the annotation discover.isthmus.io/id is no regular expression: "));
        // Of another protocol: not even read.
        assert_eq!(
            look(&[model("a", "modbus", &[("id", "(")])], &[found("x", "Press")], None),
            (vec![], vec![])
        );
    }

    #[test]
    fn what_is_made_is_whole_and_made_once() {
        let models = [model("m", "opcua", &[("id", ".")])];
        let (steps, _) = look(&models, &[found("A-1", "Press")], None);
        let [Step::Create(id, object)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(id.to_string(), "plant/m-a-1");
        assert_eq!(object["spec"]["protocol"]["configData"]["url"], "opc.tcp://10.0.0.1:4840");
        assert_eq!(object["spec"]["properties"], json!([{"name": "heat", "reportToCloud": true}]));
        assert_eq!(object["spec"]["nodeName"], "edge-1");
        let seen = |change: &dyn Fn(&mut Value)| {
            let mut held = object.clone();
            held["metadata"]["uid"] = "u".into();
            held["metadata"]["resourceVersion"] = "9".into();
            held["spec"]["protocol"]["configData"]["password"] = "p".into();
            change(&mut held);
            let seen = SeenDevice::new(held).unwrap();
            look(&models, &[found("A-1", "Press")], Some(&seen)).0
        };
        assert_eq!(seen(&|_| ()), []);
        let moved = |held: &mut Value| {
            held["spec"]["protocol"]["configData"]["url"] = "opc.tcp://10.0.0.9:4840".into()
        };
        let [Step::Reach(_, _, new)] = &seen(&moved)[..] else { panic!() };
        assert_eq!(Value::Object(new.clone()), json!({"url": "opc.tcp://10.0.0.1:4840"}));
        // Somebody's own, and one of another node.
        assert_eq!(seen(&|held| (moved(held), held["metadata"]["labels"] = json!({})).1), []);
        assert_eq!(seen(&|held| (moved(held), held["spec"]["nodeName"] = "edge-2".into()).1), []);
    }
}
