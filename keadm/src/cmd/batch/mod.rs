//! `keadm batch`: runs keadm on many machines over SSH, several at once.
//!
//! It copies keadm to each, runs the node's command there, and goes on with the others when one fails. Hosts are checked
//! against known_hosts. What the nodes say is written to `batch_process_log.txt` here, without the file's secrets.

mod file;
mod parcel;
mod ssh;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use ke_run::redact::Redactor;
use ke_run::shutdown::Shutdown;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Failure;
use crate::host::Host;
use crate::table::table;
use file::{Auth, Batch, Node};
use parcel::Programs;
use ssh::Trust;
pub(crate) use ssh::password_for_ssh;

/// KubeEdge's names, in the folder where keadm is typed.
const SAMPLE: &str = "config.yaml";
const LOG: &str = "batch_process_log.txt";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to do on which nodes; `keadm batch gen-config` writes an example.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Believe and remember the host keys of nodes that were never met.
    #[arg(long)]
    accept_new_host_keys: bool,
    /// Where host keys are looked up [default: ssh's own]
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write an example to config.yaml.
    GenConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Ending {
    Done,
    Failed,
    /// By a signal, on the way or before it began.
    Stopped,
}

/// How it went on one node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[serde(skip)]
    number: usize,
    node: String,
    address: String,
    result: Ending,
    /// keadm's on the node; none when it did not come so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    seconds: u64,
    /// The last word.
    message: String,
    #[serde(skip)]
    output: String,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    if let Some(Command::GenConfig) = args.command {
        return gen_config(host);
    }
    let Some(path) = &args.config else {
        return Err(Failure::Usage("--config is missing; `keadm batch gen-config` writes an example".into()));
    };
    let text = host.read(path).with_context(|| format!("read {}", path.display()))?;
    let text = text.ok_or_else(|| Failure::Refused(format!("there is no {}", path.display())))?;
    let wrong = |why| Failure::Refused(format!("{}: {why}; no node was touched", path.display()));
    let batch = file::parse(&String::from_utf8_lossy(&text)).map_err(wrong)?;
    let n_nodes = batch.nodes.len();
    let own = host.own_program().context("find this program")?;
    let mut programs = BTreeMap::new();
    for (number, node) in batch.nodes.iter().enumerate() {
        is_there(host, number, node).map_err(wrong)?;
        if !programs.contains_key(&node.arch) {
            let found = Programs::find(batch.packages.as_deref(), &own, &batch.version, &node.arch);
            programs.insert(node.arch.clone(), found.map_err(|error| wrong(format!("{error:#}")))?);
        }
    }
    let tell = |line: &str| match args.output {
        Output::Table => println!("{line}"),
        Output::Json => eprintln!("{line}"),
    };
    batch.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    let trust = Trust { accepts_new: args.accept_new_host_keys, known_hosts: args.known_hosts.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let log = |text: &str| {
        // The report counts; a log that cannot be written is told once for each node.
        if let Err(error) = host.append(Path::new(LOG), text) {
            eprintln!("write {LOG}: {error}");
        }
    };
    let outcomes = runtime.block_on(async {
        let stop = Shutdown::on_signals().context("listen for signals")?;
        anyhow::Ok(work(batch, programs, trust, own, stop, &tell, &log).await)
    })?;
    report(&outcomes, n_nodes, args.output)
}

fn gen_config(host: &dyn Host) -> Result<(), Failure> {
    let path = Path::new(SAMPLE);
    if host.exists(path) {
        return Err(Failure::Refused(format!(
            "{SAMPLE} is there already: move it away, or type this in another folder"
        )));
    }
    // It will hold tokens and passwords.
    host.write(path, file::SAMPLE.as_bytes(), 0o600).with_context(|| format!("write {SAMPLE}"))?;
    println!("{SAMPLE} is written; fill it in, then type: keadm batch -c {SAMPLE}");
    Ok(())
}

fn is_there(host: &dyn Host, number: usize, node: &Node) -> Result<(), String> {
    let key = match &node.target.auth {
        Auth::Key(path) => Some(("ssh.auth.privateKeyAuth.privateKeyPath", path)),
        Auth::Password(_) => None,
    };
    let files = key.into_iter().chain(node.copy_from.as_ref().map(|path| ("copyFrom", path)));
    for (field, path) in files {
        if !host.exists(path) {
            return Err(format!("nodes[{number}].{field}: there is no {}", path.display()));
        }
    }
    Ok(())
}

async fn work(
    batch: Batch,
    programs: BTreeMap<String, Programs>,
    trust: Trust,
    own: PathBuf,
    stop: Shutdown,
    tell: &dyn Fn(&str),
    log: &dyn Fn(&str),
) -> Vec<Outcome> {
    let redactor = Redactor::knowing(batch.secrets);
    let room = Arc::new(Semaphore::new(batch.n_at_once));
    let n_nodes = batch.nodes.len();
    let mut tasks = JoinSet::new();
    for (number, node) in batch.nodes.into_iter().enumerate() {
        let (room, stop, trust, own) = (Arc::clone(&room), stop.clone(), trust.clone(), own.clone());
        let programs = programs.get(&node.arch).cloned();
        tasks.spawn(async move {
            let permit = tokio::select! {
                permit = room.acquire_owned() => permit.ok(),
                () = stop.wait() => None,
            };
            let begun = Instant::now();
            let done = match permit {
                None => (Ending::Stopped, None, "it was not begun".to_owned()),
                Some(_permit) => tokio::select! {
                    done = one(&node, programs.as_ref(), &trust, &own) => done,
                    () = stop.wait() => {
                        let said = "keadm was stopped here; what it began on the node may go on there";
                        (Ending::Stopped, None, said.to_owned())
                    }
                },
            };
            let (result, exit_code, output) = done;
            Outcome {
                number,
                address: format!("{}:{}", node.target.address, node.target.port),
                node: node.name,
                result,
                exit_code,
                seconds: begun.elapsed().as_secs(),
                message: String::new(),
                output,
            }
        });
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        // Nothing in a task panics or is aborted; should one all the same, its node is missing in the report and says so below.
        let Ok(mut outcome) = ended else { continue };
        outcome.output = redactor.redact(&outcome.output);
        outcome.message = last_word(&outcome.output);
        let Outcome { node, address, result, seconds, message, output, .. } = &outcome;
        let word = word(*result);
        tell(&format!("[{}/{n_nodes}] {node}: {word} in {seconds} s: {message}", outcomes.len() + 1));
        log(&format!("== {node} {address}: {word}\n{output}\n"));
        outcomes.push(outcome);
    }
    outcomes.sort_by_key(|outcome| outcome.number);
    outcomes
}

async fn one(
    node: &Node,
    programs: Option<&Programs>,
    trust: &Trust,
    own: &Path,
) -> (Ending, Option<i32>, String) {
    let copied = async {
        let files = parcel::own_files(node.copy_from.as_deref())?;
        let programs = programs.map(Programs::bytes).unwrap_or_default();
        ssh::copy(&node.target, trust, own, &[programs, &files]).await
    };
    if let Err(error) = copied.await {
        return (Ending::Failed, None, format!("copy keadm to the node: {error:#}"));
    }
    match ssh::keadm(&node.target, trust, own, &node.arguments).await {
        Ok(ended) => {
            let ending = if ended.code == Some(0) { Ending::Done } else { Ending::Failed };
            (ending, ended.code, ended.output)
        }
        Err(error) => (Ending::Failed, None, format!("{error:#}")),
    }
}

fn word(ending: Ending) -> &'static str {
    match ending {
        Ending::Done => "done",
        Ending::Failed => "failed",
        Ending::Stopped => "stopped",
    }
}

/// keadm's own error, or whatever stands at the end.
fn last_word(output: &str) -> String {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.starts_with("error: "));
    error.or_else(|| lines.next_back()).unwrap_or("it said nothing").to_owned()
}

fn report(outcomes: &[Outcome], n_nodes: usize, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => println!("{}", serde_json::json!({ "nodes": outcomes })),
        Output::Table => {
            let mut rows =
                vec![["NODE", "ADDRESS", "RESULT", "SECONDS", "LAST WORD"].map(str::to_owned).to_vec()];
            rows.extend(outcomes.iter().map(|outcome| {
                let Outcome { node, address, result, seconds, message, .. } = outcome;
                vec![
                    node.clone(),
                    address.clone(),
                    word(*result).to_owned(),
                    seconds.to_string(),
                    message.clone(),
                ]
            }));
            print!("{}", table(&rows));
        }
    }
    let n_good = outcomes.iter().filter(|outcome| outcome.result == Ending::Done).count();
    match n_nodes.saturating_sub(n_good) {
        0 => Ok(()),
        n_bad => Err(Failure::Undone(anyhow!(
            "{n_bad} of {n_nodes} nodes are not done; what they said is in {LOG}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::host::fake::FakeHost;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::parse_from(std::iter::once("batch").chain(line.split(' '))).args
    }

    #[test]
    fn an_example_is_written_once() {
        let host = FakeHost::new(&[]);
        run(&host, &args("gen-config")).unwrap();
        let text = host.read(Path::new(SAMPLE)).unwrap().unwrap();
        assert!(file::parse(&String::from_utf8(text).unwrap()).is_ok());
        let Err(Failure::Refused(why)) = run(&host, &args("gen-config")) else {
            panic!("it was overwritten")
        };
        assert!(why.contains("is there already"), "{why}");
    }

    #[test]
    fn what_cannot_work_touches_no_node() {
        let check = |text: &str, expected: &str| {
            let host = FakeHost::new(&[]);
            host.files.borrow_mut().insert("/b.yaml".into(), Some(text.as_bytes().to_vec()));
            let Err(Failure::Refused(why)) = run(&host, &args("-c /b.yaml")) else { panic!("{text}") };
            assert!(why.contains(expected) && why.ends_with("no node was touched"), "{why}");
        };
        check("nodes: []", "/b.yaml: nodes: there is none");
        check(file::SAMPLE, "there is no /root/.ssh/id_ed25519");
        let none = run(&FakeHost::new(&[]), &args("-c /none"));
        assert!(matches!(none, Err(Failure::Refused(_))), "{none:?}");
    }

    #[test]
    fn the_last_word_is_the_error() {
        let check = |output: &str, expected: &str| assert_eq!(last_word(output), expected);
        check("a\nerror: no runtime\n  more\n\n", "error: no runtime");
        check("a\nb\n", "b");
        check("", "it said nothing");
    }
}
