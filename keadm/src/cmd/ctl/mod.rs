//! `keadm ctl`: pods and devices of this machine, asked of its edgecore over a socket that only root may use. The cloud is not
//! needed.

mod describe;
mod devices;
mod edge;
mod flags;
mod pods;

use std::io::{self, ErrorKind, Write};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use self::edge::{Edge, segment};
pub(crate) use self::flags::Args;
use self::flags::{Describe, Exec, Kind, Logs, Meant, Output, Unhold, What};
use super::Failure;
use crate::host::Host;
use crate::table::table;

/// How a table is wanted.
struct Look {
    is_wide: bool,
    with_namespace: bool,
    now: Timestamp,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if let Some(why) = not_yet(&args.what) {
        return Err(Failure::Refused(why));
    }
    let edge = Edge::find(host, &args.config)?;
    match &args.what {
        What::Get(kind) => get(&edge, kind, &mut out),
        What::Describe(kind) => describe(&edge, kind, &mut out),
        What::Logs(logs) => edge.stream(&log_path(logs), &mut out),
        What::Exec(exec) => run_command(&edge, exec, &mut out, &mut io::stderr().lock()),
        What::Restart(flags::Restart::Pod(restart)) => {
            let mut failed = None;
            for name in &restart.names {
                if let Err(failure) = restart_pod(&edge, &restart.namespace, name, &mut out)
                    && let Some(earlier) = failed.replace(failure)
                {
                    eprintln!("error: {earlier}");
                }
            }
            failed.map_or(Ok(()), Err)
        }
        What::UnholdUpgrade(what) => unhold(&edge, what, &mut out),
        // Said above.
        What::Edit(_) | What::Confirm => Ok(()),
    }
}

/// What KubeEdge's keadm has and this one has not, as a sentence that says what to do instead.
fn not_yet(what: &What) -> Option<String> {
    let why = match what {
        What::Edit(flags::Edit::Device(device)) => {
            return Some(format!(
                "edgecore cannot change desired values by itself yet; in the cloud type: kubectl edit device {} -n {}",
                device.name, device.namespace
            ));
        }
        What::Confirm => "edgecore does not take upgrades from the cloud yet, so none waits to be confirmed",
        What::Exec(exec) if exec.stdin || exec.tty => {
            "keadm ctl exec has no terminal yet: leave out -i and -t; the command then gets no input and its output comes \
             when it has ended"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

fn show(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done.context("write the answer")?),
    }
}

/// The paths of Kubernetes' API.
fn path(kind: &Kind, meant: &Meant) -> String {
    let (root, plural) = match kind {
        Kind::Pod(_) => ("/api/v1", "pods"),
        Kind::Device(_) => ("/apis/devices.kubeedge.io/v1beta1", "devices"),
    };
    let mut path = match (&meant.name, meant.all_namespaces) {
        (None, true) => format!("{root}/{plural}"),
        (None, false) => format!("{root}/namespaces/{}/{plural}", segment(&meant.namespace)),
        (Some(name), _) => {
            format!("{root}/namespaces/{}/{plural}/{}", segment(&meant.namespace), segment(name))
        }
    };
    if let Some(selector) = &meant.selector {
        path += &format!("?labelSelector={}", segment(selector));
    }
    path
}

/// The objects that are meant: one by its name, or a list's.
fn objects(answer: &Value) -> Vec<Value> {
    answer.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![answer.clone()])
}

fn typed(objects: Vec<Value>) -> Result<Vec<Pod>, Failure> {
    let pods = objects.into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
    Ok(pods.context("read edgecore's answer")?)
}

fn get(edge: &Edge<'_>, kind: &Kind, out: &mut dyn Write) -> Result<(), Failure> {
    let (Kind::Pod(list) | Kind::Device(list)) = kind;
    let answer = edge.get(&path(kind, &list.meant))?;
    match list.output {
        Some(Output::Json) => {
            let text = serde_json::to_string_pretty(&answer).context("write JSON")?;
            return show(out, &format!("{text}\n"));
        }
        Some(Output::Yaml) => {
            let text = serde_saphyr::to_string(&answer).context("write YAML")?;
            return show(out, &format!("{}\n", text.trim_end()));
        }
        Some(Output::Wide) | None => {}
    }
    let objects = objects(&answer);
    if objects.is_empty() {
        nothing(&list.meant);
        return Ok(());
    }
    let look = Look {
        is_wide: list.output == Some(Output::Wide),
        with_namespace: list.meant.all_namespaces,
        now: Timestamp::now(),
    };
    let rows = match kind {
        Kind::Pod(_) => pods::rows(&typed(objects)?, &look),
        Kind::Device(_) => devices::rows(&objects, &look),
    };
    show(out, &table(&rows))
}

fn nothing(meant: &Meant) {
    if meant.all_namespaces {
        eprintln!("this node has none");
    } else {
        eprintln!("this node has none in namespace {}; -A shows all namespaces", meant.namespace);
    }
}

fn describe(edge: &Edge<'_>, what: &Describe, out: &mut dyn Write) -> Result<(), Failure> {
    let (meant, events) = (&what.kind.meant().meant, what.kind.meant().show_events);
    let kind = what.kind.kind();
    let objects = objects(&edge.get(&path(&kind, meant))?);
    if objects.is_empty() {
        nothing(meant);
        return Ok(());
    }
    let mut sheets = Vec::new();
    match kind {
        Kind::Pod(_) => {
            for pod in typed(objects)? {
                let mut sheet = describe::pod(&pod, Timestamp::now());
                if events {
                    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                    let told = edge.get(&format!("/api/v1/namespaces/{}/events", segment(namespace)))?;
                    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                    sheet += &describe::events(&self::objects(&told), uid, Timestamp::now());
                }
                sheets.push(sheet);
            }
        }
        Kind::Device(_) => {
            sheets.extend(objects.iter().map(|device| describe::device(device, Timestamp::now())));
        }
    }
    show(out, &sheets.join("\n\n"))
}

fn log_path(logs: &Logs) -> String {
    let mut path =
        format!("/api/v1/namespaces/{}/pods/{}/log?", segment(&logs.namespace), segment(&logs.pod));
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path += &format!("{name}={}&", segment(&value));
        }
    };
    let truth = |is_set: bool| is_set.then(|| "true".to_owned());
    let number = |number: i64, none: i64| (number != none).then(|| number.to_string());
    put("container", logs.container.clone());
    put("follow", truth(logs.follow));
    put("previous", truth(logs.previous));
    put("timestamps", truth(logs.timestamps));
    put("tailLines", number(logs.tail, -1));
    put("limitBytes", number(logs.limit_bytes, -1));
    put("sinceSeconds", number(logs.since_second, 0));
    put("sinceTime", logs.since_time.clone().filter(|time| !time.is_empty()));
    path.pop();
    path
}

fn run_command(
    edge: &Edge<'_>,
    exec: &Exec,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Failure> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/exec", segment(&exec.namespace), segment(&exec.pod));
    let body =
        json!({"container": exec.container, "command": exec.command, "timeoutSeconds": exec.timeout_secs});
    let answer = edge.post(&path, &body)?;
    let bytes = |name: &str| {
        let text = answer.get(name).and_then(Value::as_str).unwrap_or_default();
        BASE64_STANDARD.decode(text).with_context(|| format!("read the command's {name}"))
    };
    let (stdout, stderr) = (bytes("stdout")?, bytes("stderr")?);
    err.write_all(&stderr).context("write the command's errors")?;
    match out.write_all(&stdout).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(anyhow::Error::new(error).context("write the command's output").into());
        }
        _ => {}
    }
    match answer.get("exitCode").and_then(Value::as_i64) {
        Some(0) => Ok(()),
        // A code that no process can have is a failure all the same.
        Some(code) => Err(Failure::Ended(u8::try_from(code).unwrap_or(1))),
        None => Err(anyhow::anyhow!("edgecore did not say how the command ended").into()),
    }
}

fn restart_pod(edge: &Edge<'_>, namespace: &str, name: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/restart", segment(namespace), segment(name));
    let answer = edge.post(&path, &json!({}))?;
    let containers = answer.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
    for container in containers {
        let text = |key: &str| container.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        show(out, &format!("pod {name}: container {} was ended; {}\n", text("name"), text("then")))?;
    }
    Ok(())
}

fn unhold(edge: &Edge<'_>, what: &Unhold, out: &mut dyn Write) -> Result<(), Failure> {
    let (path, body) = match what {
        Unhold::Pod(pod) => ("/api/v1/pods/unhold-upgrade", format!("{}/{}", pod.namespace, pod.name)),
        Unhold::Node(node) => ("/api/v1/nodes/unhold-upgrade", node.name.clone().unwrap_or_default()),
    };
    let answer = edge.post(path, &json!(body))?;
    let released = answer.get("released").and_then(Value::as_array).cloned().unwrap_or_default();
    if released.is_empty() {
        eprintln!("no pod of this node is held");
    }
    for pod in released {
        let text = |key: &str| pod.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        show(out, &format!("pod {} of namespace {} is released\n", text("name"), text("namespace")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
