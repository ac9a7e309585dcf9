//! The chart's resource definitions equal the Rust types. `UPDATE=1 cargo test -p ke-api` rewrites them.

use std::path::Path;

#[test]
fn chart_crds_equal_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/cloudcore/crds");
    let update = std::env::var_os("UPDATE").is_some();
    let mut expected_files = Vec::new();
    for crd in ke_api::crds() {
        let name = format!("{}.yaml", crd.metadata.name.clone().expect("every definition has a name"));
        // Through a `Value`, so that keys have one order whatever the structs' is.
        let value = serde_json::to_value(&crd).expect("a definition is JSON");
        let text = format!(
            "# Generated from proto/ke-api by `UPDATE=1 cargo test -p ke-api`; do not edit.\n{}",
            serde_saphyr::to_string(&value).expect("a definition is YAML")
        );
        let file = folder.join(&name);
        if update {
            std::fs::write(&file, &text).expect("write the definition");
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, text, "{name} is stale: run `UPDATE=1 cargo test -p ke-api`");
        expected_files.push(name);
    }
    for entry in std::fs::read_dir(&folder).expect("the folder of definitions exists") {
        let name = entry.expect("read the folder").file_name().to_string_lossy().into_owned();
        assert!(expected_files.contains(&name), "{name} belongs to no type: remove it");
    }
}

#[test]
fn nothing_here_brings_a_kubernetes_client() {
    // edgecore links this crate; the manifest must not ask for the client by name.
    let manifest = include_str!("../Cargo.toml");
    assert!(!manifest.contains("client"), "ke-api must do without kube's client");
}
