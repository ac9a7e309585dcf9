//! The machine: files, programs, processes. The only file that touches it, but for `bundle.rs`, whose files go through in pieces, and
//! `cri.rs`, which asks its container runtime.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::digest;

use crate::bundle::{self, Unpacked};
use crate::cri;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

/// An answer on loopback is small; more than this is somebody else's.
const MAX_ANSWER: u64 = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a lock that somebody holds is tried.
const TRY: Duration = Duration::from_millis(100);

/// Held while this lives, and no longer than this process does.
pub(crate) struct Lock {
    _file: Option<File>,
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
    /// Copies edgecore and keadm out of an image into a folder that is there and empty. Errors: one sentence.
    fn fetch(&self, runtime: &str, image: &str, folder: &Path) -> Result<(), String>;
    /// Where this program lies.
    fn own_program(&self) -> io::Result<PathBuf>;
    /// Folders of PATH.
    fn program_folders(&self) -> Vec<PathBuf>;
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

    fn free(&self, folder: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let begin = self.elapsed();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Lock { _file: Some(file) })),
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
        file.write_all(body).and_then(|()| file.sync_all())?;
        fs::rename(&beside, path)?;
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

    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran> {
        Ok(ran(&Command::new(program).args(arguments).stdin(Stdio::null()).output()?))
    }

    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        // Beside the reading of what it says: both pipes have their limits.
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // One that ends without reading all of it says why.
                let _ = stdin.map(|mut stdin| stdin.write_all(input));
            });
            Ok(ran(&child.wait_with_output()?))
        })
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
            let mut answer = sender.send_request(request).await.map_err(io::Error::other)?;
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
        bundle::open(bundle)?.unpack(Some(folder))
    }

    fn pull(&self, runtime: &str, image: &str) -> Result<bool, String> {
        cri::pull(runtime, image)
    }

    fn fetch(&self, runtime: &str, image: &str, folder: &Path) -> Result<(), String> {
        cri::fetch(runtime, image, folder)
    }

    fn own_program(&self) -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    fn program_folders(&self) -> Vec<PathBuf> {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
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

fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ran { is_good: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn beside(path: &Path) -> PathBuf {
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

/// A machine in memory, for the tests of what is decided.
#[cfg(test)]
pub(crate) mod fake {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::*;

    /// Files and folders (`None`), what was run, and what to answer.
    #[derive(Default)]
    pub(crate) struct FakeHost {
        pub(crate) files: RefCell<BTreeMap<PathBuf, Option<Vec<u8>>>>,
        pub(crate) ran: RefCell<Vec<String>>,
        /// Programs that fail, by the beginning of their line, and with what words.
        pub(crate) fails: RefCell<Vec<(String, String)>>,
        pub(crate) variables: RefCell<Vec<(String, String)>>,
        /// What programs print, by the beginning of their line.
        pub(crate) prints: RefCell<Vec<(String, String)>>,
        /// What a program that is fed takes out of what it reads, before it writes it.
        pub(crate) redacts: RefCell<Option<String>>,
        /// Answers of edgecore, the last one for ever.
        pub(crate) node: RefCell<Vec<(u16, String)>>,
        /// What edgecore's socket answers to `METHOD path`; nobody is there if this is empty.
        pub(crate) answers: RefCell<Vec<(String, u16, String)>>,
        pub(crate) clock: Cell<u64>,
        /// Dies (every change fails) after so many changes, as a power cut does.
        pub(crate) changes_left: Cell<Option<usize>>,
        /// Whether somebody else holds every lock.
        pub(crate) is_locked: Cell<bool>,
        /// Bytes that are free; `None`: plenty.
        pub(crate) free: Cell<Option<u64>>,
        /// What running a program does, where more than words are needed.
        pub(crate) on_run: Option<Runs>,
        /// What edgecore answers to a path, where it depends on more than the turn.
        pub(crate) on_get: Option<Answers>,
    }

    pub(crate) type Runs = fn(&FakeHost, &str) -> Option<Ran>;
    pub(crate) type Answers = fn(&FakeHost, &str) -> io::Result<(u16, String)>;

    impl FakeHost {
        pub(crate) fn new(paths: &[&str]) -> Self {
            let host = Self::default();
            for path in paths {
                let body = (!path.ends_with('/')).then(Vec::new);
                host.files.borrow_mut().insert(PathBuf::from(path.trim_end_matches('/')), body);
            }
            host
        }

        pub(crate) fn paths(&self) -> Vec<String> {
            self.files.borrow().keys().map(|path| path.display().to_string()).collect()
        }

        fn change(&self) -> io::Result<()> {
            match self.changes_left.get() {
                Some(0) => Err(io::Error::other("the power is gone")),
                Some(left) => {
                    self.changes_left.set(Some(left - 1));
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }

    impl Host for FakeHost {
        fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
            Ok(self.files.borrow().get(path).cloned().flatten())
        }

        fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
            let files = self.files.borrow();
            let names = files.keys().filter(|path| path.parent() == Some(folder));
            Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
        }

        fn size(&self, path: &Path) -> io::Result<Option<u64>> {
            Ok(self.read(path)?.map(|body| body.len() as u64))
        }

        fn mode(&self, _: &Path) -> io::Result<u32> {
            Ok(0o644)
        }

        fn digest(&self, path: &Path) -> io::Result<String> {
            let body = self.read(path)?.ok_or(ErrorKind::NotFound)?;
            Ok(hexadecimal(digest::digest(&digest::SHA256, &body).as_ref()))
        }

        fn free(&self, _: &Path) -> io::Result<u64> {
            Ok(self.free.get().unwrap_or(u64::MAX))
        }

        fn lock(&self, path: &Path, _: Duration) -> io::Result<Option<Lock>> {
            let mut files = self.files.borrow_mut();
            files.entry(path.to_owned()).or_insert_with(|| Some(Vec::new()));
            Ok((!self.is_locked.get()).then_some(Lock { _file: None }))
        }

        fn exists(&self, path: &Path) -> bool {
            self.files.borrow().contains_key(path)
        }

        fn make_folder(&self, path: &Path, _: u32) -> io::Result<bool> {
            self.change()?;
            Ok(self.files.borrow_mut().insert(path.to_owned(), None).is_none())
        }

        fn write(&self, path: &Path, body: &[u8], _: u32) -> io::Result<()> {
            self.change()?;
            self.files.borrow_mut().insert(path.to_owned(), Some(body.to_vec()));
            Ok(())
        }

        fn append(&self, path: &Path, line: &str) -> io::Result<()> {
            self.change()?;
            let mut files = self.files.borrow_mut();
            files.entry(path.to_owned()).or_default().get_or_insert_default().extend(line.as_bytes());
            Ok(())
        }

        fn copy(&self, from: &Path, to: &Path, _: Rights) -> io::Result<()> {
            self.change()?;
            let body = self.files.borrow().get(from).cloned().flatten().ok_or(ErrorKind::NotFound)?;
            self.files.borrow_mut().insert(to.to_owned(), Some(body));
            Ok(())
        }

        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.change()?;
            self.files.borrow_mut().remove(path);
            Ok(())
        }

        fn remove_tree(&self, path: &Path) -> io::Result<()> {
            self.change()?;
            self.files.borrow_mut().retain(|held, _| !held.starts_with(path));
            Ok(())
        }

        fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran> {
            self.change()?;
            let line = format!("{} {}", program.display(), arguments.join(" "));
            self.ran.borrow_mut().push(line.clone());
            if let Some(ran) = self.on_run.and_then(|on_run| on_run(self, &line)) {
                return Ok(ran);
            }
            let of = |list: &RefCell<Vec<(String, String)>>| {
                list.borrow().iter().find(|(begin, _)| line.starts_with(begin)).map(|(_, text)| text.clone())
            };
            let ours = || (line == "/usr/local/bin/edgecore --version").then(|| "edgecore 0.1.0".to_owned());
            let failed = of(&self.fails);
            Ok(Ran {
                is_good: failed.is_none(),
                stdout: of(&self.prints).or_else(ours).unwrap_or_default(),
                stderr: failed.unwrap_or_default(),
            })
        }

        fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
            let ran = self.run(program, arguments)?;
            let text = String::from_utf8_lossy(input).into_owned();
            let stdout =
                self.redacts.borrow().as_ref().map_or(text.clone(), |secret| text.replace(secret, ""));
            Ok(Ran { stdout, ..ran })
        }

        fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()> {
            self.run(program, arguments).map(drop)
        }

        fn end(&self, program: &Path, _: Duration) -> io::Result<()> {
            self.run(Path::new("end"), &[program.display().to_string()]).map(drop)
        }

        fn get(&self, _: SocketAddr, path: &str) -> io::Result<(u16, String)> {
            if let Some(on_get) = self.on_get {
                return on_get(self, path);
            }
            let mut answers = self.node.borrow_mut();
            match answers.len() {
                0 => Err(io::Error::other("refused")),
                1 => Ok(answers[0].clone()),
                _ => Ok(answers.remove(0)),
            }
        }

        fn ask(
            &self,
            socket: &Path,
            ask: &Ask<'_>,
            take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
        ) -> io::Result<u16> {
            let answers = self.answers.borrow();
            if answers.is_empty() {
                return Err(ErrorKind::ConnectionRefused.into());
            }
            let line = format!("{} {}", ask.method, ask.path);
            let asked = format!("{} {line} {}", socket.display(), String::from_utf8_lossy(&ask.body));
            self.ran.borrow_mut().push(asked.trim_end().to_owned());
            let found = answers.iter().find(|(known, ..)| *known == line);
            let (status, body) = found.map_or((404, "{}"), |(_, status, body)| (*status, body));
            // In two pieces, as a network would.
            let (first, second) = body.as_bytes().split_at(body.len() / 2);
            take(status, first)?;
            take(status, second)?;
            Ok(status)
        }

        fn unpack(&self, _: &Path, folder: &Path) -> Result<Unpacked, String> {
            let put = |name: &str| {
                let path = folder.join(name);
                self.write(&path, name.as_bytes(), 0o644).map_err(|error| error.to_string())?;
                Ok::<_, String>(path)
            };
            Ok(Unpacked {
                edgecore: put("edgecore")?,
                keadm: put("keadm")?,
                plugins: vec![put("cni/bridge")?],
                images: vec![put("images/app.tar")?],
            })
        }

        fn pull(&self, runtime: &str, _: &str) -> Result<bool, String> {
            if self.exists(Path::new(runtime)) { Ok(true) } else { Err(format!("nobody is at {runtime}")) }
        }

        fn fetch(&self, runtime: &str, image: &str, folder: &Path) -> Result<(), String> {
            self.pull(runtime, image)?;
            for name in ["edgecore", "keadm"] {
                self.write(&folder.join(name), image.as_bytes(), 0o755).map_err(|error| error.to_string())?;
            }
            Ok(())
        }

        fn own_program(&self) -> io::Result<PathBuf> {
            Ok("/opt/keadm/keadm".into())
        }

        fn program_folders(&self) -> Vec<PathBuf> {
            vec!["/usr/bin".into()]
        }

        fn variable(&self, name: &str) -> Option<String> {
            self.variables.borrow().iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
        }

        fn name(&self) -> String {
            "Machine-7".to_owned()
        }

        fn unix_seconds(&self) -> i64 {
            // 2026-11-22
            1_795_305_600
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.clock.get())
        }

        fn sleep(&self, time: Duration) {
            self.clock.set(self.clock.get() + time.as_secs().max(1));
        }
    }
}
