//! cloudcore and edgecore as processes, each with its files, ports and state inside one directory.
//!
//! The binaries are built before (`cargo build`); environment variables name others, such as a peer's. Configuration
//! files are JSON, which is YAML. Called by stories and benchmarks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::leftovers::unmount_below;
use crate::process::Process;
pub use crate::program::{binary, stripped};
use crate::run_dir::RunDir;
use crate::runtime::Runtime;
use crate::wait::{Seen, eventually};
use crate::{images, process};

/// Where cloudcore keeps its secrets, as KubeEdge does.
const NAMESPACE: &str = "kubeedge";

pub struct CloudCore {
    pub process: Process,
    websocket: SocketAddr,
    https: SocketAddr,
    monitor: SocketAddr,
    config: PathBuf,
    run_dir: RunDir,
}

impl CloudCore {
    /// Starts it beside the control plane. `more` is laid over the configuration, key by key.
    pub fn start(cluster: &Cluster, more: &Value) -> Result<Self> {
        let mut core = Self::prepare(cluster.kubeconfig(), more)?;
        core.process.start()?;
        Ok(core)
    }

    /// Writes its files without starting it, for stories that change them or expect it to refuse.
    pub fn prepare(kubeconfig: &Path, more: &Value) -> Result<Self> {
        let run_dir = RunDir::new("cloudcore")?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let websocket = local(run_dir.port()?);
        let https = local(run_dir.port()?);
        let monitor = local(run_dir.port()?);
        let file = |name: &str| run_dir.join(name);
        // For the first nodes; later ones share `streamPort`.
        let mut kubelet_ports = Vec::new();
        for _ in 0..4 {
            kubelet_ports.push(run_dir.port()?.to_string());
        }
        let mut config = json!({
            "apiVersion": "cloudcore.config.kubeedge.io/v1alpha2",
            "kind": "CloudCore",
            "kubeAPIConfig": {"kubeConfig": kubeconfig},
            "commonConfig": {"monitorServer": {"bindAddress": monitor.to_string()}},
            "modules": {"deviceController": {"conversion": {"address": "127.0.0.1", "port": 0}},
                "cloudStream": {"address": "127.0.0.1", "streamPort": 0, "tunnelPort": 0, "kubeletPorts": kubelet_ports.join(","),
                    "kubeletAddress": "127.0.0.1"},
                "cloudHub": {
                "advertiseAddress": ["127.0.0.1"],
                "https": {"enable": true, "address": "127.0.0.1", "port": https.port()},
                "websocket": {"enable": true, "address": "127.0.0.1", "port": websocket.port()},
                "unixsocket": {"enable": false, "address": format!("unix://{}", file("csi.sock").display())},
                "tlsCAFile": file("ca/rootCA.crt"),
                "tlsCAKeyFile": file("ca/rootCA.key"),
                "tlsCertFile": file("certs/server.crt"),
                "tlsPrivateKeyFile": file("certs/server.key"),
            }},
        });
        merge(&mut config, more);
        let path = run_dir.write("cloudcore.yaml", serde_json::to_vec_pretty(&config)?)?;
        let binary = binary("cloudcore", "ISTHMUS_CLOUDCORE")?;
        let process = Process::new(
            run_dir.path(),
            "cloudcore",
            &binary,
            ["--config".into(), path.clone().into_os_string()],
        );
        Ok(Self { process, websocket, https, monitor, config: path, run_dir })
    }

    /// The join token, once cloudcore has put it into its Secret.
    pub fn token(&mut self, cluster: &Cluster) -> Result<String> {
        let template = "--output=go-template={{.data.tokendata|base64decode}}";
        let arguments = ["get", "secret", "tokensecret", "--namespace", NAMESPACE, template];
        eventually(Duration::from_secs(30), "cloudcore's join token", || {
            self.process.must_run()?;
            let output = cluster.kubectl(&arguments)?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let ready = output.status.success() && !text.is_empty();
            // What kubectl says about a missing Secret is no secret.
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok(if ready { Seen::Yes(text) } else { Seen::NotYet(error) })
        })
    }

    pub fn websocket(&self) -> SocketAddr {
        self.websocket
    }

    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Health and metrics.
    pub fn monitor(&self) -> SocketAddr {
        self.monitor
    }

    /// One of its numbers now.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.monitor).context("reach cloudcore's metrics")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.monitor)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .with_context(|| format!("cloudcore has no metric {name}"))?
            .trim()
            .parse()
            .context("read a metric")
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }
}

/// What an edgecore is told about itself and the cloud.
pub struct EdgeOptions {
    pub node_name: String,
    /// Cloudcore's, or those of the wires before it.
    pub websocket: SocketAddr,
    pub https: SocketAddr,
    pub token: String,
    /// Laid over the configuration, key by key.
    pub more: Value,
}

impl EdgeOptions {
    /// Straight to `cloud`, without a wire between.
    pub fn new(node_name: &str, cloud: &CloudCore, token: String) -> Self {
        let (websocket, https) = (cloud.websocket(), cloud.https());
        Self { node_name: node_name.into(), websocket, https, token, more: Value::Null }
    }
}

pub struct EdgeCore {
    pub process: Process,
    node_name: String,
    config: PathBuf,
    mqtt: SocketAddr,
    kubelet: SocketAddr,
    run_dir: RunDir,
}

impl EdgeCore {
    pub fn start(runtime: &Runtime, options: &EdgeOptions) -> Result<Self> {
        let mut core = Self::prepare(runtime, options)?;
        core.process.start()?;
        Ok(core)
    }

    /// Writes its files without starting it, for stories that change them or expect it to refuse.
    pub fn prepare(runtime: &Runtime, options: &EdgeOptions) -> Result<Self> {
        let run_dir = RunDir::new("edgecore")?;
        let mqtt = run_dir.port()?;
        let kubelet = SocketAddr::from(([127, 0, 0, 1], run_dir.port()?));
        let file = |name: &str| run_dir.join(name);
        let mut config = json!({
            "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
            "kind": "EdgeCore",
            "database": {"dataSource": file("edgecore.db")},
            "admin": {"bindAddress": format!("127.0.0.1:{}", run_dir.port()?)},
            "modules": {
                "edged": {
                    "hostnameOverride": options.node_name,
                    "rootDirectory": file("kubelet"),
                    // Not where all programs of this machine look.
                    "devicePluginsDir": file("kubelet/device-plugins"),
                    "podSandboxImage": images::PAUSE,
                    "tailoredKubeletConfig": {
                        "containerRuntimeEndpoint": runtime.endpoint(),
                        "cgroupDriver": "cgroupfs",
                        "cgroupRoot": runtime.cgroup_root(),
                        "podLogsDir": file("pod-logs"),
                        "staticPodPath": file("manifests"),
                        "readOnlyPort": kubelet.port(),
                        // How full this machine's disk is has no part in any story.
                        "evictionHard": {"nodefs.available": "1%", "nodefs.inodesFree": "1%",
                            "imagefs.available": "1%", "imagefs.inodesFree": "1%"},
                        "imageGCHighThresholdPercent": 100,
                    },
                },
                "edgeHub": {
                    "httpServer": format!("https://{}", options.https),
                    "websocket": {"enable": true, "server": options.websocket.to_string()},
                    "token": options.token,
                    "tlsCaFile": file("ca/rootCA.crt"),
                    "tlsCertFile": file("certs/server.crt"),
                    "tlsPrivateKeyFile": file("certs/server.key"),
                    "bootstrapFile": file("bootstrap-edgecore.conf"),
                },
                "deviceTwin": {"dmiSockPath": file("dmi.sock")},
                "eventBus": {"mqttServerInternal": format!("tcp://127.0.0.1:{mqtt}")},
            },
        });
        merge(&mut config, &options.more);
        let path = run_dir.write("edgecore.yaml", serde_json::to_vec_pretty(&config)?)?;
        let binary = binary("edgecore", "ISTHMUS_EDGECORE")?;
        let process = Process::new(
            run_dir.path(),
            "edgecore",
            &binary,
            ["--config".into(), path.clone().into_os_string()],
        );
        let mqtt = SocketAddr::from(([127, 0, 0, 1], mqtt));
        Ok(Self { process, node_name: options.node_name.clone(), config: path, mqtt, kubelet, run_dir })
    }

    /// Its share of a power cut: the process and every pod mount are gone, its files stay. The runtime's share is
    /// `Runtime::kill_hard`, to be called first: containers hold the mounts.
    pub fn kill_hard(&mut self) -> Result<()> {
        process::end_all(self.run_dir.path())?;
        self.process.kill9()?;
        unmount_below(self.run_dir.path())
    }

    /// The machine forgets everything: store, certificates, pod directories.
    pub fn wipe(&mut self) -> Result<()> {
        self.kill_hard()?;
        for folder in ["kubelet", "ca", "certs", "pod-logs"] {
            fs::remove_dir_all(self.run_dir.join(folder)).ok();
        }
        for ending in ["", "-wal", "-shm"] {
            fs::remove_file(self.run_dir.join(format!("edgecore.db{ending}"))).ok();
        }
        Ok(())
    }

    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Its embedded MQTT broker.
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where this machine's own programs ask the kubelet's routes.
    pub fn kubelet(&self) -> SocketAddr {
        self.kubelet
    }

    /// The socket that mappers call.
    pub fn dmi_socket(&self) -> PathBuf {
        self.run_dir.join("dmi.sock")
    }

    /// The SQLite file.
    pub fn store(&self) -> PathBuf {
        self.run_dir.join("edgecore.db")
    }

    /// Addresses of the pods as this node last noted them: the API server does not know them while the cloud is away.
    pub fn pod_addresses(&self) -> Result<Vec<String>> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(self.store(), flags)?;
        let mut statement = store.prepare("SELECT status FROM pod_status")?;
        let statuses = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let mut addresses = Vec::new();
        for status in statuses {
            let status: Value = serde_json::from_slice(&status?)?;
            addresses.extend(status["podIP"].as_str().map(str::to_owned));
        }
        Ok(addresses)
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Waits until the API server calls the node Ready.
    pub fn wait_ready(&mut self, cluster: &Cluster, deadline: Duration) -> Result<()> {
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let name = self.node_name.clone();
        eventually(deadline, &format!("node {name} to be Ready"), || {
            self.process.must_run()?;
            let status = cluster.kubectl_ok(&["get", "node", &name, path])?;
            Ok(if status == "True" { Seen::Yes(()) } else { Seen::NotYet(format!("Ready is {status:?}")) })
        })
    }
}

/// Lays `more` over `base`: maps key by key, everything else replaces. `null` takes a key away.
pub(crate) fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (base, more) => *base = more.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_laid_over_the_configuration() {
        let mut base = json!({"a": {"b": 1, "c": 2}, "d": 3});
        merge(&mut base, &json!({"a": {"b": 9, "c": null}, "e": {"f": 1}}));
        assert_eq!(base, json!({"a": {"b": 9}, "d": 3, "e": {"f": 1}}));
        merge(&mut base, &Value::Null);
        assert_eq!(base["d"], 3);
    }
}
