//! Pods and requests that are wrong: the reason that Kubernetes has for each, and edgecore and the other pods go on.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::images::APP;
use e2e::site::{PATIENCE, Site, Wishes, container_identity, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

/// Reason and message of what the pod's container of this name waits for.
fn waits(pod: &Value, name: &str) -> Option<(String, String)> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == name)?;
    let waiting = &status["state"]["waiting"];
    Some((waiting["reason"].as_str()?.to_owned(), waiting["message"].as_str().unwrap_or_default().to_owned()))
}

/// What kubectl says when it fails.
fn refused(site: &Site, words: &[&str]) -> Result<String> {
    let output = site.cluster.kubectl(words)?;
    ensure!(!output.status.success(), "`kubectl {}` went well", words.join(" "));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn no_command(site: &mut Site) -> Result<()> {
    let command = json!({"containers": [{"command": ["/no/such/command"]}]});
    site.cluster.apply(&shell_pod("no-command", "", &command))?;
    // `RunContainerError` stands in the status until the first restart, which is at once: edged's own test sees it.
    let pod = site.wait_pod("no-command", "to be held back", |pod| {
        waits(pod, "main").is_some_and(|(reason, _)| reason == "CrashLoopBackOff").then(|| pod.clone())
    })?;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(last["reason"] == "StartError" && last["exitCode"] == 128, "{}", pod["status"]);
    site.wait_event("no-command", "Failed: Error: ")?;
    site.wait_event("no-command", "/no/such/command")?;
    site.wait_event("no-command", "BackOff: Back-off restarting failed container main")?;
    // Between two starts there is nothing to be inside of.
    let said = eventually(PATIENCE, "exec to be refused in a kubelet's words", || {
        let said = refused(site, &["exec", "no-command", "--", "true"])?;
        let is_named = said.contains("container not found (\"main\")");
        Ok(if is_named { Seen::Yes(said) } else { Seen::NotYet(said) })
    })?;
    eprintln!("exec in a container that does not run: {}", said.trim());
    Ok(())
}

/// Links in a volume that lead out of it, made by the pod itself, and one that stays inside.
fn links(site: &mut Site) -> Result<()> {
    let mount = |sub_path: &str| json!([{"name": "v", "mountPath": "/v", "subPath": sub_path}]);
    let tricky = |name: &str, sub_path: &str| {
        json!({"name": name, "image": APP, "command": ["sh", "-c", "ls /v; exec sleep 1000"],
            "volumeMounts": mount(sub_path)})
    };
    let script = "mkdir -p /v/real/here; touch /v/real/here/inside; ln -s real/here /v/good; ln -s / /v/top; \
        ln -s ../../../../../../../../etc /v/up; ln -s loop /v/loop; ln -s real /v/chain; mkfifo /v/pipe";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "links"},
        "spec": {
            "nodeSelector": {"node-role.kubernetes.io/edge": ""},
            "terminationGracePeriodSeconds": 1,
            "initContainers": [{"name": "make", "image": APP, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "containers": [tricky("good", "good"), tricky("chain", "chain/here"), tricky("top", "top/etc"),
                tricky("up", "up"), tricky("loop", "loop")],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    site.cluster.apply(&pod.to_string())?;
    let pod = site.wait_pod("links", "to have each container judged", |pod| {
        let refused = ["top", "up", "loop"]
            .iter()
            .all(|name| waits(pod, name).is_some_and(|w| w.0 == "CreateContainerConfigError"));
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let runs =
            |name: &str| statuses.iter().any(|s| s["name"] == name && s["state"]["running"].is_object());
        (refused && runs("good") && runs("chain")).then(|| pod.clone())
    })?;
    for name in ["top", "up", "loop"] {
        let (_, message) = waits(&pod, name).context("it waits")?;
        eprintln!("subPath {name}: {message}");
        ensure!(message.contains("subPath"), "{name}: {message}");
    }
    for name in ["good", "chain"] {
        let listed = site.cluster.kubectl_ok(&["logs", "links", &format!("--container={name}")])?;
        ensure!(listed == "inside\n", "{name} sees {listed:?}");
    }
    Ok(())
}

/// A follower that stops reading, and one that reads on.
fn slow_reader(site: &mut Site) -> Result<()> {
    let script = "while true; do head -c 4096 /dev/zero | tr '\\0' x; echo; done";
    site.cluster.apply(&shell_pod("loud", script, &Value::Null))?;
    site.wait_running("loud")?;
    let mut stuck = site
        .cluster
        .kubectl_command(&["logs", "--follow", "loud"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start kubectl")?;
    // Until there is so much: a busy machine writes it no sooner.
    let (read, took) = eventually(PATIENCE, "4 MB of log", || {
        let begun = Instant::now();
        let read = site.cluster.kubectl_ok(&["logs", "loud", "--limit-bytes=4000000"])?;
        let n_read = read.len();
        Ok(if n_read == 4_000_000 {
            Seen::Yes((read, begun.elapsed()))
        } else {
            Seen::NotYet(format!("{n_read} bytes"))
        })
    })?;
    let echoed = site.cluster.kubectl_ok(&["exec", "bystander", "--", "echo", "on"])?;
    stuck.kill()?;
    stuck.wait()?;
    eprintln!("beside a follower that stopped reading: 4 MB of log in {:.1} s", took.as_secs_f64());
    ensure!(read.len() == 4_000_000 && echoed == "on\n", "{} bytes, {echoed:?}", read.len());
    site.cluster.kubectl_ok(&["delete", "pod", "loud", "--wait=false"])?;
    site.wait_gone("loud")
}

/// Logs and exec of what is not there, or is on another node.
fn wrong_requests(site: &mut Site) -> Result<()> {
    let done = json!({"restartPolicy": "Never"});
    site.cluster.apply(&shell_pod("done", "echo was here", &done))?;
    site.wait_pod("done", "to end", |pod| (pod["status"]["phase"] == "Succeeded").then_some(()))?;
    let said = refused(site, &["exec", "done", "--", "true"])?;
    eprintln!("exec in a pod that has ended: {}", said.trim());
    ensure!(said.contains("completed pod"), "{said}");
    // Its container is gone, and the pod starts it again later: nobody is in it.
    let gone = site.cluster.kubectl_ok(&["logs", "done"])?;
    ensure!(gone == "was here\n", "{gone}");
    let said = refused(site, &["exec", "bystander", "--container=nobody", "--", "true"])?;
    ensure!(
        said.contains("container nobody is not valid for pod bystander") || said.contains("not found"),
        "{said}"
    );

    // A pod that the cluster has on a node of another machine, asked for through this node's door.
    site.cluster
        .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}}).to_string())?;
    let other = json!({"nodeName": "elsewhere", "nodeSelector": {}, "tolerations": [{"operator": "Exists"}]});
    let mut other_pod: Value = serde_json::from_str(&shell_pod("other", "true", &other))?;
    other_pod["spec"]["nodeSelector"] = json!({});
    site.cluster.apply(&other_pod.to_string())?;
    let node = site.cluster.kubectl_json(&["get", "node", e2e::site::NODE])?;
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    site.cluster.kubectl_ok(&["create", "serviceaccount", "reader"])?;
    site.cluster.kubectl_ok(&[
        "create",
        "clusterrole",
        "reads-logs",
        "--verb=get",
        "--resource=nodes/proxy",
    ])?;
    let account = "--serviceaccount=default:reader";
    site.cluster.kubectl_ok(&[
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=reads-logs",
        account,
    ])?;
    let token = site.cluster.kubectl_ok(&["create", "token", "reader"])?;
    for name in ["other", "nobody"] {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--write-out",
                " %{http_code}",
                "--cacert",
            ])
            .arg(&site.cluster.ca().files.cert)
            .args(["--header", &format!("Authorization: Bearer {}", token.trim())])
            .arg(format!("https://127.0.0.1:{port}/containerLogs/default/{name}/main"))
            .output()
            .context("start curl")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("logs of pod {name}, which is not on this node: {said}");
        ensure!(said.ends_with(" 404") && said.contains(name), "{name}: {said} {output:?}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_named_and_harms_nobody() -> Result<()> {
    let cluster = Options { verifies_kubelets: true, ..Options::default() };
    let mut site = Site::start("bad-input", &Wishes { cluster, ..Wishes::default() })?;
    site.cluster.apply(&shell_pod("bystander", "exec sleep 1000", &Value::Null))?;
    let before = container_identity(&site.wait_running("bystander")?)?;
    let pid = site.edge.process.pid();
    eventually(PATIENCE, "kubectl exec to work", || {
        let output = site.cluster.kubectl(&["exec", "bystander", "--", "true"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    links(&mut site)?;
    no_command(&mut site)?;
    slow_reader(&mut site)?;
    wrong_requests(&mut site)?;
    for name in ["links", "no-command", "done"] {
        site.cluster.kubectl_ok(&["delete", "pod", name, "--wait=false"])?;
    }
    for name in ["links", "no-command", "done"] {
        site.wait_gone(name)?;
    }
    until(PATIENCE, "nothing but the bystander to run", || Ok(site.runtime.running()?.len() == 2))?;
    ensure!(container_identity(&site.wait_running("bystander")?)? == before, "the bystander was restarted");
    ensure!(site.edge.process.is_running() && site.edge.process.pid() == pid, "edgecore stayed up");
    Ok(())
}
