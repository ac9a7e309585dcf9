//! Objects into a cluster: all that there are to be, whether they may be written, what writing one would change, and how it is
//! marked as keadm's. For init and upgrade cloud.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::fmt;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::cluster::{Cluster, MADE, Refused, Write, shown};
use crate::failure::Failure;
use crate::objects::{self, Values};

/// Tokens of service accounts that end, and everything else that cloudcore asks for, are there from this on.
const OLDEST: (u32, u32) = (1, 24);
/// All objects that there are to be, the namespace first, for whoever reads along. `said`: a file of values.
pub(crate) fn wanted(
    said: &Value,
    mut warnings: Vec<String>,
    say: &dyn Fn(&str),
) -> Result<Vec<Value>, Failure> {
    let (values, more) = Values::from_layers(std::slice::from_ref(said), &[]).map_err(Failure::Usage)?;
    warnings.extend(more);
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
    let mut all = objects::crds().map_err(Failure::Refused)?;
    all.extend(objects::objects(&values));
    objects::remember(&mut all, said);
    all.sort_by_key(|object| object["kind"] != "Namespace");
    Ok(all)
}

/// Whether the cluster is new enough.
pub(crate) fn look_at_version(cluster: &Cluster, say: &dyn Fn(&str)) -> Result<(), Failure> {
    let (major, minor, text) = cluster.version().map_err(|error| Failure::Refused(format!("{error:#}")))?;
    if (major, minor) < OLDEST {
        let (a, b) = OLDEST;
        return Err(Failure::Refused(format!(
            "{} runs Kubernetes {text}; cloudcore needs {a}.{b} or newer: upgrade the cluster first",
            cluster.server
        )));
    }
    say(&format!("ok: {} runs Kubernetes {text}", cluster.server));
    Ok(())
}

/// Refuses if this kubeconfig's user may not write one of them, or take it back.
pub(crate) fn may_write(cluster: &Cluster, all: &[Value]) -> Result<(), Failure> {
    may(cluster, all, &["get", "create", "patch", "delete"])
}

/// Refuses if this kubeconfig's user may not do all of this to one of them.
pub(crate) fn may(cluster: &Cluster, all: &[Value], verbs: &[&str]) -> Result<(), Failure> {
    let missing = missing(all, verbs, |verb, object| cluster.may(verb, object));
    let missing = missing.map_err(|error| Failure::Refused(format!("{error:#}")))?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "this kubeconfig's user may not do what this must do, and nothing was changed; use a cluster administrator's \
         (--kube-config FILE):\n  {}",
        missing.join("\n  ")
    )))
}

/// The first verb of each object that may not be.
fn missing(
    all: &[Value],
    verbs: &[&str],
    mut may: impl FnMut(&str, &Value) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for object in all {
        for verb in verbs {
            if !may(verb, object)? {
                missing.push(format!("{verb} {}", shown(object)));
                break;
            }
        }
    }
    Ok(missing)
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    /// It was not there.
    Create,
    Keep,
    Change,
    Remove,
}

impl fmt::Display for Became {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Keep => "keep",
            Self::Change => "change",
            Self::Remove => "remove",
        })
    }
}

pub(crate) fn changed(before: Option<&Value>, after: &Value) -> Became {
    // What is seen of an object apart from who wrote it when.
    let seen = |object: &Value| {
        let mut object = object.clone();
        for key in ["managedFields", "resourceVersion", "generation"] {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove(key);
            }
        }
        object
    };
    match before {
        None => Became::Create,
        Some(before) if seen(before) == seen(after) => Became::Keep,
        Some(_) => Became::Change,
    }
}

/// As it is written: others could have made some kinds, and what is in these is not ours to remove with them then.
pub(crate) fn marked(object: &Value, before: Option<&Value>) -> Value {
    let mut object = object.clone();
    let is_shared = object["kind"] == "Namespace" || object["kind"] == "CustomResourceDefinition";
    let was_made = before.is_none_or(|before| !before["metadata"]["annotations"][MADE].is_null());
    if is_shared && was_made {
        object["metadata"]["annotations"] = json!({MADE: "true"});
    }
    object
}

pub(crate) fn apply_one(cluster: &Cluster, object: &Value, how: Write) -> Result<Became> {
    let before = cluster.get(object)?;
    let after = write(cluster, &marked(object, before.as_ref()), how)?;
    Ok(changed(before.as_ref(), &after))
}

/// The same, but nothing is written. `before`: as it is. Errors: it would be refused.
pub(crate) fn try_one(
    cluster: &Cluster,
    object: &Value,
    before: Option<&Value>,
    how: Write,
) -> Result<Became> {
    // Not tried: its namespace or its kind may not be there yet.
    let Some(before) = before else { return Ok(Became::Create) };
    let after = write(cluster, &marked(object, Some(before)), how.tried())?;
    Ok(changed(Some(before), &after))
}

fn write(cluster: &Cluster, object: &Value, how: Write) -> Result<Value> {
    cluster.apply(object, how_of(object, how)).map_err(|refused| match refused {
        Refused::Conflict(why) => {
            anyhow!("{} was changed by somebody else: {why}; add --force to take that back", shown(object))
        }
        Refused::Other(error) => error,
    })
}

/// Definitions are only ever widened: whose they were does not matter.
fn how_of(object: &Value, how: Write) -> Write {
    match (object["kind"] == "CustomResourceDefinition", how) {
        (true, Write::Careful | Write::Over) => Write::Over,
        (true, Write::Try | Write::TryOver) => Write::TryOver,
        (false, how) => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_anybodys() {
        let check = |kind: &str, how: Write, expected: Write| {
            assert_eq!(how_of(&json!({"kind": kind}), how), expected, "{kind} {how:?}");
        };
        check("CustomResourceDefinition", Write::Careful, Write::Over);
        check("CustomResourceDefinition", Write::Try, Write::TryOver);
        check("Service", Write::Careful, Write::Careful);
        check("Service", Write::Try, Write::Try);
    }

    #[test]
    fn only_what_is_seen_is_a_change() {
        let object = |version: &str, replicas: u32| json!({"metadata": {"name": "a", "resourceVersion": version, "managedFields": [version]}, "spec": {"replicas": replicas}});
        assert_eq!(changed(None, &object("1", 1)), Became::Create);
        assert_eq!(changed(Some(&object("1", 1)), &object("2", 1)), Became::Keep);
        assert_eq!(changed(Some(&object("1", 1)), &object("2", 2)), Became::Change);
    }

    #[test]
    fn what_may_not_be_is_named() {
        let all = [json!({"kind": "Service", "metadata": {"name": "a"}}), json!({"kind": "Role"})];
        let check = |denied: &[&str], expected: &[&str]| {
            let found = missing(&all, &["get", "delete"], |verb, object| {
                Ok(!denied.contains(&format!("{verb} {}", object["kind"].as_str().unwrap()).as_str()))
            });
            assert_eq!(found.unwrap(), expected, "{denied:?}");
        };
        check(&[], &[]);
        check(&["delete Service"], &["delete Service a"]);
        check(&["get Service", "delete Service", "delete Role"], &["get Service a", "delete Role "]);
    }
}
