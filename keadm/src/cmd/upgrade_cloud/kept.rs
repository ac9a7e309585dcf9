//! What was before each upgrade, on disk: a folder for each, that says whether the upgrade came to its end. A keadm that was
//! killed leaves one that is under way, and the next one goes on or back from what was before that, never from half of both.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::before::{Before, is_same};
use crate::backup::stamp;
use crate::failure::Failure;
use crate::host::{Host, Lock};

/// Where the folders are, unless flags say otherwise.
pub(super) const FOLDER: &str = "/var/lib/keadm-cloud";
/// In such a folder, for people and kubectl.
pub(super) const OBJECTS: &str = "objects.yaml";
/// The same for what a rollback has taken away.
const TAKEN_BACK: &str = "taken-back.yaml";
/// In such a folder, for keadm: with what the API server says about who wrote what.
const RECORD: &str = "before.json";
/// Of the record; another one is another keadm's, and left alone.
const FORMAT: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// The cluster may hold some of both.
    UnderWay,
    Done,
    /// What was before is there again.
    TakenBack,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    format: u32,
    state: State,
    /// The Deployment's uid: one folder may hold what was in several clusters, or before a reset.
    installation: String,
    /// The values that the next upgrade starts from if this one is not finished; null: those of before.
    said: Value,
    before: Before,
    /// Objects that were not there before, and are now or may be.
    made: Vec<Value>,
}

/// One upgrade's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) folder: PathBuf,
    record: Record,
}

impl Kept {
    /// Nothing is changed in the cluster before this has returned. `all`: what there is to be, by `said`.
    pub(super) fn make(
        host: &dyn Host,
        above: &Path,
        installation: &str,
        before: Before,
        (said, all): (&Value, &[Value]),
    ) -> Result<Self> {
        let folder = above.join(stamp(host.unix_seconds()));
        if host.exists(&folder.join(OBJECTS)) {
            bail!("{} holds the objects before another upgrade: type the same again", folder.display());
        }
        let advice = || format!("write {}; another folder: --backup-dir FOLDER", folder.display());
        make_folders(host, &folder).with_context(advice)?;
        host.write(&folder.join(OBJECTS), before.text(OBJECTS)?.as_bytes(), 0o600).with_context(advice)?;
        let record = Record {
            format: FORMAT,
            state: State::UnderWay,
            installation: installation.to_owned(),
            said: Value::Null,
            before,
            made: Vec::new(),
        };
        let mut kept = Self { folder, record };
        kept.go_on(host, said, all)?;
        Ok(kept)
    }

    /// It is under way again, to these objects.
    pub(super) fn go_on(&mut self, host: &dyn Host, said: &Value, all: &[Value]) -> Result<()> {
        self.record.said = said.clone();
        for object in all.iter().filter(|object| !self.record.before.has(object)) {
            if !self.record.made.iter().any(|one| is_same(one, object)) {
                self.record.made.push(super::named(object));
            }
        }
        self.note(host, State::UnderWay)
    }

    /// It is being gone back to. `now`: what goes, for whoever wants that again.
    pub(super) fn go_back(&mut self, host: &dyn Host, now: Option<&Before>) -> Result<()> {
        if let Some(now) = now {
            let path = self.folder.join(TAKEN_BACK);
            let written = host.write(&path, now.text(TAKEN_BACK)?.as_bytes(), 0o600);
            written.with_context(|| format!("write {}", path.display()))?;
        }
        self.record.said = Value::Null;
        self.note(host, State::UnderWay)
    }

    pub(super) fn note(&mut self, host: &dyn Host, state: State) -> Result<()> {
        self.record.state = state;
        let path = self.folder.join(RECORD);
        let body = serde_json::to_vec(&self.record).context("write a record")?;
        host.write(&path, &body, 0o600).with_context(|| format!("write {}", path.display()))
    }

    pub(super) fn state(&self) -> State {
        self.record.state
    }

    pub(super) fn before(&self) -> &Before {
        &self.record.before
    }

    pub(super) fn said(&self) -> &Value {
        &self.record.said
    }

    pub(super) fn made(&self) -> &[Value] {
        &self.record.made
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.folder.join(OBJECTS)
    }

    /// What to type to have back what was before.
    pub(super) fn way_back(&self) -> String {
        match self.folder.parent().filter(|above| *above != Path::new(FOLDER)) {
            Some(above) => format!("keadm rollback cloud --backup-dir {}", above.display()),
            None => "keadm rollback cloud".to_owned(),
        }
    }
}

/// So that nobody else changes cloudcore from this machine meanwhile.
pub(super) fn hold(host: &dyn Host, above: &Path) -> Result<Lock, Failure> {
    let path = above.join("lock");
    let lock = make_folders(host, above).and_then(|()| {
        host.lock(&path, std::time::Duration::ZERO).with_context(|| format!("lock {}", path.display()))
    });
    let lock = lock.map_err(|error| {
        Failure::Refused(format!("nothing was changed: {error:#}; another folder: --backup-dir FOLDER"))
    })?;
    lock.ok_or_else(|| {
        Failure::Refused("another keadm is changing cloudcore: wait until it has ended".into())
    })
}

/// Those of this installation, the oldest first.
pub(super) fn list(
    host: &dyn Host,
    above: &Path,
    installation: &str,
    say: &dyn Fn(&str),
) -> Result<Vec<Kept>> {
    let mut found = Vec::new();
    let mut names = host.list(above).with_context(|| format!("read {}", above.display()))?;
    // They are times.
    names.sort();
    for folder in names.into_iter().map(|name| above.join(name)) {
        // Without it nothing was changed yet, or it is an older keadm's.
        if !host.exists(&folder.join(RECORD)) {
            continue;
        }
        match read(host, &folder) {
            Ok(record) if record.installation == installation => found.push(Kept { folder, record }),
            Ok(_) => {}
            Err(error) => say(&format!("warning: {} is passed over: {error:#}", folder.display())),
        }
    }
    Ok(found)
}

fn read(host: &dyn Host, folder: &Path) -> Result<Record> {
    let body = host.read(&folder.join(RECORD))?.unwrap_or_default();
    let tree: Value = serde_json::from_slice(&body).with_context(|| format!("understand its {RECORD}"))?;
    if tree.get("format").and_then(Value::as_u64) != Some(FORMAT.into()) {
        bail!("it is of another format than this keadm's {FORMAT}; use the keadm that made it");
    }
    serde_json::from_value(tree).with_context(|| format!("understand its {RECORD}"))
}

/// The one that was cut short. The oldest: what came after it started from half of both.
pub(super) fn under_way(kept: Vec<Kept>) -> Option<Kept> {
    kept.into_iter().find(|one| one.state() == State::UnderWay)
}

/// Refuses if an upgrade was cut short, or somebody else is at it.
pub(super) fn must_be_whole(
    host: &dyn Host,
    above: &Path,
    installation: &str,
    say: &dyn Fn(&str),
) -> Result<(), Failure> {
    let look = || list(host, above, installation, say).map(under_way).map_err(super::refused);
    if look()?.is_none() {
        return Ok(());
    }
    let _lock = hold(host, above)?;
    // It may have come to its end between the two.
    look()?.map_or(Ok(()), |kept| {
        Err(Failure::Refused(format!(
            "an upgrade of cloudcore was cut short (what was before is kept in {}): keadm upgrade cloud goes on with it, and \
             keadm rollback cloud goes back",
            kept.objects().display()
        )))
    })
}

/// Which one to go back to, and those after it. `wanted`: a folder's name. Errors: a sentence.
pub(super) fn choose(mut kept: Vec<Kept>, wanted: Option<&str>) -> Result<Vec<Kept>, String> {
    let is_named = |one: &Kept, name: &str| one.folder.file_name() == Some(name.as_ref());
    let place = match wanted {
        Some(name) => kept.iter().position(|one| is_named(one, name)),
        None => kept
            .iter()
            .position(|one| one.state() == State::UnderWay)
            .or_else(|| kept.iter().rposition(|one| one.state() == State::Done)),
    };
    if let Some(place) = place {
        return Ok(kept.split_off(place));
    }
    let name = |one: &Kept| Some(one.folder.file_name()?.to_string_lossy().into_owned());
    let names: Vec<String> = kept.iter().filter_map(name).collect();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(match wanted {
        Some(name) => format!("no upgrade of this cloudcore is kept as {name}; there are: {there}"),
        None => "no upgrade of this cloudcore is kept here that was not taken back; the folder with others: --backup-dir FOLDER"
            .to_owned(),
    })
}

fn make_folders(host: &dyn Host, folder: &Path) -> Result<()> {
    let mut all: Vec<&Path> = folder.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    all.reverse();
    for path in all.into_iter().filter(|path| !host.exists(path)) {
        host.make_folder(path, 0o755).with_context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;
    use crate::host::fake::FakeHost;

    fn before(image: &str) -> Before {
        Before { present: vec![json!({"kind": "Deployment", "spec": image})], gone: Vec::new() }
    }

    fn make(host: &FakeHost, image: &str) -> Kept {
        let all = [
            json!({"kind": "Deployment"}),
            json!({"kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": 1}),
        ];
        let done = Kept::make(host, Path::new(FOLDER), "uid-1", before(image), (&json!({"a": 1}), &all));
        host.date.set(host.date.get() + 60);
        done.unwrap()
    }

    fn all(host: &FakeHost, installation: &str) -> Vec<Kept> {
        list(host, Path::new(FOLDER), installation, &|line| panic!("{line}")).unwrap()
    }

    #[test]
    fn what_was_cut_short_is_found_with_what_was_before_it() {
        let host = FakeHost::new(&["/", "/var/", "/var/lib/"]);
        let mut first = make(&host, "v1");
        assert_eq!(under_way(all(&host, "uid-1")).as_ref(), Some(&first));
        assert_eq!(first.made().len(), 1, "{:?}", first.made());
        let is_whole = |of: &str| must_be_whole(&host, Path::new(FOLDER), of, &|line| panic!("{line}"));
        let why = |of: &str| is_whole(of).unwrap_err().to_string();
        assert!(why("uid-1").contains("keadm rollback cloud goes back"));
        is_whole("uid-2").unwrap();
        // By one that runs it is not.
        host.is_locked.set(true);
        assert_eq!(why("uid-1"), "another keadm is changing cloudcore: wait until it has ended");
        host.is_locked.set(false);
        // Another cluster's is not touched.
        assert_eq!(all(&host, "uid-2"), []);
        // Going on keeps what was before, and forgets no object that the first try may have made.
        let other = [json!({"kind": "Service", "metadata": {"name": "s"}})];
        first.go_on(&host, &json!({"a": 2}), &other).unwrap();
        let found = under_way(all(&host, "uid-1")).unwrap();
        assert_eq!((found.before(), found.said(), found.made().len()), (&before("v1"), &json!({"a": 2}), 2));
        // While it is gone back to, nothing of what was said holds.
        first.go_back(&host, None).unwrap();
        assert_eq!(under_way(all(&host, "uid-1")).unwrap().said(), &Value::Null);
        first.note(&host, State::Done).unwrap();
        is_whole("uid-1").unwrap();
        assert_eq!(under_way(all(&host, "uid-1")), None);
        // Whatever the clock says.
        host.date.set(0);
        let second = Kept::make(&host, Path::new(FOLDER), "uid-1", before("v2"), (&Value::Null, &[]));
        assert!(second.unwrap_err().to_string().contains("type the same again"));
    }

    #[test]
    fn nothing_is_found_of_what_was_never_begun() {
        for n_changes in 0..4 {
            let host = FakeHost::new(&["/", "/var/", "/var/lib/"]);
            host.changes_left.set(Some(n_changes));
            let done = Kept::make(&host, Path::new(FOLDER), "uid-1", before("v1"), (&Value::Null, &[]));
            assert_eq!(done.is_err(), all(&host, "uid-1").is_empty(), "{n_changes}");
        }
    }

    #[test]
    fn who_goes_back_finds_the_newest_that_holds() {
        let check = |states: &[State], wanted: Option<&str>, expected: Result<&str, &str>| {
            let host = FakeHost::new(&["/", "/var/", "/var/lib/"]);
            for (image, state) in ["v0", "v1", "v2"].into_iter().zip(states) {
                make(&host, image).note(&host, *state).unwrap();
            }
            let found = choose(all(&host, "uid-1"), wanted);
            match (found, expected) {
                (Ok(found), Ok(image)) => {
                    assert_eq!(found[0].before(), &before(image), "{states:?} {wanted:?}")
                }
                (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
                (found, _) => panic!("{states:?} {wanted:?}: {found:?}"),
            }
        };
        use State::{Done, TakenBack, UnderWay};
        check(&[Done, Done], None, Ok("v1"));
        check(&[Done, Done, TakenBack], None, Ok("v1"));
        check(&[Done, UnderWay], None, Ok("v1"));
        // A rollback to the first was cut short.
        check(&[UnderWay, UnderWay, Done], None, Ok("v0"));
        let [first, second] = [0, 60].map(|later| stamp(FakeHost::new(&[]).unix_seconds() + later));
        check(&[Done, Done, Done], Some(&second), Ok("v1"));
        check(&[Done, TakenBack], Some(&second), Ok("v1"));
        check(&[], None, Err("--backup-dir FOLDER"));
        check(&[TakenBack], None, Err("not taken back"));
        check(&[Done], Some("v1.2"), Err(&format!("there are: {first}")));
    }

    #[test]
    fn what_is_not_understood_is_told_and_stays() {
        let host = FakeHost::new(&["/", "/var/", "/var/lib/"]);
        make(&host, "v1");
        for (name, body) in [("a", r#"{"format":2}"#), ("b", "{")] {
            let path = Path::new(FOLDER).join(name).join(RECORD);
            host.files.borrow_mut().insert(path.parent().unwrap().to_owned(), None);
            host.files.borrow_mut().insert(path, Some(body.into()));
        }
        let told = RefCell::new(Vec::new());
        let found = list(&host, Path::new(FOLDER), "uid-1", &|line| told.borrow_mut().push(line.to_owned()));
        assert_eq!(found.unwrap().len(), 1);
        let told = told.borrow();
        assert!(
            told.len() == 2 && told[0].contains("another format") && told[1].contains("understand"),
            "{told:?}"
        );
    }

    #[test]
    fn only_one_changes_cloudcore() {
        let host = FakeHost::new(&["/", "/var/", "/var/lib/"]);
        hold(&host, Path::new(FOLDER)).unwrap();
        host.is_locked.set(true);
        assert_eq!(hold(&host, Path::new(FOLDER)).map(drop).unwrap_err().code(), 3);
    }
}
