//! What is wrong with a configuration or a machine is said in one sentence that names what to do, before anything starts.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::node::{CloudCore, EdgeCore, EdgeOptions};
use e2e::runtime::Runtime;
use serde_json::{Value, json};

#[test]
fn bad_configuration_is_told() -> Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
    let token = cloud.token(&cluster)?;
    let runtime = Runtime::start("config")?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();

    let edge = |more: Value| -> Result<EdgeCore> {
        let mut options = EdgeOptions::new("edge-1", &cloud, token.clone());
        options.more = more;
        EdgeCore::start(&runtime, &options)
    };
    let cases = [
        (json!({"modules": {"edgeHub": {"websocket": {"sever": "x:1"}}}}), "server"),
        (json!({"modules": {"edgeHub": {"heartbeat": 0}}}), "modules.edgeHub.heartbeat"),
        (json!({"modules": {"edgeHub": {"heartbeat": "soon"}}}), "modules.edgeHub.heartbeat"),
        (json!({"admin": {"bindAddress": format!("127.0.0.1:{port}")}}), "admin.bindAddress"),
    ];
    for (more, sentence) in cases {
        let mut edge = edge(more.clone())?;
        let status = edge.process.wait_for_exit(Duration::from_secs(15))?;
        let log = edge.process.log();
        ensure!(!status.success() && log.contains(sentence), "{more}: {log}");
        ensure!(!edge.store().exists() || log.contains("admin.bindAddress"), "{more} began a store");
    }

    // A runtime that is not there yet is no reason to end: the node says NotReady, and why.
    let absent = json!({"modules": {"edged": {"tailoredKubeletConfig": {"containerRuntimeEndpoint": "unix:///no/such.sock"}}}});
    let mut waiting = edge(absent)?;
    waiting.process.wait_for_log(Duration::from_secs(20), "/no/such.sock")?;
    e2e::wait::until(Duration::from_secs(30), "the Node to say why it is not ready", || {
        let node = cluster.kubectl_ok(&["get", "node", "edge-1", "--output=yaml"])?;
        Ok(node.contains("/no/such.sock"))
    })?;
    drop(waiting);

    // Without root nothing can be mounted: said at once.
    let mut rootless = EdgeCore::prepare(&runtime, &EdgeOptions::new("edge-2", &cloud, token.clone()))?;
    std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(rootless.run_dir().path()).status()?;
    rootless.process.wrap(
        std::path::Path::new("/usr/bin/setpriv"),
        &["--reuid=65534", "--regid=65534", "--clear-groups"],
    );
    rootless.process.start()?;
    let status = rootless.process.wait_for_exit(Duration::from_secs(15))?;
    ensure!(!status.success() && rootless.process.log().contains("root"), "{}", rootless.process.log());

    // The cloud's side.
    let cases = [
        (json!({"modules": {"cloudHub": {"advertiseAdress": ["127.0.0.1"]}}}), "advertiseAddress"),
        (json!({"modules": {"cloudHub": {"websocket": {"port": port}}}}), "in use"),
        (json!({"kubeAPIConfig": {"kubeConfig": "/no/such/kubeconfig"}}), "/no/such/kubeconfig"),
    ];
    for (more, sentence) in cases {
        let mut core = CloudCore::prepare(cluster.kubeconfig(), &more)?;
        core.process.start()?;
        let status = core.process.wait_for_exit(Duration::from_secs(30))?;
        let log = core.process.log();
        ensure!(!status.success() && log.contains(sentence), "{more}: {log}");
    }
    ensure!(cloud.process.is_running(), "{}", cloud.process.log_end(20));
    Ok(())
}
