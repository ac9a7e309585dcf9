//! Pure: what a kubelet tells of itself at `/metrics`, behind edgecore's own numbers: how much runs here and what this process uses.
//!
//! Dashboards of Kubernetes find a node by these names. `mod.rs` asks the runtime and reads `/proc`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use ke_cri::v1;

/// In what the kernel tells programs, on every architecture of ours.
const TICKS_PER_SECOND: f64 = 100.0;
/// The end of numbers in the form of OpenMetrics.
const END: &str = "# EOF\n";

/// What is told. `None` is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    pub(super) node: String,
    /// Unknown while the runtime is away.
    pub(super) n_pods: Option<usize>,
    /// How many containers are in which state.
    pub(super) containers: BTreeMap<&'static str, usize>,
    pub(super) process: Process,
}

/// Of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    /// Since 1970.
    pub(super) started_at: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) n_files: Option<usize>,
    pub(super) max_files: Option<u64>,
}

impl Process {
    /// From `/proc/self/stat`, `status` and `limits`. `booted_at`: seconds since 1970.
    pub(super) fn parse(stat: &str, status: &str, limits: &str, booted_at: Option<i64>) -> Self {
        // Behind the program's name, which may hold spaces. User and system time are the 12th and 13th field from there, the start
        // the 20th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |at: usize| fields.split_whitespace().nth(at)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
        };
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Self {
            cpu_seconds: field(11).zip(field(12)).map(|(user, system)| seconds(user.saturating_add(system))),
            started_at: booted_at.zip(field(19)).map(|(booted, since)| booted as f64 + seconds(since)),
            resident_bytes: bytes("VmRSS"),
            virtual_bytes: bytes("VmSize"),
            n_files: None,
            max_files: files.and_then(|files| files.split_whitespace().next()?.parse().ok()),
        }
    }
}

/// How many pods have a sandbox that is up, and containers by their state, in the kubelet's words.
pub(super) fn count(
    sandboxes: &[v1::PodSandbox],
    containers: &[v1::Container],
) -> (usize, BTreeMap<&'static str, usize>) {
    let is_up = |one: &&v1::PodSandbox| one.state() == v1::PodSandboxState::SandboxReady;
    let mut states = BTreeMap::new();
    for container in containers {
        let state = match container.state() {
            v1::ContainerState::ContainerCreated => "created",
            v1::ContainerState::ContainerRunning => "running",
            v1::ContainerState::ContainerExited => "exited",
            v1::ContainerState::ContainerUnknown => "unknown",
        };
        let n: &mut usize = states.entry(state).or_default();
        *n = n.saturating_add(1);
    }
    (sandboxes.iter().filter(is_up).count(), states)
}

/// `numbers` and behind them these.
pub(super) fn with_own(numbers: &str, own: &Own) -> String {
    let mut text = numbers.strip_suffix(END).unwrap_or(numbers).to_owned();
    let node = format!("{{node=\"{}\"}}", own.node);
    family(&mut text, "kubelet_node_name", "gauge", "The node's name; the count is always 1");
    sample(&mut text, "kubelet_node_name", &node, Some(1));
    family(&mut text, "kubelet_running_pods", "gauge", "Pods that have a running pod sandbox");
    sample(&mut text, "kubelet_running_pods", "", own.n_pods);
    family(&mut text, "kubelet_running_containers", "gauge", "Containers by their state");
    for (state, n) in &own.containers {
        let label = format!("{{container_state=\"{state}\"}}");
        sample(&mut text, "kubelet_running_containers", &label, Some(n));
    }
    let process = &own.process;
    // A counter's family goes without the ending that its sample has.
    family(&mut text, "process_cpu_seconds", "counter", "User and system CPU time spent in seconds");
    sample(&mut text, "process_cpu_seconds_total", "", process.cpu_seconds);
    family(&mut text, "process_start_time_seconds", "gauge", "Start time since unix epoch in seconds");
    sample(&mut text, "process_start_time_seconds", "", process.started_at);
    family(&mut text, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes");
    sample(&mut text, "process_resident_memory_bytes", "", process.resident_bytes);
    family(&mut text, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes");
    sample(&mut text, "process_virtual_memory_bytes", "", process.virtual_bytes);
    family(&mut text, "process_open_fds", "gauge", "Open file descriptors");
    sample(&mut text, "process_open_fds", "", process.n_files);
    family(&mut text, "process_max_fds", "gauge", "Most file descriptors that may be open");
    sample(&mut text, "process_max_fds", "", process.max_files);
    text.push_str(END);
    text
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_as_the_kernel_shows_it() {
        let stat = "7 (edge core) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 2500 1 1";
        let status = "Name:\tedgecore\nVmSize:\t  2000 kB\nVmRSS:\t    12 kB\n";
        let limits = "Limit     Soft Limit  Hard Limit  Units\nMax open files            1024                 4096      files\n";
        let expected = Process {
            cpu_seconds: Some(2.0),
            started_at: Some(1_700_000_025.0),
            resident_bytes: Some(12 << 10),
            virtual_bytes: Some(2000 << 10),
            n_files: None,
            max_files: Some(1024),
        };
        assert_eq!(Process::parse(stat, status, limits, Some(1_700_000_000)), expected);
        assert_eq!(Process::parse("", "", "", None), Process::default());
        assert_eq!(Process::parse(stat, "", "", None).cpu_seconds, Some(2.0));
    }

    #[test]
    fn the_end_stays_the_end() {
        let containers = BTreeMap::from([("exited", 1), ("running", 2)]);
        let process = Process { cpu_seconds: Some(0.5), n_files: Some(9), ..Process::default() };
        let own = Own { node: "edge-1".into(), n_pods: Some(2), containers, process };
        let text = with_own("# TYPE a counter\na_total 1\n# EOF\n", &own);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "a_total 1",
                "kubelet_node_name{node=\"edge-1\"} 1",
                "kubelet_running_pods 2",
                "kubelet_running_containers{container_state=\"exited\"} 1",
                "kubelet_running_containers{container_state=\"running\"} 2",
                "process_cpu_seconds_total 0.5",
                "process_open_fds 9",
            ]
        );
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds counter\n"), "{text}");
        let away = with_own("", &Own::default());
        assert!(!away.contains("\nkubelet_running_pods "), "unknown is not 0: {away}");
    }

    #[test]
    fn states_are_the_kubelets() {
        let sandbox =
            |state: v1::PodSandboxState| v1::PodSandbox { state: state.into(), ..Default::default() };
        let container =
            |state: v1::ContainerState| v1::Container { state: state.into(), ..Default::default() };
        let sandboxes =
            [sandbox(v1::PodSandboxState::SandboxReady), sandbox(v1::PodSandboxState::SandboxNotready)];
        let containers = [v1::ContainerState::ContainerRunning, v1::ContainerState::ContainerExited];
        let (n_pods, states) = count(&sandboxes, &containers.map(container));
        assert_eq!((n_pods, states), (1, BTreeMap::from([("exited", 1), ("running", 1)])));
    }
}
