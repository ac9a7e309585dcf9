//! `keadm batch` with the real ssh: several nodes at once, by key and by password, of which one fails.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::need;
use e2e::node::binary;
use e2e::process::{self, Process};
use e2e::run_dir::RunDir;
use e2e::wait::{Seen, eventually};
use rustix::process::Signal;
use serde_json::Value;

const PASSWORD: &str = "correct-horse-battery-staple";
const UP_WITHIN: Duration = Duration::from_secs(30);

/// An SSH server with a /tmp, a /run and a root password of its own.
struct Sshd {
    process: Process,
    port: u16,
}

impl Sshd {
    fn start(run_dir: &RunDir, name: &str) -> Result<Self> {
        let folder = run_dir.folder(name)?;
        let shown = folder.display();
        let port = run_dir.port()?;
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host_key\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication yes\nPidFile none\nUseDNS no\n",
            run_dir.join("key.pub").display()
        );
        fs::write(folder.join("sshd_config"), config)?;
        let key = folder.join("host_key").display().to_string();
        process::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key])?;
        for layer in ["upper", "work"] {
            fs::create_dir(folder.join(layer))?;
        }
        let script = format!(
            "mount -t tmpfs tmpfs /tmp\nmount -t tmpfs tmpfs /run\nmkdir /run/sshd\n\
             mount -t overlay overlay -o lowerdir=/etc,upperdir={shown}/upper,workdir={shown}/work /etc\n\
             echo 'root:{PASSWORD}' | chpasswd --crypt-method SHA512\n\
             exec /usr/sbin/sshd -D -e -f {shown}/sshd_config\n"
        );
        let words = ["--mount", "--propagation", "private", "sh", "-ec", &script];
        let mut process = Process::new(run_dir.path(), name, Path::new("/usr/bin/unshare"), words);
        process.start()?;
        process.wait_for_log(UP_WITHIN, "Server listening")?;
        Ok(Self { process, port })
    }

    fn known_host(&self, run_dir: &RunDir, name: &str) -> Result<String> {
        let key = fs::read_to_string(run_dir.join(name).join("host_key.pub"))?;
        Ok(format!("[127.0.0.1]:{} {key}", self.port))
    }
}

struct Bench {
    keadm: PathBuf,
    run_dir: RunDir,
    known_hosts: PathBuf,
}

impl Bench {
    fn start(&self, file: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(&self.keadm);
        command.arg("batch").arg("-c").arg(file).arg("--known-hosts").arg(&self.known_hosts).args(more);
        command.current_dir(self.run_dir.path()).stdin(Stdio::null());
        command
    }

    /// As it is typed: the file comes into the folder where that is done.
    fn must_write_an_example(&self) -> Result<()> {
        let folder = self.run_dir.folder("example")?;
        let written =
            Command::new(&self.keadm).args(["batch", "gen-config"]).current_dir(&folder).output()?;
        ensure!(written.status.success(), "{}", told(&written));
        ensure!(folder.join("config.yaml").is_file(), "there is no config.yaml");
        Ok(())
    }

    fn run(&self, file: &Path, more: &[&str]) -> Result<Output> {
        self.start(file, more).output().context("run keadm")
    }
}

fn told(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{:?}\n{}", output.status.code(), text.concat())
}

#[test]
fn nodes_are_worked_on_at_once_and_one_may_fail() -> Result<()> {
    need::root()?;
    need::packages(&["openssh-server", "openssh-client"])?;
    let bench = {
        let run_dir = RunDir::new("batch")?;
        let known_hosts = run_dir.write("known_hosts", "")?;
        Bench { keadm: binary("keadm", "ISTHMUS_KEADM")?, run_dir, known_hosts }
    };
    bench.must_write_an_example()?;
    let run_dir = &bench.run_dir;
    let key = run_dir.join("key").display().to_string();
    process::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key])?;
    let names = ["edge-a", "edge-b", "edge-c"];
    let mut servers = Vec::new();
    for name in names {
        servers.push(Sshd::start(run_dir, name)?);
    }
    // Without what debuggers want: it is a tenth.
    let programs = run_dir.folder("programs")?;
    let (own, small) = (bench.keadm.display().to_string(), programs.join("keadm").display().to_string());
    need::tool("strip", "apt-get install -y binutils")?;
    process::run("strip", &["-o", &small, &own])?;
    let files = run_dir.folder("files")?;
    fs::write(files.join("note.txt"), "it came along\n")?;

    let node = |number: usize, command: &str, auth: &str| {
        let port = servers.get(number).map_or(0, |server| server.port);
        let name = names.get(number).unwrap_or(&"");
        format!(
            "  - nodeName: {name}\n    keadmCmd: '{command}'\n    copyFrom: {}\n    ssh:\n      ip: 127.0.0.1\n      \
             username: root\n      port: {port}\n      auth:\n{auth}",
            files.display()
        )
    };
    let by_key = format!("        type: privateKey\n        privateKeyAuth: {{privateKeyPath: {key}}}\n");
    let by_password = format!("        type: password\n        passwordAuth: {{password: {PASSWORD}}}\n");
    let head = format!(
        "keadm:\n  download: {{enable: false}}\n  offlinePackageDir: {}\n  keadmVersion: v1.23.1\n  archGroup: [amd64]\n  cmdTplArgs: {{cmd: version --output short, token: hidden-token-1}}\nmaxRunNum: 3\nnodes:\n",
        programs.display()
    );
    let text = [
        head.as_str(),
        &node(0, "{{.cmd}} && cat note.txt", &by_key),
        &node(1, "{{.cmd}} && echo {{.token}} {{.cmd}}", &by_password),
        &node(2, "gettoken --kube-config /no/such", &by_key),
    ]
    .concat();
    let file = run_dir.write("nodes.yaml", &text)?;

    // Strangers are not believed.
    let refused = bench.run(&file, &[])?;
    ensure!(refused.status.code() == Some(1), "{}", told(&refused));
    ensure!(told(&refused).contains("--accept-new-host-keys"), "{}", told(&refused));
    ensure!(told(&refused).contains("3 of 3 nodes are not done"), "{}", told(&refused));

    let mut known = String::new();
    for (server, name) in servers.iter().zip(names) {
        known += &server.known_host(run_dir, name)?;
    }
    fs::write(&bench.known_hosts, &known)?;
    let done = bench.run(&file, &["--output", "json"])?;
    ensure!(done.status.code() == Some(1), "{}", told(&done));
    let report: Value = serde_json::from_slice(&done.stdout).with_context(|| told(&done))?;
    let of = |number: usize, field: &str| report["nodes"][number][field].clone();
    ensure!(of(0, "result") == "done" && of(0, "message") == "it came along", "{report}");
    ensure!(of(1, "result") == "done" && of(1, "message") == "<redacted> version --output short", "{report}");
    ensure!(of(2, "result") == "failed" && of(2, "exitCode") == 2, "{report}");
    ensure!(of(2, "message").as_str().is_some_and(|message| message.contains("/no/such")), "{report}");
    let log = fs::read_to_string(run_dir.join("batch_process_log.txt"))?;
    ensure!(log.contains("== edge-a") && log.contains("it came along"), "{log}");
    ensure!(!told(&done).contains("write batch_process_log.txt"), "{}", told(&done));
    for text in [&log, &told(&done)] {
        ensure!(!text.contains(PASSWORD) && !text.contains("hidden-token-1"), "{text}");
    }
    let mode = fs::metadata(run_dir.join("batch_process_log.txt"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "{mode:o}");

    // A node whose key is another than the known one, and one with a wrong password.
    let (first, second) = (servers.first().context("none")?, servers.get(1).context("none")?);
    let swapped = first.known_host(run_dir, names[1])? + &second.known_host(run_dir, names[1])?;
    fs::write(&bench.known_hosts, swapped)?;
    let wrong = by_password.replace(PASSWORD, "wrong-horse");
    let text = [head.as_str(), &node(0, "version", &by_key), &node(1, "version", &wrong)].concat();
    let file = run_dir.write("strange.yaml", &text)?;
    let strange = bench.run(&file, &["--accept-new-host-keys"])?;
    ensure!(strange.status.code() == Some(1), "{}", told(&strange));
    ensure!(
        told(&strange).contains("2 of 2") && told(&strange).contains("Permission denied"),
        "{}",
        told(&strange)
    );

    // Ctrl-C ends it, with a report.
    fs::write(&bench.known_hosts, &known)?;
    let text = [head.as_str(), &node(0, "version && sleep 1000", &by_key), &node(1, "version", &by_password)]
        .concat();
    let file = run_dir.write("long.yaml", &text)?;
    let mut command = bench.start(&file, &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    eventually(UP_WITHIN, "the second node to be done", || {
        let log = fs::read_to_string(run_dir.join("batch_process_log.txt"))?;
        let n_done = log.matches("== edge-b").count();
        Ok(if n_done == 4 { Seen::Yes(()) } else { Seen::NotYet(log) })
    })?;
    process::signal(pid, Signal::INT);
    let stopped = child.wait_with_output()?;
    ensure!(stopped.status.code() == Some(1), "{}", told(&stopped));
    ensure!(told(&stopped).contains("edge-a: stopped"), "{}", told(&stopped));
    ensure!(told(&stopped).contains("1 of 2 nodes are not done"), "{}", told(&stopped));
    for server in &mut servers {
        server.process.must_run()?;
    }
    Ok(())
}
