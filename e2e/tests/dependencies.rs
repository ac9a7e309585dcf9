//! What may come into the build from outside: licences, sources, and crates that must stay out.
//!
//! It reads `cargo metadata` of the locked tree, offline, so it says the same on every machine.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]
// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crate and why it must not be in the tree, not even as a test's dependency.
const FORBIDDEN: &[(&str, &str)] = &[
    ("aws-lc-rs", "one TLS provider in the tree, and that is ring"),
    ("aws-lc-sys", "one TLS provider in the tree, and that is ring"),
    ("openssl", "no system library decides what TLS we speak"),
    ("openssl-sys", "no system library decides what TLS we speak"),
    ("native-tls", "no system library decides what TLS we speak"),
];

/// Crate (and those whose names go on with a dash), the one member of ours that may bring it, and what is known about it.
const CONFINED: &[(&str, &str, &str)] = &[
    ("async-opcua", "mapper-opcua", "MPL-2.0: its files stay under it, ours do not; used unmodified"),
    (
        "rsa",
        "mapper-opcua",
        "RUSTSEC-2023-0071, no fix: private keys leak through timing to whoever can measure it",
    ),
    (
        "serde_yaml",
        "mapper-opcua",
        "no longer maintained; async-opcua-core reads files of its own with it, we none",
    ),
];

const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn what_comes_in_is_allowed() {
    let metadata = metadata();
    // Only what some build of ours resolves to; the lock file also names what no feature turns on.
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    assert!(used.len() > 20, "the tree was not read");
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap_or_default();
        if !used.contains(package["id"].as_str().unwrap_or_default()) {
            continue;
        }
        if let Some((_, why)) = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
            wrong.push(format!("{name}: {why}; see who brings it: cargo tree -i {name}"));
        }
        // Ours have no source.
        let Some(source) = package["source"].as_str() else { continue };
        if source != SOURCE {
            wrong.push(format!("{name} comes from {source}"));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        let is_known = is_named(name, "async-opcua") && licence == "MPL-2.0";
        if !allowed(licence) && !is_known {
            wrong.push(format!("{name}: licence {licence:?} is not in the list"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_confined_stays_where_it_is() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let uses: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .filter_map(|node| {
            let uses = node["dependencies"].as_array()?.iter().filter_map(Value::as_str).collect();
            Some((node["id"].as_str()?, uses))
        })
        .collect();
    let mut wrong = Vec::new();
    for member in metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str) {
        let mut below = BTreeSet::new();
        let mut rest = vec![member];
        while let Some(id) = rest.pop() {
            if below.insert(id) {
                rest.extend(uses.get(id).into_iter().flatten());
            }
        }
        let ours = names.get(member).copied().unwrap_or_default();
        for name in below.iter().filter_map(|id| names.get(id)) {
            if let Some((_, only, why)) =
                CONFINED.iter().find(|(confined, ..)| is_named(name, confined)).filter(|row| row.1 != ours)
            {
                wrong.push(format!("{ours} brings {name}, which only {only} may: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (confined, ..) in CONFINED {
        assert!(
            names.values().any(|name| is_named(name, confined)),
            "{confined} is gone: strike it out here"
        );
    }
}

fn is_named(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An SPDX expression: `OR` needs one side, `AND` both; the old `/` means `OR`.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let holds = any(&mut rest);
    holds && rest.is_empty()
}

fn any(words: &mut &[&str]) -> bool {
    let mut holds = all(words);
    while let [first, rest @ ..] = *words
        && *first == "OR"
    {
        *words = rest;
        // Both sides must be read, whatever the first one says.
        holds = all(words) || holds;
    }
    holds
}

fn all(words: &mut &[&str]) -> bool {
    let mut holds = one(words);
    while let [first, rest @ ..] = *words
        && *first == "AND"
    {
        *words = rest;
        holds = one(words) && holds;
    }
    holds
}

fn one(words: &mut &[&str]) -> bool {
    match *words {
        [first, rest @ ..] if *first == "(" => {
            *words = rest;
            let holds = any(words);
            *words = words.get(1..).unwrap_or_default();
            holds
        }
        [name, with, exception, rest @ ..] if *with == "WITH" => {
            *words = rest;
            LICENCES.contains(&format!("{name} WITH {exception}").as_str())
        }
        [name, rest @ ..] => {
            *words = rest;
            LICENCES.contains(name)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_read() {
    let check =
        |expression: &str, expected: bool| assert_eq!(allowed(expression), expected, "{expression:?}");
    check("MIT", true);
    check("MIT OR GPL-3.0", true);
    check("GPL-3.0 OR MIT", true);
    check("MIT AND GPL-3.0", false);
    check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
    check("(GPL-2.0 OR GPL-3.0) AND MIT", false);
    check("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true);
    check("MIT/Apache-2.0", true);
    check("", false);
}
