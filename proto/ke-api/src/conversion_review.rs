//! What the API server asks a conversion webhook, and the answer. Pure: whoever serves the webhook hands the body in and
//! sends the answer out.
//!
//! One object that cannot be converted fails the whole review, as the API server has it; the message names each such
//! object and its field. Nothing of an object's values gets into a message.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device_conversion;

const API_VERSION: &str = "apiextensions.k8s.io/v1";
const KIND: &str = "ConversionReview";
/// A list may hold thousands of objects that all fail for one reason.
const MOST_MESSAGES: usize = 5;

/// Why a body is no conversion review. Nothing can be answered then but a status code: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or of another shape. The place only.
    #[error("the body is no {KIND} of {API_VERSION}: line {line}, column {column}")]
    Shape {
        /// Where, counted from 1.
        line: usize,
        /// Where, counted from 1; 0 when unknown.
        column: usize,
    },
    /// Something else, or another version of it.
    #[error("the body is {found}, expected {KIND} of {API_VERSION}")]
    OtherKind {
        /// `apiVersion/kind` of the body.
        found: String,
    },
    /// A review without a request.
    #[error("the {KIND} holds no request")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Option<Request>,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired_api_version: String,
    #[serde(default)]
    objects: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    converted_objects: Vec<Value>,
    result: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// The answer to the review in `body`, and why it failed if it did: that line is worth logging.
/// Errors: `body` is no review; answer with status 400 and the error's words.
pub fn answer(body: &[u8]) -> Result<(Vec<u8>, Option<String>), ReviewError> {
    let shape = |cause: serde_json::Error| ReviewError::Shape { line: cause.line(), column: cause.column() };
    let asked: Asked = serde_json::from_slice(body).map_err(shape)?;
    if asked.api_version != API_VERSION || asked.kind != KIND {
        return Err(ReviewError::OtherKind { found: format!("{}/{}", asked.api_version, asked.kind) });
    }
    let request = asked.request.ok_or(ReviewError::NoRequest)?;
    let (converted_objects, result) = convert_all(request.objects, &request.desired_api_version);
    let failure = (!result.message.is_empty()).then(|| result.message.clone());
    let response = Response { uid: request.uid, converted_objects, result };
    let answered = Answered { api_version: API_VERSION, kind: KIND, response };
    Ok((serde_json::to_vec(&answered).map_err(shape)?, failure))
}

fn convert_all(objects: Vec<Value>, desired: &str) -> (Vec<Value>, Outcome) {
    let n_objects = objects.len();
    let mut converted = Vec::with_capacity(n_objects);
    let mut refused = Vec::new();
    for object in objects {
        match device_conversion::convert(object, desired) {
            Ok(object) => converted.push(object),
            Err(cause) => refused.push(cause.to_string()),
        }
    }
    if refused.is_empty() {
        return (converted, Outcome { status: "Success", message: String::new() });
    }
    let n_more = refused.len().saturating_sub(MOST_MESSAGES);
    refused.truncate(MOST_MESSAGES);
    let mut message = format!("cannot convert to {desired}: {}", refused.join("; "));
    if n_more > 0 {
        message.push_str(&format!("; and {n_more} more of {n_objects}"));
    }
    (Vec::new(), Outcome { status: "Failed", message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BETA: &str = "devices.kubeedge.io/v1beta1";
    const ALPHA: &str = "devices.kubeedge.io/v1alpha2";

    fn review(desired: &str, objects: Value) -> Vec<u8> {
        let request = json!({"uid": "7c1f", "desiredAPIVersion": desired, "objects": objects});
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": request}).to_string().into_bytes()
    }

    fn answered(body: &[u8]) -> Value {
        let (bytes, failure) = answer(body).unwrap();
        let said: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(said["response"]["result"].get("message").and_then(Value::as_str), failure.as_deref());
        said
    }

    #[test]
    fn objects_come_back_in_order_and_those_of_that_version_as_they_are() {
        let old = json!({"apiVersion": ALPHA, "kind": "DeviceModel", "metadata": {"name": "m", "namespace": "plant"},
            "spec": {"properties": [{"name": "t", "type": {"int": {"accessMode": "ReadOnly"}}}]}});
        let new =
            json!({"apiVersion": BETA, "kind": "Device", "metadata": {"name": "d"}, "spec": {"methods": []}});
        let said = answered(&review(BETA, json!([old, new])));
        assert_eq!(said["apiVersion"], API_VERSION);
        assert_eq!(said["kind"], KIND);
        assert_eq!(said["response"]["uid"], "7c1f");
        assert_eq!(said["response"]["result"], json!({"status": "Success"}));
        let converted = &said["response"]["convertedObjects"];
        assert_eq!(converted[0]["apiVersion"], BETA);
        assert_eq!(
            converted[0]["spec"]["properties"],
            json!([{"name": "t", "type": "INT", "accessMode": "ReadOnly"}])
        );
        assert_eq!(converted[1], new);
    }

    #[test]
    fn a_failure_names_object_and_field_and_fails_the_review() {
        let check = |desired: &str, objects: Value, expected: &str| {
            let said = answered(&review(desired, objects));
            assert_eq!(said["response"]["uid"], "7c1f");
            assert_eq!(said["response"]["result"]["status"], "Failed");
            assert_eq!(said["response"]["result"]["message"], expected);
            assert!(said["response"].get("convertedObjects").is_none());
        };
        let device = |name: &str, spec: Value| json!({"apiVersion": ALPHA, "kind": "Device", "metadata": {"name": name, "namespace": "plant"}, "spec": spec});
        check(
            BETA,
            json!([device("good", json!({})), device("bad", json!({"propertyVisitors": [{}, 5]}))]),
            "cannot convert to devices.kubeedge.io/v1beta1: Device plant/bad: spec.propertyVisitors[1] is no object",
        );
        check(
            "devices.kubeedge.io/v3",
            json!([device("d", json!({}))]),
            "cannot convert to devices.kubeedge.io/v3: Device plant/d: desiredAPIVersion \
             \"devices.kubeedge.io/v3\" is none that is converted to",
        );
        check(
            BETA,
            json!([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, 5]),
            "cannot convert to devices.kubeedge.io/v1beta1: Pod default/p: apiVersion is none that is converted; \
             an object: it is no JSON object",
        );
        let many: Vec<Value> = (0..7).map(|n| device(&n.to_string(), json!(0))).collect();
        let said = answered(&review(BETA, json!(many)));
        let message = said["response"]["result"]["message"].as_str().unwrap();
        assert!(message.ends_with("Device plant/4: spec is no object; and 2 more of 7"), "{message}");
    }

    #[test]
    fn other_bodies_are_errors() {
        let check = |body: &str, expected: &str| {
            assert_eq!(answer(body.as_bytes()).unwrap_err().to_string(), expected);
        };
        check("", "the body is no ConversionReview of apiextensions.k8s.io/v1: line 1, column 0");
        check("{}", "the body is /, expected ConversionReview of apiextensions.k8s.io/v1");
        check(
            r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview"}"#,
            "the ConversionReview holds no request",
        );
    }
}
