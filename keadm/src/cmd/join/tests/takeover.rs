//! What a takeover does with join's flags.

use super::*;

/// A node of KubeEdge's that ours can take over.
fn kubeedges() -> FakeHost {
    let host = machine();
    let put = |path: &str, body: &str| host.write(Path::new(path), body.as_bytes(), 0).unwrap();
    put(PROGRAM, "theirs");
    put("/etc/kubeedge/certs/server.crt", "certificate");
    put(CONFIG, "modules: {edgeHub: {websocket: {server: 'c:1'}}, edged: {hostnameOverride: edge-1}}");
    put("/opt/site", "");
    host.prints.borrow_mut().push(("/opt/keadm/edgecore --config".into(), r#"{"findings":[]}"#.into()));
    host
}

#[test]
fn a_takeover_asks_the_site_first_and_tells_it_after() {
    let n_asked = |host: &FakeHost| host.ran.borrow().iter().filter(|line| *line == "/opt/site ").count();
    let host = kubeedges();
    let before = host.files.borrow().clone();
    host.fails.borrow_mut().push(("/opt/site".into(), "not on a Friday".into()));
    let (done, _) = try_join(&host, "--takeover --pre-run=/opt/site");
    let Err(Failure::Undone(why)) = done else { panic!("{done:?}") };
    assert!(why.to_string().contains("not on a Friday"), "{why}");
    assert_eq!(*host.files.borrow(), before);
    let (done, _) = try_join(&host, "--takeover --post-run=/opt/site");
    assert!(matches!(done, Err(Failure::Halfway(_))), "{done:?}");
    assert_eq!(n_asked(&host), 2);
    // Nothing is changed any more, and nobody asked or told.
    try_join(&host, "--takeover --pre-run=/opt/site --post-run=/opt/site").0.unwrap();
    assert_eq!(n_asked(&host), 2);
    let (done, _) = try_join(&kubeedges(), "--takeover --pre-run=/no/such");
    assert!(matches!(done, Err(Failure::Usage(_))), "{done:?}");
}

#[test]
fn flags_that_a_takeover_has_no_use_for_are_refused_by_name() {
    for flag in [
        "--service-manager=none",
        "--offline-bundle=/b",
        "--cgroupdriver=systemd",
        "--kubelet-config=/k",
        "--certPath=/c",
        "--image-repository=r",
        "--remote-runtime-endpoint=unix:///r",
        "--certport=1",
    ] {
        let error = Line::try_parse_from(["join", "--takeover", flag]).unwrap_err().to_string();
        let name = flag.split('=').next().unwrap();
        assert!(error.contains("cannot be used with") && error.contains(name), "{flag}: {error}");
    }
    Line::try_parse_from(["join", "--takeover", "--pre-run=/a", "--post-run=/b", "--dry-run"]).unwrap();
}
