//! The REST interface of KubeEdge's mappers: a device's values now, its methods, its model; and `/metrics`.
//!
//! Reading reads and never writes. Everything is GET, writing too, as KubeEdge has it: whoever reaches the port may write, so
//! `common.http_address` can keep it on this machine. It asks `fleet.rs` for the device and the device's task for the rest.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::driver::Property;
use crate::manifest;
use crate::news::{Found, News, Wish};

/// More at once wait.
const MAX_CONNECTIONS: usize = 32;
/// A request's headers, and a silent connection, may take this long: what mapper-framework allows.
const SLOW: Duration = Duration::from_secs(10);
const CONNECTION_LIMIT: Duration = Duration::from_secs(300);
/// Longer than any call of a driver: the device's own answer comes first.
const ANSWER_LIMIT: Duration = Duration::from_secs(330);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
#[error("common.http_port: listen on {address}: {why}")]
pub(crate) struct ListenError {
    address: SocketAddr,
    why: std::io::Error,
}

/// The module.
pub(crate) struct Rest {
    listener: TcpListener,
    fleet: mpsc::Sender<News>,
    metrics: Arc<Metrics>,
}

/// What is not an answer: status and text.
#[derive(Debug)]
struct Refusal(StatusCode, String);

/// What is.
enum Answer {
    /// Goes into the envelope.
    Data(Map<String, Json>),
    /// What is counted.
    Metrics,
}

impl Rest {
    /// Takes the port now, so that one in use is found before anything else starts.
    pub(crate) async fn bind(
        address: SocketAddr,
        fleet: mpsc::Sender<News>,
        metrics: Metrics,
    ) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await.map_err(|why| ListenError { address, why })?;
        Ok(Self { listener, fleet, metrics: Arc::new(metrics) })
    }

    /// Serves until shutdown.
    pub(crate) async fn run(self, stop: Shutdown) -> Result<(), Infallible> {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                () = stop.wait() => return Ok(()),
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection to the REST port");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (fleet, metrics) = (self.fleet.clone(), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                let _permit = permit;
                let service = service_fn(move |request| answer(fleet.clone(), Arc::clone(&metrics), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(SLOW)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = timeout(CONNECTION_LIMIT, connection).await;
            });
        }
    }
}

async fn answer(
    fleet: mpsc::Sender<News>,
    metrics: Arc<Metrics>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let result = match *request.method() {
        Method::GET if request.uri().path() == "/metrics" => Ok(Answer::Metrics),
        Method::GET => tell(&fleet, request.uri().path()).await.map(Answer::Data),
        _ => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned())),
    };
    let (status, kind, body) = match result {
        Ok(Answer::Metrics) => {
            let failed = |_| (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", String::new());
            metrics.encode().map_or_else(failed, |text| (StatusCode::OK, Metrics::CONTENT_TYPE, text))
        }
        Ok(Answer::Data(more)) => {
            let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
            let mut all = json!({"apiVersion": "v1", "statusCode": 200, "timeStamp": now});
            if let Some(all) = all.as_object_mut() {
                all.extend(more);
            }
            (StatusCode::OK, "application/json", all.to_string())
        }
        Err(Refusal(status, text)) => (status, "text/plain", text),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(id) = request.headers().get("X-Correlation-ID") {
        response.headers_mut().insert("X-Correlation-ID", id.clone());
    }
    Ok(response)
}

/// What a path asks for, without the envelope.
async fn tell(fleet: &mpsc::Sender<News>, path: &str) -> Result<Map<String, Json>, Refusal> {
    let segments: Option<Vec<String>> = path.split('/').skip(1).map(decoded).collect();
    let segments = segments.unwrap_or_default();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let data = |data: Json| Map::from_iter([("Data".to_owned(), data)]);
    let message = |text: String| Map::from_iter([("Message".to_owned(), Json::from(text))]);
    match segments.as_slice() {
        ["api", "v1", "ping"] => Ok(message("This is v1 API, the server is running normally.".to_owned())),
        ["api", "v1", "device", namespace, name, property] => {
            let failed = failed("Get device data error");
            let found = find(fleet, namespace, name).await.map_err(failed)?;
            let kind = kind(&found, property);
            let value = ask(&found, |reply| Wish::Read((*property).to_owned(), reply)).await;
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Ok(data(json!({
                "DeviceName": name, "PropertyName": property, "Namespace": namespace,
                "Value": value.map_err(failed)?.to_string(), "Type": kind,
                "TimeStamp": u64::try_from(since_epoch.as_millis()).unwrap_or_default(),
            })))
        }
        ["api", "v1", "devicemethod", namespace, name] => {
            let found = find(fleet, namespace, name).await.map_err(failed("Get device method error"))?;
            let methods = found.device.methods.iter().map(|method| {
                let path = format!(
                    "/api/v1/devicemethod/{namespace}/{name}/{}/{{propertyName}}/{{data}}",
                    method.name
                );
                let parameters = method
                    .properties
                    .iter()
                    .map(|property| json!({"PropertyName": property, "ValueType": kind(&found, property)}));
                json!({"Name": method.name, "Path": path, "Parameters": parameters.collect::<Vec<_>>()})
            });
            Ok(data(json!({"Methods": methods.collect::<Vec<_>>()})))
        }
        ["api", "v1", "devicemethod", namespace, name, method, property, text] => {
            let failed = failed("Write device data error");
            let found = find(fleet, namespace, name).await.map_err(failed)?;
            may_write(&found, method, property).map_err(failed)?;
            let wish = |reply| Wish::Write((*property).to_owned(), (*text).to_owned(), reply);
            ask(&found, wish).await.map_err(failed)?;
            tracing::info!(device = %found.device.name, property, method, "written over the REST interface");
            Ok(message(format!("Write data {text} to device {namespace}/{name} successfully.")))
        }
        ["api", "v1", "meta", "model", namespace, name] => {
            let found = find(fleet, namespace, name).await.map_err(failed("Get device error"))?;
            Ok(model(&found))
        }
        ["api", "v1", "database", _, _] => {
            let text = "this mapper keeps no values; ask the database that it pushes to".to_owned();
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, text))
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found".to_owned())),
    }
}

fn failed(what: &'static str) -> impl Fn(String) -> Refusal + Copy {
    move |why| Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{what}: {why}"))
}

async fn find(fleet: &mpsc::Sender<News>, namespace: &str, name: &str) -> Result<Found, String> {
    let (reply, answer) = oneshot::channel();
    let stopping = "the mapper stops";
    let find = News::Find(manifest::name(namespace, name), reply);
    fleet.send(find).await.map_err(|_| stopping.to_owned())?;
    let found = answer.await.map_err(|_| stopping.to_owned())?;
    found.ok_or_else(|| format!("there is no device {namespace}/{name} here"))
}

async fn ask<T>(
    found: &Found,
    wish: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Wish,
) -> Result<T, String> {
    let gone = "the device is gone";
    let (reply, answer) = oneshot::channel();
    let asked = async {
        found.wishes.send(wish(reply)).await.map_err(|_| gone.to_owned())?;
        answer.await.map_err(|_| gone.to_owned())?
    };
    timeout(ANSWER_LIMIT, asked).await.map_err(|_| "no answer from the device".to_owned())?
}

fn property<'a>(found: &'a Found, name: &str) -> Option<&'a Property> {
    found.device.properties.iter().find(|property| property.name == name)
}

/// As mapper-framework writes types here; empty for a property that is none.
fn kind(found: &Found, name: &str) -> String {
    property(found, name).map(|property| property.kind.to_string().to_lowercase()).unwrap_or_default()
}

fn may_write(found: &Found, method: &str, property: &str) -> Result<(), String> {
    let known = found.device.methods.iter().find(|known| known.name == method);
    let known = known.ok_or_else(|| format!("the device has no method {method}"))?;
    let is_listed = known.properties.iter().any(|listed| listed == property);
    is_listed.then_some(()).ok_or_else(|| format!("the method {method} does not set {property}"))
}

fn model(found: &Found) -> Map<String, Json> {
    let model = &found.model;
    let properties = model.spec.as_ref().map(|spec| spec.properties.as_slice()).unwrap_or_default();
    let property = |property: &ke_dmi::v1beta1::ModelProperty| {
        json!({
            "name": property.name, "dataType": property.r#type, "description": property.description,
            "accessMode": property.access_mode, "minimum": property.minimum, "maximum": property.maximum,
            "unit": property.unit,
        })
    };
    let properties: Vec<Json> = properties.iter().map(property).collect();
    Map::from_iter([
        ("id".to_owned(), Json::from(format!("{}/{}", model.namespace, model.name))),
        ("name".to_owned(), Json::from(model.name.as_str())),
        ("namespace".to_owned(), Json::from(model.namespace.as_str())),
        ("description".to_owned(), Json::from("")),
        ("properties".to_owned(), Json::from(properties)),
    ])
}

/// One segment of a path with its `%XX`. `None`: not well formed.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let byte = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            (b'%', _) => return None,
            (byte, _) => *byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn it_stops_while_all_connections_are_taken() {
        let (fleet, _told) = mpsc::channel(1);
        let rest = Rest::bind(([127, 0, 0, 1], 0).into(), fleet, Metrics::new()).await.unwrap();
        let address = rest.listener.local_addr().unwrap();
        let (trigger, stop) = Shutdown::new();
        let running = tokio::spawn(rest.run(stop));
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /api/v1/ping HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
            assert_ne!(stream.read_u8().await.unwrap(), 0);
            open.push(stream);
        }
        trigger.stop();
        // Sooner than a connection ends by itself.
        timeout(SLOW / 2, running).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn segments() {
        let check = |segment: &str, expected: Option<&str>| {
            assert_eq!(decoded(segment).as_deref(), expected, "{segment}");
        };
        check("oven-1", Some("oven-1"));
        check("a%20b%2Fc", Some("a b/c"));
        check("%c3%A9", Some("é"));
        check("%", None);
        check("%4", None);
        check("%zz", None);
        check("%ff", None);
    }
}
