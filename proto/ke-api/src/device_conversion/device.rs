//! Device: v1alpha2 has visitors, twins and data apart from each other, v1beta1 one list of properties. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::device_parts::{
    ALPHA_SPEC, Alpha, BETA_SPEC, Beta, CYCLES, PROPERTY, VISITOR_HEAD, join_push, split_push,
};
use super::faithful::{Direction, Shapes};
use super::parts::{Object, WrongField, arrange, kept_object, member, put, restored, without};
use super::settings;

/// Where values of `data` went: the broker of the node.
const LOCAL_BROKER: &str = "tcp://127.0.0.1:1883";
/// What an absent `dataTopic` means; `+` is the device.
const DATA_TOPIC: &str = "$ke/events/device/+/data/update";

pub(super) struct Device<'a> {
    /// Namespace and name, for the topic of its data.
    pub(super) id: &'a str,
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
