//! Image archives in a folder of this machine, imported when edgecore starts: how images reach a machine without a network.
//!
//! CRI has no call for it, so the runtime's own client is run: `ctr` for containerd, `podman` for CRI-O (both keep their images
//! in the same store), `docker` for cri-dockerd. Nothing waits for this: a pod whose image comes from here is tried again as
//! after any failed pull. An archive that cannot be imported is a warning, and is tried again at the next start; one that was
//! imported is not, until it changes. It never removes an archive or an image, and notes
//! which images came from here. Called by `main.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use ke_run::shutdown::Shutdown;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::cri::Runtime;

/// What was imported, in the folder itself: whoever empties or replaces the folder means its memory, too.
const IMPORTED: &str = ".imported.json";
/// Which images came from which archive, beside it: these are never removed for want of room.
const IMAGES: &str = ".images.json";
const ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];
/// A runtime that starts with the machine is there after a few of these.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const PIECE: usize = 64 << 10;

pub struct ImageFolder {
    pub folder: PathBuf,
    pub runtime: Arc<dyn Runtime>,
    /// The runtime's socket, as a URL.
    pub endpoint: String,
    /// Those of PATH.
    pub program_folders: Vec<PathBuf>,
}

/// An archive as it was when it was imported: size, and time of the last change.
type Imported = BTreeMap<String, String>;

/// A program that takes an archive, not packed, from its standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    program: PathBuf,
    arguments: Vec<String>,
}

impl ImageFolder {
    /// Imports what is new, and ends.
    pub async fn run(self, stop: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = self.import(self.client()) => {}
            () = stop.wait() => {}
        }
        Ok(())
    }

    /// `client` is asked for only if something is new.
    async fn import(&self, client: impl Future<Output = Result<Client, String>>) {
        let folder = self.folder.display();
        let found = match archives(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "image archives in {folder} cannot be read and are not imported");
                return;
            }
        };
        let mut imported = read_imported(&self.folder.join(IMPORTED));
        // What is gone may come back with the same size and date, and is then asked for again.
        imported.retain(|name, _| found.contains_key(name));
        // One that an older edgecore has imported is imported once more, so that its images are known.
        let noted = read_images(&self.folder.join(IMAGES));
        let is_new = |(name, state): &(&String, &String)| {
            imported.get(*name) != Some(*state) || !noted.contains_key(*name)
        };
        let new: Vec<(&String, &String)> = found.iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let client = match client.await {
            Ok(client) => client,
            Err(why) => {
                tracing::warn!("{} image archives in {folder} are not imported: {why}", new.len());
                return;
            }
        };
        for (name, state) in new {
            let path = self.folder.join(name);
            let before = self.tags().await;
            match client.import(&path).await {
                Ok(said) => {
                    tracing::info!(archive = %path.display(), "images are imported");
                    let images = from_archive(&said, &before, &self.tags().await);
                    if let Err(error) = note_images(&self.folder, name, &images) {
                        tracing::warn!(%error, archive = %path.display(), "cannot note its images: they may be removed when nobody uses them");
                    }
                    imported.insert(name.clone(), state.clone());
                    if let Err(error) = write_whole(&self.folder.join(IMPORTED), &imported) {
                        tracing::warn!(%error, archive = %path.display(), "cannot note that it is imported: the next start does it again");
                    }
                }
                Err(why) => tracing::warn!(
                    archive = %path.display(),
                    "images are not imported: {why}. The next start of edgecore tries again"
                ),
            }
        }
    }

    /// Names of all images.
    async fn tags(&self) -> BTreeSet<String> {
        let images = self.runtime.list_images().await.unwrap_or_default();
        images.into_iter().flat_map(|image| image.repo_tags).collect()
    }

    async fn client(&self) -> Result<Client, String> {
        loop {
            match self.runtime.version().await {
                Ok(version) => return client(&version.runtime_name, &self.endpoint, &self.program_folders),
                // Whoever starts it is told so elsewhere.
                Err(error) => tracing::debug!(%error, "image archives wait for the container runtime"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// Names of all images that came from the archives in `folder`, as far as they are still there.
pub(crate) fn images(folder: &Path) -> BTreeSet<String> {
    let held = archives(folder).unwrap_or_default();
    let mut noted = read_images(&folder.join(IMAGES));
    noted.retain(|archive, _| held.contains_key(archive));
    noted.into_values().flatten().collect()
}

/// Notes the images of one archive.
pub(crate) fn note_images(folder: &Path, archive: &str, images: &[String]) -> io::Result<()> {
    let path = folder.join(IMAGES);
    let mut noted = read_images(&path);
    noted.insert(archive.to_owned(), images.to_vec());
    write_whole(&path, &noted)
}

/// One that cannot be read holds nothing: the next import writes it anew.
fn read_images(path: &Path) -> BTreeMap<String, Vec<String>> {
    fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Images that are new, and those whose names the client has said: an archive may hold what was there before.
fn from_archive(said: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let words: BTreeSet<&str> = said.split([' ', '\t', '\n', '\r', ',']).collect();
    after.iter().filter(|tag| !before.contains(*tag) || words.contains(tag.as_str())).cloned().collect()
}

/// Who imports images for a runtime of this name.
fn client(runtime: &str, endpoint: &str, folders: &[PathBuf]) -> Result<Client, String> {
    let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let (name, arguments): (&str, &[&str]) = match runtime {
        // Where CRI looks for images.
        "containerd" => ("ctr", &["--address", socket, "--namespace", "k8s.io", "images", "import", "-"]),
        "cri-o" => ("podman", &["load"]),
        "docker" => ("docker", &["load"]),
        other => {
            return Err(format!(
                "nobody knows how the runtime {other:?} imports them; containerd, cri-o and docker are known. Import them by hand"
            ));
        }
    };
    let program = folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    let program = program.ok_or_else(|| {
        format!("the runtime is {runtime}, whose images `{name}` imports, and there is no {name} in PATH: install it")
    })?;
    Ok(Client { program, arguments: arguments.iter().map(|&word| word.to_owned()).collect() })
}

impl Client {
    /// What the program said. Errors: the file's, or the program's own words.
    async fn import(&self, archive: &Path) -> Result<String, String> {
        let file = File::open(archive).map_err(|error| error.to_string())?;
        let name = self.program.display();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // edgecore that ends does not leave it behind.
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("start {name}: {error}"))?;
        let mut input = child.stdin.take();
        // Full: reading waits for the program.
        let (pieces, mut told) = mpsc::channel::<Vec<u8>>(4);
        let reading = tokio::task::spawn_blocking(move || read(file, &pieces));
        let feeding = async move {
            while let (Some(piece), Some(input)) = (told.recv().await, input.as_mut()) {
                // A program that takes no more says why at its end.
                if input.write_all(&piece).await.is_err() {
                    break;
                }
            }
        };
        let ((), read, output) = tokio::join!(feeding, reading, child.wait_with_output());
        let output = output.map_err(|error| format!("wait for {name}: {error}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{name} says {:?}", words.trim().lines().next_back().unwrap_or_default()));
        }
        match read {
            Ok(Ok(())) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(Err(error)) => Err(format!("it is damaged or cut short: {error}")),
            Err(error) => Err(format!("read it: {error}")),
        }
    }
}

/// Unpacks gzip, which not every client does.
fn read(file: File, pieces: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut file = BufReader::new(file);
    let is_packed = io::BufRead::fill_buf(&mut file)?.starts_with(&[0x1f, 0x8b]);
    let mut content: Box<dyn Read> =
        if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut content).take(PIECE as u64).read_to_end(&mut piece)?;
        // Nobody listens: the program has ended.
        if piece.is_empty() || pieces.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
}

/// Names and states. A folder that is not there holds none.
fn archives(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_archive = ENDINGS.iter().any(|ending| name.ends_with(ending)) && !name.starts_with('.');
        // Followed where it is a link.
        if let Some(held) = fs::metadata(entry.path()).ok().filter(|held| is_archive && held.is_file()) {
            found.insert(name, state(&held));
        }
    }
    Ok(found)
}

fn state(held: &Metadata) -> String {
    format!("{} bytes of {}.{:09}", held.len(), held.mtime(), held.mtime_nsec())
}

/// What cannot be read was not imported: doing it twice does no harm.
fn read_imported(path: &Path) -> Imported {
    fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// All of it or nothing, whenever the machine stops: half of it would count as nothing noted.
fn write_whole(path: &Path, noted: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, serde_json::to_vec(noted)?)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::edged::cri_fake::FakeRuntime;

    /// A folder of archives, and a `ctr` that keeps what it is given and fails for what is no archive.
    struct Bench {
        folder: tempfile::TempDir,
        client: Client,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("ctr");
            let taken = folder.path().join("taken");
            let script = format!(
                "#!/bin/sh\ntext=$(cat)\necho \"$text\" >> {}\n[ \"${{text#bad}}\" = \"$text\" ] || {{ echo 'no archive' >&2; exit 1; }}\n",
                taken.display()
            );
            // By another process: a child of a test beside this one would inherit the file while it is open for writing, and
            // Linux runs no such file.
            let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
            let written =
                std::process::Command::new("sh").args(["-c", write]).arg(&program).arg(script).status();
            assert!(written.unwrap().success());
            fs::create_dir(folder.path().join("images")).unwrap();
            let client = client(
                "containerd",
                "unix:///run/c.sock",
                &["/no/such/folder".into(), folder.path().to_owned()],
            );
            Self { client: client.unwrap(), folder }
        }

        fn archive(&self, name: &str, body: &[u8]) {
            fs::write(self.folder.path().join("images").join(name), body).unwrap();
        }

        fn taken(&self) -> Vec<String> {
            let bytes = fs::read(self.folder.path().join("taken")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
        }

        async fn import(&self, name: &str) -> Result<(), String> {
            self.client.import(&self.folder.path().join("images").join(name)).await.map(drop)
        }

        /// As at a start of edgecore.
        async fn start(&self) {
            let folder = ImageFolder {
                folder: self.folder.path().join("images"),
                runtime: Arc::new(FakeRuntime::new()),
                endpoint: "unix:///run/c.sock".into(),
                program_folders: Vec::new(),
            };
            folder.import(std::future::ready(Ok(self.client.clone()))).await;
        }
    }

    fn packed(body: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(body).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn notes_are_whole_or_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        note_images(folder.path(), "a.tar", &["i:1".to_owned()]).unwrap();
        let path = folder.path().join(IMAGES);
        let before = File::open(&path).unwrap();
        note_images(folder.path(), "b.tar", &["i:2".to_owned()]).unwrap();
        // Whoever stops in between finds what was there: it is never written into.
        let old: BTreeMap<String, Vec<String>> = serde_json::from_reader(before).unwrap();
        assert_eq!((old.len(), read_images(&path).len()), (1, 2));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn each_runtime_has_a_client() {
        let bench = Bench::new();
        assert_eq!(bench.client.program, bench.folder.path().join("ctr"));
        assert_eq!(
            bench.client.arguments,
            ["--address", "/run/c.sock", "--namespace", "k8s.io", "images", "import", "-"]
        );
        let check = |runtime: &str, expected: &str| {
            let error = client(runtime, "unix:///x", &[bench.folder.path().to_owned()]).unwrap_err();
            assert!(error.contains(expected), "no {expected:?} in {error:?}");
        };
        check("cri-o", "there is no podman in PATH");
        check("docker", "there is no docker in PATH");
        check("else", "nobody knows how the runtime \"else\"");
    }

    #[tokio::test]
    async fn packed_or_not_the_client_gets_the_archive() {
        let bench = Bench::new();
        bench.archive("a.tar", b"plain");
        bench.archive("b.tar.gz", &packed(b"packed"));
        bench.archive("c.tar", b"bad");
        let whole = packed(
            &(0..50_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect::<Vec<_>>(),
        );
        bench.archive("d.tgz", &whole[..whole.len() / 2]);
        assert_eq!(bench.import("a.tar").await, Ok(()));
        assert_eq!(bench.import("b.tar.gz").await, Ok(()));
        assert!(bench.import("c.tar").await.unwrap_err().ends_with("/ctr says \"no archive\""));
        let error = bench.import("d.tgz").await.unwrap_err();
        assert!(error.contains("cut short"), "{error}");
        assert_eq!(bench.taken()[..3], ["plain", "packed", "bad"]);
        assert!(bench.import("nobody.tar").await.unwrap_err().contains("No such file"));
    }

    #[tokio::test]
    async fn each_archive_is_imported_once_until_it_changes() {
        let bench = Bench::new();
        let check = async |expected: &[&str]| {
            bench.start().await;
            assert_eq!(bench.taken(), expected);
            let _ = fs::remove_file(bench.folder.path().join("taken"));
        };
        check(&[]).await;
        bench.archive("a.tar", b"one");
        bench.archive("notes.txt", b"no archive");
        bench.archive("c.tar", b"bad");
        check(&["one", "bad"]).await;
        // What failed is tried again.
        check(&["bad"]).await;
        bench.archive("c.tar", b"good");
        bench.archive("b.tgz", &packed(b"two"));
        check(&["two", "good"]).await;
        check(&[]).await;
        bench.archive("a.tar", b"changed");
        check(&["changed"]).await;
        // A memory that cannot be read costs an import, and no start.
        fs::write(bench.folder.path().join("images").join(IMPORTED), b"{").unwrap();
        check(&["changed", "two", "good"]).await;
        fs::remove_dir_all(bench.folder.path().join("images")).unwrap();
        check(&[]).await;
    }
}
