//! Calls to the API server with bodies as bytes, so that nothing is lost between it and an edge.
//!
//! Every failure becomes a `Refusal` in Kubernetes' words, every call ends in time. It retries nothing: whoever asked
//! knows better. Called by EdgeController's `answers.rs`, `services.rs`, `fetch.rs` and `tolerate.rs`, by DeviceController's
//! `write.rs`, and by SyncController.

#![expect(clippy::result_large_err, reason = "a refusal is what the edge gets, once a call")]

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, header};
use ke_api::object::api_type;
use ke_wire::{NodeName, ObjectKey, Reason, Refusal, RefusalDetails};
use kube::client::Body;

use crate::chain::chain;

/// An edge waits 60 s for its answer; two calls must fit, as a lease or an event may need a second one.
const TIMEOUT: Duration = Duration::from_secs(20);
/// etcd takes 1.5 MiB an object by default; lists come in pages.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The API server.
#[derive(Clone)]
pub(crate) struct ApiServer {
    client: kube::Client,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A whole object.
    Json,
    /// `application/merge-patch+json`
    MergePatch,
    /// `application/strategic-merge-patch+json`
    StrategicMergePatch,
}

impl ApiServer {
    /// Calls go through this client.
    #[must_use]
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Reads one object.
    pub(crate) async fn get(&self, key: &ObjectKey) -> Result<Bytes, Refusal> {
        self.call(Call::new(Method::GET, object_path(key, "")?)).await
    }

    /// Carries out one call and gives the body of its success.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, Refusal> {
        match tokio::time::timeout(TIMEOUT, self.unbounded(call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(refusal(Reason::Timeout, 504, "the API server did not answer within 20 s")),
        }
    }

    async fn unbounded(&self, call: Call) -> Result<Bytes, Refusal> {
        let unreachable = |cause: &dyn std::error::Error| {
            let text = format!("the API server cannot be asked: {}", chain(cause));
            refusal(Reason::Other("ServiceUnavailable".to_owned()), 503, &text)
        };
        let request = call.request().map_err(|cause| unreachable(&cause))?;
        let response = self.client.send(request).await.map_err(|cause| unreachable(&cause))?;
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, MAX_ANSWER).collect().await.map_err(|cause| unreachable(&*cause))?.to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        let code = head.status.as_u16();
        let told = serde_json::from_slice::<Refusal>(&body).ok().filter(|told| !told.message.is_empty());
        Err(told.map_or_else(|| by_status(code), |told| Refusal { code, ..told }))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<(Content, Bytes)>,
    as_node: Option<NodeName>,
}

impl Call {
    /// Without a body, as ourselves.
    #[must_use]
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None, as_node: None }
    }

    /// With this body.
    #[must_use]
    pub(crate) fn with(self, content: Content, body: Bytes) -> Self {
        Self { body: Some((content, body)), ..self }
    }

    /// As this node's own user, where Kubernetes looks at who asked.
    #[must_use]
    pub(crate) fn in_name_of(self, node: &NodeName) -> Self {
        Self { as_node: Some(node.clone()), ..self }
    }

    fn request(self) -> Result<Request<Body>, hyper::http::Error> {
        let mut request =
            Request::builder().method(self.method).uri(self.path).header(header::ACCEPT, "application/json");
        if let Some(node) = &self.as_node {
            request = request
                .header("Impersonate-User", format!("system:node:{node}"))
                .header("Impersonate-Group", "system:nodes")
                .header("Impersonate-Group", "system:authenticated");
        }
        match self.body {
            None => request.body(Body::empty()),
            Some((content, body)) => {
                let content = match content {
                    Content::Json => "application/json",
                    Content::MergePatch => "application/merge-patch+json",
                    Content::StrategicMergePatch => "application/strategic-merge-patch+json",
                };
                request.header(header::CONTENT_TYPE, content).body(Body::from(body))
            }
        }
    }
}

/// Path of an object; `under` is a subresource with its slash, or empty.
pub(crate) fn object_path(key: &ObjectKey, under: &str) -> Result<String, Refusal> {
    Ok(format!("{}/{}{under}", folder_path(key)?, escaped(key.name.as_str())))
}

/// Path of the objects among which this one is.
pub(crate) fn folder_path(key: &ObjectKey) -> Result<String, Refusal> {
    let Some(api) = api_type(&key.kind) else {
        return Err(bad_request(&format!("{} is no kind that may be asked for", key.kind.as_str())));
    };
    let root = if api.api_version.contains('/') { "/apis/" } else { "/api/" };
    // VolumeAttachments and signing requests travel with a namespace that they do not have.
    match key.scope.namespace().filter(|_| api.namespaced) {
        Some(namespace) => Ok(format!("{root}{}/namespaces/{namespace}/{}", api.api_version, api.plural)),
        None if api.namespaced => Err(bad_request(&format!("a {} has a namespace", api.kind))),
        None => Ok(format!("{root}{}/{}", api.api_version, api.plural)),
    }
}

/// Names may hold characters that end a path.
fn escaped(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// A refusal of ours.
#[must_use]
pub(crate) fn refusal(reason: Reason, code: u16, message: &str) -> Refusal {
    Refusal { message: message.to_owned(), reason, details: None, code }
}

/// The question makes no sense.
#[must_use]
pub(crate) fn bad_request(message: &str) -> Refusal {
    refusal(Reason::BadRequest, 400, message)
}

/// This node may not.
#[must_use]
pub(crate) fn forbidden(key: &ObjectKey, message: &str) -> Refusal {
    let api = api_type(&key.kind);
    let details = RefusalDetails {
        name: key.name.to_string(),
        kind: api.map_or_else(String::new, |api| api.plural.to_owned()),
        ..RefusalDetails::default()
    };
    Refusal { details: Some(details), ..refusal(Reason::Forbidden, 403, message) }
}

fn by_status(code: u16) -> Refusal {
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Other("Unauthorized".to_owned()),
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        409 => Reason::Conflict,
        422 => Reason::Invalid,
        429 => Reason::Other("TooManyRequests".to_owned()),
        503 => Reason::Other("ServiceUnavailable".to_owned()),
        504 => Reason::Timeout,
        _ => Reason::Other("InternalError".to_owned()),
    };
    refusal(reason, code, &format!("the API server answered {code} without saying why"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |key: &str, under: &str, expected: Result<&str, u16>| {
            let got = object_path(&key.parse().unwrap(), under).map_err(|refused| refused.code);
            assert_eq!(got.as_deref().map_err(|code| *code), expected, "{key}");
        };
        check("shop/pod/web", "/status", Ok("/api/v1/namespaces/shop/pods/web/status"));
        check("null/node/e1", "", Ok("/api/v1/nodes/e1"));
        check(
            "kube-node-lease/lease/e1",
            "",
            Ok("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/e1"),
        );
        check("default/volumeattachment/csi-1", "", Ok("/apis/storage.k8s.io/v1/volumeattachments/csi-1"));
        check("a/secret/x?y#z", "", Ok("/api/v1/namespaces/a/secrets/x%3Fy%23z"));
        check("null/secret/x", "", Err(400));
        check("a/gateway/x", "", Err(400));
    }
}
