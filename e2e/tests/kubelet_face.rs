//! What the API server and other clients of kubelets find at cloudcore: a Node that shows its address, a certificate that a
//! verifying API server believes, its own judgement of who may, and a node that is away said to be so.
//!
//! That bytes reach containers is `logs_exec`.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::site::{NODE, PATIENCE, Site, Wishes, web_app};
use e2e::wait::{Seen, eventually};
use serde_json::Value;

fn node(site: &Site) -> Result<Value> {
    site.cluster.kubectl_json(&["get", "node", NODE])
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let all = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|one| one["type"] == kind).and_then(|one| one["address"].as_str()).unwrap_or_default()
}

fn port(node: &Value) -> u64 {
    node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or_default()
}

/// Status and text of `https://127.0.0.1:PORT/path`, whose certificate must be the cluster's.
fn curl(site: &Site, port: u64, path: &str, more: &[&str]) -> Result<String> {
    let ca = &site.cluster.ca().files.cert;
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--write-out", " %{http_code}", "--cacert"])
        .arg(ca)
        .args(more)
        .arg(format!("https://127.0.0.1:{port}{path}"))
        .output()
        .context("start curl")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl {path}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn kubelets_of_edge_nodes_are_found_at_cloudcore() -> Result<()> {
    let options = Options { verifies_kubelets: true, ..Options::default() };
    let mut site = Site::start("face", &Wishes { cluster: options, ..Wishes::default() })?;

    // The Node shows the cloud, beside what the machine says of itself.
    let shown = node(&site)?;
    let own = address(&shown, "ExternalIP").to_owned();
    ensure!(
        address(&shown, "InternalIP") == "127.0.0.1" && !own.is_empty(),
        "{}",
        shown["status"]["addresses"]
    );
    ensure!(
        shown["metadata"]["annotations"]["isthmus.io/node-addresses"] == own.as_str(),
        "{}",
        shown["metadata"]
    );
    let first = port(&shown);
    let config: Value = serde_json::from_slice(&std::fs::read(site.cloud.config())?)?;
    let range = config["modules"]["cloudStream"]["kubeletPorts"].as_str().unwrap_or_default().to_owned();
    ensure!(range.split(',').any(|one| one == first.to_string()), "{first} is none of {range}");
    // On the machine nothing of that is seen.
    site.cluster.apply(&web_app("shop", "open"))?;
    let web = site.pod_of("shop")?;
    let pod = site.wait_running(&web)?;
    ensure!(pod["status"]["hostIP"] == own.as_str(), "{} is not {own}", pod["status"]["hostIP"]);

    // Nothing is written while nothing changes: leases aside, which are objects of their own.
    let version = |site: &Site| Ok::<_, anyhow::Error>(node(site)?["metadata"]["resourceVersion"].clone());
    let before = version(&site)?;
    std::thread::sleep(Duration::from_secs(25));
    ensure!(version(&site)? == before, "the Node was written without a reason");

    // The cluster has signed for cloudcore.
    eventually(PATIENCE, "a certificate of the cluster", || {
        let log = site.cloud.process.log();
        let is_signed = log.contains("a certificate that the cluster has signed");
        Ok(if is_signed { Seen::Yes(()) } else { Seen::NotYet(site.cloud.process.log_end(5)) })
    })?;

    // A node that is away is named, to whoever looks at logs, through an API server that verifies kubelets and shows a client
    // certificate of its own.
    site.cut();
    site.edge.process.kill9()?;
    let says = |words: &[&str], expected: &str| {
        eventually(PATIENCE, &format!("{words:?} to say {expected:?}"), || {
            let output = site.cluster.kubectl(words)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_said = !output.status.success() && said.contains(expected);
            Ok(if is_said { Seen::Yes(said) } else { Seen::NotYet(said) })
        })
    };
    println!("logs: {}", says(&["logs", &web], "node edge-1 cannot be reached: ")?);
    println!("exec: {}", says(&["exec", &web, "--", "true"], "node edge-1 cannot be reached: ")?);

    // Clients of their own right: as a kubelet judges.
    let away = "node edge-1 cannot be reached";
    let check = |path: &str, more: &[&str], status: &str, says: &str| -> Result<()> {
        let said = curl(&site, first, path, more)?;
        ensure!(said.ends_with(status) && said.contains(says), "{path} {more:?}: {said}");
        Ok(())
    };
    check("/metrics/resource", &[], "401", "Unauthorized")?;
    check("/metrics/resource", &["--header", "Authorization: Bearer nonsense"], "401", "Unauthorized")?;
    site.cluster.kubectl_ok(&["create", "serviceaccount", "reader"])?;
    let token = site.cluster.kubectl_ok(&["create", "token", "reader"])?;
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let bearer = ["--header", &*bearer];
    let forbidden = "Forbidden (user=system:serviceaccount:default:reader, verb=get, resource=nodes, subresource(s)=[metrics])";
    check("/metrics/resource", &bearer, "403", forbidden)?;
    let role = ["create", "clusterrole", "reads-metrics", "--verb=get", "--resource=nodes/metrics"];
    site.cluster.kubectl_ok(&role)?;
    let binding = [
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=reads-metrics",
        "--serviceaccount=default:reader",
    ];
    site.cluster.kubectl_ok(&binding)?;
    // A refusal is remembered for some seconds.
    eventually(PATIENCE, "the right to count", || {
        let said = curl(&site, first, "/metrics/resource", &bearer)?;
        Ok(if said.ends_with("502") && said.contains(away) { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    check(&format!("/containerLogs/default/{web}/main"), &bearer, "403", "subresource(s)=[proxy]")?;
    let certificate = |name: &str, user: &str, groups: &[&str]| -> Result<[String; 4]> {
        let files = site.cluster.ca().issue(name, user, groups, &[])?;
        let path = |path: &std::path::Path| path.display().to_string();
        Ok(["--cert".to_owned(), path(&files.cert), "--key".to_owned(), path(&files.key)])
    };
    let master = certificate("face-master", "somebody", &["system:masters"])?;
    let master = master.each_ref().map(String::as_str);
    check("/stats/summary", &master, "502", away)?;
    check("/containerLogs/default/nobody/main", &master, "404", "no pod nobody in namespace default")?;
    let visitor = certificate("face-visitor", "visitor", &[])?;
    check("/stats/summary", &visitor.each_ref().map(String::as_str), "403", "user=visitor")?;

    // Another cloudcore, the same port.
    site.cloud.process.restart()?;
    site.heal();
    site.edge.process.start()?;
    eventually(PATIENCE, "the port to be open again", || {
        match curl(&site, first, "/metrics/resource", &bearer) {
            Ok(said) if said.ends_with("502") || said.ends_with("200") => Ok(Seen::Yes(())),
            said => Ok(Seen::NotYet(format!("{said:?}"))),
        }
    })?;
    ensure!(port(&node(&site)?) == first, "the node has got another port");
    Ok(())
}
