//! A plan: steps on a machine, in order. `--dry-run` prints them; carrying it out writes down how each step is taken
//! back before the step is taken, and takes all back when one fails.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::failure::Failure;
use crate::health::{self, Bar};
use crate::host::{Host, Rights};
use crate::journal::{Joined, Journal, Undo};
use crate::step::Step;
use crate::undo::set_aside;
use crate::words::last_words;

/// Carries it out, telling each step. A failure is undone.
pub(crate) fn carry_out(
    host: &dyn Host,
    joined: Joined,
    steps: &[Step],
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let mut journal = Journal::begin(host, joined).context("begin the journal in /var/lib/keadm")?;
    for step in steps {
        let line = step.to_string();
        if let Err(error) = take(host, &mut journal, step, say) {
            say("taking back what was done");
            let left = journal.undo(host);
            let error = error.context(if line.is_empty() { "write the journal".to_owned() } else { line });
            return Err(if left.is_empty() {
                Failure::Undone(error)
            } else {
                Failure::LeftBehind(error, left)
            });
        }
        if !line.is_empty() {
            say(&line);
        }
    }
    // The node is there; only a later join would think that this one was cut short, and take it back.
    journal.done(host).map_err(|error| {
        Failure::Halfway(anyhow!(error).context(
            "the node is Ready, but the journal in /var/lib/keadm cannot be completed: free the disk and type the same again",
        ))
    })
}

fn take(host: &dyn Host, journal: &mut Journal, step: &Step, say: &mut dyn FnMut(&str)) -> Result<()> {
    match step {
        Step::Folder { path, mode } => {
            if !host.exists(path) {
                journal.will(host, Undo::RemoveFolder(path.clone()))?;
                host.make_folder(path, *mode)?;
            }
        }
        Step::SharedFolder { path, mode } => {
            if !host.exists(path) {
                journal.will(host, Undo::RemoveEmptyFolder(path.clone()))?;
                host.make_folder(path, *mode)?;
            }
        }
        Step::File { path, mode, body } => {
            if host.exists(path) {
                bail!("it is there already, and nobody wrote down who made it");
            }
            journal.will(host, Undo::RemoveFile(path.clone()))?;
            host.write(path, body, *mode)?;
        }
        Step::Replace { path, mode, body } => {
            keep(host, journal, path)?;
            host.write(path, body, *mode)?;
        }
        Step::Keep(path) => keep(host, journal, path)?,
        Step::Copy { from, to } => {
            keep(host, journal, to)?;
            host.copy(from, to, Rights::Same)?;
        }
        Step::End { program, limit } => host.end(program, *limit)?,
        Step::Program { from, to } => install(host, journal, from, to)?,
        Step::Run { program, arguments, .. } => {
            let ran = host.run(program, arguments)?;
            if !ran.is_good {
                return Err(anyhow!("{}", last_words(&ran.stderr)));
            }
        }
        Step::OnUndo(undo) => journal.will(host, undo.clone())?,
        Step::Aside { program, arguments, .. } => host.start_aside(program, arguments)?,
        Step::WaitReady { address, limit } => {
            health::wait(host, *address, Bar::Ready, *limit, Duration::ZERO, say)?
        }
        Step::Drop(path) => host.remove_file(path)?,
    }
    Ok(())
}

/// So that taking back finds what is there now.
fn keep(host: &dyn Host, journal: &mut Journal, path: &Path) -> Result<()> {
    if !host.exists(path) {
        return Ok(journal.will(host, Undo::RemoveFile(path.to_owned()))?);
    }
    // Copied first: putting nothing back is no harm, having nothing to put back is.
    set_aside(host, path)?;
    Ok(journal.will(host, Undo::PutBack(path.to_owned()))?)
}

fn install(host: &dyn Host, journal: &mut Journal, from: &Path, to: &Path) -> Result<()> {
    if host.read(from)? == host.read(to)? {
        return Ok(());
    }
    keep(host, journal, to)?;
    Ok(host.copy(from, to, Rights::Program)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn joined() -> Joined {
        Joined { node: "edge-1".into(), cloud: "10.0.0.1:10000".into(), took_over: false }
    }

    fn steps() -> Vec<Step> {
        let run = |what: &str| Step::Run { what: what.into(), program: what.into(), arguments: Vec::new() };
        let undo = |what: &str| {
            Step::OnUndo(Undo::Run {
                why: what.into(),
                program: what.into(),
                arguments: Vec::new(),
                needs: None,
            })
        };
        vec![
            Step::Folder { path: "/etc/kubeedge".into(), mode: 0o755 },
            Step::Folder { path: "/var/lib".into(), mode: 0o755 },
            Step::SharedFolder { path: "/opt/cni".into(), mode: 0o755 },
            Step::Program { from: "/opt/edgecore".into(), to: "/usr/local/bin/edgecore".into() },
            Step::File { path: "/etc/kubeedge/token".into(), mode: 0o600, body: b"t".to_vec() },
            undo("stop"),
            // In a folder that stays: nothing else takes away half of it.
            Step::File { path: "/var/lib/edgecore.service".into(), mode: 0o644, body: b"u".to_vec() },
            run("start"),
            Step::WaitReady { address: "127.0.0.1:1".parse().unwrap(), limit: Duration::from_secs(30) },
            Step::Drop("/etc/kubeedge/token".into()),
        ]
    }

    fn machine() -> FakeHost {
        let host = FakeHost::new(&["/var/lib/", "/usr/local/bin/edgecore", "/opt/edgecore"]);
        host.write(Path::new("/opt/edgecore"), b"new", 0).unwrap();
        host.node.borrow_mut().extend([(503, "not yet".to_owned()), (200, "Ready".to_owned())]);
        host
    }

    fn carry(host: &FakeHost) -> Result<(), Failure> {
        carry_out(host, joined(), &steps(), &mut |_| {})
    }

    #[test]
    fn a_join_and_its_way_back() {
        let host = machine();
        let before = host.files.borrow().clone();
        carry(&host).unwrap();
        assert_eq!(host.read(Path::new("/usr/local/bin/edgecore")).unwrap().unwrap(), b"new");
        assert!(!host.exists(Path::new("/etc/kubeedge/token")));
        host.write(Path::new("/etc/kubeedge/made-by-edgecore"), b"x", 0).unwrap();
        let journal = Journal::read(&host).unwrap().unwrap();
        assert!(journal.is_done);
        assert_eq!(journal.undo(&host), Vec::<String>::new());
        assert_eq!(*host.files.borrow(), before);
        assert_eq!(*host.ran.borrow(), ["start ", "stop "]);
    }

    #[test]
    fn what_others_put_into_a_shared_folder_stays() {
        let host = machine();
        carry(&host).unwrap();
        host.write(Path::new("/opt/cni/of-another"), b"x", 0).unwrap();
        assert_eq!(Journal::read(&host).unwrap().unwrap().undo(&host), Vec::<String>::new());
        assert!(host.exists(Path::new("/opt/cni/of-another")) && !host.exists(Path::new("/etc/kubeedge")));
    }

    #[test]
    fn a_step_that_fails_leaves_nothing_behind() {
        let host = machine();
        let before = host.files.borrow().clone();
        host.fails.borrow_mut().push(("start".into(), "line\nwhy it failed".into()));
        let Err(Failure::Undone(error)) = carry(&host) else { panic!("it cannot work") };
        assert_eq!(format!("{error:#}"), "start: start : line; why it failed");
        assert_eq!(*host.files.borrow(), before);

        let host = machine();
        *host.node.borrow_mut() = vec![(503, "no network".into())];
        let Err(Failure::Undone(error)) = carry(&host) else { panic!("it cannot work") };
        assert!(format!("{error:#}").ends_with("the node is not Ready after 30 s: no network"), "{error:#}");
        assert_eq!(*host.files.borrow(), before);
    }

    #[test]
    fn what_cannot_be_taken_back_is_named_and_stays_in_the_journal() {
        let host = machine();
        host.fails.borrow_mut().push(("st".into(), "busy".into()));
        let Err(Failure::LeftBehind(_, left)) = carry(&host) else { panic!("it cannot work") };
        assert_eq!(left, ["cannot stop: busy", "everything that was made before it"]);
        host.fails.borrow_mut().clear();
        assert_eq!(Journal::read(&host).unwrap().unwrap().undo(&host), Vec::<String>::new());
    }

    #[test]
    fn a_power_cut_at_any_step_can_be_taken_back() {
        let before = machine().files.borrow().clone();
        for n_changes in 0.. {
            let host = machine();
            host.changes_left.set(Some(n_changes));
            let is_done = carry(&host).is_ok();
            host.changes_left.set(None);
            if let Some(journal) = Journal::read(&host).unwrap() {
                assert_eq!(journal.undo(&host), Vec::<String>::new(), "after {n_changes} changes");
            }
            let mut left = host.files.borrow().clone();
            // Made before its journal; empty.
            left.remove(Path::new("/var/lib/keadm"));
            // A copy that nobody needed yet, or half of one; the next one takes its place.
            left.remove(Path::new("/usr/local/bin/edgecore.keadm-before"));
            left.remove(Path::new("/usr/local/bin/edgecore.keadm-before.keadm-new"));
            assert_eq!(left, before, "after {n_changes} changes");
            if is_done {
                return;
            }
        }
    }

    #[test]
    fn a_plan_can_be_read() {
        let lines = crate::step::print(&steps());
        assert_eq!(lines[0], "make folder /etc/kubeedge");
        assert_eq!(lines[4], "write /etc/kubeedge/token (mode 600)");
        assert_eq!(lines.len(), steps().len() - 1);
    }
}
