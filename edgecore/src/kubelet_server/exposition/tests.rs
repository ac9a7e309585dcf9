//! Text as programs that read the kubelet's expect it.

use super::*;
use crate::kubelet_server::figures::{Disk, Interface, Network, NodeFigures};

fn figures() -> Figures {
    let at = 1_700_000_000_123_456_789;
    let cpu = |core_nanos| Some(Cpu { at, core_nanos, nano_cores: None });
    let memory = |working_set| {
        Some(Memory {
            at,
            usage_bytes: Some(2 * working_set),
            working_set_bytes: Some(working_set),
            ..Memory::default()
        })
    };
    let eth0 = Interface {
        name: "eth0".into(),
        rx_bytes: 10,
        tx_bytes: 20,
        rx_errors: 1,
        tx_errors: 2,
        tx_packets: 3,
        tx_dropped: 4,
        ..Interface::default()
    };
    Figures {
        node: NodeFigures {
            name: "edge-1".into(),
            n_cpus: 4,
            memory_bytes: 1 << 30,
            cpu: cpu(12_345_000_000_001),
            memory: memory(500),
            network: Some(Network { at, interfaces: vec![eth0.clone()] }),
            ..NodeFigures::default()
        },
        pods: vec![PodFigures {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            cgroup: "/kubepods/podu1".into(),
            started_at: 1_600_000_000_000_000_000,
            cpu: cpu(3_000_000_000),
            memory: memory(300),
            network: Some(Network { at, interfaces: vec![eth0] }),
            n_processes: None,
            volumes: Vec::new(),
            containers: vec![
                ContainerFigures {
                    name: "app".into(),
                    id: "c1".into(),
                    image: "web:1".into(),
                    started_at: 1_600_000_001_500_000_000,
                    cpu: cpu(2_500_000_000),
                    memory: memory(200),
                    written: Some(Disk { at, used_bytes: Some(4096), ..Disk::default() }),
                    ..ContainerFigures::default()
                },
                // Just started: nothing was measured yet.
                ContainerFigures {
                    name: "si\"de\n".into(),
                    id: "c2".into(),
                    started_at: 1_700_000_000_000_000_000,
                    ..ContainerFigures::default()
                },
            ],
        }],
        is_whole: true,
    }
}

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn what_metrics_server_reads() {
    let text = resource(&figures());
    assert_eq!(
        samples(&text),
        [
            r#"container_cpu_usage_seconds_total{container="app",namespace="shop",pod="web"} 2.5 1700000000123"#,
            r#"container_memory_working_set_bytes{container="app",namespace="shop",pod="web"} 200 1700000000123"#,
            r#"container_start_time_seconds{container="app",namespace="shop",pod="web"} 1600000001.5"#,
            "node_cpu_usage_seconds_total 12345.000000001 1700000000123",
            "node_memory_working_set_bytes 500 1700000000123",
            r#"pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 3 1700000000123"#,
            r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 300 1700000000123"#,
            "resource_scrape_error 0",
        ]
    );
    assert!(text.contains("# TYPE container_cpu_usage_seconds_total counter\n"), "{text}");
    let away = resource(&Figures::default());
    assert_eq!(samples(&away), ["resource_scrape_error 1"]);
}

#[test]
fn what_dashboards_draw() {
    let text = cadvisor(&figures(), 1_700_000_001_000_000_000);
    let app = r#"container="app",id="/kubepods/podu1/c1",image="web:1",name="c1",namespace="shop",pod="web""#;
    let pod = r#"container="",id="/kubepods/podu1",image="",name="",namespace="shop",pod="web""#;
    let root = r#"container="",id="/",image="",name="",namespace="",pod="""#;
    for line in [
        format!("container_cpu_usage_seconds_total{{{root},cpu=\"total\"}} 12345.000000001 1700000000123"),
        format!("container_cpu_usage_seconds_total{{{pod},cpu=\"total\"}} 3 1700000000123"),
        format!("container_cpu_usage_seconds_total{{{app},cpu=\"total\"}} 2.5 1700000000123"),
        format!("container_memory_working_set_bytes{{{app}}} 200 1700000000123"),
        format!("container_memory_usage_bytes{{{app}}} 400 1700000000123"),
        format!("container_fs_usage_bytes{{{app}}} 4096 1700000000123"),
        format!("container_start_time_seconds{{{app}}} 1600000001.5"),
        format!("container_last_seen{{{app}}} 1700000001"),
        "machine_cpu_cores 4".to_owned(),
        "machine_memory_bytes 1073741824".to_owned(),
        "container_network_receive_bytes_total{container=\"\",id=\"/kubepods/podu1\",image=\"\",interface=\"eth0\",\
         name=\"\",namespace=\"shop\",pod=\"web\"} 10 1700000000123"
            .to_owned(),
        "container_network_transmit_packets_dropped_total{container=\"\",id=\"/\",image=\"\",interface=\"eth0\",\
         name=\"\",namespace=\"\",pod=\"\"} 4 1700000000123"
            .to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
    }
    // A name stands in one line, whatever it is; each family is told of once.
    assert!(text.contains(r#"container="si\"de\n""#), "{text}");
    let mut told: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let n_told = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), n_told);
    assert!(!text.contains("container_memory_rss{"), "what was not measured is left out");
}

#[test]
fn seconds_are_exact() {
    for (nanos, expected) in [
        (0, "0"),
        (-5, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (10_000_000_000, "10"),
        (i64::MAX, "9223372036.854775807"),
    ] {
        assert_eq!(seconds(nanos), expected);
    }
}
