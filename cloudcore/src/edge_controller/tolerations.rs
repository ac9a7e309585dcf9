//! Pure: how long a Pod stays bound to an edge node that the control plane cannot see.
//!
//! Kubernetes gives each Pod 300 seconds and then deletes it, which on reconnect would kill what ran well all the time.
//! This module says how to change that; Kubernetes lets a Pod's tolerations only grow and their seconds change. What a
//! Pod's author wrote on purpose stays. Called by `placer.rs` for each Pod event; it talks to nobody.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use ke_wire::Version;
use serde_json::{Map, Value, json};

use super::observed::Observed;

/// Node annotation, OpenYurt's: how long this node's Pods stay, as a duration (`90s`, `1h30m`); `0` is for ever.
pub(super) const AUTONOMY: &str = "node.openyurt.io/autonomy-duration";
/// Pod annotation, OpenYurt's: with `true` this Pod stays for ever. A workload's template hands it to its Pods.
pub(super) const BINDING: &str = "apps.openyurt.io/binding";
/// Pod annotation, ours: what we have set (`forever` or seconds), so that we change our own word only.
pub(super) const SET: &str = "isthmus.io/toleration-seconds";

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// How long Pods stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until the node is back.
    Forever,
    /// So many seconds.
    Secs(u32),
}

/// What this cluster does with Pods that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// How long they stay, by our configuration.
    pub stay: Stay,
    /// What the API server's admission writes into them: not their author's word.
    pub admission_secs: i64,
}

impl Stay {
    /// From the configuration, where nothing is for ever.
    #[must_use]
    pub(super) fn from_secs(secs: Option<u32>) -> Self {
        secs.map_or(Self::Forever, Self::Secs)
    }

    /// From the node's annotation; `None` when it is no duration.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let duration = parse_duration(text.trim())?;
        if duration.is_zero() {
            return Some(Self::Forever);
        }
        // Rounded up: a shorter stay than asked for would be the surprise. More than fits is as good as for ever.
        let secs = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
        Some(u32::try_from(secs).map_or(Self::Forever, Self::Secs))
    }

    fn seconds(self) -> Option<i64> {
        match self {
            Self::Forever => None,
            Self::Secs(secs) => Some(secs.into()),
        }
    }

    fn mark(self) -> String {
        self.seconds().map_or_else(|| "forever".to_owned(), |secs| secs.to_string())
    }
}

/// A merge patch for a Pod that holds only for the version it was made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fix {
    /// The Pod's version.
    pub version: Version,
    /// The patch.
    pub patch: Value,
}

/// What to change in `pod`, on a node with this autonomy annotation.
/// `None`: nothing.
#[must_use]
pub(super) fn plan(pod: &Observed, autonomy: Option<&str>, policy: Policy) -> Option<Fix> {
    // A Pod that goes is not touched; a mirror of a static Pod cannot be changed.
    if pod.is_going() || pod.annotation("kubernetes.io/config.mirror").is_some() {
        return None;
    }
    let stay = if pod.annotation(BINDING) == Some("true") {
        Stay::Forever
    } else {
        autonomy.and_then(Stay::parse).unwrap_or(policy.stay)
    };
    let is_bound = pod.annotation(BINDING) == Some("true");
    let ours = pod.annotation(SET).map(|set| set.parse::<i64>().ok());
    let current = pod.object().pointer("/spec/tolerations").and_then(Value::as_array);
    let mut tolerations = current.cloned().unwrap_or_default();
    let mut changed = false;
    for taint in TAINTS {
        // Kubernetes goes by the first toleration that matches the taint.
        match tolerations.iter_mut().filter_map(Value::as_object_mut).find(|found| tolerates(found, taint)) {
            None => {
                tolerations.push(toleration(taint, stay));
                changed = true;
            }
            Some(found) => {
                let seconds = found.get("tolerationSeconds").and_then(Value::as_i64);
                let may_change = is_bound || ours == Some(seconds) || seconds == Some(policy.admission_secs);
                if may_change && seconds != stay.seconds() {
                    match stay.seconds() {
                        Some(secs) => found.insert("tolerationSeconds".to_owned(), secs.into()),
                        None => found.remove("tolerationSeconds"),
                    };
                    changed = true;
                }
            }
        }
    }
    changed.then(|| Fix {
        version: pod.version,
        patch: json!({
            "metadata": {
                "resourceVersion": pod.version.to_string(), "uid": pod.uid.as_str(),
                "annotations": {SET: stay.mark()},
            },
            "spec": {"tolerations": tolerations},
        }),
    })
}

/// How long the change of a Pod can wait: a young one's author should find it as he wrote it, with the generation that it was
/// made with. A fifth of what Kubernetes gives it is the most: should this process be gone by then, and the node too, the Pod
/// would be deleted, unless another cloudcore comes before.
#[must_use]
pub(super) fn wait(pod: &Observed, now: Timestamp, policy: Policy) -> Duration {
    let most = Duration::from_secs(u64::try_from(policy.admission_secs / 5).unwrap_or_default());
    let made = pod.object().pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let Some(made) = made.and_then(|made| made.parse::<Timestamp>().ok()) else { return Duration::ZERO };
    // A clock that goes behind the API server's counts as none passed.
    let age = Duration::try_from(now.duration_since(made)).unwrap_or_default();
    most.saturating_sub(age)
}

fn toleration(taint: &str, stay: Stay) -> Value {
    let mut toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute"});
    if let (Some(secs), Some(toleration)) = (stay.seconds(), toleration.as_object_mut()) {
        toleration.insert("tolerationSeconds".to_owned(), secs.into());
    }
    toleration
}

/// Whether this toleration answers the taint `taint:NoExecute`, which has no value.
fn tolerates(toleration: &Map<String, Value>, taint: &str) -> bool {
    let field = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
    let exists = field("operator") == "Exists";
    let key = field("key") == taint || (field("key").is_empty() && exists);
    let effect = matches!(field("effect"), "" | "NoExecute");
    key && effect && (exists || field("value").is_empty())
}

/// Go's duration text: numbers with units, no sign; a bare `0` too.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let (unit, after) = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .zip([1e-9, 1e-6, 1e-6, 1e-3, 1.0, 60.0, 3600.0])
            .find_map(|(name, unit)| {
                let after = after.strip_prefix(name)?;
                // `m` must not take the first half of `ms`.
                (!after.starts_with(|c: char| c.is_ascii_alphabetic())).then_some((unit, after))
            })?;
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use ke_wire::Kind;

    use super::*;

    fn pod(annotations: Value, tolerations: Value) -> Observed {
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "annotations": annotations}, "spec": {"nodeName": "e1", "tolerations": tolerations}});
        Observed::new(&Kind::Pod, object).unwrap()
    }

    fn tolerate(secs: [Option<i64>; 2]) -> Value {
        let each = TAINTS.iter().zip(secs).map(|(taint, secs)| match secs {
            Some(secs) => {
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": secs})
            }
            None => json!({"key": taint, "operator": "Exists", "effect": "NoExecute"}),
        });
        each.collect()
    }

    fn policy(stay: Stay) -> Policy {
        Policy { stay, admission_secs: 300 }
    }

    /// `expected`: the tolerations afterwards; `None` when nothing is to be done.
    fn check(
        annotations: Value,
        tolerations: Value,
        autonomy: Option<&str>,
        default: Stay,
        expected: Option<Value>,
    ) {
        let got = plan(&pod(annotations.clone(), tolerations.clone()), autonomy, policy(default));
        let got = got.map(|fix| fix.patch["spec"]["tolerations"].clone());
        assert_eq!(got, expected, "{annotations} {tolerations} {autonomy:?} {default:?}");
    }

    #[test]
    fn pods_stay_as_long_as_asked() {
        let (none, admission) = (json!({}), tolerate([Some(300), Some(300)]));
        let forever = tolerate([None, None]);
        let hour = tolerate([Some(3600), Some(3600)]);
        check(none.clone(), admission.clone(), None, Stay::Forever, Some(forever.clone()));
        check(none.clone(), admission.clone(), None, Stay::Secs(300), None);
        check(none.clone(), admission.clone(), None, Stay::Secs(3600), Some(hour.clone()));
        check(none.clone(), admission.clone(), Some("1h"), Stay::Forever, Some(hour.clone()));
        check(none.clone(), admission.clone(), Some("0"), Stay::Secs(3600), Some(forever.clone()));
        check(none.clone(), admission.clone(), Some("soon"), Stay::Forever, Some(forever.clone()));
        let bound = json!({BINDING: "true"});
        check(bound.clone(), admission.clone(), Some("1h"), Stay::Secs(60), Some(forever.clone()));
        check(json!({BINDING: "false"}), admission, Some("1h"), Stay::Secs(60), Some(hour.clone()));
        check(none, json!([]), None, Stay::Forever, Some(forever.clone()));
        check(bound, forever, None, Stay::Secs(60), None);
    }

    #[test]
    fn what_an_author_wrote_stays_and_our_own_word_changes() {
        let author = tolerate([Some(10), None]);
        check(json!({}), author, None, Stay::Forever, None);
        // DaemonSets tolerate everything for ever, some Pods with one line.
        check(json!({}), json!([{"operator": "Exists"}]), None, Stay::Secs(60), None);
        let ours = json!({SET: "3600"});
        let hour = tolerate([Some(3600), Some(3600)]);
        check(ours.clone(), hour, None, Stay::Forever, Some(tolerate([None, None])));
        let back = tolerate([Some(60), Some(60)]);
        check(json!({SET: "forever"}), tolerate([None, None]), None, Stay::Secs(60), Some(back));
        check(ours, tolerate([Some(10), Some(3600)]), None, Stay::Forever, Some(tolerate([Some(10), None])));
    }

    #[test]
    fn other_tolerations_are_kept_in_place_and_the_patch_holds_for_one_version() {
        let mut given =
            vec![json!({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"})];
        given.extend(tolerate([Some(300), Some(300)]).as_array().unwrap().clone());
        let fix = plan(&pod(json!({}), given.clone().into()), None, policy(Stay::Forever)).unwrap();
        assert_eq!(fix.patch["spec"]["tolerations"][0], given[0]);
        assert_eq!(fix.patch["metadata"]["resourceVersion"], "7");
        assert_eq!(fix.patch["metadata"]["annotations"][SET], "forever");
        let mirror = pod(json!({"kubernetes.io/config.mirror": "x"}), json!([]));
        assert_eq!(plan(&mirror, None, policy(Stay::Forever)), None);
    }

    #[test]
    fn a_young_pod_waits_for_a_fifth_of_its_stay() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let check = |made: Value, admission_secs: i64, expected: u64| {
            let mut pod =
                json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7"}});
            pod["metadata"]["creationTimestamp"] = made.clone();
            let pod = Observed::new(&Kind::Pod, pod).unwrap();
            let policy = Policy { admission_secs, ..policy(Stay::Forever) };
            assert_eq!(wait(&pod, now, policy), Duration::from_secs(expected), "{made}");
        };
        check(json!("2026-03-01T12:00:00Z"), 300, 60);
        check(json!("2026-03-01T11:59:10Z"), 300, 10);
        check(json!("2026-03-01T11:00:00Z"), 300, 0);
        check(json!("2026-03-01T13:00:00Z"), 300, 60);
        check(json!("2026-03-01T12:00:00Z"), 5, 1);
        check(json!("2026-03-01T12:00:00Z"), -1, 0);
        check(Value::Null, 300, 0);
    }

    #[test]
    fn durations_as_go_writes_them() {
        let check = |text: &str, expected: Option<Stay>| assert_eq!(Stay::parse(text), expected, "{text:?}");
        check("0", Some(Stay::Forever));
        check("0s", Some(Stay::Forever));
        check("90s", Some(Stay::Secs(90)));
        check("1h30m", Some(Stay::Secs(5400)));
        check("1.5h", Some(Stay::Secs(5400)));
        check("100ms", Some(Stay::Secs(1)));
        check("2m3s", Some(Stay::Secs(123)));
        check("9999999h", Some(Stay::Forever));
        check("", None);
        check("90", None);
        check("-1h", None);
        check("1d", None);
        check("h", None);
    }
}
