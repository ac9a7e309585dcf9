//! A directory whose power can be cut: what was not fsynced is forgotten then.
//!
//! The file system is the program `images/forgetful.c` over FUSE, a process of its own. It lies in a `RunDir`, whose sweep
//! ends it and unmounts. Called by stories.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::need;
use crate::process::Process;
use crate::run_dir::RunDir;
use crate::wait::until;

/// A file of the file system's own: writing into it cuts the power, reading it tells the counts.
const CONTROL: &str = ".power";

pub struct Disk {
    process: Process,
    folder: PathBuf,
    // Last: its sweep unmounts what a killed process left.
    _run_dir: RunDir,
}

/// Since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub n_cuts: u64,
    pub n_fsyncs: u64,
    pub n_bytes_forgotten: u64,
    /// Names that a cut brought back or took away.
    pub n_names_forgotten: u64,
    /// Names made, moved and removed, rights and lengths changed, fsyncs.
    pub n_changes: u64,
    /// Whether the power is away now.
    pub is_dark: bool,
}

impl Disk {
    /// Mounts an empty one. Installs the package it needs.
    pub fn new() -> Result<Self> {
        need::root()?;
        if !Path::new("/dev/fuse").exists() {
            bail!("/dev/fuse is not there; type: modprobe fuse");
        }
        need::packages(&["libfuse3-dev"])?;
        let program = need::c_program_with("forgetful", &["-lfuse3", "-lpthread"])?;
        let run_dir = RunDir::new("forgetful")?;
        let folder = run_dir.folder("disk")?;
        let mut process =
            Process::new(run_dir.path(), "forgetful", &program, [folder.clone().into_os_string()]);
        process.start()?;
        until(Duration::from_secs(10), "the forgetful file system", || {
            process.must_run()?;
            Ok(folder.join(CONTROL).exists())
        })?;
        Ok(Self { process, folder, _run_dir: run_dir })
    }

    /// Where it is mounted. Folders cannot be renamed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Forgets what was not fsynced. Whoever writes there is to be killed before.
    pub fn cut_power(&mut self) -> Result<()> {
        self.process.must_run()?;
        fs::write(self.folder.join(CONTROL), "cut").context("cut the power")
    }

    /// The power goes after so many further changes, whoever makes them; writes of bytes do not count. From then on
    /// everything fails until [`Disk::power_on`].
    pub fn cut_after(&mut self, n_changes: u64) -> Result<()> {
        self.process.must_run()?;
        fs::write(self.folder.join(CONTROL), format!("after {n_changes}")).context("order a power cut")
    }

    /// Cuts the power if that was not done yet, and it comes back.
    pub fn power_on(&mut self) -> Result<()> {
        if !self.counts()?.is_dark {
            self.cut_power()?;
        }
        fs::write(self.folder.join(CONTROL), "on").context("bring the power back")
    }

    pub fn counts(&self) -> Result<Counts> {
        let text =
            fs::read_to_string(self.folder.join(CONTROL)).context("read the counts of the file system")?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let &[n_cuts, n_fsyncs, n_bytes_forgotten, n_names_forgotten, n_changes, is_dark] =
            numbers.as_slice()
        else {
            bail!("no counts: {text:?}")
        };
        Ok(Counts {
            n_cuts,
            n_fsyncs,
            n_bytes_forgotten,
            n_names_forgotten,
            n_changes,
            is_dark: is_dark == 1,
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It unmounts when asked to stop; where it cannot, the sweep does.
        if let Err(error) = self.process.stop() {
            eprintln!("the forgetful file system did not stop: {error:#}");
        }
    }
}
