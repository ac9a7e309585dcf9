//! `make demo`: from nothing to a running edge node, by the commands that a user types, each shown and checked.
//!
//! It makes a cluster and a machine as the stories do; the rest is keadm and kubectl. Left running unless `DEMO_ONCE=1`;
//! `demo down` resets both ends and removes every trace.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

mod prove;
mod terminal;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use e2e::devices::{HEAT, LIMIT, ModbusDevice, oven, oven_model, program, reported};
use e2e::ground::Ground;
use e2e::process::run;
use e2e::run_dir::RunDir;
use e2e::site::{NODE, PATIENCE, http_get, is_ready, pod_ip, web_app};
use e2e::wait::{Seen, eventually};
use e2e::{images, need, run_dir};
use serde_json::Value;

use crate::terminal::{Clock, Terminal};

/// The manifest that every integrator starts from.
const MAPPER: &str = include_str!("../../../../mappers/daemonset.yaml");

/// What the thermometer says, as the cloud knows it.
const VALUES: &str = "kubectl get device oven-1 --namespace plant \
                      -o jsonpath='{range .status.twins[*]}{.propertyName}={.reported.value}{\"\\n\"}{end}'";
/// Which it mounts, and which is made for it.
const MAPPERS_FOLDER: &str = "+/var/lib/isthmus";

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
    terminal: Terminal,
    ground: Ground,
    /// Manifests, and what `demo down` must know.
    run_dir: RunDir,
    clock: Clock,
}

fn up() -> Result<()> {
    let clock = Clock::start();
    let once = std::env::var_os("DEMO_ONCE").is_some_and(|value| value == "1");
    if !once && !run_dir::detached()?.is_empty() {
        bail!("a demo is running already; type: make demo-down");
    }
    need::for_runtime()?;
    need::for_cluster()?;
    clock.step("this machine has what the demo needs");
    let ground = Ground::start(NODE, &|text| clock.step(text))?;
    let (address, subnet) = (ground.edge.address()?, ground.edge.runtime.subnet());
    clock.step(&format!(
        "{NODE} is a machine of its own, {address}, with containerd; its pods get addresses of {subnet}"
    ));
    let run_dir = RunDir::new("demo")?;
    let thermometer = ModbusDevice::start_at(ground.network.gateway())?;
    let terminal = Terminal::new(&ground, &run_dir)?;
    let mut demo = Demo { thermometer, terminal, ground, run_dir, clock };
    let before = demo.ground.edge.machine.made()?;

    println!("\nIn the cloud (prompt $), and on the machine (prompt {NODE}#):");
    demo.terminal.prepare().iter().for_each(|line| println!("$ {line}"));
    demo.install()?;
    demo.run_applications()?;
    demo.show_device()?;
    if once {
        demo.prove()?;
        return demo.tear_down(&before);
    }
    demo.leave()
}

impl Demo {
    /// Two commands from a cluster to an edge node, and the token between them.
    fn install(&self) -> Result<()> {
        self.terminal.cloud(&format!("keadm init {}", self.ground.init()))?;
        println!("$ TOKEN=$(keadm gettoken)");
        let told = self.ground.keadm(&["gettoken"]).output()?;
        ensure!(told.status.success(), "keadm gettoken: {}", String::from_utf8_lossy(&told.stderr));
        let token = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        let join = self.ground.join(NODE).join(" ");
        self.terminal.edge(&format!("keadm join {join} --token=$TOKEN"), &token)?;
        let nodes = self.terminal.cloud("kubectl get nodes")?;
        ensure!(nodes.lines().any(|line| line.starts_with(NODE) && line.contains("agent,edge")), "{nodes}");
        self.clock.step(&format!("node {NODE} is Ready with roles agent,edge"));
        Ok(())
    }

    fn run_applications(&self) -> Result<()> {
        self.manifest("shop.yaml", &[&web_app("shop", "open all day")])?;
        self.manifest("kiosk.yaml", &[&web_app("kiosk", "closing down")])?;
        self.terminal.cloud("kubectl apply -f shop.yaml -f kiosk.yaml")?;
        let (shop, kiosk) = (self.pod_of("shop")?, self.pod_of("kiosk")?);
        self.terminal.cloud("kubectl get pods -o wide")?;
        let page = pod_ip(&shop)?;
        self.wait_answer(&page, "/", "open all day")?;
        self.wait_answer(&page, "/cgi-bin/env", "key=open-shop")?;
        self.wait_answer(&pod_ip(&kiosk)?, "/", "closing down")?;
        self.clock.step(
            "two Deployments run; HTTP answers with the ConfigMap's text, the Secret is in the environment",
        );
        Ok(())
    }

    /// A Modbus thermometer that nobody here wrote, read and written with kubectl.
    fn show_device(&self) -> Result<()> {
        let at = self.thermometer.address();
        self.thermometer.set(HEAT, 253)?;
        self.run_dir.write(
            "mapper-modbus.yaml",
            MAPPER.replace("registry.example/mapper-modbus:1", &self.mapper()?),
        )?;
        let mut oven: Value = serde_json::from_str(&oven(at.port(), "20"))?;
        oven["spec"]["protocol"]["configData"]["ip"] = at.ip().to_string().into();
        self.manifest("oven.yaml", &[&oven_model(), &oven.to_string()])?;
        self.clock.step(&format!("a Modbus thermometer is at {at}; now its mapper, and what it is"));
        self.terminal.cloud("kubectl apply -f mapper-modbus.yaml")?;
        self.terminal.cloud("kubectl create namespace plant && kubectl apply -f oven.yaml")?;
        self.wait_reported("heat", "25.3")?;
        self.terminal.cloud("kubectl get devices --namespace plant")?;
        self.terminal.cloud(VALUES)?;
        self.thermometer.set(HEAT, 301)?;
        self.wait_reported("heat", "30.1")?;
        self.terminal.cloud(
            r#"kubectl patch device oven-1 --namespace plant --type=json --patch='[{"op": "replace", "path": "/spec/properties/1/desired/value", "value": "22"}]'"#,
        )?;
        self.wait_reported("limit", "22")?;
        self.terminal.cloud(VALUES)?;
        let limit = self.thermometer.get(LIMIT)?;
        ensure!(limit == 22, "the register holds {limit}");
        self.clock.step("the thermometer shows 25.3, then 30.1 degrees in kubectl get device; its desired limit 22 is in the register");
        Ok(())
    }

    /// The mapper's image comes to the machine, as with a registry. Gives its name.
    fn mapper(&self) -> Result<String> {
        let folder = self.run_dir.folder("mapper")?;
        let stripped = folder.join("mapper-modbus");
        let built = program("mapper-modbus")?;
        run("strip", &["-o", &stripped.to_string_lossy(), &built.to_string_lossy()])?;
        let (image, name) = images::shipped(&folder, "mapper-modbus", |_| Ok(stripped.clone()))?;
        self.ground.edge.runtime.import_image(&image)?;
        std::fs::remove_dir_all(&folder).context("remove the mapper's image")?;
        Ok(name)
    }

    /// A file of objects for kubectl.
    fn manifest(&self, name: &str, objects: &[&str]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            let object: Value = serde_json::from_str(object)?;
            // A list's objects stand for themselves.
            let all = object["items"].as_array().cloned().unwrap_or_else(|| vec![object]);
            for one in all {
                text += "---\n";
                text += &serde_saphyr::to_string(&one).context("write a manifest")?;
            }
        }
        self.run_dir.write(name, text).map(drop)
    }

    fn log_end(&self) -> String {
        let log = self.ground.edge.sh("tail -n 20 /var/log/kubeedge/edgecore.log");
        format!("edgecore's last lines:\n{}", log.unwrap_or_else(|error| error.to_string()))
    }

    fn pod_of(&self, app: &str) -> Result<Value> {
        let selector = format!("--selector=app={app}");
        eventually(PATIENCE, &format!("the pod of {app} to be ready"), || {
            let pods = self.ground.cluster.kubectl_json(&["get", "pods", &selector])?;
            let pod = pods["items"][0].clone();
            let state = pod["status"].to_string();
            Ok(if is_ready(&pod) { Seen::Yes(pod) } else { Seen::NotYet(state) })
        })
        .with_context(|| self.log_end())
    }

    fn wait_reported(&self, property: &str, value: &str) -> Result<()> {
        eventually(PATIENCE, &format!("kubectl to show that {property} of oven-1 is {value}"), || {
            let oven = self.ground.cluster.kubectl_json(&["get", "device", "oven-1", "--namespace=plant"])?;
            let is_so = reported(&oven, property).as_deref() == Some(value);
            Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(oven["status"].to_string()) })
        })
        .with_context(|| self.log_end())
    }

    fn wait_answer(&self, address: &str, path: &str, text: &str) -> Result<()> {
        eventually(PATIENCE, &format!("http://{address}:8080{path} to say {text:?}"), || {
            let got = http_get(address, 8080, path)?;
            Ok(if got.contains(text) { Seen::Yes(()) } else { Seen::NotYet(got) })
        })
        .with_context(|| self.log_end())
    }

    /// Both ends are reset, and nothing of either is left.
    fn tear_down(self, before: &[String]) -> Result<()> {
        take_back(&self.terminal)?;
        let after = self.ground.edge.machine.made()?;
        let left: Vec<&String> =
            after.iter().filter(|path| !before.contains(path) && *path != MAPPERS_FOLDER).collect();
        ensure!(left.is_empty(), "keadm reset edge has left behind: {left:?}");
        let running = self.ground.edge.runtime.running()?;
        ensure!(running.is_empty(), "containers run on: {running:?}");
        let Self { thermometer, ground, run_dir, clock, .. } = self;
        drop(thermometer);
        drop(ground);
        drop(run_dir);
        if run_dir::n_of(std::process::id())? > 0 {
            bail!("something of the demo is left in {}", run_dir::base()?.display());
        }
        clock.step("everything is removed again");
        Ok(())
    }

    fn leave(mut self) -> Result<()> {
        let page = pod_ip(&self.pod_of("shop")?)?;
        self.ground.detach()?;
        self.thermometer.detach()?;
        self.run_dir.detach()?;
        self.clock.step("from nothing to here");
        println!("\nLook around in the cloud:");
        self.terminal.prepare().iter().for_each(|line| println!("  {line}"));
        println!("  kubectl get nodes,pods -A -o wide\n  curl http://{page}:8080/");
        println!(r#"  kubectl patch configmap shop-page --patch '{{"data":{{"index.html":"hello"}}}}'"#);
        println!("  kubectl get devices --namespace plant");
        println!("  {VALUES}");
        let shell = self.terminal.edge_shell();
        println!("\nOn the machine, also while the cloud is away:");
        println!("  {shell} keadm ctl get pods -A");
        println!("  {shell} keadm ctl get device -n plant -o wide");
        println!("  {shell}        # a root shell there, for a mapper of your own (docs/mapper-guide.md)");
        println!("\nWhen done:\n  make demo-down");
        Ok(())
    }
}

/// What join and init made goes by the commands for it.
fn take_back(terminal: &Terminal) -> Result<()> {
    terminal.edge("keadm reset edge --force", "")?;
    terminal.cloud(&format!("kubectl delete node {NODE}"))?;
    terminal.cloud("keadm reset cloud --force --with-devices").map(drop)
}

fn down() -> Result<()> {
    for terminal in run_dir::detached()?.iter().filter_map(|folder| Terminal::of(folder)) {
        // What it could not do is done below.
        if let Err(error) = take_back(&terminal) {
            eprintln!("demo: {error:#}; now everything is removed without it");
        }
    }
    let n = run_dir::sweep_detached()?;
    println!(
        "{}",
        if n == 0 { "no demo is running".into() } else { format!("removed the demo ({n} parts)") }
    );
    Ok(())
}
