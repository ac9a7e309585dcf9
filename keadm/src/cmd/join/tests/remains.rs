//! What was on a machine before it joins is there after its way back.

use super::*;

/// Two ways back: a join whose node does not get Ready, and the reset of one that does.
fn both_ways_back(machine: impl Fn() -> FakeHost, line: &str, check: impl Fn(&FakeHost)) {
    use clap::Parser as _;
    let host = machine();
    *host.node.borrow_mut() = vec![(503, "no network".into())];
    let (done, _) = try_join(&host, line);
    assert!(matches!(done, Err(Failure::Undone(_))), "{done:?}");
    check(&host);
    let host = machine();
    try_join(&host, line).0.unwrap();
    let reset = crate::Args::try_parse_from(["keadm", "reset", "edge", "--force"]).unwrap();
    crate::run(&host, reset.command).unwrap();
    check(&host);
}

#[test]
fn certificates_that_were_there_before_come_back_and_new_keys_go() {
    fn enrolls(host: &FakeHost, line: &str) -> Option<crate::host::Ran> {
        if line.ends_with("enroll") {
            for path in ["/etc/kubeedge/ca/rootCA.crt", "/data/certs/server.crt", "/data/certs/server.key"] {
                host.write(Path::new(path), b"new", 0o600).unwrap();
            }
        }
        None
    }
    let machine = || {
        let mut host = machine();
        host.on_run = Some(enrolls);
        for folder in ["/etc/kubeedge", "/etc/kubeedge/ca", "/data", "/data/certs"] {
            host.make_folder(Path::new(folder), 0o755).unwrap();
        }
        for path in ["/etc/kubeedge/ca/rootCA.crt", "/data/certs/server.key"] {
            host.write(Path::new(path), b"of another", 0o600).unwrap();
        }
        host
    };
    let before = machine().files.borrow().clone();
    let check = |host: &FakeHost| assert_eq!(*host.files.borrow(), before);
    both_ways_back(machine, &format!("{GOOD} --certPath=/data/certs"), check);
}

#[test]
fn data_of_an_earlier_node_is_refused_and_stays() {
    let check = |there: &[&str], flags: &str, expected: &str| {
        let host = machine();
        for path in there {
            let body = (!path.ends_with('/')).then(|| b"of another".to_vec());
            host.files.borrow_mut().insert(path.trim_end_matches('/').into(), body);
        }
        let before = host.files.borrow().clone();
        let (done, _) = try_join(&host, &format!("{GOOD}{flags}"));
        let Err(Failure::Refused(why)) = done else { panic!("{there:?}: {done:?}") };
        assert!(why.ends_with(expected), "{why}");
        assert_eq!(*host.files.borrow(), before);
    };
    let store = node::DATABASE;
    check(&[store], "", &format!("{store}. To keep it aside and join, type: mv {store} {store}.old"));
    let other = " --set database.dataSource=/data/x.db";
    let both = "mv /data/x.db /data/x.db.old && mv /data/x.db-wal /data/x.db-wal.old";
    check(&["/data/x.db", "/data/x.db-wal"], other, both);
    check(
        &["/var/lib/kubeedge/backup/20260101/"],
        "",
        "mv /var/lib/kubeedge/backup /var/lib/kubeedge/backup.old",
    );
}

#[test]
fn a_list_of_imported_images_that_was_there_before_stays() {
    let list = "/var/lib/kubeedge/images/.imported.json";
    let machine = || {
        let host = machine();
        for folder in ["/var/lib/kubeedge", "/var/lib/kubeedge/images"] {
            host.make_folder(Path::new(folder), 0o700).unwrap();
        }
        host.write(Path::new(list), b"of another", 0o600).unwrap();
        host
    };
    both_ways_back(machine, GOOD, |host| assert!(host.exists(Path::new(list))));
}
