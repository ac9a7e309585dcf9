//! Pure: whether a Pod's node selector and required node affinity fit a Node.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// True without either.
pub(super) fn matches(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    // One term is enough; a list without any fits nothing.
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| fits(term, node)))
}

fn fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    // A term that asks for nothing fits nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| holds(wanted, label(&wanted.key)))
        && fields.iter().all(|wanted| holds(wanted, field(&wanted.key)))
}

fn holds(wanted: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_listed = || found.is_some_and(|found| values.iter().any(|value| value == found));
    let numbers = || Some((found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => numbers().is_some_and(|(found, bound)| found > bound),
        "Lt" => numbers().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn selectors_and_terms() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "edge-1", "labels": {"zone": "a", "cores": "8"}}}),
        )
        .unwrap();
        let check = |spec: Value, expected: bool| {
            let mut whole = spec.clone();
            whole["containers"] = json!([]);
            assert_eq!(matches(&serde_json::from_value(whole).unwrap(), &node), expected, "{spec}");
        };
        let terms = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let one = |key: &str, operator: &str, values: Value| {
            terms(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
        };
        check(json!({}), true);
        check(json!({"nodeSelector": {"zone": "a"}}), true);
        check(json!({"nodeSelector": {"zone": "b"}}), false);
        check(json!({"nodeSelector": {"none": ""}}), false);
        check(one("zone", "In", json!(["b", "a"])), true);
        check(one("zone", "NotIn", json!(["a"])), false);
        check(one("none", "NotIn", json!(["a"])), true);
        check(one("none", "Exists", json!([])), false);
        check(one("none", "DoesNotExist", json!([])), true);
        check(one("cores", "Gt", json!(["7"])), true);
        check(one("cores", "Lt", json!(["8"])), false);
        check(one("zone", "Gt", json!(["1"])), false);
        check(terms(json!([])), false);
        check(terms(json!([{}])), false);
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        check(terms(json!([name("edge-1")])), true);
        check(terms(json!([name("edge-2")])), false);
        check(terms(json!([name("edge-2"), name("edge-1")])), true);
    }
}
