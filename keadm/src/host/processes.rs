//! Programs that are run to their end, started for longer, or ended.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::Ran;

/// A program that hangs must not hang keadm for ever on a machine that nobody looks at. Sites' own programs may be slow.
const RUN_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether what was asked to end has ended.
const LOOK: Duration = Duration::from_millis(100);

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

/// Waits for it to end; one that takes longer is killed.
fn output(child: Child, program: &Path, limit: Duration) -> io::Result<Ran> {
    let pid = rustix::process::Pid::from_child(&child);
    // One message, sent once: it never waits.
    let (done, ended) = mpsc::sync_channel(1);
    // It outlives this only while something that the program started holds its pipes.
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => Ok(ran(&output?)),
        Err(_) => {
            let why =
                format!("{} has not ended within {} s and was killed", program.display(), limit.as_secs());
            // One that ended just now needs no killing.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            Err(io::Error::new(ErrorKind::TimedOut, why))
        }
    }
}

fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let status = output.status;
    Ran {
        is_good: status.success(),
        code: status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_ended() {
        let child =
            Command::new("sleep").arg("100").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let error = output(child, Path::new("sleep"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("sleep has not ended within"), "{error}");
        let ran = run(Path::new("sh"), &["-c".into(), "echo a; echo b >&2; exit 3".into()]).unwrap();
        assert_eq!(ran, Ran { is_good: false, code: Some(3), stdout: "a".into(), stderr: "b".into() });
    }
}
