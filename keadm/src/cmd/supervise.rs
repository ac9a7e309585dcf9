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
    let done = runtime.block_on(async {
        let stop = Shutdown::on_signals().context("listen for signals")?;
        keep(host, program, arguments, log, &stop).await
    });
    let _ = std::fs::remove_file(&args.pid_file);
    Ok(done?)
}

async fn keep(
    host: &dyn Host,
    program: &str,
    arguments: &[String],
    log: &Path,
    stop: &Shutdown,
) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use super::*;
    use crate::host::fake::FakeHost;

    /// Supervises until `is_enough`. The clock jumps to the next start when nothing runs, and stands still while something does;
    /// `after_two` happens at 15 s: starts are at 0, 10 and 20 s.
    fn supervise(
        program: &str,
        words: &[&str],
        log: &Path,
        after_two: impl FnOnce(),
        is_enough: impl Fn() -> bool + Sync,
    ) {
        let (trigger, stop) = Shutdown::new();
        let host = FakeHost::new(&[]);
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let scene = async {
            tokio::time::sleep(Duration::from_secs(15)).await;
            after_two();
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        std::thread::scope(|scope| {
            // A thread of its own, since a timer would make the clock jump while the program runs.
            scope.spawn(|| {
                let begin = Instant::now();
                while !is_enough() && begin.elapsed() < Duration::from_secs(30) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                trigger.stop();
            });
            let kept = async { tokio::join!(keep(&host, program, &words, log, &stop), scene).0 };
            runtime.block_on(kept).unwrap();
        });
    }

    fn n_lines(path: &Path, expected: &str) -> usize {
        fs::read_to_string(path).unwrap_or_default().lines().filter(|line| *line == expected).count()
    }

    #[test]
    fn it_goes_on_after_starts_that_fail() {
        let folder = tempfile::tempdir().unwrap();
        let (program, log) = (folder.path().join("program"), folder.path().join("log"));
        let name = program.display().to_string();
        // It is there only then, as while it is being replaced.
        let put = || symlink("/bin/sh", &program).unwrap();
        // What ends is started again, too.
        supervise(&name, &["-c", "echo it runs"], &log, put, || n_lines(&log, "it runs") >= 3);
        let failed = format!("keadm: start {name}: No such file or directory (os error 2); again in 10 s");
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(n_lines(&log, &failed), 2, "{said}");
        assert!(n_lines(&log, "it runs") >= 3, "{said}");
    }

    #[test]
    fn it_goes_on_after_the_log_could_not_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (full, ran) = (folder.path().join("full"), folder.path().join("ran"));
        let script = format!("echo it runs >> {}", ran.display());
        let make_room = || {
            assert!(!ran.exists(), "it was started without a log");
            fs::create_dir(&full).unwrap();
        };
        supervise("/bin/sh", &["-c", &script], &full.join("log"), make_room, || {
            n_lines(&ran, "it runs") >= 1
        });
        assert!(n_lines(&ran, "it runs") >= 1);
    }
}
