//! Which of the machine's user and group ids a pod with users of its own has.
//!
//! 65,536 of them, no two pods the same, noted in the pod's directory as a kubelet notes them: a start of edgecore, and a
//! kubelet's pods taken over, keep theirs. They are free again when the directory goes. Nothing is remembered: what is
//! noted is read each time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, PodDir};
use super::{VolumeError, on_path};
use crate::edged::pod_files::IdRange;

/// The kubelet's name for the note.
pub(super) const FILE: &str = "userns";
/// Each pod's share. Ranges begin at its multiples, and never at 0: that is the machine's own users.
const LENGTH: u32 = 65_536;
/// Who owns the ids that an administrator set aside for pods; the kubelet's name, so that both find the same.
const OWNER: &str = "kubelet";

/// The note, as a kubelet writes it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The ids that pods may have: `first` to `last`, in shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    first: u32,
    last: u32,
}

/// As this machine's files say it.
pub(super) fn space() -> Result<Space, VolumeError> {
    let text = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| VolumeError::Disk(format!("read {path}: {error}"))),
    };
    space_in(&text("/etc/passwd")?, &text("/etc/subuid")?, &text("/etc/subgid")?).map_err(VolumeError::Disk)
}

/// All above the first share, or, where the machine has a user `kubelet`, what is set aside for it.
fn space_in(passwd: &str, subuid: &str, subgid: &str) -> Result<Space, String> {
    let all = Space { first: 1, last: u32::MAX / LENGTH };
    if !passwd.lines().any(|line| line.split(':').next() == Some(OWNER)) {
        return Ok(all);
    }
    let set_aside = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(OWNER)?.strip_prefix(':'));
        lines.map(str::to_owned).collect()
    };
    let (uids, gids) = (set_aside(subuid), set_aside(subgid));
    if uids != gids {
        return Err(format!(
            "/etc/subuid and /etc/subgid say different things of {OWNER}: make them the same"
        ));
    }
    let [range] = uids.as_slice() else {
        return if uids.is_empty() {
            Ok(all)
        } else {
            Err(format!("/etc/subuid has {} lines of {OWNER}: leave one", uids.len()))
        };
    };
    let numbers = range.split_once(':').and_then(|(first, n)| Some((first.parse().ok()?, n.parse().ok()?)));
    let is_whole = |number: u32| number > 0 && number.is_multiple_of(LENGTH);
    match numbers {
        Some((first, n)) if is_whole(first) && is_whole(n) && first.checked_add(n - 1).is_some() => {
            Ok(Space { first: first / LENGTH, last: (first / LENGTH) + (n / LENGTH) - 1 })
        }
        _ => Err(format!(
            "/etc/subuid gives {OWNER} {range:?}: both numbers must be multiples of {LENGTH}, and the first not 0"
        )),
    }
}

/// The ids that were given to the pod, if any were.
pub(super) fn given_ids(layout: &Layout, uid: &str) -> Result<Option<IdRange>, VolumeError> {
    let dir = layout.pod(uid).map_err(VolumeError::Disk)?;
    read(&dir).map_err(|error| VolumeError::Disk(error.to_string()))
}

/// The ids of the pod: those that are noted, else the first free ones, which are noted then. Blocks.
pub(super) fn own_ids(layout: &Layout, uid: &str, space: &Space) -> Result<IdRange, VolumeError> {
    let dir = layout.pod(uid).map_err(VolumeError::Disk)?;
    let failed = |error: io::Error| VolumeError::Disk(error.to_string());
    if let Some(noted) = read(&dir).map_err(failed)? {
        return Ok(noted);
    }
    let mut taken = BTreeSet::new();
    for other in layout.pods().map_err(failed)? {
        let other = layout.pod(other.as_str()).map_err(VolumeError::Disk)?;
        if let Some(IdRange { first, length }) = read(&other).map_err(failed)? {
            taken.extend(first / LENGTH..=first.saturating_add(length.saturating_sub(1)) / LENGTH);
        }
    }
    let free = (space.first..=space.last).find(|share| !taken.contains(share));
    let free = free.ok_or_else(|| {
        VolumeError::Disk("could not find an empty slot to allocate a user namespace".to_owned())
    })?;
    let ids = IdRange { first: free * LENGTH, length: LENGTH };
    write(&dir, ids).map_err(failed)?;
    Ok(ids)
}

fn read(dir: &PodDir) -> io::Result<Option<IdRange>> {
    let path = dir.path().join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(on_path("read", &path, &error)),
    };
    // Passed over, its ids would be given to two pods.
    let bad = || {
        let why = "its ids cannot be read: remove the file once nothing of that pod runs";
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
    };
    let note: Note = serde_json::from_slice(&text).map_err(|_| bad())?;
    match (note.uid_mappings.as_slice(), note.gid_mappings.as_slice()) {
        ([uids], [gids]) if uids == gids && uids.container_id == 0 && uids.host_id >= LENGTH => {
            Ok(Some(IdRange { first: uids.host_id, length: uids.length }))
        }
        _ => Err(bad()),
    }
}

/// On disk before anything runs under these ids: another pod must not be given them after a power cut.
fn write(dir: &PodDir, ids: IdRange) -> io::Result<()> {
    dir.create()?;
    let all = vec![Mapping { host_id: ids.first, container_id: 0, length: ids.length }];
    let note = serde_json::to_vec(&Note { uid_mappings: all.clone(), gid_mappings: all })?;
    let (path, new) = (dir.path().join(FILE), dir.path().join(".userns.new"));
    let put = |path: &Path, new: &Path| {
        let mut file = File::create(new)?;
        file.write_all(&note)?;
        file.sync_all()?;
        fs::rename(new, path)?;
        File::open(dir.path())?.sync_all()
    };
    put(&path, &new).map_err(|error| on_path("write", &path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Space = Space { first: 1, last: 65_535 };

    #[test]
    fn what_a_machine_sets_aside() {
        let check = |subuid: &str, subgid: &str, expected: Result<(u32, u32), &str>| {
            let user = "root:x:0:0::/root:/bin/sh\nkubelet:x:998:998::/:/bin/false\n";
            let got = space_in(user, subuid, subgid);
            match expected {
                Ok((first, last)) => assert_eq!(got, Ok(Space { first, last }), "{subuid}"),
                Err(part) => assert!(got.as_ref().unwrap_err().contains(part), "{subuid}: {got:?}"),
            }
            let nobody = "root:x:0:0::/root:/bin/sh\n";
            assert_eq!(space_in(nobody, subuid, subgid), Ok(ALL), "without the user they are not its");
        };
        check("", "", Ok((1, 65_535)));
        check("me:100000:65536\n", "", Ok((1, 65_535)));
        let set = "me:100000:65536\nkubelet:131072:131072\n";
        check(set, set, Ok((2, 3)));
        check(set, "", Err("different things"));
        let two = "kubelet:131072:131072\nkubelet:65536:65536\n";
        check(two, two, Err("2 lines"));
        for bad in
            ["kubelet:100000:65536", "kubelet:0:65536", "kubelet:65536:1", "kubelet:65536:0", "kubelet:x"]
        {
            check(bad, bad, Err("multiples of 65536"));
        }
        let last = "kubelet:4294901760:65536";
        check(last, last, Ok((65_535, 65_535)));
        check("kubelet:4294901760:131072", "kubelet:4294901760:131072", Err("multiples"));
    }

    #[test]
    fn no_two_pods_share_and_each_keeps_its_own() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().to_owned());
        let ids = |uid: &str, space: &Space| own_ids(&layout, uid, space).map(|ids| ids.first);
        assert_eq!(given_ids(&layout, "a"), Ok(None));
        assert_eq!(ids("a", &ALL), Ok(65_536));
        assert_eq!(given_ids(&layout, "a"), Ok(Some(IdRange { first: 65_536, length: 65_536 })));
        assert_eq!(ids("b", &ALL), Ok(131_072));
        // A kubelet's pod, from a machine where each has two shares.
        let mapping = r#"[{"hostId":196608,"containerId":0,"length":131072}]"#;
        fs::create_dir_all(root.path().join("pods/c")).unwrap();
        let note = format!(r#"{{"uidMappings":{mapping},"gidMappings":{mapping}}}"#);
        fs::write(root.path().join("pods/c/userns"), note).unwrap();
        assert_eq!(own_ids(&layout, "c", &ALL), Ok(IdRange { first: 196_608, length: 131_072 }));
        assert_eq!(ids("d", &ALL), Ok(327_680));
        // Whoever starts anew reads the same.
        assert_eq!(own_ids(&Layout::new(root.path().to_owned()), "a", &ALL).unwrap().first, 65_536);
        fs::remove_dir_all(root.path().join("pods/a")).unwrap();
        assert_eq!(ids("e", &ALL), Ok(65_536));
        let full = ids("f", &Space { first: 1, last: 5 }).unwrap_err().to_string();
        assert_eq!(full, "could not find an empty slot to allocate a user namespace");
        assert_eq!(ids("b", &Space { first: 1, last: 5 }), Ok(131_072));
    }

    #[test]
    fn a_note_that_cannot_be_read_gives_its_ids_to_nobody() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().to_owned());
        let check = |note: &str| {
            fs::create_dir_all(root.path().join("pods/a")).unwrap();
            fs::write(root.path().join("pods/a/userns"), note).unwrap();
            for uid in ["a", "b"] {
                let error = own_ids(&layout, uid, &ALL).unwrap_err().to_string();
                assert!(error.contains("pods/a/userns: its ids cannot be read"), "{note}: {error}");
            }
        };
        check("");
        check("{}");
        check(r#"{"uidMappings":[],"gidMappings":[]}"#);
        let root_is_root = r#"[{"hostId":0,"containerId":0,"length":65536}]"#;
        check(&format!(r#"{{"uidMappings":{root_is_root},"gidMappings":{root_is_root}}}"#));
    }
}
