//! A RuntimeClass, cut to what its nodes need of it: which of the runtime's handlers its Pods run under.
//!
//! Nodes ask when a Pod that names it starts. What it costs and where its Pods may run has been written into the Pods by
//! the API server. Called by `answers.rs`.

use serde_json::{Value, json};

/// It has no version: what comes last holds, and the node's queue waits for nothing.
#[must_use]
pub(super) fn cut(class: &Value) -> Value {
    let name = class.pointer("/metadata/name").cloned().unwrap_or_default();
    let handler = class.get("handler").cloned().unwrap_or_default();
    json!({
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": handler,
    })
}
