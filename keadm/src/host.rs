//! The machine: files, programs, processes. What is decided about a machine is decided through this; what only runs on one
//! touches it directly: `bundle.rs` (files that go through in pieces), `cri.rs` (its container runtime), `reach.rs` (its network),
//! `cmd/supervise.rs`, `cmd/batch`; and what writes a file for people where they stand: `manifest`, `documents`, `bundle create`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bundle::Unpacked;

#[cfg(test)]
pub(crate) mod fake;
mod files;
mod http;
mod lock;
mod machine;
mod processes;

pub(crate) use lock::Lock;
pub(crate) use machine::Machine;

/// Who may do what with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// All may run it.
    Program,
    /// As the original.
    Same,
}

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether its exit code was 0.
    pub(crate) is_good: bool,
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A question in HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    pub(crate) body: Vec<u8>,
}

/// Everything that commands want of a machine.
pub(crate) trait Host {
    /// A file's content; `None`: it is not there.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// What is in a folder, without order; nothing if it is not there.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Bytes of a file; `None`: it is not there.
    fn size(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Rights of a file.
    fn mode(&self, path: &Path) -> io::Result<u32>;
    /// SHA-256 of a file, in hexadecimal digits.
    fn digest(&self, path: &Path) -> io::Result<String>;
    /// Whether these bytes, no more than some dozen, are anywhere in a file.
    fn holds(&self, path: &Path, bytes: &[u8]) -> io::Result<bool>;
    /// Bytes that may still be written where this folder is.
    fn free(&self, folder: &Path) -> io::Result<u64>;
    /// Takes a lock that the kernel lets go with this process, waiting that long. `None`: somebody else holds it.
    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Option<Lock>>;
    /// Whether anything is there, links included.
    fn exists(&self, path: &Path) -> bool;
    /// Makes one folder, whose parent is there. `false`: it was there.
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<bool>;
    /// Whole or not at all, and on disk.
    fn write(&self, path: &Path, body: &[u8], mode: u32) -> io::Result<()>;
    /// Adds to a file, on disk when this returns. Makes it, for root's eyes only.
    fn append(&self, path: &Path, line: &str) -> io::Result<()>;
    /// Whole or not at all, and on disk.
    fn copy(&self, from: &Path, to: &Path, rights: Rights) -> io::Result<()>;
    /// Gone already: success. On disk, too.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// With all that is in it, but nothing that is mounted there. Gone already: success.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Runs a program to its end; what it leaves running is not waited for. Errors: it could not be started, or (`TimedOut`,
    /// in a sentence that needs no other) it had not ended after half an hour and was killed. [`not_run`] tells them apart.
    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran>;
    /// As `run`, and the program reads `input`.
    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran>;
    /// Starts a program that outlives this one.
    fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()>;
    /// Asks every process that runs this program to end, and waits for it.
    fn end(&self, program: &Path, limit: Duration) -> io::Result<()>;
    /// `GET` over plain HTTP: status and body. As `ask`, not to be called by what runs in an async runtime.
    fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)>;
    /// A question to a server at a unix socket. `take` gets the answer's status with each piece of its body as it comes, for as
    /// long as the answer goes on. Errors: nobody is there, the answer broke off, or `take`'s own.
    fn ask(
        &self,
        socket: &Path,
        ask: &Ask<'_>,
        take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<u16>;
    /// Unpacks a bundle into a folder that is there. Errors: one sentence.
    fn unpack(&self, bundle: &Path, folder: &Path) -> Result<Unpacked, String>;
    /// Has the container runtime pull an image. `false`: it was there. Errors: one sentence.
    fn pull(&self, runtime: &str, image: &str) -> Result<bool, String>;
    /// Copies edgecore and keadm out of an image into a folder that is there and empty. `may_pull`: an image that is not here
    /// comes from its registry. Errors: one sentence.
    fn fetch(&self, runtime: &str, image: &str, may_pull: bool, folder: &Path) -> Result<(), String>;
    /// Removes a folder that holds nothing; one that does stays, as does one that is gone.
    fn remove_empty(&self, path: &Path) -> io::Result<()>;
    /// Where this program lies.
    fn own_program(&self) -> io::Result<PathBuf>;
    /// How this program was named by who typed it.
    fn typed(&self) -> String;
    /// Folders of PATH.
    fn program_folders(&self) -> Vec<PathBuf>;
    /// Whether this program may do what root may.
    fn is_root(&self) -> bool;
    /// Of this program's environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// The machine's name.
    fn name(&self) -> String;
    /// Seconds since 1970, as far as this machine knows.
    fn unix_seconds(&self) -> i64;
    /// A time that only grows.
    fn elapsed(&self) -> Duration;
    fn sleep(&self, time: Duration);
}

/// Where a file is written before it is moved to its place; one that was killed leaves it.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".keadm-new");
    name.into()
}

/// Why a program was not run to its end, as `run` and `feed` say it.
pub(crate) fn not_run(program: &Path, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => error.into(),
        _ => anyhow::Error::new(error).context(format!("start {} (is it executable?)", program.display())),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
