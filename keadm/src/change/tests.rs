//! The power is cut after every single change, also while an earlier cut is being recovered from.

use std::io;

use clap::Parser as _;

use super::*;
use crate::host::Ran;
use crate::host::fake::FakeHost;
use crate::render::{CONFIG, KEADM, PROGRAM};

const UNIT: &str = "/etc/systemd/system/edgecore.service";
const STORE: &str = "/var/lib/kubeedge/edgecore.db";
const PAGES: &str = "/var/lib/kubeedge/edgecore.db-wal";
/// What runs: the program it was started from.
const RUNNING: &str = "/run/running";
const NEW: &str = "/opt/new/edgecore";

fn text(host: &FakeHost, path: &str) -> String {
    let body = host.read(Path::new(path)).unwrap();
    body.map_or_else(|| "none".to_owned(), |body| String::from_utf8(body).unwrap())
}

fn put(host: &FakeHost, path: &str, body: &str) {
    host.files.borrow_mut().insert(path.into(), Some(body.into()));
}

/// systemd and the programs, whose text says what they do: a "new" one writes a store that an "old" one cannot read.
fn on_run(host: &FakeHost, line: &str) -> Option<Ran> {
    let ran = |is_good, stdout: &str| {
        Some(Ran { is_good, stdout: stdout.to_owned(), stderr: "it cannot be".to_owned(), ..Ran::default() })
    };
    let (program, words) = line.split_once(' ').unwrap();
    match words {
        "stop edgecore" => {
            host.files.borrow_mut().remove(Path::new(RUNNING));
            ran(true, "")
        }
        "start edgecore" => {
            start(host);
            ran(true, "")
        }
        "--version" => match text(host, program).split(' ').next().unwrap() {
            "old" => ran(true, "edgecore 0.1.0"),
            "same" => ran(true, "edgecore 0.1.1"),
            _ => ran(true, "edgecore 0.2.0"),
        },
        _ if words.ends_with("check-store") => ran(reads(&text(host, program), &text(host, STORE)), ""),
        _ if words.contains("config check") => {
            ran(!text(host, "/run/keadm-config/edgecore.yaml").contains("typo"), "")
        }
        _ => None,
    }
}

fn reads(program: &str, store: &str) -> bool {
    program.starts_with("new") || store != "schema 2"
}

fn start(host: &FakeHost) {
    let program = text(host, PROGRAM);
    assert!(reads(&program, &text(host, STORE)), "{program} is started with a store that it cannot read");
    let pages = text(host, PAGES);
    assert_eq!(pages, text(host, STORE).replace("schema", "pages"), "the store is of two");
    if program.starts_with("new") {
        put(host, STORE, "schema 2");
        put(host, PAGES, "pages 2");
    }
    put(host, RUNNING, &format!("{program} with {}", text(host, CONFIG)));
}

fn on_get(host: &FakeHost, path: &str) -> io::Result<(u16, String)> {
    let running = text(host, RUNNING);
    match path {
        _ if running == "none" || running.contains("dead") => Err(io::Error::other("refused")),
        "/node" if running.contains("unready") => Ok((503, "the network is not ready".into())),
        _ => Ok((200, "ok".into())),
    }
}

fn machine(new: &str) -> FakeHost {
    let host = FakeHost::new(&[UNIT, "/var/lib/kubeedge/", "/usr/local/bin/", "/run/"]);
    let files = [
        (PROGRAM, "old"),
        (KEADM, "keadm of old"),
        (CONFIG, "modules:\n  x: old\n"),
        (STORE, "schema 1"),
        (PAGES, "pages 1"),
        (NEW, new),
        ("/opt/new/keadm", "keadm of new"),
    ];
    files.iter().for_each(|(path, body)| put(&host, path, body));
    start(&host);
    FakeHost { on_run: Some(on_run), on_get: Some(on_get), ..host }
}

fn keadm(host: &FakeHost, line: &str) -> Result<(), Failure> {
    let words = std::iter::once("keadm").chain(line.split(' '));
    crate::run(host, crate::Args::parse_from(words).command)
}

/// Which installation is there; panics where it is a mix.
fn installed(host: &FakeHost) -> &'static str {
    let found = (text(host, PROGRAM), text(host, KEADM), text(host, CONFIG).contains("x: 2"));
    match (found.0.as_str(), found.1.as_str(), found.2) {
        ("old", "keadm of old", false) => "old",
        ("old", "keadm of old", true) => "old program, new config",
        (_, "keadm of new", false) => "new",
        _ => panic!("a mix: {found:?}"),
    }
}

fn copy_of(host: &FakeHost) -> FakeHost {
    let copy = FakeHost { on_run: Some(on_run), on_get: Some(on_get), ..FakeHost::default() };
    copy.files.borrow_mut().clone_from(&host.files.borrow());
    copy
}

/// Memory is gone; the service manager starts edgecore with what runs before it.
fn boot(host: &FakeHost) {
    host.changes_left.set(None);
    host.files.borrow_mut().retain(|path, _| !path.starts_with("/run"));
    before_start(host, &mut |_| {}).unwrap();
    start(host);
    assert!(!host.exists(Path::new(JOURNAL)), "the journal is left");
}

/// Cuts the power at every change of `line`, and at every change of what follows such a cut. `before` and `after`: what may
/// be installed then. Gives how many changes there are.
fn cut_everywhere(machine: &FakeHost, line: &str, before: &str, after: &str) -> usize {
    for n_changes in 0.. {
        let host = copy_of(machine);
        host.changes_left.set(Some(n_changes));
        let is_done = keadm(&host, line).is_ok();
        if is_done {
            assert_eq!(installed(&host), after);
            return n_changes;
        }
        // A kill instead of a cut: the watcher, who finds memory as it was.
        let killed = copy_of(&host);
        restart(&killed, Duration::ZERO, &mut |_| {}).unwrap();
        assert_ne!(text(&killed, RUNNING), "none", "after {n_changes} changes");
        assert!([before, after].contains(&installed(&killed)), "killed after {n_changes} changes");
        for n_more in 0.. {
            let host = copy_of(&host);
            host.files.borrow_mut().retain(|path, _| !path.starts_with("/run"));
            host.changes_left.set(Some(n_more));
            let is_recovered = before_start(&host, &mut |_| {}).is_ok();
            boot(&host);
            let found = installed(&host);
            assert!([before, after].contains(&found), "{found} after {n_changes} and {n_more} changes");
            if is_recovered {
                break;
            }
        }
        let host = copy_of(&host);
        boot(&host);
        keadm(&host, line).unwrap_or_else(|failure| panic!("again after {n_changes} changes: {failure}"));
    }
    unreachable!()
}

fn report(host: &FakeHost) -> Report {
    serde_json::from_slice(&host.read(Path::new(REPORT)).unwrap().unwrap()).unwrap()
}

#[test]
fn an_upgrade_is_cut_anywhere() {
    let n_changes =
        cut_everywhere(&machine("new"), "upgrade edge --edgecore /opt/new/edgecore", "old", "new");
    assert!(n_changes > 20, "{n_changes}");
}

#[test]
fn a_rollback_is_cut_anywhere() {
    let host = machine("new");
    keadm(&host, "upgrade edge --edgecore /opt/new/edgecore").unwrap();
    cut_everywhere(&host, "rollback edge", "new", "old");
}

#[test]
fn a_new_configuration_is_cut_anywhere() {
    cut_everywhere(&machine("new"), "config update --set modules.x=2", "old", "old program, new config");
}

#[test]
fn a_version_that_is_not_well_is_taken_back() {
    let check = |new: &str, expected: &str| {
        let host = machine(new);
        let Err(failure) = keadm(&host, "upgrade edge --edgecore /opt/new/edgecore") else { panic!("{new}") };
        assert_eq!(failure.code(), 1, "{failure}");
        assert!(failure.to_string().contains(expected), "{failure}");
        assert_eq!((installed(&host), text(&host, STORE)), ("old", "schema 1".to_owned()));
        assert!(text(&host, RUNNING).starts_with("old"));
        let report = report(&host);
        assert!(!report.success && report.rolled_back && report.to_version == "v0.2.0", "{report:?}");
        assert!(!host.exists(Path::new(JOURNAL)));
    };
    check(
        "new dead",
        "the upgrade failed and was undone: the node is not Ready after 120 s: edgecore does not",
    );
    check("new unready", "the node is not Ready after 120 s: the network is not ready");
}

#[test]
fn what_a_sites_own_program_says_is_told() {
    let check = |line: &str, prepare: &dyn Fn(&FakeHost), expected: &str| {
        let host = machine("new");
        put(&host, "/bin/false", "");
        prepare(&host);
        let Err(failure) = keadm(&host, line) else { panic!("{line}") };
        assert_eq!((failure.code(), installed(&host)), (1, "old"), "{failure}");
        assert!(failure.to_string().ends_with(expected), "{failure}");
    };
    let fails = |words: &'static str| {
        move |host: &FakeHost| host.fails.borrow_mut().push(("/bin/false".into(), words.into()))
    };
    let upgrade = "upgrade edge --edgecore /opt/new/edgecore --post-run /bin/false";
    check(upgrade, &fails(""), "--post-run: /bin/false failed: exit code 1");
    check(upgrade, &fails("no light"), "--post-run: /bin/false failed: exit code 1: no light");
    check(
        "config update --set modules.x=2 --post-run /bin/false",
        &fails(""),
        "the change of the configuration failed and was undone: --post-run: /bin/false failed: exit code 1",
    );
}

#[test]
fn a_node_whose_cloud_is_away_is_upgraded() {
    let host = machine("new unready");
    put(&host, RUNNING, "old unready");
    keadm(&host, "upgrade edge --edgecore /opt/new/edgecore").unwrap();
    assert_eq!(installed(&host), "new");
}

#[test]
fn the_store_goes_back_only_if_it_must() {
    let host = machine("new");
    keadm(&host, "upgrade edge --edgecore /opt/new/edgecore").unwrap();
    assert_eq!(text(&host, STORE), "schema 2");
    keadm(&host, "rollback edge").unwrap();
    assert_eq!((text(&host, STORE), text(&host, PAGES)), ("schema 1".to_owned(), "pages 1".to_owned()));

    let host = machine("same schema");
    keadm(&host, "upgrade edge --edgecore /opt/new/edgecore").unwrap();
    put(&host, STORE, "schema 3");
    put(&host, PAGES, "pages 3");
    keadm(&host, "rollback edge --historical-version 0.1.0").unwrap();
    assert_eq!((installed(&host), text(&host, STORE)), ("old", "schema 3".to_owned()));
}

#[test]
fn what_cannot_work_touches_nothing() {
    let check = |line: &str, code: u8, expected: &str, prepare: &dyn Fn(&FakeHost)| {
        let host = machine("new");
        prepare(&host);
        let running = text(&host, RUNNING);
        let Err(failure) = keadm(&host, line) else { panic!("{line}") };
        assert_eq!(failure.code(), code, "{line}: {failure}");
        assert!(failure.to_string().contains(expected), "{line}: {failure}");
        assert_eq!((installed(&host), text(&host, RUNNING)), ("old", running));
        assert!(
            !host.exists(Path::new(JOURNAL)) && !host.ran.borrow().iter().any(|ran| ran.contains("stop"))
        );
    };
    let upgrade = "upgrade edge --edgecore /opt/new/edgecore";
    check(upgrade, 3, "another keadm is changing", &|host| host.is_locked.set(true));
    check(upgrade, 3, "not enough room at", &|host| host.free.set(Some(1 << 20)));
    check(upgrade, 3, "no edge node", &|host| {
        host.files.borrow_mut().remove(Path::new(CONFIG));
    });
    check("upgrade edge --edgecore /no/such", 3, "there is no /no/such", &|_| {});
    check("upgrade edge", 3, "--edgecore FILE", &|_| {});
    check("upgrade edge --image=kubeedge/installation-package", 2, "--edgecore FILE", &|_| {});
    check(
        &format!("{upgrade} --toVersion=v0.3.0"),
        3,
        "v0.3.0 is wanted, and /opt/new/edgecore is v0.2.0",
        &|_| {},
    );
    check("rollback edge", 3, "there is no backup", &|_| {});
    for line in [upgrade, "rollback edge", "backup edge", "config update --set modules.x=2"] {
        for flag in ["--pre-run", "--post-run"] {
            check(&format!("{line} {flag} ./nothere"), 2, &format!("{flag}: there is no ./nothere"), &|_| {});
        }
    }
    check(&format!("{upgrade} --pre-run nothere"), 2, "there is no nothere", &|_| {});
    check("config update --set modules.x=typo", 3, "does not take this", &|_| {});
    check("config-update --set x", 2, "no key=value", &|_| {});
}

#[test]
fn backups_come_and_go() {
    let host = machine("new");
    for _ in 0..5 {
        keadm(&host, "backup edge").unwrap();
    }
    keadm(&host, "config update --set modules.x=2").unwrap();
    let kept = backup::list(&host).unwrap();
    let names: Vec<String> =
        kept.iter().map(|backup| backup.folder.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(
        names,
        [
            "v0.1.0-20261122T000002Z",
            "v0.1.0-20261122T000003Z",
            "v0.1.0-20261122T000004Z",
            "config-20261122T000005Z"
        ]
    );
    assert_eq!(host.list(Path::new(backup::FOLDER)).unwrap().len(), 4);
    let Err(failure) = keadm(&host, "rollback edge --historical-version v0.9") else { panic!() };
    assert!(failure.to_string().contains("there are: v0.1.0-20261122T000004Z, "), "{failure}");
    put(&host, &format!("{}/{}/edgecore", backup::FOLDER, names[2]), "rotten");
    let Err(failure) = keadm(&host, "rollback edge") else { panic!() };
    assert!(failure.code() == 3 && failure.to_string().contains("is damaged"), "{failure}");
    keadm(&host, &format!("rollback edge --historical-version {}", names[1])).unwrap();
    assert_eq!(installed(&host), "old");
}

/// An upgrade whose power was cut as soon as the journal is like this.
fn cut_when(is_like: impl Fn(&FakeHost) -> bool) -> FakeHost {
    let cut = |n_changes| {
        let host = machine("new");
        host.changes_left.set(Some(n_changes));
        keadm(&host, "upgrade edge --edgecore /opt/new/edgecore").unwrap_err();
        host.changes_left.set(None);
        host
    };
    (0..).map(cut).find(is_like).unwrap()
}

#[test]
fn who_changes_is_left_alone() {
    let host = cut_when(|host| host.exists(Path::new(JOURNAL)));
    let before = host.files.borrow().clone();
    host.is_locked.set(true);
    before_start(&host, &mut |_| {}).unwrap();
    restart(&host, Duration::ZERO, &mut |_| {}).unwrap_err();
    assert_eq!(*host.files.borrow(), before);
}

#[test]
fn what_can_never_be_undone_is_told_with_the_way_out() {
    let is_changing = |host: &FakeHost| text(host, JOURNAL).contains("\"changing\"");
    let check = |lose: &dyn Fn(&FakeHost), expected: &str| {
        let host = cut_when(is_changing);
        lose(&host);
        for line in ["upgrade edge --edgecore /opt/new/edgecore", "recover --restart", "recover"] {
            let failure = keadm(&host, line).unwrap_err();
            let told = failure.to_string();
            assert_eq!(failure.code(), 4, "{line}: {told}");
            assert!(told.contains(expected) && told.contains("`keadm reset edge --force`"), "{line}: {told}");
            assert!(!told.contains("the next time edgecore starts"), "{line}: {told}");
        }
        keadm(&host, "reset edge --force").unwrap();
        assert!(!host.exists(Path::new(JOURNAL)));
    };
    let replace = |from: &'static str, to: &'static str| {
        move |host: &FakeHost| put(host, JOURNAL, &text(host, JOURNAL).replace(from, to))
    };
    check(&|host| host.remove_tree(Path::new(backup::FOLDER)).unwrap(), "is not there or not whole");
    let without = |name: &'static str| {
        move |host: &FakeHost| {
            let is_it = |path: &PathBuf| path.starts_with(backup::FOLDER) && path.ends_with(name);
            host.files.borrow_mut().retain(|path, _| !is_it(path));
        }
    };
    check(&without("edgecore.yaml"), "edgecore.yaml is gone");
    let with_a_rotten_program = |host: &FakeHost| {
        let mut files = host.files.borrow_mut();
        let is_it = |path: &PathBuf| path.starts_with(backup::FOLDER) && path.ends_with("edgecore");
        files
            .iter_mut()
            .filter(|(path, _)| is_it(path))
            .for_each(|(_, body)| *body = Some(b"rotten".to_vec()));
    };
    check(&with_a_rotten_program, "edgecore is damaged");
    // The present store is as good: nobody misses the one of the backup.
    let host = cut_when(is_changing);
    without("edgecore.db")(&host);
    boot(&host);
    assert_eq!(installed(&host), "old");
    check(&replace("\"format\": 1", "\"format\": 2"), "is of another format than this keadm's 1");
    check(&replace("{", "<"), "cannot be understood");
}
