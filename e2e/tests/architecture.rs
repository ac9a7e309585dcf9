//! The import rules of this workspace as a test: which crate may use which, and what pure files must not touch.
//!
//! It reads manifests and sources, and needs nothing: no cluster, no root, no network.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]
// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, and those of ours it may use. A new crate or arrow is a line here, in a commit of its own with its reason.
const MAY_USE: &[(&str, &[&str])] = &[
    ("ke-wire", &[]),
    ("ke-link", &["ke-wire"]),
    // Sockets, and the link's streams, that both ends drive alike; its own crate, since the two above are cores without tasks.
    ("ke-socket", &["ke-wire", "ke-link"]),
    ("ke-api", &["ke-wire"]),
    ("ke-dmi", &[]),
    ("ke-cri", &[]),
    ("ke-kubelet", &[]),
    ("ke-mqtt", &[]),
    ("ke-run", &[]),
    ("cloudcore", &["ke-wire", "ke-link", "ke-socket", "ke-api", "ke-run"]),
    (
        "edgecore",
        &["ke-wire", "ke-link", "ke-socket", "ke-api", "ke-run", "ke-dmi", "ke-cri", "ke-kubelet", "ke-mqtt"],
    ),
    ("keadm", &["ke-wire", "ke-api", "ke-run", "ke-cri"]),
    ("mapper-sdk", &["ke-dmi", "ke-run"]),
    ("mapper-virtual", &["mapper-sdk"]),
    ("mapper-modbus", &["mapper-sdk"]),
    ("mapper-opcua", &["mapper-sdk"]),
    // The rules of topics, which are the same for a broker and its clients.
    ("mapper-mqtt", &["mapper-sdk", "ke-mqtt"]),
    // Images for tests are made as those that ship.
    ("e2e", &["ke-wire", "ke-api", "pack"]),
    ("pack", &[]),
    // Simulated nodes and a simulated mapper.
    ("edgemark", &["ke-wire", "ke-link", "ke-dmi"]),
];

/// Crate, a dependency it must never have, and why.
const MUST_NOT_USE: &[(&str, &str, &str)] = &[
    ("edgecore", "kube", "an edge node talks to cloudcore only, never to the API server"),
    ("ke-link", "tokio", "both ends are cores without sockets, clocks and tasks"),
    ("ke-wire", "tokio", "messages are values"),
    ("ke-mqtt", "tokio", "a broker's decisions, without sockets, clocks and tasks"),
];

/// Crates in which no module imports one that imports it, straight or through others.
const ONE_WAY: &[&str] = &["cloudcore"];

/// Words that mean input, output, time or chance. A file whose first lines call it pure holds none of them outside its tests.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "now_utc",
    "async fn",
    ".await",
    "rusqlite",
    "hyper::",
    "kube::",
    "tonic::",
    "uuid::",
    "SystemRandom",
];

/// Files of the two cores that may run a program, by the end of their path, and which program that is. README.md names them too.
const MAY_RUN: &[(&str, &str, &str)] = &[
    ("edgecore", "image_folder.rs", "the runtime's client, which imports image archives"),
    ("edgecore", "node_shutdown.rs", "systemctl, which knows whether the machine goes down"),
    ("edgecore", "pods_slice.rs", "systemctl, which limits what all pods use together"),
    ("edgecore", "pod_network/leaving.rs", "iptables, whose chains a managed pod network leaves behind"),
];

const VAGUE_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

struct Crate {
    name: String,
    folder: PathBuf,
    dependencies: Vec<String>,
}

#[test]
fn crates_point_down_only() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let crates = crates();
    let ours: Vec<&str> = crates.iter().map(|found| found.name.as_str()).collect();
    assert!(ours.contains(&"ke-wire"), "the workspace was not found: {ours:?}");
    let mut wrong = Vec::new();
    for found in &crates {
        let Some(may) = allowed.get(found.name.as_str()) else {
            wrong.push(format!("{} has no row in MAY_USE", found.name));
            continue;
        };
        for used in &found.dependencies {
            if ours.contains(&used.as_str()) && !may.contains(&used.as_str()) {
                wrong.push(format!("{} must not use {used}", found.name));
            }
            for (name, forbidden, why) in MUST_NOT_USE {
                if found.name == *name && used == forbidden {
                    wrong.push(format!("{name} must not use {forbidden}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_files_are_pure() {
    let mut wrong = Vec::new();
    let mut n_pure = 0;
    for (path, text) in sources() {
        let ke_link = path.starts_with(root().join("proto/ke-link/src"));
        if !(ke_link || calls_itself_pure(&text)) {
            continue;
        }
        n_pure += 1;
        for (number, line) in code_lines(&text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{number}: `{word}` in a pure file", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{n_pure} pure files\n{}", wrong.join("\n"));
}

#[test]
fn modules_use_each_other_by_their_handles() {
    let mut wrong = Vec::new();
    for found in crates().iter().filter(|found| ["cloudcore", "edgecore"].contains(&found.name.as_str())) {
        let source = found.folder.join("src");
        for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(&source)) {
            let inside = path.strip_prefix(&source).unwrap();
            // The top of a crate sees all.
            let Some(own) = inside.parent().and_then(|folder| folder.iter().next()) else { continue };
            for (number, line) in code_lines(&text) {
                for (module, file) in reaches(line) {
                    let is_file = source.join(&module).join(format!("{file}.rs")).is_file();
                    if own != module.as_str() && is_file && file != "handle" {
                        let place = shown(&path);
                        wrong.push(format!(
                            "{place}:{number}: reaches into {module}/{file}.rs, past {module}'s handle"
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_import_one_way() {
    for found in crates().iter().filter(|found| ONE_WAY.contains(&found.name.as_str())) {
        let source = found.folder.join("src");
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with(&source)) {
            let inside = path.strip_prefix(&source).unwrap();
            let own = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let named = code_lines(&text).flat_map(|(_, line)| line.split("crate::").skip(1).map(word));
            imports.entry(own.clone()).or_default().extend(named.filter(|module| *module != own));
        }
        assert!(imports.len() > 10, "{} was not found: {imports:?}", found.name);
        let circle = circle(imports);
        assert!(circle.is_empty(), "{}: these modules import each other in a circle: {circle:?}", found.name);
    }
}

/// What is left when whatever imports nothing that is left is taken away: circles, and what imports them.
fn circle(mut imports: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let there: BTreeSet<String> = imports.keys().cloned().collect();
        imports.retain(|_, used| used.iter().any(|module| there.contains(module)));
        if imports.len() == there.len() {
            return imports;
        }
    }
}

#[test]
fn the_cores_run_few_programs() {
    let mut wrong = Vec::new();
    let mut running = Vec::new();
    for found in crates().iter().filter(|found| ["cloudcore", "edgecore"].contains(&found.name.as_str())) {
        for (path, text) in
            sources().into_iter().filter(|(path, _)| path.starts_with(found.folder.join("src")))
        {
            let Some((number, _)) = code_lines(&text).find(|(_, line)| line.contains("Command::new")) else {
                continue;
            };
            match MAY_RUN.iter().position(|(name, file, _)| *name == found.name && path.ends_with(file)) {
                Some(row) => running.push(row),
                None => {
                    wrong.push(format!("{}:{number}: runs a program; MAY_RUN and README.md", shown(&path)))
                }
            }
        }
    }
    let idle = MAY_RUN.iter().enumerate().filter(|(row, _)| !running.contains(row));
    wrong.extend(idle.map(|(_, (name, file, what))| format!("{name}: {file} does not run {what} any more")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_say_something() {
    let vague =
        |path: &PathBuf| path.file_stem().is_some_and(|stem| VAGUE_NAMES.iter().any(|name| stem == *name));
    let wrong: Vec<String> =
        sources().into_iter().map(|(path, _)| path).filter(vague).map(|path| shown(&path)).collect();
    assert!(wrong.is_empty(), "files named after nothing: {wrong:?}");
}

#[test]
fn modules_say_what_they_are() {
    let silent = |(path, text): (PathBuf, String)| (!text.starts_with("//!")).then(|| shown(&path));
    let wrong: Vec<String> = sources().into_iter().filter_map(silent).collect();
    assert!(wrong.is_empty(), "the first lines must say what a module does, and never does: {wrong:?}");
}

/// `make unit` needs no root, cluster or runtime.
#[test]
fn cargo_test_alone_starts_no_story() {
    let folder = root().join("e2e");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let is_marked =
        |name: &str| manifest.contains(&format!("name = \"{name}\"\nrequired-features = [\"stories\"]"));
    for entry in fs::read_dir(folder.join("tests")).unwrap().flatten() {
        let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let needs_nothing = ["architecture", "dependencies"].contains(&&*name);
        assert_eq!(
            is_marked(&name),
            !needs_nothing,
            "e2e/Cargo.toml: [[test]] {name} with required-features = [\"stories\"]"
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Members of the workspace, with everything their manifests depend on in any way.
fn crates() -> Vec<Crate> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let folders = members.split(',').map(|member| member.trim().trim_matches('"')).filter(|m| !m.is_empty());
    let read = |folder: &str| {
        let folder = root().join(folder);
        let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(text.contains(&format!("name = \"{name}\"")), "{name}: folder and crate have one name");
        Crate { name, dependencies: dependencies(&text), folder }
    };
    folders.map(read).collect()
}

fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            // The long form: [dependencies.name]
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name: String =
                line.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            found.extend((!name.is_empty()).then_some(name));
            let renamed = line.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            found.extend(renamed.map(str::to_owned));
        }
    }
    found
}

/// Every Rust file of ours under a `src` folder.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = crates().into_iter().map(|found| found.folder.join("src")).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The first paragraph of a module's words decides.
fn calls_itself_pure(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!") && line.len() > 3);
    head.flat_map(str::split_whitespace)
        .any(|word| word.trim_matches(|c: char| !c.is_alphabetic()).eq_ignore_ascii_case("pure"))
}

/// Lines with their numbers, without comments, up to the tests (which come last).
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.starts_with("//"))
}

/// `crate::module::file` wherever a line names it.
fn reaches(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let module = word(rest);
        if let Some(rest) = rest.strip_prefix(module.as_str()).and_then(|rest| rest.strip_prefix("::")) {
            found.push((module, word(rest)));
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_reading_of_lines_is_right() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { package = \"c\" }\n# d = 1\n\
                    [target.'cfg(unix)'.dependencies]\ne = \"1\"\n[dependencies.f]\nversion = \"1\"\n";
    assert_eq!(dependencies(manifest), ["a", "b", "c", "e", "f"]);
    assert_eq!(
        reaches("use crate::a::b::C; crate::d::e"),
        [("a".into(), "b".into()), ("d".into(), "e".into())]
    );
    assert!(calls_itself_pure("//! Decides. Pure: no clock.\n"));
    assert!(!calls_itself_pure("//! Runs.\n//!\n//! The pure part is elsewhere.\n"));
    assert_eq!(code_lines("a\n// b\n#[cfg(test)]\nc").count(), 1);
    let of = |arrows: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let set = |used: &[&str]| used.iter().map(|module| (*module).to_owned()).collect();
        arrows.iter().map(|(module, used)| ((*module).to_owned(), set(used))).collect()
    };
    assert!(circle(of(&[("top", &["a", "b"]), ("a", &["b", "elsewhere"]), ("b", &[])])).is_empty());
    let found = circle(of(&[("a", &["b"]), ("b", &["c"]), ("c", &["a", "d"]), ("d", &[])]));
    assert_eq!(found.into_keys().collect::<String>(), "abc");
}
