//! The release of held pods, at KubeEdge's paths: the body is the text `<namespace>/<pod>`, or the node's name or nothing.

use hyper::body::Bytes;
use ke_wire::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::Sources;
use super::refused::Refused;
use crate::edged::Which;

impl Sources {
    pub(super) async fn unhold_pod(&self, body: &Bytes) -> Result<Value, Refused> {
        let text = text(body)?;
        let bad = || Refused::bad(format!("the request is no <namespace>/<pod>: {text:?}"));
        let (namespace, name) = text.split_once('/').ok_or_else(bad)?;
        let (Ok(of), Ok(named)) = (namespace.parse(), name.parse()) else { return Err(bad()) };
        // Said by name where there is none.
        self.pod(namespace, name).await?;
        let released = self.release(Which::Pod(ObjectKey::namespaced(Kind::Pod, of, named))).await?;
        if released.is_empty() {
            return Err(Refused::conflict(format!("pod {name} is not held: there is nothing to release")));
        }
        Ok(told(&released))
    }

    pub(super) async fn unhold_node(&self, body: &Bytes) -> Result<Value, Refused> {
        let (wanted, node) = (text(body)?, self.holds.node().as_str());
        if !wanted.is_empty() && wanted != node {
            return Err(Refused::bad(format!("this node is {node}, not {wanted}")));
        }
        Ok(told(&self.release(Which::All).await?))
    }

    async fn release(&self, which: Which) -> Result<Vec<ObjectKey>, Refused> {
        let ended = || Refused::unavailable("edgecore is about to end; ask again".into());
        self.holds.release(which).await.ok_or_else(ended)
    }
}

/// KubeEdge sends bare text, keadm a JSON string.
fn text(body: &Bytes) -> Result<String, Refused> {
    let text = std::str::from_utf8(body).map_err(|_| Refused::bad("the request is no text".into()))?;
    Ok(text.trim().trim_matches('"').to_owned())
}

fn told(released: &[ObjectKey]) -> Value {
    let pods: Vec<Value> = released
        .iter()
        .map(|key| {
            let namespace = key.scope.namespace().map(ToString::to_string);
            json!({"namespace": namespace, "name": key.name.as_str()})
        })
        .collect();
    json!({"released": pods})
}
