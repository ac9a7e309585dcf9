//! `docs/edged.md` says of every field that a Pod of this Kubernetes version has what becomes of it.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, EmptyDirVolumeSource, EnvVarSource, EphemeralContainer,
    ImageVolumeSource, Lifecycle, LifecycleHandler, PodSecurityContext, PodSpec, Probe, ResourceRequirements,
    SecurityContext, Volume, VolumeMount, VolumeProjection,
};
use schemars::{JsonSchema, Schema, schema_for};

#[test]
fn every_field_is_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/edged.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let words: Vec<&str> = page.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let check = |schema: Schema, n_at_least: usize| {
        let kind = schema.get("title").map(ToString::to_string).unwrap_or_default();
        let fields = schema.get("properties").and_then(|all| all.as_object()).expect("it has fields");
        assert!(fields.len() >= n_at_least, "{kind} has {} fields: is this its schema?", fields.len());
        let missing: Vec<_> = fields.keys().filter(|field| !words.contains(&field.as_str())).collect();
        assert!(missing.is_empty(), "docs/edged.md says nothing of {missing:?} of {kind}");
    };
    check(of::<PodSpec>(), 40);
    check(of::<Container>(), 24);
    check(of::<EphemeralContainer>(), 24);
    check(of::<SecurityContext>(), 12);
    check(of::<PodSecurityContext>(), 12);
    check(of::<Volume>(), 30);
    check(of::<VolumeMount>(), 7);
    check(of::<VolumeProjection>(), 6);
    check(of::<EmptyDirVolumeSource>(), 2);
    check(of::<ImageVolumeSource>(), 2);
    check(of::<Probe>(), 10);
    check(of::<Lifecycle>(), 3);
    check(of::<LifecycleHandler>(), 4);
    check(of::<EnvVarSource>(), 5);
    check(of::<ResourceRequirements>(), 3);
    check(of::<ContainerPort>(), 5);
    check(of::<Affinity>(), 3);
}

fn of<T: JsonSchema>() -> Schema {
    schema_for!(T)
}
