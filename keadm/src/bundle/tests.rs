//! What goes into a bundle comes out, and nothing else: files cut short, forged lists, other machines. It forges bundles of its own.

use std::collections::BTreeMap;

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    bundle: PathBuf,
}

const IMAGE: &[u8] = b"layers of an image";

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("b.tar.gz");
        let bench = Self { folder, bundle };
        let sources = bench.sources();
        create(&bench.bundle, "v1.2.3", arch::own(), &sources).unwrap();
        bench
    }

    fn file(&self, name: &str, body: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, body).unwrap();
        path
    }

    fn sources(&self) -> Vec<Source> {
        // Larger than a piece, and not one byte again and again: a file cut short ends in the middle of it.
        let mut state = 1u32;
        let noise: Vec<u8> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        vec![
            Source::program(EDGECORE, self.file("edge", &noise)),
            Source::program(KEADM, self.file("adm", b"keadm")),
            Source::plugin("bridge", self.file("bridge", b"plugin")),
            Source::image(self.file("app.tar", IMAGE)).unwrap(),
        ]
    }

    fn fresh(&self) -> PathBuf {
        let path = self.folder.path().join("into");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    fn unpack(&self) -> Result<Unpacked, String> {
        let into = self.fresh();
        open(&self.bundle)?.unpack(Some(&into))
    }

    /// A bundle of any list and files; keadm's own cannot be wrong.
    fn forge(&self, manifest: &serde_json::Value, files: &[(&str, &[u8])]) {
        let file = File::create(&self.bundle).unwrap();
        let mut tar = tar::Builder::new(GzEncoder::new(file, flate2::Compression::fast()));
        let list = manifest.to_string();
        for (path, body) in [(MANIFEST, list.as_bytes())].iter().chain(files) {
            let mut header = tar::Header::new_gnu();
            // set_path refuses what a forger writes.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(body.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            tar.append(&header, *body).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }
}

fn hex(body: &[u8]) -> String {
    let mut summed = Summed::new(body);
    io::copy(&mut summed, &mut io::sink()).unwrap();
    summed.finish().1
}

fn list(files: &[(&str, &[u8])]) -> serde_json::Value {
    let files: Vec<_> = files
        .iter()
        .map(|(path, body)| serde_json::json!({"path": path, "size": body.len(), "sha256": hex(body)}))
        .collect();
    serde_json::json!({"format": FORMAT, "version": "v1.2.3", "arch": arch::own(), "files": files})
}

#[test]
fn what_goes_in_comes_out() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let into = bench.fresh();
    let bundle = open(&bench.bundle).unwrap();
    assert_eq!(bundle.manifest.version, "v1.2.3");
    assert_eq!(bundle.unpack(None).unwrap().edgecore, PathBuf::new());
    assert_eq!(fs::read_dir(&into).unwrap().count(), 0, "checking writes nothing");
    let unpacked = bundle.unpack(Some(&into)).unwrap();
    assert_eq!(unpacked.edgecore, into.join("edgecore"));
    assert_eq!(unpacked.keadm, into.join("keadm"));
    assert_eq!(unpacked.plugins, [into.join("cni/bridge")]);
    assert_eq!(unpacked.images, [into.join("images/app.tar")]);
    assert_eq!(fs::read(&unpacked.edgecore).unwrap(), fs::read(bench.folder.path().join("edge")).unwrap());
    assert_eq!(fs::read(&unpacked.images[0]).unwrap(), IMAGE);
    let modes: BTreeMap<&str, u32> = [("edgecore", &unpacked.edgecore), ("image", &unpacked.images[0])]
        .map(|(name, path)| (name, fs::metadata(path).unwrap().permissions().mode() & 0o111))
        .into();
    assert_eq!(modes, [("edgecore", 0o111), ("image", 0)].into());
}

#[test]
fn the_same_files_give_the_same_bytes_and_other_programs_read_them() {
    let bench = Bench::new();
    let first = fs::read(&bench.bundle).unwrap();
    create(&bench.bundle, "v1.2.3", arch::own(), &bench.sources()).unwrap();
    assert!(fs::read(&bench.bundle).unwrap() == first);
    let output = std::process::Command::new("tar").arg("-tzf").arg(&bench.bundle).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["manifest.json", "edgecore", "keadm", "cni/bridge", "images/app.tar"]
    );
}

#[test]
fn a_bundle_cut_short_anywhere_is_told_and_no_broken_file_is_left() {
    let bench = Bench::new();
    let whole = fs::read(&bench.bundle).unwrap();
    for end in (20..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1]) {
        fs::write(&bench.bundle, &whole[..end]).unwrap();
        // What is lost at the very end is padding and a checksum of what has been summed already.
        let Err(error) = bench.unpack() else {
            assert!(end > whole.len() - 100, "{end} of {} bytes were taken", whole.len());
            continue;
        };
        assert!(error.contains("cut short") || error.contains("no bundle"), "{end}: {error}");
        assert!(!bench.folder.path().join("into/edgecore").exists() || end > whole.len() - 1000, "{end}");
    }
}

#[test]
fn bytes_that_changed_are_told() {
    let bench = Bench::new();
    let body = b"edgecore".as_slice();
    let check = |manifest: &serde_json::Value, files: &[(&str, &[u8])], expected: &str| {
        bench.forge(manifest, files);
        let error = bench.unpack().unwrap_err();
        assert!(error.contains(expected), "no {expected:?} in {error:?}");
        let left: Vec<_> = fs::read_dir(bench.folder.path().join("into")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    };
    let good = list(&[("edgecore", body)]);
    check(&good, &[("edgecore", b"edgeCore")], "does not have the sum");
    check(&good, &[("edgecore", b"edge")], "does not have the sum");
    check(&good, &[], "cut short (edgecore is not in it)");
    check(&good, &[("keadm", body)], "holds \"keadm\", which its list does not name");
    check(&good, &[("../edgecore", body)], "holds \"../edgecore\"");
    check(&list(&[("../edgecore", body)]), &[("../edgecore", body)], "lists \"../edgecore\"");
    check(&list(&[("/etc/passwd", body)]), &[], "lists \"/etc/passwd\"");
    check(&list(&[("images/../../x", body)]), &[], "lists");
    check(&list(&[("cni/..", body)]), &[], "lists");
    let twice = list(&[("edgecore", body)]);
    bench.forge(&twice, &[("edgecore", body), ("edgecore", body)]);
    assert!(bench.unpack().unwrap_err().contains("does not name"));
    let mut later = good.clone();
    later["format"] = 2.into();
    check(&later, &[], "use the keadm that is in it");
    let mut other = good.clone();
    other["arch"] = "riscv64".into();
    check(&other, &[], "is for riscv64 machines");
}

#[test]
fn what_is_no_bundle_is_told() {
    let bench = Bench::new();
    let check = |body: &[u8], expected: &str| {
        fs::write(&bench.bundle, body).unwrap();
        let error = bench.unpack().unwrap_err();
        assert!(error.contains(expected), "no {expected:?} in {error:?}");
    };
    check(b"", "no bundle");
    check(b"not gzip at all, and longer than ten bytes", "no bundle");
    bench.forge(&serde_json::json!({"hello": 1}), &[]);
    assert!(bench.unpack().unwrap_err().contains("no bundle (manifest.json: missing field"));
    fs::remove_file(&bench.bundle).unwrap();
    assert!(bench.unpack().unwrap_err().contains("No such file"));
}

#[test]
fn what_is_there_is_not_overwritten() {
    let bench = Bench::new();
    let into = bench.fresh();
    fs::write(into.join("edgecore"), b"another").unwrap();
    let error = open(&bench.bundle).unwrap().unpack(Some(&into)).unwrap_err();
    assert!(error.contains("exists"), "{error}");
}

#[test]
fn a_bundle_that_cannot_be_made_leaves_nothing() {
    let bench = Bench::new();
    fs::remove_file(&bench.bundle).unwrap();
    let mut sources = bench.sources();
    sources.push(Source::image(bench.folder.path().join("app.tar")).unwrap());
    let error = create(&bench.bundle, "v1.2.3", "amd64", &sources).unwrap_err();
    assert!(error.contains("two files would be images/app.tar"), "{error}");
    *sources.last_mut().unwrap() = Source::program(KEADM, bench.folder.path().join("nobody"));
    sources.remove(1);
    let error = create(&bench.bundle, "v1.2.3", "amd64", &sources).unwrap_err();
    assert!(error.contains("nobody"), "{error}");
    assert!(!bench.bundle.exists());
}

#[test]
fn names_of_images() {
    let check =
        |name: &str, expected: bool| assert_eq!(Source::image(name.into()).is_ok(), expected, "{name}");
    check("/a b/pause-3.10.tar", true);
    check("x.tar.gz", true);
    check("x.tgz", true);
    check("x.zip", false);
    check(".tar", false);
    check("a b.tar", false);
    check("/", false);
}
