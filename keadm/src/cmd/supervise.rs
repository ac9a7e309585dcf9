//! `keadm supervise`: keeps a program running where no service manager does, in containers and tests.
//!
//! It leaves its terminal, starts the program, and starts it again 10 s after it ended, as systemd is told to. SIGTERM ends the
//! program, then itself. What the program starts lives on.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ke_run::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::Failure;
use crate::change;
use crate::host::Host;
use crate::render::{ENVIRONMENT, read_environment};

/// As RestartSec of the systemd unit.
const AGAIN: Duration = Duration::from_secs(10);
/// edgecore needs 10 s at most.
const END_WITHIN: Duration = Duration::from_secs(30);
/// A log that is larger than this is put aside when the program starts; one old log is kept. Bytes.
const LOG_LIMIT: u64 = 32 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Holds this process's id while it runs.
    #[arg(long)]
    pid_file: PathBuf,
    /// Ends the one that runs.
    #[arg(long, conflicts_with_all = ["log", "program"])]
    stop: bool,
    /// What the program says goes here.
    #[arg(long, required_unless_present = "stop")]
    log: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required_unless_present = "stop")]
    program: Vec<String>,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    if args.stop {
        return Ok(stop(&args.pid_file)?);
    }
    let (Some(log), Some((program, arguments))) = (&args.log, args.program.split_first()) else {
        return Err(Failure::Usage("--log and a program are missing".into()));
    };
    if running(&args.pid_file).is_some() {
        return Err(Failure::Refused(format!("one runs already: {}", args.pid_file.display())));
    }
    // It fails for who leads its group already, which has left its terminal then.
    let _ = rustix::process::setsid();
    let pid = std::process::id().to_string();
    std::fs::write(&args.pid_file, pid).with_context(|| format!("write {}", args.pid_file.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let done = runtime.block_on(keep(host, program, arguments, log));
    let _ = std::fs::remove_file(&args.pid_file);
    Ok(done?)
}

async fn keep(host: &dyn Host, program: &str, arguments: &[String], log: &Path) -> Result<()> {
    let stop = Shutdown::on_signals().context("listen for signals")?;
    loop {
        // That it cannot be put back is no reason not to start.
        if let Err(error) = change::before_start(host, &mut |line| note(log, line)) {
            note(log, &format!("a change that was cut short cannot be undone: {error:#}"));
        }
        match start(program, arguments, log) {
            Ok(mut child) => tokio::select! {
                ended = child.wait() => drop(ended.context("wait for the program")?),
                () = stop.wait() => return end(child).await,
            },
            // A full disk, or a program that is just being replaced: it may be better the next time.
            Err(error) => note(log, &format!("{error:#}; again in {} s", AGAIN.as_secs())),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

/// A line into the program's log.
fn note(log: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(log);
    let _ = file.and_then(|mut file| writeln!(file, "keadm: {line}"));
}

fn start(program: &str, arguments: &[String], log: &Path) -> Result<Child> {
    if log.metadata().is_ok_and(|log| log.len() > LOG_LIMIT) {
        // The old one gives way; that it stays is no reason not to start.
        let _ = std::fs::rename(log, log.with_extension("log.1"));
    }
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let (out, err) = (open(), open());
    let log = || format!("open {}", log.display());
    let (out, err) = (out.with_context(log)?, err.with_context(log)?);
    let mut command = Command::new(program);
    // As service managers do; without the file there is nothing to add.
    let environment = std::fs::read_to_string(ENVIRONMENT).unwrap_or_default();
    command.envs(read_environment(&environment));
    command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(false);
    command.spawn().with_context(|| format!("start {program}"))
}

async fn end(mut child: Child) -> Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM).context("end the program")?;
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        child.kill().await.context("kill the program")?;
    }
    Ok(())
}

/// The process that the file names, if it is one of these.
fn running(pid_file: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    // Ids are used again: only one that was started like this is ended.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let is_keadm = words.next().is_some_and(|program| program.ends_with(b"keadm"));
    let is_ours = is_keadm && words.next() == Some(b"supervise".as_slice());
    Pid::from_raw(pid).filter(|_| is_ours)
}

fn stop(pid_file: &Path) -> Result<()> {
    let Some(pid) = running(pid_file) else { return Ok(()) };
    kill_process(pid, Signal::TERM).context("end the supervisor")?;
    for _ in 0..(END_WITHIN.as_millis() + 5000) / 100 {
        if running(pid_file).is_none() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the supervisor (process {}) does not end", pid.as_raw_nonzero())
}
