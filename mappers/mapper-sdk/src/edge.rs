//! The node's side of the device management interface as a client: register and report over one lasting connection.
//!
//! It retries nothing; who calls decides. Called by `link.rs` and by each device's reporter.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ke_dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use ke_dmi::v1beta1::{self as wire};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::driver::DeviceState;
use crate::outbox::{Batch, Told};
use crate::settings::{DeviceName, PropertyName};

/// Longer, and the node counts as gone.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A registration's answer holds all devices of the node.
const LARGEST_ANSWER: usize = 64 << 20;

/// Why the node did not take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("the node does not answer: {0}")]
    Away(String),
    #[error("the node is busy: {0}")]
    Busy(String),
    #[error("the node refuses: {0}")]
    Refused(String),
}

/// Cheap to clone; all clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    client: DeviceManagerServiceClient<Channel>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The node is an older one, with narrow rules for values.
    is_strict: AtomicBool,
    /// Told when a call found the node away.
    lost: Notify,
}

/// Our edgecore says so in its answers; KubeEdge's does not, and silently drops values with other characters than these.
const LENIENT: &str = "isthmus-dmi";

impl Edge {
    /// Connects at the first call, and again whenever the connection broke.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_LIMIT);
        let channel = endpoint.connect_timeout(CALL_LIMIT).connect_with_connector_lazy(connector);
        let client = DeviceManagerServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        Self { client, shared: Arc::default() }
    }

    /// Says who this mapper is and takes the devices of its protocol.
    pub(crate) async fn register(
        &self,
        mapper: wire::MapperInfo,
    ) -> Result<wire::MapperRegisterResponse, EdgeError> {
        let request = wire::MapperRegisterRequest { with_data: true, mapper: Some(mapper) };
        let answer = self.client.clone().mapper_register(request).await.map_err(|status| sorted(&status))?;
        self.shared.is_strict.store(answer.metadata().get(LENIENT).is_none(), Ordering::Relaxed);
        Ok(answer.into_inner())
    }

    /// All values of a batch in one call: nodes of KubeEdge allow one call a second.
    pub(crate) async fn report(&self, device: &DeviceName, batch: &Batch) -> Result<(), EdgeError> {
        let twins = batch.twins.iter().filter(|(name, told)| self.fault(name, told).is_none());
        let twins: Vec<wire::Twin> = twins.map(|(name, told)| twin(name, told)).collect();
        if twins.is_empty() {
            return Ok(());
        }
        let request = wire::ReportDeviceStatusRequest {
            device_name: device.name.clone(),
            device_namespace: device.namespace.clone(),
            reported_device: Some(wire::DeviceStatus { twins, report_to_cloud: true, report_cycle: 0 }),
        };
        self.client
            .clone()
            .report_device_status(request)
            .await
            .map(|_| ())
            .map_err(|status| self.told(&status))
    }

    pub(crate) async fn report_state(
        &self,
        device: &DeviceName,
        state: DeviceState,
    ) -> Result<(), EdgeError> {
        let request = wire::ReportDeviceStatesRequest {
            device_name: device.name.clone(),
            device_namespace: device.namespace.clone(),
            state: state.as_str().to_owned(),
        };
        self.client
            .clone()
            .report_device_states(request)
            .await
            .map(|_| ())
            .map_err(|status| self.told(&status))
    }

    /// Why this node would not take a value; one bad value of a call costs only itself.
    pub(crate) fn fault(&self, name: &PropertyName, told: &Told) -> Option<String> {
        fault(self.shared.is_strict.load(Ordering::Relaxed), name, told)
    }

    /// Returns when a report found the node away.
    pub(crate) async fn lost(&self) {
        self.shared.lost.notified().await;
    }

    fn told(&self, status: &Status) -> EdgeError {
        let error = sorted(status);
        if matches!(error, EdgeError::Away(_)) {
            self.shared.lost.notify_one();
        }
        error
    }
}

/// KubeEdge's rule for MQTT, which it applies to reports too.
fn fault(is_strict: bool, name: &PropertyName, told: &Told) -> Option<String> {
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,:/@#".contains(c));
    let texts = [(name.as_str(), 128), (&told.reported, 512), (&told.observed, 512)];
    if is_strict {
        let passes = texts.iter().all(|(text, most)| text.len() <= *most && is_plain(text));
        let rule =
            "this node takes only A-Z a-z 0-9 - _ . , : / @ # in names (up to 128) and values (up to 512)";
        return (!passes).then(|| format!("{rule}, so the value is not reported"));
    }
    let most = 64 << 10;
    (told.reported.len() > most).then(|| format!("a value of more than {most} bytes is not reported"))
}

fn twin(name: &PropertyName, told: &Told) -> wire::Twin {
    let half = |value: &str| {
        let metadata = [("type", told.kind.to_owned()), ("timestamp", told.at.to_string())];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Some(wire::TwinProperty { value: value.to_owned(), metadata })
    };
    wire::Twin {
        property_name: name.as_str().to_owned(),
        observed_desired: half(&told.observed),
        reported: half(&told.reported),
    }
}

/// Go nodes answer everything with the code "unknown", so the text must do.
fn sorted(status: &Status) -> EdgeError {
    let text = status.message().to_owned();
    match status.code() {
        _ if text.contains("too many request") => EdgeError::Busy(text),
        Code::ResourceExhausted => EdgeError::Busy(text),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal => {
            EdgeError::Away(text)
        }
        Code::Unknown if text.contains("transport error") => EdgeError::Away(text),
        _ => EdgeError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_rules() {
        let check = |is_strict: bool, name: &str, reported: &str, is_taken: bool| {
            let told = Told { reported: reported.to_owned(), observed: String::new(), at: 0, kind: "string" };
            assert_eq!(
                fault(is_strict, &name.into(), &told).is_none(),
                is_taken,
                "{is_strict} {name} {reported}"
            );
        };
        check(true, "heat", "-25.3", true);
        check(true, "heat", "", true);
        check(true, "heat", "a b", false);
        check(true, "über", "1", false);
        check(true, "text", &"x".repeat(513), false);
        check(false, "text", "ein \"Wort\" ü", true);
        check(false, "text", &"x".repeat(70_000), false);
    }

    #[test]
    fn refusals() {
        let check = |status: Status, expected: EdgeError| assert_eq!(sorted(&status), expected);
        let busy = "fail to report device status because of too many request: d";
        check(Status::unknown(busy), EdgeError::Busy(busy.to_owned()));
        check(Status::unavailable("x"), EdgeError::Away("x".to_owned()));
        check(Status::unknown("no such device"), EdgeError::Refused("no such device".to_owned()));
    }
}
