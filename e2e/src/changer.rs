//! Somebody who changes pods and ConfigMaps without end, as fast as a small machine bears, and the chance that decides.
//!
//! It speaks plain HTTP to a `kubectl proxy` of its own. Called by stories.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use crate::cluster::Cluster;
use crate::process::Process;
use crate::run_dir::RunDir;
use crate::wait::until;

/// Between two changes. Much less and the API server takes both cores.
const PAUSE: Duration = Duration::from_millis(15);

/// The same numbers for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

/// Changes `pod-<n>` and `config-<n>`, makes and deletes `spare-<n>`, all of namespace `default`.
pub struct Changer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
    _proxy: Process,
    // Last: its sweep ends the proxy.
    _run_dir: RunDir,
}

impl Changer {
    pub fn start(cluster: &Cluster, n_pods: usize, chance: Chance) -> Result<Self> {
        let run_dir = RunDir::new("changer")?;
        let port = run_dir.port()?;
        let arguments = [
            "proxy".to_owned(),
            format!("--port={port}"),
            format!("--kubeconfig={}", cluster.kubeconfig().display()),
        ];
        let mut proxy = Process::new(run_dir.path(), "kubectl-proxy", Path::new("kubectl"), arguments)
            .env("HOME", run_dir.path());
        proxy.start()?;
        until(Duration::from_secs(20), "kubectl proxy", || {
            proxy.must_run()?;
            Ok(request(port, "GET", "/readyz", "", "").is_ok_and(|status| status == 200))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("changer".into())
            .spawn(move || change(port, n_pods as u64, chance, &stopped))?;
        Ok(Self { stop, thread: Some(thread), _proxy: proxy, _run_dir: run_dir })
    }

    /// How many changes there were. Errors: one was refused.
    pub fn stop(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(0) };
        thread.join().map_err(|_| anyhow!("the changer panicked"))?
    }
}

impl Drop for Changer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn change(port: u16, n_pods: u64, mut chance: Chance, stopped: &AtomicBool) -> Result<usize> {
    const MERGE: &str = "application/merge-patch+json";
    let all = "/api/v1/namespaces/default";
    let mut n_changes = 0;
    while !stopped.load(Ordering::Relaxed) {
        let n = chance.below(n_pods);
        // Of different lengths, so that pages split and the journal's frames differ.
        let filler = "x".repeat(usize::try_from(chance.below(3000))?);
        let labels = json!({"story": "durability"});
        let (method, path, kind, body, fine): (_, _, _, _, &[u16]) = match chance.below(10) {
            0..6 => {
                let body = json!({"data": {"n": n_changes.to_string(), "filler": filler}});
                ("PATCH", format!("{all}/configmaps/config-{n}"), MERGE, body, &[200])
            }
            6..8 => {
                let body = json!({"metadata": {"annotations": {"n": n_changes.to_string()}}});
                ("PATCH", format!("{all}/pods/pod-{n}"), MERGE, body, &[200])
            }
            8 => {
                let metadata = json!({"name": format!("spare-{n}"), "labels": labels});
                let body = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"a": "b"}});
                ("POST", format!("{all}/configmaps"), "application/json", body, &[201, 409])
            }
            _ => {
                ("DELETE", format!("{all}/configmaps/spare-{n}"), "application/json", json!({}), &[200, 404])
            }
        };
        let status = request(port, method, &path, kind, &body.to_string())?;
        ensure!(fine.contains(&status), "{method} {path}: status {status}");
        n_changes += usize::from(status < 300);
        std::thread::sleep(PAUSE);
    }
    Ok(n_changes)
}

fn request(port: u16, method: &str, path: &str, kind: &str, body: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect to kubectl proxy")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
    let head = String::from_utf8_lossy(answer.get(..12).unwrap_or_default()).into_owned();
    head.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("{method} {path}: {head:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| chance.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((0..10).all(|n| draw(7).contains(&n)));
    }
}
