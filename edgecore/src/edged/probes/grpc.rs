//! Asks a container's `grpc.health.v1.Health` how a service of its does. Texts are the kubelet's.

use std::time::Duration;

use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use super::http::dial;
use super::probed::Probed;
use super::target::authority;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(enumeration = "Health", tag = "1")]
    pub(super) status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Health {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// The whole conversation has `limit`.
pub(super) async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Probed {
    let server = authority(host, port);
    let talk = async {
        let channel = connect(host, port).await.map_err(|why| {
            Probed::Unwell(format!("error: failed to connect service at \"{server}\": {why}"))
        })?;
        let mut client = Grpc::new(channel);
        let rpc_failed = |code: Code, message: &str| {
            Probed::Unwell(match code {
                Code::Unimplemented => format!(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
                ),
                _ => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {message}"),
            })
        };
        client.ready().await.map_err(|error| rpc_failed(Code::Unavailable, &error.to_string()))?;
        let request = tonic::Request::new(Request { service: service.to_owned() });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<Request, Response>::default();
        let response = client.unary(request, path, codec).await;
        let response = response.map_err(|status| rpc_failed(status.code(), status.message()))?;
        let status = response.into_inner().status;
        Ok(match Health::try_from(status) {
            Ok(Health::Serving) => Probed::Well,
            Ok(other) => Probed::Unwell(format!("service unhealthy (responded with \"{}\")", word(other))),
            Err(_) => Probed::Unwell(format!("service unhealthy (responded with \"{status}\")")),
        })
    };
    match tokio::time::timeout(limit, talk).await {
        Ok(Ok(probed) | Err(probed)) => probed,
        Err(_) => {
            let secs = limit.as_secs();
            Probed::Unwell(format!("timeout: health rpc of \"{server}\" did not complete within {secs}s"))
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<tonic::transport::Channel, String> {
    let stream = dial(host, port).await?;
    let uri = format!("http://{}", authority(host, port));
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|error| error.to_string())?;
    // The connection that is there, once: a second dial would be another probe.
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("the connection broke"));
        async move { stream }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())
}

fn word(status: Health) -> &'static str {
    match status {
        Health::Unknown => "UNKNOWN",
        Health::Serving => "SERVING",
        Health::NotServing => "NOT_SERVING",
        Health::ServiceUnknown => "SERVICE_UNKNOWN",
    }
}
