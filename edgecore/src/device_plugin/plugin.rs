//! One plugin: hears its list of devices as long as it sends any, and carries calls to it, each within its time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ke_kubelet::device_plugin as api;
use ke_kubelet::device_plugin::device_plugin_client::DevicePluginClient;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::Devices;
use super::registry::{Device, MAX_DEVICES};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For what a plugin answers without doing anything.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// For what it does to devices: the kubelet's own limit of `PreStartContainer`; of `Allocate` that has none.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// The next list counts no sooner; of those that come meanwhile the newest.
const LIST_EVERY: Duration = Duration::from_millis(100);
const HEALTHY: &str = "Healthy";

/// How a plugin is called. Its list is heard no more when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Plugin {
    client: DevicePluginClient<Channel>,
    pub(super) has_preferences: bool,
    pub(super) wants_pre_start: bool,
    _task: Arc<Aborted>,
}

struct Aborted(AbortHandle);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn client(socket: PathBuf) -> DevicePluginClient<Channel> {
    DevicePluginClient::new(ke_dmi::socket::channel(socket, CONNECT_LIMIT))
}

/// What the plugin says that it wants to be asked.
pub(super) async fn options(
    client: &mut DevicePluginClient<Channel>,
) -> Result<api::DevicePluginOptions, Status> {
    within(ANSWER_LIMIT, client.get_device_plugin_options(api::Empty {})).await
}

impl Plugin {
    pub(super) fn new(
        client: DevicePluginClient<Channel>,
        options: api::DevicePluginOptions,
        task: AbortHandle,
    ) -> Self {
        Self {
            client,
            has_preferences: options.get_preferred_allocation_available,
            wants_pre_start: options.pre_start_required,
            _task: Arc::new(Aborted(task)),
        }
    }

    /// Which of these it would choose.
    pub(super) async fn preferred(
        &self,
        available: Vec<String>,
        must_include: Vec<String>,
        n_wanted: usize,
    ) -> Result<Vec<String>, Status> {
        let one = api::ContainerPreferredAllocationRequest {
            available_device_i_ds: available,
            must_include_device_i_ds: must_include,
            allocation_size: i32::try_from(n_wanted).unwrap_or(i32::MAX),
        };
        let request = api::PreferredAllocationRequest { container_requests: vec![one] };
        let answer = within(ANSWER_LIMIT, self.client.clone().get_preferred_allocation(request)).await?;
        Ok(answer.container_responses.into_iter().next().map(|one| one.device_i_ds).unwrap_or_default())
    }

    /// What a container gets that is given these.
    pub(super) async fn allocate(&self, ids: Vec<String>) -> Result<api::ContainerAllocateResponse, Status> {
        let one = api::ContainerAllocateRequest { devices_ids: ids };
        let request = api::AllocateRequest { container_requests: vec![one] };
        let answer = within(WORK_LIMIT, self.client.clone().allocate(request)).await?;
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| Status::internal("no containers return in allocation response"))
    }

    pub(super) async fn pre_start(&self, ids: Vec<String>) -> Result<(), Status> {
        let request = api::PreStartContainerRequest { devices_ids: ids };
        within(WORK_LIMIT, self.client.clone().pre_start_container(request)).await.map(drop)
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Hears a plugin's lists until it is gone, and says so.
pub(super) async fn hear(
    devices: Devices,
    mut client: DevicePluginClient<Channel>,
    name: String,
    number: u64,
) {
    // No limit: a server written in Go answers with its first list, which may take a driver's time to make.
    let why = match client.list_and_watch(api::Empty {}).await {
        Err(status) => bottom_of(&status),
        Ok(lists) => hear_all(&devices, lists.into_inner(), &name, number).await,
    };
    devices.on_gone(&name, number, &why);
}

async fn hear_all(
    devices: &Devices,
    mut lists: Streaming<api::ListAndWatchResponse>,
    name: &str,
    number: u64,
) -> String {
    let (mut newest, mut tell_at) = (None, Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(tell_at), if newest.is_some() => {
                if let Some(list) = newest.take() {
                    devices.on_list(name, number, read(list));
                }
                tell_at = Instant::now() + LIST_EVERY;
            }
            // Always read on: HTTP/2 breaks a connection off on which much waits to be read.
            next = lists.message() => match next {
                Ok(Some(list)) => newest = Some(list),
                Ok(None) => return "it ended its list".to_owned(),
                Err(status) => return bottom_of(&status),
            },
        }
    }
}

/// A status in a sentence.
pub(super) fn bottom_of(status: &Status) -> String {
    ke_dmi::bottom_of(status)
}

fn read(list: api::ListAndWatchResponse) -> BTreeMap<String, Device> {
    let numa = |device: &api::Device| {
        device.topology.iter().flat_map(|topology| topology.nodes.iter().map(|node| node.id)).collect()
    };
    let devices = list.devices.into_iter().filter(|device| !device.id.is_empty());
    devices
        .take(MAX_DEVICES)
        .map(|device| {
            let read = Device { healthy: device.health == HEALTHY, numa: numa(&device) };
            (device.id, read)
        })
        .collect()
}
