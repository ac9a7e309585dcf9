//! Pure: figures in the text form of Prometheus, under the names that metrics-server and dashboards read.

use std::fmt::{Display, Write};

use super::figures::{ContainerFigures, Cpu, Figures, Interface, Memory, PodFigures};

/// A name, what it tells, and which figure it is.
type Family<Of, Figure> = (&'static str, &'static str, fn(&Of) -> Figure);

/// `/metrics/resource`: what metrics-server reads, and so `kubectl top` and autoscalers.
pub(super) fn resource(figures: &Figures) -> String {
    let mut text = Text::default();
    let containers = || figures.pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
    let labels = |(pod, container): (&PodFigures, &ContainerFigures)| {
        labels(&[("container", &container.name), ("namespace", &pod.namespace), ("pod", &pod.name)])
    };
    let of_pod = |pod: &PodFigures| self::labels(&[("namespace", &pod.namespace), ("pod", &pod.name)]);

    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for of in containers() {
        text.cpu(&labels(of), of.1.cpu);
    }
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for of in containers() {
        text.working_set(&labels(of), of.1.memory);
    }
    text.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    // metrics-server leaves out a whole pod for one container of which it reads nothing but this.
    for of in containers().filter(|(_, container)| container.started_at > 0 && container.cpu.is_some()) {
        text.sample(&labels(of), seconds(of.1.started_at), None);
    }
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    text.cpu("", figures.node.cpu);
    text.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    text.working_set("", figures.node.memory);
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &figures.pods {
        text.cpu(&of_pod(pod), pod.cpu);
    }
    text.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for pod in &figures.pods {
        text.working_set(&of_pod(pod), pod.memory);
    }
    text.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample("", u8::from(!figures.is_whole), None);
    text.written
}

/// `/metrics/cadvisor`: of the many series of cAdvisor those that dashboards draw.
pub(super) fn cadvisor(figures: &Figures, now: i64) -> String {
    let mut text = Text::default();
    let rows = rows(figures);
    text.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds");
    for row in &rows {
        text.cpu(&row.labels(&[("cpu", "total")]), row.cpu);
    }
    let memory: [Family<Memory, Option<u64>>; 3] = [
        ("container_memory_working_set_bytes", "Current working set in bytes", |memory| {
            memory.working_set_bytes
        }),
        ("container_memory_usage_bytes", "Current memory usage in bytes, caches included", |memory| {
            memory.usage_bytes
        }),
        ("container_memory_rss", "Size of RSS in bytes", |memory| memory.rss_bytes),
    ];
    for (name, help, of) in memory {
        text.family(name, "gauge", help);
        for row in &rows {
            if let Some((memory, bytes)) = row.memory.and_then(|memory| Some((memory, of(&memory)?))) {
                text.sample(&row.labels(&[]), bytes, Some(memory.at));
            }
        }
    }
    text.family("container_fs_usage_bytes", "gauge", "Bytes that the container has written to its own files");
    for row in &rows {
        let written = row.container.and_then(|container| container.written);
        if let Some((disk, used)) = written.and_then(|disk| Some((disk, disk.used_bytes?))) {
            text.sample(&row.labels(&[]), used, Some(disk.at));
        }
    }
    text.family("container_start_time_seconds", "gauge", "Start time since unix epoch in seconds");
    for row in rows.iter().filter(|row| row.started_at > 0) {
        text.sample(&row.labels(&[]), seconds(row.started_at), None);
    }
    text.family("container_last_seen", "gauge", "Last time it was seen, in seconds since unix epoch");
    for row in &rows {
        text.sample(&row.labels(&[]), seconds(now), None);
    }
    text.network(figures);
    text.family("machine_cpu_cores", "gauge", "Number of logical CPU cores");
    text.sample("", figures.node.n_cpus, None);
    text.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine");
    text.sample("", figures.node.memory_bytes, None);
    text.written
}

/// A cgroup as cAdvisor sees it: the root, a pod, a container.
struct Row<'a> {
    id: String,
    pod: Option<&'a PodFigures>,
    container: Option<&'a ContainerFigures>,
    started_at: i64,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

fn rows(figures: &Figures) -> Vec<Row<'_>> {
    let node = &figures.node;
    let started_at = node.booted_at.unwrap_or_default();
    let (cpu, memory) = (node.cpu, node.memory);
    let mut rows = vec![Row { id: "/".into(), pod: None, container: None, started_at, cpu, memory }];
    for pod in &figures.pods {
        let PodFigures { cpu, memory, started_at, .. } = *pod;
        let id = pod.cgroup.clone();
        rows.push(Row { id, pod: Some(pod), container: None, started_at, cpu, memory });
        rows.extend(pod.containers.iter().map(|one| Row {
            id: format!("{}/{}", pod.cgroup, one.id),
            pod: Some(pod),
            container: Some(one),
            started_at: one.started_at,
            cpu: one.cpu,
            memory: one.memory,
        }));
    }
    rows
}

impl Row<'_> {
    fn labels(&self, more: &[(&str, &str)]) -> String {
        let container = self.container;
        let pod = |of: fn(&PodFigures) -> &str| self.pod.map_or("", of);
        let mut all = vec![
            ("container", container.map_or("", |one| &one.name)),
            ("id", &self.id),
            ("image", container.map_or("", |one| &one.image)),
            ("name", container.map_or("", |one| &one.id)),
            ("namespace", pod(|pod| &pod.namespace)),
            ("pod", pod(|pod| &pod.name)),
        ];
        all.extend(more);
        labels(&all)
    }
}

#[derive(Default)]
struct Text {
    written: String,
    name: &'static str,
}

impl Text {
    /// What follows are samples of this.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.written, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// `labels` with their braces, or nothing. `at`: nanoseconds; written as milliseconds.
    fn sample(&mut self, labels: &str, value: impl Display, at: Option<i64>) {
        let _ = write!(self.written, "{}{labels} {value}", self.name);
        if let Some(at) = at {
            let _ = write!(self.written, " {}", at / 1_000_000);
        }
        self.written.push('\n');
    }

    fn cpu(&mut self, labels: &str, cpu: Option<Cpu>) {
        if let Some(cpu) = cpu {
            let nanos = i64::try_from(cpu.core_nanos).unwrap_or(i64::MAX);
            self.sample(labels, seconds(nanos), Some(cpu.at));
        }
    }

    fn working_set(&mut self, labels: &str, memory: Option<Memory>) {
        if let Some((memory, bytes)) = memory.and_then(|memory| Some((memory, memory.working_set_bytes?))) {
            self.sample(labels, bytes, Some(memory.at));
        }
    }

    fn network(&mut self, figures: &Figures) {
        let families: [Family<Interface, u64>; 8] = [
            ("container_network_receive_bytes_total", "Bytes received", |one| one.rx_bytes),
            ("container_network_receive_errors_total", "Errors while receiving", |one| one.rx_errors),
            ("container_network_receive_packets_total", "Packets received", |one| one.rx_packets),
            ("container_network_receive_packets_dropped_total", "Packets dropped while receiving", |one| {
                one.rx_dropped
            }),
            ("container_network_transmit_bytes_total", "Bytes transmitted", |one| one.tx_bytes),
            ("container_network_transmit_errors_total", "Errors while transmitting", |one| one.tx_errors),
            ("container_network_transmit_packets_total", "Packets transmitted", |one| one.tx_packets),
            (
                "container_network_transmit_packets_dropped_total",
                "Packets dropped while transmitting",
                |one| one.tx_dropped,
            ),
        ];
        for (name, help, of) in families {
            self.family(name, "counter", help);
            let node = ("/", "", "", &figures.node.network);
            let pods = figures.pods.iter();
            let pods = pods.map(|pod| (&*pod.cgroup, &*pod.namespace, &*pod.name, &pod.network));
            for (id, namespace, pod, network) in std::iter::once(node).chain(pods) {
                for interface in network.iter().flat_map(|network| &network.interfaces) {
                    let labels = labels(&[
                        ("container", ""),
                        ("id", id),
                        ("image", ""),
                        ("interface", &interface.name),
                        ("name", ""),
                        ("namespace", namespace),
                        ("pod", pod),
                    ]);
                    self.sample(&labels, of(interface), network.as_ref().map(|network| network.at));
                }
            }
        }
    }
}

/// Nanoseconds as seconds, without the loss of a floating number.
fn seconds(nanos: i64) -> String {
    let (whole, rest) = (nanos.max(0) / 1_000_000_000, nanos.max(0) % 1_000_000_000);
    let text = format!("{whole}.{rest:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        format!("{name}=\"{value}\"")
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests;
