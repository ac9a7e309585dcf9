//! A device of either version opened, and cut into parts that an edit touches one by one. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::parts::{Entries, Object, WrongField, entries, member, object, put, put_members, without};

pub(super) const ALPHA_SPEC: &[&str] =
    &["deviceModelRef", "nodeSelector", "protocol", "propertyVisitors", "data"];
pub(super) const BETA_SPEC: &[&str] = &["deviceModelRef", "nodeName", "protocol", "properties"];
pub(super) const CYCLES: [&str; 2] = ["collectCycle", "reportCycle"];
pub(super) const VISITOR_HEAD: &[&str] = &["propertyName", "collectCycle", "reportCycle"];
pub(super) const PROPERTY: &[&str] =
    &["name", "desired", "visitors", "collectCycle", "reportCycle", "reportToCloud", "pushMethod"];

/// A v1alpha2 body, opened.
pub(super) struct Alpha<'a> {
    pub(super) top: &'a Object,
    pub(super) spec: Option<&'a Object>,
    pub(super) status: Option<&'a Object>,
    pub(super) visitors: Option<Entries<'a>>,
    pub(super) twins: Option<Entries<'a>>,
    pub(super) data: Option<&'a Object>,
    pub(super) data_names: BTreeSet<&'a str>,
}

/// A v1beta1 body, opened.
pub(super) struct Beta<'a> {
    pub(super) top: &'a Object,
    pub(super) spec: Option<&'a Object>,
    pub(super) status: Option<&'a Object>,
    pub(super) properties: Option<Entries<'a>>,
    pub(super) twins: Option<Entries<'a>>,
}

impl<'a> Alpha<'a> {
    pub(super) fn open(top: &'a Object) -> Result<Self, WrongField> {
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

    pub(super) fn parts(&self) -> Object {
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
    pub(super) fn properties(&self) -> Vec<(String, &'a str)> {
        let mut seen = BTreeSet::new();
        let lists = [&self.visitors, &self.twins];
        let listed = lists.into_iter().flatten().flat_map(|entries| &entries.list);
        let listed = listed.map(|entry| (entry.key.clone(), entry.name));
        let data = self.data_names.iter().map(|name| ((*name).to_owned(), *name));
        listed.chain(data).filter(|(key, _)| seen.insert(key.clone())).collect()
    }
}

impl<'a> Beta<'a> {
    pub(super) fn open(top: &'a Object) -> Result<Self, WrongField> {
        let spec = object(Some(top), "", "spec")?;
        let status = object(Some(top), "", "status")?;
        // A free object: what is no list of twins is somebody's own.
        let twins = entries(status, "status.", "twins", "propertyName").unwrap_or_default();
        let properties = entries(spec, "spec.", "properties", "name")?;
        Ok(Self { top, spec, status, properties, twins })
    }

    pub(super) fn parts(&self) -> Object {
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

    pub(super) fn property(&self, key: &str) -> Option<&'a Object> {
        self.properties.as_ref().and_then(|properties| properties.get(key))
    }

    /// The status without the twins of properties that exist. Twins of others, if any, stay: v1alpha2 cannot show them.
    pub(super) fn status_shell(&self) -> Value {
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

/// What a push method says besides the place of an MQTT push, and that place.
pub(super) fn split_push(push: &Value) -> (Value, Value) {
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

pub(super) fn join_push(rest: Value, target: Value) -> Value {
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
