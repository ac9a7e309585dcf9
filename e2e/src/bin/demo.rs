//! `make demo`: from nothing to a running edge node, one line per step, each step checked.
//!
//! It only calls what the stories call. Left running unless `DEMO_ONCE=1`; `demo down` removes every trace.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use e2e::cluster::{Cluster, Options};
use e2e::run_dir;
use e2e::runtime::Runtime;
use e2e::{need, process};

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
    let mut cluster = Cluster::start(&Options::default())?;
    step(&format!("Kubernetes answers at {}", cluster.server()));
    let namespaces = cluster.kubectl_ok(&["get", "namespaces", "--output=name"])?;
    step(&format!("kubectl sees {} namespaces", namespaces.lines().count()));

    let mut runtime = Runtime::start("edge")?;
    step(&format!("containerd runs, pods get addresses of {}", runtime.subnet()));

    if once {
        runtime.cleanup()?;
        drop(cluster);
        if run_dir::n_of(std::process::id())? > 0 {
            bail!("something of the demo is left in {}", run_dir::base()?.display());
        }
        step("everything is removed again");
        return Ok(());
    }
    cluster.detach()?;
    runtime.detach()?;
    let n = process::of_run(cluster.run_dir().path()).len() + process::of_run(runtime.run_dir().path()).len();
    step(&format!("left running: {n} processes"));
    println!("\nTry:\n  export KUBECONFIG={}\n  kubectl get namespaces", cluster.kubeconfig().display());
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
