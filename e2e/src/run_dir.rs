//! One directory per started thing, and the promise that all that belongs to it goes away with it.
//!
//! What lies outside the directory (bridge, cgroup, claimed port) is written into its `leftovers` file before it is
//! made. Dropping a `RunDir` sweeps; if its owner was killed, the next `RunDir::new` on the machine sweeps for it.
//! It never touches what is not written there. Called by cluster, runtime, node and the demo.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{leftovers, process};

/// Below the range the kernel takes for outgoing connections (32768 on), above the well-known ones.
const PORTS: std::ops::Range<u16> = 20000..30000;
/// Owner text of what `detach` left running.
const DETACHED: &str = "detached";

pub struct RunDir {
    path: PathBuf,
    /// False once it was swept or belongs to nobody any more.
    owned: bool,
}

impl RunDir {
    /// Makes `<base>/<kind>-<pid>-<n>`, after removing what dead owners left.
    pub fn new(kind: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = base()?;
        let _lock = lock(&base)?;
        reap(&base)?;
        let pid = std::process::id();
        let path = base.join(format!("{kind}-{pid}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        fs::write(path.join("owner"), format!("{pid} {}", process::start_time(pid).unwrap_or(0)))?;
        process::touch(&path.join("leftovers"))?;
        Ok(Self { path, owned: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A directory inside, made if it is not there.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Readable to its owner only: kubeconfigs and configuration files with join tokens are written by this.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(content.as_ref()));
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Promises that `thing` will be removed by the sweep; call it before making the thing.
    pub fn record(&self, thing: &leftovers::Leftover) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.join("leftovers"))?;
        writeln!(file, "{thing}").context("write leftovers")
    }

    /// A TCP port of 127.0.0.1 that no other run gets while this one lives.
    pub fn port(&self) -> Result<u16> {
        // Two runs begin their search at different places, so that they seldom ask for the same claim.
        let span = u32::from(PORTS.end - PORTS.start);
        let first = std::process::id().wrapping_mul(97) % span;
        for n in 0..span {
            let Ok(offset) = u16::try_from((first + n) % span) else { continue };
            let port = PORTS.start + offset;
            // A claimed port that is somebody else's stays claimed until the sweep, which does no harm.
            if self.claim(&format!("port-{port}"))? && TcpListener::bind(("0.0.0.0", port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port from {} to {}", PORTS.start, PORTS.end - 1)
    }

    /// A number from `range` that no other run holds under `name`.
    pub fn number(&self, name: &str, range: std::ops::Range<u8>, free: impl Fn(u8) -> bool) -> Result<u8> {
        for n in range {
            if free(n) && self.claim(&format!("{name}-{n}"))? {
                return Ok(n);
            }
        }
        bail!("every {name} is taken by another run")
    }

    fn claim(&self, name: &str) -> Result<bool> {
        let path = base()?.join("claims").join(name);
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(self.path.as_os_str().as_encoded_bytes())?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).with_context(|| format!("claim {}", path.display())),
        }
    }

    /// Leaves everything running after this process; `sweep_detached` takes it away.
    pub fn detach(&mut self) -> Result<()> {
        self.write("owner", DETACHED)?;
        self.owned = false;
        Ok(())
    }

    /// Ends and removes all that belongs here. Dropping does the same, but can only print an error.
    pub fn sweep(&mut self) -> Result<()> {
        self.owned = false;
        sweep(&self.path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // Whether the story failed is not known here: it may be about to return an error.
        if let Err(error) = keep_logs(&self.path) {
            eprintln!("logs of {} are lost: {error:#}", self.path.display());
        }
        if let Err(error) = self.sweep() {
            eprintln!("not everything of {} could be removed: {error:#}", self.path.display());
        }
    }
}

/// Removes what `detach` left, of every process. Returns how many directories that were.
pub fn sweep_detached() -> Result<usize> {
    let base = base()?;
    let _lock = lock(&base)?;
    reap(&base)?;
    let mut n = 0;
    for path in run_dirs(&base)? {
        if owner_of(&path) == Owner::Detached {
            sweep(&path)?;
            n += 1;
        }
    }
    if run_dirs(&base)?.is_empty() {
        leftovers::remove_shared()?;
        fs::remove_dir(base.join("claims")).ok();
        fs::remove_file(base.join("lock")).ok();
        fs::remove_dir(&base).ok();
    }
    Ok(n)
}

/// The directories that `detach` left.
pub fn detached() -> Result<Vec<PathBuf>> {
    Ok(run_dirs(&base()?)?.into_iter().filter(|path| owner_of(path) == Owner::Detached).collect())
}

/// How many directories a process owns.
pub fn n_of(pid: u32) -> Result<usize> {
    let marked = |path: &&PathBuf| {
        fs::read_to_string(path.join("owner")).is_ok_and(|text| text.starts_with(&format!("{pid} ")))
    };
    Ok(run_dirs(&base()?)?.iter().filter(marked).count())
}

/// Removes what killed runs left behind. `RunDir::new` does it too.
pub fn reap_dead() -> Result<()> {
    let base = base()?;
    let _lock = lock(&base)?;
    reap(&base)
}

/// `/var/tmp/isthmus-<uid>`: on a disk (images are unpacked here), short (socket paths have 107 bytes), ours.
pub fn base() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let base = match std::env::var_os("ISTHMUS_RUN") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(format!("/var/tmp/isthmus-{uid}")),
    };
    // Others may pass through (container users reach their files), but not look around or write.
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(base.join("claims"));
    made.with_context(|| format!("create {}", base.display()))?;
    let owner = fs::metadata(&base)?.uid();
    if owner != uid {
        bail!("{} belongs to user {owner}; type: export ISTHMUS_RUN=<a folder of yours>", base.display());
    }
    Ok(base)
}

fn lock(base: &Path) -> Result<File> {
    let path = base.join("lock");
    loop {
        fs::create_dir_all(base.join("claims")).context("create the run directories' folder")?;
        let file = File::create(&path).context("open the lock of the run directories")?;
        file.lock().context("lock the run directories")?;
        // Whoever removed the last trace removed this file too, perhaps while we waited for it.
        if fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
            return Ok(file);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Owner {
    Alive,
    Dead,
    Detached,
}

fn owner_of(path: &Path) -> Owner {
    // Directories are made and read under the lock, so a missing owner means one killed in between.
    let text = fs::read_to_string(path.join("owner")).unwrap_or_default();
    if text == DETACHED {
        return Owner::Detached;
    }
    let mut fields = text.split(' ').map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (fields.next(), fields.next()) else { return Owner::Dead };
    match u32::try_from(pid).ok().and_then(process::start_time) {
        Some(time) if time == start => Owner::Alive,
        _ => Owner::Dead,
    }
}

fn run_dirs(base: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("claims") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn reap(base: &Path) -> Result<()> {
    for path in run_dirs(base)? {
        if owner_of(&path) == Owner::Dead {
            eprintln!("removing what a killed run left in {}", path.display());
            sweep(&path)?;
        }
    }
    Ok(())
}

fn sweep(path: &Path) -> Result<()> {
    process::end_all(path)?;
    let text = fs::read_to_string(path.join("leftovers")).unwrap_or_default();
    let things: Vec<leftovers::Leftover> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for thing in &things {
        thing.remove().with_context(|| format!("remove {thing}"))?;
    }
    leftovers::unmount_below(path)?;
    let claims = base()?.join("claims");
    for entry in fs::read_dir(&claims)?.flatten() {
        if fs::read(entry.path()).is_ok_and(|holder| holder == path.as_os_str().as_encoded_bytes()) {
            fs::remove_file(entry.path()).ok();
        }
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Copies the logs to `<target>/e2e-logs`, where CI and people look after a failure. Those of yesterday go.
fn keep_logs(path: &Path) -> Result<()> {
    let all = process::target_dir()?.join("e2e-logs");
    for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > Duration::from_secs(24 * 3600) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let target = all.join(path.file_name().unwrap_or_default());
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(path)?.flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "log") {
            fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
    }
    Ok(())
}
