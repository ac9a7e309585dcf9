//! The outside world in: configuration, store, runtime, sockets; every module built and joined, in the order in which a
//! message from the cloud meets them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use edgecore::admin::Admin;
use edgecore::config::{self, EdgeCoreConfig, EdgedConfig, KubeletConfig};
use edgecore::control::{self, Control};
use edgecore::db::{self, Db, Opened, Synchronous};
use edgecore::device_plugin::{DevicePlugins, Folders};
use edgecore::device_twin::{self, DeviceTwin};
use edgecore::edge_hub::{self, Cloud, DeviceEnds, EdgeHub, Joined};
use edgecore::edge_stream::{self, EdgeStreams, EdgeTunnel};
use edgecore::edged::admission::{AllowedSysctls, Gate};
use edgecore::edged::cgroups::{Driver, Layout, PodCgroups};
use edgecore::edged::cri::{CriClient, Runtime};
use edgecore::edged::hold_upgrade::Holds;
use edgecore::edged::image_folder::ImageFolder;
use edgecore::edged::image_gc::GcPolicy;
use edgecore::edged::images::Images;
use edgecore::edged::log_links::LogLinks;
use edgecore::edged::log_rotation::{Bounds, LogRotation};
use edgecore::edged::logs::Endings;
use edgecore::edged::node_shutdown;
use edgecore::edged::pods_room::PodsRoom;
use edgecore::edged::remove_pods;
use edgecore::edged::resources::CpuQuota;
use edgecore::edged::volumes::Volumes;
use edgecore::edged::{Door, Edged, Parts, Settings};
use edgecore::event_bus::{self, EventBus, Upload};
use edgecore::eviction::{self, Evictor};
use edgecore::kubelet_server::{self, Gauge, KubeletServer, Machine};
use edgecore::meta_manager::{DeviceNews, MetaManager, News, is_refilled, watch_refill};
use edgecore::node::{Host, NodeAgent, NodeConfig, Standing, first_address};
use edgecore::pod_network::{self, PodNetwork};
use edgecore::preflight::{self, Verdict};
use edgecore::report_queue::{self, DeviceReportQueue, ReportQueue};
use edgecore::service_manager;
use edgecore::static_pods::{MirrorPairs, Mirrors, StaticPods};
use k8s_openapi::api::core::v1::Taint;
use ke_api::node::KUBELET_PORT;
use ke_run::config::Loaded;
use ke_run::shutdown::Shutdown;
use ke_run::supervise::Supervisor;
use ke_run::telemetry::{self, Metrics};
use ke_socket::stream::LinkStream;
use ke_wire::NodeName;
use tokio::sync::{mpsc, watch};

/// Where Linux shows cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

fn main() -> ExitCode {
    // A second install fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started = match ke_run::cli::start::<EdgeCoreConfig, Command>(env!("CARGO_PKG_VERSION")) {
        Ok(started) => started,
        Err(code) => return code,
    };
    let loaded = started.loaded;
    match started.command {
        None => ke_run::process::run(run(loaded)),
        Some(Command::Preflight { output }) => ke_run::process::run(preflight(loaded.config, output)),
        Some(Command::Enroll) => ke_run::process::run(enroll(loaded.config)),
        Some(Command::CheckStore) => ke_run::process::run(check_store(loaded.config)),
        Some(Command::RemovePods) => ke_run::process::run(remove_pods(loaded.config)),
        Some(Command::Debug(command)) => ke_run::process::run(debug(loaded.config, command)),
    }
}

/// What only edgecore has; keadm uses all of them.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether this machine can be an edge node with this configuration. Changes nothing.
    Preflight {
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Get this machine its certificate with the join token, if it has none yet.
    Enroll,
    /// Say whether this version can use the store that is there. Changes nothing.
    CheckStore,
    /// End every pod of this machine and remove what is left of it. edgecore must not run.
    RemovePods,
    #[command(flatten)]
    Debug(edgecore::debug::Command),
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

async fn preflight(config: EdgeCoreConfig, output: Output) -> anyhow::Result<()> {
    let edged = &config.modules.edged;
    let kubelet = &edged.tailored_kubelet_config;
    let node = node_name(&edged.hostname_override).map_err(|error| format!("{error:#}"));
    let client = CriClient::connect(&kubelet.container_runtime_endpoint).map_err(|error| error.to_string());
    let runtime = client.as_ref().map(|client| client as &dyn Runtime).map_err(Clone::clone);
    let cgroups =
        PodCgroups::new(layout(kubelet), Path::new(CGROUPS)).map(drop).map_err(|error| error.to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let report =
        preflight::look(&config, node, runtime, cgroups, i64::try_from(now).unwrap_or(i64::MAX)).await;
    match output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => {
            for finding in &report.findings {
                let word = match finding.verdict {
                    Verdict::Ok => "ok     ",
                    Verdict::Warning => "warning",
                    Verdict::Failed => "FAILED ",
                };
                println!("{word} {}", finding.found);
                if !finding.advice.is_empty() {
                    println!("        {}", finding.advice);
                }
            }
        }
    }
    if report.is_good() { Ok(()) } else { bail!("this machine cannot be an edge node yet") }
}

async fn enroll(config: EdgeCoreConfig) -> anyhow::Result<()> {
    telemetry::init(config.logging.format, &config.logging.level)?;
    let name = node_name(&config.modules.edged.hostname_override)?;
    Ok(edge_hub::enroll(&config.modules.edge_hub, name).await?)
}

async fn check_store(config: EdgeCoreConfig) -> anyhow::Result<()> {
    let path = &config.database.data_source;
    db::check(path)?;
    println!("{} can be used", path.display());
    Ok(())
}

async fn debug(config: EdgeCoreConfig, command: edgecore::debug::Command) -> anyhow::Result<()> {
    edgecore::debug::run(&config, command).await
}

async fn remove_pods(config: EdgeCoreConfig) -> anyhow::Result<()> {
    telemetry::init(config.logging.format, &config.logging.level)?;
    // Held until the end: an edgecore that runs, or starts meanwhile, would make the pods anew.
    let address = config.admin.bind_address;
    let _alone = std::net::TcpListener::bind(address)
        .with_context(|| format!("edgecore runs (it holds {address}, admin.bindAddress): stop it first"))?;
    let edged = &config.modules.edged;
    let runtime = CriClient::connect(&edged.tailored_kubelet_config.container_runtime_endpoint)?;
    let cgroups = cgroups(&edged.tailored_kubelet_config);
    let logs = &edged.tailored_kubelet_config.pod_logs_dir;
    let n_pods = remove_pods::remove_pods(&runtime, &edged.root_directory, logs, cgroups.as_ref()).await?;
    Folders::new(&edged.device_plugins_dir, &edged.root_directory)
        .remove()
        .context("remove the sockets for device plugins")?;
    // Also of a network that was managed once.
    pod_network::remove(&edged.pod_network.conf_dir)?;
    println!("{n_pods} pods were removed");
    Ok(())
}

async fn run(Loaded { config, warnings }: Loaded<EdgeCoreConfig>) -> anyhow::Result<()> {
    telemetry::init(config.logging.format, &config.logging.level)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "edgecore must run as root: it makes mounts and cgroups for pods. Start it with sudo or as a system service"
        );
    }
    // Who is asked to stop ends the pods first when the machine goes down, with everything else still at work.
    let asked = Shutdown::on_signals().context("listen for signals")?;
    let (stop, shutdown) = Shutdown::new();
    let mut tasks = Supervisor::new(shutdown);
    let mut metrics = Metrics::new();

    let edged_config = &config.modules.edged;
    let kubelet = &edged_config.tailored_kubelet_config;
    let name = node_name(&edged_config.hostname_override)?;
    let wanted_ip: Option<IpAddr> = edged_config.node_ip.parse().ok();
    let host = Host::read(&edged_config.root_directory);
    for sentence in edgecore::node::nothing_left(&host, &kubelet.eviction_hard, &kubelet.reserved()) {
        tracing::warn!("{sentence}; pods that ask for any of it stay Pending");
    }

    let runtime: Arc<dyn Runtime> = Arc::new(CriClient::connect(&kubelet.container_runtime_endpoint)?);
    if let Err(error) = runtime.version().await {
        // Not the end: the runtime may come up after us, and the Node says so until then.
        tracing::error!(%error, "the container runtime does not answer; pods wait for it");
    }

    if config.database.synchronous == Synchronous::Off {
        tracing::warn!(
            "database.synchronous is off: a power cut loses what the cloud believes to be kept here"
        );
    }
    let (db, opened) = Db::open(&config.database.data_source, config.database.synchronous)?;
    match &opened {
        Opened::Existing => {}
        Opened::Fresh => tracing::info!("a fresh store was begun"),
        Opened::SetAside(aside, why) => tracing::error!(
            "the store could not be read ({why}); it was set aside as {} and the cloud refills a fresh one",
            aside.display()
        ),
    }
    let aside = edgecore::db::last_aside(&config.database.data_source);
    match edgecore::meta_manager::import(&db, aside.as_deref()).await {
        Ok(None) => {}
        Ok(Some(taken)) => tracing::info!(
            n_unreadable = taken.n_unreadable,
            "the store that was set aside was KubeEdge's: {} objects were taken from it",
            taken.n_objects
        ),
        Err(error) => tracing::debug!(%error, "nothing was taken from the store that was set aside"),
    }

    let device_counters = device_twin::Counters::new(&mut metrics);
    let stream_counters = edge_stream::counters(&mut metrics);
    let (cloud, inbox) = Cloud::channel();
    let (standing, told_of_node) = watch::channel(Standing::Unknown);
    let admin =
        Admin::bind(config.admin.bind_address, metrics, cloud.clone(), Arc::clone(&runtime), told_of_node)
            .await?;

    // Full: MetaManager waits, so acknowledgements do, so the cloud does.
    let (news, told) = mpsc::channel::<News>(256);
    let (node_news, nodes) = watch::channel(None);
    // Full: as above.
    let (device_news, devices_told) = mpsc::channel::<DeviceNews>(256);
    let (meta, meta_manager) =
        MetaManager::new(db.clone(), name.clone(), cloud.clone(), news, device_news, node_news);
    let (reports, outbox, report_queue) = ReportQueue::new(db.clone()).await?;
    let (device_reports, device_outbox, device_report_queue) =
        DeviceReportQueue::new(db.clone(), device_counters.dropped.clone());
    // Full: dropped with a word; each connection brings all of it.
    let (membership, memberships) = mpsc::channel(64);
    let known = meta.node(&name).await?;
    let joined = if known.is_some() { Joined::Before } else { Joined::Never };
    let hub_config = config.modules.edge_hub.clone();
    let device_ends = DeviceEnds { outbox: device_outbox, membership };
    let edge_hub = EdgeHub::new(hub_config, name.clone(), joined, inbox, meta.clone(), outbox, device_ends);
    // Full: the publisher's acknowledgement waits.
    let (hear, heard) = mpsc::channel(512);
    // Full: dropped and counted by EventBus.
    let (upload, uploads) = mpsc::channel::<Upload>(256);
    let (bus, event_bus) = EventBus::new(config.modules.event_bus.clone(), db.clone(), hear, upload);
    let device_twin = if config.modules.device_twin.enable {
        let parts = device_twin::Parts {
            config: config.modules.device_twin.clone(),
            node: name.clone(),
            db: db.clone(),
            held: meta.devices().await?,
            news: devices_told,
            membership: memberships,
            heard,
            bus,
            reports: device_reports,
            cloud: cloud.clone(),
            counters: device_counters,
        };
        Some(DeviceTwin::new(parts).await?)
    } else {
        None
    };
    let pods = meta.pods().await?;
    tracing::info!(node = %name, n_pods = pods.len(), "edgecore starts with what its store holds");
    let statuses = report_queue::last_pod_statuses(&db).await?;
    let pods = pods.into_iter().map(|pod| report_queue::with_status(pod, &statuses)).collect();
    // A store that is new or was lost says nothing about what should run here.
    let (is_full, store_is_full) = watch::channel(is_refilled(&db).await?);
    let (refill_cloud, refill_db) = (cloud.clone(), db.clone());
    let (addresses, host_ips) = watch::channel(vec![first_address(wanted_ip, known.as_ref())]);
    let objects = Arc::new(meta.clone());
    let image_folder = ImageFolder {
        // Beside the store: /var/lib/kubeedge/images unless the store lies elsewhere.
        folder: config.database.data_source.with_file_name("images"),
        runtime: Arc::clone(&runtime),
        endpoint: kubelet.container_runtime_endpoint.clone(),
        program_folders: std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
    };
    let folders = Folders::new(&edged_config.device_plugins_dir, &edged_config.root_directory);
    let (static_set, static_pods) = StaticPods::new(kubelet.static_pod_path.clone(), &name);
    let boot = host.boot_id.clone();
    let (devices, device_plugins) =
        DevicePlugins::new(folders, db.clone(), boot, meta.clone(), static_set.clone()).await?;
    let (holds, releases) = Holds::channel(name.clone());
    let (mirror_pairs, pairs_shown) = watch::channel(MirrorPairs::default());
    let mirrors = Mirrors::new(pairs_shown, cloud.clone(), meta.clone(), reports.clone(), name.clone());
    let gate = Gate {
        node: known.clone().map(Arc::new),
        allocatable: edgecore::node::allocatable(&host, &kubelet.eviction_hard, &kubelet.reserved()),
        max_pods: kubelet.max_pods.to_u32(),
        sysctls: AllowedSysctls::new(&host.kernel_version, &kubelet.allowed_unsafe_sysctls)?,
        has_apparmor: host.has_apparmor,
    };
    let bounds = Bounds {
        max_bytes: kubelet.container_log_max_size.bytes(),
        max_files: kubelet.container_log_max_files.to_usize(),
        interval: kubelet.container_log_monitor_interval.get(),
    };
    let log_rotation = LogRotation::new(Arc::clone(&runtime), kubelet.pod_logs_dir.clone(), bounds);
    let reserved = kubelet.reserved();
    let n_cpus = u64::try_from(host.n_cpus).unwrap_or(u64::MAX);
    let machine = (n_cpus.saturating_mul(1000), host.memory_bytes);
    let room = PodsRoom::new(machine, (reserved.cpu.millis(), reserved.memory.bytes()));
    let cgroups = cgroups(kubelet).map(|cgroups| cgroups.with_room(room));
    if let Some(cgroups) = cgroups.clone() {
        tokio::spawn(cgroups.limit_slice("systemctl"));
    }
    let log_links = LogLinks::new(Arc::clone(&runtime), kubelet.pod_logs_dir.clone());
    let edged = Edged::new(Parts {
        settings: settings(edged_config, &name, &host),
        runtime: Arc::clone(&runtime),
        images: Images::new(Arc::clone(&runtime), parallel_pulls(kubelet)),
        files: Arc::new(Volumes::new(edged_config.root_directory.clone(), Arc::clone(&objects) as _)),
        devices: Arc::new(devices.clone()),
        objects,
        cgroups,
        reports: reports.clone(),
        news: told,
        pods,
        door: Door { static_pods: static_set.clone(), mirror_pairs, gate, releases },
        store_is_full,
        host_ips,
    });
    let periods = kubelet.shutdown_periods();
    let systemd = std::env::var_os("NOTIFY_SOCKET");
    tokio::spawn(service_manager::ask_for_time(asked.clone(), systemd, periods.clone()));
    tokio::spawn(node_shutdown::pass_on(asked, stop, edged.keeper(), periods));
    let sources = control::Sources {
        meta: meta.clone(),
        static_pods: static_set.clone(),
        db: db.clone(),
        runtime: Arc::clone(&runtime),
        pod_logs_root: kubelet.pod_logs_dir.clone(),
        holds,
    };
    let gauge = Arc::new(Gauge::new(Machine {
        node_name: name.to_string(),
        n_cpus: host.n_cpus,
        memory_bytes: host.memory_bytes,
        root_dir: edged_config.root_directory.clone(),
        pod_logs_root: kubelet.pod_logs_dir.clone(),
        layout: layout(kubelet),
        cgroups: CGROUPS.into(),
        proc: "/proc".into(),
        volume_period: kubelet.volume_stats_agg_period.get(),
    }));
    let (short_of, pressures) = watch::channel(None);
    let evictor = Evictor::new(eviction::Parts {
        limits: limits(kubelet),
        transition: transition(kubelet),
        max_grace_secs: kubelet.eviction_max_pod_grace_period.get(),
        images: image_policy(kubelet),
        sandbox_image: edged_config.pod_sandbox_image.clone(),
        image_folder: image_folder.folder.clone(),
        node_name: name.to_string(),
        runtime: Arc::clone(&runtime),
        gauge: Arc::clone(&gauge),
        keeper: edged.keeper(),
        reports,
        pressures: short_of,
    });
    let kubelet_sources = kubelet_server::Sources {
        meta: meta.clone(),
        static_pods: static_set,
        db: db.clone(),
        runtime: Arc::clone(&runtime),
        pod_logs_root: kubelet.pod_logs_dir.clone(),
        endings: Endings::new(Arc::clone(&runtime)),
        gauge,
        probes: edged.probe_counts(),
        numbers: Box::new(admin.numbers()),
    };
    let port = Some(kubelet.read_only_port).filter(|port| *port != 0);
    let face = port.map(|port| SocketAddr::new(kubelet.address, port));
    let (kubelet_handle, kubelet_server) = KubeletServer::new(face, kubelet_sources);
    let tunnelled = kubelet_handle.clone();
    let edge_tunnel = EdgeTunnel {
        config: config.modules.edge_stream.clone(),
        hub: config.modules.edge_hub.clone(),
        node: name.clone(),
        addresses: addresses.subscribe(),
        link: cloud.state(),
        kubelet: Arc::new(move |stream| {
            let kubelet = tunnelled.clone();
            // As many as the server has room for, as below.
            tokio::spawn(async move { kubelet.serve(stream).await });
        }),
    };
    let to_kubelet = move |stream: LinkStream| {
        let kubelet = kubelet_handle.clone();
        // As many as the server has room for; one more is answered so, and ends. Each ends with its link.
        tokio::spawn(async move { kubelet.serve(stream).await });
    };
    let edge_hub = edge_hub.with_streams(EdgeStreams::new(Arc::new(to_kubelet), stream_counters));
    let control = match Control::bind(&config.control_socket(), sources) {
        Ok(control) => Some(control),
        // Pods matter more.
        Err(error) => {
            tracing::error!(%error, "keadm ctl will not reach this edgecore");
            None
        }
    };
    let node_config = NodeConfig {
        labels: edged_config.node_labels.clone(),
        taints: taints(edged_config.register_schedulable, kubelet.register_with_taints.clone()),
        max_pods: kubelet.max_pods.to_u32(),
        status_period: kubelet.node_status_update_frequency.get(),
        report_period: kubelet.node_status_report_frequency.get(),
        lease_duration: kubelet.node_lease_duration_seconds.secs(),
        eviction_hard: kubelet.eviction_hard,
        reserved: kubelet.reserved(),
        kubelet_port: KUBELET_PORT,
        asks_for_pod_range: edged_config.pod_network.manage,
    };
    let pod_network = edged_config
        .pod_network
        .manage
        .then(|| PodNetwork::new(&edged_config.pod_network, known.as_ref(), nodes.clone()));
    let node = NodeAgent::new(
        node_config,
        name,
        host,
        cloud.clone(),
        meta,
        runtime,
        nodes,
        known,
        wanted_ip,
        addresses,
        standing,
        pressures,
    )
    .with_devices(devices.amounts());

    tasks.add("meta_manager", |stop| meta_manager.run(stop));
    tasks.add("refill", |stop| watch_refill(refill_cloud, refill_db, is_full, stop));
    tasks.add("device_plugins", |stop| device_plugins.run(stop));
    tasks.add("edged", |stop| edged.run(stop));
    tasks.add("eviction", |stop| evictor.run(stop));
    tasks.add("log_rotation", |stop| log_rotation.run(stop));
    tasks.add("log_links", |stop| log_links.run(stop));
    tasks.add("static_pods", |stop| static_pods.run(stop));
    tasks.add("mirrors", |stop| mirrors.run(stop));
    tasks.add("image_folder", |stop| image_folder.run(stop));
    tasks.add("event_bus", |stop| event_bus.run(stop));
    let rules = cloud.clone();
    tasks.add("mqtt_uploads", |stop| event_bus::pass_on(uploads, rules, stop));
    if let Some(device_twin) = device_twin {
        tasks.add("device_twin", |stop| device_twin.run(stop));
    }
    tasks.add("report_queue", |stop| report_queue.run(stop));
    tasks.add("device_reports", |stop| device_report_queue.run(stop));
    if config.modules.edge_hub.enable {
        tasks.add("edge_hub", |stop| edge_hub.run(stop));
        tasks.add("edge_stream", |stop| edge_tunnel.run(stop));
    }
    if kubelet.register_node {
        tasks.add("node", |stop| node.run(stop));
    }
    if let Some(pod_network) = pod_network {
        tasks.add("pod_network", |stop| pod_network.run(stop));
    }
    tasks.add("admin", |stop| admin.run(stop));
    tasks.add("kubelet_server", |stop| kubelet_server.run(stop));
    if let Some(control) = control {
        tasks.add("control", |stop| control.run(stop));
    }
    tasks.join().await
}

fn node_name(wanted: &str) -> anyhow::Result<NodeName> {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = if wanted.is_empty() { machine.trim().to_lowercase() } else { wanted.to_owned() };
    text.parse().with_context(|| {
        let key = "modules.edged.hostnameOverride";
        format!(
            "{key}: set it to a valid node name (now {text:?}, from {})",
            if wanted.is_empty() { "the machine's host name" } else { key }
        )
    })
}

fn settings(config: &EdgedConfig, name: &NodeName, host: &Host) -> Settings {
    let kubelet = &config.tailored_kubelet_config;
    let has_resolv_conf = !kubelet.resolv_conf.as_os_str().is_empty();
    Settings {
        node_name: name.to_string(),
        pod_logs_root: kubelet.pod_logs_dir.clone(),
        cluster_dns: kubelet.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: kubelet.cluster_domain.clone(),
        resolv_conf: has_resolv_conf.then(|| kubelet.resolv_conf.clone()),
        cpu: CpuQuota::default(),
        seccomp_root: config.root_directory.join("seccomp"),
        seccomp_default: false,
        n_cpus: host.n_cpus,
        memory_capacity: i64::try_from(host.memory_bytes).unwrap_or(i64::MAX),
        allocatable: edgecore::node::allocatable(host, &kubelet.eviction_hard, &kubelet.reserved()),
        n_pids: Some(kubelet.pod_pids_limit.get()).filter(|n_pids| *n_pids > 0),
    }
}

fn limits(kubelet: &KubeletConfig) -> Vec<config::Limit> {
    config::limits(
        &kubelet.eviction_hard,
        &kubelet.eviction_soft,
        &kubelet.eviction_soft_grace_period,
        &kubelet.eviction_minimum_reclaim,
    )
}

/// A kubelet takes 0 for its default.
fn transition(kubelet: &KubeletConfig) -> Duration {
    let asked = kubelet.eviction_pressure_transition_period.get();
    if asked.is_zero() { KubeletConfig::default().eviction_pressure_transition_period.get() } else { asked }
}

fn image_policy(kubelet: &KubeletConfig) -> GcPolicy {
    GcPolicy {
        high_percent: u64::from(kubelet.image_gc_high_threshold_percent.to_u32()),
        low_percent: u64::from(kubelet.image_gc_low_threshold_percent.to_u32()),
        min_age: kubelet.image_minimum_gc_age.get(),
        max_age: Some(kubelet.image_maximum_gc_age.get()).filter(|age| !age.is_zero()),
    }
}

fn parallel_pulls(kubelet: &KubeletConfig) -> usize {
    match kubelet.max_parallel_image_pulls {
        Some(n_pulls) if !kubelet.serialize_image_pulls => n_pulls.to_usize(),
        _ => 1,
    }
}

/// `None` where the machine offers no cgroups that may be written: pods then run without limits, which is told.
fn cgroups(kubelet: &KubeletConfig) -> Option<PodCgroups> {
    match PodCgroups::new(layout(kubelet), Path::new(CGROUPS)) {
        Ok(cgroups) => Some(cgroups),
        Err(error) => {
            tracing::error!(%error, "pods run without limits of their own");
            None
        }
    }
}

fn layout(kubelet: &KubeletConfig) -> Layout {
    let driver = match kubelet.cgroup_driver {
        config::CgroupDriver::Cgroupfs => Driver::Cgroupfs,
        config::CgroupDriver::Systemd => Driver::Systemd,
    };
    Layout { driver, root: kubelet.cgroup_root.clone(), per_qos: kubelet.cgroups_per_qos }
}

fn taints(is_schedulable: bool, mut taints: Vec<Taint>) -> Vec<Taint> {
    if !is_schedulable {
        taints.push(Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
    }
    taints
}
