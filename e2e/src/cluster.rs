//! A Kubernetes control plane of its own: etcd, API server, controller manager and scheduler, the real ones.
//!
//! It deploys nothing into the cluster and runs no node (`stock` does). Several live side by side: ports and directories are
//! chosen. Called by stories and the demo.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::need;
use crate::pki::{Ca, CertFiles, key_pair};
use crate::process::Process;
use crate::run_dir::RunDir;
use crate::wait::{Seen, eventually};
use crate::watch::Watch;

/// Another program took a port between our look and the component's start: rare, and worth another try.
const ATTEMPTS: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(120);
/// The Service `kubernetes`, by which pods reach the API server where something brings them there.
pub const KUBERNETES_SERVICE: &str = "10.96.0.1";

/// What a story may want different from Kubernetes' defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// After this silence a node is marked NotReady. Seconds; Kubernetes' own default is 50.
    pub node_monitor_grace_secs: u32,
    /// How long pods without their own toleration stay on a lost node. Seconds; Kubernetes' own default is 300.
    pub eviction_secs: u32,
    /// Whether nodes on networks of their own come (`stock`): the API server then listens on every address of this machine.
    pub listens_everywhere: bool,
    /// Whether kubelets must show a certificate of the cluster's authority when the API server calls them.
    pub verifies_kubelets: bool,
    /// More flags for the API server.
    pub apiserver: Vec<String>,
    /// More flags for the controller manager.
    pub controller_manager: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_monitor_grace_secs: 50,
            eviction_secs: 300,
            listens_everywhere: false,
            verifies_kubelets: false,
            apiserver: Vec::new(),
            controller_manager: Vec::new(),
        }
    }
}

pub struct Cluster {
    pub etcd: Process,
    pub apiserver: Process,
    pub controller_manager: Process,
    pub scheduler: Process,
    kubeconfig: PathBuf,
    server: String,
    port: u16,
    ca: Ca,
    // Last: dropped after the processes above, and sweeps what they made.
    run_dir: RunDir,
}

impl Cluster {
    /// Starts all four and returns when pods could be created.
    pub fn start(options: &Options) -> Result<Self> {
        let binary = need::devcluster()?;
        for attempt in 1.. {
            let mut cluster = Self::prepare(&binary, options)?;
            match cluster.bring_up() {
                Ok(()) => return Ok(cluster),
                Err(_) if attempt < ATTEMPTS && cluster.lost_a_port() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no attempt was made")
    }

    fn prepare(binary: &Path, options: &Options) -> Result<Self> {
        let run_dir = RunDir::new("cluster")?;
        let (client, peer, secure) = (run_dir.port()?, run_dir.port()?, run_dir.port()?);
        let server = format!("https://127.0.0.1:{secure}");
        let pki = run_dir.folder("pki")?;
        let ca = Ca::new(&pki, "ca")?;
        let front_ca = Ca::new(&pki, "front-proxy-ca")?;
        let (account_key, account_public) = key_pair(&pki, "service-accounts")?;
        let names = ["127.0.0.1", KUBERNETES_SERVICE, "localhost", "kubernetes", "kubernetes.default.svc"];
        let serving = ca.issue("apiserver", "kube-apiserver", &[], &names)?;
        let kubelet_client =
            ca.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"], &[])?;
        let front = front_ca.issue("front-proxy-client", "front-proxy-client", &[], &[])?;

        let etcd = Process::new(run_dir.path(), "etcd", binary, etcd_flags(&run_dir, client, peer));
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let mut flags = vec![
            "kube-apiserver".to_owned(),
            flag("etcd-servers", &format!("http://127.0.0.1:{client}")),
            flag("bind-address", if options.listens_everywhere { &"0.0.0.0" } else { &"127.0.0.1" }),
            "--advertise-address=127.0.0.1".into(),
            flag("secure-port", &secure),
            flag("tls-cert-file", &serving.cert.display()),
            flag("tls-private-key-file", &serving.key.display()),
            flag("client-ca-file", &ca.files.cert.display()),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            flag("service-account-key-file", &account_public.display()),
            flag("service-account-signing-key-file", &account_key.display()),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--endpoint-reconciler-type=none".into(),
            // No kube-proxy: a webhook that is a Service is reached at its pods.
            "--enable-aggregator-routing=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            flag("kubelet-client-certificate", &kubelet_client.cert.display()),
            flag("kubelet-client-key", &kubelet_client.key.display()),
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            flag("requestheader-client-ca-file", &front_ca.files.cert.display()),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            flag("proxy-client-cert-file", &front.cert.display()),
            flag("proxy-client-key-file", &front.key.display()),
            flag("default-not-ready-toleration-seconds", &options.eviction_secs),
            flag("default-unreachable-toleration-seconds", &options.eviction_secs),
        ];
        if options.verifies_kubelets {
            flags.push(flag("kubelet-certificate-authority", &ca.files.cert.display()));
        }
        flags.extend(options.apiserver.iter().cloned());
        let apiserver = Process::new(run_dir.path(), "kube-apiserver", binary, flags);

        let client_config = |name: &str, user: &str, groups: &[&str]| -> Result<PathBuf> {
            let files = ca.issue(name, user, groups, &[])?;
            let text = kubeconfig_text(&server, &ca.files.cert, &files);
            run_dir.write(&format!("{name}.kubeconfig"), text)
        };
        let kubeconfig = client_config("admin", "admin", &["system:masters"])?;
        let controllers = client_config("controller-manager", "system:kube-controller-manager", &[])?;
        let scheduling = client_config("scheduler", "system:kube-scheduler", &[])?;

        let mut flags = vec![
            "kube-controller-manager".to_owned(),
            flag("kubeconfig", &controllers.display()),
            // No port of its own: nobody asks it anything here.
            "--secure-port=0".into(),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            flag("service-account-private-key-file", &account_key.display()),
            flag("root-ca-file", &ca.files.cert.display()),
            flag("cluster-signing-cert-file", &ca.files.cert.display()),
            flag("cluster-signing-key-file", &ca.files.key.display()),
            flag("node-monitor-grace-period", &format!("{}s", options.node_monitor_grace_secs)),
        ];
        flags.extend(options.controller_manager.iter().cloned());
        let controller_manager = Process::new(run_dir.path(), "kube-controller-manager", binary, flags);
        let flags = vec![
            "kube-scheduler".to_owned(),
            flag("kubeconfig", &scheduling.display()),
            "--secure-port=0".into(),
            "--leader-elect=false".into(),
        ];
        let scheduler = Process::new(run_dir.path(), "kube-scheduler", binary, flags);
        Ok(Self {
            etcd,
            apiserver,
            controller_manager,
            scheduler,
            kubeconfig,
            server,
            port: secure,
            ca,
            run_dir,
        })
    }

    fn bring_up(&mut self) -> Result<()> {
        self.etcd.start()?;
        self.apiserver.start()?;
        self.wait_ready()?;
        self.controller_manager.start()?;
        self.scheduler.start()?;
        // Pods are refused until their namespace has its service account.
        let what = "the default service account";
        self.wait_for(what, &["get", "serviceaccount", "default", "--namespace=default", "--output=name"])
    }

    /// Waits until the API server answers; also after a story has stopped and started it.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_for("the API server to be ready", &["get", "--raw=/readyz"])
    }

    fn wait_for(&mut self, what: &str, arguments: &[&str]) -> Result<()> {
        let start = Instant::now();
        loop {
            for process in [&mut self.etcd, &mut self.apiserver] {
                process.must_run()?;
            }
            let output = self.kubectl(arguments)?;
            if output.status.success() {
                return Ok(());
            }
            if start.elapsed() > READY_WITHIN {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("waited {} s for {what}: {error}", READY_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn lost_a_port(&self) -> bool {
        [&self.etcd, &self.apiserver].iter().any(|p| p.log().contains("address already in use"))
    }

    /// Runs kubectl as cluster administrator, to its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_command(arguments).stdin(Stdio::null()).output().context("start kubectl")
    }

    /// kubectl as a command still to be run, for stories that feed or follow it.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // Its caches belong to the run, not to the developer's home.
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.run_dir.path());
        command
    }

    /// Output of kubectl; an error holds what kubectl said.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`kubectl {}` failed: {}", arguments.join(" "), error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl ... --output=json`, parsed.
    pub fn kubectl_json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--output=json"]).collect();
        let text = self.kubectl_ok(&arguments)?;
        serde_json::from_str(&text).with_context(|| format!("JSON of `kubectl {}`", arguments.join(" ")))
    }

    /// `kubectl get ... --watch`, a line for each event: jsonpath `columns` of the object.
    pub fn watch(&self, what: &[&str], columns: &str) -> Result<Watch> {
        let template = format!("--output=jsonpath={columns}{{\"\\n\"}}");
        // Of a list that comes in pieces kubectl shows the first one, and then what changes.
        let whole = ["get", "--watch", "--chunk-size=0"];
        let arguments: Vec<&str> =
            whole.into_iter().chain(what.iter().copied()).chain([&*template]).collect();
        Watch::start(self.kubectl_command(&arguments))
    }

    /// `kubectl apply` of a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let path = self.run_dir.write("apply.yaml", manifest)?;
        let path = path.to_string_lossy();
        eventually(Duration::from_secs(10), "kubectl apply", || {
            // A namespace made a moment ago may have no service account yet.
            match self.kubectl_ok(&["apply", "--filename", &path]) {
                Err(error) if error.to_string().contains("serviceaccount") => {
                    Ok(Seen::NotYet(error.to_string()))
                }
                other => Ok(Seen::Yes(other)),
            }
        })?
    }

    /// Administrator's kubeconfig file; also what cloudcore gets unless a story gives it less.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `https://127.0.0.1:<port>`
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The API server's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A kubeconfig file for one more user, who comes to `server`.
    pub fn kubeconfig_for(&self, server: &str, name: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let files = self.ca.issue(name, user, groups, &[])?;
        let text = kubeconfig_text(server, &self.ca.files.cert, &files);
        self.run_dir.write(&format!("{name}.kubeconfig"), text)
    }

    /// The cluster's own authority, for stories that need one more client.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Leaves the control plane running after this process.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()
    }
}

fn etcd_flags(run_dir: &RunDir, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    vec![
        "etcd".into(),
        format!("--data-dir={}", run_dir.join("etcd").display()),
        "--name=dev".into(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=dev={peer}"),
        "--log-level=warn".into(),
        // Its data lives no longer than the run; the disk's time is the story's.
        "--unsafe-no-fsync".into(),
    ]
}

/// JSON is YAML, and needs no rules for quoting.
fn kubeconfig_text(server: &str, ca: &Path, files: &CertFiles) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "clusters": [{"name": "dev", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": "dev", "user": {"client-certificate": files.cert, "client-key": files.key}}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "dev"}}],
    })
    .to_string()
}
