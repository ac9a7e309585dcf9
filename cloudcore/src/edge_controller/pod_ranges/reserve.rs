//! A range is somebody's by a Lease that bears its name: the API server makes an object of a name once, whoever asks.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use ke_api::pod_network::POD_RANGE;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::json;

use super::plan::{Asking, word};
use crate::namespace::NAMESPACE;
use crate::ranges::Range;

/// A Lease that is removed by somebody else may be made anew by a third one, and so on; not often.
const TRIES: u32 = 5;

/// Whose a range is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// This node's, perhaps since an earlier try.
    ForNode,
    /// Another node's.
    ByOther,
}

/// Keeps a range for a node.
pub(super) async fn reserve(client: &kube::Client, range: &Range, node: &Asking) -> kube::Result<Reserved> {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    for _ in 0..TRIES {
        match leases.create(&PostParams::default(), &lease(range, node)).await {
            Ok(_) => return Ok(Reserved::ForNode),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(cause) => return Err(cause),
        }
        let Some(held) = leases.get_opt(&name(range)).await? else { continue };
        let owner = held.metadata.owner_references.as_ref().and_then(|owners| owners.first());
        if owner.is_some_and(|owner| owner.uid == node.uid) {
            return Ok(Reserved::ForNode);
        }
        // Its Node was made before it; one that is not there now is no more, and the garbage collector only slow. A Lease without
        // a Node was made by hand, to keep a range free.
        let Some(owner) = owner else { return Ok(Reserved::ByOther) };
        let there = Api::<Node>::all(client.clone()).get_metadata_opt(&owner.name).await?;
        if there.is_some_and(|there| there.metadata.uid.as_ref() == Some(&owner.uid)) {
            return Ok(Reserved::ByOther);
        }
        remove(&leases, range, held.metadata.uid).await?;
    }
    Ok(Reserved::ByOther)
}

/// Gives back what [`reserve`] got, if it is still this node's.
pub(super) async fn release(client: &kube::Client, range: &Range, node: &Asking) -> kube::Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let Some(held) = leases.get_opt(&name(range)).await? else { return Ok(()) };
    let owners = held.metadata.owner_references.unwrap_or_default();
    // A second cloudcore that gave this node this range: the Node has it, and so the Lease stays.
    let node_now = Api::<Node>::all(client.clone()).get_opt(&node.name).await?;
    let has_it = node_now.is_some_and(|node| word(&node, POD_RANGE) == Some(&*range.to_string()));
    if has_it || owners.first().is_none_or(|owner| owner.uid != node.uid) {
        return Ok(());
    }
    remove(&leases, range, held.metadata.uid).await
}

/// This very one: not one that was made under the same name meanwhile.
async fn remove(leases: &Api<Lease>, range: &Range, uid: Option<String>) -> kube::Result<()> {
    let this = DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    match leases.delete(&name(range), &this).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(cause) => Err(cause),
    }
}

fn name(range: &Range) -> String {
    format!("pod-range-{}", range.in_a_name())
}

/// Nobody renews it: it lasts as long as its Node.
fn lease(range: &Range, node: &Asking) -> Lease {
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid});
    let lease = json!({
        "metadata": {"name": name(range), "namespace": NAMESPACE, "ownerReferences": [owner]},
        "spec": {"holderIdentity": node.name},
    });
    // It has the shape of a Lease.
    serde_json::from_value(lease).unwrap_or_default()
}
