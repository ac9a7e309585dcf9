//! A machine becomes a node; a wrong token, a second machine of the same name and a stranger's certificate do not.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::node::{EdgeCore, EdgeOptions};
use e2e::runtime::Runtime;
use e2e::site::{NODE, Site, Wishes};
use serde_json::json;

#[test]
fn a_machine_becomes_a_node() -> Result<()> {
    let mut site = Site::start("join", &Wishes::default())?;
    let nodes = site.cluster.kubectl_ok(&["get", "nodes", "--no-headers"])?;
    ensure!(nodes.contains("agent,edge") && nodes.contains(" Ready "), "{nodes}");
    let lease = site.cluster.kubectl_json(&["get", "lease", NODE, "--namespace=kube-node-lease"])?;
    ensure!(lease["spec"]["holderIdentity"] == NODE, "{lease}");
    for file in ["certs/server.key", "edgecore.db"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(site.edge.run_dir().join(file))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} has mode {mode:o}");
    }
    // The token stands in no log.
    let secret = site.token.rsplit('.').next().context("a token has parts")?.to_owned();
    ensure!(
        !site.edge.process.log().contains(&secret) && !site.cloud.process.log().contains(&secret),
        "a log holds the token"
    );

    // A second machine of the same name: refused, and the event names both addresses.
    let other = Runtime::start("join")?;
    let options = EdgeOptions::new(NODE, &site.cloud, site.token.clone());
    let mut twin = EdgeCore::start(&other, &options)?;
    let status = twin.process.wait_for_exit(Duration::from_secs(30))?;
    ensure!(
        !status.success() && twin.process.log().contains("kubectl delete node"),
        "{}",
        twin.process.log()
    );
    site.wait_event(NODE, "127.0.0.1")?;
    ensure!(site.edge.process.is_running(), "the first machine stopped: {}", site.edge.process.log_end(20));

    // Names that are none are refused before anything is asked.
    let mut options = EdgeOptions::new("Not A Name", &site.cloud, site.token.clone());
    options.more = json!({});
    let mut nameless = EdgeCore::start(&other, &options)?;
    let status = nameless.process.wait_for_exit(Duration::from_secs(10))?;
    ensure!(
        !status.success() && nameless.process.log().contains("hostnameOverride"),
        "{}",
        nameless.process.log()
    );
    Ok(())
}

#[test]
fn a_wrong_token_does_not_join() -> Result<()> {
    let site = Site::prepare("token", &Wishes::default())?;
    let keys = site.cluster.kubectl_json(&["get", "secret", "casecret", "--namespace=kubeedge"])?;
    let decode = |field: &str| -> Result<Vec<u8>> {
        use base64::Engine;
        let text = keys["data"][field].as_str().context("the CA secret has its fields")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
    };
    let (ca, key) = (decode("cadata")?, decode("cakeydata")?);
    let good_hash = e2e::token::ca_hash(&ca);
    let hour = 3600;
    let cases = [
        ("no token at all", "abc".to_owned(), "four parts"),
        ("expired", e2e::token::make(&good_hash, &key, -hour)?, "expired"),
        ("of another CA's key", e2e::token::make(&good_hash, b"another key", hour)?, "refused"),
        (
            "rightly signed with a wrong CA hash",
            e2e::token::make(&"0".repeat(64), &key, hour)?,
            "is not the one that the join token names",
        ),
    ];
    for (what, token, sentence) in cases {
        let options = EdgeOptions::new("edge-x", &site.cloud, token);
        let mut edge = EdgeCore::start(&site.runtime, &options)?;
        let status = edge.process.wait_for_exit(Duration::from_secs(30))?;
        let log = edge.process.log();
        ensure!(!status.success() && log.contains(sentence), "a token {what}: {log}");
        ensure!(!edge.run_dir().join("certs/server.crt").exists(), "a token {what} left a certificate");
    }
    let output = site.cluster.kubectl(&["get", "node", "edge-x"])?;
    ensure!(!output.status.success(), "a refused machine became a node");
    Ok(())
}
