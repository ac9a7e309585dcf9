//! `keadm debug` on a node: what it shows is there, and none of the node's secrets is in what it collects.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::cluster::{Cluster, Options};
use e2e::joined::{Joined, must, told, wait_running};
use e2e::node::CloudCore;
use e2e::site::shell_pod;
use serde_json::{Value, json};

const NODE: &str = "edge-debug";
const PASSWORD: &str = "correct-horse-battery-staple";
/// Short, and only found by knowing it.
const PIN: &str = "zq7x";

#[test]
fn a_bundle_holds_what_helps_and_no_secret() -> Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
    let token = cloud.token(&cluster)?;
    let edge = Joined::prepare(NODE, &cloud)?;
    let machine = &edge.machine;
    let run_dir = machine.run_dir();
    let ask = |words: &[&str]| edge.keadm(words);

    // Before the machine is a node.
    let nothing = ask(&["debug", "diagnose", "node"])?;
    ensure!(nothing.status.code() == Some(1) && told(&nothing).contains("keadm join"), "{}", told(&nothing));

    must(&edge.join(&token, &[])?)?;

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "door"},
        "stringData": {"password": PASSWORD, "pin": PIN}});
    cluster.apply(&secret.to_string())?;
    let more = json!({"containers": [{"env": [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "door", "key": "password"}}},
    ]}]});
    cluster.apply(&shell_pod("web", "exec sleep 100000", &more))?;
    wait_running(&cluster, "web")?;

    // The secrets, everywhere where a careless program could have left them.
    let key = machine.read("/etc/kubeedge/certs/server.key")?;
    let key_line = key.lines().nth(1).context("no key")?.to_owned();
    let encoded = STANDARD.encode(PASSWORD);
    let planted = format!("token {token} key {key} {PASSWORD} {encoded} pin {PIN} .\n");
    let plant = run_dir.write("plant", &planted)?;
    for path in ["/var/log/kubeedge/edgecore.log", "/etc/hosts"] {
        let script = format!("cat {} >> {path}", plant.display());
        let done = machine.run(Path::new("/bin/sh"), &["-c", &script])?;
        ensure!(done.status.success(), "{}", told(&done));
    }

    let shown = ask(&["debug", "get", "all", "-A"])?;
    let text = told(&shown);
    ensure!(shown.status.success() && text.contains("pod/web") && text.contains("secret/door"), "{text}");
    let shown = ask(&["debug", "get", "secret", "door", "-o", "yaml"])?;
    let text = told(&shown);
    ensure!(text.contains(&format!("password: <{} bytes>", PASSWORD.len())), "{text}");
    ensure!(!text.contains(PASSWORD) && !text.contains(&encoded), "{text}");
    let good = ask(&["debug", "diagnose", "pod", "web"])?;
    ensure!(good.status.success() && told(&good).contains("main is running"), "{}", told(&good));
    let good = ask(&["debug", "diagnose", "node"])?;
    ensure!(told(&good).contains("ok: node: the cloud calls this node Ready"), "{}", told(&good));
    let checked = ask(&["debug", "check", "runtime", "--output", "json"])?;
    let checked: Value = serde_json::from_slice(&checked.stdout)?;
    ensure!(checked["findings"][0]["verdict"] == "ok", "{checked}");

    let check = |round: &str| -> Result<String> {
        let folder = run_dir.folder(round)?;
        let shown = folder.display().to_string();
        let collected = ask(&["debug", "collect", "-d", "-o", &shown])?;
        ensure!(collected.status.success(), "{}", told(&collected));
        let bundle = fs::read_dir(&folder)?.next().context("no bundle")??.path();
        e2e::process::run("tar", &["-xzf", &bundle.display().to_string(), "-C", &shown])?;
        let all = e2e::process::run("grep", &["-r", "", &shown, "--exclude=*.tar.gz", "--no-messages"])?;
        let jwt = token.split_once('.').context("an odd token")?.1;
        for (what, secret) in [
            ("the node's key", key_line.as_str()),
            ("the join token", jwt),
            ("the Secret", PASSWORD),
            ("the Secret's base64", &encoded),
            ("the short Secret", PIN),
            ("a private key", "PRIVATE KEY"),
        ] {
            let line = all.lines().find(|line| line.contains(secret));
            ensure!(line.is_none(), "{what} is in it: {line:?}");
        }
        for expected in [
            "versions.txt:keadm v",
            "edgecore.yaml:    hostnameOverride: edge-debug",
            "config-check.txt",
            "preflight.txt",
            "certificate.txt:subject: ",
            "objects.txt:secret default/door",
            "containers.txt:pod default/web",
            "edgecore.log",
            "pin <redacted> .",
            "server.key",
            "machine/routes.txt",
        ] {
            ensure!(all.contains(expected), "no {expected:?} in the bundle:\n{all}");
        }
        Ok(all)
    };
    let all = check("running")?;
    ensure!(all.contains("admin/node.txt:200") && all.contains("edgecore starts"), "{all}");

    // With edgecore stopped the store is still there to look at.
    let stop = ["supervise", "--pid-file", "/run/edgecore.pid", "--stop"];
    let stopped = ask(&stop)?;
    ensure!(stopped.status.success(), "{}", told(&stopped));
    let shown = ask(&["debug", "get", "pod"])?;
    ensure!(told(&shown).contains("web"), "{}", told(&shown));
    let down = ask(&["debug", "diagnose", "node"])?;
    ensure!(
        down.status.code() == Some(1) && told(&down).contains("edgecore does not run"),
        "{}",
        told(&down)
    );
    let all = check("stopped")?;
    ensure!(all.contains("edgecore does not answer"), "{all}");

    let reset = ask(&["reset", "edge", "--force"])?;
    ensure!(reset.status.success(), "{}", told(&reset));
    Ok(())
}
