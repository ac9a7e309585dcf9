//! `make demo`: from nothing to a running edge node, one line per step, each step checked.
//!
//! It only calls what the stories call. Left running unless `DEMO_ONCE=1`; `demo down` removes every trace.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::devices::{HEAT, LIMIT, Mapper, ModbusDevice, oven, oven_model, reported};
use e2e::node::{CloudCore, EdgeCore, EdgeOptions};
use e2e::runtime::Runtime;
use e2e::site::{NODE, PATIENCE, container_identity, http_get, is_ready, pod_ip, web_app};
use e2e::wait::{Seen, eventually, until};
use e2e::{need, run_dir};
use serde_json::Value;

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_else(|| "up".into());
    let result = match command.as_str() {
        "up" => up(),
        "down" => down(),
        "build" => need::devcluster().map(|path| println!("{}", path.display())),
        other => Err(anyhow::anyhow!("unknown command {other:?}; there are: up, down, build")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a visitor looks at while it runs.
struct Demo {
    thermometer: ModbusDevice,
    mapper: Mapper,
    edge: EdgeCore,
    cloud: CloudCore,
    runtime: Runtime,
    cluster: Cluster,
    start: Instant,
}

impl Demo {
    fn step(&self, text: &str) {
        println!("[{:>5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }

    fn pod_of(&self, app: &str) -> Result<Value> {
        let selector = format!("--selector=app={app}");
        eventually(PATIENCE, &format!("the pod of {app} to be ready"), || {
            let pods = self.cluster.kubectl_json(&["get", "pods", &selector])?;
            let pod = pods["items"][0].clone();
            let state = pod["status"].to_string();
            Ok(if is_ready(&pod) { Seen::Yes(pod) } else { Seen::NotYet(state) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(20)))
    }

    fn wait_reported(&self, property: &str, value: &str) -> Result<()> {
        eventually(PATIENCE, &format!("kubectl to show that {property} of oven-1 is {value}"), || {
            let oven = self.cluster.kubectl_json(&["get", "device", "oven-1", "--namespace=plant"])?;
            let is_so = reported(&oven, property).as_deref() == Some(value);
            Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(oven["status"].to_string()) })
        })
        .with_context(|| format!("the mapper's last lines:\n{}", self.mapper.process.log_end(20)))
    }

    fn wait_answer(&self, address: &str, path: &str, text: &str) -> Result<()> {
        eventually(PATIENCE, &format!("http://{address}:8080{path} to say {text:?}"), || {
            let got = http_get(address, 8080, path)?;
            Ok(if got.contains(text) { Seen::Yes(()) } else { Seen::NotYet(got) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", self.edge.process.log_end(20)))
    }
}

fn up() -> Result<()> {
    let start = Instant::now();
    let step = |text: &str| println!("[{:>5.1} s] {text}", start.elapsed().as_secs_f64());
    let once = std::env::var_os("DEMO_ONCE").is_some_and(|value| value == "1");
    if !once && run_dir::n_detached()? > 0 {
        bail!("a demo is running already; type: make demo-down");
    }
    need::for_runtime()?;
    need::for_cluster()?;
    step("this machine has what the demo needs");
    need::devcluster()?;
    let cluster = Cluster::start(&Options::default())?;
    step(&format!("Kubernetes answers at {}", cluster.server()));
    let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
    let token = cloud.token(&cluster)?;
    step(&format!("cloudcore takes edge machines at {}", cloud.websocket()));
    let runtime = Runtime::start("edge")?;
    step(&format!("containerd runs on the edge machine, its pods get addresses of {}", runtime.subnet()));
    let mut edge = EdgeCore::start(&runtime, &EdgeOptions::new(NODE, &cloud, token))?;
    edge.wait_ready(&cluster, PATIENCE)?;
    let nodes = cluster.kubectl_ok(&["get", "node", NODE, "--no-headers"])?;
    ensure!(nodes.contains("agent,edge"), "{nodes}");
    step(&format!("node {NODE} is Ready with roles agent,edge"));

    let thermometer = ModbusDevice::start()?;
    let mapper = Mapper::start("mapper-modbus", "modbus", &edge)?;
    let mut demo = Demo { thermometer, mapper, edge, cloud, runtime, cluster, start };
    demo.cluster.apply(&web_app("shop", "open all day"))?;
    demo.cluster.apply(&web_app("kiosk", "closing down"))?;
    let (shop, kiosk) = (demo.pod_of("shop")?, demo.pod_of("kiosk")?);
    demo.wait_answer(&pod_ip(&shop)?, "/", "open all day")?;
    demo.wait_answer(&pod_ip(&shop)?, "/cgi-bin/env", "key=open-shop")?;
    demo.wait_answer(&pod_ip(&kiosk)?, "/", "closing down")?;
    demo.step(
        "two Deployments run; HTTP answers with the ConfigMap's text, the Secret is in the environment",
    );
    show_device(&demo)?;
    if once {
        prove(&mut demo, &shop)?;
    }
    finish(demo, once)
}

/// A Modbus thermometer that nobody here wrote, read and written with kubectl.
fn show_device(demo: &Demo) -> Result<()> {
    let port = demo.thermometer.address().port();
    demo.thermometer.set(HEAT, 253)?;
    demo.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    demo.cluster.apply(&oven_model())?;
    demo.cluster.apply(&oven(port, "20"))?;
    demo.wait_reported("heat", "25.3")?;
    demo.thermometer.set(HEAT, 301)?;
    demo.wait_reported("heat", "30.1")?;
    demo.cluster.apply(&oven(port, "22"))?;
    demo.wait_reported("limit", "22")?;
    ensure!(demo.thermometer.get(LIMIT)? == 22, "the register holds {}", demo.thermometer.get(LIMIT)?);
    demo.step("a Modbus thermometer shows 25.3, then 30.1 degrees in kubectl get device; its desired limit 22 is in the register");
    Ok(())
}

/// The promises, one after the other: a crash, a cold boot, and the cloud's return.
fn prove(demo: &mut Demo, shop: &Value) -> Result<()> {
    let running = demo.runtime.running()?;
    demo.cloud.process.stop()?;
    demo.edge.process.kill9()?;
    demo.edge.process.start()?;
    demo.edge.process.wait_for_log(PATIENCE, "with what its store holds")?;
    demo.wait_answer(&pod_ip(shop)?, "/", "open all day")?;
    ensure!(demo.runtime.running()? == running, "containers changed");
    demo.step("cloudcore stopped, edgecore killed with -9 and started: same container ids, still answering");

    demo.mapper.process.kill9()?;
    demo.edge.process.kill9()?;
    demo.runtime.kill_hard()?;
    demo.edge.kill_hard()?;
    demo.step("power cut: edgecore, containerd and every shim killed; the runtime's state, network namespaces, pod mounts, memory volumes and CNI leases are gone");
    let boot = Instant::now();
    demo.runtime.start_again()?;
    demo.edge.process.start()?;
    demo.mapper.process.start()?;
    demo.thermometer.set(HEAT, 199)?;
    eventually(
        Duration::from_secs(60),
        "both applications to answer after a cold boot without cloud",
        || {
            let addresses = demo.edge.pod_addresses()?;
            let answers: Vec<String> =
                addresses.iter().filter_map(|address| http_get(address, 8080, "/").ok()).collect();
            let both =
                ["open all day", "closing down"].iter().all(|text| answers.iter().any(|a| a.contains(text)));
            Ok(if both { Seen::Yes(()) } else { Seen::NotYet(demo.edge.process.log_end(5)) })
        },
    )?;
    demo.step(&format!(
        "cold boot with the cloud away: answering again after {:.1} s",
        boot.elapsed().as_secs_f64()
    ));
    let booted = demo.runtime.running()?;

    // What happens in the cloud meanwhile.
    demo.cluster.apply(&web_app("shop", "open again"))?;
    demo.cluster.kubectl_ok(&["delete", "deployment", "kiosk", "--wait=false"])?;
    demo.cloud.process.start()?;
    demo.edge.wait_ready(&demo.cluster, PATIENCE)?;
    let uid = &shop["metadata"]["uid"];
    until(PATIENCE, "the cloud to hear of the one restart", || {
        let pod = demo.pod_of("shop")?;
        Ok(pod["metadata"]["uid"] == *uid && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    })?;
    let before = container_identity(&demo.pod_of("shop")?)?;
    demo.wait_answer(&pod_ip(&demo.pod_of("shop")?)?, "/", "open again")?;
    until(PATIENCE, "the deleted Deployment's pod to leave the machine", || {
        Ok(demo.runtime.running()?.len() == 2)
    })?;
    let left = demo.runtime.running()?;
    ensure!(left.iter().all(|id| booted.contains(id)), "a container was replaced on reconnect");
    ensure!(container_identity(&demo.pod_of("shop")?)? == before, "the other pod was restarted");
    demo.step("cloud back: the changed ConfigMap arrived, the deleted Deployment is gone, the other pod's container ids, restart count and start time are unchanged");
    demo.wait_reported("heat", "19.9")?;
    demo.step("the thermometer's value of meanwhile is in kubectl get device: 19.9");
    Ok(())
}

fn finish(mut demo: Demo, once: bool) -> Result<()> {
    if once {
        let start = demo.start;
        let Demo { mut thermometer, mut mapper, mut edge, mut cloud, runtime, cluster, .. } = demo;
        mapper.process.stop()?;
        thermometer.unplug()?;
        edge.process.stop()?;
        cloud.process.stop()?;
        runtime.cleanup()?;
        drop(mapper);
        drop(thermometer);
        drop(edge);
        drop(cloud);
        drop(cluster);
        if run_dir::n_of(std::process::id())? > 0 {
            bail!("something of the demo is left in {}", run_dir::base()?.display());
        }
        println!("[{:>5.1} s] everything is removed again", start.elapsed().as_secs_f64());
        return Ok(());
    }
    demo.cluster.detach()?;
    demo.runtime.detach()?;
    demo.cloud.detach()?;
    demo.edge.detach()?;
    demo.mapper.detach()?;
    demo.thermometer.detach()?;
    let page = pod_ip(&demo.pod_of("shop")?)?;
    println!("\nTry:\n  export KUBECONFIG={}", demo.cluster.kubeconfig().display());
    println!("  kubectl get nodes,pods -o wide\n  curl http://{page}:8080/");
    println!(r#"  kubectl patch configmap shop-page --patch '{{"data":{{"index.html":"hello"}}}}'"#);
    println!("  kubectl get devices --namespace plant");
    println!("  kubectl get device oven-1 --namespace plant -o jsonpath='{{.status.twins}}'");
    println!("\nFor a mapper of your own (docs/mapper-guide.md), in its config.yaml below `common`:");
    println!("  edgecore_sock: {}", demo.edge.dmi_socket().display());
    println!("\nWhen done:\n  make demo-down");
    Ok(())
}

fn down() -> Result<()> {
    let n = run_dir::sweep_detached()?;
    println!(
        "{}",
        if n == 0 { "no demo is running".into() } else { format!("removed the demo ({n} parts)") }
    );
    Ok(())
}
