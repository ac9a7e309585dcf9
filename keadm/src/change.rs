//! A change of an edge node that survives a power cut: upgrade, rollback, new configuration; and the lock that every command
//! holds that changes this machine.
//!
//! A journal says that files may be of two installations, and in which backup the old one lies whole. It goes when the new
//! one has proved itself; that moment decides. Whoever finds it and can have the lock puts the backup back: the failed change
//! itself; a watcher that outlives a killed one; and, after a power cut, `keadm recover`, which runs before every start of
//! edgecore. While a change holds the lock, `recover` leaves all to it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backup::{self, Backup, Damaged, Draft, Scope, Store};
use crate::failure::Failure;
use crate::health::{self, Bar, STEADY};
use crate::host::{Host, Lock, Rights};
use crate::journal::FOLDER;
use crate::node::Node;
use crate::script;
use crate::service::Manager;

const JOURNAL: &str = "/var/lib/keadm/upgrade.journal";
/// Of the journal.
const FORMAT: u32 = 1;
/// In memory: what it guards against does not outlive the machine's run.
const LOCK: &str = "/run/keadm.lock";
const REPORT: &str = "/var/lib/keadm/upgrade-report.json";
/// The watcher of an earlier change may hold the lock for a moment.
const LOCK_WITHIN: Duration = Duration::from_secs(5);

/// What is to become of a node.
pub(crate) struct Change<'a> {
    pub(crate) node: &'a Node,
    pub(crate) report: Report,
    pub(crate) scope: Scope,
    pub(crate) new: New,
    /// Where edgecore answers afterwards.
    pub(crate) admin: SocketAddr,
    /// How long edgecore may take to be as well as before.
    pub(crate) limit: Duration,
    pub(crate) post_run: Option<&'a Path>,
}

/// What is put in place.
pub(crate) enum New {
    /// Nothing: a backup is wanted.
    Nothing,
    /// Programs from their files to their places.
    Programs(Vec<(PathBuf, PathBuf)>),
    /// The configuration's text.
    Config(String),
    Backup(Backup),
}

/// How it went, for whoever ordered it. Names as in KubeEdge's report, as far as that has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Report {
    /// Upgrade, Rollback, Backup or ConfigUpdate.
    pub(crate) event_type: String,
    pub(crate) success: bool,
    pub(crate) error_message: String,
    pub(crate) from_version: String,
    pub(crate) to_version: String,
    /// Where the node lies as it was before.
    pub(crate) backup: Option<PathBuf>,
    /// Whether that was put back.
    pub(crate) rolled_back: bool,
    /// As the flags say.
    #[serde(rename = "upgradeID")]
    pub(crate) upgrade_id: Option<String>,
    #[serde(rename = "historyID")]
    pub(crate) history_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Journal {
    format: u32,
    state: State,
    report: Report,
    admin: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// All files are of one installation; edgecore may have been stopped, and nobody else starts it again.
    Stopped,
    /// Files may be of two. `is_store_torn`: the store is being replaced, and is to be replaced again, whatever it looks like.
    Changing { backup: PathBuf, is_store_torn: bool },
}

/// Why a change that was cut short can be neither finished nor undone by this keadm, however often it is tried.
#[derive(Debug)]
struct Lost(String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; what is installed may be half of two versions. `keadm reset edge --force` removes it, and `keadm join` makes \
             the node anew",
            self.0
        )
    }
}

impl std::error::Error for Lost {}

/// What to type next depends on whether it can be undone at all.
pub(crate) fn unfinished(error: anyhow::Error) -> Failure {
    match error.is::<Lost>() {
        true => Failure::Halfway(error),
        false => Failure::Unfinished(error),
    }
}

impl Journal {
    fn read(host: &dyn Host) -> Result<Option<Self>> {
        let body = host.read(Path::new(JOURNAL)).with_context(|| format!("read {JOURNAL}"))?;
        let Some(body) = body else { return Ok(None) };
        let lost = |why: String| anyhow::Error::new(Lost(format!("{JOURNAL} {why}")));
        let wrong = |error: serde_json::Error| lost(format!("cannot be understood: {error}"));
        let tree: Value = serde_json::from_slice(&body).map_err(wrong)?;
        if tree.get("format").and_then(Value::as_u64) != Some(FORMAT.into()) {
            return Err(lost(format!(
                "is of another format than this keadm's {FORMAT}: the keadm that wrote it goes on with it"
            )));
        }
        serde_json::from_value(tree).map(Some).map_err(wrong)
    }

    fn write(&self, host: &dyn Host) -> Result<()> {
        let body = serde_json::to_vec_pretty(self).context("write the journal")?;
        host.write(Path::new(JOURNAL), &body, 0o600).with_context(|| format!("write {JOURNAL}"))
    }

    /// To be called before the store is replaced.
    fn tear(&mut self, host: &dyn Host) -> Result<()> {
        if let State::Changing { is_store_torn, .. } = &mut self.state {
            *is_store_torn = true;
        }
        self.write(host)
    }

    fn remove(host: &dyn Host) -> Result<()> {
        host.remove_file(Path::new(JOURNAL)).with_context(|| format!("remove {JOURNAL}"))
    }
}

/// For commands that change a node: nobody else does meanwhile, and what an earlier one left half-way is put back first.
pub(crate) fn begin(host: &dyn Host, say: &mut dyn FnMut(&str)) -> Result<Lock, Failure> {
    let lock = hold(host)?;
    if Journal::read(host).map_err(unfinished)?.is_some() {
        say("an earlier change was cut short; putting back what was before it");
        settle(host, "it was cut short", say).map_err(unfinished)?;
    }
    Ok(lock)
}

/// Carries it out. `_lock` is what [`begin`] gave. A failure is undone.
pub(crate) fn carry_out(
    host: &dyn Host,
    _lock: &Lock,
    change: &Change<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let node = change.node;
    let bar = Bar::now(host, node.admin);
    let more = match &change.new {
        New::Programs(programs) => {
            programs.iter().filter_map(|(from, _)| host.size(from).ok().flatten()).sum()
        }
        _ => 0,
    };
    let draft = Draft::begin(host, node, change.scope, more)
        .map_err(|error| Failure::Refused(format!("nothing was changed: {error:#}")))?;
    let keadm = host.own_program().context("find this program")?;
    // It waits for the lock, which goes with this process, however that ends.
    host.start_aside(&keadm, &["recover", "--restart", "--wait"].map(str::to_owned))
        .context("start what would undo this if it were killed")?;
    host.make_folder(Path::new(FOLDER), 0o700).with_context(|| format!("make {FOLDER}"))?;
    let mut journal =
        Journal { format: FORMAT, state: State::Stopped, report: change.report.clone(), admin: change.admin };
    let done = journal.write(host).and_then(|()| steps(host, change, draft, &mut journal, bar, say));
    if let Err(error) = done {
        let why = format!("{error:#}");
        let name = match change.report.event_type.as_str() {
            "ConfigUpdate" => "change of the configuration".to_owned(),
            other => other.to_lowercase(),
        };
        return Err(match undo(host, &why, bar, change.limit, say) {
            Ok(how) => Failure::Undone(anyhow!("the {name} failed and {how}: {why}")),
            Err(left) => unfinished(left.context(format!("the {name} failed: {why}"))),
        });
    }
    if let Err(error) = backup::prune(host) {
        say(&format!("an old backup stays: {error:#}"));
    }
    Ok(())
}

fn steps(
    host: &dyn Host,
    change: &Change<'_>,
    draft: Draft,
    journal: &mut Journal,
    bar: Bar,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let node = change.node;
    node.manager.stop(host)?;
    if host.get(node.admin, "/healthz").is_ok() {
        bail!(
            "edgecore still answers at {} after it was stopped, so that another one runs there, which keadm does not know: end it \
             (`ss -ltnp` names its process), and type the same again",
            node.admin
        );
    }
    let backup = draft.finish(host, node)?;
    say(&format!("edgecore stands still; it is kept as it was in {}", backup.folder.display()));
    journal.report.backup = Some(backup.folder.clone());
    if !matches!(change.new, New::Nothing) {
        journal.state = State::Changing { backup: backup.folder, is_store_torn: false };
        journal.write(host)?;
    }
    match &change.new {
        New::Nothing => {}
        New::Programs(programs) => {
            for (from, to) in programs {
                host.copy(from, to, Rights::Program)
                    .with_context(|| format!("install {} as {}", from.display(), to.display()))?;
                say(&format!("{} is now {}", to.display(), from.display()));
            }
        }
        New::Config(text) => {
            let mode = host.mode(&node.config).unwrap_or(0o644);
            host.write(&node.config, text.as_bytes(), mode)
                .with_context(|| format!("write {}", node.config.display()))?;
        }
        New::Backup(backup) => say(told(backup.put_back(host, false, &mut || journal.tear(host))?, "")),
    }
    node.manager.start(host)?;
    say(&format!("edgecore is started; waiting until {bar}"));
    health::wait(host, change.admin, bar, change.limit, STEADY, say)?;
    script::run(host, change.post_run, "--post-run").map_err(|failure| anyhow!("{failure}"))?;
    journal.report.success = true;
    write_report(host, &journal.report, say);
    Journal::remove(host)
}

/// After a failure, by whoever holds the lock: how it is undone, as the end of "the upgrade failed and".
fn undo(
    host: &dyn Host,
    why: &str,
    bar: Bar,
    limit: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<&'static str> {
    let Some(journal) = Journal::read(host)? else { return Ok("nothing was changed") };
    let was_changed = journal.state != State::Stopped;
    let admin = settle(host, why, say)?.unwrap_or(journal.admin);
    Ok(match (was_changed, health::wait(host, admin, bar, limit, STEADY, say)) {
        (true, Ok(())) => "was undone",
        (false, Ok(())) => "nothing was changed",
        (_, Err(error)) => {
            say(&format!("also with what was before: {error:#}"));
            "was undone, but edgecore is not as well as it was before"
        }
    })
}

/// Puts the node back to what it was before a change that did not end well, and starts it. Gives the address at which
/// edgecore then answers.
fn settle(host: &dyn Host, why: &str, say: &mut dyn FnMut(&str)) -> Result<Option<SocketAddr>> {
    let Some(mut journal) = Journal::read(host)? else { return Ok(None) };
    let manager = Manager::of_edgecore(host);
    if journal.state != State::Stopped {
        manager.stop(host)?;
        put_back(host, &mut journal, why, say)?;
        // What people change from now on stays, should this be cut short before the journal goes.
        journal.state = State::Stopped;
        journal.write(host)?;
    }
    manager.start(host)?;
    Journal::remove(host)?;
    let node = Node::look(host, Path::new(crate::render::CONFIG)).ok();
    Ok(node.map(|node| node.admin))
}

/// The files only.
fn put_back(host: &dyn Host, journal: &mut Journal, why: &str, say: &mut dyn FnMut(&str)) -> Result<()> {
    if let State::Changing { backup, is_store_torn } = journal.state.clone() {
        let found = Backup::open(host, &backup)?;
        let found = found
            .ok_or_else(|| Lost(format!("the backup {} is not there or not whole", backup.display())))?;
        let store = found.put_back(host, is_store_torn, &mut || journal.tear(host));
        let store = store.map_err(|error| match error.downcast::<Damaged>() {
            Ok(damaged) => Lost(damaged.to_string()).into(),
            Err(other) => other,
        })?;
        say(told(store, "what was before is put back"));
        journal.report.rolled_back = true;
    }
    journal.report.success = false;
    why.clone_into(&mut journal.report.error_message);
    write_report(host, &journal.report, say);
    Ok(())
}

fn told(store: Store, otherwise: &'static str) -> &'static str {
    match store {
        Store::Stays if otherwise.is_empty() => "the backup is in place; the present store stays",
        Store::Stays => otherwise,
        Store::PutBack => {
            "the backup is in place, and its store, too, since this version cannot read the present one: what the cloud sent \
             since is sent again only when it changes"
        }
    }
}

/// Before edgecore starts, when nobody else sees to it: puts back what was before a change that a power cut ended.
pub(crate) fn before_start(host: &dyn Host, say: &mut dyn FnMut(&str)) -> Result<()> {
    if Journal::read(host)?.is_none() {
        return Ok(());
    }
    let Some(_lock) = host.lock(Path::new(LOCK), Duration::ZERO).with_context(|| format!("lock {LOCK}"))?
    else {
        return Ok(());
    };
    let Some(mut journal) = Journal::read(host)? else { return Ok(()) };
    put_back(host, &mut journal, "it was cut short", say)?;
    Journal::remove(host)
}

/// As a failed change would: stops edgecore, puts back and starts it. `limit`: how long to wait for who changes now.
pub(crate) fn restart(host: &dyn Host, limit: Duration, say: &mut dyn FnMut(&str)) -> Result<()> {
    match host.lock(Path::new(LOCK), limit).with_context(|| format!("lock {LOCK}"))? {
        Some(_lock) => settle(host, "it was cut short", say).map(drop),
        None => bail!("another keadm is changing this machine: wait until it has ended"),
    }
}

/// Whether a change was cut short, and nobody is at it now.
pub(crate) fn is_cut_short(host: &dyn Host) -> bool {
    let is_begun = host.exists(Path::new(JOURNAL));
    is_begun && host.lock(Path::new(LOCK), Duration::ZERO).is_ok_and(|lock| lock.is_some())
}

/// Nobody changes this machine now, and nobody begins to while what this gives lives.
pub(crate) fn hold(host: &dyn Host) -> Result<Lock, Failure> {
    let lock = host.lock(Path::new(LOCK), LOCK_WITHIN).with_context(|| format!("lock {LOCK}"))?;
    lock.ok_or_else(|| {
        Failure::Refused("another keadm is changing this machine: wait until it has ended".to_owned())
    })
}

fn write_report(host: &dyn Host, report: &Report, say: &mut dyn FnMut(&str)) {
    let body = serde_json::to_vec_pretty(report).unwrap_or_default();
    // It is for others; the node is none the worse without it.
    if let Err(error) = host.write(Path::new(REPORT), &body, 0o600) {
        say(&format!("the report {REPORT} cannot be written: {error}"));
    }
}

#[cfg(test)]
mod tests;
