//! A machine within this one: its own /etc, /var/lib, /var/log, /usr/local and /run, laid over the real ones, in a mount
//! namespace that one process holds. What is written there is seen by who enters, and gone with the machine. It shares the
//! real one's network, or has a network namespace with an address of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::need;
use crate::network::Network;
use crate::process::{Process, of_run, signal};
use crate::run_dir::RunDir;
use crate::wait::{Seen, eventually, until};

/// Laid over; /run is new.
const OVER: [&str; 4] = ["/etc", "/var/lib", "/var/log", "/usr/local"];
/// What this machine has of a node is not that one's, and may come and go while others work here.
const OF_A_NODE: [&str; 10] = [
    "/etc/kubeedge",
    "/var/lib/kubeedge",
    "/var/lib/keadm",
    "/var/log/kubeedge",
    "/usr/local/bin/edgecore",
    "/usr/local/bin/keadm",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
];
/// The programs that make and enter namespaces, of util-linux.
const UNSHARE: &str = "/usr/bin/unshare";
const NSENTER: &str = "/usr/bin/nsenter";

pub struct Machine {
    holder: Process,
    address: Option<Ipv4Addr>,
    run_dir: RunDir,
}

impl Machine {
    /// On this machine's network: its ports are this one's.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_on(name, None)
    }

    /// With ports, rules and an address of its own.
    pub fn start_with_network(name: &str, network: &Network) -> Result<Self> {
        Self::start_on(name, Some(network))
    }

    fn start_on(name: &str, network: Option<&Network>) -> Result<Self> {
        need::root()?;
        need::tool("unshare", "apt-get install -y util-linux")?;
        let run_dir = RunDir::new(name)?;
        let mut script = String::from("mount -t tmpfs tmpfs /run\n");
        for (number, folder) in OVER.iter().enumerate() {
            let (upper, work) = (upper(&run_dir, number), run_dir.join(format!("work-{number}")));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            let (upper, work) = (upper.display(), work.display());
            script += &format!(
                "mount -t overlay overlay -o lowerdir={folder},upperdir={upper},workdir={work} {folder}\n"
            );
        }
        script += &format!("rm -rf {}\n", OF_A_NODE.join(" "));
        // Folders that are changed would count as made, as would those that network plugins make.
        script += "touch /usr/local/bin\nmkdir -p /var/lib/cni/results\n";
        let ready = run_dir.join("ready");
        script += &format!("touch {}\nexec sleep infinity\n", ready.display());
        let mut arguments = vec!["--mount", "--propagation", "private", "sh", "-ec", &script];
        if network.is_some() {
            arguments.insert(0, "--net");
        }
        let mut holder = Process::new(run_dir.path(), "machine", Path::new(UNSHARE), arguments);
        holder.start()?;
        eventually(Duration::from_secs(20), "the machine's folders", || {
            holder.must_run()?;
            Ok(if ready.exists() { Seen::Yes(()) } else { Seen::NotYet(holder.log_end(5)) })
        })?;
        let pid = holder.pid().context("the machine is off")?;
        let address = network.map(|network| network.attach(pid)).transpose()?;
        Ok(Self { holder, address, run_dir })
    }

    /// A program and words that come before those of whatever runs in the machine.
    pub fn enter(&self) -> Result<(PathBuf, Vec<String>)> {
        let pid = self.holder.pid().context("the machine is off")?;
        let mut words = vec![format!("--mount=/proc/{pid}/ns/mnt")];
        words.extend(self.address.map(|_| format!("--net=/proc/{pid}/ns/net")));
        words.push("--".to_owned());
        Ok((NSENTER.into(), words))
    }

    /// The process that holds it, while it is on.
    pub fn pid(&self) -> Option<u32> {
        self.holder.pid()
    }

    /// Its own, where it has a network of its own.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// Runs a program in it to its end.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let (nsenter, words) = self.enter()?;
        let mut command = Command::new(nsenter);
        command.args(words).arg(program).args(arguments).stdin(Stdio::null());
        // What it leaves running is found by this.
        command.env(crate::process::MARK, self.run_dir.path());
        command.output().with_context(|| format!("run {} in the machine", program.display()))
    }

    /// Every process that runs in it is gone at once, but what another run directory owns (a container runtime) runs on.
    pub fn kill_all(&self) -> Result<()> {
        let holder = self.holder.pid().context("the machine is off")?;
        until(Duration::from_secs(20), "the machine's processes to be gone", || {
            let mut ours = of_run(self.run_dir.path());
            ours.remove(&holder);
            ours.iter().for_each(|pid| signal(*pid, Signal::KILL));
            Ok(ours.is_empty())
        })
    }

    /// A file as the machine has it.
    pub fn read(&self, path: &str) -> Result<String> {
        let output = self.run(Path::new("/bin/cat"), &[path])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What differs from the real folders below, sorted: `+` is there or has another content, `-` is gone.
    pub fn made(&self) -> Result<Vec<String>> {
        let mut made = Vec::new();
        for (number, folder) in OVER.iter().enumerate() {
            below(&upper(&self.run_dir, number), Path::new(folder), &mut made)?;
        }
        // What is gone here may come there, and what was made above may not be there.
        let is_expected = |line: &str| match line.split_at_checked(1) {
            Some(("-", path)) => OF_A_NODE.contains(&path),
            Some(("+", path)) => ["/var/lib/cni", "/var/lib/cni/results"].contains(&path),
            _ => false,
        };
        made.retain(|line| !is_expected(line));
        made.sort();
        Ok(made)
    }

    /// Nothing is there that was not there, or is gone that was, since [`Self::made`] gave `before`.
    pub fn must_be_as(&self, before: &[String]) -> Result<()> {
        let made = self.made()?;
        ensure!(made == before, "left behind: {made:?}; before: {before:?}");
        Ok(())
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Leaves it and what runs in it after this process.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()
    }
}

fn upper(run_dir: &RunDir, number: usize) -> PathBuf {
    run_dir.join(format!("over-{number}"))
}

fn below(upper: &Path, lower: &Path, made: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(upper)? {
        let entry = entry?;
        let (path, real) = (entry.path(), lower.join(entry.file_name()));
        let (kind, was) = (entry.file_type()?, real.symlink_metadata().ok());
        let is_gone = kind.is_char_device();
        let is_same = match &was {
            // How overlayfs writes down that something is gone.
            _ if is_gone => was.is_none(),
            Some(was) if kind.is_dir() => was.is_dir(),
            Some(was) if kind.is_file() => was.is_file() && fs::read(&path)? == fs::read(&real)?,
            Some(was) => was.file_type() == kind,
            None => false,
        };
        if !is_same {
            made.push(format!("{}{}", if is_gone { '-' } else { '+' }, real.display()));
        }
        if kind.is_dir() {
            below(&path, &real, made)?;
        }
    }
    Ok(())
}
