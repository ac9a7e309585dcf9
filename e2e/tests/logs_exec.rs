//! kubectl logs, exec, attach, cp, port-forward, debug and top on an edge node, through an API server that verifies kubelets and a
//! real metrics-server, right after install: nothing here makes a certificate, a rule or a flag by hand.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::cluster::Options;
use e2e::images::APP;
use e2e::need;
use e2e::process::Process;
use e2e::site::{NODE, PATIENCE, Site, Wishes, shell_pod, web_app};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// A line a tenth of a second, after ten at once.
const TALKER: &str = "n=0; while true; do echo line $n; n=$((n+1)); [ $n -lt 10 ] || sleep 0.1; done";

fn site(name: &str) -> Result<Site> {
    let options = Options { verifies_kubelets: true, ..Options::default() };
    let mut site = Site::start(name, &Wishes { cluster: options, ..Wishes::default() })?;
    site.cluster.apply(&shell_pod("talker", TALKER, &Value::Null))?;
    site.wait_running("talker")?;
    eventually(PATIENCE, "kubectl logs to work", || {
        let output = site.cluster.kubectl(&["logs", "talker", "--tail=1"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    Ok(site)
}

/// A kubectl that goes on until it is dropped, with the lines that it writes.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(mut kubectl: Command) -> Result<Self> {
        let mut child = kubectl
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        let (line, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("its output")?;
        std::thread::spawn(move || {
            for said in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                if line.send(said).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The first line that holds `text`.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        let mut seen = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen = line,
                Err(_) => {
                    let _ = self.child.kill();
                    let mut error = String::new();
                    if let Some(mut stderr) = self.child.stderr.take() {
                        stderr.read_to_string(&mut error)?;
                    }
                    bail!("no {text:?}, last {seen:?}: {error}")
                }
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fed(site: &Site, words: &[&str], input: &[u8]) -> Result<Output> {
    let mut kubectl = site.cluster.kubectl_command(words);
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl")?;
    let mut stdin = child.stdin.take().context("its input")?;
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    feeding.join().map_err(|_| anyhow::anyhow!("feeding kubectl broke off"))?.context("feed kubectl")?;
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn logs_of_now_of_before_and_as_they_come() -> Result<()> {
    let site = site("logs")?;
    let all = site.cluster.kubectl_ok(&["logs", "talker"])?;
    ensure!(all.starts_with("line 0\nline 1\n"), "{all}");
    let last = site.cluster.kubectl_ok(&["logs", "talker", "--tail=3"])?;
    ensure!(last.lines().count() == 3, "{last}");
    let stamped = site.cluster.kubectl_ok(&["logs", "talker", "--tail=1", "--timestamps"])?;
    ensure!(stamped.starts_with("20") && stamped.contains("Z line "), "{stamped}");
    std::thread::sleep(Duration::from_secs(4));
    let recent = site.cluster.kubectl_ok(&["logs", "talker", "--since=2s"])?;
    ensure!(!recent.contains("line 0\n") && recent.contains("line "), "{recent}");
    let limited = site.cluster.kubectl_ok(&["logs", "talker", "--limit-bytes=10"])?;
    ensure!(limited.len() == 10, "{limited:?}");

    // By the name that collectors of logs look for.
    let links = |pod: &str| -> Result<Vec<PathBuf>> {
        let begin = format!("{pod}_default_");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(site.edge.run_dir().join("containers"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&begin) {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    let [link] = <[PathBuf; 1]>::try_from(links("talker")?)
        .map_err(|links| anyhow::anyhow!("one link for one container: {links:?}"))?;
    let collected = std::fs::read_to_string(&link).with_context(|| format!("read {}", link.display()))?;
    ensure!(collected.contains(" stdout F line 0\n"), "{collected}");

    // As they come: later lines than there were at the start.
    let known = all.lines().count();
    let mut following = Following::start(site.cluster.kubectl_command(&["logs", "--follow", "talker"]))?;
    following.wait_for("line 0")?;
    following.wait_for(&format!("line {}", known + 50))?;
    drop(following);

    // Of the life before.
    let script = "echo life $(date +%s%N); sleep 1; exit 3";
    site.cluster.apply(&shell_pod("mortal", script, &json!({"restartPolicy": "Always"})))?;
    eventually(PATIENCE, "a life before", || {
        let output = site.cluster.kubectl(&["logs", "mortal", "--previous"])?;
        let said = text(&output.stdout);
        Ok(if said.starts_with("life ") { Seen::Yes(()) } else { Seen::NotYet(text(&output.stderr)) })
    })?;

    // The names go with the pod.
    ensure!(!links("mortal")?.is_empty(), "no link for a container that starts again and again");
    site.cluster.kubectl_ok(&["delete", "pod", "mortal", "--wait=true"])?;
    eventually(PATIENCE, "its links to be gone", || {
        let left = links("mortal")?;
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("{left:?}")) })
    })?;

    // What is wrong is said in a kubelet's words.
    for (words, expected) in [
        (&["logs", "talker", "--container=other"][..], "container other is not valid for pod talker"),
        (&["logs", "talker", "--previous"][..], "previous terminated container"),
        (&["logs", "nobody"][..], "pods \"nobody\" not found"),
    ] {
        let output = site.cluster.kubectl(words)?;
        ensure!(
            !output.status.success() && text(&output.stderr).contains(expected),
            "{words:?}: {}",
            text(&output.stderr)
        );
    }

    // The link is cut and heals: what was followed ends, and can be followed again.
    let mut following =
        Following::start(site.cluster.kubectl_command(&["logs", "--follow", "--tail=1", "talker"]))?;
    following.wait_for("line ")?;
    site.cut();
    let output = site.cluster.kubectl(&["logs", "talker", "--tail=1"])?;
    ensure!(!output.status.success(), "logs of a node that is away: {}", text(&output.stdout));
    site.heal();
    eventually(PATIENCE, "kubectl logs to work again", || {
        let output = site.cluster.kubectl(&["logs", "talker", "--tail=1"])?;
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(text(&output.stderr)) })
    })
}

#[test]
fn exec_attach_cp_and_port_forward() -> Result<()> {
    let mut site = site("exec")?;
    let output =
        site.cluster.kubectl(&["exec", "talker", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(7) && out == "out\n" && err.starts_with("err\n"), "{output:?}");
    let output = site.cluster.kubectl(&["exec", "talker", "--", "no-such-command"])?;
    ensure!(!output.status.success() && text(&output.stderr).contains("no-such-command"), "{output:?}");

    // A megabyte there and back.
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let output = fed(&site, &["exec", "--stdin", "talker", "--", "cat"], &bytes)?;
    ensure!(output.stdout == bytes, "{} bytes came back: {}", output.stdout.len(), text(&output.stderr));

    // With a terminal, which kubectl wants from whoever starts it.
    need::packages(&["bsdutils"])?;
    // kubectl tells the size when the program runs already.
    let kubectl = "kubectl exec --stdin --tty talker -- sh -c 'tty; sleep 1; stty size; echo terminal=$TERM'";
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("stty rows 33 cols 77; {kubectl}"), "/dev/null"])
        .env("KUBECONFIG", site.cluster.kubeconfig())
        .env("HOME", site.cluster.run_dir().path())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .context("start script")?;
    let said = text(&output.stdout);
    ensure!(said.contains("/dev/") && said.contains("33 77"), "{said} {}", text(&output.stderr));

    // Attached, it sees what comes from now on.
    let mut attached = Following::start(site.cluster.kubectl_command(&["attach", "talker"]))?;
    attached.wait_for("line ")?;
    drop(attached);

    let run_dir = site.cluster.run_dir().path().to_owned();
    let (there, back) = (run_dir.join("there"), run_dir.join("back"));
    std::fs::write(&there, &bytes)?;
    let path = |path: &std::path::Path| path.display().to_string();
    site.cluster.kubectl_ok(&["cp", &path(&there), "talker:/tmp/copied"])?;
    site.cluster.kubectl_ok(&["cp", "talker:/tmp/copied", &path(&back)])?;
    ensure!(std::fs::read(&back)? == bytes, "another file came back");

    site.cluster.apply(&web_app("shop", "open all day"))?;
    let web = site.pod_of("shop")?;
    site.wait_running(&web)?;
    let forward = ["port-forward", "--address=127.0.0.1", &web, ":8080"];
    let mut forwarding = Following::start(site.cluster.kubectl_command(&forward))?;
    let said = forwarding.wait_for("Forwarding from 127.0.0.1:")?;
    let port = said.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).context(said.clone())?;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("open all day"), "{answer}");
    }
    Ok(())
}

#[test]
fn a_container_for_debugging() -> Result<()> {
    let site = site("debug")?;
    let image = format!("--image={APP}");
    let debug = [
        "debug",
        "talker",
        &*image,
        "--image-pull-policy=IfNotPresent",
        "--container=looks",
        "--",
        "sh",
        "-c",
        "echo looking; sleep 1000",
    ];
    site.cluster.kubectl_ok(&debug)?;
    eventually(PATIENCE, "the debugging container to speak", || {
        let output = site.cluster.kubectl(&["logs", "talker", "--container=looks"])?;
        let said = text(&output.stdout);
        Ok(if said == "looking\n" { Seen::Yes(()) } else { Seen::NotYet(text(&output.stderr)) })
    })?;
    let output = site.cluster.kubectl(&["exec", "talker", "--container=looks", "--", "echo", "here"])?;
    ensure!(text(&output.stdout) == "here\n", "{output:?}");
    Ok(())
}

#[test]
fn top_through_metrics_server() -> Result<()> {
    let site = site("top")?;
    let node = site.cluster.kubectl_json(&["get", "node", NODE])?;
    let own =
        node["metadata"]["annotations"]["isthmus.io/node-addresses"].as_str().unwrap_or_default().to_owned();
    let port = site.cluster.run_dir().port()?;
    // Not a loopback address: Kubernetes takes none as an endpoint.
    site.cluster.apply(&metrics_objects(&own, port).to_string())?;
    let token = site.cluster.kubectl_ok(&["create", "token", "metrics-server", "--namespace=kube-system"])?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster":
            {"server": site.cluster.server(), "certificate-authority": site.cluster.ca().files.cert}}],
        "users": [{"name": "it", "user": {"token": token.trim()}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    let run_dir = site.cluster.run_dir();
    let config = run_dir.write("metrics-server.kubeconfig", config.to_string())?.display().to_string();
    // As its own manifest has it: no flag is about edge nodes.
    let flags = [
        format!("--kubeconfig={config}"),
        format!("--authentication-kubeconfig={config}"),
        format!("--authorization-kubeconfig={config}"),
        format!("--cert-dir={}", run_dir.folder("metrics-server")?.display()),
        format!("--secure-port={port}"),
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".to_owned(),
        "--kubelet-use-node-status-port".to_owned(),
        "--metric-resolution=15s".to_owned(),
        format!("--kubelet-certificate-authority={}", site.cluster.ca().files.cert.display()),
    ];
    let mut metrics = Process::new(run_dir.path(), "metrics-server", &need::metrics_server()?, flags);
    metrics.start()?;
    for words in [&["top", "node", "--no-headers"][..], &["top", "pod", "--no-headers"]] {
        let name = if words.contains(&"node") { NODE } else { "talker" };
        let row = eventually(3 * PATIENCE, &format!("kubectl {words:?}"), || {
            metrics.must_run()?;
            let output = site.cluster.kubectl(words)?;
            let said = text(&output.stdout);
            let row = said.lines().find(|line| line.starts_with(name) && line.contains("Mi"));
            let error = text(&output.stderr);
            Ok(row.map_or_else(
                || Seen::NotYet(format!("{said}{error}{}", metrics.log_end(3))),
                |row| Seen::Yes(row.to_owned()),
            ))
        })?;
        println!("{row}");
    }
    Ok(())
}

/// What metrics-server's own manifest makes, with a process of this machine in place of its pod.
fn metrics_objects(address: &str, port: u16) -> Value {
    const API: &str = "rbac.authorization.k8s.io/v1";
    let it = json!({"name": "metrics-server", "namespace": "kube-system"});
    let subject = json!([{"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}]);
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": API, "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": subject,
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    };
    let items = [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": it}),
        json!({"apiVersion": API, "kind": "ClusterRole", "metadata": {"name": "system:metrics-server"}, "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]}),
        binding("system:metrics-server", "system:metrics-server"),
        binding("metrics-server:system:auth-delegator", "system:auth-delegator"),
        json!({"apiVersion": API, "kind": "RoleBinding", "subjects": subject,
               "metadata": {"name": "metrics-server-auth-reader", "namespace": "kube-system"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
                           "name": "extension-apiserver-authentication-reader"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": it,
               "spec": {"ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
               "metadata": {"name": "metrics-server", "namespace": "kube-system",
                            "labels": {"kubernetes.io/service-name": "metrics-server"}},
               "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
               "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
               "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                        "insecureSkipTLSVerify": true,
                        "service": {"name": "metrics-server", "namespace": "kube-system"}}}),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
