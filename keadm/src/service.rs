//! Who keeps edgecore running on a machine, the steps by which it is told to, and how edgecore is stopped and started.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::failure::Failure;
use crate::host::Host;
use crate::journal::{END_WITHIN, Undo};
use crate::render::{CONFIG, KEADM, PROGRAM};
use crate::step::Step;
use crate::words::last_words;

const UNIT: &str = "/etc/systemd/system/edgecore.service";
const INIT_SCRIPT: &str = "/etc/init.d/edgecore";
/// What `rc-update add edgecore default` makes.
const AT_BOOT: &str = "/etc/runlevels/default/edgecore";
const PID_FILE: &str = "/run/edgecore.pid";
const LOG_FILE: &str = "/var/log/kubeedge/edgecore.log";

const SUPERVISE: [&str; 9] =
    ["supervise", "--pid-file", PID_FILE, "--log", LOG_FILE, "--", PROGRAM, "--config", CONFIG];

/// What a service manager is told about edgecore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Stop,
    Start,
    /// With systemd also now.
    StartAtBoot,
    /// With systemd it ends, too.
    NotAtBoot,
    ReadUnits,
}

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
        let managers = [Self::Systemd, Self::Openrc];
        managers.into_iter().find(|manager| manager.runs(host)).unwrap_or(Self::None)
    }

    /// What is there while it runs: its programs may be there without it, in containers for example.
    fn sign(self) -> Option<&'static str> {
        match self {
            Self::Systemd => Some("/run/systemd/system"),
            Self::Openrc => Some("/run/openrc"),
            Self::None => None,
        }
    }

    fn runs(self, host: &dyn Host) -> bool {
        self.sign().is_none_or(|sign| host.exists(Path::new(sign)))
    }

    /// Errors: it is no use here, and what to type instead.
    pub(crate) fn must_run(self, host: &dyn Host) -> Result<(), Failure> {
        if self.runs(host) {
            return Ok(());
        }
        let (name, sign) = (self.word(), self.sign().unwrap_or_default());
        let running = Self::find(host).word();
        Err(Failure::Refused(format!(
            "--service-manager {name}: it does not run on this machine (there is no {sign}), and nothing was changed; what runs \
             here is {running}: leave the flag out, or type --service-manager {running}"
        )))
    }

    /// As the flag has it.
    fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Openrc => "openrc",
            Self::None => "none",
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

    /// What is typed for it; `None`: here it takes no command.
    fn command(self, act: Act) -> Option<(&'static str, &'static [&'static str])> {
        Some(match (self, act) {
            (Self::Systemd, Act::Stop) => ("systemctl", &["stop", "edgecore"]),
            (Self::Systemd, Act::Start) => ("systemctl", &["start", "edgecore"]),
            (Self::Systemd, Act::StartAtBoot) => ("systemctl", &["enable", "--now", "edgecore"]),
            (Self::Systemd, Act::NotAtBoot) => ("systemctl", &["disable", "--now", "edgecore"]),
            (Self::Systemd, Act::ReadUnits) => ("systemctl", &["daemon-reload"]),
            (Self::Openrc, Act::Stop) => ("rc-service", &["--ifstarted", "edgecore", "stop"]),
            (Self::Openrc, Act::Start) => ("rc-service", &["edgecore", "start"]),
            (Self::Openrc, Act::StartAtBoot) => ("rc-update", &["add", "edgecore", "default"]),
            (Self::Openrc, Act::NotAtBoot) => ("rc-update", &["delete", "edgecore", "default"]),
            (Self::None, Act::Stop) => (KEADM, &["supervise", "--pid-file", PID_FILE, "--stop"]),
            (Self::Openrc, Act::ReadUnits)
            | (Self::None, Act::Start | Act::StartAtBoot | Act::NotAtBoot | Act::ReadUnits) => return None,
        })
    }

    /// As a step of a plan.
    fn step(self, act: Act, what: &str) -> Option<Step> {
        let (program, arguments) = self.command(act)?;
        Some(Step::Run { what: what.to_owned(), program: program.into(), arguments: texts(arguments) })
    }

    /// As a way back. `why`: of a sentence that begins with "cannot".
    fn undo(self, act: Act, why: &str) -> Option<Undo> {
        let (program, arguments) = self.command(act)?;
        // Without the unit it was done before; that units are to be read anew is so after it is gone.
        let needs = match (self, act) {
            (_, Act::ReadUnits) => None,
            // rc-update fails where there is nothing to delete.
            (Self::Openrc, Act::NotAtBoot) => Some(AT_BOOT),
            _ => self.unit(),
        };
        let needs = needs.map(PathBuf::from);
        Some(Undo::Run { why: why.to_owned(), program: program.into(), arguments: texts(arguments), needs })
    }

    /// Ends edgecore and leaves its pods; success where it does not run.
    pub(crate) fn stop(self, host: &dyn Host) -> Result<()> {
        self.must(host, Act::Stop).context("stop edgecore")?;
        // One whose supervisor was killed lives on.
        let is_alone = self == Self::None;
        if is_alone { host.end(PROGRAM.as_ref(), END_WITHIN).context("stop edgecore") } else { Ok(()) }
    }

    /// Starts edgecore and does not wait for it.
    pub(crate) fn start(self, host: &dyn Host) -> Result<()> {
        let started = match self {
            Self::Systemd | Self::Openrc => self.must(host, Act::Start),
            Self::None => host.start_aside(KEADM.as_ref(), &texts(&SUPERVISE)).map_err(Into::into),
        };
        started.context("start edgecore")
    }

    fn must(self, host: &dyn Host, act: Act) -> Result<()> {
        let Some((program, arguments)) = self.command(act) else { return Ok(()) };
        let ran = host.run(program.as_ref(), &texts(arguments)).with_context(|| format!("run {program}"))?;
        if !ran.is_good {
            bail!("{program} {}: {}", arguments.join(" "), last_words(&ran.stderr));
        }
        Ok(())
    }

    /// How an edgecore that another made a service is started again, once everything of it is back.
    pub(crate) fn start_others(self) -> Undo {
        let act = if self == Self::Systemd { Act::StartAtBoot } else { Act::Start };
        match self.undo(act, "start the edgecore that was here before") {
            Some(Undo::Run { why, program, arguments, .. }) => {
                Undo::Run { why, program, arguments, needs: None }
            }
            _ => Undo::Start { program: PROGRAM.into(), arguments: texts(&["--config", CONFIG]) },
        }
    }

    /// Ends it; its pods run on.
    pub(crate) fn stop_others(self, limit: std::time::Duration) -> Step {
        // Where no service manager runs, nobody has a command for it.
        let managed = self.step(Act::Stop, "stop the edgecore that is here").filter(|_| self != Self::None);
        managed.unwrap_or_else(|| Step::End { program: PROGRAM.into(), limit })
    }

    /// Ends an edgecore that nobody wrote down, and takes it out of the boot, in this order.
    pub(crate) fn forget(self) -> Vec<Undo> {
        let mut undo = Vec::new();
        if self != Self::Systemd {
            undo.extend(self.undo(Act::Stop, "stop edgecore"));
        }
        undo.extend(self.undo(Act::NotAtBoot, "take edgecore out of the boot"));
        if let Some(unit) = self.unit() {
            undo.extend([
                Undo::RemoveFile(unit.into()),
                Undo::RemoveFile(crate::journal::before(unit.as_ref())),
            ]);
        }
        undo.extend(self.undo(Act::ReadUnits, "tell systemd that the unit is gone"));
        if self == Self::None {
            undo.push(Undo::End(PROGRAM.into()));
        }
        undo
    }

    /// Where edgecore's log is read.
    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::Systemd => "journalctl -u edgecore",
            Self::Openrc | Self::None => "tail /var/log/kubeedge/edgecore.log",
        }
    }

    /// Whether there is anything in it that can be read.
    pub(crate) fn has_log(self, host: &dyn Host) -> bool {
        self == Self::Systemd || host.exists(Path::new(LOG_FILE))
    }

    /// Makes edgecore a service and starts it. keadm is installed before.
    pub(crate) fn steps(self) -> Vec<Step> {
        let back = |act, why| self.undo(act, why).map(Step::OnUndo);
        let file = |path: &str, mode, body: &str| Step::File { path: path.into(), mode, body: body.into() };
        let steps = match self {
            Self::Systemd => vec![
                back(Act::ReadUnits, "tell systemd that the unit is gone"),
                Some(file(UNIT, 0o644, include_str!("../units/edgecore.service"))),
                self.step(Act::ReadUnits, "tell systemd of it"),
                back(Act::NotAtBoot, "stop edgecore"),
                self.step(Act::StartAtBoot, "start edgecore, now and at boot"),
            ],
            Self::Openrc => vec![
                Some(file(INIT_SCRIPT, 0o755, include_str!("../units/edgecore.openrc"))),
                back(Act::NotAtBoot, "take edgecore out of the boot"),
                self.step(Act::StartAtBoot, "start edgecore at boot"),
                back(Act::Stop, "stop edgecore"),
                self.step(Act::Start, "start edgecore"),
            ],
            Self::None => vec![
                // After the supervisor, which would start it again; one that was killed has not ended it.
                Some(Step::OnUndo(Undo::End(PROGRAM.into()))),
                back(Act::Stop, "stop edgecore"),
                Some(Step::Aside {
                    what: "start edgecore (no service manager here: not at boot)".to_owned(),
                    program: KEADM.into(),
                    arguments: texts(&SUPERVISE),
                }),
            ],
        };
        steps.into_iter().flatten().collect()
    }
}

/// Whether that command would stop or forget a service, and its service manager does not run.
pub(crate) fn is_unheard(host: &dyn Host, program: &Path, arguments: &[String]) -> bool {
    let starts = arguments.iter().any(|word| ["start", "enable", "add"].contains(&word.as_str()));
    let manager = match program.to_str() {
        Some("systemctl") => Manager::Systemd,
        Some("rc-service" | "rc-update") => Manager::Openrc,
        _ => return false,
    };
    !starts && !manager.runs(host)
}

/// Whether nothing depends on how that command ends.
pub(crate) fn is_reading_of_units(program: &Path, arguments: &[String]) -> bool {
    program == Path::new("systemctl") && arguments.first().is_some_and(|word| word == "daemon-reload")
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
        // Its programs without it.
        check(&["/usr/bin/systemctl", "/run/systemd/"], Manager::None);
        check(&["/run/systemd/system/", "/run/openrc/"], Manager::Systemd);
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

    #[test]
    fn systemd_waits_for_edgecore_and_leaves_its_pods() {
        let unit = include_str!("../units/edgecore.service");
        let value = |key: &str| {
            let mut found = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let value = found.next().unwrap_or_else(|| panic!("{key} is not there"));
            assert_eq!(found.next(), None, "{key} is there twice");
            value
        };
        let secs: u64 = value("TimeoutStopSec").parse().unwrap();
        assert!(secs >= 2 * ke_run::supervise::GRACE.as_secs(), "a stop takes longer than {secs} s");
        assert_eq!(value("KillMode"), "process", "a stop, and one that took too long, ends no pod");
        assert_eq!(
            value("NotifyAccess"),
            "main",
            "systemd hears how long pods have when the machine goes down"
        );
        // Stopped in the opposite order: pods end while their runtime is there, and the cloud hears of it.
        let after: Vec<&str> = value("After").split(' ').collect();
        for other in ["network.target", "containerd.service", "crio.service"] {
            assert!(after.contains(&other), "{after:?} has no {other}");
        }
    }

    #[test]
    fn an_edgecore_whose_supervisor_is_gone_is_stopped_all_the_same() {
        let check = |manager: Manager, expected: &[&str]| {
            let host = FakeHost::new(&[KEADM]);
            manager.stop(&host).unwrap();
            assert_eq!(*host.ran.borrow(), expected);
        };
        let supervisor = "/usr/local/bin/keadm supervise --pid-file /run/edgecore.pid --stop";
        check(Manager::None, &[supervisor, "end /usr/local/bin/edgecore"]);
        // Its manager knows better.
        check(Manager::Systemd, &["systemctl stop edgecore"]);
        check(Manager::Openrc, &["rc-service --ifstarted edgecore stop"]);
    }
}
