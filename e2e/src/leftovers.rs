//! What a run makes outside its directory, and how each is taken away again.
//!
//! Removing is repeatable: what is gone already is no error. Called by the sweep of a run directory and by the
//! runtime's cold boot; the text form is a line of the `leftovers` file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::process::{run, signal};
use crate::wait::until;

/// CNI's library notes each attachment here, whatever the runtime's own directories are.
const CNI_RESULTS: &str = "/var/lib/cni/results";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A cgroup path, the same in every hierarchy, with the processes in it.
    Cgroup(String),
    /// A bridge, which is also the name of its CNI network, with that network's iptables rules.
    Network(String),
    /// A containerd state directory: its shims' sockets lie elsewhere.
    ContainerdState(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::ContainerdState(path) => write!(f, "containerd-state {}", path.display()),
        }
    }
}

impl FromStr for Leftover {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        Ok(match line.split_once(' ') {
            Some(("cgroup", path)) => Self::Cgroup(path.into()),
            Some(("network", name)) => Self::Network(name.into()),
            Some(("containerd-state", path)) => Self::ContainerdState(path.into()),
            _ => bail!("not a leftover: {line:?}"),
        })
    }
}

impl Leftover {
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::Cgroup(path) => remove_cgroup(path),
            Self::Network(name) => remove_network(name),
            Self::ContainerdState(path) => remove_shim_sockets(path),
        }
    }
}

fn remove_cgroup(path: &str) -> Result<()> {
    let name = path.trim_matches('/');
    // The root of a hierarchy holds every process of the machine.
    if name.is_empty() || name.contains("..") {
        bail!("{path:?} is no cgroup of a run");
    }
    for root in hierarchies() {
        let top = root.join(name);
        until(Duration::from_secs(10), &format!("cgroup {} to be empty", top.display()), || {
            for folder in folders_below(&top) {
                let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in processes.lines().filter_map(|pid| pid.parse().ok()) {
                    signal(pid, Signal::KILL);
                }
                fs::write(folder.join("freezer.state"), "THAWED").ok();
                fs::remove_dir(&folder).ok();
            }
            Ok(!top.exists())
        })?;
    }
    Ok(())
}

/// Makes a cgroup in every hierarchy; `Leftover::Cgroup` takes it away.
pub fn make_cgroup(path: &str) -> Result<()> {
    for root in hierarchies() {
        let folder = root.join(path.trim_matches('/'));
        fs::create_dir_all(&folder).with_context(|| format!("make cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// Mount points of cgroup v1 and v2, and the v2 root itself.
fn hierarchies() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup")];
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let folders = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        found = folders.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    }
    found
}

/// Deepest first, the top last; nothing when it is not there.
fn folders_below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(folders_below(&entry.path()));
        }
    }
    if top.is_dir() {
        found.push(top.into());
    }
    found
}

fn remove_network(name: &str) -> Result<()> {
    if Path::new("/sys/class/net").join(name).exists() {
        run("ip", &["link", "delete", name])?;
    }
    // Links to machines outlive them while the kernel closes their connections; they may go by themselves meanwhile.
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let link = entry.file_name().to_string_lossy().into_owned();
        if link.starts_with(&format!("{name}-")) {
            run("ip", &["link", "delete", &link]).ok();
        }
    }
    for iptables in ["iptables", "ip6tables"] {
        remove_port_mappings(iptables, name)?;
    }
    for entry in fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten() {
        // Of the loopback network only the container is named: `remove_shim_sockets` knows the containers.
        if entry.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

/// The portmap plugin names the network in a comment on the rule that leads to each container's chain.
fn remove_port_mappings(iptables: &str, network: &str) -> Result<()> {
    let Ok(rules) = run(iptables, &["-w", "-t", "nat", "-S"]) else { return Ok(()) };
    let comment = format!("name: \\\"{network}\\\"");
    for rule in rules.lines().filter(|rule| rule.starts_with("-A ") && rule.contains(&comment)) {
        let words = split_quoted(rule.trim_start_matches("-A "));
        let mut arguments = vec!["-w", "-t", "nat", "-D"];
        arguments.extend(words.iter().map(String::as_str));
        run(iptables, &arguments)?;
        if let Some(chain) = words.last().filter(|word| word.starts_with("CNI-DN-")) {
            run(iptables, &["-w", "-t", "nat", "-F", chain])?;
            run(iptables, &["-w", "-t", "nat", "-X", chain])?;
        }
    }
    Ok(())
}

/// Words of a rule as iptables prints it: quoted where they hold spaces, with `\"` inside.
fn split_quoted(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => word.push(other),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

fn remove_shim_sockets(state: &Path) -> Result<()> {
    let tasks = state.join("io.containerd.runtime.v2.task");
    for namespace in fs::read_dir(&tasks).into_iter().flatten().flatten() {
        for task in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
            // Only the place where shims of this generation put them: the file is not a licence to delete anything.
            if let Some(socket) = address.trim().strip_prefix("unix://")
                && socket.starts_with("/run/containerd/s/")
                && !socket.contains("..")
            {
                fs::remove_file(socket).ok();
            }
            if let Some(id) = task.file_name().to_str() {
                fs::remove_file(Path::new(CNI_RESULTS).join(format!("cni-loopback-{id}-lo"))).ok();
            }
        }
    }
    Ok(())
}

/// What containerd's shims and CNI plugins make at places nobody can choose, as far as it is empty and so nobody's.
/// A runtime of the machine's own makes them again when it needs them.
pub fn remove_shared() -> Result<()> {
    for folder in
        ["/run/containerd/s", "/run/containerd/fifo", "/run/containerd", CNI_RESULTS, "/var/lib/cni"]
    {
        fs::remove_dir(folder).ok();
    }
    const CHAIN: &str = "CNI-HOSTPORT-DNAT";
    for iptables in ["iptables", "ip6tables"] {
        let Ok(rules) = run(iptables, &["-w", "-t", "nat", "-S"]) else { continue };
        let in_use = rules.lines().any(|rule| rule.starts_with(&format!("-A {CHAIN} ")));
        if in_use || !rules.contains(&format!("-N {CHAIN}")) {
            continue;
        }
        for rule in rules.lines().filter(|rule| rule.ends_with(&format!("-j {CHAIN}"))) {
            let words = split_quoted(rule.trim_start_matches("-A "));
            let mut arguments = vec!["-w", "-t", "nat", "-D"];
            arguments.extend(words.iter().map(String::as_str));
            run(iptables, &arguments)?;
        }
        run(iptables, &["-w", "-t", "nat", "-X", CHAIN])?;
    }
    Ok(())
}

/// Unmounts all below `top`, newest first, also what still has users. Afterwards nothing is mounted there.
pub fn unmount_below(top: &Path) -> Result<()> {
    // A hundred mounts on mounts are more than any story makes.
    for _ in 0..100 {
        let points = mounts_below(top)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            unmount(point, UnmountFlags::DETACH)
                .or_else(|error| if error == rustix::io::Errno::INVAL { Ok(()) } else { Err(error) })
                .with_context(|| format!("unmount {}", point.display()))?;
        }
    }
    bail!("something keeps mounting below {}", top.display())
}

fn mounts_below(top: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(top)).collect())
}

/// The mount table writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (code, letter) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, letter);
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_round() {
        for line in ["cgroup /isthmus-1", "network ist1", "containerd-state /a b/state"] {
            assert_eq!(line.parse::<Leftover>().unwrap().to_string(), line);
        }
        assert!("bridge".parse::<Leftover>().is_err());
    }

    #[test]
    fn a_rule_is_split_as_iptables_prints_it() {
        let rule =
            r#"CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"ist1\" id: \"ab\"" -j CNI-DN-12"#;
        let words = split_quoted(rule);
        assert_eq!(words[6], r#"dnat name: "ist1" id: "ab""#);
        assert_eq!(words.last().unwrap(), "CNI-DN-12");
    }

    #[test]
    fn the_root_cgroup_is_never_removed() {
        for path in ["", "/", "/..", "/a/../.."] {
            assert!(remove_cgroup(path).is_err(), "{path}");
        }
    }
}
