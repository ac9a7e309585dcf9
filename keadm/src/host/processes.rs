//! Programs that are run to their end, started for longer, or ended.

use std::fs;
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::Ran;

/// A program that hangs must not hang keadm for ever on a machine that nobody looks at. Sites' own programs may be slow.
const RUN_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether what was asked to end has ended.
const LOOK: Duration = Duration::from_millis(100);
/// What a program that has ended said is in its pipes, and read at once unless the machine is busy.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn run(program: &Path, arguments: &[String]) -> io::Result<Ran> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    output(command.spawn()?, program, RUN_WITHIN)
}

pub(super) fn feed(program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdin, input) = (child.stdin.take(), input.to_vec());
    // Beside the reading of what it says: both pipes have their limits. Nobody waits for it, since one that is killed may
    // leave somebody who holds the pipe and does not read.
    std::thread::spawn(move || {
        // One that ends without reading all of it says why.
        let _ = stdin.map(|mut stdin| stdin.write_all(&input));
    });
    output(child, program, RUN_WITHIN)
}

pub(super) fn start_aside(program: &Path, arguments: &[String]) -> io::Result<()> {
    let mut aside = Command::new(program);
    aside.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    aside.spawn().map(drop)
}

pub(super) fn end(program: &Path, limit: Duration) -> io::Result<()> {
    let begin = Instant::now();
    let mut asked = Vec::new();
    loop {
        let running = running(program)?;
        if running.is_empty() {
            return Ok(());
        }
        for pid in running.iter().filter(|pid| !asked.contains(*pid)) {
            rustix::process::kill_process(*pid, rustix::process::Signal::TERM)?;
        }
        if begin.elapsed() >= limit {
            let why = format!("{} does not end within {} s", program.display(), limit.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        asked = running;
        std::thread::sleep(LOOK);
    }
}

/// Processes of this mount namespace whose program is that file; also when the file was replaced since.
fn running(program: &Path) -> io::Result<Vec<rustix::process::Pid>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (own, replaced) = (namespace("self"), format!("{} (deleted)", program.display()));
    let mut running = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        // A process that ended meanwhile.
        let Ok(runs) = fs::read_link(format!("/proc/{name}/exe")) else { continue };
        if (runs == program || runs.as_os_str() == replaced.as_str()) && namespace(&name) == own {
            running.push(pid);
        }
    }
    Ok(running)
}

/// Waits for it to end, and no longer: what it has left running may hold its pipes for as long as the machine runs. One that
/// takes longer is killed.
fn output(mut child: Child, program: &Path, limit: Duration) -> io::Result<Ran> {
    let (stdout, stderr) = (Heard::of(child.stdout.take()), Heard::of(child.stderr.take()));
    let status = wait(&mut child, program, limit)?;
    let deadline = Instant::now() + DRAIN_WITHIN;
    let (stdout, stderr) = (stdout.until(deadline), stderr.until(deadline));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok(Ran { is_good: status.success(), code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

fn wait(child: &mut Child, program: &Path, limit: Duration) -> io::Result<ExitStatus> {
    let (begin, mut pause) = (Instant::now(), Duration::from_millis(1));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begin.elapsed() >= limit {
            // One that ended just now needs no killing.
            let _ = child.kill();
            child.wait()?;
            let why =
                format!("{} has not ended within {} s and was killed", program.display(), limit.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, why));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK);
    }
}

/// What comes out of a pipe, read beside all else: it has its limit.
struct Heard {
    /// `None`: nobody wants more. It is read all the same, so that who holds the pipe goes on.
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
    /// Hangs up when the pipe is closed; nothing is ever sent.
    closed: mpsc::Receiver<()>,
}

impl Heard {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Some(Vec::new())));
        let (open, closed) = mpsc::sync_channel(1);
        let to = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let _open = open;
            let Some(mut pipe) = pipe else { return };
            let mut piece = [0; 8192];
            loop {
                match pipe.read(&mut piece) {
                    Ok(0) => return,
                    Ok(n) => {
                        let Ok(mut to) = to.lock() else { return };
                        if let Some(to) = to.as_mut() {
                            to.extend(piece.iter().take(n));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Self { bytes, closed }
    }

    /// All of it, or what came before the deadline.
    fn until(self, deadline: Instant) -> Vec<u8> {
        let _ = self.closed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        self.bytes.lock().ok().and_then(|mut bytes| bytes.take()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::not_run;

    #[test]
    fn what_hangs_is_ended() {
        let child =
            Command::new("sleep").arg("100").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let error = output(child, Path::new("sleep"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "sleep has not ended within 0 s and was killed");
        // It was started.
        assert_eq!(
            format!("{:#}", not_run(Path::new("sleep"), error)),
            "sleep has not ended within 0 s and was killed"
        );
        let none = Path::new("/no/such");
        let why = format!("{:#}", not_run(none, run(none, &[]).unwrap_err()));
        assert!(why.starts_with("start /no/such (is it executable?): No such file"), "{why}");
        let ran = run(Path::new("sh"), &["-c".into(), "echo a; echo b >&2; exit 3".into()]).unwrap();
        assert_eq!(ran, Ran { is_good: false, code: Some(3), stdout: "a".into(), stderr: "b".into() });
    }

    #[test]
    fn what_a_program_leaves_running_is_not_waited_for() {
        let shell = |line: &str| run(Path::new("/bin/sh"), &["-c".into(), line.into()]).unwrap();
        let begin = Instant::now();
        // Its number comes on the other pipe, which it holds, too.
        let ran = shell("sleep 60 & echo $! >&2; echo ok");
        let took = begin.elapsed();
        let left = ran.stderr.parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
        assert!(took < Duration::from_secs(30), "{took:?}");
        assert_eq!((ran.is_good, ran.stdout.as_str()), (true, "ok"));
        // More than a pipe holds comes whole.
        let many =
            shell("head -c 300000 /dev/zero | tr '\\0' x; echo; head -c 300000 /dev/zero | tr '\\0' y >&2");
        assert_eq!((many.stdout.len(), many.stderr.len()), (300_000, 300_000));
    }
}
