//! Who keeps edgecore running on a machine, the steps by which it is told to, and how edgecore is stopped and started.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::host::Host;
use crate::journal::Undo;
use crate::plan::{Step, last_words};
use crate::render::{CONFIG, KEADM, PROGRAM};

const UNIT: &str = "/etc/systemd/system/edgecore.service";
const INIT_SCRIPT: &str = "/etc/init.d/edgecore";
const PID_FILE: &str = "/run/edgecore.pid";
const LOG_FILE: &str = "/var/log/kubeedge/edgecore.log";

const SUPERVISE: [&str; 9] =
    ["supervise", "--pid-file", PID_FILE, "--log", LOG_FILE, "--", PROGRAM, "--config", CONFIG];

/// Who keeps services running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manager {
    Systemd,
    Openrc,
    /// keadm itself, until the machine goes down: in containers.
    None,
}

impl Manager {
    /// Of a running machine.
    pub(crate) fn find(host: &dyn Host) -> Self {
        let has = |path: &str| host.exists(PathBuf::from(path).as_path());
        if has("/run/systemd/system") {
            Self::Systemd
        } else if has("/run/openrc") {
            Self::Openrc
        } else {
            Self::None
        }
    }

    /// Who was told of edgecore when this machine became a node.
    pub(crate) fn of_edgecore(host: &dyn Host) -> Self {
        let has = |path: &str| host.exists(PathBuf::from(path).as_path());
        if has(UNIT) {
            Self::Systemd
        } else if has(INIT_SCRIPT) {
            Self::Openrc
        } else {
            Self::None
        }
    }

    /// The file that tells it.
    pub(crate) fn unit(self) -> Option<&'static str> {
        match self {
            Self::Systemd => Some(UNIT),
            Self::Openrc => Some(INIT_SCRIPT),
            Self::None => None,
        }
    }

    /// Ends edgecore and leaves its pods; success where it does not run.
    pub(crate) fn stop(self, host: &dyn Host) -> Result<()> {
        let (program, arguments): (&str, &[&str]) = match self {
            Self::Systemd => ("systemctl", &["stop", "edgecore"]),
            Self::Openrc => ("rc-service", &["--ifstarted", "edgecore", "stop"]),
            Self::None => (KEADM, &["supervise", "--pid-file", PID_FILE, "--stop"]),
        };
        must_run(host, program, arguments).context("stop edgecore")
    }

    /// Starts edgecore and does not wait for it.
    pub(crate) fn start(self, host: &dyn Host) -> Result<()> {
        let started = match self {
            Self::Systemd => must_run(host, "systemctl", &["start", "edgecore"]),
            Self::Openrc => must_run(host, "rc-service", &["edgecore", "start"]),
            Self::None => host.start_aside(KEADM.as_ref(), &texts(&SUPERVISE)).map_err(Into::into),
        };
        started.context("start edgecore")
    }

    /// How an edgecore that another made a service is started again, once everything of it is back.
    pub(crate) fn start_others(self) -> Undo {
        let run = |program: &str, arguments: &[&str]| Undo::Run {
            why: "start the edgecore that was here before".to_owned(),
            program: program.into(),
            arguments: texts(arguments),
            needs: None,
        };
        match self {
            Self::Systemd => run("systemctl", &["enable", "--now", "edgecore"]),
            Self::Openrc => run("rc-service", &["edgecore", "start"]),
            Self::None => Undo::Start { program: PROGRAM.into(), arguments: texts(&["--config", CONFIG]) },
        }
    }

    /// Ends it; its pods run on.
    pub(crate) fn stop_others(self, limit: std::time::Duration) -> Step {
        let run = |program: &str, arguments: &[&str]| Step::Run {
            what: "stop the edgecore that is here".to_owned(),
            program: program.into(),
            arguments: texts(arguments),
        };
        match self {
            Self::Systemd => run("systemctl", &["stop", "edgecore"]),
            Self::Openrc => run("rc-service", &["--ifstarted", "edgecore", "stop"]),
            Self::None => Step::End { program: PROGRAM.into(), limit },
        }
    }

    /// Ends an edgecore that nobody wrote down, and takes it out of the boot, in this order.
    pub(crate) fn forget(self) -> Vec<Undo> {
        let run = |why: &str, program: &str, arguments: &[&str]| Undo::Run {
            why: why.to_owned(),
            program: program.into(),
            arguments: texts(arguments),
            needs: self.unit().filter(|_| arguments != ["daemon-reload"]).map(PathBuf::from),
        };
        match self {
            Self::Systemd => vec![
                run("stop edgecore", "systemctl", &["disable", "--now", "edgecore"]),
                Undo::RemoveFile(UNIT.into()),
                Undo::RemoveFile(crate::journal::before(UNIT.as_ref())),
                run("tell systemd that the unit is gone", "systemctl", &["daemon-reload"]),
            ],
            Self::Openrc => vec![
                run("stop edgecore", "rc-service", &["--ifstarted", "edgecore", "stop"]),
                run("take edgecore out of the boot", "rc-update", &["delete", "edgecore", "default"]),
                Undo::RemoveFile(INIT_SCRIPT.into()),
                Undo::RemoveFile(crate::journal::before(INIT_SCRIPT.as_ref())),
            ],
            Self::None => vec![
                run("stop edgecore", KEADM, &["supervise", "--pid-file", PID_FILE, "--stop"]),
                Undo::End(PROGRAM.into()),
            ],
        }
    }

    /// Where edgecore's log is read.
    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::Systemd => "journalctl -u edgecore",
            Self::Openrc | Self::None => "tail /var/log/kubeedge/edgecore.log",
        }
    }

    /// Makes edgecore a service and starts it. keadm is installed before.
    pub(crate) fn steps(self) -> Vec<Step> {
        let run = |what: &str, program: &str, arguments: &[&str]| Step::Run {
            what: what.to_owned(),
            program: program.into(),
            arguments: texts(arguments),
        };
        let undo = |why: &str, program: &str, arguments: &[&str]| {
            Step::OnUndo(Undo::Run {
                why: why.to_owned(),
                program: program.into(),
                arguments: texts(arguments),
                needs: self.unit().filter(|_| arguments != ["daemon-reload"]).map(PathBuf::from),
            })
        };
        let file = |path: &str, mode, body: &str| Step::File { path: path.into(), mode, body: body.into() };
        match self {
            Self::Systemd => vec![
                undo("tell systemd that the unit is gone", "systemctl", &["daemon-reload"]),
                file(UNIT, 0o644, include_str!("../units/edgecore.service")),
                run("tell systemd of it", "systemctl", &["daemon-reload"]),
                undo("stop edgecore", "systemctl", &["disable", "--now", "edgecore"]),
                run("start edgecore, now and at boot", "systemctl", &["enable", "--now", "edgecore"]),
            ],
            Self::Openrc => vec![
                file(INIT_SCRIPT, 0o755, include_str!("../units/edgecore.openrc")),
                undo("take edgecore out of the boot", "rc-update", &["delete", "edgecore", "default"]),
                run("start edgecore at boot", "rc-update", &["add", "edgecore", "default"]),
                undo("stop edgecore", "rc-service", &["--ifstarted", "edgecore", "stop"]),
                run("start edgecore", "rc-service", &["edgecore", "start"]),
            ],
            Self::None => vec![
                undo("stop edgecore", KEADM, &["supervise", "--pid-file", PID_FILE, "--stop"]),
                Step::Aside {
                    what: "start edgecore (no service manager here: not at boot)".to_owned(),
                    program: KEADM.into(),
                    arguments: texts(&SUPERVISE),
                },
            ],
        }
    }
}

fn must_run(host: &dyn Host, program: &str, arguments: &[&str]) -> Result<()> {
    let ran = host.run(program.as_ref(), &texts(arguments)).with_context(|| format!("run {program}"))?;
    if !ran.is_good {
        bail!("{program} {}: {}", arguments.join(" "), last_words(&ran.stderr));
    }
    Ok(())
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn the_manager_that_runs_is_found() {
        let check =
            |paths: &[&str], expected: Manager| assert_eq!(Manager::find(&FakeHost::new(paths)), expected);
        check(&["/run/systemd/system/"], Manager::Systemd);
        check(&["/run/openrc/"], Manager::Openrc);
        check(&[], Manager::None);
    }

    #[test]
    fn every_manager_starts_what_the_config_says_and_can_stop_it() {
        for manager in Manager::value_variants() {
            let steps = format!("{:?}", manager.steps());
            assert!(steps.contains("stop edgecore") && steps.contains("start edgecore"), "{steps}");
        }
        for text in [include_str!("../units/edgecore.service"), include_str!("../units/edgecore.openrc")] {
            assert!(text.contains(PROGRAM) && text.contains(CONFIG), "{text}");
            assert!(
                text.contains(&format!("{KEADM} recover")),
                "an upgrade that was cut short is undone: {text}"
            );
        }
    }
}
