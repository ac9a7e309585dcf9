//! `keadm join --takeover`: puts our edgecore in the place of KubeEdge's on a machine, and the way back.
//!
//! Configuration, certificates and containers stay as they are; edgecore reads what KubeEdge's store holds. What is replaced is
//! kept beside (`*.keadm-before`). A failure, or `keadm reset edge --back-to-kubeedge` years later, puts KubeEdge's edgecore
//! back and starts it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::Failure;
use crate::binary;
use crate::host::Host;
use crate::journal::{Joined, Journal, Undo};
use crate::node;
use crate::plan;
use crate::preflight;
use crate::render::{CERTIFICATES, CONFIG, KEADM, PROGRAM};
use crate::script;
use crate::service::Manager;
use crate::step::{self, Step};

/// KubeEdge's edgecore may take this long to end.
const LIMIT: Duration = Duration::from_secs(60);

/// `limit`: how long the node may take to be Ready again. `pre_run` runs before anything is changed. Gives whether anything was.
pub(crate) fn run(
    host: &dyn Host,
    limit: Duration,
    (dry_run, pre_run): (bool, Option<&Path>),
    say: &mut dyn FnMut(&str),
) -> Result<bool, Failure> {
    if let Some(journal) = Journal::read(host).context("read the journal in /var/lib/keadm")? {
        if journal.is_done {
            say(&format!(
                "this machine is node {} by keadm's doing already: nothing is changed",
                journal.joined.node
            ));
            return Ok(false);
        }
        if dry_run {
            say("an earlier run was cut short: it would be taken back first");
            return Ok(false);
        }
        say("an earlier run was cut short; taking it back first");
        let left = journal.undo(host);
        if !left.is_empty() {
            return Err(Failure::LeftBehind(anyhow::anyhow!("an earlier run cannot be taken back"), left));
        }
    }
    let config = kubeedges(host)?;
    let joined = joined(host, &config)?;
    let edgecore = binary::find_new(host).map_err(Failure::Refused)?;
    preflight::judge(&preflight::before_change(host, &edgecore, Path::new(CONFIG))?, say)?;
    let admin = node::admin(&config).map_err(|wrong| Failure::Refused(format!("{CONFIG}: {wrong}")))?;
    let keadm = host.own_program().context("find this program")?;
    let steps =
        steps(host, &config, manager(host), &edgecore, &keadm, Step::WaitReady { address: admin, limit });
    if dry_run {
        step::print(&steps).iter().for_each(|line| say(line));
        say("nothing was changed");
        return Ok(false);
    }
    script::run(host, pre_run, "--pre-run")?;
    plan::carry_out(host, joined, &steps, say)?;
    say(
        "KubeEdge's files are kept beside ours (*.keadm-before); the way back: keadm reset edge --back-to-kubeedge",
    );
    Ok(true)
}

/// Who keeps KubeEdge's edgecore running: whose unit is there, or who runs here.
fn manager(host: &dyn Host) -> Manager {
    match Manager::of_edgecore(host) {
        Manager::None => Manager::find(host),
        of_unit => of_unit,
    }
}

/// The configuration of KubeEdge's edgecore on this machine.
fn kubeedges(host: &dyn Host) -> Result<Value, Failure> {
    for path in [CONFIG, PROGRAM] {
        if !host.exists(Path::new(path)) {
            return Err(Failure::Refused(format!(
                "there is no {path}: no edgecore of KubeEdge is on this machine; join it without --takeover"
            )));
        }
    }
    node::read(host, Path::new(CONFIG)).map_err(Failure::Refused)
}

fn joined(host: &dyn Host, config: &Value) -> Result<Joined, Failure> {
    let text = |path: &str| config.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let cloud = text("/modules/edgeHub/websocket/server");
    let cloud = cloud.ok_or_else(|| {
        Failure::Refused(format!(
            "{CONFIG}: modules.edgeHub.websocket.server is missing: set it to the cloud's host:port"
        ))
    })?;
    let certificate = text("/modules/edgeHub/tlsCertFile")
        .map_or_else(|| format!("{CERTIFICATES}/server.crt"), str::to_owned);
    if !host.exists(Path::new(&certificate)) {
        return Err(Failure::Refused(format!(
            "there is no {certificate}: KubeEdge's edgecore never joined here; remove it with `keadm reset edge` and join \
             without --takeover"
        )));
    }
    let node =
        text("/modules/edged/hostnameOverride").map_or_else(|| host.name().to_lowercase(), str::to_owned);
    Ok(Joined { node, cloud: cloud.to_owned(), took_over: true })
}

fn steps(
    host: &dyn Host,
    config: &Value,
    manager: Manager,
    edgecore: &Path,
    keadm: &Path,
    ready: Step,
) -> Vec<Step> {
    let database = node::database(config);
    let beside = |ending: &str| PathBuf::from(format!("{database}{ending}"));
    // Undone last: when everything of KubeEdge's is in its place again.
    let mut steps = vec![Step::OnUndo(manager.start_others())];
    steps.push(manager.stop_others(LIMIT));
    steps.extend(node::folders());
    // edgecore sets KubeEdge's store aside under a name of its own; the copy is for the way back.
    steps.extend([
        Step::Keep(database.into()),
        Step::OnUndo(Undo::RemoveFile(beside("-wal"))),
        Step::OnUndo(Undo::RemoveFile(beside("-shm"))),
        Step::OnUndo(Undo::RemoveFile(beside(".unreadable-1"))),
        Step::OnUndo(Undo::RemoveFolder(crate::backup::FOLDER.into())),
        Step::Program { from: edgecore.to_owned(), to: PROGRAM.into() },
    ]);
    if keadm != Path::new(KEADM) {
        steps.push(Step::Program { from: keadm.to_owned(), to: KEADM.into() });
    }
    steps.extend(manager.steps().into_iter().map(|step| match step {
        Step::File { path, mode, body } if host.exists(&path) => Step::Replace { path, mode, body },
        other => other,
    }));
    steps.push(ready);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::node::DATABASE;

    const UNIT: &str = "/etc/systemd/system/edgecore.service";

    fn machine() -> FakeHost {
        let folders = [
            "/opt/keadm/edgecore",
            "/opt/keadm/keadm",
            "/var/log/",
            "/etc/kubeedge/",
            "/etc/kubeedge/config/",
            "/usr/local/bin/",
            "/var/lib/kubeedge/",
            "/run/systemd/system/",
        ];
        let host = FakeHost::new(&folders);
        let put = |path: &str, body: &str| host.write(Path::new(path), body.as_bytes(), 0).unwrap();
        put("/opt/keadm/edgecore", "ours");
        put(PROGRAM, "theirs");
        put(UNIT, "their unit");
        put(DATABASE, "their store");
        put("/etc/kubeedge/certs/server.crt", "certificate");
        put(
            CONFIG,
            "modules: {edgeHub: {websocket: {server: '10.0.0.1:10000'}}, edged: {hostnameOverride: edge-1}}",
        );
        host.prints.borrow_mut().push(("/opt/keadm/edgecore --config".into(), r#"{"findings":[]}"#.into()));
        host.node.borrow_mut().push((200, "Ready".into()));
        host
    }

    fn take_over(host: &FakeHost) -> (Result<(), Failure>, Vec<String>) {
        let mut said = Vec::new();
        let done = run(host, Duration::from_secs(5), (false, None), &mut |line| said.push(line.to_owned()));
        (done.map(drop), said)
    }

    fn text(host: &FakeHost, path: &str) -> String {
        String::from_utf8(host.read(Path::new(path)).unwrap().unwrap_or_default()).unwrap()
    }

    #[test]
    fn kubeedges_edgecore_gives_its_place_and_gets_it_back() {
        let host = machine();
        let before = host.files.borrow().clone();
        let (done, said) = take_over(&host);
        done.unwrap();
        assert!(said.last().unwrap().contains("--back-to-kubeedge"), "{said:?}");
        assert_eq!(text(&host, PROGRAM), "ours");
        assert!(text(&host, UNIT).contains("ExecStart"));
        let (done, said) = take_over(&host);
        done.unwrap();
        assert!(said[0].contains("already"), "{said:?}");
        // As edgecore leaves it.
        host.write(Path::new(DATABASE), b"our store", 0).unwrap();
        host.write(Path::new("/var/lib/kubeedge/edgecore.db-wal"), b"ours", 0).unwrap();
        assert_eq!(Journal::read(&host).unwrap().unwrap().undo(&host), Vec::<String>::new());
        let mut after = host.files.borrow().clone();
        after.retain(|path, _| before.contains_key(path) || !path.starts_with("/var/lib/keadm"));
        assert_eq!(after, before);
        assert_eq!(host.ran.borrow().last().unwrap(), "systemctl enable --now edgecore");
    }

    #[test]
    fn a_node_that_does_not_get_ready_is_kubeedges_again() {
        let host = machine();
        *host.node.borrow_mut() = vec![(503, "no network".into())];
        let (done, _) = take_over(&host);
        let Err(Failure::Undone(error)) = done else { panic!("{done:?}") };
        assert!(format!("{error:#}").contains("no network"), "{error:#}");
        assert_eq!(text(&host, PROGRAM), "theirs");
        assert_eq!(text(&host, UNIT), "their unit");
        assert_eq!(text(&host, DATABASE), "their store");
    }

    #[test]
    fn a_power_cut_at_any_step_can_be_taken_back() {
        for n_changes in 0..80 {
            let host = machine();
            host.changes_left.set(Some(n_changes));
            let (cut, _) = take_over(&host);
            host.changes_left.set(None);
            if let Some(journal) = Journal::read(&host).unwrap().filter(|journal| !journal.is_done) {
                assert_eq!(journal.undo(&host), Vec::<String>::new(), "after {n_changes} changes");
                assert_eq!(text(&host, PROGRAM), "theirs", "after {n_changes} changes");
                assert_eq!(text(&host, DATABASE), "their store", "after {n_changes} changes");
            }
            let (done, _) = take_over(&host);
            done.unwrap_or_else(|failure| panic!("after {n_changes} changes: {failure}"));
            if cut.is_ok() {
                return;
            }
        }
        panic!("the plan is longer than this test thinks");
    }

    #[test]
    fn a_dry_run_over_one_that_was_cut_short_takes_nothing_back() {
        let mut n_seen = 0;
        for n_changes in 0..80 {
            let host = machine();
            host.changes_left.set(Some(n_changes));
            let (cut, _) = take_over(&host);
            if cut.is_ok() {
                break;
            }
            if Journal::read(&host).unwrap().is_none() {
                continue;
            }
            let before = host.files.borrow().clone();
            let mut said = Vec::new();
            run(&host, LIMIT, (true, None), &mut |line| said.push(line.to_owned())).unwrap();
            assert_eq!(said, ["an earlier run was cut short: it would be taken back first"]);
            assert_eq!(*host.files.borrow(), before, "after {n_changes} changes");
            n_seen += 1;
        }
        assert!(n_seen > 10, "only {n_seen} were cut after they had begun");
    }

    #[test]
    fn what_is_no_node_of_kubeedges_is_refused() {
        let check = |missing: &str, expected: &str| {
            let host = machine();
            host.remove_file(Path::new(missing)).unwrap();
            let Err(Failure::Refused(why)) = take_over(&host).0 else { panic!("without {missing}") };
            assert!(why.contains(expected), "{why}");
        };
        check(CONFIG, "without --takeover");
        check(PROGRAM, "no edgecore of KubeEdge");
        check("/etc/kubeedge/certs/server.crt", "never joined");
    }
}
