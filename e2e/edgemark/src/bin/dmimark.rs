//! A simulated mapper: reports values of many devices to an edgecore, as fast as they are taken or at a pace, and says what
//! was acknowledged and how long a value took to a local MQTT subscriber. It prints one JSON object at its end.
//!
//! The devices must be in the cluster, or come there. With `--serve` it registers, and takes whatever edgecore tells it; without,
//! it is somebody who reports and whom nobody knows. Called by `make bench`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hyper_util::rt::TokioIo;
use ke_dmi::v1beta1 as dmi;
use ke_dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use ke_dmi::v1beta1::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

#[derive(Clone, Debug, Parser)]
#[command(about = "A simulated mapper against an edgecore")]
struct Args {
    /// Edgecore's socket.
    #[arg(long)]
    socket: PathBuf,
    /// Namespace of the devices.
    #[arg(long, default_value = "mark")]
    namespace: String,
    /// Devices are named `mark-000` and so on. 1 to 10000.
    #[arg(long)]
    devices: u32,
    /// Properties are named `p0` and so on; each report holds all of them. 1 to 100.
    #[arg(long)]
    properties: u32,
    /// It ends after this long. 1 to 3600.
    #[arg(long)]
    seconds: u64,
    /// Milliseconds between two reports of one device; 0: as soon as the last one was taken.
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// Edgecore's MQTT broker: how long until a subscriber there has the value.
    #[arg(long)]
    mqtt: Option<SocketAddr>,
    /// Registers for the protocol `mark` and listens on this socket.
    #[arg(long)]
    serve: Option<PathBuf>,
}

/// When which number of a device was sent, for the subscriber.
type Sent = Arc<Mutex<HashMap<(String, u64), Instant>>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dmimark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Value> {
    ensure!((1..=10_000).contains(&args.devices), "--devices: {} is not from 1 to 10000", args.devices);
    ensure!((1..=100).contains(&args.properties), "--properties: {} is not from 1 to 100", args.properties);
    ensure!((1..=3600).contains(&args.seconds), "--seconds: {} is not from 1 to 3600", args.seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(measure(args))
}

async fn measure(args: &Args) -> Result<Value> {
    let sent: Sent = Arc::default();
    let latencies: Arc<Mutex<Vec<f64>>> = Arc::default();
    if let Some(broker) = args.mqtt {
        let ready = subscribe(broker, &args.namespace, Arc::clone(&sent), Arc::clone(&latencies));
        ready.await.context("subscribe at edgecore's MQTT broker")?;
    }
    let channel = channel(args.socket.clone());
    if let Some(socket) = &args.serve {
        register(channel.clone(), socket).await.context("register at edgecore")?;
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let mut tasks = JoinSet::new();
    for number in 0..args.devices {
        let client = DeviceManagerServiceClient::new(channel.clone());
        let offset = Duration::from_millis(args.pace * u64::from(number) / u64::from(args.devices));
        let device = format!("mark-{number:03}");
        tasks.spawn(report(client, args.clone(), device, end, Arc::clone(&sent), offset));
    }
    let (mut acknowledged, mut n_reports, mut n_errors) = (serde_json::Map::new(), 0, 0);
    while let Some(done) = tasks.join_next().await {
        let done = done.context("a device's task")?;
        n_reports += done.last;
        n_errors += done.n_errors;
        acknowledged.insert(done.device, done.last.into());
    }
    let seconds = start.elapsed().as_secs_f64();
    // What is on its way to the subscriber.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(json!({
        "seconds": seconds, "reports": n_reports, "values": n_reports * u64::from(args.properties), "errors": n_errors,
        "acknowledged": acknowledged, "mqtt_ms": latencies,
    }))
}

struct Done {
    device: String,
    /// The last number that was acknowledged; each was.
    last: u64,
    n_errors: u64,
}

async fn report(
    mut client: DeviceManagerServiceClient<Channel>,
    args: Args,
    device: String,
    end: Instant,
    sent: Sent,
    offset: Duration,
) -> Done {
    let (mut last, mut n_errors) = (0, 0);
    // Spread over the pace: devices do not all speak at once.
    tokio::time::sleep(offset).await;
    while Instant::now() < end {
        let number = last + 1;
        let half =
            |value: String| Some(dmi::TwinProperty { value, metadata: std::collections::BTreeMap::new() });
        let twins = (0..args.properties).map(|property| dmi::Twin {
            property_name: format!("p{property}"),
            observed_desired: half(String::new()),
            reported: half(number.to_string()),
        });
        let request = dmi::ReportDeviceStatusRequest {
            device_name: device.clone(),
            device_namespace: args.namespace.clone(),
            reported_device: Some(dmi::DeviceStatus {
                twins: twins.collect(),
                report_to_cloud: false,
                report_cycle: 0,
            }),
        };
        if args.mqtt.is_some() {
            sent.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert((device.clone(), number), Instant::now());
        }
        let call = tokio::time::timeout(Duration::from_secs(5), client.report_device_status(request));
        if matches!(call.await, Ok(Ok(_))) {
            last = number;
            tokio::time::sleep(Duration::from_millis(args.pace)).await;
        } else {
            // Killed, or not up yet: the same number again. Whoever has time does not storm an edgecore without the device.
            n_errors += 1;
            tokio::time::sleep(Duration::from_millis(args.pace.clamp(20, 10_000))).await;
        }
    }
    Done { device, last, n_errors }
}

async fn register(channel: Channel, socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
    let server = Server::builder().add_service(DeviceMapperServiceServer::new(TakesAll));
    tokio::spawn(async move { server.serve_with_incoming(ke_dmi::incoming(listener)).await });
    let mapper = dmi::MapperInfo {
        name: "dmimark".into(),
        protocol: "mark".into(),
        address: socket.to_string_lossy().into_owned().into_bytes(),
        ..Default::default()
    };
    let request = dmi::MapperRegisterRequest { with_data: false, mapper: Some(mapper) };
    DeviceManagerServiceClient::new(channel).mapper_register(request).await?;
    Ok(())
}

/// A mapper that is content with everything.
struct TakesAll;

type Answer<T> = Result<Response<T>, Status>;

fn taken<T: Default>() -> Answer<T> {
    Ok(Response::new(T::default()))
}

#[tonic::async_trait]
impl DeviceMapperService for TakesAll {
    async fn register_device(
        &self,
        _: Request<dmi::RegisterDeviceRequest>,
    ) -> Answer<dmi::RegisterDeviceResponse> {
        taken()
    }

    async fn remove_device(&self, _: Request<dmi::RemoveDeviceRequest>) -> Answer<dmi::RemoveDeviceResponse> {
        taken()
    }

    async fn update_device(&self, _: Request<dmi::UpdateDeviceRequest>) -> Answer<dmi::UpdateDeviceResponse> {
        taken()
    }

    async fn create_device_model(
        &self,
        _: Request<dmi::CreateDeviceModelRequest>,
    ) -> Answer<dmi::CreateDeviceModelResponse> {
        taken()
    }

    async fn remove_device_model(
        &self,
        _: Request<dmi::RemoveDeviceModelRequest>,
    ) -> Answer<dmi::RemoveDeviceModelResponse> {
        taken()
    }

    async fn update_device_model(
        &self,
        _: Request<dmi::UpdateDeviceModelRequest>,
    ) -> Answer<dmi::UpdateDeviceModelResponse> {
        taken()
    }

    async fn get_device(&self, _: Request<dmi::GetDeviceRequest>) -> Answer<dmi::GetDeviceResponse> {
        taken()
    }
}

/// Connects when first used and again whenever the socket was lost.
fn channel(socket: PathBuf) -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// Returns once the subscription stands.
async fn subscribe(
    broker: SocketAddr,
    namespace: &str,
    sent: Sent,
    latencies: Arc<Mutex<Vec<f64>>>,
) -> Result<()> {
    let mut options = MqttOptions::new("dmimark", (broker.ip().to_string(), broker.port()));
    options.set_keep_alive(30);
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    client.subscribe(format!("$hw/events/device/{namespace}/+/twin/update/result"), QoS::AtMostOnce).await?;
    let (standing, stands) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let _client = client;
        let mut standing = Some(standing);
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Packet::SubAck(_)) => drop(standing.take().map(|standing| standing.send(()))),
                Event::Incoming(Packet::Publish(publish)) => {
                    let now = Instant::now();
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let device = topic.split('/').nth(4).unwrap_or_default().to_owned();
                    let body: Value = serde_json::from_slice(&publish.payload).unwrap_or_default();
                    let value = body.pointer("/twin/p0/actual/value").and_then(Value::as_str);
                    let number = value.and_then(|value| value.parse().ok()).unwrap_or_default();
                    let began = sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&(device, number));
                    if let Some(began) = began {
                        let took = now.duration_since(began).as_secs_f64() * 1e3;
                        latencies.lock().unwrap_or_else(PoisonError::into_inner).push(took);
                    }
                }
                _ => {}
            }
        }
    });
    stands.await.context("no answer to the subscription")
}
