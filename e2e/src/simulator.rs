//! A field device in Python that somebody else's library plays, and the line protocol by which a story plays its physics.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::need;
use crate::process::Process;
use crate::run_dir::RunDir;
use crate::site::PATIENCE;
use crate::wait::{Seen, eventually};

const STATE: &str = "state";

/// One process of `e2e/devices`: it listens for its field bus and for its control.
pub struct Simulator {
    process: Process,
    address: SocketAddr,
    control: SocketAddr,
    run_dir: RunDir,
}

impl Simulator {
    /// `script` is in `e2e/devices` and takes two ports, a directory and an address; the packages of PyPI are pinned, so that a story
    /// tells the same tomorrow.
    pub fn new(name: &str, script: &str, packages: &[&str]) -> Result<Self> {
        Self::new_at(Ipv4Addr::LOCALHOST, name, script, packages)
    }

    /// At another address of this machine, where the script takes one.
    pub fn new_at(ip: Ipv4Addr, name: &str, script: &str, packages: &[&str]) -> Result<Self> {
        let python = need::python(packages)?;
        let run_dir = RunDir::new(name)?;
        let here = |port: u16| SocketAddr::from((ip, port));
        let (address, control) = (here(run_dir.port()?), here(run_dir.port()?));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("devices").join(script);
        let arguments: [OsString; 5] = [
            script.into(),
            address.port().to_string().into(),
            control.port().to_string().into(),
            run_dir.join(STATE).into(),
            ip.to_string().into(),
        ];
        let process = Process::new(run_dir.path(), name, &python, arguments);
        Ok(Self { process, address, control, run_dir })
    }

    /// Starts it, again after `unplug`; its values are those of the beginning then.
    pub fn plug_in(&mut self) -> Result<()> {
        self.process.start()?;
        eventually(PATIENCE, "the simulated device to listen", || {
            self.process.must_run()?;
            let listens =
                TcpStream::connect(self.control).is_ok() && TcpStream::connect(self.address).is_ok();
            Ok(if listens { Seen::Yes(()) } else { Seen::NotYet(self.process.log_end(5)) })
        })
    }

    pub fn unplug(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Where its field bus is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory that its script was given.
    pub fn folder(&self) -> PathBuf {
        self.run_dir.join(STATE)
    }

    /// It stays when this program ends.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()
    }

    /// One line of its control, and the answer.
    pub fn ask(&self, line: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.control).context("reach the simulated device's control")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }

    /// A line that asks for nothing.
    pub fn order(&self, line: &str) -> Result<()> {
        let answer = self.ask(line)?;
        ensure!(answer == "ok", "{line}: {answer}");
        Ok(())
    }
}
