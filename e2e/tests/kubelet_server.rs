//! The kubelet's port of a node: what programs of the machine see there without credentials, what they do not, and what is there
//! while the cloud or the container runtime is away.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::site::{NODE, PATIENCE, Site, Wishes, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// As many as edgecore serves at once.
const MAX_CONNECTIONS: usize = 16;

/// Status and body.
fn ask(port: SocketAddr, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&port, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // An older version of HTTP: the answer's body is not in pieces.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {port}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok((head.split(' ').nth(1).context("no status")?.parse()?, body.to_owned()))
}

fn get(port: SocketAddr, path: &str) -> Result<String> {
    let (status, body) = ask(port, "GET", path)?;
    ensure!(status == 200, "{path}: {status} {body}");
    Ok(body)
}

fn get_json(port: SocketAddr, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&get(port, path)?)?)
}

/// The one sample of `series`, labels included: its value and its time in milliseconds.
fn sample(text: &str, series: &str) -> Result<(f64, Option<i64>)> {
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{series} "))).collect();
    ensure!(lines.len() == 1, "{series} stands {} times in\n{text}", lines.len());
    let mut words = lines[0].rsplitn(if series.starts_with("container_start") { 2 } else { 3 }, ' ');
    let last = words.next().context("no value")?;
    match words.next().and_then(|word| word.parse().ok()) {
        Some(value) => Ok((value, Some(last.parse()?))),
        None => Ok((last.parse()?, None)),
    }
}

fn find<'a>(list: &'a Value, path: &str, name: &str) -> Result<&'a Value> {
    let items = list.as_array().context("no list")?;
    let found = items.iter().find(|item| item.pointer(path).and_then(Value::as_str) == Some(name));
    found.with_context(|| format!("no {name} in {list}"))
}

fn now_millis() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

#[test]
fn a_node_shows_itself_to_its_own_programs() -> Result<()> {
    let mut site = Site::start("kubelet_server", &Wishes::default())?;
    let port = site.edge.kubelet();
    // Some work now and then, some files, some lines.
    let script = "head -c 100000 /dev/zero > /tmp/file; echo begun; trap 'exit 0' TERM; \
                  while true; do head -c 3000000 /dev/zero | tr '\\0' x > /dev/null; sleep 0.2; done";
    site.cluster.apply(&shell_pod("busy", script, &json!({})))?;
    site.cluster.apply(&shell_pod("idle", "sleep 100000", &json!({"hostNetwork": true})))?;
    let pod = site.wait_running("busy")?;
    site.wait_running("idle")?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?.to_owned();

    ensure!(get(port, "/healthz")? == "ok", "healthz");
    let pods = get_json(port, "/pods")?;
    ensure!(pods["kind"] == "PodList" && pods["apiVersion"] == "v1", "{pods}");
    let busy = find(&pods["items"], "/metadata/name", "busy")?;
    ensure!(busy["metadata"]["uid"] == uid.as_str(), "the same pod");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(busy["status"]["phase"] == "Running" && id(busy) == id(&pod), "{}", busy["status"]);
    let running = get_json(port, "/runningpods/")?;
    let busy = find(&running["items"], "/metadata/name", "busy")?;
    ensure!(busy["spec"]["containers"][0]["name"] == "main", "{busy}");

    // Nobody says who he is here, so nobody sees into containers; nor learns which there are.
    for (method, path) in [
        ("GET", "/containerLogs/default/busy/main"),
        ("POST", "/exec/default/busy/main?command=id&output=1"),
        ("GET", "/attach/default/busy/main?output=1"),
        ("POST", "/portForward/default/busy"),
        ("POST", "/run/default/busy/main?cmd=id"),
        ("GET", "/containerLogs/default/nobody/main"),
    ] {
        let (status, text) = ask(port, method, path)?;
        ensure!(status == 403 && text.contains("keadm ctl"), "{path}: {status} {text}");
    }
    ensure!(ask(port, "GET", "/configz")?.0 == 404, "no such route");
    ensure!(ask(port, "DELETE", "/pods")?.0 == 405, "no such method");

    // What metrics-server reads: used seconds that grow, with the time at which they were measured.
    let busy = r#"container="main",namespace="default",pod="busy""#;
    let cpu = format!("container_cpu_usage_seconds_total{{{busy}}}");
    let first = get(port, "/metrics/resource")?;
    let (used, at) = sample(&first, &cpu)?;
    let at = at.context("no time")?;
    ensure!((now_millis()? - at).abs() < 10_000, "measured {} ms ago", now_millis()? - at);
    let (later, worked) = eventually(PATIENCE, "a later measurement", || {
        let text = get(port, "/metrics/resource")?;
        let (now_used, now_at) = sample(&text, &cpu)?;
        let is_later = now_at.is_some_and(|now_at| now_at > at + 500) && now_used > used;
        Ok(if is_later { Seen::Yes((text, now_used - used)) } else { Seen::NotYet(now_used.to_string()) })
    })?;
    let (memory, _) = sample(&later, &format!("container_memory_working_set_bytes{{{busy}}}"))?;
    let (pod_cpu, _) = sample(&later, r#"pod_cpu_usage_seconds_total{namespace="default",pod="busy"}"#)?;
    let (pod_memory, _) = sample(&later, r#"pod_memory_working_set_bytes{namespace="default",pod="busy"}"#)?;
    let (node_cpu, node_at) = sample(&later, "node_cpu_usage_seconds_total")?;
    let (node_memory, _) = sample(&later, "node_memory_working_set_bytes")?;
    let (started, _) = sample(&later, &format!("container_start_time_seconds{{{busy}}}"))?;
    println!(
        "container: {used:.3} s of CPU, then {worked:.3} s more, {memory} bytes; pod: {pod_cpu:.3} s, {pod_memory} bytes; \
         node: {node_cpu:.1} s, {node_memory} bytes"
    );
    ensure!(memory > 0.0 && pod_memory >= memory && node_memory > pod_memory, "memory grows upwards");
    // The pod is measured a moment after its container.
    ensure!(pod_cpu > used && node_cpu > pod_cpu && node_at.is_some(), "and so does time");
    #[allow(clippy::cast_precision_loss)]
    let age = now_millis()? as f64 / 1000.0 - started;
    ensure!((0.0..600.0).contains(&age), "started {age} s ago");
    ensure!(sample(&later, "resource_scrape_error")?.0 == 0.0, "all was measured");

    let summary = eventually(PATIENCE, "files in the summary", || {
        // The runtime measures files every ten seconds.
        let summary = get_json(port, "/stats/summary")?;
        let busy = find(&summary["pods"], "/podRef/name", "busy")?;
        let used = busy["containers"][0]["rootfs"]["usedBytes"].as_u64();
        Ok(if used > Some(100_000) { Seen::Yes(summary) } else { Seen::NotYet(busy.to_string()) })
    })?;
    ensure!(summary["node"]["nodeName"] == NODE, "{}", summary["node"]);
    for path in [
        "/node/cpu/usageCoreNanoSeconds",
        "/node/memory/workingSetBytes",
        "/node/fs/capacityBytes",
        "/node/runtime/imageFs/usedBytes",
        "/node/systemContainers/0/cpu/usageCoreNanoSeconds",
        "/node/network/rxBytes",
    ] {
        ensure!(summary.pointer(path).and_then(Value::as_u64) > Some(0), "{path} in {}", summary["node"]);
    }
    let busy_stats = find(&summary["pods"], "/podRef/name", "busy")?;
    ensure!(busy_stats["podRef"]["uid"] == uid.as_str(), "{busy_stats}");
    for path in [
        "/cpu/usageCoreNanoSeconds",
        "/memory/workingSetBytes",
        "/containers/0/cpu/usageCoreNanoSeconds",
        "/containers/0/memory/workingSetBytes",
        "/containers/0/logs/usedBytes",
        "/ephemeral-storage/usedBytes",
    ] {
        ensure!(busy_stats.pointer(path).and_then(Value::as_u64) > Some(0), "{path} in {busy_stats}");
    }
    ensure!(busy_stats["network"]["name"] == "eth0", "{busy_stats}");
    let idle = find(&summary["pods"], "/podRef/name", "idle")?;
    ensure!(idle["network"].is_null(), "a pod on the machine's network has none of its own: {idle}");
    eventually(PATIENCE, "how fast the pod uses CPU", || {
        let summary = get_json(port, "/stats/summary?only_cpu_and_memory=true")?;
        let busy = find(&summary["pods"], "/podRef/name", "busy")?;
        ensure!(busy["containers"][0]["rootfs"].is_null(), "{busy}");
        let rate = busy["cpu"]["usageNanoCores"].as_u64().filter(|rate| *rate > 0);
        Ok(rate.map_or_else(|| Seen::NotYet(busy.to_string()), Seen::Yes))
    })?;

    let cadvisor = get(port, "/metrics/cadvisor")?;
    let series = cadvisor.lines().filter(|line| line.starts_with("container_memory_working_set_bytes{"));
    let series: Vec<&str> = series.filter(|line| line.contains(r#"pod="busy""#)).collect();
    ensure!(series.len() == 2, "the pod and its container: {series:?}");
    ensure!(get(port, "/metrics")?.contains("edgecore_cloud_connected 1"), "our own");
    get(port, "/metrics/probes")?;

    // Connections are counted: who holds them all keeps the others waiting, not edgecore growing.
    let held = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(port)).collect::<Result<Vec<_>, _>>()?;
    let mut waiting = TcpStream::connect(port)?;
    waiting.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(waiting, "GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut letter = [0];
    ensure!(waiting.read(&mut letter).is_err(), "answered although all connections are taken");
    drop(held);
    waiting.set_read_timeout(Some(Duration::from_secs(10)))?;
    ensure!(waiting.read(&mut letter)? == 1, "answered once they are free");

    // Without the cloud.
    site.cut();
    site.cloud.process.stop()?;
    eventually(PATIENCE, "the number that tells of the link", || {
        let is_away = get(port, "/metrics")?.contains("edgecore_cloud_connected 0");
        Ok(if is_away { Seen::Yes(()) } else { Seen::NotYet("connected".into()) })
    })?;
    sample(&get(port, "/metrics/resource")?, &cpu)?;
    find(&get_json(port, "/pods")?["items"], "/metadata/name", "busy")?;

    // Without the runtime: told, and the node's own figures are there.
    site.runtime.containerd.kill9()?;
    let begun = Instant::now();
    let away = get(port, "/metrics/resource")?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "a runtime that is away holds nobody up");
    ensure!(sample(&away, "resource_scrape_error")?.0 == 1.0, "{away}");
    ensure!(sample(&away, "node_cpu_usage_seconds_total")?.0 > 0.0, "{away}");
    ensure!(ask(port, "GET", "/runningpods")?.0 == 500, "who asks for containers is told");
    ensure!(get(port, "/healthz")? == "ok", "healthz");
    site.runtime.start_again()?;
    eventually(PATIENCE, "the runtime's containers", || {
        let text = get(port, "/metrics/resource")?;
        let is_whole = sample(&text, "resource_scrape_error")?.0 == 0.0 && sample(&text, &cpu).is_ok();
        Ok(if is_whole { Seen::Yes(()) } else { Seen::NotYet(text) })
    })?;
    site.edge.process.must_run()
}
