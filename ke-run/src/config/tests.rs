//! A small configuration, right and wrong.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Small {
    modules: Modules,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modules {
    heartbeat: Within<5, 600>,
    server: HostPort,
    labels: BTreeMap<String, String>,
    keep_secs: Option<Within<0, 100>>,
    token: Secret,
}

impl Default for Modules {
    fn default() -> Self {
        Self {
            heartbeat: Within::of::<15>(),
            server: HostPort::new("localhost", 10000),
            labels: BTreeMap::new(),
            keep_secs: None,
            token: Secret::default(),
        }
    }
}

impl ConfigFile for Small {
    const PROGRAM: &'static str = "small";
    const PATH: &'static str = "/etc/small.yaml";
    const KIND: &'static str = "Small";
    const API_VERSIONS: &'static [&'static str] = &["small/v2", "small/v2b"];
    const OLD_API_VERSIONS: &'static [&'static str] = &["small/v1"];
    const UNSUPPORTED: &'static str = "
        modules.router
        modules.kept 5 # use the other one
        modules.never *
    ";
    const MINIMAL: &'static [&'static str] = &["modules.server", "modules.token"];

    fn problems(&self) -> Vec<Problem> {
        if self.modules.heartbeat.get() == 13 {
            return vec![Problem::new("modules.heartbeat", "found 13, which is unlucky")];
        }
        Vec::new()
    }
}

fn read(yaml: &str) -> Result<Loaded<Small>, ConfigError> {
    check(yaml, Path::new("f.yaml"))
}

fn warns(yaml: &str, expected: &[&str]) {
    assert_eq!(read(yaml).unwrap().warnings, expected, "{yaml}");
}

fn refuses(yaml: &str, expected: &[&str]) {
    let ConfigError::Keys { problems, .. } = read(yaml).unwrap_err() else { panic!("{yaml}") };
    assert_eq!(problems.iter().map(Problem::to_string).collect::<Vec<_>>(), expected, "{yaml}");
}

#[test]
fn missing_and_null_mean_the_default() {
    for yaml in
        ["", "modules:\n", "modules: {heartbeat: null, labels: , keepSecs: ~}", "kind:\napiVersion: ~"]
    {
        warns(yaml, &[]);
        assert_eq!(read(yaml).unwrap().config.modules.heartbeat.get(), 15);
    }
}

#[test]
fn values_arrive() {
    let yaml = "apiVersion: small/v2b\nkind: Small\nmodules:\n  heartbeat: 20\n  server: \"[::1]:5\"\n  \
                labels: {a/b.c: x}\n  keepSecs: 0\n  token: hush\n";
    let modules = read(yaml).unwrap().config.modules;
    assert_eq!((modules.heartbeat.get(), modules.server.host.as_str()), (20, "::1"));
    assert_eq!(modules.labels.get("a/b.c").map(String::as_str), Some("x"));
    assert_eq!(modules.keep_secs.map(Within::get), Some(0));
    assert_eq!(modules.token.reveal(), "hush");
}

#[test]
fn unknown_keys_name_their_neighbour() {
    refuses("modules:\n  sever: a:1\n", &["modules.sever: unknown key; did you mean \"server\"? (line 2)"]);
    refuses("modules: {roter: 1}", &["modules.roter: unknown key; did you mean \"router\"? (line 1)"]);
    refuses("\nheartbeat: 9", &["heartbeat: unknown key here; did you mean \"modules.heartbeat\"? (line 2)"]);
    refuses("x: 1", &["x: unknown key; allowed here are apiVersion, kind, modules (line 1)"]);
    refuses("modul:\n", &["modul: unknown key; did you mean \"modules\"? (line 1)"]);
}

#[test]
fn known_keys_warn_unless_they_ask_for_nothing() {
    warns(
        "modules:\n  router: {enable: true}\n  kept: 6\n  never: 9\n",
        &[
            "modules.router: KubeEdge's key, not supported here, ignored (line 2)",
            "modules.kept: KubeEdge's key, not supported here, ignored: use the other one (line 3)",
        ],
    );
    warns("modules: {router: {enable: false, port: 1}, kept: 5, never: {x: 1}}", &[]);
}

#[test]
fn wrong_values_name_key_found_and_allowed_and_all_are_listed() {
    refuses(
        "modules:\n  heartbeat: 4\n  server: x\n  keepSecs: yes\n  labels: [a]\n  token: [hush]\n",
        &[
            "modules.heartbeat: invalid value: integer `4`, expected a whole number from 5 to 600 (line 2)",
            "modules.server: invalid value: string \"x\", expected host:port such as \"cloud.example:10000\" (line 3)",
            "modules.keepSecs: invalid type: boolean `true`, expected a whole number from 0 to 100 (line 4)",
            "modules.labels: invalid type: sequence, expected a map (line 5)",
            "modules.token: found something else (hidden), expected text in quotes (line 6)",
        ],
    );
    refuses(
        "modules: 5",
        &[
            "modules: found a number, expected a section with the keys heartbeat, keepSecs, labels, server, token \
           (line 1)",
        ],
    );
    refuses("modules: {heartbeat: 13}", &["modules.heartbeat: found 13, which is unlucky"]);
    refuses("- a", &["(top): found a list, expected keys such as \"modules:\""]);
}

#[test]
fn kind_and_api_version() {
    warns("apiVersion: small/v1", &["apiVersion: \"small/v1\" is old and read as small/v2"]);
    refuses(
        "kind: Big\napiVersion: big/v1",
        &[
            "kind: found \"Big\", expected \"Small\" (line 1)",
            "apiVersion: found \"big/v1\", expected \"small/v2\" or \"small/v2b\" (line 2)",
        ],
    );
}

#[test]
fn the_whole_message_ends_with_the_next_command() {
    assert_eq!(
        read("x: 1").unwrap_err().to_string(),
        "f.yaml cannot be used:\n  x: unknown key; allowed here are apiVersion, kind, modules (line 1)\n\
         correct it, then run \"small config check f.yaml\""
    );
    let missing = load::<Small>(Path::new("/nowhere/f.yaml")).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/f.yaml: No such file"), "{missing}");
}

#[test]
fn printed_files_can_be_read_back() {
    warns(&default_yaml::<Small>(), &[]);
    let minimal = minimal_yaml::<Small>();
    warns(&minimal, &[]);
    assert!(minimal.contains("server: localhost:10000") && !minimal.contains("heartbeat"), "{minimal}");
}
