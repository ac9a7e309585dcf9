//! All of a mapper's process but the driver: configuration, modules, shutdown.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use ke_run::shutdown::Shutdown;
use ke_run::supervise::Supervisor;
use ke_run::telemetry::{self, Metrics};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::counters::Counters;
use crate::discovery;
use crate::driver::Driver;
use crate::fleet::Fleet;
use crate::link::{self, Edge};
use crate::push::Targets;
use crate::rest::Rest;

/// The whole `main` of a mapper: reads arguments and configuration, then drives devices until a signal.
pub fn run_mapper<D: Driver>(driver: D) -> ExitCode {
    let config = match Config::start(driver.protocol()) {
        Ok(config) => config,
        Err(wrong) => return ke_run::process::fail(&wrong.into()),
    };
    ke_run::process::run(async move {
        telemetry::init(config.log_format, &config.log_level)?;
        tracing::info!(name = config.name, protocol = config.protocol, "the mapper starts");
        let stop = Shutdown::on_signals().context("listen for signals")?;
        run(driver, config, stop).await
    })
}

/// Drives devices until shutdown. Errors: a socket or port cannot be listened on.
pub(crate) async fn run<D: Driver>(driver: D, config: Config, stop: Shutdown) -> anyhow::Result<()> {
    // Full: edgecore's calls wait, and it repeats those that wait too long.
    let (news, told) = mpsc::channel(64);
    let listener = link::listen(&config.socket)?;
    let mut metrics = Metrics::new();
    let counters = Counters::new(&mut metrics);
    let rest = Rest::bind(config.http, news.clone(), metrics).await?;
    let edge = Edge::new(config.edge_socket.clone());
    let driver = Arc::new(driver);
    let targets = Targets::new(config.secrets.clone());
    let fleet = Fleet::new(Arc::clone(&driver), edge.clone(), targets, counters, config.call_limit, told);

    // Served before it registers: edgecore calls at once.
    let mut tasks = Supervisor::new(stop);
    tasks.add("fleet", |stop| fleet.run(stop));
    let calls = news.clone();
    tasks.add("calls", |stop| link::serve(listener, calls, stop));
    tasks.add("rest", |stop| rest.run(stop));
    if let Some(cycle) = config.discover_cycle {
        let (edge, protocol) = (edge.clone(), config.protocol.clone());
        tasks.add("discovery", move |stop| discovery::run(driver, edge, protocol, cycle, stop));
    }
    tasks.add("registration", |stop| edge.keep_registered(config, news, stop));
    tasks.join().await
}
