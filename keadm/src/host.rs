//! The machine: files, programs, processes. What is decided about a machine is decided through this; what only runs on one
//! touches it directly: `bundle.rs` (files that go through in pieces), `cri.rs` (its container runtime), `reach.rs` (its network),
//! `cmd/supervise.rs`, `cmd/batch`; and what writes a file for people where they stand: `manifest`, `documents`, `bundle create`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::digest;

use crate::bundle::{self, Unpacked};
use crate::cri;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

#[cfg(test)]
pub(crate) mod fake;

/// An answer on loopback is small; more than this is somebody else's.
const MAX_ANSWER: u64 = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a lock that somebody holds is tried.
const TRY: Duration = Duration::from_millis(100);

/// A program that hangs must not hang keadm for ever on a machine that nobody looks at. Sites' own programs may be slow.
const RUN_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How long a server at a unix socket may take to begin its answer.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

/// Held while this lives, and no longer than this process does. Its file goes with it.
pub(crate) struct Lock {
    held: Option<(File, PathBuf)>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_file, path)) = &self.held {
            // While it is locked: who waits for it looks whether it is still there. One that stays does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

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
    /// Runs a program to its end. Errors: it could not be started.
    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran>;
    /// As `run`, and the program reads `input`.
    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran>;
    /// Starts a program that outlives this one.
    fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()>;
    /// Asks every process that runs this program to end, and waits for it.
    fn end(&self, program: &Path, limit: Duration) -> io::Result<()>;
    /// `GET` over plain HTTP: status and body.
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

/// The machine that this program runs on.
pub(crate) struct Machine {
    start: Instant,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Host for Machine {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Ok(body) => Ok(Some(body)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        match fs::read_dir(folder) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
    }

    fn digest(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hexadecimal(digest.finish().as_ref())),
                n_bytes => digest.update(buffer.get(..n_bytes).unwrap_or_default()),
            }
        }
    }

    fn holds(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let (mut seen, mut piece) = (Vec::new(), vec![0; 256 << 10]);
        loop {
            let n_bytes = file.read(&mut piece)?;
            if n_bytes == 0 {
                return Ok(false);
            }
            seen.extend_from_slice(piece.get(..n_bytes).unwrap_or_default());
            if memchr::memmem::find(&seen, bytes).is_some() {
                return Ok(true);
            }
            // What may be the beginning of it.
            seen.drain(..seen.len().saturating_sub(bytes.len()));
        }
    }

    fn free(&self, folder: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Option<Lock>> {
        let begin = self.elapsed();
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => {
                    return Ok(Some(Lock { held: Some((file, path.to_owned())) }));
                }
                // Who held it removed it between the two calls.
                Ok(()) => {}
                Err(fs::TryLockError::Error(error)) => return Err(error),
                Err(fs::TryLockError::WouldBlock) if self.elapsed().saturating_sub(begin) >= limit => {
                    return Ok(None);
                }
                Err(fs::TryLockError::WouldBlock) => self.sleep(TRY),
            }
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<bool> {
        match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {
                sync_folder_of(path)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path, body: &[u8], mode: u32) -> io::Result<()> {
        let beside = beside(path);
        // Of a killed run, and perhaps with other rights.
        self.remove_file(&beside)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        let written = file.write_all(body).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(&beside, path)) {
            // A full disk is not left fuller.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        sync_folder_of(path)
    }

    fn append(&self, path: &Path, line: &str) -> io::Result<()> {
        let is_new = !self.exists(path);
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        if is_new { sync_folder_of(path) } else { Ok(()) }
    }

    fn copy(&self, from: &Path, to: &Path, rights: Rights) -> io::Result<()> {
        let beside = beside(to);
        // Of a killed run, and perhaps with other rights.
        self.remove_file(&beside)?;
        if let Err(error) = fs::copy(from, &beside) {
            // A full disk is not left fuller.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        if rights == Rights::Program {
            fs::set_permissions(&beside, Permissions::from_mode(0o755))?;
        }
        File::open(&beside)?.sync_all()?;
        fs::rename(&beside, to)?;
        sync_folder_of(to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Ok(()) => sync_folder_of(path),
            failed => gone(failed),
        }
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        // The fifth word is where it is mounted; what is odd in a path is written in octal there.
        let below = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .find(|at| Path::new(at).starts_with(path));
        if let Some(at) = below {
            let why = format!("{at} is mounted there; type: umount {at}");
            return Err(io::Error::new(ErrorKind::ResourceBusy, why));
        }
        gone(fs::remove_dir_all(path))
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            other => gone(other),
        }
    }

    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        output(command.spawn()?, program, RUN_WITHIN)
    }

    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdin, input) = (child.stdin.take(), input.to_vec());
        // Beside the reading of what it says: both pipes have their limits. Nobody waits for it, since one that is killed may
        // leave somebody who holds the pipe and does not read.
        std::thread::spawn(move || {
            // One that ends without reading all of it says why.
            let _ = stdin.map(|mut stdin| stdin.write_all(&input));
        });
        output(child, program, RUN_WITHIN)
    }

    fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()> {
        let mut aside = Command::new(program);
        aside
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        aside.spawn().map(drop)
    }

    fn end(&self, program: &Path, limit: Duration) -> io::Result<()> {
        let begin = self.elapsed();
        let mut asked = Vec::new();
        loop {
            let running = running(program)?;
            if running.is_empty() {
                return Ok(());
            }
            for pid in running.iter().filter(|pid| !asked.contains(*pid)) {
                rustix::process::kill_process(*pid, rustix::process::Signal::TERM)?;
            }
            if self.elapsed().saturating_sub(begin) >= limit {
                let why = format!("{} does not end within {} s", program.display(), limit.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            asked = running;
            self.sleep(TRY);
        }
    }

    fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut text)?;
        let nonsense = || io::Error::new(ErrorKind::InvalidData, "no HTTP answer");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(nonsense)?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        Ok((status, body.trim().to_owned()))
    }

    fn ask(
        &self,
        socket: &Path,
        ask: &Ask<'_>,
        take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<u16> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
            // Ends with the answer, or with this runtime.
            tokio::spawn(connection);
            let request = hyper::Request::builder()
                .method(ask.method)
                .uri(ask.path)
                .header(hyper::header::HOST, "edgecore")
                .body(Full::new(Bytes::from(ask.body.clone())))
                .map_err(io::Error::other)?;
            let answer = tokio::time::timeout(BEGIN_WITHIN, sender.send_request(request)).await;
            let silent = |_| {
                let why = format!("no answer within {} s", BEGIN_WITHIN.as_secs());
                io::Error::new(ErrorKind::TimedOut, why)
            };
            let mut answer = answer.map_err(silent)?.map_err(io::Error::other)?;
            let status = answer.status().as_u16();
            while let Some(frame) = answer.frame().await {
                if let Some(piece) = frame.map_err(io::Error::other)?.data_ref() {
                    take(status, piece)?;
                }
            }
            Ok(status)
        })
    }

    fn unpack(&self, bundle: &Path, folder: &Path) -> Result<Unpacked, String> {
        let bundle = bundle::open(bundle)?;
        let needed = bundle.n_bytes();
        let free = self
            .free(folder)
            .map_err(|error| format!("see how much room {} has: {error}", folder.display()))?;
        if free < needed {
            let mib = |n_bytes: u64| n_bytes.div_ceil(1 << 20);
            return Err(format!(
                "there is not enough room at {}: {} MiB are free, and what the bundle holds is {} MiB; nothing was changed",
                folder.display(),
                free >> 20,
                mib(needed)
            ));
        }
        bundle.unpack(Some(folder))
    }

    fn pull(&self, runtime: &str, image: &str) -> Result<bool, String> {
        cri::pull(runtime, image)
    }

    fn fetch(&self, runtime: &str, image: &str, may_pull: bool, folder: &Path) -> Result<(), String> {
        cri::fetch(runtime, image, may_pull, folder)
    }

    fn own_program(&self) -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    fn program_folders(&self) -> Vec<PathBuf> {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn name(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    }

    fn unix_seconds(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Processes of this mount namespace whose program is that file; also when the file was replaced since.
fn running(program: &Path) -> io::Result<Vec<rustix::process::Pid>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (own, replaced) = (namespace("self"), format!("{} (deleted)", program.display()));
    let mut running = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        // A process that ended meanwhile.
        let Ok(runs) = fs::read_link(format!("/proc/{name}/exe")) else { continue };
        if (runs == program || runs.as_os_str() == replaced.as_str()) && namespace(&name) == own {
            running.push(pid);
        }
    }
    Ok(running)
}

/// Waits for it to end; one that takes longer is killed.
fn output(child: Child, program: &Path, limit: Duration) -> io::Result<Ran> {
    let pid = rustix::process::Pid::from_child(&child);
    // One message, sent once: it never waits.
    let (done, ended) = mpsc::sync_channel(1);
    // It outlives this only while something that the program started holds its pipes.
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => Ok(ran(&output?)),
        Err(_) => {
            let why =
                format!("{} has not ended within {} s and was killed", program.display(), limit.as_secs());
            // One that ended just now needs no killing.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            Err(io::Error::new(ErrorKind::TimedOut, why))
        }
    }
}

/// Whether that is still the file at that path.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |file: &fs::Metadata| (file.dev(), file.ino());
    file.metadata().and_then(|held| Ok(id(&held) == id(&fs::metadata(path)?))).unwrap_or(false)
}

fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ran { is_good: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Where a file is written before it is moved to its place; one that was killed leaves it.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".keadm-new");
    name.into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_and_its_file_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let take = |limit| Machine::new().lock(&path, limit).unwrap();
        let held = take(Duration::ZERO).unwrap();
        assert!(take(Duration::ZERO).is_none());
        std::thread::scope(|scope| {
            // Who waited gets it, under the file that is there then.
            let waiting = scope.spawn(|| take(Duration::from_secs(30)));
            std::thread::sleep(TRY);
            drop(held);
            let got = waiting.join().unwrap().unwrap();
            assert!(take(Duration::ZERO).is_none());
            drop(got);
        });
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_write_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, host) = (folder.path().join("token"), Machine::new());
        let original = folder.path().join("original");
        let leave_half = || {
            fs::write(beside(&path), "half of it").unwrap();
            // Others could read what is written now.
            fs::set_permissions(beside(&path), Permissions::from_mode(0o666)).unwrap();
        };
        leave_half();
        host.write(&path, b"whole", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(host.mode(&path).unwrap(), 0o600);
        assert!(!beside(&path).exists());

        host.write(&original, b"other", 0o640).unwrap();
        leave_half();
        host.copy(&original, &path, Rights::Same).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(host.mode(&path).unwrap(), 0o640);
        assert!(!beside(&path).exists());

        // What cannot be put in its place leaves no half.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("by-a-folder")).unwrap();
        host.write(&taken, b"whole", 0o600).unwrap_err();
        assert!(!beside(&taken).exists());
    }

    #[test]
    fn bytes_are_found_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let mut body = vec![b'x'; (256 << 10) - 3];
        body.extend(b"needle");
        fs::write(&path, &body).unwrap();
        assert!(Machine::new().holds(&path, b"needle").unwrap());
        assert!(!Machine::new().holds(&path, b"needles").unwrap());
    }

    #[test]
    fn who_runs_this_is_known() {
        // The kernel gives a process's files to the user that it runs as.
        let owner = fs::metadata("/proc/self/stat").unwrap().uid();
        assert_eq!(Machine::new().is_root(), owner == 0);
    }

    #[test]
    fn what_hangs_is_ended() {
        let child =
            Command::new("sleep").arg("100").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let error = output(child, Path::new("sleep"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("sleep has not ended within"), "{error}");
        let ran =
            Machine::new().run(Path::new("sh"), &["-c".into(), "echo a; echo b >&2; exit 3".into()]).unwrap();
        assert_eq!(ran, Ran { is_good: false, stdout: "a".into(), stderr: "b".into() });
    }
}
