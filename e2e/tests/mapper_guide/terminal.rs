//! The reader's terminals: one that waits for each command, and others in which programs stay.
//!
//! Commands run under bash as they stand in the guide. The first terminal keeps its folder and exported variables from one
//! block to the next, as a shell does. `main.rs` types.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::process::{MARK, Process};
use e2e::run_dir::RunDir;
use e2e::wait::{Seen, eventually};
use rustix::process::{Pid, Signal, kill_process_group};

use super::guide::is_as_told;

/// A terminal may have to compile first.
const PATIENCE: Duration = Duration::from_secs(600);
const ENV: &str = "/usr/bin/env";

pub(crate) struct Terminals {
    others: BTreeMap<String, Process>,
    /// Arguments of `env` that make the reader's environment, and no other, before the program.
    login: Vec<OsString>,
    // Last: swept when the processes are gone.
    run_dir: RunDir,
}

impl Terminals {
    /// The first one begins in `folder`, all others in the reader's home.
    pub(crate) fn open(folder: &Path, mut environment: Vec<(&str, OsString)>) -> Result<Self> {
        let run_dir = RunDir::new("mapper-guide")?;
        environment.push(("HOME", run_dir.folder("home")?.into_os_string()));
        environment.push((MARK, run_dir.path().into()));
        // Ctrl-C ends what runs there, also where whoever started this test ignores it, as shells do in the background.
        let mut login = vec![OsString::from("-i"), "--default-signal=INT".into()];
        for (key, value) in environment {
            let mut word = OsString::from(format!("{key}="));
            word.push(value);
            login.push(word);
        }
        login.extend(["/bin/bash".into(), "-e".into()]);
        run_dir.write("shell", "")?;
        run_dir.write("folder", folder.as_os_str().as_encoded_bytes())?;
        Ok(Self { others: BTreeMap::new(), login, run_dir })
    }

    /// Where the first terminal is.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(fs::read_to_string(self.run_dir.join("folder"))?))
    }

    /// Types into the first terminal. Gives back what it printed; an error if a command failed.
    pub(crate) fn run(&self, text: &str) -> Result<String> {
        let (shell, folder) = (self.run_dir.join("shell"), self.run_dir.join("folder"));
        let (shell, folder) = (shell.display(), folder.display());
        let script = format!(
            "exec 2>&1\n. '{shell}'\ncd \"$(cat '{folder}')\"\n\
             trap 'export -p > '\\''{shell}'\\''; printf %s \"$PWD\" > '\\''{folder}'\\''' EXIT\n{text}"
        );
        let path = self.run_dir.write("typed.sh", script)?;
        let mut bash = Command::new(ENV);
        let output = bash.args(&self.login).arg(path).stdin(Stdio::null()).output().context("start bash")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "it failed ({}):\n{text}\nprinted:\n{printed}", output.status);
        ensure!(!printed.contains("warning:"), "it warned:\n{printed}");
        Ok(printed)
    }

    /// Opens another terminal and types there, or in the one of that name if what it ran has ended.
    pub(crate) fn start(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.run_dir.write(&format!("{name}.sh"), format!("cd\n{text}"))?;
        let arguments = self.login.iter().cloned().chain([path.into_os_string()]);
        let mut process = Process::new(self.run_dir.path(), name, Path::new(ENV), arguments);
        process.start()?;
        self.others.insert(name.to_owned(), process);
        Ok(())
    }

    /// Waits until another terminal shows these lines.
    pub(crate) fn wait_for(&mut self, name: &str, told: &str) -> Result<()> {
        let process = self.others.get_mut(name).with_context(|| format!("no terminal {name} is open"))?;
        let told = format!("...\n{told}\n...");
        let seen = eventually(PATIENCE, &format!("the terminal {name} to show {told}"), || {
            if is_as_told(&process.log(), &told) {
                return Ok(Seen::Yes(true));
            }
            Ok(if process.is_running() { Seen::NotYet(process.log_end(20)) } else { Seen::Yes(false) })
        })?;
        ensure!(
            seen || is_as_told(&process.log(), &told),
            "it ended before it showed {told}:\n{}",
            process.log()
        );
        Ok(())
    }

    /// As the terminal does: every process of the foreground gets the signal. Waits for their end.
    pub(crate) fn ctrl_c(&mut self, name: &str) -> Result<()> {
        let process = self.others.get_mut(name).with_context(|| format!("no terminal {name} is open"))?;
        let pid = process.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(pid) = pid else { bail!("nothing runs in {name}") };
        kill_process_group(pid, Signal::INT).with_context(|| format!("press Ctrl-C in {name}"))?;
        process.wait_for_exit(Duration::from_secs(20)).map(drop)
    }
}
