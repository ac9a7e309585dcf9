//! A node gets a new version, keeps its containers, and is never left between two: a version that is not well goes away by
//! itself, a killed keadm is cleaned up after, and whatever a power cut leaves is one whole installation after the boot.
//!
//! Programs, configuration, store, backups and journal lie on a disk that forgets what was not fsynced. The power goes after
//! a counted change of it: `LONG=1` takes every one in turn, otherwise a few are spread over the upgrade from a `SEED`. The
//! versions are scripts around one real edgecore, which say another version or do another wrong thing. Containers outlive the
//! cut here; the runtime's share of one is the story `offline`'s.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use e2e::changer::Chance;
use e2e::cluster::{Cluster, Options};
use e2e::forgetful::Disk;
use e2e::joined::{Joined, must, run_pod, told};
use e2e::machine::Machine;
use e2e::node::{CloudCore, stripped};
use e2e::process::Process;
use e2e::site::{PATIENCE, http_get};
use e2e::wait::{Seen, eventually};
use serde_json::Value;

const NODE: &str = "edge-upgraded";
const PROGRAM: &str = "/usr/local/bin/edgecore";
const KEADM: &str = "/usr/local/bin/keadm";
const CONFIG: &str = "/etc/kubeedge/config/edgecore.yaml";
const JOURNAL: &str = "/var/lib/keadm/upgrade.journal";
const REPORT: &str = "/var/lib/keadm/upgrade-report.json";
/// Folders of the disk and where the machine has them.
const MOUNTS: [(&str, &str); 4] = [
    ("bin", "/usr/local/bin"),
    ("keadm", "/var/lib/keadm"),
    ("kubeedge", "/var/lib/kubeedge"),
    ("config", "/etc/kubeedge/config"),
];

struct Bench {
    edge: Joined,
    cluster: Cluster,
    // After the machine, in which it is mounted.
    disk: Disk,
    admin: u16,
    containers: Vec<String>,
    booted: Option<Process>,
    _cloud: CloudCore,
}

impl Bench {
    /// A machine that joined with version 0.1.0 and runs a pod.
    fn start() -> Result<Self> {
        let cluster = Cluster::start(&Options::default())?;
        let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
        let token = cloud.token(&cluster)?;
        let disk = Disk::new()?;
        for (name, _) in MOUNTS {
            fs::create_dir(disk.folder().join(name))?;
        }
        File::open(disk.folder())?.sync_all()?;
        let machine = Machine::start("upgrade")?;
        for (name, place) in MOUNTS {
            let from = disk.folder().join(name).display().to_string();
            must(&machine.run(Path::new("/bin/mkdir"), &["-p", place])?)?;
            must(&machine.run(Path::new("/bin/mount"), &["--bind", &from, place])?)?;
        }
        let edge = Joined::prepare_in(machine, NODE, &cloud)?;
        let admin = edge.admin().context("no port for edgecore's state")?;
        let mut bench =
            Self { edge, cluster, disk, admin, containers: Vec::new(), booted: None, _cloud: cloud };
        let run = |body: &str| format!("#!/bin/sh\n{body}\n");
        let real = stripped("edgecore")?.display().to_string();
        let says =
            |version: &str| format!("if [ \"$1\" = --version ]; then echo edgecore {version}; exit 0; fi\n");
        let looks = format!("case \"$*\" in *check*) exec {real} \"$@\";; esac\n");
        bench.make("v1", &run(&format!("{}exec {real} \"$@\"", says("0.1.0"))), Some("1"))?;
        bench.make("v2", &run(&format!("{}exec {real} \"$@\"", says("0.2.0"))), Some("2"))?;
        bench.make("dies", &run(&format!("{}{looks}exit 1", says("0.3.0"))), None)?;
        bench.make("hangs", &run(&format!("{}{looks}exec sleep 100000", says("0.3.0"))), None)?;

        bench.edge.keadm = bench.version("v1").join("keadm");
        must(&bench.edge.join(&token, &[])?)?;
        run_pod(&bench.cluster, "stays")?;
        bench.containers = bench.edge.runtime.running()?;
        ensure!(bench.containers.len() == 2, "the pod and its sandbox: {:?}", bench.containers);
        bench.must_be("v1")?;
        Ok(bench)
    }

    fn version(&self, name: &str) -> PathBuf {
        self.edge.machine.run_dir().join(name)
    }

    /// A version's folder: its edgecore, and perhaps a keadm that differs from the others' in its last bytes.
    fn make(&self, name: &str, edgecore: &str, keadm: Option<&str>) -> Result<()> {
        let folder = self.edge.machine.run_dir().folder(name)?;
        let path = folder.join("edgecore");
        fs::write(&path, edgecore)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        if let Some(mark) = keadm {
            let path = folder.join("keadm");
            fs::copy(stripped("keadm")?, &path)?;
            OpenOptions::new().append(true).open(&path)?.write_all(mark.as_bytes())?;
        }
        Ok(())
    }

    fn keadm(&self, version: &str, arguments: &[&str]) -> Result<Output> {
        self.edge.machine.run(&self.version(version).join("keadm"), arguments)
    }

    /// The file as the machine's disk has it, without running anything there.
    fn on_disk(&self, path: &str) -> Result<Vec<u8>> {
        let place = MOUNTS.iter().find_map(|(name, place)| {
            Some(self.disk.folder().join(name).join(path.strip_prefix(place)?.trim_start_matches('/')))
        });
        let place = place.context("not on the disk")?;
        fs::read(&place).with_context(|| format!("read {path}"))
    }

    /// Which version is installed. Errors: a mix, or a change is under way.
    fn installed(&self) -> Result<&'static str> {
        ensure!(self.on_disk(JOURNAL).is_err(), "the journal is there");
        let same = |version: &str, name: &str, place: &str| -> Result<bool> {
            Ok(fs::read(self.version(version).join(name))? == self.on_disk(place)?)
        };
        for version in ["v1", "v2"] {
            if same(version, "edgecore", PROGRAM)? {
                ensure!(same(version, "keadm", KEADM)?, "edgecore is {version}, and keadm is not");
                return Ok(version);
            }
        }
        anyhow::bail!("{PROGRAM} is neither: {:?}", String::from_utf8_lossy(&self.on_disk(PROGRAM)?))
    }

    /// That version is there, the node is Ready and its containers are the same as ever.
    fn must_be(&self, version: &str) -> Result<()> {
        ensure!(self.installed()? == version, "{} is installed", self.installed()?);
        self.wait_ready()?;
        ensure!(self.edge.runtime.running()? == self.containers, "other containers run");
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let log = || self.edge.machine.read("/var/log/kubeedge/edgecore.log").unwrap_or_default();
        eventually(PATIENCE, "the node to be Ready", || {
            Ok(match http_get("127.0.0.1", self.admin, "/node") {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .with_context(|| log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))
    }

    fn report(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.on_disk(REPORT)?)?)
    }

    /// The machine comes up as it would with a service manager: edgecore is started, and keadm looks before.
    fn boot(&self) -> Result<Process> {
        let (nsenter, words) = self.edge.machine.enter()?;
        let words = words.iter().map(String::as_str);
        let supervise =
            ["supervise", "--pid-file", "/run/edgecore.pid", "--log", "/var/log/kubeedge/edgecore.log"];
        let all = words.chain([KEADM]).chain(supervise).chain(["--", PROGRAM, "--config", CONFIG]);
        let mut boot = Process::new(self.edge.machine.run_dir().path(), "boot", &nsenter, all);
        boot.start()?;
        Ok(boot)
    }

    /// An upgrade from what is there to the other version, during which the power goes at one change, and perhaps at
    /// another one while the machine boots. Gives what is there afterwards.
    fn cut(&mut self, n_changes: u64, n_more: Option<u64>) -> Result<&'static str> {
        let (from, to) = if self.installed()? == "v1" { ("v1", "v2") } else { ("v2", "v1") };
        self.disk.cut_after(n_changes)?;
        let said = self.keadm(to, &["upgrade", "edge"])?;
        self.edge.machine.kill_all()?;
        if let Some(mut booted) = self.booted.take() {
            booted.kill9()?;
        }
        let was_dark = self.disk.counts()?.is_dark;
        self.disk.power_on()?;
        let was_torn = self.on_disk(JOURNAL).is_ok();
        if let Some(n_more) = n_more {
            self.disk.cut_after(n_more)?;
            let mut boot = self.boot()?;
            // It ends when it finds the disk dead, or edgecore runs.
            eventually(PATIENCE, "the second power cut or the boot", || {
                let is_over =
                    self.disk.counts()?.is_dark || http_get("127.0.0.1", self.admin, "/healthz").is_ok();
                Ok(if is_over { Seen::Yes(()) } else { Seen::NotYet("neither".into()) })
            })?;
            self.edge.machine.kill_all()?;
            boot.kill9()?;
            self.disk.power_on()?;
        }
        let mut boot = self.boot()?;
        self.wait_ready().with_context(|| told(&said))?;
        let installed = self.installed().with_context(|| told(&said))?;
        eprintln!(
            "cut at {n_changes}, {n_more:?}: {from} to {to}, dark {was_dark}, torn {was_torn}: {installed}"
        );
        // One that said it was done stays done.
        ensure!(!said.status.success() || installed == to, "it was told to be done: {}", told(&said));
        self.must_be(installed)?;
        // As if a service manager had started it: for the next upgrade to stop.
        ensure!(boot.is_running(), "{}", boot.log_end(10));
        self.booted = Some(boot);
        Ok(installed)
    }
}

#[test]
fn a_node_is_never_between_two_versions() -> Result<()> {
    let mut bench = Bench::start()?;

    // There and back, and nothing restarts but edgecore.
    let before = bench.disk.counts()?.n_changes;
    let upgraded = bench.keadm("v2", &["upgrade", "edge", "--toVersion=v0.2.0"])?;
    must(&upgraded)?;
    eprintln!("{}", told(&upgraded));
    bench.must_be("v2")?;
    let n_changes = bench.disk.counts()?.n_changes - before;
    ensure!(bench.report()?["success"] == true && bench.report()?["toVersion"] == "v0.2.0");
    let again = bench.keadm("v2", &["upgrade", "edge"])?;
    ensure!(told(&again).contains("installed already"), "{}", told(&again));
    must(&bench.keadm("v2", &["rollback", "edge"])?)?;
    bench.must_be("v1")?;

    // What is not well goes by itself.
    for (name, why) in [("dies", "does not answer"), ("hangs", "does not answer")] {
        let new = bench.version(name).join("edgecore").display().to_string();
        let tried = bench.keadm("v1", &["upgrade", "edge", "--edgecore", &new, "--ready-timeout-secs=5"])?;
        ensure!(tried.status.code() == Some(1) && told(&tried).contains(why), "{}", told(&tried));
        bench.must_be("v1")?;
        ensure!(bench.report()?["rolledBack"] == true, "{}", bench.report()?);
    }
    let config = bench.on_disk(CONFIG)?;
    let away = "--set=modules.edgeHub.websocket.server=127.0.0.1:1";
    let tried = bench.keadm("v1", &["config", "update", away, "--ready-timeout-secs=5"])?;
    ensure!(tried.status.code() == Some(1) && told(&tried).contains("the cloud is away"), "{}", told(&tried));
    ensure!(bench.on_disk(CONFIG)? == config, "the configuration is another one");
    bench.must_be("v1")?;
    let refused = bench.keadm("v1", &["config-update", "--set=modules.edgd.x=1"])?;
    ensure!(
        refused.status.code() == Some(3) && told(&refused).contains("modules.edgd"),
        "{}",
        told(&refused)
    );
    must(&bench.keadm("v1", &["config", "update", "--set=modules.edged.nodeLabels.site=hall-3"])?)?;
    bench.must_be("v1")?;
    ensure!(String::from_utf8_lossy(&bench.on_disk(CONFIG)?).contains("hall-3"));
    let label = ["get", "node", NODE, "--output=jsonpath={.metadata.labels.site}"];
    eventually(PATIENCE, "the Node to have its new label", || {
        let site = bench.cluster.kubectl_ok(&label)?;
        Ok(if site == "hall-3" { Seen::Yes(()) } else { Seen::NotYet(site) })
    })?;

    // A keadm that is killed: who waited for its end cleans up.
    let (nsenter, words) = bench.edge.machine.enter()?;
    let keadm = bench.version("v2").join("keadm").display().to_string();
    let all = words.iter().map(String::as_str).chain([&*keadm, "upgrade", "edge"]);
    let mut upgrade = Process::new(bench.edge.machine.run_dir().path(), "killed", &nsenter, all);
    upgrade.start()?;
    eventually(PATIENCE, "the upgrade to be half-way", || {
        let journal = bench.on_disk(JOURNAL).unwrap_or_default();
        let journal = String::from_utf8_lossy(&journal).into_owned();
        Ok(if journal.contains("changing") { Seen::Yes(()) } else { Seen::NotYet(journal) })
    })?;
    upgrade.kill9()?;
    eventually(PATIENCE, "the old version to be back", || {
        Ok(match bench.installed() {
            Ok("v1") => Seen::Yes(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })?;
    bench.must_be("v1")?;

    // The power goes at any change.
    let unix_nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().context("SEED is no number")?,
        Err(_) => u64::try_from(unix_nanos % 1_000_000)?,
    };
    let is_long = std::env::var_os("LONG").is_some();
    let n_cuts = if is_long { n_changes + 1 } else { 4 };
    eprintln!("SEED={seed}; an upgrade is {n_changes} changes, {n_cuts} of which are cut");
    let mut chance = Chance::new(seed);
    let mut ends = [0, 0];
    for n in 0..n_cuts {
        let at = if is_long { n } else { (n * n_changes + chance.below(n_changes)) / n_cuts };
        let more = (n % 2 == 0).then(|| chance.below(40));
        let begun = bench.installed()?;
        let installed =
            bench.cut(at, more).with_context(|| format!("cut at {at}, then {more:?}, SEED={seed}"))?;
        ends[usize::from(installed != begun)] += 1;
    }
    eprintln!("{} ended with the old version, {} with the new one", ends[0], ends[1]);
    ensure!(ends[0] > 0, "no cut was in time");
    Ok(())
}
