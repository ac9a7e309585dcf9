//! Pure: files and `--set` laid over the chart's own values.yaml, as Helm does it, and what is wrong with them, with its key.

use serde_json::{Map, Value};

use super::values::Values;
use crate::set::lay_over;

/// The chart's file: the one place of the defaults.
const DEFAULTS: &str = include_str!("../../../charts/cloudcore/values.yaml");

impl Values {
    /// In: each file's content, a later one wins, and what `--set` says, which wins over all files. Out: also one sentence for
    /// each value that has no effect here although a KubeEdge user may count on it. Errors: one sentence with the key.
    pub(crate) fn from_layers(files: &[Value], sets: &[String]) -> Result<(Self, Vec<String>), String> {
        let defaults: Value = serde_saphyr::from_str(DEFAULTS)
            .map_err(|error| format!("read the chart's own values.yaml: {error}"))?;
        let said = Self::said(files, sets)?;
        let mut whole = defaults.clone();
        lay(&mut whole, said.clone(), Nulls::TakeAway);
        let values: Self = serde_json::from_value(whole)
            .map_err(|error| blame(&defaults, &said).unwrap_or_else(|| error.to_string()))?;
        let warnings = values.warnings();
        Ok((values, warnings))
    }

    /// Files and `--set` in one, without the defaults: as a file of values that says the same.
    pub(crate) fn said(files: &[Value], sets: &[String]) -> Result<Value, String> {
        let mut said = Value::Object(Map::new());
        for file in files.iter().filter(|file| !file.is_null()) {
            if !file.is_object() {
                return Err("a file of values must hold sections such as cloudCore".to_owned());
            }
            lay(&mut said, file.clone(), Nulls::Kept);
        }
        for set in sets {
            lay_over(&mut said, set)?;
        }
        Ok(said)
    }
}

#[derive(Clone, Copy)]
enum Nulls {
    Kept,
    /// A null takes away what is below it.
    TakeAway,
}

fn lay(below: &mut Value, above: Value, nulls: Nulls) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                match below.get_mut(&key) {
                    Some(_) if value.is_null() && matches!(nulls, Nulls::TakeAway) => {
                        below.remove(&key);
                    }
                    Some(found) => lay(found, value, nulls),
                    None => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (below, above) => *below = above,
    }
}

/// The first value that is refused with nothing else said, and why.
fn blame(defaults: &Value, said: &Value) -> Option<String> {
    each_leaf(said, &mut Vec::new()).into_iter().find_map(|path| {
        let (mut alone, mut whole) = (said.pointer(&pointer(&path))?.clone(), defaults.clone());
        for key in path.iter().rev() {
            alone = Value::Object(Map::from_iter([(key.clone(), alone)]));
        }
        lay(&mut whole, alone, Nulls::TakeAway);
        let error = serde_json::from_value::<Values>(whole).err()?;
        Some(format!("{}: {error}", path.join(".")))
    })
}

fn each_leaf(value: &Value, above: &mut Vec<String>) -> Vec<Vec<String>> {
    let mut leaves = Vec::new();
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, below) in members {
                above.push(key.clone());
                leaves.extend(each_leaf(below, above));
                above.pop();
            }
        }
        _ => leaves.push(above.clone()),
    }
    leaves
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
impl Default for Values {
    fn default() -> Self {
        Self::from_layers(&[], &[]).unwrap().0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_layers_win_and_nulls_take_away() {
        let file = |text: Value| json!({"cloudCore": text});
        let files = [
            file(json!({"replicaCount": 2, "labels": {"team": "edge"}, "nodeSelector": {"disk": "ssd"}})),
            Value::Null,
            file(json!({"replicaCount": 3, "affinity": null, "nodeSelector": {"arch": "arm"}})),
        ];
        let sets =
            ["cloudCore.replicaCount=4,cloudCore.modules.cloudHub.advertiseAddress={192.0.2.1}".to_owned()];
        let (values, warnings) = Values::from_layers(&files, &sets).unwrap();
        let core = &values.cloud_core;
        assert_eq!(core.replica_count.get(), 4);
        assert_eq!(core.node_selector.keys().collect::<Vec<_>>(), ["arch", "disk"]);
        assert!(core.affinity.is_empty() && !core.security_context.is_empty());
        assert_eq!(
            json!(core.labels),
            json!({"k8s-app": "kubeedge", "kubeedge": "cloudcore", "team": "edge"})
        );
        assert_eq!(json!(core.modules.cloud_hub.advertise_address), json!(["192.0.2.1"]));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_is_refused_is_named() {
        let check = |file: Value, expected: &str| {
            let error = Values::from_layers(&[file], &[]).unwrap_err();
            assert!(error.contains(expected), "expected {expected}: {error}");
        };
        check(json!({"cloudcore": {"replicaCount": 2}}), "cloudcore.replicaCount: unknown field `cloudcore`");
        check(json!({"cloudCore": {"replicas": 2}}), "cloudCore.replicas: unknown field `replicas`");
        check(json!({"cloudCore": {"modules": {"router": null}}}), "cloudCore.modules.router: missing field");
        check(
            json!({"cloudCore": {"replicaCount": 2, "modules": {"cloudHub": {"https": {"port": 70000}}}}}),
            "cloudCore.modules.cloudHub.https.port: invalid value: integer `70000`, expected a whole number from 1 to 65535",
        );
        check(json!({"cloudCore": "all"}), "cloudCore: invalid type");
        check(json!({"cloudCore": {"labels": {"kubeedge": "mine"}}}), "cloudCore.labels.kubeedge: the label");
        check(json!(["cloudCore"]), "must hold sections");
        let set = Values::from_layers(&[], &["cloudCore.logging.level=loud".to_owned()]).unwrap_err();
        assert!(set.starts_with("cloudCore.logging.level: "), "{set}");
    }
}
