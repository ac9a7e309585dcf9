//! The system's `ssh`: one connection to copy, one to run. What is secret goes through its standard input and environment,
//! never through its arguments, which others on this machine can see.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, anyhow};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::file::{Auth, Target};

/// Holds the password where ssh runs keadm to ask for it.
const PASSWORD: &str = "KEADM_SSH_PASSWORD";
/// KubeEdge's, on the node.
const FOLDER: &str = "/tmp/kubeedge/keadm";

/// How strangers are met.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Whether a host that is met for the first time is believed and remembered.
    pub(super) accepts_new: bool,
    /// `None`: ssh's own.
    pub(super) known_hosts: Option<PathBuf>,
}

/// How a command on the node ended.
pub(super) struct Ended {
    /// `None`: ssh itself failed or a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) output: String,
}

/// When ssh runs this program to ask for a password: the answer. Called first by `main`.
pub(crate) fn password_for_ssh() -> Option<String> {
    // ssh gives the question, and nothing else.
    let is_asked = std::env::args_os().len() == 2 && std::env::var_os("SSH_ASKPASS_REQUIRE").is_some();
    std::env::var(PASSWORD).ok().filter(|_| is_asked)
}

/// Makes keadm's folder on the node anew and unpacks the parts of one archive there.
pub(super) async fn copy(target: &Target, trust: &Trust, own: &Path, parts: &[&[u8]]) -> Result<()> {
    // /tmp is everybody's: what another user has put there must not be run.
    let script = format!(
        "umask 077; mkdir -p /tmp/kubeedge; if [ ! -O /tmp/kubeedge ] || [ -L /tmp/kubeedge ]; then \
         echo /tmp/kubeedge is of another user >&2; exit 1; fi; \
         chmod 700 /tmp/kubeedge && rm -rf {FOLDER} && mkdir {FOLDER} && tar -xf - -C {FOLDER}"
    );
    let output = run(target, trust, own, &script, parts).await?;
    if output.status.success() { Ok(()) } else { Err(anyhow!(words(&output))) }
}

/// Runs keadm on the node, in its folder.
pub(super) async fn keadm(target: &Target, trust: &Trust, own: &Path, arguments: &str) -> Result<Ended> {
    let sudo = if target.user == "root" { "" } else { "sudo -n " };
    // What was copied goes again, tokens in its arguments' files included; keadm's own code is what counts.
    let script = format!(
        "cd {FOLDER} && {sudo}./keadm {arguments} </dev/null 2>&1\ncode=$?\ncd / && rm -rf {FOLDER} && \
         rmdir /tmp/kubeedge 2>/dev/null\nexit $code\n"
    );
    let output = run(target, trust, own, "sh -s", &[script.as_bytes()]).await?;
    // ssh's own failures have this code; it is none of keadm's.
    let code = output.status.code().filter(|code| *code != 255);
    Ok(Ended { code, output: words(&output) })
}

async fn run(target: &Target, trust: &Trust, own: &Path, script: &str, input: &[&[u8]]) -> Result<Output> {
    let mut command = Command::new("ssh");
    command.args(arguments(target, trust)).arg(script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C is for keadm, which ends its children itself and says how far they were.
    command.process_group(0);
    if let Auth::Password(password) = &target.auth {
        command.env("SSH_ASKPASS", own).env("SSH_ASKPASS_REQUIRE", "force").env(PASSWORD, password);
    }
    let mut child = command.spawn().context("start ssh (is it installed? apt-get install openssh-client)")?;
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            for part in input {
                // One that ends without reading all of it says why.
                if stdin.write_all(part).await.is_err() {
                    return;
                }
            }
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    output.context("wait for ssh")
}

fn arguments(target: &Target, trust: &Trust) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["-T".into(), "-p".into(), target.port.to_string()];
    let mut option = |text: String| arguments.extend(["-o".to_owned(), text]);
    let strict = if trust.accepts_new { "accept-new" } else { "yes" };
    option(format!("StrictHostKeyChecking={strict}"));
    if let Some(known) = &trust.known_hosts {
        option(format!("UserKnownHostsFile={}", known.display()));
    }
    option("ConnectTimeout=15".into());
    // A node whose line is cut is given up after a minute.
    option("ServerAliveInterval=15".into());
    option("ServerAliveCountMax=4".into());
    match &target.auth {
        Auth::Password(_) => {
            option("PreferredAuthentications=password,keyboard-interactive".into());
            option("PubkeyAuthentication=no".into());
            option("NumberOfPasswordPrompts=1".into());
        }
        Auth::Key(path) => {
            option("BatchMode=yes".into());
            option("IdentitiesOnly=yes".into());
            option(format!("IdentityFile={}", path.display()));
        }
    }
    arguments.extend(["-l".into(), target.user.clone(), "--".into(), target.address.clone()]);
    arguments
}

fn words(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let text = text.concat();
    let text = text.trim();
    if text.contains("Host key verification failed")
        || text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED")
    {
        return format!(
            "{text}\nthe node's host key is not the known one: add it to known_hosts with ssh-keyscan and check it, or type \
             --accept-new-host-keys for nodes that were never met"
        );
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_in_the_arguments_and_keys_are_checked() {
        let check = |auth: Auth, accepts_new: bool, expected: &str| {
            let target = Target { address: "fd00::1".into(), port: 2222, user: "root".into(), auth };
            let trust = Trust { accepts_new, known_hosts: Some("/k".into()) };
            let line = arguments(&target, &trust).join(" ");
            assert!(line.starts_with("-T -p 2222 ") && line.ends_with(" -l root -- fd00::1"), "{line}");
            assert!(line.contains("UserKnownHostsFile=/k") && line.contains(expected), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        };
        check(Auth::Password("hunter2".into()), false, "StrictHostKeyChecking=yes");
        check(Auth::Password("hunter2".into()), true, "StrictHostKeyChecking=accept-new");
        check(Auth::Key("/root/id".into()), false, "IdentityFile=/root/id");
    }
}
