//! Lines as a visitor would type them, at one of two prompts: where the cluster's administrator is, and on the edge machine.
//! What is shown is what is run, by a shell.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use e2e::ground::Ground;
use e2e::process::{MARK, start_time};
use e2e::run_dir::RunDir;
use serde::{Deserialize, Serialize};

/// What is kept of it for `demo down`.
const FILE: &str = "terminal.json";

/// How long what went before took.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn step(&self, text: &str) {
        println!("[{:>5.1} s] {text}", self.seconds());
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

#[derive(Deserialize, Serialize)]
pub(crate) struct Terminal {
    /// Where manifests are.
    folder: PathBuf,
    /// Where keadm is.
    programs: PathBuf,
    kubeconfig: PathBuf,
    /// kubectl's caches are the demo's.
    home: PathBuf,
    edge: EdgeMachine,
}

/// The process that holds the machine.
#[derive(Deserialize, Serialize)]
struct EdgeMachine {
    pid: u32,
    /// Ids of processes are used again; with this, never.
    start_time: Option<u64>,
    run_dir: PathBuf,
}

impl Terminal {
    pub(crate) fn new(ground: &Ground, run_dir: &RunDir) -> Result<Self> {
        let pid = ground.edge.machine.pid().context("the edge machine is off")?;
        let terminal = Self {
            folder: run_dir.path().to_owned(),
            programs: ground.programs()?.to_owned(),
            kubeconfig: ground.cluster.kubeconfig().to_owned(),
            home: ground.cluster.run_dir().path().to_owned(),
            edge: EdgeMachine {
                pid,
                start_time: start_time(pid),
                run_dir: ground.edge.machine.run_dir().path().to_owned(),
            },
        };
        run_dir.write(FILE, serde_json::to_vec(&terminal)?)?;
        Ok(terminal)
    }

    /// Of a demo that still runs in this directory, if there is one.
    pub(crate) fn of(run_dir: &Path) -> Option<Self> {
        let terminal: Self = serde_json::from_slice(&std::fs::read(run_dir.join(FILE)).ok()?).ok()?;
        let EdgeMachine { pid, start_time: then, .. } = terminal.edge;
        (then.is_some() && start_time(pid) == then).then_some(terminal)
    }

    /// What a visitor types once.
    pub(crate) fn prepare(&self) -> [String; 2] {
        [
            format!("export PATH={}:$PATH KUBECONFIG={}", self.programs.display(), self.kubeconfig.display()),
            format!("cd {}", self.folder.display()),
        ]
    }

    /// What opens a shell on the edge machine.
    pub(crate) fn edge_shell(&self) -> String {
        format!("nsenter --target {} --mount --net", self.edge.pid)
    }

    /// In the cloud; gives what it prints.
    pub(crate) fn cloud(&self, line: &str) -> Result<String> {
        println!("$ {line}");
        let mut shell = Command::new("/bin/sh");
        shell.env(MARK, &self.folder);
        self.run(shell, line)
    }

    /// On the edge machine. `secret`: the value of `$TOKEN`.
    pub(crate) fn edge(&self, line: &str, secret: &str) -> Result<String> {
        println!("edge-1# {line}");
        let mut shell = Command::new("/usr/bin/nsenter");
        let pid = self.edge.pid;
        shell.args([&format!("--mount=/proc/{pid}/ns/mnt"), &format!("--net=/proc/{pid}/ns/net")]);
        // What it leaves running belongs to the machine.
        shell.args(["--", "/bin/sh"]).env("TOKEN", secret).env(MARK, &self.edge.run_dir);
        self.run(shell, line)
    }

    fn run(&self, mut shell: Command, line: &str) -> Result<String> {
        let mut path = self.programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let (reader, writer) = std::io::pipe()?;
        shell.args(["-ec", line]).env("PATH", path).env("KUBECONFIG", &self.kubeconfig);
        shell.env("HOME", &self.home).current_dir(&self.folder);
        let mut child = shell
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("run `{line}`"))?;
        // It holds the writing ends.
        drop(shell);
        let told = echo(reader)?;
        let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed ({status}); what it said is above");
        }
        Ok(told)
    }
}

/// Shows each line when it comes.
fn echo(reader: impl Read) -> Result<String> {
    let mut told = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        println!("    {line}");
        told.push_str(&line);
        told.push('\n');
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_that_is_still_on_is_entered() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Terminal::of(folder.path()).is_none(), "no demo");
        let this = std::process::id();
        let check = |pid: u32, start_time: Option<u64>, expected: bool| {
            let edge = EdgeMachine { pid, start_time, run_dir: "/x".into() };
            let [folder_of, programs, kubeconfig, home] = ["/a", "/b", "/c", "/d"].map(PathBuf::from);
            let terminal = Terminal { folder: folder_of, programs, kubeconfig, home, edge };
            std::fs::write(folder.path().join(FILE), serde_json::to_vec(&terminal).unwrap()).unwrap();
            assert_eq!(Terminal::of(folder.path()).is_some(), expected, "{pid} {start_time:?}");
        };
        check(this, start_time(this), true);
        check(this, start_time(this).map(|time| time + 1), false);
        check(u32::MAX, None, false);
    }
}
