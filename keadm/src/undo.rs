//! What was made on this machine is taken back, as it was written down. Called by a join that fails, the next one, and reset.

use std::io;
use std::path::{Path, PathBuf};

use crate::binary;
use crate::host::{Host, Rights, beside};
use crate::journal::{END_WITHIN, FOLDER, Journal, Undo, before};
use crate::render::{CONFIG, KEADM, PROGRAM};
use crate::service;

impl Journal {
    /// Takes everything back, the newest first, and says what it could not. Then the journal itself goes; if something is
    /// left, it stays for the next try.
    pub(crate) fn undo(&self, host: &dyn Host) -> Vec<String> {
        let mut left = take_back(host, self.newest_first());
        if left.is_empty()
            && let Err(error) = host.remove_tree(Path::new(FOLDER))
        {
            left.push(format!("{FOLDER}: {error}"));
        }
        left
    }
}

/// In this order; what cannot be taken back is said. While something still runs, what it runs with stays for the next try.
pub(crate) fn take_back<'a>(host: &dyn Host, undo: impl Iterator<Item = &'a Undo>) -> Vec<String> {
    let mut left = Vec::new();
    for undo in undo {
        if let Err(why) = take_one_back(host, undo) {
            left.push(why);
            if matches!(undo, Undo::Run { .. } | Undo::End(_)) {
                left.push("everything that was made before it".to_owned());
                break;
            }
        }
    }
    left
}

fn take_one_back(host: &dyn Host, undo: &Undo) -> Result<(), String> {
    match undo {
        Undo::RemoveFolder(path) => {
            host.remove_tree(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::RemoveEmptyFolder(path) => {
            host.remove_empty(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::RemoveFile(path) => {
            let gone = host.remove_file(&beside(path)).and_then(|()| host.remove_file(path));
            gone.map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::PutBack(path) => {
            let back = host.remove_file(&beside(path)).and_then(|()| put_back(host, path));
            back.map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::End(program) => host.end(program, END_WITHIN).map_err(|error| error.to_string()),
        Undo::Start { program, arguments } => host
            .start_aside(program, arguments)
            .map_err(|error| format!("cannot start {}: {error}", program.display())),
        Undo::Run { needs: Some(needs), .. } if !host.exists(needs) => Ok(()),
        // It never took what it was told, and must not be the wall that keeps all the rest here.
        Undo::Run { program, arguments, .. } if service::is_unheard(host, program, arguments) => {
            host.end(Path::new(PROGRAM), END_WITHIN).map_err(|error| error.to_string())
        }
        Undo::Run { why, program, arguments, .. } => run(host, why, program, arguments),
    }
}

fn run(host: &dyn Host, why: &str, program: &Path, arguments: &[String]) -> Result<(), String> {
    let other = stand_in(host, why, program)?;
    let program = other.as_deref().unwrap_or(program);
    match host.run(program, arguments) {
        Ok(ran) if ran.is_good => Ok(()),
        // Nothing runs because of it.
        Ok(ran) if service::is_reading_of_units(program, arguments) => {
            eprintln!("warning: cannot {why}: {}", ran.stderr);
            Ok(())
        }
        Ok(ran) => Err(format!("cannot {why}: {}", ran.stderr)),
        // What is gone has nothing to take back any more; edgecore without its loader has.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !program.ends_with("edgecore") => Ok(()),
        Err(error) => Err(format!("cannot {why}: start {}: {error}", program.display())),
    }
}

/// For a program of ours that is not in its place: who deletes it has neither removed its pods nor ended what it keeps running.
fn stand_in(host: &dyn Host, why: &str, program: &Path) -> Result<Option<PathBuf>, String> {
    if host.exists(program) {
        return Ok(None);
    }
    match program.to_str() {
        Some(PROGRAM) => binary::find(host).map(Some).map_err(|_| {
            format!(
                "cannot {why}: there is no {PROGRAM}, and the pods may run on: put edgecore beside keadm or install its package; \
                 without one, remove them with the container runtime's own tool (crictl pods, crictl rmp -f ID), then type: \
                 rm {CONFIG}"
            )
        }),
        Some(KEADM) => Ok(host.own_program().ok()),
        _ => Ok(None),
    }
}

/// Copies what stands at `path`, so that [`Undo::PutBack`] finds it.
pub(crate) fn set_aside(host: &dyn Host, path: &Path) -> io::Result<()> {
    host.copy(path, &before(path), Rights::Same)
}

fn put_back(host: &dyn Host, path: &Path) -> io::Result<()> {
    let before = before(path);
    if !host.exists(&before) {
        return Ok(());
    }
    host.copy(&before, path, Rights::Same)?;
    host.remove_file(&before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::service::Manager;
    use crate::step::Step;

    /// Takes back what a join with this service manager writes down, and gives what was run for it.
    fn ran(host: &FakeHost, manager: Manager) -> Vec<String> {
        let mut undo: Vec<Undo> = Vec::new();
        for step in manager.steps() {
            if let Step::OnUndo(it) = step {
                undo.push(it);
            }
        }
        assert_eq!(take_back(host, undo.iter().rev()), Vec::<String>::new());
        std::mem::take(&mut *host.ran.borrow_mut())
    }

    #[test]
    fn what_is_not_in_the_boot_is_not_taken_out_of_it() {
        let script = ["/run/openrc/", "/etc/init.d/edgecore"];
        let stop = "rc-service --ifstarted edgecore stop";
        // A join that was cut short between the script and the boot.
        assert_eq!(ran(&FakeHost::new(&script), Manager::Openrc), [stop]);
        let at_boot = FakeHost::new(&[&script[..], &["/etc/runlevels/default/edgecore"]].concat());
        assert_eq!(ran(&at_boot, Manager::Openrc), [stop, "rc-update delete edgecore default"]);
    }

    #[test]
    fn an_edgecore_whose_supervisor_is_gone_is_ended_all_the_same() {
        let host = FakeHost::new(&[KEADM]);
        let end = "end /usr/local/bin/edgecore";
        let supervisor = "/usr/local/bin/keadm supervise --pid-file /run/edgecore.pid --stop";
        assert_eq!(ran(&host, Manager::None), [supervisor, end]);
        // Nor does a supervisor live on because its program was deleted.
        host.remove_file(Path::new(KEADM)).unwrap();
        let by_another = "/opt/keadm/keadm supervise --pid-file /run/edgecore.pid --stop";
        assert_eq!(ran(&host, Manager::None), [by_another, end]);
    }
}
