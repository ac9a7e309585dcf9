//! cloudcore: the outside world in, every module built and joined, in the order in which an object meets them.
//! Decides nothing; ends the process.

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use cloudcore::admin::{Admin, Readiness};
use cloudcore::cloud_hub::in_cluster::InCluster;
use cloudcore::cloud_hub::{CloudHub, Counters, Parts};
use cloudcore::cloud_stream::{self, CloudStream, GoTunnels, TunnelPort, Ways};
use cloudcore::cluster;
use cloudcore::config::CloudCoreConfig;
use cloudcore::device_controller::conversion::{self, ConversionError, ConversionWebhook};
use cloudcore::device_controller::{DeviceController, KnownNodes};
use cloudcore::device_inbox::DeviceInbox;
use cloudcore::edge_controller::{EdgeController, Settings, Upstream};
use cloudcore::gate::Authority;
use cloudcore::kubelet_endpoints::KubeletEndpoints;
use cloudcore::node_queue::{Ledger, NodeQueueKeeper, ObjectSyncLedger};
use cloudcore::sync_controller::SyncController;
use cloudcore::tunnels::{self, Tunnels};
use ke_run::cli::NoCommands;
use ke_run::shutdown::Shutdown;
use ke_run::supervise::Supervisor;
use ke_run::telemetry::{self, Metrics};
use tokio::net::TcpListener;

fn main() -> ExitCode {
    let loaded = match ke_run::cli::start::<CloudCoreConfig, NoCommands>(env!("CARGO_PKG_VERSION")) {
        Ok(started) => started.loaded,
        Err(ended) => return ended,
    };
    let logging = &loaded.config.logging;
    // The client library logs each failed call on its own; whoever made the call says it better. The file's word wins.
    let level =
        format!("kube_client=off,{}", logging.level).parse().unwrap_or_else(|_| logging.level.clone());
    if let Err(cause) = telemetry::init(logging.format, &level) {
        return ke_run::process::fail(&cause.into());
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    ke_run::process::run(serve(loaded.config))
}

async fn serve(config: CloudCoreConfig) -> anyhow::Result<()> {
    // The only provider in the tree; a second installation would be the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let shutdown = Shutdown::on_signals().context("listen for signals")?;

    // Sockets first: a port in use is the quickest thing to find out.
    let monitor = config.common_config.monitor_server.bind_address;
    let monitor = TcpListener::bind(monitor)
        .await
        .with_context(|| format!("cannot listen on {monitor} (commonConfig.monitorServer.bindAddress)"))?;
    let cluster = tokio::select! {
        () = shutdown.wait() => return Ok(()),
        connected = cluster::connect(&config.kube_api_config) => connected?,
    };
    cluster::prepare(&cluster.client).await?;

    let mut metrics = Metrics::new();
    let readiness = Readiness::default();
    let mut tasks = Supervisor::new(shutdown.clone());

    let advertised: Option<IpAddr> = config.modules.cloud_hub.advertised().next();
    let is_placing = config.modules.edge_controller.enable;
    let found = cluster.own_address.filter(|address| !address.is_loopback());
    let found = found.or(advertised).or(cluster.own_address);
    let stream_config = config.modules.cloud_stream;
    let go_tunnels = GoTunnels::new(&mut metrics);
    let (endpoints, cloud_stream) = if stream_config.enable && is_placing {
        let (endpoints, module) = CloudStream::bind(stream_config.clone(), found, &mut metrics)?;
        (endpoints, Some(module))
    } else {
        (KubeletEndpoints::off(), None)
    };
    let settings = Settings {
        endpoints,
        api_server_ca: cluster.ca.clone(),
        address: advertised.or(cluster.own_address).map(|address| address.to_string()).unwrap_or_default(),
        pod_toleration_secs: config.modules.edge_controller.pod_toleration_secs.map(|secs| secs.to_u32()),
        pod_ranges: config.modules.edge_controller.pod_cidr.pool().ok().flatten(),
        admission_toleration_secs: cluster::admission_toleration_secs(&cluster.client).await,
    };
    let (ledger, ledger_writer) = ObjectSyncLedger::open(cluster.client.clone()).await?;
    let ledger = Arc::new(ledger);
    let (queues, nodes, queue_keeper) = NodeQueueKeeper::new(Arc::clone(&ledger) as Arc<dyn Ledger>);
    let (upstream, inbox) = Upstream::channel();
    let (devices, reports) = DeviceInbox::channel();
    let (edge_controller, edge_controller_handle, graph) = EdgeController::new(
        cluster.client.clone(),
        queues.clone(),
        devices.clone(),
        inbox,
        settings,
        &mut metrics,
    );
    let known_nodes = is_placing
        .then(|| KnownNodes { graph: graph.clone(), edge_controller: edge_controller_handle.clone() });
    let device_controller =
        DeviceController::new(cluster.client.clone(), queues, reports, known_nodes, &mut metrics);
    let sync_controller = SyncController::new(
        cluster.client.clone(),
        edge_controller_handle.clone(),
        devices.clone(),
        graph.clone(),
        Arc::clone(&ledger) as Arc<dyn Ledger>,
    );

    let in_cluster = Arc::new(InCluster::new(cluster.client.clone()));
    let mut hub_config = config.modules.cloud_hub;
    if hub_config.advertised().next().is_none() {
        hub_config.advertise_address.extend(cluster.own_address.map(|address| address.to_string()));
    }
    let authority = Arc::new(Authority::open(&hub_config, &*in_cluster).await?);
    let conversion = &config.modules.device_controller.conversion;
    let conversion = if conversion.enable {
        let client = cluster.client.clone();
        match ConversionWebhook::bind(conversion, &authority, cluster.own_address, client, &mut metrics) {
            Ok(webhook) => Some(webhook),
            // Everything else works without it.
            Err(cause @ ConversionError::Nowhere) => {
                tracing::warn!("devices of v1alpha2 are not converted: {cause}");
                None
            }
            Err(cause) => return Err(cause.into()),
        }
    } else {
        None
    };
    let tunnels = Tunnels::new(tunnels::counters(&mut metrics));
    let stream_parts = cloud_stream::Parts {
        client: cluster.client.clone(),
        graph: graph.clone(),
        edge_controller: edge_controller_handle.clone(),
        dial: Arc::new(Ways { tunnels: tunnels.clone(), go: go_tunnels.clone() }),
        authority: Arc::clone(&authority),
    };
    let tunnel_port = match cloud_stream {
        Some(_) => {
            let pins = Arc::clone(&in_cluster) as _;
            Some(TunnelPort::bind(&stream_config, &authority, pins, go_tunnels)?)
        }
        None => None,
    };
    let parts = Parts {
        authority,
        secrets: Arc::clone(&in_cluster) as _,
        pins: Arc::clone(&in_cluster) as _,
        nodes: in_cluster,
        queues: nodes,
        upstream,
        devices,
        tunnels,
        graph: Arc::new(graph),
        counters: Arc::new(Counters::new(&mut metrics)),
    };
    let cloud_hub = CloudHub::bind(hub_config, parts)?;

    let caches = readiness.gate("the first lists of nodes, pods, config maps and secrets");
    if is_placing {
        tasks.add("edge_controller", |stop| edge_controller.run(stop));
    } else {
        // With it goes its inbox: what nodes ask is refused at once instead of waiting for nobody.
        drop(edge_controller);
    }
    if config.modules.device_controller.enable {
        tasks.add("device_controller", |stop| device_controller.run(stop));
    } else {
        // With it goes its inbox: reports have no effect, and are not confirmed.
        drop(device_controller);
    }
    if let Some(conversion) = conversion {
        tasks.add("conversion", |stop| conversion.run(stop));
    } else {
        let client = cluster.client.clone();
        tasks.add("definitions", |stop| conversion::bring_definitions_up_to_date(client, stop));
    }
    let placed = edge_controller_handle.clone();
    tasks.add("readiness", |stop| async move {
        tokio::select! {
            () = stop.wait() => {}
            () = placed.wait_complete() => caches.open(),
        }
        stop.wait().await;
        Ok::<_, anyhow::Error>(())
    });
    tasks.add("node_queue", |stop| queue_keeper.run(stop));
    tasks.add("ledger", |stop| ledger_writer.run(ledger, stop));
    tasks.add("cloud_hub", move |stop| async move {
        // Sockets are open already: who dials now waits a moment. A node that were let in before its Pods are known would
        // be told that they are gone.
        if is_placing {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = edge_controller_handle.wait_complete() => {}
            }
        }
        cloud_hub.run(stop).await
    });
    if let Some(cloud_stream) = cloud_stream {
        tasks.add("cloud_stream", |stop| cloud_stream.run(stream_parts, stop));
    }
    if let Some(tunnel_port) = tunnel_port {
        tasks.add("kubeedge_tunnels", |stop| tunnel_port.run(stop));
    }
    if config.modules.sync_controller.enable {
        tasks.add("sync_controller", |stop| sync_controller.run(stop));
    }
    tasks.add("admin", |stop| Admin::new(monitor, readiness, metrics).run(stop));
    tasks.join().await
}
