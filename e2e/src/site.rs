//! A whole site for one story: control plane, cloudcore, a wire, a container runtime and edgecore.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options};
use crate::images::APP;
use crate::node::{CloudCore, EdgeCore, EdgeOptions};
use crate::runtime::Runtime;
use crate::wait::{Seen, eventually};
use crate::wire::{Cut, Wire};

/// The node of a site with one edge.
pub const NODE: &str = "edge-1";

/// Long enough for a loaded machine of two cores; a story that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    // In the order in which they go: whoever uses another goes first.
    pub edge: EdgeCore,
    pub cloud: CloudCore,
    /// Carries the messages.
    pub link: Wire,
    /// Carries enrolment.
    pub enrolment: Wire,
    pub runtime: Runtime,
    pub cluster: Cluster,
    pub token: String,
}

/// What a story may want different.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub cluster: Options,
    /// Laid over cloudcore's configuration.
    pub cloudcore: Value,
    /// Laid over edgecore's configuration.
    pub edgecore: Value,
}

impl Site {
    /// Brings all up and waits until the node is Ready.
    pub fn start(name: &str, wishes: &Wishes) -> Result<Self> {
        let mut site = Self::prepare(name, wishes)?;
        site.edge.process.start()?;
        site.edge.wait_ready(&site.cluster, PATIENCE)?;
        Ok(site)
    }

    /// Brings all up but edgecore.
    pub fn prepare(name: &str, wishes: &Wishes) -> Result<Self> {
        let cluster = Cluster::start(&wishes.cluster)?;
        let mut cloud = CloudCore::start(&cluster, &wishes.cloudcore)?;
        let runtime = Runtime::start(name)?;
        let token = cloud.token(&cluster)?;
        let link = Wire::new(cloud.websocket())?;
        let enrolment = Wire::new(cloud.https())?;
        let options = EdgeOptions {
            node_name: NODE.into(),
            websocket: link.address(),
            https: enrolment.address(),
            token: token.clone(),
            more: wishes.edgecore.clone(),
        };
        let edge = EdgeCore::prepare(&runtime, &options)?;
        Ok(Self { edge, cloud, link, enrolment, runtime, cluster, token })
    }

    /// The cloud is away for the node; the API server goes on.
    pub fn cut(&self) {
        self.link.cut(Cut::Reset);
        self.enrolment.cut(Cut::Reset);
    }

    pub fn heal(&self) {
        self.link.heal();
        self.enrolment.heal();
    }

    /// A power cut of the edge machine: all its processes and what only memory held are gone.
    pub fn power_cut(&mut self) -> Result<()> {
        self.edge.process.kill9()?;
        self.runtime.kill_hard()?;
        self.edge.kill_hard()
    }

    /// The machine boots: runtime, then edgecore.
    pub fn boot(&mut self) -> Result<()> {
        self.runtime.start_again()?;
        self.edge.process.start()
    }

    pub fn pod(&self, name: &str) -> Result<Value> {
        self.cluster.kubectl_json(&["get", "pod", name])
    }

    /// Waits until `look` is content with the pod.
    pub fn wait_pod<T>(
        &mut self,
        name: &str,
        what: &str,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let (edge, cluster) = (&mut self.edge, &self.cluster);
        eventually(PATIENCE, &format!("pod {name} {what}"), || {
            edge.process.must_run()?;
            let pod = cluster.kubectl_json(&["get", "pod", name])?;
            Ok(match look(&pod) {
                Some(value) => Seen::Yes(value),
                None => Seen::NotYet(format!("{} {}", pod["spec"]["nodeName"], pod["status"])),
            })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(30)))
    }

    /// Waits until all containers of the pod are ready; gives the pod.
    pub fn wait_running(&mut self, name: &str) -> Result<Value> {
        self.wait_pod(name, "to be ready", |pod| is_ready(pod).then(|| pod.clone()))
    }

    pub fn wait_gone(&mut self, name: &str) -> Result<()> {
        let (edge, cluster) = (&mut self.edge, &self.cluster);
        eventually(PATIENCE, &format!("pod {name} to be gone"), || {
            edge.process.must_run()?;
            let output = cluster.kubectl(&["get", "pod", name, "--output=jsonpath={.status}"])?;
            let gone = String::from_utf8_lossy(&output.stderr).contains("NotFound");
            let state = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(if gone { Seen::Yes(()) } else { Seen::NotYet(state) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(30)))
    }

    /// Name of the one pod that carries `app=<app>`, once there is one.
    pub fn pod_of(&self, app: &str) -> Result<String> {
        let selector = format!("--selector=app={app}");
        eventually(PATIENCE, &format!("a pod of {app}"), || {
            let pods = self.cluster.kubectl_json(&["get", "pods", &selector])?;
            let name = pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned);
            Ok(name.map_or_else(|| Seen::NotYet("none".into()), Seen::Yes))
        })
    }

    /// Waits until `http://address:8080/path` holds `text`. `what` names it in the error.
    pub fn wait_http(&self, address: &str, path: &str, text: &str) -> Result<()> {
        eventually(PATIENCE, &format!("{address}{path} to hold {text:?}"), || {
            let got = http_get(address, 8080, path)?;
            Ok(if got.contains(text) { Seen::Yes(()) } else { Seen::NotYet(got) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(30)))
    }

    /// Every event about `object`, as `reason: message`.
    pub fn events(&self, object: &str) -> Result<Vec<String>> {
        let selector = format!("--field-selector=involvedObject.name={object}");
        let events = self.cluster.kubectl_json(&["get", "events", "--all-namespaces", &selector])?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        Ok(items
            .iter()
            .map(|event| format!("{}: {}", text(event, "reason"), text(event, "message")))
            .collect())
    }

    pub fn wait_event(&self, object: &str, text: &str) -> Result<()> {
        eventually(PATIENCE, &format!("an event of {object} with {text:?}"), || {
            let events = self.events(object)?;
            let found = events.iter().any(|event| event.contains(text));
            Ok(if found { Seen::Yes(()) } else { Seen::NotYet(events.join("; ")) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(30)))
    }
}

/// Whether every container of the pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Identity of the pod's first container: id, restart count, start time.
pub fn container_identity(pod: &Value) -> Result<(String, u64, String)> {
    let status = &pod["status"]["containerStatuses"][0];
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).with_context(|| format!("no container in {status}"))
    };
    let count = status["restartCount"].as_u64().context("no restart count")?;
    Ok((text(&status["containerID"])?, count, text(&status["state"]["running"]["startedAt"])?))
}

pub fn pod_ip(pod: &Value) -> Result<String> {
    pod["status"]["podIP"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("no address in {}", pod["status"]))
}

/// Body of a plain HTTP answer.
pub fn http_get(address: &str, port: u16, path: &str) -> Result<String> {
    let target: SocketAddr = format!("{address}:{port}").parse()?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "{}", head.lines().next().unwrap_or_default());
    if body.len() > 1 << 20 {
        bail!("an answer of {} bytes", body.len());
    }
    Ok(body.to_owned())
}

/// A Deployment of one busybox that serves its ConfigMap `<name>-page` at port 8080, shows the Secret `<name>-key` of its
/// environment at `/cgi-bin/env`, and holds a service account token.
pub fn web_app(name: &str, page: &str) -> String {
    let script =
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\necho key=$DOOR_KEY node=$NODE_NAME\n";
    let objects = [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-page")},
               "data": {"index.html": page, "env": script}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-key")},
               "stringData": {"key": format!("open-{name}")}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
               "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
                        "strategy": {"type": "Recreate"},
                        "template": {"metadata": {"labels": {"app": name}}, "spec": web_spec(name)}}}),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

fn web_spec(name: &str) -> Value {
    json!({
        "nodeSelector": {"node-role.kubernetes.io/edge": ""},
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "web",
            "image": APP,
            "imagePullPolicy": "IfNotPresent",
            "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
            "env": [
                {"name": "DOOR_KEY", "valueFrom": {"secretKeyRef": {"name": format!("{name}-key"), "key": "key"}}},
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
            "volumeMounts": [{"name": "page", "mountPath": "/www"}],
        }],
        "volumes": [{"name": "page", "configMap": {"name": format!("{name}-page"), "items": [
            {"key": "index.html", "path": "index.html"},
            {"key": "env", "path": "cgi-bin/env", "mode": 0o755},
        ]}}],
    })
}

/// A Pod of one container `main` that runs `script`, with `more` laid into its spec.
pub fn shell_pod(name: &str, script: &str, more: &Value) -> String {
    let mut spec = json!({
        "nodeSelector": {"node-role.kubernetes.io/edge": ""},
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": APP, "command": ["sh", "-c", script]}],
    });
    lay(&mut spec, more);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}).to_string()
}

/// Lays `more` over `base`; the first element of a list is laid over the first element.
fn lay(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                lay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(more)) if base.len() == 1 && more.len() == 1 => {
            for (base, more) in base.iter_mut().zip(more) {
                lay(base, more);
            }
        }
        (_, Value::Null) => {}
        (base, more) => *base = more.clone(),
    }
}
