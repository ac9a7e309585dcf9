//! What was said when cloudcore was installed or changed, as far as it is noted in the cluster: it holds until something else is
//! said. For init and upgrade cloud.

use serde_json::Value;

use super::takeover;
use crate::objects;

/// What holds unless flags say otherwise: a file of values. `config_map`: cloudcore's.
pub(super) fn below(config_map: Option<&Value>, is_forgotten: bool, say: &dyn Fn(&str)) -> Value {
    if is_forgotten {
        return Value::Null;
    }
    config_map.and_then(objects::remembered).unwrap_or_else(|| {
        // Written by `keadm manifest generate`, for one.
        say(
            "warning: what was said at the installation is not noted in the cluster: addresses, names, ports and durations \
             are those of the present cloudcore.yaml, all else is the default unless you say it now",
        );
        let text = config_map.and_then(|it| it.pointer("/data/cloudcore.yaml")?.as_str()).unwrap_or_default();
        takeover::carried_over(&serde_saphyr::from_str(text).unwrap_or_default())
    })
}

/// Keys of `below` that `now` says nothing of.
pub(super) fn silent_on(now: &Value, below: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    collect(Some(now), below, "", &mut keys);
    keys
}

fn collect(now: Option<&Value>, below: &Value, path: &str, keys: &mut Vec<String>) {
    match (now, below) {
        (now, Value::Object(members)) if now.is_none_or(Value::is_object) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(now.and_then(|now| now.get(key)), value, &path, keys);
            }
        }
        (None, _) => keys.push(path.to_owned()),
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_said_holds() {
        let check = |config_map: Value, is_forgotten: bool, expected: Value, n_warnings: usize| {
            let told = RefCell::new(0);
            let found = below(Some(&config_map), is_forgotten, &|_| *told.borrow_mut() += 1);
            assert_eq!((found, *told.borrow()), (expected, n_warnings), "{config_map}");
        };
        let said = json!({"cloudCore": {"replicaCount": 2}});
        let noted = json!({"metadata": {"annotations": {"isthmus.io/values": said.to_string()}}, "data": {}});
        check(noted.clone(), false, said, 0);
        check(noted, true, Value::Null, 0);
        let yaml = "modules:\n  cloudHub:\n    advertiseAddress: [192.0.2.1]\n    websocket: {port: 11000}\n";
        let hub = json!({"advertiseAddress": ["192.0.2.1"], "websocket": {"port": 11000}});
        let expected = json!({"cloudCore": {"modules": {"cloudHub": hub}}});
        check(json!({"data": {"cloudcore.yaml": yaml}}), false, expected, 1);
    }

    #[test]
    fn what_holds_though_it_was_not_said_is_named() {
        let check = |now: Value, expected: &[&str]| {
            let below = json!({"a": {"list": [1, 2], "b": {"c": 1}, "d": null}, "e": {}});
            assert_eq!(silent_on(&now, &below), expected, "{now}");
        };
        check(json!({}), &["a.b.c", "a.d", "a.list"]);
        check(json!({"a": {"list": [], "f": 1}}), &["a.b.c", "a.d"]);
        check(json!({"a": {"b": null, "d": 1}}), &["a.list"]);
        check(json!({"a": 1}), &[]);
    }
}
