//! The REST API of KubeEdge's mappers, and `/metrics` and `/healthz` beside it.
//!
//! All is GET, without credentials: it listens on loopback unless configured otherwise. Reading a property only reads;
//! Go mappers write its desired value first. Paths, keys and texts are those of KubeEdge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::device::{Order, wall_clock};
use crate::registry::Registry;
use crate::settings::{DeviceName, PropertyName};

/// Consumers of one machine; more at once wait.
const MAX_CONNECTIONS: usize = 32;
/// KubeEdge's.
const LIMIT: Duration = Duration::from_secs(10);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestError {
    #[error("common.http_port: listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

pub(crate) struct Rest {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    registry: Arc<Registry>,
    metrics: Metrics,
}

impl Rest {
    /// `None`: the usual port is taken, as by another mapper on this machine, and nobody asked for it by name.
    pub(crate) async fn bind(
        (address, is_asked_for): (SocketAddr, bool),
        registry: Arc<Registry>,
        metrics: Metrics,
    ) -> Result<Option<Self>, RestError> {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if let Ok(address) = listener.local_addr() {
                    tracing::info!(%address, "REST and metrics listen");
                }
                Ok(Some(Self { listener, shared: Arc::new(Shared { registry, metrics }) }))
            }
            Err(error) if is_asked_for => Err(RestError::Listen(address, error)),
            Err(error) => {
                tracing::warn!(%address, %error, "no REST and metrics: set common.http_port to a free port");
                Ok(None)
            }
        }
    }

    pub(crate) async fn run(self, stop: Shutdown) -> Result<(), RestError> {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accept a connection to REST");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = stop.wait() => return Ok(()),
            };
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let _permit = permit;
                let answer = service_fn(|request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, std::convert::Infallible>(shared.answer(&request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                let _ = tokio::time::timeout(3 * LIMIT, connection).await;
            });
        }
    }
}

/// A status and a text for people.
type Refusal = (StatusCode, String);

impl Shared {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let mut response = if request.method() != Method::GET {
            text(StatusCode::METHOD_NOT_ALLOWED, "all is read with GET here")
        } else if path == "/healthz" {
            text(StatusCode::OK, "ok")
        } else if path == "/metrics" {
            self.metrics()
        } else {
            match tokio::time::timeout(LIMIT, self.route(path)).await {
                Ok(Ok(fields)) => envelope(fields),
                Ok(Err((status, reason))) => text(status, &reason),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the device did not answer within 10 s"),
            }
        };
        let correlation = HeaderName::from_static("x-correlation-id");
        if let Some(id) = request.headers().get(&correlation) {
            response.headers_mut().insert(correlation, id.clone());
        }
        response
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.metrics.encode() {
            Ok(body) => {
                let mut response = text(StatusCode::OK, &body);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE));
                response
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
        }
    }

    async fn route(&self, path: &str) -> Result<Map<String, Json>, Refusal> {
        let segments =
            path.strip_prefix("/api/v1/").map(|rest| rest.split('/').map(decoded).collect::<Vec<_>>());
        let segments = segments.unwrap_or_default();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["ping"] => Ok(one("Message", json!("This is v1 API, the server is running normally."))),
            ["device", namespace, name, property] => {
                let device = DeviceName::new(*namespace, *name);
                self.read(&device, property).await.map_err(|reason| failed("Get device data error", &reason))
            }
            ["devicemethod", namespace, name] => {
                let device = DeviceName::new(*namespace, *name);
                self.methods(&device).map_err(|reason| failed("Get device method error", &reason))
            }
            ["devicemethod", namespace, name, method, property, data] => {
                let device = DeviceName::new(*namespace, *name);
                let written = self.write(&device, method, property, data).await;
                written.map_err(|reason| failed("Write device data error", &reason))
            }
            ["meta", "model", namespace, name] => {
                let device = DeviceName::new(*namespace, *name);
                self.model(&device).map_err(|reason| failed("Get device error", &reason))
            }
            ["database", _, _] => {
                Err((StatusCode::SERVICE_UNAVAILABLE, "this mapper has no database".to_owned()))
            }
            _ => Err((StatusCode::NOT_FOUND, "404 page not found".to_owned())),
        }
    }

    async fn read(&self, device: &DeviceName, property: &str) -> Result<Map<String, Json>, String> {
        let (settings, orders) = self.registry.running(device).ok_or_else(|| unknown(device))?;
        let (value, kind) = match settings.property(property) {
            // As Go mappers do: nothing there is worth nothing.
            None => (String::new(), String::new()),
            Some(known) => {
                let (reply, answer) = oneshot::channel();
                orders
                    .try_send(Order::Read { property: PropertyName::from(property), reply })
                    .map_err(|_| "the device is busy".to_owned())?;
                let value = answer.await.map_err(|_| "the device stops".to_owned())??;
                (value.to_string(), known.kind.to_string().to_lowercase())
            }
        };
        let data = json!({
            "DeviceName": device.name, "PropertyName": property, "Namespace": device.namespace,
            "Value": value, "Type": kind, "TimeStamp": u64::try_from(wall_clock()).unwrap_or(u64::MAX),
        });
        Ok(one("Data", data))
    }

    fn methods(&self, device: &DeviceName) -> Result<Map<String, Json>, String> {
        let (settings, _) = self.registry.running(device).ok_or_else(|| unknown(device))?;
        let methods = settings.methods.iter().map(|method| {
            let parameters = method.properties.iter().map(|name| {
                let kind =
                    settings.property(name.as_str()).map(|property| property.kind.to_string().to_lowercase());
                json!({"PropertyName": name.as_str(), "ValueType": kind.unwrap_or_default()})
            });
            let path = format!(
                "/api/v1/devicemethod/{}/{}/{}/{{propertyName}}/{{data}}",
                device.namespace, device.name, method.name
            );
            json!({"Name": method.name, "Path": path, "Parameters": parameters.collect::<Vec<_>>()})
        });
        Ok(one("Data", json!({"Methods": methods.collect::<Vec<_>>()})))
    }

    async fn write(
        &self,
        device: &DeviceName,
        method: &str,
        property: &str,
        data: &str,
    ) -> Result<Map<String, Json>, String> {
        let (settings, orders) = self.registry.running(device).ok_or_else(|| unknown(device))?;
        let known = settings.methods.iter().find(|known| known.name == method);
        let known = known.ok_or_else(|| format!("device {device} has no method {method:?}"))?;
        let name = PropertyName::from(property);
        if !known.properties.contains(&name) {
            return Err(format!("method {method:?} has no property {property:?}"));
        }
        let (reply, answer) = oneshot::channel();
        orders
            .try_send(Order::Write {
                method: method.to_owned(),
                property: name,
                data: data.to_owned(),
                reply,
            })
            .map_err(|_| "the device is busy".to_owned())?;
        answer.await.map_err(|_| "the device stops".to_owned())??;
        Ok(one("Message", json!(format!("Write data {data} to device {device} successfully."))))
    }

    fn model(&self, device: &DeviceName) -> Result<Map<String, Json>, String> {
        let model = self.registry.model_of(device).ok_or_else(|| unknown(device))?;
        let properties = model.spec.unwrap_or_default().properties.into_iter().map(|property| {
            json!({
                "name": property.name, "dataType": property.r#type, "description": property.description,
                "accessMode": property.access_mode, "minimum": property.minimum, "maximum": property.maximum,
                "unit": property.unit,
            })
        });
        let mut fields = one("id", json!(format!("{}/{}", model.namespace, model.name)));
        fields.insert("name".to_owned(), json!(model.name));
        fields.insert("namespace".to_owned(), json!(model.namespace));
        fields.insert("description".to_owned(), json!(""));
        fields.insert("properties".to_owned(), properties.collect());
        Ok(fields)
    }
}

fn one(key: &str, value: Json) -> Map<String, Json> {
    Map::from_iter([(key.to_owned(), value)])
}

fn unknown(device: &DeviceName) -> String {
    format!("device {device} is not running in this mapper")
}

fn failed(what: &str, reason: &str) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{what}: {reason}"))
}

/// One segment of a path with its `%41` undone; what is no such escape stays.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.contains('+'))?;
            u8::from_str_radix(digits, 16).ok()
        });
        match escape {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn envelope(fields: Map<String, Json>) -> Response<Full<Bytes>> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut body = one("apiVersion", json!("v1"));
    body.insert("statusCode".to_owned(), json!(200));
    body.insert("timeStamp".to_owned(), json!(now.format(&Rfc3339).unwrap_or_default()));
    body.extend(fields);
    let mut response = text(StatusCode::OK, &Json::Object(body).to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        let check = |segment: &str, expected: &str| assert_eq!(decoded(segment), expected);
        check("25.3", "25.3");
        check("a%20b%C3%BC", "a bü");
        check("100%", "100%");
        check("%zz%2f%+1", "%zz/%+1");
    }
}
