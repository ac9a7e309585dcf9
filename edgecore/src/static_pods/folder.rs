//! The folder as it is: which files, whether they changed, and the Pods in them. What is wrong with a file is said once for
//! each of its contents, and disturbs no other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use ke_wire::{NodeName, ObjectKey};

use super::file::{Read, read};
use super::key_of;

/// A Pod that the API server would take is no larger.
const MAX_BYTES: u64 = 1 << 20;

/// Tells one content of a file from another without reading it: its inode, length and time.
type Mark = (u64, u64, i64, i64);

/// One file.
#[derive(Default)]
struct Seen {
    /// What it looked like at the last look.
    mark: Mark,
    /// What it looked like when it was read.
    read: Option<Mark>,
    /// The last Pod that it held. A file that is broken now keeps it: who mends it with an editor must not end it.
    pod: Option<(ObjectKey, Arc<Pod>)>,
}

/// The folder and what was read from it.
pub(super) struct Folder {
    path: PathBuf,
    node: NodeName,
    files: BTreeMap<String, Seen>,
    /// The last thing that was wrong with the folder itself.
    complaint: Option<String>,
    /// Files whose Pod another file has already.
    doubles: Vec<String>,
    /// Looks that worked, up to two: the second is the first that knows of any file whether it is being written.
    n_looks: u8,
}

impl Folder {
    pub(super) fn new(path: PathBuf, node: NodeName) -> Self {
        Self { path, node, files: BTreeMap::new(), complaint: None, doubles: Vec::new(), n_looks: 0 }
    }

    /// All that is there, whether it is still being written or not. `None`: it cannot be read, and nobody knows.
    pub(super) fn read_first(&mut self) -> Option<BTreeMap<ObjectKey, Arc<Pod>>> {
        // The first look notes what is there, the second finds it unchanged.
        self.look();
        self.look()
    }

    /// Looks once; gives the whole set if anything in it may be different.
    pub(super) fn look(&mut self) -> Option<BTreeMap<ObjectKey, Arc<Pod>>> {
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                // A folder that cannot be read says nothing about its files: they stay as they were.
                self.complain(format!(
                    "the static pods' folder cannot be read, they stay as they are: {error}"
                ));
                return None;
            }
        };
        self.complaint = None;
        let place = self.place().to_owned();
        let n_before = self.files.len();
        self.files.retain(|name, _| names.contains_key(name));
        let mut has_changed = self.files.len() != n_before || self.n_looks == 1;
        self.n_looks = self.n_looks.saturating_add(1).min(2);
        for (name, mark) in names {
            let seen = self.files.entry(name.clone()).or_default();
            let is_settled = std::mem::replace(&mut seen.mark, mark) == mark;
            if !is_settled || seen.read == Some(mark) {
                continue;
            }
            seen.read = Some(mark);
            match read_file(&place.join(&name), &self.node) {
                Ok(Read { pod, unknown }) => {
                    if !unknown.is_empty() {
                        tracing::warn!(file = %name, "a static pod has fields that no Pod has, and runs without them: {}", unknown.join(", "));
                    }
                    let Some(key) = key_of(&pod) else { continue };
                    tracing::info!(file = %name, pod = %key, "a static pod was read");
                    seen.pod = Some((key, Arc::new(pod)));
                    has_changed = true;
                }
                Err(why) => {
                    let then = match &seen.pod {
                        Some((key, _)) => format!("{key} runs on as the file was before"),
                        None => "it runs nothing".to_owned(),
                    };
                    tracing::error!(file = %place.join(&name).display(), "this file is no static pod, {then}: {why}");
                }
            }
        }
        (has_changed && self.n_looks > 1).then(|| self.pods())
    }

    /// The folder that the files are in: the path may name a single one.
    fn place(&self) -> &Path {
        if self.is_file() { self.path.parent().unwrap_or(&self.path) } else { &self.path }
    }

    fn is_file(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|about| about.is_file())
    }

    /// The set. Of two files with one Pod the first by name has it.
    fn pods(&mut self) -> BTreeMap<ObjectKey, Arc<Pod>> {
        let mut pods: BTreeMap<ObjectKey, (Arc<Pod>, &str)> = BTreeMap::new();
        let mut doubles = Vec::new();
        for (name, seen) in &self.files {
            let Some((key, pod)) = &seen.pod else { continue };
            match pods.get(key) {
                Some((_, first)) => {
                    if !self.doubles.contains(name) {
                        tracing::error!(file = %name, "this file is left out: {first} names the same pod, {key}");
                    }
                    doubles.push(name.clone());
                }
                None => {
                    pods.insert(key.clone(), (Arc::clone(pod), name));
                }
            }
        }
        let pods = pods.into_iter().map(|(key, (pod, _))| (key, pod)).collect();
        self.doubles = doubles;
        pods
    }

    /// Every file whose name does not begin with a dot. Folders are not looked into.
    fn names(&self) -> io::Result<BTreeMap<String, Mark>> {
        let mark = |file: &fs::Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        if let (true, Some(name)) = (self.is_file(), self.path.file_name()) {
            let name = name.to_string_lossy().into_owned();
            return Ok([(name, mark(&fs::metadata(&self.path)?))].into());
        }
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            // Nobody made it: there are no static pods.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut names = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            // Through links: that is how many tools put files in place.
            match fs::metadata(entry.path()) {
                Ok(file) if file.is_dir() => {}
                Ok(file) => {
                    names.insert(name, mark(&file));
                }
                // Gone meanwhile, or a link to nothing: the latter is said when it is read.
                Err(_) if entry.path().symlink_metadata().is_ok() => {
                    names.insert(name, Mark::default());
                }
                Err(_) => {}
            }
        }
        Ok(names)
    }

    fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            tracing::error!(folder = %self.path.display(), "{text}");
            self.complaint = Some(text);
        }
    }
}

fn read_file(path: &Path, node: &NodeName) -> Result<Read, String> {
    let about = fs::metadata(path).map_err(|error| format!("it cannot be read: {error}"))?;
    // Opening a pipe would wait for its writer.
    if !about.is_file() {
        return Err("it is no ordinary file".into());
    }
    if about.len() > MAX_BYTES {
        return Err(format!("it has {} bytes, and a Pod has at most {MAX_BYTES}", about.len()));
    }
    let text = fs::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let written = Timestamp::new(about.mtime(), 0).unwrap_or_default();
    read(&text, node, &written.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers: [{{name: app, image: \"{image}\"}}]\n"
        )
    }

    #[test]
    fn files_come_change_break_and_go() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("manifests");
        let mut folder = Folder::new(path.clone(), "edge-1".parse().unwrap());
        assert!(folder.read_first().unwrap().is_empty(), "there is no folder");
        fs::create_dir(&path).unwrap();
        let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        let images = |pods: &BTreeMap<ObjectKey, Arc<Pod>>| -> Vec<String> {
            let image = |pod: &Arc<Pod>| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            pods.iter().map(|(key, pod)| format!("{} {}", key.name, image(pod))).collect()
        };
        write("web.yaml", &web("i:1"));
        write(".hidden.yaml", &web("i:9").replace("web", "hidden"));
        write("broken.yaml", "kind: Pod");
        fs::create_dir(path.join("more")).unwrap();
        assert!(folder.look().is_none(), "it may still be written");
        assert_eq!(images(&folder.look().unwrap()), ["web-edge-1 i:1"]);
        assert!(folder.look().is_none(), "nothing is read twice");
        // Another file with the same Pod is left out, whichever comes later.
        write("zweb.yaml", &web("i:3"));
        folder.look();
        assert_eq!(images(&folder.look().unwrap()), ["web-edge-1 i:1"]);
        fs::remove_file(path.join("zweb.yaml")).unwrap();
        write("web.yaml", &web("image:2"));
        folder.look();
        assert_eq!(images(&folder.look().unwrap()), ["web-edge-1 image:2"]);
        // A file that breaks keeps what it held.
        write("web.yaml", "a: [");
        folder.look();
        assert!(folder.look().is_none());
        assert_eq!(images(&folder.pods()), ["web-edge-1 image:2"]);
        write("broken.yaml", &web("i:1").replace("web", "mended"));
        folder.look();
        assert_eq!(images(&folder.look().unwrap()), ["mended-edge-1 i:1", "web-edge-1 image:2"]);
        fs::remove_file(path.join("web.yaml")).unwrap();
        assert_eq!(images(&folder.look().unwrap()), ["mended-edge-1 i:1"]);
        // A folder that went takes its pods with it.
        fs::remove_dir_all(&path).unwrap();
        assert!(folder.look().unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_unknown_until_it_can() {
        let place = tempfile::tempdir().unwrap();
        // A link that leads round in a circle: no folder, no file, and not nothing either.
        let path = place.path().join("manifests");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let mut folder = Folder::new(path.clone(), "edge-1".parse().unwrap());
        assert!(folder.read_first().is_none());
        assert!(folder.look().is_none());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("web.yaml"), web("i:1")).unwrap();
        assert!(folder.look().is_none(), "whether it is being written is not known");
        assert_eq!(folder.look().unwrap().len(), 1);
        // Nothing in it is known as well, once.
        fs::remove_file(path.join("web.yaml")).unwrap();
        let mut folder = Folder::new(path, "edge-1".parse().unwrap());
        assert!(folder.read_first().unwrap().is_empty());
        assert!(folder.look().is_none());
    }

    #[test]
    fn the_path_may_name_one_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(".web.yaml");
        fs::write(&path, web("i:1")).unwrap();
        fs::write(place.path().join("other.yaml"), web("i:1").replace("web", "other")).unwrap();
        let mut folder = Folder::new(path.clone(), "edge-1".parse().unwrap());
        let names = |pods: &BTreeMap<ObjectKey, Arc<Pod>>| -> Vec<String> {
            pods.keys().map(|key| key.name.to_string()).collect()
        };
        assert_eq!(names(&folder.read_first().unwrap()), ["web-edge-1"]);
        fs::write(&path, web("i:1").replace("web", "longer")).unwrap();
        folder.look();
        assert_eq!(names(&folder.look().unwrap()), ["longer-edge-1"]);
        fs::remove_file(&path).unwrap();
        assert!(folder.look().unwrap().is_empty());
    }

    #[test]
    fn strange_files_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let node = "edge-1".parse().unwrap();
        let check = |path: PathBuf, expected: &str| {
            let why = read_file(&path, &node).unwrap_err();
            assert!(why.contains(expected), "{why}");
        };
        check(place.path().join("none"), "cannot be read");
        check(place.path().to_owned(), "no ordinary file");
        let large = place.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_BYTES + 1).unwrap();
        check(large, "bytes");
        std::os::unix::fs::symlink("nowhere", place.path().join("link")).unwrap();
        check(place.path().join("link"), "cannot be read");
    }
}
