//! Tests of atomic content: what a reader sees at any moment, kills included.

use std::os::fd::AsRawFd;

use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    files
        .iter()
        .map(|(path, text)| {
            (path.to_string(), FileContent { data: text.as_bytes().to_vec(), mode: 0o644, owner: None })
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_change_all_at_once_and_nothing_stays_behind() {
    let temp = tempfile::tempdir().unwrap();
    let now = Timestamp::from_second(0).unwrap();
    let write = |files: &[(&str, &str)]| super::write(temp.path(), &payload(files), None, now).unwrap();
    assert!(write(&[("a", "1"), ("d/b", "1"), ("d/c", "1")]));
    assert_eq!(names(temp.path()), ["..1970_01_01_00_00_00.000000000", "..data", "a", "d"]);
    assert_eq!(fs::read_link(temp.path().join("d")).unwrap(), Path::new("..data/d"));
    assert!(!write(&[("a", "1"), ("d/b", "1"), ("d/c", "1")]));
    // The clock stands still: another name is found.
    assert!(write(&[("a", "2"), ("e", "2")]));
    assert_eq!(names(temp.path()), ["..1970_01_01_00_00_00.000000000_1", "..data", "a", "e"]);
    assert!(write(&[]));
    assert_eq!(names(temp.path()).len(), 2);
}

#[test]
fn a_kill_at_any_point_is_made_good() {
    let check = |what: &str, break_it: &dyn Fn(&Path)| {
        let temp = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(0).unwrap();
        super::write(temp.path(), &payload(&[("a", "1"), ("b", "1")]), None, now).unwrap();
        break_it(temp.path());
        super::write(temp.path(), &payload(&[("a", "2"), ("c", "2")]), None, now).unwrap();
        let found = names(temp.path());
        assert_eq!((found.len(), &found[1..]), (4, &["..data".into(), "a".into(), "c".into()][..]), "{what}");
        assert_eq!(fs::read_to_string(temp.path().join("a")).unwrap(), "2", "{what}");
        assert_eq!(fs::read_to_string(temp.path().join("c")).unwrap(), "2", "{what}");
    };
    check("half a directory", &|dir| {
        fs::create_dir(dir.join("..1999")).unwrap();
        fs::write(dir.join("..1999/a"), "half").unwrap();
    });
    check("link not yet renamed", &|dir| symlink("..1999", dir.join("..data_tmp")).unwrap());
    check("names not yet linked", &|dir| fs::remove_file(dir.join("a")).unwrap());
    check("names not yet removed", &|dir| symlink("..data/old", dir.join("old")).unwrap());
    check("data torn by a power failure", &|dir| fs::write(dir.join("a"), "").unwrap());
    check("data lost by a power failure", &|dir| {
        fs::remove_dir_all(dir.join("..data").canonicalize().unwrap()).unwrap()
    });
    check("data link leads nowhere ours", &|dir| {
        fs::remove_file(dir.join("..data")).unwrap();
        symlink("/etc", dir.join("..data")).unwrap();
    });
}

#[test]
fn a_reader_never_sees_a_mix() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_owned();
    let write = move |n: u32| {
        let text = n.to_string();
        super::write(&dir, &payload(&[("a", &text), ("b", &text)]), None, Timestamp::now()).unwrap();
    };
    write(0);
    let writer = std::thread::spawn(move || (1..300).for_each(write));
    let mut n_read = 0;
    while !writer.is_finished() || n_read == 0 {
        // One resolution of `..data` is one state; it may vanish while it is read, and then counts for nothing.
        let Ok(data) = fs::File::open(temp.path().join("..data")) else { continue };
        let read = |name: &str| fs::read_to_string(format!("/proc/self/fd/{}/{name}", data.as_raw_fd()));
        if let (Ok(a), Ok(b)) = (read("a"), read("b")) {
            assert_eq!(a, b);
            n_read += 1;
        }
        assert!(fs::symlink_metadata(temp.path().join("..data")).is_ok());
    }
    writer.join().unwrap();
}

#[test]
fn contents_are_not_printed() {
    let secret = payload(&[("pass", "s3cret")]);
    assert!(!format!("{secret:?}").contains("s3cret"));
}
