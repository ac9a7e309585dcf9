//! edgecore with thirty pods that are asked how they are: what it takes to stand still.

use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::bench::Row;
use e2e::site::{Site, Wishes, http_get, shell_pod};
use serde_json::json;

use crate::usage::{QUIET, cpu_seconds, memory};

const N_PODS: u32 = 30;
/// Seconds; Kubernetes' own default.
const PERIOD: u32 = 10;
const SCRIPT: &str = "echo well > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";

pub(crate) fn thirty() -> Result<Vec<Row>> {
    let mut site = Site::start("bench-probed", &Wishes::default())?;
    let probes = json!({"containers": [{
        "readinessProbe": {"periodSeconds": PERIOD, "httpGet": {"path": "/", "port": 8080}},
        "livenessProbe": {"periodSeconds": PERIOD, "exec": {"command": ["test", "-e", "/tmp/index.html"]}},
    }]});
    for number in 0..N_PODS {
        site.cluster.apply(&shell_pod(&format!("probed-{number}"), SCRIPT, &probes))?;
    }
    for number in 0..N_PODS {
        site.wait_running(&format!("probed-{number}"))?;
    }
    sleep(QUIET);
    let pid = site.edge.process.pid().context("edgecore has no process")?;
    let n_before = n_probes(&site)?;
    let (cpu, start) = (cpu_seconds(pid)?, Instant::now());
    sleep(QUIET);
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(pid)? - cpu) / seconds * 100.0;
    let rss = memory(pid, "VmRSS")?;
    let n_probes = n_probes(&site)? - n_before;
    let wanted = 2.0 * f64::from(N_PODS) * seconds / f64::from(PERIOD);
    ensure!(
        (n_probes - wanted).abs() < 0.2 * wanted,
        "{n_probes} probes were made in {seconds} s, not {wanted}"
    );
    Ok(vec![
        Row::new("edgecore_rss_30probed", "MB", Some(rss / 1e6), None, N_PODS),
        Row::new("edgecore_cpu_30probed", "%", Some(cpu), None, N_PODS),
    ])
}

/// As the node itself counts them.
fn n_probes(site: &Site) -> Result<f64> {
    let kubelet = site.edge.kubelet();
    let text = http_get(&kubelet.ip().to_string(), kubelet.port(), "/metrics/probes")?;
    let good = text.lines().filter(|line| line.contains("result=\"successful\""));
    Ok(good.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}
