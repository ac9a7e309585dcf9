//! Simulated nodes by the thousand against any cloudcore that speaks KubeEdge's protocol: they connect, keep alive,
//! acknowledge every object and, if told to, register and renew leases. Each line it prints is one JSON object.
//!
//! It stores nothing, runs no pod, and ends by itself. It signs its client certificates with the cloud's CA key, since a
//! thousand enrolments are not what it measures. Called by `make bench`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use tokio::sync::Semaphore;

mod client;
mod identity;
mod node;

/// More do not fit into the open files of one process here and on most machines; start several with other prefixes.
const MAX_COUNT: u32 = 19_000;
const MAX_SECONDS: u64 = 3600;

#[derive(Clone, Debug, Parser)]
#[command(about = "Simulated edge nodes against a cloudcore")]
struct Args {
    /// Where the cloud takes messages: address and port.
    #[arg(long)]
    server: SocketAddr,
    /// Certificate of the cloud's CA, PEM or DER.
    #[arg(long)]
    ca: PathBuf,
    /// Its key: PEM, or the DER that KubeEdge keeps in the Secret `casecret`.
    #[arg(long)]
    ca_key: PathBuf,
    /// How many nodes, at most 19000.
    #[arg(long)]
    count: u32,
    /// It ends after this long, at most 3600.
    #[arg(long)]
    seconds: u64,
    /// Nodes are named `<prefix>-00000` and so on.
    #[arg(long, default_value = "mark")]
    prefix: String,
    /// Number of the first node.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Create Node objects, as edgecore does.
    #[arg(long)]
    register: bool,
    /// Lease duration, seconds; renewed after a quarter of it. 0: no leases.
    #[arg(long, default_value_t = 0)]
    lease_secs: u64,
    /// Dials under way at once.
    #[arg(long, default_value_t = 32)]
    parallel: usize,
    /// Source addresses, from 127.0.0.2 upwards, when the server is on this machine.
    #[arg(long, default_value_t = 4)]
    addresses: u8,
}

/// What all nodes have in common.
struct Shared {
    args: Args,
    authority: identity::Authority,
    counts: Counts,
    /// Dials under way. Closed when time is up.
    room: Semaphore,
}

/// Since the start, but for `connected`, `registered` and `leased`, which say how many nodes are so now.
#[derive(Debug, Default)]
struct Counts {
    connected: AtomicU64,
    registered: AtomicU64,
    leased: AtomicU64,
    /// Objects put and deleted, acknowledged at once.
    acked: AtomicU64,
    /// Connections and questions that failed.
    errors: AtomicU64,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edgemark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    ensure!((1..=MAX_COUNT).contains(&args.count), "--count: {} is not from 1 to {MAX_COUNT}", args.count);
    ensure!(
        (1..=MAX_SECONDS).contains(&args.seconds),
        "--seconds: {} is not from 1 to {MAX_SECONDS}",
        args.seconds
    );
    ensure!((1..=200).contains(&args.addresses), "--addresses: {} is not from 1 to 200", args.addresses);
    ensure!(args.parallel > 0, "--parallel: 0 dials at once would connect nobody");
    let needed = u64::from(args.count) + 100;
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if files.current.is_some_and(|limit| limit < needed) {
        bail!("{needed} open files are needed, {:?} are allowed; type: ulimit -n {needed}", files.current);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = identity::Authority::read(&args.ca, &args.ca_key)?;
    let room = Semaphore::new(args.parallel);
    let shared = Arc::new(Shared { args, authority, counts: Counts::default(), room });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(measure(&shared));
    // Sockets of thousands of tasks: the kernel closes them fastest.
    runtime.shutdown_background();
    Ok(())
}

/// One line a second, until time is up.
async fn measure(shared: &Arc<Shared>) {
    let start = Instant::now();
    for number in (shared.args.first..).take(shared.args.count as usize) {
        tokio::spawn(node::live(Arc::clone(shared), number));
    }
    let end = Duration::from_secs(shared.args.seconds);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let done = start.elapsed() >= end;
        say(shared, start, done);
        if done {
            return;
        }
    }
}

fn say(shared: &Shared, start: Instant, done: bool) {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = &shared.counts;
    let line = json!({
        "seconds": (start.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        "count": shared.args.count,
        "connected": read(&counts.connected),
        "registered": read(&counts.registered),
        "leased": read(&counts.leased),
        "acked": read(&counts.acked),
        "errors": read(&counts.errors),
        "done": done,
    });
    // Nobody may be listening any more; the nodes go on until their time is up.
    let _ = writeln!(std::io::stdout(), "{line}");
}
