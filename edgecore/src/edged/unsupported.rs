//! Pure: what a Pod asks for that no part of edged can give, in a sentence for its status. Such a Pod is refused: running it
//! as if it had asked for nothing would be the worst answer.

use k8s_openapi::api::core::v1::Pod;

/// Kubernetes' word for a Pod that needs something its node does not have.
pub(super) const FEATURE_UNSUPPORTED: &str = "PodFeatureUnsupported";

/// Why a Pod is refused that wants no groups but its own, on a runtime that adds those of its image.
pub(super) const NO_GROUPS_POLICY: &str = "SupplementalGroupsPolicyNotSupported";
pub(super) const NO_STRICT_GROUPS: &str = "SupplementalGroupsPolicy=Strict is not supported in this node";

/// Why this Pod cannot run here; `None` if nothing speaks against it.
pub(super) fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let claim = spec.resource_claims.iter().flatten().next().map(|claim| claim.name.as_str());
    let inits = spec.init_containers.iter().flatten();
    let of_container = inits.chain(&spec.containers).find_map(|container| {
        let claims = container.resources.as_ref()?.claims.as_ref()?;
        claims.first().map(|claim| (container.name.as_str(), claim.name.as_str()))
    });
    let field = match (claim, of_container) {
        (_, Some((container, claim))) => {
            format!("spec.containers{{{container}}}.resources.claims names {claim:?}")
        }
        (Some(claim), None) => format!("spec.resourceClaims names {claim:?}"),
        (None, None) => return None,
    };
    Some(format!(
        "{field}, but this node has no dynamic resource allocation; ask for an extended resource of a device plugin"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn claims_are_refused_by_their_name() {
        let check = |spec: Value, expected: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let why = unsupported(&pod);
            assert_eq!(why.is_some(), expected.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().starts_with(expected.unwrap_or_default()));
        };
        check(json!({"containers": [{"name": "main"}]}), None);
        check(json!({"containers": [{"name": "main", "resources": {"limits": {"cpu": "1"}}}]}), None);
        check(
            json!({"containers": [{"name": "main"}], "resourceClaims": [{"name": "gpu"}]}),
            Some("spec.resourceClaims names \"gpu\", but"),
        );
        check(
            json!({"containers": [{"name": "main", "resources": {"claims": [{"name": "gpu"}]}}],
                   "resourceClaims": [{"name": "gpu"}]}),
            Some("spec.containers{main}.resources.claims names \"gpu\", but"),
        );
    }
}
