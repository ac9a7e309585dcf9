//! The file by which a machine without a network becomes an edge node: a gzipped tar of edgecore, keadm, CNI plugins, image
//! archives, and before them a list with the sum of each.
//!
//! What is read came on a stick from somewhere: only what the list names, in the four places that there are, is unpacked, and
//! nothing of a file whose sum is wrong is kept. Files go through in pieces, since images are larger than an edge machine's
//! memory; that is why this reads and writes them itself, and not through `Host`. Called by `cmd/bundle.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::arch;

/// The first file in it.
const MANIFEST: &str = "manifest.json";
/// A list is small; what says more is none.
const MAX_MANIFEST: u64 = 1 << 20;
/// Raised when an older keadm could not read it any more.
const FORMAT: u32 = 1;
const PIECE: usize = 64 << 10;

pub(crate) const EDGECORE: &str = "edgecore";
pub(crate) const KEADM: &str = "keadm";
const PLUGINS: &str = "cni";
const IMAGES: &str = "images";

/// What is in a bundle; for people, too: `tar -xzOf FILE manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// Of edgecore and keadm, as in `v1.2.3`.
    pub(crate) version: String,
    /// As in the names of archives: amd64, arm64, arm.
    pub(crate) arch: String,
    pub(crate) files: Vec<Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// A file that goes into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from: PathBuf,
    /// In the bundle.
    path: String,
}

impl Source {
    pub(crate) fn program(name: &str, from: PathBuf) -> Self {
        Self { from, path: name.to_owned() }
    }

    pub(crate) fn plugin(name: &str, from: PathBuf) -> Self {
        Self { from, path: format!("{PLUGINS}/{name}") }
    }

    /// edgecore imports what has one of these endings.
    pub(crate) fn image(from: PathBuf) -> Result<Self, String> {
        let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let path = format!("{IMAGES}/{name}");
        let has_ending = [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending));
        if has_ending && is_place(&path) {
            return Ok(Self { path, from });
        }
        Err(format!(
            "{} is not taken for an image archive: its name must have letters, digits, dots, dashes or underscores and end in \
             .tar, .tar.gz or .tgz",
            from.display()
        ))
    }
}

/// Writes a bundle in one go: the same files give the same bytes. What is at `out` is replaced when all is well, and not
/// touched otherwise.
pub(crate) fn create(out: &Path, version: &str, arch: &str, sources: &[Source]) -> Result<Manifest, String> {
    let mut files: Vec<Listed> = Vec::new();
    for source in sources {
        if files.iter().any(|listed| listed.path == source.path) {
            return Err(format!("two files would be {} in the bundle: rename one of them", source.path));
        }
        let (size, sha256) = sum(&source.from).map_err(|error| told("read", &source.from, &error))?;
        files.push(Listed { path: source.path.clone(), size, sha256 });
    }
    let manifest = Manifest { format: FORMAT, version: version.to_owned(), arch: arch.to_owned(), files };
    let mut beside = out.as_os_str().to_owned();
    beside.push(".keadm-new");
    let beside = PathBuf::from(beside);
    let done = write(&beside, &manifest, sources)
        .and_then(|()| fs::rename(&beside, out).map_err(|error| told("write", out, &error)));
    if done.is_err() {
        // Half a bundle is of no use, and the reason is in the answer.
        let _ = fs::remove_file(&beside);
    }
    done.map(|()| manifest)
}

fn write(beside: &Path, manifest: &Manifest, sources: &[Source]) -> Result<(), String> {
    let of_out = |error: io::Error| told("write", beside, &error);
    let file = File::create(beside).map_err(of_out)?;
    let mut tar = tar::Builder::new(GzEncoder::new(BufWriter::new(file), flate2::Compression::default()));
    let list = serde_json::to_vec_pretty(manifest).map_err(|error| format!("write the list: {error}"))?;
    tar.append(&header(MANIFEST, list.len() as u64, 0o644).map_err(of_out)?, list.as_slice())
        .map_err(of_out)?;
    for (source, listed) in sources.iter().zip(&manifest.files) {
        let mode = mode(&listed.path);
        let of_source = |error: io::Error| told("put into the bundle", &source.from, &error);
        let content = File::open(&source.from).map_err(of_source)?;
        let mut content = Summed::new(content.take(listed.size));
        let header = header(&listed.path, listed.size, mode).map_err(of_source)?;
        tar.append(&header, &mut content).map_err(of_source)?;
        if content.finish() != (listed.size, listed.sha256.clone()) {
            return Err(format!("{} changed while it was read: type the same again", source.from.display()));
        }
    }
    let gzip = tar.into_inner().map_err(of_out)?;
    let file = gzip.finish().map_err(of_out)?.into_inner().map_err(|error| of_out(error.into_error()))?;
    file.sync_all().map_err(of_out)
}

/// Nothing of this machine or this day.
fn header(path: &str, size: u64, mode: u32) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn mode(path: &str) -> u32 {
    if path.starts_with(IMAGES) { 0o644 } else { 0o755 }
}

/// A bundle whose list was read and found good for this machine.
#[derive(Debug)]
pub(crate) struct Bundle {
    path: PathBuf,
    pub(crate) manifest: Manifest,
}

/// Reads the list. Errors: no bundle, one of a later keadm, one for another processor, paths that no bundle has.
pub(crate) fn open(path: &Path) -> Result<Bundle, String> {
    open_for(path, arch::own())
}

fn open_for(path: &Path, arch: &str) -> Result<Bundle, String> {
    let shown = path.display();
    let no_bundle =
        |why: &str| format!("{shown} is no bundle ({why}); `keadm bundle create --out FILE` makes one");
    let mut archive = archive(path)?;
    let mut entries = archive.entries().map_err(|error| no_bundle(&error.to_string()))?;
    let first = entries.next().ok_or_else(|| no_bundle("it is empty"))?;
    let first = first.map_err(|error| no_bundle(&error.to_string()))?;
    if first.path_bytes().as_ref() != MANIFEST.as_bytes() || first.size() > MAX_MANIFEST {
        return Err(no_bundle("it does not begin with manifest.json"));
    }
    let mut list = Vec::new();
    first.take(MAX_MANIFEST).read_to_end(&mut list).map_err(|error| broken(path, &error))?;
    let manifest: Manifest =
        serde_json::from_slice(&list).map_err(|error| no_bundle(&format!("manifest.json: {error}")))?;
    if manifest.format != FORMAT {
        return Err(format!(
            "{shown} is a bundle of format {}, and this is keadm {}, which reads format {FORMAT}: use the keadm that is in it \
             (tar -xzf {shown} keadm)",
            manifest.format,
            crate::version::own()
        ));
    }
    if let Some(wrong) = manifest.files.iter().find(|listed| !is_place(&listed.path)) {
        return Err(format!(
            "{shown} lists {:?}, and a bundle has edgecore, keadm, cni/NAME and images/NAME: it was not made by keadm",
            wrong.path
        ));
    }
    if manifest.arch != arch {
        return Err(format!(
            "{shown} is for {} machines, and this one is {arch}: make a bundle of the programs for {arch}",
            manifest.arch
        ));
    }
    Ok(Bundle { path: path.to_owned(), manifest })
}

/// Where everything lies now. Empty paths: only the sums were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) edgecore: PathBuf,
    pub(crate) keadm: PathBuf,
    pub(crate) plugins: Vec<PathBuf>,
    pub(crate) images: Vec<PathBuf>,
}

impl Bundle {
    /// What unpacking it takes.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.manifest.files.iter().fold(0, |sum, listed| sum.saturating_add(listed.size))
    }

    /// Checks every sum, and writes the files into `folder`, which is there and holds none of them; without a folder it only
    /// checks. After an error the folder holds only whole files, and is of no use.
    pub(crate) fn unpack(&self, folder: Option<&Path>) -> Result<Unpacked, String> {
        let mut left: BTreeSet<&str> =
            self.manifest.files.iter().map(|listed| listed.path.as_str()).collect();
        let mut archive = archive(&self.path)?;
        let entries = archive.entries().map_err(|error| broken(&self.path, &error))?;
        for entry in entries.skip(1) {
            let entry = entry.map_err(|error| broken(&self.path, &error))?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let listed = self.manifest.files.iter().find(|listed| listed.path == path);
            let Some(listed) =
                listed.filter(|_| entry.header().entry_type().is_file() && left.remove(&*path))
            else {
                return Err(format!(
                    "{} holds {path:?}, which its list does not name: it was not made by keadm",
                    self.path.display()
                ));
            };
            self.unpack_one(entry, listed, folder)?;
        }
        if let Some(missing) = left.first() {
            return Err(cut_short(&self.path, &format!("{missing} is not in it")));
        }
        let place = |path: &str| folder.map(|folder| folder.join(path)).unwrap_or_default();
        let below = |name: &str| {
            let paths = self.manifest.files.iter().map(|listed| &*listed.path);
            paths.filter(|path| path.starts_with(name)).map(place).collect()
        };
        Ok(Unpacked {
            edgecore: place(EDGECORE),
            keadm: place(KEADM),
            plugins: below("cni/"),
            images: below("images/"),
        })
    }

    fn unpack_one(&self, entry: impl Read, listed: &Listed, folder: Option<&Path>) -> Result<(), String> {
        let mut content = Summed::new(entry);
        let to = folder.map(|folder| folder.join(&listed.path));
        let copied = match &to {
            None => drain(&mut content, &mut io::sink()),
            Some(to) => write_new(to, mode(&listed.path), &mut content),
        };
        let sum = content.finish();
        let is_whole = copied.is_ok() && sum == (listed.size, listed.sha256.clone());
        if let (Some(to), false) = (&to, is_whole) {
            // Nothing of a file whose sum is wrong is kept; the reason is in the answer.
            let _ = fs::remove_file(to);
        }
        match copied {
            Err(Copy::Reading(error)) => Err(broken(&self.path, &error)),
            Err(Copy::Writing(error)) => Err(told("write", to.as_deref().unwrap_or(&self.path), &error)),
            Ok(()) if is_whole => Ok(()),
            Ok(()) => Err(format!(
                "{} in {} does not have the sum that its list names: it was changed or damaged; copy the file again",
                listed.path,
                self.path.display()
            )),
        }
    }
}

/// Which end failed: a bundle that is damaged and a disk that is full want different things done.
enum Copy {
    Reading(io::Error),
    Writing(io::Error),
}

fn write_new(to: &Path, mode: u32, content: &mut impl Read) -> Result<(), Copy> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Copy::Writing)?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(to).map_err(Copy::Writing)?;
    drain(content, &mut file)?;
    file.sync_all().map_err(Copy::Writing)
}

fn drain(from: &mut impl Read, to: &mut impl Write) -> Result<(), Copy> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n_read) => to.write_all(piece.get(..n_read).unwrap_or_default()).map_err(Copy::Writing)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Copy::Reading(error)),
        }
    }
}

fn archive(path: &Path) -> Result<tar::Archive<GzDecoder<BufReader<File>>>, String> {
    let file = File::open(path).map_err(|error| told("open", path, &error))?;
    Ok(tar::Archive::new(GzDecoder::new(BufReader::new(file))))
}

/// The places that files have, and nothing else: no path leads anywhere but there.
fn is_place(path: &str) -> bool {
    let is_name = |name: &str| {
        let is_known = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        !name.is_empty() && name.len() <= 80 && !name.starts_with('.') && name.chars().all(is_known)
    };
    match path.split_once('/') {
        None => path == EDGECORE || path == KEADM,
        Some((folder, name)) => (folder == PLUGINS || folder == IMAGES) && is_name(name),
    }
}

/// Passes bytes on and sums them.
struct Summed<R> {
    inner: R,
    sum: Context,
    n_bytes: u64,
}

impl<R: Read> Summed<R> {
    fn new(inner: R) -> Self {
        Self { inner, sum: Context::new(&SHA256), n_bytes: 0 }
    }

    fn finish(self) -> (u64, String) {
        let mut hex = String::new();
        for byte in self.sum.finish().as_ref() {
            // A String takes everything.
            let _ = write!(hex, "{byte:02x}");
        }
        (self.n_bytes, hex)
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let n_read = self.inner.read(piece)?;
        self.sum.update(piece.get(..n_read).unwrap_or_default());
        self.n_bytes += n_read as u64;
        Ok(n_read)
    }
}

fn sum(path: &Path) -> io::Result<(u64, String)> {
    let mut file = Summed::new(File::open(path)?);
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.finish())
}

fn told(what: &str, path: &Path, error: &io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

/// What the tar and gzip readers say of a file that ends too early, and of one with wrong bytes.
fn broken(path: &Path, error: &io::Error) -> String {
    let text = error.to_string();
    if error.kind() == ErrorKind::UnexpectedEof
        || text.contains("unexpected")
        || text.contains("entire block")
    {
        return cut_short(path, &text);
    }
    format!("{} is damaged ({text}): copy it again", path.display())
}

fn cut_short(path: &Path, why: &str) -> String {
    format!("{} is cut short ({why}): copy it again", path.display())
}

#[cfg(test)]
#[path = "bundle/tests.rs"]
mod tests;
