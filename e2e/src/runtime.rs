//! A containerd of its own: directories, socket, bridge, pod subnet and cgroup root that no other run has.
//!
//! It can be cold-booted: everything a power cut takes is taken, what lies on disk stays. Pulls nothing from any
//! network. Called by stories and the demo; node agents of a story talk to its socket.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::leftovers::{Leftover, unmount_below};
use crate::machine::Machine;
use crate::process::{Process, end_all, run};
use crate::run_dir::RunDir;
use crate::wait::{Seen, eventually};
use crate::{images, need};

/// Pods of runtime n live in 10.231.n.0/24.
const SUBNETS: std::ops::Range<u8> = 1..250;
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Runtime {
    pub containerd: Process,
    socket: PathBuf,
    network: String,
    subnet: u8,
    cgroup_root: String,
    // Last: dropped after the process above, and sweeps what it made.
    run_dir: RunDir,
}

/// What is there for pods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    /// Images, plugins and a network.
    Network,
    /// Images and plugins.
    Plugins,
    Nothing,
}

impl Runtime {
    /// Starts it and imports the images of `images`. Installs the packages it needs.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_in(name, None)
    }

    /// The same in a machine, whose files its containers then see.
    pub fn start_in(name: &str, machine: Option<&Machine>) -> Result<Self> {
        Self::start_with(name, machine, Has::Network)
    }

    /// The same, with no network for pods before somebody puts a configuration into the machine's `/etc/cni/net.d`.
    pub fn start_without_network(name: &str, machine: &Machine) -> Result<Self> {
        Self::start_with(name, Some(machine), Has::Plugins)
    }

    /// The same as it is after `apt-get install containerd` alone: no images, and plugins are looked for in `/opt/cni/bin`.
    pub fn start_bare(name: &str, machine: &Machine) -> Result<Self> {
        Self::start_with(name, Some(machine), Has::Nothing)
    }

    fn start_with(name: &str, machine: Option<&Machine>, has: Has) -> Result<Self> {
        need::for_runtime()?;
        let run_dir = RunDir::new(name)?;
        let routes = run("ip", &["-4", "route", "show", "table", "all"])?;
        let free = |n: u8| {
            let taken = routes.contains(&format!("10.231.{n}.")) || Path::new(&bridge_path(n)).exists();
            !taken
        };
        let subnet = run_dir.number("subnet", SUBNETS, free)?;
        let network = format!("ist{subnet}");
        let folder = run_dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cgroup_root = format!("/isthmus-{folder}");
        let state = run_dir.join("state");
        // The sweep takes them in this order: shims' sockets are found through the state directory.
        run_dir.record(&Leftover::Cgroup(cgroup_root.clone()))?;
        run_dir.record(&Leftover::ContainerdState(state))?;
        run_dir.record(&Leftover::Network(network.clone()))?;
        let mut conf_dir = PathBuf::from("/etc/cni/net.d");
        if has == Has::Network {
            conf_dir = run_dir.folder("cni")?;
            run_dir.write("cni/10-pods.conflist", conflist(&network, subnet, &run_dir.join("leases")))?;
        }
        let socket = run_dir.join("containerd.sock");
        let config = run_dir.write("containerd.toml", config(&run_dir, &socket, &conf_dir, has)?)?;
        let containerd = Process::new(
            run_dir.path(),
            "containerd",
            &program("containerd")?,
            ["--config".into(), config.into_os_string()],
        );
        let mut runtime = Self { containerd, socket, network, subnet, cgroup_root, run_dir };
        if let Some(machine) = machine {
            let (program, words) = machine.enter()?;
            runtime.containerd.wrap(&program, &words.iter().map(String::as_str).collect::<Vec<_>>());
        }
        runtime.start_again()?;
        if has != Has::Nothing {
            for image in images::make_all(&runtime.run_dir.folder("images")?)? {
                runtime.import_image(&image)?;
            }
        }
        Ok(runtime)
    }

    /// Starts containerd and waits until its CRI service answers.
    pub fn start_again(&mut self) -> Result<()> {
        self.containerd.start()?;
        eventually(READY_WITHIN, "containerd to be ready", || {
            self.containerd.must_run()?;
            let plugins = self.ctr(&["plugins", "list"])?;
            let text = String::from_utf8_lossy(&plugins.stdout);
            let cri =
                text.lines().find(|line| line.starts_with("io.containerd.grpc.v1") && line.contains(" cri "));
            Ok(match cri {
                Some(line) if line.trim_end().ends_with("ok") => Seen::Yes(()),
                Some(line) => Seen::NotYet(line.to_owned()),
                None => Seen::NotYet(String::from_utf8_lossy(&plugins.stderr).into_owned()),
            })
        })
    }

    /// An archive of an image, under the names it holds.
    pub fn import_image(&self, tar: &Path) -> Result<()> {
        let tar = tar.to_string_lossy();
        self.ctr_ok(&["images", "import", &tar])?;
        Ok(())
    }

    /// containerd's own client, in the namespace of Kubernetes.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        let mut ctr = Command::new(program("ctr")?);
        ctr.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io"]).args(arguments);
        ctr.stdin(Stdio::null()).output().context("start ctr")
    }

    pub fn ctr_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ctr(arguments)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`ctr {}` failed: {}", arguments.join(" "), error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ids of containers whose process runs, pod sandboxes included.
    pub fn running(&self) -> Result<Vec<String>> {
        let table = self.ctr_ok(&["tasks", "list"])?;
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let running = rows.filter(|row| row.last() == Some(&"RUNNING"));
        // The runtime lists them in no order.
        let ids: BTreeSet<String> =
            running.filter_map(|row| row.first().map(|id| (*id).to_owned())).collect();
        Ok(ids.into_iter().collect())
    }

    /// The machine loses power: containerd, every shim and container die at once; memory file systems, network
    /// namespaces, bridge, address leases, cgroups and the state directory are gone. Images and containerd's
    /// records of containers, which lie on disk, stay.
    pub fn kill_hard(&mut self) -> Result<()> {
        end_all(self.run_dir.path())?;
        self.containerd.kill9()?;
        let state = self.run_dir.join("state");
        // A container whose shim died before is no longer below us; its cgroup still names it.
        Leftover::Cgroup(self.cgroup_root.clone()).remove()?;
        Leftover::ContainerdState(state.clone()).remove()?;
        Leftover::Network(self.network.clone()).remove()?;
        unmount_below(self.run_dir.path())?;
        for lost in [&state, &self.run_dir.join("leases"), &self.run_dir.join("runc"), &self.socket] {
            match fs::remove_dir_all(lost) {
                Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(lost)?,
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// As edgecore's configuration wants it: `unix:///...`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where a node agent on this runtime must put its pods; removed with the runtime.
    pub fn cgroup_root(&self) -> &str {
        &self.cgroup_root
    }

    /// The subnet of its pods, as CIDR.
    pub fn subnet(&self) -> String {
        format!("10.231.{}.0/24", self.subnet)
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Leaves containers and containerd running after this process.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()
    }

    /// Removes all it made. Dropping does it too, but can only print an error.
    pub fn cleanup(mut self) -> Result<()> {
        self.run_dir.sweep()
    }
}

fn bridge_path(n: u8) -> String {
    format!("/sys/class/net/ist{n}")
}

fn program(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("`{name}` is not there; type: apt-get install -y containerd runc"))
}

fn conflist(network: &str, subnet: u8, leases: &Path) -> String {
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": network,
        "plugins": [
            {
                "type": "bridge",
                "bridge": network,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": leases,
                    "ranges": [[{"subnet": format!("10.231.{subnet}.0/24")}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            // Without SNAT it needs no rules but those that carry this network's name.
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": false},
        ],
    })
    .to_string()
}

fn config(run_dir: &RunDir, socket: &Path, conf_dir: &Path, has: Has) -> Result<String> {
    let plugins = if has == Has::Nothing { "/opt/cni/bin" } else { "/usr/lib/cni" };
    let (here, conf_dir) = (run_dir.path().display(), conf_dir.display());
    // Overlays do not stack: where the run directory is itself on one, files are copied.
    const OVERLAYFS: u64 = 0x794c_7630;
    let on_overlay = rustix::fs::statfs(run_dir.path())?.f_type as u64 == OVERLAYFS;
    let snapshotter = if on_overlay { "native" } else { "overlayfs" };
    let pause = images::PAUSE;
    let socket = socket.display();
    Ok(format!(
        r#"version = 2
root = "{here}/root"
state = "{here}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{here}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{conf_dir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{here}/runc"
"#
    ))
}
