//! Child processes with a log file each, and the finding of every process that belongs to a run.
//!
//! A child carries `ISTHMUS_RUN_DIR` in its environment, and so do its children: that mark, which the kernel keeps,
//! is how a later run finds what a killed one left. Nothing is ever ended by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Seen, eventually, until};

pub const MARK: &str = "ISTHMUS_RUN_DIR";

/// How to start a program again and again; its output goes to one file that grows over restarts.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    run_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Length of the log when the present child was started.
    log_start: u64,
}

impl Process {
    /// Describes it; `start` starts it. The log is `<run_dir>/<name>.log`.
    pub fn new(
        run_dir: &Path,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            run_dir: run_dir.into(),
            log: run_dir.join(format!("{name}.log")),
            child: None,
            log_start: 0,
        }
    }

    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set_env(key, value);
        self
    }

    /// Holds from the next start on.
    pub fn set_env(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) {
        let key = key.into();
        self.environment.retain(|(known, _)| *known != key);
        self.environment.push((key, value.into()));
    }

    /// Runs through another program from the next start on (`faketime`, `nice`): its words come before ours.
    pub fn wrap(&mut self, program: &Path, arguments: &[&str]) {
        let inner = std::mem::replace(&mut self.program, program.into());
        let mut all: Vec<OsString> = arguments.iter().map(Into::into).collect();
        all.push(inner.into());
        all.append(&mut self.arguments);
        self.arguments = all;
    }

    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.log_start = log.metadata()?.len();
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env(MARK, &self.run_dir)
            .current_dir(&self.run_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for the story, which then stops its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// SIGKILL, as a power cut would. Returns when the kernel has taken it away.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("kill {}", self.name))?;
            child.wait().with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(())
    }

    /// SIGTERM, then at most 20 s of patience, then SIGKILL and an error.
    pub fn stop(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            return Ok(Some(status));
        }
        signal(child.id(), Signal::TERM);
        let ended = eventually(Duration::from_secs(20), &format!("{} to stop", self.name), || {
            Ok(match child.try_wait()? {
                Some(status) => Seen::Yes(status),
                None => Seen::NotYet("still running after SIGTERM".into()),
            })
        });
        if ended.is_err() {
            self.kill9()?;
        }
        self.child = None;
        ended.map(Some)
    }

    /// SIGSTOP or SIGCONT: a machine that hangs and comes back.
    pub fn freeze(&self, frozen: bool) {
        if let Some(pid) = self.pid() {
            signal(pid, if frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Waits for the process to end by itself, for starts that must fail.
    pub fn wait_for_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end by itself", self.name);
        let Some(child) = self.child.as_mut() else { bail!("{} was not started", self.name) };
        let status = eventually(deadline, &what, || {
            Ok(match child.try_wait()? {
                Some(status) => Seen::Yes(status),
                None => Seen::NotYet("still running".into()),
            })
        })?;
        self.child = None;
        Ok(status)
    }

    /// All output since the last start.
    pub fn log(&self) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        let tail = all.get(self.log_start as usize..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    /// Waits for `text` in the output since the last start. A process that ended is an error at once.
    pub fn wait_for_log(&mut self, deadline: Duration, text: &str) -> Result<()> {
        let what = format!("{:?} in the log of {}", text, self.name);
        let mut ended = false;
        until(deadline, &what, || {
            if self.log().contains(text) {
                return Ok(true);
            }
            ended = !self.is_running();
            Ok(ended)
        })
        .with_context(|| format!("end of its log:\n{}", self.log_end(15)))?;
        if ended && !self.log().contains(text) {
            bail!("{} ended before {:?}; end of its log:\n{}", self.name, text, self.log_end(15));
        }
        Ok(())
    }

    /// Fails with the end of the log when the process is no longer there.
    pub fn must_run(&mut self) -> Result<()> {
        if !self.is_running() {
            bail!("{} has ended; end of its log:\n{}", self.name, self.log_end(15));
        }
        Ok(())
    }

    pub fn log_end(&self, n_lines: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(n_lines)..).unwrap_or_default().join("\n")
    }
}

/// A process that is gone already is what we wanted.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// One line of the process table.
struct Entry {
    parent: u32,
    zombie: bool,
    marked: bool,
}

/// Processes that carry the mark of `run_dir`, and everything below them. Zombies are left out.
pub fn of_run(run_dir: &Path) -> BTreeSet<u32> {
    let mark = [MARK.as_bytes(), b"=", run_dir.as_os_str().as_encoded_bytes()].concat();
    let table = table(&mark);
    // Never ourselves, nor through us what someone else started: the mark may have come down to us.
    let this = std::process::id();
    let mut ours: BTreeSet<u32> =
        table.iter().filter(|(pid, entry)| entry.marked && **pid != this).map(|(pid, _)| *pid).collect();
    loop {
        let below: Vec<u32> = table
            .iter()
            .filter(|(pid, entry)| !ours.contains(pid) && ours.contains(&entry.parent))
            .map(|(pid, _)| *pid)
            .collect();
        let n = ours.len();
        ours.extend(below.into_iter().filter(|pid| *pid != this));
        if ours.len() == n {
            break;
        }
    }
    ours.retain(|pid| table.get(pid).is_some_and(|entry| !entry.zombie));
    ours
}

fn table(mark: &[u8]) -> BTreeMap<u32, Entry> {
    let mut table = BTreeMap::new();
    let Ok(folder) = fs::read_dir("/proc") else { return table };
    for entry in folder.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some((state, parent)) = stat(pid) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
        table.insert(pid, Entry { parent, zombie: state == "Z", marked });
    }
    table
}

/// State letter and parent, from behind the program's name, which may itself hold spaces and brackets.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// When a process started, in ticks since boot: with its id, a name that is never used twice.
pub fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.get(text.rfind(')')? + 1..)?.split_whitespace().nth(19)?.parse().ok()
}

/// Ends every process of a run, containers before the shims that would otherwise lose sight of them.
pub fn end_all(run_dir: &Path) -> Result<()> {
    until(Duration::from_secs(20), &format!("the processes of {} to be gone", run_dir.display()), || {
        let ours = of_run(run_dir);
        // Stopped first, so that nothing starts anew between the look and the blow.
        for pid in &ours {
            signal(*pid, Signal::STOP);
        }
        for pid in of_run(run_dir) {
            signal(pid, Signal::KILL);
        }
        Ok(ours.is_empty())
    })
}

/// Runs a program to its end. Errors hold its error output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An empty log file where there was none, so that reading it is no special case.
pub fn touch(path: &Path) -> Result<()> {
    File::options().create(true).append(true).open(path)?;
    Ok(())
}

/// Cargo's output directory, found from where this program lies (`<target>/debug/deps/story-1234`).
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("the build directory has no parent")?.into())
}

/// `<target>/debug`: where cargo puts the binaries of the profile this program was built with.
pub fn profile_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    let folder = this.parent().context("this program has no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.into())
}
