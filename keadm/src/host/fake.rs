//! A machine in memory, for the tests of what is decided.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::ErrorKind;

use ring::digest;

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
    /// What the calendar has gone on by. Seconds; it may stand still, as on a machine without a clock.
    pub(crate) date: Cell<i64>,
    /// Dies (every change fails) after so many changes, as a power cut does. One that is cut in a write leaves what it had
    /// written beside the file's place.
    pub(crate) changes_left: Cell<Option<usize>>,
    pub(crate) is_dead: Cell<bool>,
    /// Images that the container runtime has; others it pulls, which `ran` shows.
    pub(crate) images: RefCell<Vec<String>>,
    /// Folders that cannot be removed.
    pub(crate) stuck: RefCell<Vec<PathBuf>>,
    /// Whether somebody else holds every lock.
    pub(crate) is_locked: Cell<bool>,
    /// Whether who runs this is not root.
    pub(crate) is_user: Cell<bool>,
    /// How keadm was typed; `None`: plainly.
    pub(crate) typed: RefCell<Option<String>>,
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
        let left = self.changes_left.get();
        self.is_dead.set(left == Some(0));
        if left == Some(0) {
            return Err(io::Error::other("the power is gone"));
        }
        self.changes_left.set(left.map(|left| left - 1));
        Ok(())
    }

    /// A change that puts a whole file at `path`.
    fn fill(&self, path: &Path, body: Vec<u8>) -> io::Result<()> {
        let was_dead = self.is_dead.get();
        let done = self.change();
        let mut files = self.files.borrow_mut();
        match &done {
            Ok(()) => {
                files.remove(&beside(path));
                files.insert(path.to_owned(), Some(body));
            }
            Err(_) if was_dead => {}
            Err(_) => {
                files.insert(beside(path), Some(b"half".to_vec()));
            }
        }
        done
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

    fn holds(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        Ok(self.read(path)?.is_some_and(|body| body.windows(bytes.len()).any(|window| window == bytes)))
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.free.get().unwrap_or(u64::MAX))
    }

    fn lock(&self, _: &Path, _: Duration) -> io::Result<Option<Lock>> {
        Ok((!self.is_locked.get()).then_some(Lock::of_nothing()))
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.borrow().contains_key(path)
    }

    fn make_folder(&self, path: &Path, _: u32) -> io::Result<bool> {
        self.change()?;
        Ok(self.files.borrow_mut().insert(path.to_owned(), None).is_none())
    }

    fn write(&self, path: &Path, body: &[u8], _: u32) -> io::Result<()> {
        self.fill(path, body.to_vec())
    }

    fn append(&self, path: &Path, line: &str) -> io::Result<()> {
        self.change()?;
        let mut files = self.files.borrow_mut();
        files.entry(path.to_owned()).or_default().get_or_insert_default().extend(line.as_bytes());
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path, _: Rights) -> io::Result<()> {
        let body = self.files.borrow().get(from).cloned().flatten().ok_or(ErrorKind::NotFound)?;
        self.fill(to, body)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.files.borrow_mut().remove(path);
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        if self.stuck.borrow().iter().any(|stuck| stuck == path) {
            return Err(io::Error::other("it is stuck"));
        }
        self.files.borrow_mut().retain(|held, _| !held.starts_with(path));
        Ok(())
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        let mut files = self.files.borrow_mut();
        if !files.keys().any(|held| held != path && held.starts_with(path)) {
            files.remove(path);
        }
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
        // Ours, unless a test says otherwise in as many words.
        let is_version =
            line == "/usr/local/bin/edgecore --version" && self.exists(Path::new("/usr/local/bin/edgecore"));
        let is_told =
            |list: &RefCell<Vec<(String, String)>>| list.borrow().iter().any(|(begin, _)| *begin == line);
        if is_version && !is_told(&self.prints) && !is_told(&self.fails) {
            return Ok(Ran { is_good: true, stdout: "edgecore 0.1.0".to_owned(), ..Ran::default() });
        }
        let failed = of(&self.fails);
        Ok(Ran {
            is_good: failed.is_none(),
            code: Some(i32::from(failed.is_some())),
            stdout: of(&self.prints).unwrap_or_default(),
            stderr: failed.unwrap_or_default(),
        })
    }

    fn feed(&self, program: &Path, arguments: &[String], input: &[u8]) -> io::Result<Ran> {
        let ran = self.run(program, arguments)?;
        let text = String::from_utf8_lossy(input).into_owned();
        let stdout = self.redacts.borrow().as_ref().map_or(text.clone(), |secret| text.replace(secret, ""));
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
            plugins: vec![put("cni/bridge")?, put("cni/portmap")?],
            images: vec![put("images/app.tar")?],
        })
    }

    fn pull(&self, runtime: &str, image: &str) -> Result<bool, String> {
        if !self.exists(Path::new(runtime)) {
            return Err(format!("nobody is at {runtime}"));
        }
        let is_new = !self.images.borrow().iter().any(|held| held == image);
        if is_new {
            self.ran.borrow_mut().push(format!("pull {image}"));
        }
        Ok(is_new)
    }

    fn fetch(&self, runtime: &str, image: &str, may_pull: bool, folder: &Path) -> Result<(), String> {
        if !may_pull && !self.images.borrow().iter().any(|held| held == image) {
            return Err(format!("{image} is not here"));
        }
        self.pull(runtime, image)?;
        for name in ["edgecore", "keadm"] {
            self.write(&folder.join(name), image.as_bytes(), 0o755).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn own_program(&self) -> io::Result<PathBuf> {
        Ok("/opt/keadm/keadm".into())
    }

    fn typed(&self) -> String {
        self.typed.borrow().clone().unwrap_or_else(|| "keadm".to_owned())
    }

    fn program_folders(&self) -> Vec<PathBuf> {
        vec!["/usr/bin".into()]
    }

    fn is_root(&self) -> bool {
        !self.is_user.get()
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.borrow().iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
    }

    fn name(&self) -> String {
        "Machine-7".to_owned()
    }

    fn unix_seconds(&self) -> i64 {
        // 2026-11-22
        1_795_305_600 + self.date.get()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.clock.get())
    }

    fn sleep(&self, time: Duration) {
        self.clock.set(self.clock.get() + time.as_secs().max(1));
    }
}
