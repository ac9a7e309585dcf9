//! A machine in memory joins, is refused, and joins again.

use clap::Parser;

use super::*;
use crate::host::fake::FakeHost;

mod remains;
mod takeover;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Line::parse_from(std::iter::once("join").chain(line.split(' '))).args
}

const GOOD: &str = "--cloudcore-ipport=10.0.0.1:10000 --edgenode-name=edge-1 --token=abc";

fn machine() -> FakeHost {
    let host = FakeHost::new(&["/opt/keadm/edgecore", "/opt/keadm/keadm", "/var/log/", "/etc/", "/run/"]);
    let report = r#"{"findings":[{"check":"runtime","verdict":"ok","found":"containerd answers","advice":""}],"cgroupDriver":"systemd"}"#;
    host.prints.borrow_mut().push(("/opt/keadm/edgecore --config /run/keadm-join/".into(), report.into()));
    host.node.borrow_mut().push((200, "Ready".into()));
    host
}

fn try_join(host: &FakeHost, line: &str) -> (Result<(), Failure>, Vec<String>) {
    let mut said = Vec::new();
    let done = join(host, &args(line), &mut |line| said.push(line.to_owned()));
    (done, said)
}

#[test]
fn a_machine_joins_and_joins_again() {
    let host = machine();
    let (done, said) = try_join(&host, GOOD);
    done.unwrap();
    assert_eq!(
        said.last().map(String::as_str),
        Some(
            "no service manager runs here: after a reboot join's last steps must be done by whoever starts this machine"
        )
    );
    let config = host.read(Path::new(CONFIG)).unwrap().unwrap();
    let config = String::from_utf8(config).unwrap();
    assert!(config.contains("cgroupDriver: systemd"), "the runtime's: {config}");
    assert!(!host.exists(Path::new(TOKEN)) && !host.exists(Path::new(TRIAL)));
    let ran = host.ran.borrow().clone();
    assert_eq!(ran.len(), 4, "two looks, enrolment, start: {ran:?}");

    let (done, said) = try_join(&host, GOOD);
    done.unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("this machine is node edge-1 of 10.0.0.1:10000 already: nothing is changed.")
    );
    assert!(said[0].contains("`keadm reset edge` first, and `kubectl delete node edge-1`"), "{said:?}");
    let (done, _) = try_join(&host, "--cloudcore-ipport=10.0.0.2 --edgenode-name=edge-1 --token=abc");
    let Err(Failure::Refused(why)) = done else { panic!("it is another cloud's") };
    assert!(why.contains("keadm reset edge"), "{why}");
}

#[test]
fn a_node_is_joined_all_the_same_where_keadm_cannot_tidy_up() {
    let on_run = |host: &FakeHost, line: &str| {
        if line.ends_with(" enroll") {
            host.stuck.borrow_mut().push(crate::supplies::FOLDER.into());
        }
        None
    };
    let host = FakeHost { on_run: Some(on_run), ..machine() };
    let (done, said) = try_join(&host, &format!("{GOOD} --post-run=/opt/keadm/keadm"));
    done.unwrap();
    let warning = "warning: clear /var/lib/keadm-unpacked: it is stuck";
    assert!(said.iter().any(|line| line == warning), "{said:?}");
    assert!(host.ran.borrow().iter().any(|line| line == "/opt/keadm/keadm "), "{:?}", host.ran.borrow());
}

#[test]
fn two_joins_at_once_are_one() {
    let host = machine();
    let before = host.files.borrow().clone();
    host.is_locked.set(true);
    let (done, _) = try_join(&host, GOOD);
    let Err(Failure::Refused(why)) = done else { panic!("{done:?}") };
    assert!(why.contains("another keadm"), "{why}");
    assert_eq!(*host.files.borrow(), before);
}

#[test]
fn a_machine_without_a_network_gets_one() {
    let host = machine();
    let report = r#"{"findings":[],"noNetwork":{"confDir":"/etc/cni/net.d","pluginFolders":["/opt/cni/bin"],"plugins":["bridge"]}}"#;
    *host.prints.borrow_mut() = vec![("/opt/keadm/edgecore".into(), report.into())];
    let before = host.files.borrow().clone();
    let (done, _) = try_join(&host, GOOD);
    let Err(Failure::Refused(why)) = done else { panic!("there are no plugins") };
    assert!(why.contains("apt-get install containernetworking-plugins"), "{why}");
    assert_eq!(*host.files.borrow(), before);
    // Who says that he makes it himself is believed.
    let (done, _) = try_join(&host, &format!("{GOOD} --dry-run --set modules.edged.podNetwork.manage=false"));
    done.unwrap();

    host.write(Path::new("/opt/cni/bin/bridge"), b"", 0o755).unwrap();
    let (done, said) = try_join(&host, GOOD);
    done.unwrap();
    assert!(said.iter().any(|line| line.contains("edgecore makes one")), "{said:?}");
    let config = host.read(Path::new(CONFIG)).unwrap().unwrap();
    assert!(String::from_utf8(config).unwrap().contains("manage: true"));
}

#[test]
fn a_proxy_of_join_is_edgecores() {
    let host = machine();
    host.variables.borrow_mut().push(("HTTPS_PROXY".into(), "http://u:secret@p:1".into()));
    let (done, said) = try_join(&host, GOOD);
    done.unwrap();
    assert!(said.iter().all(|line| !line.contains("secret")), "{said:?}");
    let kept = host.read(Path::new(ENVIRONMENT)).unwrap().unwrap();
    assert_eq!(String::from_utf8(kept).unwrap(), "HTTPS_PROXY='http://u:secret@p:1'\n");
}

#[test]
fn a_look_that_fails_touches_nothing() {
    let host = machine();
    let before = host.files.borrow().clone();
    let report =
        r#"{"findings":[{"check":"runtime","verdict":"failed","found":"no runtime","advice":"start it"}]}"#;
    *host.prints.borrow_mut() = vec![("/opt/keadm/edgecore".into(), report.into())];
    let (done, _) = try_join(&host, GOOD);
    let Err(Failure::Refused(why)) = done else { panic!("{done:?}") };
    assert!(why.ends_with("runtime: no runtime: start it"), "{why}");
    assert_eq!(*host.files.borrow(), before);
    // A key that edgecore does not know.
    host.prints.borrow_mut().clear();
    host.fails.borrow_mut().push(("/opt/keadm/edgecore".into(), "modules.edgd: unknown key".into()));
    let (done, _) = try_join(&host, &format!("{GOOD} --set modules.edgd.x=1"));
    let Err(Failure::Refused(why)) = done else { panic!("{done:?}") };
    assert!(why.contains("unknown key"), "{why}");
    assert_eq!(*host.files.borrow(), before);
}

#[test]
fn a_service_manager_that_does_not_run_is_refused() {
    let host = machine();
    let before = host.files.borrow().clone();
    for (manager, sign) in [("systemd", "/run/systemd/system"), ("openrc", "/run/openrc")] {
        let (done, _) = try_join(&host, &format!("{GOOD} --service-manager {manager}"));
        let Err(Failure::Refused(why)) = done else { panic!("{manager}: {done:?}") };
        assert!(why.contains(sign) && why.ends_with("type --service-manager none"), "{why}");
        assert_eq!(*host.files.borrow(), before);
    }
}

#[test]
fn a_machine_whose_service_manager_is_gone_is_not_walled_in() {
    let host = machine();
    let before = host.files.borrow().clone();
    host.files.borrow_mut().insert("/run/systemd/system".into(), None);
    let (done, _) = try_join(&host, GOOD);
    done.unwrap();
    let node = host.files.borrow().clone();
    // As in a container that was made of it: systemctl is there, and nobody hears it.
    host.files.borrow_mut().remove(Path::new("/run/systemd/system"));
    host.fails.borrow_mut().push(("systemctl".into(), "System has not been booted with systemd".into()));
    let undone = || Journal::read(&host).unwrap().unwrap().undo(&host);
    assert_eq!(undone(), Vec::<String>::new());
    assert_eq!(*host.files.borrow(), before);
    assert!(host.ran.borrow().iter().any(|line| line == "end /usr/local/bin/edgecore"), "nothing of it runs");
    // One that runs must end edgecore before its files go, but need not have read its units anew.
    *host.files.borrow_mut() = node;
    assert_eq!(undone()[1], "everything that was made before it");
    assert!(host.exists(Path::new(CONFIG)));
    *host.fails.borrow_mut() = vec![("systemctl daemon-reload".into(), "no".into())];
    assert_eq!(undone(), Vec::<String>::new());
    assert!(!host.exists(Path::new(CONFIG)) && !host.exists(Path::new(TOKEN)));
}

#[test]
fn a_plan_is_shown_and_not_carried_out() {
    let host = machine();
    host.files.borrow_mut().insert("/run/systemd/system".into(), None);
    let before = host.files.borrow().clone();
    let (done, said) = try_join(&host, &format!("{GOOD} --dry-run --service-manager systemd"));
    done.unwrap();
    assert!(said.iter().any(|line| line.contains("systemctl enable --now edgecore")), "{said:?}");
    assert!(said.iter().all(|line| !line.contains("abc")), "no token: {said:?}");
    assert_eq!(*host.files.borrow(), before);
}

#[test]
fn a_join_that_was_cut_short_is_taken_back_first() {
    for n_changes in 0..80 {
        let host = machine();
        host.changes_left.set(Some(n_changes));
        let (cut, _) = try_join(&host, GOOD);
        host.changes_left.set(None);
        // The trial lies in memory, which a power cut clears.
        host.files.borrow_mut().retain(|path, _| !path.starts_with(TRIAL));
        let (done, _) = try_join(&host, GOOD);
        done.unwrap_or_else(|failure| panic!("after {n_changes} changes: {failure}"));
        assert!(Journal::read(&host).unwrap().unwrap().is_done);
        let halves: Vec<String> =
            host.paths().into_iter().filter(|path| path.ends_with(".keadm-new")).collect();
        assert!(halves.is_empty(), "after {n_changes} changes: {halves:?}");
        if cut.is_ok() {
            return;
        }
    }
    panic!("the plan is longer than this test thinks");
}

#[test]
fn a_dry_run_over_a_join_that_was_cut_short_takes_nothing_back() {
    let mut n_seen = 0;
    for n_changes in 0..80 {
        let host = machine();
        host.changes_left.set(Some(n_changes));
        let (cut, _) = try_join(&host, GOOD);
        if cut.is_ok() {
            break;
        }
        let before = host.files.borrow().clone();
        let n_ran = host.ran.borrow().len();
        let is_half = Journal::read(&host).unwrap().is_some_and(|journal| !journal.is_done);
        // Whatever it changed would fail, and be seen.
        if is_half {
            let (done, said) = try_join(&host, &format!("{GOOD} --dry-run"));
            done.unwrap_or_else(|failure| panic!("after {n_changes} changes: {failure}"));
            assert_eq!(said, ["an earlier join was cut short: it would be taken back first"]);
            assert_eq!(*host.files.borrow(), before, "after {n_changes} changes");
            assert_eq!(host.ran.borrow().len(), n_ran, "after {n_changes} changes");
            n_seen += 1;
        }
    }
    assert!(n_seen > 10, "only {n_seen} joins were cut half-way");
}

#[test]
fn a_store_in_another_place_goes_with_the_node() {
    use clap::Parser as _;
    let host = machine();
    let before = host.files.borrow().clone();
    let (done, _) = try_join(&host, &format!("{GOOD} --set database.dataSource=/data/node.db"));
    done.unwrap();
    // As edgecore leaves it, in a folder that others use.
    for name in ["node.db", "node.db-wal", "node.db-shm", "node.db.of-another"] {
        host.write(&Path::new("/data").join(name), b"secrets", 0o600).unwrap();
    }
    let reset = crate::Args::try_parse_from(["keadm", "reset", "edge", "--force"]).unwrap();
    crate::run(&host, reset.command).unwrap();
    let data: Vec<String> = host.paths().into_iter().filter(|path| path.starts_with("/data")).collect();
    assert_eq!(data, ["/data/node.db.of-another"]);
    host.files.borrow_mut().remove(Path::new("/data/node.db.of-another"));
    assert_eq!(*host.files.borrow(), before);
}

#[test]
fn a_failed_join_names_no_log_that_is_gone() {
    let refused = "https://10.0.0.1:10002 refused to sign this machine's certificate: the token was revoked";
    let host = machine();
    host.fails
        .borrow_mut()
        .push((format!("{PROGRAM} --config {CONFIG} enroll"), format!("error: {refused}")));
    let (done, said) = try_join(&host, GOOD);
    let Err(Failure::Undone(error)) = done else { panic!("{done:?}") };
    assert!(format!("{error:#}").ends_with(refused), "the cloud's own words: {error:#}");
    assert!(!said.concat().contains("own words"), "{said:?}");
    // systemd keeps what its services said.
    host.files.borrow_mut().insert("/run/systemd/system".into(), None);
    let (_, said) = try_join(&host, GOOD);
    assert!(said.concat().ends_with("own words: journalctl -u edgecore"), "{said:?}");
}

#[test]
fn flags_that_cannot_be_meant_are_refused() {
    let check = |line: &str, expected: &str| {
        let (done, _) = try_join(&machine(), line);
        let Err(Failure::Usage(why)) = done else { panic!("{line}: {done:?}") };
        assert!(why.contains(expected), "{line}: {why}");
    };
    check("--cloudcore-ipport=10.0.0.1", "keadm gettoken");
    check("--cloudcore-ipport=x:y --token=a", "no host:port");
    check("--cloudcore-ipport=a --token=a --edgenode-name=Edge_1", "an example: --edgenode-name=edge-1");
    check("--cloudcore-ipport=a --token=a --pre-run=/no/such", "--pre-run: there is no /no/such");
    check("--cloudcore-ipport=a --token=a --dry-run --post-run=./no", "--post-run: there is no ./no");
    check("--cloudcore-ipport=a --token=a --labels=x", "no NAME=VALUE");
    check("--cloudcore-ipport=a --token=a --set=x", "no key=value");
    check("--cloudcore-ipport=a --token-file=/no/such", "there is no /no/such");
    check("--cloudcore-ipport=a --token=a --kubelet-config=/no/such", "there is no /no/such");
    check(
        "--cloudcore-ipport=a --token=a --kubeedge-version=latest",
        "an example: --kubeedge-version=v1.23.0",
    );
    check("--cloudcore-ipport=a --token=a --profile=edge", "no version=VERSION");
}
