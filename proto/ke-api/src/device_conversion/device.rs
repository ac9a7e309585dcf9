//! Device: v1alpha2 has visitors, twins and data apart from each other, v1beta1 one list of properties. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::faithful::{Direction, Shapes};
use super::parts::{
    Entries, Object, WrongField, arrange, entries, kept_object, member, object, put, put_members, restored,
    without,
};
use super::settings;

const ALPHA_SPEC: &[&str] = &["deviceModelRef", "nodeSelector", "protocol", "propertyVisitors", "data"];
const BETA_SPEC: &[&str] = &["deviceModelRef", "nodeName", "protocol", "properties"];
const CYCLES: [&str; 2] = ["collectCycle", "reportCycle"];
const VISITOR_HEAD: &[&str] = &["propertyName", "collectCycle", "reportCycle"];
const PROPERTY: &[&str] =
    &["name", "desired", "visitors", "collectCycle", "reportCycle", "reportToCloud", "pushMethod"];

/// Where values of `data` went: the broker of the node.
const LOCAL_BROKER: &str = "tcp://127.0.0.1:1883";
/// What an absent `dataTopic` means; `+` is the device.
const DATA_TOPIC: &str = "$ke/events/device/+/data/update";

pub(super) struct Device<'a> {
    /// Namespace and name, for the topic of its data.
    pub(super) id: &'a str,
}

/// A v1alpha2 body, opened.
struct Alpha<'a> {
    top: &'a Object,
    spec: Option<&'a Object>,
    status: Option<&'a Object>,
    visitors: Option<Entries<'a>>,
    twins: Option<Entries<'a>>,
    data: Option<&'a Object>,
    data_names: BTreeSet<&'a str>,
}

/// A v1beta1 body, opened.
struct Beta<'a> {
    top: &'a Object,
    spec: Option<&'a Object>,
    status: Option<&'a Object>,
    properties: Option<Entries<'a>>,
    twins: Option<Entries<'a>>,
}

impl Shapes for Device<'_> {
    fn build(&self, to: Direction, given: &Object, kept: &Object) -> Result<Object, WrongField> {
        match to {
            Direction::ToBeta => Ok(self.beta(&Alpha::open(given)?, kept)),
            Direction::ToAlpha => Ok(self.alpha(&Beta::open(given)?, kept)),
        }
    }

    fn parts(&self, to: Direction, given: &Object) -> Result<Object, WrongField> {
        match to {
            Direction::ToBeta => Ok(Alpha::open(given)?.parts()),
            Direction::ToAlpha => Ok(Beta::open(given)?.parts()),
        }
    }
}

impl<'a> Alpha<'a> {
    fn open(top: &'a Object) -> Result<Self, WrongField> {
        let spec = object(Some(top), "", "spec")?;
        let status = object(Some(top), "", "status")?;
        let data = object(spec, "spec.", "data")?;
        let data_names = entries(data, "spec.data.", "dataProperties", "propertyName")?.unwrap_or_default();
        Ok(Self {
            top,
            spec,
            status,
            visitors: entries(spec, "spec.", "propertyVisitors", "propertyName")?,
            twins: entries(status, "status.", "twins", "propertyName")?,
            data,
            data_names: data_names.list.iter().map(|entry| entry.name).collect(),
        })
    }

    fn parts(&self) -> Object {
        let mut parts = Object::new();
        put_members(&mut parts, "top", without(Some(self.top), &["spec", "status"]));
        put_members(&mut parts, "spec", without(self.spec, ALPHA_SPEC));
        for name in ["nodeSelector", "protocol", "data"] {
            put(&mut parts, name, member(self.spec, name));
        }
        if let Some(visitors) = &self.visitors {
            parts.insert("visitorOrder".to_owned(), visitors.keys());
            for visitor in &visitors.list {
                let rest = Value::Object(without(Some(visitor.members), VISITOR_HEAD));
                parts.insert(format!("visitors/{}", visitor.key), rest);
                for cycle in CYCLES {
                    put(
                        &mut parts,
                        &format!("{cycle}/{}", visitor.key),
                        member(Some(visitor.members), cycle),
                    );
                }
            }
        }
        if let Some(twins) = &self.twins {
            parts.insert("twinOrder".to_owned(), twins.keys());
            for twin in &twins.list {
                let rest = without(Some(twin.members), &["desired", "reported"]);
                parts.insert(format!("twins/{}", twin.key), Value::Object(rest));
            }
        }
        put_members(&mut parts, "status", without(self.status, &["twins"]));
        parts
    }

    /// Key and name of every property that is mentioned anywhere, in the order of mention.
    fn properties(&self) -> Vec<(String, &'a str)> {
        let mut seen = BTreeSet::new();
        let lists = [&self.visitors, &self.twins];
        let listed = lists.into_iter().flatten().flat_map(|entries| &entries.list);
        let listed = listed.map(|entry| (entry.key.clone(), entry.name));
        let data = self.data_names.iter().map(|name| ((*name).to_owned(), *name));
        listed.chain(data).filter(|(key, _)| seen.insert(key.clone())).collect()
    }
}

impl<'a> Beta<'a> {
    fn open(top: &'a Object) -> Result<Self, WrongField> {
        let spec = object(Some(top), "", "spec")?;
        let status = object(Some(top), "", "status")?;
        // A free object: what is no list of twins is somebody's own.
        let twins = entries(status, "status.", "twins", "propertyName").unwrap_or_default();
        let properties = entries(spec, "spec.", "properties", "name")?;
        Ok(Self { top, spec, status, properties, twins })
    }

    fn parts(&self) -> Object {
        let mut parts = Object::new();
        put_members(&mut parts, "top", without(Some(self.top), &["spec", "status"]));
        put_members(&mut parts, "spec", without(self.spec, BETA_SPEC));
        for name in ["nodeName", "protocol"] {
            put(&mut parts, name, member(self.spec, name));
        }
        if let Some(properties) = &self.properties {
            parts.insert("order".to_owned(), properties.keys());
            for property in &properties.list {
                let key = &property.key;
                put_members(
                    &mut parts,
                    &format!("property/{key}"),
                    without(Some(property.members), PROPERTY),
                );
                for name in ["visitors", "collectCycle", "reportCycle", "reportToCloud"] {
                    put(&mut parts, &format!("{name}/{key}"), member(Some(property.members), name));
                }
                let (push, target) = split_push(&member(Some(property.members), "pushMethod"));
                put(&mut parts, &format!("push/{key}"), push);
                put(&mut parts, &format!("pushTarget/{key}"), target);
            }
        }
        let mut order = Vec::new();
        for twin in self.twins.iter().flat_map(|twins| &twins.list) {
            if self.property(&twin.key).is_some() {
                order.push(Value::from(twin.key.as_str()));
                let rest = without(Some(twin.members), &["propertyName", "reported"]);
                parts.insert(format!("twin/{}", twin.key), Value::Object(rest));
            }
        }
        if !order.is_empty() {
            parts.insert("twinOrder".to_owned(), Value::Array(order));
        }
        put(&mut parts, "status", self.status_shell());
        parts
    }

    fn property(&self, key: &str) -> Option<&'a Object> {
        self.properties.as_ref().and_then(|properties| properties.get(key))
    }

    /// The status without the twins of properties that exist. Twins of others, if any, stay: v1alpha2 cannot show them.
    fn status_shell(&self) -> Value {
        let Some(status) = self.status else { return Value::Null };
        let Some(twins) = &self.twins else { return Value::Object(status.clone()) };
        let mut shell = without(Some(status), &["twins"]);
        let others = twins.list.iter().filter(|twin| self.property(&twin.key).is_none());
        let others: Vec<Value> = others.map(|twin| Value::Object(twin.members.clone())).collect();
        if twins.list.is_empty() || !others.is_empty() {
            shell.insert("twins".to_owned(), Value::Array(others));
        }
        Value::Object(shell)
    }
}

impl Device<'_> {
    fn beta(&self, alpha: &Alpha<'_>, kept: &Object) -> Object {
        let mut spec = kept_object(kept, "spec", BETA_SPEC);
        put(&mut spec, "deviceModelRef", member(alpha.spec, "deviceModelRef"));
        let selector = member(alpha.spec, "nodeSelector");
        let node = restored(
            kept.get("nodeName"),
            Value::is_string,
            &selector,
            settings::node_selector,
            settings::node_name,
        );
        put(&mut spec, "nodeName", node);
        let protocol = restored(
            kept.get("protocol"),
            Value::is_object,
            &member(alpha.spec, "protocol"),
            settings::protocol_to_alpha,
            settings::protocol_to_beta,
        );
        put(&mut spec, "protocol", protocol);
        let mut properties = alpha.properties();
        arrange(&mut properties, kept.get("order"), |(key, _)| key);
        let properties: Vec<Value> =
            properties.iter().map(|(key, name)| self.beta_property(alpha, key, name, kept)).collect();
        if !properties.is_empty() || alpha.visitors.is_some() {
            spec.insert("properties".to_owned(), Value::Array(properties));
        }
        let mut beta = kept_object(kept, "top", &["spec", "status"]);
        if alpha.spec.is_some() || !spec.is_empty() {
            beta.insert("spec".to_owned(), Value::Object(spec));
        }
        put(&mut beta, "status", beta_status(alpha, kept));
        beta
    }

    fn beta_property(&self, alpha: &Alpha<'_>, key: &str, name: &str, kept: &Object) -> Value {
        let mut property = kept_object(kept, &format!("property/{key}"), PROPERTY);
        property.insert("name".to_owned(), name.into());
        let visitor = alpha.visitors.as_ref().and_then(|visitors| visitors.get(key));
        let settings = visitor.map_or(Value::Null, |found| Value::Object(without(Some(found), VISITOR_HEAD)));
        let visitors = restored(
            kept.get(&format!("visitors/{key}")),
            Value::is_object,
            &settings,
            settings::visitor_to_alpha,
            settings::visitor_to_beta,
        );
        put(&mut property, "visitors", visitors);
        for cycle in CYCLES {
            let kept = kept.get(&format!("{cycle}/{key}"));
            let given = member(visitor, cycle);
            put(
                &mut property,
                cycle,
                restored(kept, Value::is_number, &given, Value::clone, settings::cycle_to_beta),
            );
        }
        let twin = alpha.twins.as_ref().and_then(|twins| twins.get(key));
        let desired = member(twin, "desired");
        // Whoever lists a property as a twin wants it reported, unless it is listed for another reason.
        let has_reason = !desired.is_null() || reported(twin, &format!("twin/{key}"), kept).is_some();
        let report = match kept.get(&format!("reportToCloud/{key}")) {
            Some(kept @ (Value::Null | Value::Bool(_))) if twin.is_none() || has_reason => kept.clone(),
            _ if twin.is_some() => Value::Bool(true),
            _ => Value::Null,
        };
        put(&mut property, "reportToCloud", report);
        put(&mut property, "desired", desired);
        let target = if key == name && alpha.data_names.contains(name) {
            self.data_target(alpha.data)
        } else {
            let kept = kept.get(&format!("pushTarget/{key}"));
            kept.filter(|kept| kept.is_object()).cloned().unwrap_or_default()
        };
        let push = kept.get(&format!("push/{key}")).cloned().unwrap_or_default();
        put(&mut property, "pushMethod", join_push(push, target));
        Value::Object(property)
    }

    fn alpha(&self, beta: &Beta<'_>, kept: &Object) -> Object {
        let mut spec = kept_object(kept, "spec", ALPHA_SPEC);
        put(&mut spec, "deviceModelRef", member(beta.spec, "deviceModelRef"));
        let selector = restored(
            kept.get("nodeSelector"),
            Value::is_object,
            &member(beta.spec, "nodeName"),
            settings::node_name,
            settings::node_selector,
        );
        put(&mut spec, "nodeSelector", selector);
        let protocol = restored(
            kept.get("protocol"),
            Value::is_object,
            &member(beta.spec, "protocol"),
            settings::protocol_to_beta,
            settings::protocol_to_alpha,
        );
        put(&mut spec, "protocol", protocol);
        let (data, data_names) = self.alpha_data(beta, kept);
        put(&mut spec, "data", data);

        let (mut visitors, mut twins) = (Vec::new(), Vec::new());
        for property in beta.properties.iter().flat_map(|properties| &properties.list) {
            let (key, name) = (property.key.as_str(), property.name);
            let twin = alpha_twin(beta, key, name, property.members, kept);
            let in_data = key == name && data_names.contains(name);
            let visitor = alpha_visitor(key, name, property.members, kept);
            // Every property is somewhere, so that one that is nowhere was removed on purpose.
            if let Some(visitor) = visitor {
                visitors.push((key, visitor));
            } else if twin.is_none() && !in_data {
                visitors.push((key, json!({"propertyName": name})));
            }
            twins.extend(twin.map(|twin| (key, twin)));
        }
        arrange(&mut visitors, kept.get("visitorOrder"), |(key, _)| key);
        arrange(&mut twins, kept.get("twinOrder"), |(key, _)| key);
        let had_properties = beta.properties.as_ref().is_some_and(|properties| !properties.list.is_empty());
        if !visitors.is_empty() || (beta.properties.is_some() && !had_properties) {
            let visitors = visitors.into_iter().map(|(_, visitor)| visitor).collect();
            spec.insert("propertyVisitors".to_owned(), visitors);
        }

        let mut alpha = kept_object(kept, "top", &["spec", "status"]);
        if beta.spec.is_some() || !spec.is_empty() {
            alpha.insert("spec".to_owned(), Value::Object(spec));
        }
        let mut status = kept_object(kept, "status", &["twins"]);
        if !twins.is_empty() || beta.twins.is_some() {
            status.insert("twins".to_owned(), twins.into_iter().map(|(_, twin)| twin).collect());
        }
        if beta.status.is_some() || !status.is_empty() {
            alpha.insert("status".to_owned(), Value::Object(status));
        }
        alpha
    }

    /// `data` as it was, without properties that no longer go to its topic, and the names of those that do.
    fn alpha_data<'a>(&self, beta: &Beta<'a>, kept: &Object) -> (Value, BTreeSet<&'a str>) {
        let Some(Value::Object(data)) = kept.get("data") else { return (Value::Null, BTreeSet::new()) };
        let target = self.data_target(Some(data));
        let goes = |property: &Object| split_push(&member(Some(property), "pushMethod")).1 == target;
        let properties = beta.properties.iter().flat_map(|properties| &properties.list);
        let first = properties.filter(|property| property.key == property.name && goes(property.members));
        let mut names: BTreeSet<&str> = first.map(|property| property.name).collect();
        let mut data = data.clone();
        let mut listed = BTreeSet::new();
        if let Some(Value::Array(list)) = data.get_mut("dataProperties") {
            let had_some = !list.is_empty();
            list.retain(|entry| {
                let name = entry.get("propertyName").and_then(Value::as_str).unwrap_or_default();
                listed.insert(name.to_owned());
                names.contains(name)
            });
            if had_some && list.is_empty() {
                return (Value::Null, BTreeSet::new());
            }
        }
        names.retain(|name| listed.contains(*name));
        (Value::Object(data), names)
    }

    /// Where `data` goes, in words of v1beta1. A topic to publish to has no wildcard.
    fn data_target(&self, data: Option<&Object>) -> Value {
        let topic = data.and_then(|data| data.get("dataTopic")).and_then(Value::as_str);
        let topic = topic.filter(|topic| !topic.is_empty()).unwrap_or(DATA_TOPIC);
        json!({"address": LOCAL_BROKER, "topic": topic.replacen('+', self.id, 1)})
    }
}

/// The twin of v1beta1's status that belongs to this one of v1alpha2; `None` when there is none.
fn reported(twin: Option<&Object>, part: &str, kept: &Object) -> Option<Object> {
    let twin = twin?;
    let value = member(Some(twin), "reported");
    if value.is_null() && !kept.get(part).is_some_and(Value::is_object) {
        return None;
    }
    let mut found = kept_object(kept, part, &["propertyName", "reported"]);
    put(&mut found, "propertyName", member(Some(twin), "propertyName"));
    put(&mut found, "reported", value);
    Some(found)
}

fn beta_status(alpha: &Alpha<'_>, kept: &Object) -> Value {
    let twins = alpha.twins.as_ref();
    let mut found: Vec<(&str, Value)> = Vec::new();
    for twin in twins.iter().flat_map(|twins| &twins.list) {
        let one = reported(Some(twin.members), &format!("twin/{}", twin.key), kept);
        found.extend(one.map(|one| (twin.key.as_str(), Value::Object(one))));
    }
    arrange(&mut found, kept.get("twinOrder"), |(key, _)| key);
    let mut found: Vec<Value> = found.into_iter().map(|(_, twin)| twin).collect();
    let mut status = match (kept.get("status"), alpha.status) {
        (Some(Value::Object(shell)), _) => shell.clone(),
        (_, Some(_)) if twins.is_none() => Object::new(),
        (_, Some(_)) if twins.is_some_and(|twins| twins.list.is_empty()) => {
            Object::from_iter([("twins".to_owned(), json!([]))])
        }
        _ if found.is_empty() => return Value::Null,
        _ => Object::new(),
    };
    if !found.is_empty() {
        if let Some(Value::Array(others)) = status.remove("twins") {
            found.extend(others);
        }
        status.insert("twins".to_owned(), Value::Array(found));
    }
    Value::Object(status)
}

fn alpha_twin(beta: &Beta<'_>, key: &str, name: &str, property: &Object, kept: &Object) -> Option<Value> {
    let status = beta.twins.as_ref().and_then(|twins| twins.get(key));
    let desired = member(Some(property), "desired");
    let kept = kept.get(&format!("twins/{key}")).and_then(Value::as_object);
    let reports = property.get("reportToCloud") == Some(&Value::Bool(true));
    if desired.is_null() && !reports && status.is_none() && kept.is_none() {
        return None;
    }
    let mut twin =
        kept.cloned().unwrap_or_else(|| Object::from_iter([("propertyName".to_owned(), name.into())]));
    put(&mut twin, "desired", desired);
    put(&mut twin, "reported", member(status, "reported"));
    Some(Value::Object(twin))
}

/// `None` when the property says nothing of how it is reached.
fn alpha_visitor(key: &str, name: &str, property: &Object, kept: &Object) -> Option<Value> {
    let settings = restored(
        kept.get(&format!("visitors/{key}")),
        Value::is_object,
        &member(Some(property), "visitors"),
        settings::visitor_to_beta,
        settings::visitor_to_alpha,
    );
    let mut says_something = !settings.is_null();
    let mut visitor = match settings {
        Value::Object(settings) => settings,
        _ => Object::new(),
    };
    visitor.insert("propertyName".to_owned(), name.into());
    for cycle in CYCLES {
        let kept = kept.get(&format!("{cycle}/{key}"));
        let given = member(Some(property), cycle);
        let value = restored(kept, Value::is_number, &given, settings::cycle_to_beta, Value::clone);
        says_something |= !value.is_null();
        put(&mut visitor, cycle, value);
    }
    says_something.then_some(Value::Object(visitor))
}

/// What a push method says besides the place of an MQTT push, and that place.
fn split_push(push: &Value) -> (Value, Value) {
    let Value::Object(push) = push else { return (Value::Null, Value::Null) };
    let Some(Value::Object(mqtt)) = push.get("mqtt") else {
        return (Value::Object(push.clone()), Value::Null);
    };
    let mut target = mqtt.clone();
    target.retain(|name, _| ["address", "topic"].contains(&name.as_str()));
    if target.is_empty() {
        return (Value::Object(push.clone()), Value::Null);
    }
    let mut rest = without(Some(push), &["mqtt"]);
    put_members(&mut rest, "mqtt", without(Some(mqtt), &["address", "topic"]));
    let rest = if rest.is_empty() { Value::Null } else { Value::Object(rest) };
    (rest, Value::Object(target))
}

fn join_push(rest: Value, target: Value) -> Value {
    let Value::Object(target) = target else { return rest };
    let mut push = match rest {
        Value::Object(rest) => rest,
        _ => Object::new(),
    };
    let mut mqtt = match push.remove("mqtt") {
        Some(Value::Object(mqtt)) => mqtt,
        _ => Object::new(),
    };
    mqtt.extend(target);
    push.insert("mqtt".to_owned(), Value::Object(mqtt));
    Value::Object(push)
}
