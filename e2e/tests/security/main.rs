//! What a machine with a valid token achieves against others: nothing. Secrets stand in no log and in no open file.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

mod machine;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::site::{PATIENCE, Site, Wishes, pod_ip, web_app};
use ke_wire::{MessageId, Question, Up};
use serde_json::json;

use machine::{Machine, closed, flood, receive, say, send};

/// cloudcore may not grow by more than this because of a frame of 100 MB.
const MAX_GROWTH_KB: u64 = 24 << 10;

#[test]
fn a_hostile_machine_achieves_nothing() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let loud = json!({"logging": {"level": "debug"}});
    let wishes = Wishes { cloudcore: loud.clone(), edgecore: loud, ..Wishes::default() };
    let mut site = Site::start("security", &wishes)?;
    site.cluster.apply(&web_app("app", "first page"))?;
    let pod = site.pod_of("app")?;
    let address = pod_ip(&site.wait_running(&pod)?)?;
    site.wait_http(&address, "/", "first page")?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(attack(&site))?;

    // After all that: the good node is served.
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    site.cluster.apply(&web_app("app", "second page"))?;
    site.wait_http(&address, "/", "second page")?;
    site.cloud.process.must_run()?;
    no_secret_in_logs(&site)?;
    let n_files = no_secret_in_open_files(&site, site.edge.run_dir().path())?;
    ensure!(n_files >= 3, "only {n_files} files hold a secret: the search found too little");
    Ok(())
}

async fn attack(site: &Site) -> Result<()> {
    let (https, websocket) = (site.cloud.https(), site.cloud.websocket());
    let keys = site.cluster.kubectl_json(&["get", "secret", "casecret", "--namespace=kubeedge"])?;
    let ca = STANDARD.decode(keys["data"]["cadata"].as_str().context("the CA's Secret has its field")?)?;
    let other = Machine::enrol(https, &ca, &site.token, "edge-2").await?;

    // Another node's things.
    let mut link = other.connect(websocket, "edge-2").await?;
    for key in [
        "default/secret/app-key",
        "default/configmap/app-page",
        "kubeedge/secret/casecret",
        "null/node/edge-1",
    ] {
        say(&mut link, &Up::Ask { id: MessageId::fresh(), question: Question::Get(key.parse()?) }).await?;
        let answer = receive(&mut link).await?;
        ensure!(answer.contains("Forbidden") && !answer.contains("b3Blbi1hcHA"), "{key}: {answer}");
    }
    // What nobody understands is ignored; the link goes on.
    let id = MessageId::fresh();
    let unknown = json!({"header": {"msg_id": id.as_str()}, "route": {"source": "edged", "group": "meta",
        "operation": "conquer", "resource": "default/pod/x"}, "content": "x"});
    send(&mut link, &unknown.to_string()).await?;
    say(&mut link, &Up::Ask { id: MessageId::fresh(), question: Question::ApiServerCa }).await?;
    ensure!(receive(&mut link).await?.contains("BEGIN CERTIFICATE"), "no answer after an unknown operation");
    send(&mut link, "this is no JSON").await?;
    let why = closed(&mut link).await?;
    ensure!(why.contains("not JSON"), "{why}");

    // Another node's name, and another CA's certificate.
    let mut link = other.connect(websocket, "edge-1").await?;
    let why = closed(&mut link).await?;
    ensure!(why.contains("the certificate is for system:nodes/system:node:edge-2"), "{why}");
    let stranger = Machine::stranger(&ca, "edge-1")?;
    ensure!(stranger.connect(websocket, "edge-1").await.is_err(), "another CA's certificate was taken");

    // A frame far beyond the limit.
    let before = peak_memory_kb(site)?;
    let mut link = other.connect(websocket, "edge-2").await?;
    let n_sent = flood(&mut link).await;
    let growth = peak_memory_kb(site)?.saturating_sub(before);
    eprintln!("{} MB of 100 were sent; cloudcore's peak grew by {growth} KB", n_sent >> 20);
    ensure!(n_sent < 100 << 20, "all of it was read");
    ensure!(growth < MAX_GROWTH_KB, "cloudcore grew by {growth} KB");
    Ok(())
}

fn peak_memory_kb(site: &Site) -> Result<u64> {
    let pid = site.cloud.process.pid().context("cloudcore runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Texts that tell a secret: the token's signature, the application's Secret as it is and as Kubernetes writes it.
fn needles(site: &Site) -> Result<Vec<String>> {
    let signature = site.token.rsplit('.').next().context("a token has parts")?.to_owned();
    Ok(vec![signature, "open-app".into(), "b3Blbi1hcHA".into(), "PRIVATE KEY-----".into()])
}

fn no_secret_in_logs(site: &Site) -> Result<()> {
    for (name, log) in [("cloudcore", site.cloud.process.log()), ("edgecore", site.edge.process.log())] {
        ensure!(!log.is_empty(), "{name} has no log");
        for needle in needles(site)? {
            let line = log.lines().find(|line| line.contains(&needle));
            ensure!(line.is_none(), "{name}'s log holds a secret: {}", line.unwrap_or_default());
        }
    }
    Ok(())
}

/// Number of files that hold a secret; all of them are for root only, or in memory.
fn no_secret_in_open_files(site: &Site, folder: &Path) -> Result<usize> {
    let needles = needles(site)?;
    let mut n_files = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.flatten() {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.metadata()?.len() < 64 << 20 {
                let content = fs::read(entry.path())?;
                let holds =
                    |needle: &String| content.windows(needle.len()).any(|part| part == needle.as_bytes());
                if needles.iter().any(holds) {
                    n_files += 1;
                    let mode = entry.metadata()?.permissions().mode() & 0o777;
                    let in_memory = rustix::fs::statfs(entry.path())?.f_type == 0x0102_1994;
                    ensure!(
                        in_memory || [0o600, 0o400].contains(&mode),
                        "{} has mode {mode:o}",
                        entry.path().display()
                    );
                }
            }
        }
    }
    Ok(n_files)
}

#[test]
fn the_search_is_for_what_the_application_holds() {
    let app = web_app("app", "x");
    assert!(app.contains(r#""stringData":{"key":"open-app"}"#), "{app}");
    assert!(STANDARD.encode("open-app").starts_with("b3Blbi1hcHA"));
}
