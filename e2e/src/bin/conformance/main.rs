//! `make conformance [AREA=...] [AGENT=ours|kubelet]`: Kubernetes' own node conformance suite against one node, written down
//! in `<target>/bench/conformance.json`. `docs/conformance.md` is its manual.
//!
//! All it makes goes when it ends, killed or not: a second process of this program waits for that end and removes what is left.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::bench;
use e2e::cluster::{Cluster, Options};
use e2e::need;
use e2e::network::Network;
use e2e::process::{Process, target_dir};
use e2e::run_dir::{self, RunDir};
use time::OffsetDateTime;

use crate::nodes::{Agent, Node};
use crate::programs::Programs;
use crate::report::{Findings, Progress, Record};

mod images;
mod nodes;
mod programs;
mod report;

/// The word that makes this program the process that removes what another leaves.
const SWEEPER: &str = "sweep-after";
/// The whole suite takes under an hour on two cores.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
const TELL_EVERY: Duration = Duration::from_secs(30);
const USAGE: &str = "conformance [--agent=ours|kubelet] [--area=REGEX] [--procs=N] [--long]";

struct Wishes {
    agent: Agent,
    /// A regular expression that the names of specs must match too; empty is all.
    area: String,
    /// How many specs run at once. They wait more than they work.
    n_processes: usize,
    /// Whether those come too that must be alone on a node, or take their time.
    is_long: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == SWEEPER) {
        return sweep_after();
    }
    match Wishes::read(&words).and_then(|wishes| conformance(&wishes)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every spec passed that must.
fn conformance(wishes: &Wishes) -> Result<bool> {
    let begun = Instant::now();
    need::for_runtime()?;
    let programs = Programs::built()?;
    need::devcluster()?;
    let sweeper = Sweeper::start()?;
    let mut findings = run(wishes, &programs)?;
    sweeper.end()?;
    findings.area.clone_from(&wishes.area);
    findings.took_secs = begun.elapsed().as_secs();
    (findings.date, findings.machine, findings.commit) =
        (OffsetDateTime::now_utc().date().to_string(), bench::machine(), bench::commit());
    write_down(wishes.agent, findings)
}

/// Everything that is made is gone again when this returns.
fn run(wishes: &Wishes, programs: &Programs) -> Result<Findings> {
    let say = |what: &str| println!("conformance: {what}");
    let network = Network::start()?;
    let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
    say(&format!("Kubernetes answers at {}", cluster.server()));
    let node = Node::start(wishes.agent, &cluster, &network)?;
    say(&format!("{} is Ready, and {} looks after it", nodes::NAME, wishes.agent.name()));
    let run_dir = RunDir::new("suite")?;
    images::make_all(run_dir.path(), &programs.test_image, |archive| node.import_image(archive))?;
    say("it has the images that the suite names");
    run_suite(wishes, programs, &cluster, &run_dir, &say)
}

fn run_suite(
    wishes: &Wishes,
    programs: &Programs,
    cluster: &Cluster,
    run_dir: &RunDir,
    say: &dyn Fn(&str),
) -> Result<Findings> {
    // Ginkgo knows a test program by its ending.
    let suite = run_dir.join("e2e.test");
    std::os::unix::fs::symlink(&programs.suite, &suite).context("link the suite")?;
    let mut arguments = vec![
        format!("--procs={}", wishes.n_processes),
        format!("--focus={}", focus(&wishes.area)),
        format!("--timeout={}s", LONGEST.as_secs()),
        "--no-color".into(),
        "--json-report=report.json".into(),
        format!("--output-dir={}", run_dir.path().display()),
        suite.display().to_string(),
        "--".into(),
    ];
    if !wishes.is_long {
        arguments.insert(0, r"--skip=\[Serial\]|\[Slow\]".into());
    }
    arguments.extend([
        "--provider=skeleton".to_owned(),
        format!("--kubeconfig={}", cluster.kubeconfig().display()),
        "--num-nodes=1".into(),
        "--allowed-not-ready-nodes=-1".into(),
        "--disable-log-dump".into(),
    ]);
    let mut ginkgo =
        Process::new(run_dir.path(), "ginkgo", &programs.ginkgo, arguments).env("HOME", run_dir.path());
    ginkgo.start()?;
    let begun = Instant::now();
    let mut told = Instant::now();
    while ginkgo.is_running() {
        ensure!(
            begun.elapsed() < LONGEST + Duration::from_secs(300),
            "ginkgo does not end; its last lines:\n{}",
            ginkgo.log_end(20)
        );
        std::thread::sleep(Duration::from_millis(500));
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            let Progress { wanted, ended, failed } = Progress::read(&ginkgo.log());
            say(&format!(
                "{ended} of {wanted} specs ended, {failed} failed, {} s",
                begun.elapsed().as_secs()
            ));
        }
    }
    let log = keep(run_dir, wishes.agent)?;
    say(&format!("everything the suite said is in {}", log.display()));
    let report = fs::read(run_dir.join("report.json"))
        .with_context(|| format!("ginkgo wrote no report; its last lines:\n{}", ginkgo.log_end(20)))?;
    let findings = Findings::read(&report)?;
    // Of specs that it did not come to, the report is silent.
    let (wanted, found) = (Progress::read(&ginkgo.log()).wanted, findings.total + findings.skipped.len());
    ensure!(wanted > 0, "AREA {:?} is in the name of no spec of the suite", wishes.area);
    ensure!(found == wanted, "only {found} of {wanted} specs ended; {} tells why", log.display());
    Ok(findings)
}

/// The suite's own name for what is wanted, and the area before or behind it.
fn focus(area: &str) -> String {
    let suite = r"\[NodeConformance\]";
    if area.is_empty() { suite.to_owned() } else { format!("({area}).*{suite}|{suite}.*({area})") }
}

/// Where the log of the last run is found after it.
fn keep(run_dir: &RunDir, agent: Agent) -> Result<PathBuf> {
    let name = match agent {
        Agent::Ours => "conformance.log",
        Agent::Kubelet => "conformance-kubelet.log",
    };
    let path = folder()?.join(name);
    fs::copy(run_dir.join("ginkgo.log"), &path).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn folder() -> Result<PathBuf> {
    let folder = target_dir()?.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

fn write_down(agent: Agent, findings: Findings) -> Result<bool> {
    let path = folder()?.join("conformance.json");
    let mut record = read_record(&path)?;
    let is_good = match agent {
        // It is the measure, whatever it does.
        Agent::Kubelet => true,
        Agent::Ours => findings.not_shared(record.peer.as_ref()).is_empty(),
    };
    print!("{}", findings.told(record.peer.as_ref().filter(|_| agent == Agent::Ours)));
    match agent {
        Agent::Ours => record.ours = Some(findings),
        Agent::Kubelet => record.peer = Some(findings),
    }
    fs::write(&path, serde_json::to_vec_pretty(&record)?)
        .with_context(|| format!("write {}", path.display()))?;
    println!("conformance: {}", path.display());
    Ok(is_good)
}

fn read_record(path: &Path) -> Result<Record> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("read {}; type: rm {}", path.display(), path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

impl Wishes {
    fn read(words: &[String]) -> Result<Self> {
        let mut wishes = Self { agent: Agent::Ours, area: String::new(), n_processes: 4, is_long: false };
        for word in words {
            match word.split_once('=') {
                Some(("--agent", "ours")) => wishes.agent = Agent::Ours,
                Some(("--agent", "kubelet")) => wishes.agent = Agent::Kubelet,
                Some(("--agent", other)) => bail!("AGENT is {other:?}; it is ours or kubelet"),
                Some(("--area", area)) => area.clone_into(&mut wishes.area),
                Some(("--procs", n)) => match n.parse() {
                    Ok(n) if (1..=16).contains(&n) => wishes.n_processes = n,
                    _ => bail!("PROCS is {n:?}; it is a number from 1 to 16"),
                },
                None if word == "--long" => wishes.is_long = true,
                _ => bail!("{word:?} is not known; type: {USAGE}"),
            }
        }
        Ok(wishes)
    }
}

/// Another process of this program. It ends after this one, however that ends: the kernel closes the pipe between them.
struct Sweeper(Child);

impl Sweeper {
    fn start() -> Result<Self> {
        let mut sweeper = Command::new(std::env::current_exe().context("find this program")?);
        // Ctrl-C at the terminal is not for it.
        sweeper.arg(SWEEPER).stdin(Stdio::piped()).process_group(0);
        Ok(Self(sweeper.spawn().context("start the process that removes what is left")?))
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        ensure!(status.success(), "not everything could be removed ({status})");
        Ok(())
    }
}

fn sweep_after() -> ExitCode {
    // An error is an end too.
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    match run_dir::reap_dead() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: what is left could not be removed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<Wishes> {
        Wishes::read(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn wishes_are_read_or_refused_by_name() {
        let wishes = words(&["--agent=kubelet", "--area=sig-storage", "--procs=2"]).unwrap();
        assert_eq!((wishes.agent, &*wishes.area, wishes.n_processes), (Agent::Kubelet, "sig-storage", 2));
        assert_eq!(words(&[]).unwrap().agent, Agent::Ours);
        for (word, told) in [
            ("--agent=k3s", r#"AGENT is "k3s"; it is ours or kubelet"#),
            ("--procs=0", r#"PROCS is "0"; it is a number from 1 to 16"#),
            ("--nothing", r#""--nothing" is not known; type: conformance"#),
        ] {
            let error = words(&[word]).err().unwrap().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn an_area_stands_on_either_side_of_the_suites_name() {
        assert_eq!(focus(""), r"\[NodeConformance\]");
        assert_eq!(focus("Probing"), r"(Probing).*\[NodeConformance\]|\[NodeConformance\].*(Probing)");
    }
}
