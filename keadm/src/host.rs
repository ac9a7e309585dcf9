//! The machine: files, programs, processes. The only file that touches it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An answer on loopback is small; more than this is somebody else's.
const MAX_ANSWER: u64 = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether its exit code was 0.
    pub(crate) is_good: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Everything that commands want of a machine.
pub(crate) trait Host {
    /// A file's content; `None`: it is not there.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;
    /// Whether anything is there, links included.
    fn exists(&self, path: &Path) -> bool;
    /// Makes one folder, whose parent is there. `false`: it was there.
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<bool>;
    /// Whole or not at all, and on disk.
    fn write(&self, path: &Path, body: &[u8], mode: u32) -> io::Result<()>;
    /// Adds to a file, on disk when this returns. Makes it, for root's eyes only.
    fn append(&self, path: &Path, line: &str) -> io::Result<()>;
    /// A program's file, whole or not at all.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gone already: success.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// With all that is in it, but nothing that is mounted there. Gone already: success.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Runs a program to its end. Errors: it could not be started.
    fn run(&self, program: &Path, arguments: &[String]) -> io::Result<Ran>;
    /// Starts a program that outlives this one.
    fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()>;
    /// `GET` over plain HTTP: status and body.
    fn get(&self, address: SocketAddr, path: &str) -> io::Result<(u16, String)>;
    /// Where this program lies.
    fn own_program(&self) -> io::Result<PathBuf>;
    /// Folders of PATH.
    fn program_folders(&self) -> Vec<PathBuf>;
    /// The machine's name.
    fn name(&self) -> String;
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

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let beside = beside(to);
        fs::copy(from, &beside)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o755))?;
        File::open(&beside)?.sync_all()?;
        fs::rename(&beside, to)?;
        sync_folder_of(to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        gone(fs::remove_file(path))
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
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok(Ran { is_good: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
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

    fn own_program(&self) -> io::Result<PathBuf> {
        std::env::current_exe()
    }

    fn program_folders(&self) -> Vec<PathBuf> {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
    }

    fn name(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".keadm-new");
    name.into()
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
        /// What programs print, by the beginning of their line.
        pub(crate) prints: RefCell<Vec<(String, String)>>,
        /// Answers of edgecore, the last one for ever.
        pub(crate) node: RefCell<Vec<(u16, String)>>,
        pub(crate) clock: Cell<u64>,
        /// Dies (every change fails) after so many changes, as a power cut does.
        pub(crate) changes_left: Cell<Option<usize>>,
    }

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

        fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.change()?;
            let body = self.files.borrow().get(from).cloned().flatten().unwrap_or_default();
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
            let of = |list: &RefCell<Vec<(String, String)>>| {
                list.borrow().iter().find(|(begin, _)| line.starts_with(begin)).map(|(_, text)| text.clone())
            };
            let failed = of(&self.fails);
            Ok(Ran {
                is_good: failed.is_none(),
                stdout: of(&self.prints).unwrap_or_default(),
                stderr: failed.unwrap_or_default(),
            })
        }

        fn start_aside(&self, program: &Path, arguments: &[String]) -> io::Result<()> {
            self.run(program, arguments).map(drop)
        }

        fn get(&self, _: SocketAddr, _: &str) -> io::Result<(u16, String)> {
            let mut answers = self.node.borrow_mut();
            match answers.len() {
                0 => Err(io::Error::other("refused")),
                1 => Ok(answers[0].clone()),
                _ => Ok(answers.remove(0)),
            }
        }

        fn own_program(&self) -> io::Result<PathBuf> {
            Ok("/opt/keadm/keadm".into())
        }

        fn program_folders(&self) -> Vec<PathBuf> {
            vec!["/usr/bin".into()]
        }

        fn name(&self) -> String {
            "Machine-7".to_owned()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.clock.get())
        }

        fn sleep(&self, time: Duration) {
            self.clock.set(self.clock.get() + time.as_secs().max(1));
        }
    }
}
