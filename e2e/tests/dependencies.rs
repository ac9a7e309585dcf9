//! What may come into the build from outside: licences, sources, and crates that must stay out.
//!
//! It reads `cargo metadata` of the locked tree, offline, so it says the same on every machine.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]
// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
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
        if !allowed(licence) {
            wrong.push(format!("{name}: licence {licence:?} is not in the list"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
