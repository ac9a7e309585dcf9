//! A mapper's whole `main`: arguments, configuration, logs, and every part built and joined.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use ke_dmi::v1beta1 as wire;
use ke_run::shutdown::Shutdown;
use ke_run::supervise::Supervisor;
use ke_run::telemetry::{self, LogFormat, Metrics};

use crate::config::{Args, MapperConfig};
use crate::driver::Driver;
use crate::edge::Edge;
use crate::link::{self, LinkError, Registrar};
use crate::metrics::Counters;
use crate::registry::Registry;
use crate::rest::Rest;

/// Runs a mapper with this driver until SIGTERM or SIGINT. To be returned from `main`.
///
/// Reads the flags `--config-file` and `--v` of the command line. The exit code is 0 after a signal, and 1 after one line
/// on standard error that says what is wrong.
pub fn run_mapper(driver: impl Driver) -> ExitCode {
    // Shown by --version and --help; the first word of the command line is the program.
    let matches = Args::command().version(env!("CARGO_PKG_VERSION")).get_matches();
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::FAILURE;
        }
    };
    ke_run::process::run(async move {
        telemetry::init(LogFormat::Text, &args.level().parse()?)?;
        let config = MapperConfig::load(&args.config_file, driver.protocol())?;
        let stop = Shutdown::on_signals().context("listen for signals")?;
        run_until(driver, config, stop).await
    })
}

/// The same for tests and for programs with a `main` of their own. Ends when `stop` is triggered.
/// Errors: a socket cannot be made, or a part failed; devices and nodes that do not answer are no errors.
pub async fn run_until(driver: impl Driver, config: MapperConfig, stop: Shutdown) -> anyhow::Result<()> {
    let config = config.checked(driver.protocol()).map_err(anyhow::Error::msg)?;
    let mut metrics = Metrics::new();
    let counters = Counters::new(&mut metrics);
    let edge = Edge::new(config.common.edgecore_sock.clone());
    let protocol = config.common.protocol.clone();
    let registry = Arc::new(Registry::new(Arc::new(driver), edge.clone(), counters.clone(), protocol));

    // Both sockets are taken before the node hears of this mapper.
    let socket = &config.grpc_server.socket_path;
    let listener = link::listen(socket)?;
    let rest = Rest::bind(config.http(), Arc::clone(&registry), metrics).await?;
    let registrar = Registrar {
        edge,
        edge_socket: config.common.edgecore_sock.clone(),
        registry: Arc::clone(&registry),
        mapper: wire::MapperInfo {
            name: config.common.name.clone(),
            version: config.common.version.clone(),
            api_version: config.common.api_version.clone(),
            protocol: config.common.protocol.clone(),
            address: socket.to_string_lossy().into_owned().into_bytes(),
            state: "ok".to_owned(),
        },
        registrations: counters.registrations.clone(),
    };

    let mut tasks = Supervisor::new(stop);
    let served = Arc::clone(&registry);
    tasks.add("link", |stop| link::serve(listener, served, stop));
    tasks.add("registrar", |stop| registrar.run(stop));
    if let Some(rest) = rest {
        tasks.add("rest", |stop| rest.run(stop));
    }
    tasks.add("devices", |stop| async move {
        stop.wait().await;
        registry.stop().await;
        Ok::<_, LinkError>(())
    });
    tasks.join().await
}
