//! The end of the network that we made: the bridge, what plugins wrote down, chains of port mappings that lead nowhere, the
//! file. Runs after the last pod is gone; what is gone already is no error.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ke_api::pod_network::FILE;

use super::conflist::{BRIDGE, LEASES, NETWORK};
use super::link;

/// Chains that `portmap` makes for all networks together, and leaves behind. The first is the one with a rule for each port.
const CHAINS: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("remove {0}: {1}")]
pub struct Leaving(String, io::Error);

/// Nothing, unless the file in `conf_dir` is ours.
pub fn remove(conf_dir: &Path) -> Result<(), Leaving> {
    let file = conf_dir.join(FILE);
    if !file.exists() {
        return Ok(());
    }
    link::delete(BRIDGE).map_err(|error| Leaving(format!("the interface {BRIDGE}"), error))?;
    for iptables in ["iptables", "ip6tables"] {
        remove_chains(iptables);
    }
    let leases = PathBuf::from(LEASES).join(NETWORK);
    gone(std::fs::remove_dir_all(&leases), &leases)?;
    // Last: it says that all the others may be there.
    gone(std::fs::remove_file(&file), &file)
}

fn gone(outcome: io::Result<()>, path: &Path) -> Result<(), Leaving> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Leaving(path.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Does no harm where it stays, so that a failure is no reason to stop.
fn remove_chains(iptables: &str) {
    let run = |words: &[String]| {
        let mut command = Command::new(iptables);
        let output = command.args(["-w", "-t", "nat"]).args(words).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(rules) = run(&["-S".to_owned()]) else { return };
    for words in unused(&rules) {
        if run(&words).is_none() {
            tracing::warn!("`{iptables} -w -t nat {}` failed; the rule stays", words.join(" "));
        }
    }
}

/// What takes `portmap`'s chains away, if no port is mapped any more. `rules`: as `iptables -S` prints them.
fn unused(rules: &str) -> Vec<Vec<String>> {
    let [ports, ..] = CHAINS;
    let is_in_use = rules.lines().any(|rule| rule.starts_with(&format!("-A {ports} ")));
    if is_in_use {
        return Vec::new();
    }
    let made = |chain: &&&str| rules.lines().any(|rule| rule == format!("-N {chain}"));
    let chains: Vec<&&str> = CHAINS.iter().filter(made).collect();
    let leads_there = |rule: &&str| chains.iter().any(|chain| rule.ends_with(&format!(" -j {chain}")));
    let mut all: Vec<Vec<String>> = Vec::new();
    for rule in rules.lines().filter(leads_there) {
        // Words in quotation marks hold no spaces but in the plugin's comment.
        if let Some(rule) = rule.strip_prefix("-A ") {
            all.push(std::iter::once("-D".to_owned()).chain(words(rule)).collect());
        }
    }
    for what in ["-F", "-X"] {
        all.extend(chains.iter().map(|chain| vec![what.to_owned(), (**chain).to_owned()]));
    }
    all
}

/// As a shell would split them.
fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for letter in rule.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "-P PREROUTING ACCEPT\n-N CNI-HOSTPORT-DNAT\n-N CNI-HOSTPORT-MASQ\n-N CNI-HOSTPORT-SETMARK\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
         -A POSTROUTING -j SOMEBODY\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
         -A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x2000/0x2000\n";

    #[test]
    fn chains_go_when_no_port_is_mapped() {
        let lines: Vec<String> = unused(RULES).iter().map(|words| words.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
                "-D POSTROUTING -m comment --comment CNI portfwd requiring masquerade -j CNI-HOSTPORT-MASQ",
                "-F CNI-HOSTPORT-DNAT",
                "-F CNI-HOSTPORT-SETMARK",
                "-F CNI-HOSTPORT-MASQ",
                "-X CNI-HOSTPORT-DNAT",
                "-X CNI-HOSTPORT-SETMARK",
                "-X CNI-HOSTPORT-MASQ",
            ]
        );
        let in_use = format!("{RULES}-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 80 -j CNI-DN-1\n");
        assert!(unused(&in_use).is_empty());
        assert!(unused("-P PREROUTING ACCEPT\n").is_empty());
    }

    #[test]
    fn a_folder_without_our_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("10-flannel.conflist"), "{}").unwrap();
        remove(folder.path()).unwrap();
        assert!(folder.path().join("10-flannel.conflist").exists());
    }
}
