//! What an edge node was before it is changed: a folder per backup, complete once its manifest is there, which is written
//! last. It copies and puts back; when, and whether edgecore stands still meanwhile, is `change.rs`'s business.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::host::{Host, Rights};
use crate::node::{self, Node};
use crate::render::{KEADM, PROGRAM};

/// Where they are.
pub(crate) const FOLDER: &str = "/var/lib/kubeedge/backup";
const MANIFEST: &str = "manifest.json";
/// Of the manifest; another one is another keadm's, and left alone.
const FORMAT: u32 = 1;
/// So many of a kind stay.
const N_KEPT: usize = 3;
/// Of what a disk has free this stays for others. Bytes.
const MARGIN: u64 = 16 << 20;
/// What SQLite has beside a store: its newest pages, and an index of them that it makes anew.
const PAGES: &str = "-wal";
const INDEX: &str = "-shm";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Programs, configuration, store, and for people the unit.
    All,
    Config,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Role {
    Program,
    Config,
    Database,
    /// Not put back: a site may have changed it since, and no change of ours touches it.
    Unit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    name: String,
    place: PathBuf,
    role: Role,
    sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    format: u32,
    version: String,
    /// Seconds since 1970, but always later than the backups before: an edge machine may have no clock.
    made: i64,
    files: Vec<Kept>,
}

/// A complete one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) folder: PathBuf,
    manifest: Manifest,
}

/// A file of a backup is gone, or is not what was kept.
#[derive(Debug)]
pub(crate) struct Damaged(String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// What became of the store when a backup was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// The present one stays: the version that was put back reads it, or the backup holds none.
    Stays,
    /// The backup's: the version that was put back cannot read the present one.
    PutBack,
}

impl Backup {
    /// `None`: there is no such, or it was never completed.
    pub(crate) fn open(host: &dyn Host, folder: &Path) -> Result<Option<Self>> {
        let body = host.read(&folder.join(MANIFEST)).with_context(|| format!("read {}", folder.display()))?;
        // One that was cut short is no JSON: a manifest is written last, and whole.
        let Some(tree) = body.and_then(|body| serde_json::from_slice::<Value>(&body).ok()) else {
            return Ok(None);
        };
        let shown = folder.display();
        if tree.get("format").and_then(Value::as_u64) != Some(FORMAT.into()) {
            bail!(
                "{shown} is a backup of another format than this keadm's {FORMAT}: use the keadm that made it"
            );
        }
        let manifest =
            serde_json::from_value(tree).with_context(|| format!("understand the list of {shown}"))?;
        Ok(Some(Self { folder: folder.to_owned(), manifest }))
    }

    pub(crate) fn version(&self) -> &str {
        &self.manifest.version
    }

    pub(crate) fn has_program(&self) -> bool {
        self.manifest.files.iter().any(|kept| kept.role == Role::Program)
    }

    /// Errors: [`Damaged`], or a file cannot be read now.
    pub(crate) fn verify(&self, host: &dyn Host) -> Result<()> {
        self.verify_those(host, |_| true)
    }

    fn verify_those(&self, host: &dyn Host, is_wanted: fn(Role) -> bool) -> Result<()> {
        for kept in self.manifest.files.iter().filter(|kept| is_wanted(kept.role)) {
            let path = self.folder.join(&kept.name);
            match host.digest(&path) {
                Ok(found) if found == kept.sha256 => {}
                Ok(_) => {
                    return Err(
                        Damaged(format!("{} is damaged: it is not what was kept", path.display())).into()
                    );
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Damaged(format!("{} is gone", path.display())).into());
                }
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            }
        }
        Ok(())
    }

    /// Puts everything into its place. edgecore stands still. Doing it again after it was cut short does no harm, if `must`
    /// then says whether `will_touch` was called: from then on the store that is there is no whole one. Errors: [`Damaged`] comes
    /// before anything is touched that is damaged; a store of no use is not missed.
    pub(crate) fn put_back(
        &self,
        host: &dyn Host,
        must: bool,
        will_touch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Store> {
        self.verify_those(host, |role| matches!(role, Role::Program | Role::Config))?;
        for kept in &self.manifest.files {
            match kept.role {
                Role::Program => self.put_one(host, kept, Rights::Program)?,
                Role::Config => self.put_one(host, kept, Rights::Same)?,
                Role::Database | Role::Unit => {}
            }
        }
        let stored: Vec<&Kept> =
            self.manifest.files.iter().filter(|kept| kept.role == Role::Database).collect();
        // What the cloud knows to be kept here is in the present store only: it goes only if it is of no use.
        let Some(store) = stored.first().filter(|_| must || !self.is_readable(host)) else {
            return Ok(Store::Stays);
        };
        self.verify_those(host, |role| role == Role::Database)?;
        will_touch()?;
        // Of the present store; they would be taken for the old one's.
        for ending in [INDEX, PAGES] {
            let path = beside(&store.place, ending);
            host.remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        for kept in stored {
            self.put_one(host, kept, Rights::Same)?;
        }
        Ok(Store::PutBack)
    }

    fn put_one(&self, host: &dyn Host, kept: &Kept, rights: Rights) -> Result<()> {
        let done = host.copy(&self.folder.join(&kept.name), &kept.place, rights);
        done.with_context(|| format!("put {} back", kept.place.display()))
    }

    /// Whether the version that was just put back can use the store that is there.
    fn is_readable(&self, host: &dyn Host) -> bool {
        let config = self.manifest.files.iter().find(|kept| kept.role == Role::Config);
        let config = config.map(|kept| kept.place.display().to_string()).unwrap_or_default();
        // One that cannot be asked is an old one, or another project's.
        if !node::is_ours(host, Path::new(PROGRAM)) {
            return false;
        }
        let asked = host.run(Path::new(PROGRAM), &["--config".to_owned(), config, "check-store".to_owned()]);
        asked.is_ok_and(|ran| ran.is_good)
    }
}

/// One that is being made. All but the store is copied while edgecore runs, so that it stands still for a shorter time.
pub(crate) struct Draft(Backup);

impl Draft {
    /// Checks that there is room for it and for `more` bytes.
    pub(crate) fn begin(host: &dyn Host, node: &Node, scope: Scope, more: u64) -> Result<Self> {
        let all = [
            ("edgecore", PathBuf::from(PROGRAM), Role::Program),
            ("keadm", PathBuf::from(KEADM), Role::Program),
            ("edgecore.yaml", node.config.clone(), Role::Config),
            ("unit", node.manager.unit().unwrap_or("/dev/null").into(), Role::Unit),
        ];
        let wanted = all.iter().filter(|(_, _, role)| scope == Scope::All || *role == Role::Config);
        let wanted: Vec<_> = wanted.filter(|(_, place, _)| place != Path::new("/dev/null")).collect();
        remove_incomplete(host)?;
        let before = list(host)?;
        let made = before.last().map_or(i64::MIN, |last| last.manifest.made.saturating_add(1));
        let made = host.unix_seconds().max(made);
        let mut n_bytes = more;
        let stores = [node.database.clone(), beside(&node.database, PAGES)];
        let stores = stores.iter().filter(|_| scope == Scope::All);
        for place in wanted.iter().map(|(_, place, _)| place).chain(stores) {
            n_bytes = n_bytes.saturating_add(host.size(place)?.unwrap_or_default());
        }
        host.make_folder(Path::new("/var/lib/kubeedge"), 0o700).context("make /var/lib/kubeedge")?;
        must_have_room(host, Path::new("/var/lib/kubeedge"), n_bytes)?;
        host.make_folder(Path::new(FOLDER), 0o700).with_context(|| format!("make {FOLDER}"))?;
        let name = match scope {
            Scope::All => format!("{}-{}", node.version, stamp(made)),
            Scope::Config => format!("config-{}", stamp(made)),
        };
        let folder = Path::new(FOLDER).join(name);
        host.make_folder(&folder, 0o700).with_context(|| format!("make {}", folder.display()))?;
        let manifest = Manifest { format: FORMAT, version: node.version.clone(), made, files: Vec::new() };
        let mut draft = Self(Backup { folder, manifest });
        for (name, place, role) in wanted {
            draft.keep(host, name, place, *role)?;
        }
        Ok(draft)
    }

    /// edgecore stands still.
    pub(crate) fn finish(mut self, host: &dyn Host, node: &Node) -> Result<Backup> {
        if self.0.has_program() {
            self.keep(host, "edgecore.db", &node.database, Role::Database)?;
            self.keep(host, "edgecore.db-wal", &beside(&node.database, PAGES), Role::Database)?;
        }
        let path = self.0.folder.join(MANIFEST);
        let body = serde_json::to_vec_pretty(&self.0.manifest).context("write the manifest")?;
        host.write(&path, &body, 0o600).with_context(|| format!("write {}", path.display()))?;
        Ok(self.0)
    }

    fn keep(&mut self, host: &dyn Host, name: &str, place: &Path, role: Role) -> Result<()> {
        if !host.exists(place) {
            return Ok(());
        }
        let to = self.0.folder.join(name);
        let copied = host.copy(place, &to, Rights::Same).and_then(|()| host.digest(&to));
        let sha256 = copied.with_context(|| format!("keep {} as {}", place.display(), to.display()))?;
        self.0.manifest.files.push(Kept { name: name.to_owned(), place: place.to_owned(), role, sha256 });
        Ok(())
    }
}

/// The complete ones, the oldest first.
pub(crate) fn list(host: &dyn Host) -> Result<Vec<Backup>> {
    let mut found = Vec::new();
    for name in host.list(Path::new(FOLDER)).with_context(|| format!("read {FOLDER}"))? {
        // One of another format is nothing that this keadm can use.
        found.extend(Backup::open(host, &Path::new(FOLDER).join(name)).ok().flatten());
    }
    found.sort_by_key(|backup| backup.manifest.made);
    Ok(found)
}

/// Removes all but the newest of each kind.
pub(crate) fn prune(host: &dyn Host) -> Result<()> {
    let (whole, config): (Vec<_>, Vec<_>) = list(host)?.into_iter().partition(Backup::has_program);
    for of_a_kind in [whole, config] {
        for backup in of_a_kind.iter().rev().skip(N_KEPT) {
            // Without its manifest it is none any more, wherever this is cut short.
            host.remove_file(&backup.folder.join(MANIFEST))?;
            host.remove_tree(&backup.folder)?;
        }
    }
    Ok(())
}

fn remove_incomplete(host: &dyn Host) -> Result<()> {
    for name in host.list(Path::new(FOLDER)).with_context(|| format!("read {FOLDER}"))? {
        let folder = Path::new(FOLDER).join(name);
        if matches!(Backup::open(host, &folder), Ok(None)) {
            host.remove_tree(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
    }
    Ok(())
}

/// Errors: a sentence that says how much is missing where.
pub(crate) fn must_have_room(host: &dyn Host, folder: &Path, n_bytes: u64) -> Result<()> {
    let shown = folder.display();
    let free = host.free(folder).with_context(|| format!("see how much room {shown} has"))?;
    let needed = n_bytes.saturating_add(MARGIN);
    if free < needed {
        let mib = |n_bytes: u64| n_bytes.div_ceil(1 << 20);
        bail!(
            "there is not enough room at {shown}: {} MiB are free, {} MiB are needed; older backups are in {FOLDER}",
            free >> 20,
            mib(needed)
        );
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

pub(crate) fn stamp(unix_seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix_seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn put(host: &FakeHost, name: &str, manifest: &str) {
        let folder = Path::new(FOLDER).join(name);
        host.files.borrow_mut().insert(folder.clone(), None);
        host.files.borrow_mut().insert(folder.join(MANIFEST), Some(manifest.into()));
    }

    #[test]
    fn a_backup_of_another_format_is_told_and_stays() {
        let host = FakeHost::new(&[]);
        let mine = |made: usize| format!(r#"{{"format":1,"version":"0.1.{made}","made":{made},"files":[]}}"#);
        for made in 1..=N_KEPT + 1 {
            put(&host, &format!("mine-{made}"), &mine(made));
        }
        // The oldest of all, and not even a list of files as this keadm knows it.
        put(&host, "theirs", r#"{"format":2,"made":0}"#);
        put(&host, "cut-short", r#"{"format":1,"ver"#);
        host.files.borrow_mut().insert(Path::new(FOLDER).join("not-begun"), None);
        let is_there = |name: &str| host.exists(&Path::new(FOLDER).join(name));
        remove_incomplete(&host).unwrap();
        assert!(is_there("theirs") && is_there("mine-1") && !is_there("cut-short") && !is_there("not-begun"));
        prune(&host).unwrap();
        assert!(is_there("theirs") && is_there("mine-2") && !is_there("mine-1"), "{:?}", host.paths());
        assert_eq!(list(&host).unwrap().len(), N_KEPT);
        let error = Backup::open(&host, &Path::new(FOLDER).join("theirs")).unwrap_err();
        assert!(error.to_string().contains("use the keadm that made it"), "{error}");
    }
}
