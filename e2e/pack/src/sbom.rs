//! A bill of materials (SPDX 2.3, JSON) for one program: every crate that is linked into it, its licence and checksum. The
//! same for people: the notices that lie beside every program that ships. Pure.
//!
//! It reads what `cargo tree` prints, which knows the features that a build turns on, and the checksums of `Cargo.lock`.
//! Crates that only run while compiling are no part of a program and not listed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::oci::rfc3339;
use crate::sha256::sha256;
use crate::terms::Terms;

/// What `cargo tree` must be asked for, besides the packages: one line a crate, its depth before it, bars before its
/// licence and the address of its source.
pub const TREE_ARGUMENTS: [&str; 7] = [
    "tree",
    "--locked",
    "--edges=normal,no-proc-macro",
    "--prefix=depth",
    "--format={p}|{l}|{r}",
    "--color=never",
    "--quiet",
];

/// Crates of a build and what uses what.
#[derive(Debug, Default)]
pub struct Crates {
    described: BTreeMap<Crate, Described>,
    uses: BTreeMap<Crate, BTreeSet<Crate>>,
    checksums: BTreeMap<Crate, String>,
    terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
}

/// What its author says of it; either may be empty.
#[derive(Clone, Debug)]
struct Described {
    licence: String,
    repository: String,
}

pub struct Program<'a> {
    pub name: &'a str,
    pub version: &'a str,
    /// As in the names of archives.
    pub arch: &'a str,
    pub bytes: &'a [u8],
    /// Seconds since 1970.
    pub date: u64,
}

impl Crates {
    /// `tree`: what cargo printed for `TREE_ARGUMENTS`. `lock`: the text of `Cargo.lock`.
    pub fn read(tree: &str, lock: &str) -> Result<Self> {
        let mut crates = Self { checksums: checksums(lock), ..Self::default() };
        // The crates between the root and this line.
        let mut above: Vec<Crate> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let (depth, found, described) =
                line_of_tree(line).with_context(|| format!("cargo tree printed {line:?}"))?;
            above.truncate(depth);
            if let Some(user) = above.last() {
                crates.uses.entry(user.clone()).or_default().insert(found.clone());
            }
            crates.described.insert(found.clone(), described);
            above.push(found);
        }
        Ok(crates)
    }

    /// With the texts of their licences, which the notices then hold.
    #[must_use]
    pub fn with_terms(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    pub fn spdx(&self, program: &Program<'_>) -> Result<Value> {
        let root = Crate { name: program.name.to_owned(), version: program.version.to_owned() };
        let below = self.below(&root);
        ensure!(below.contains(&root), "cargo tree printed nothing of {}", program.name);
        let digest = sha256(program.bytes);
        let title = format!("{}-v{}-linux-{}", program.name, program.version, program.arch);
        let mut packages = vec![json!({
            "SPDXID": "SPDXRef-program",
            "name": program.name,
            "versionInfo": program.version,
            "primaryPackagePurpose": "APPLICATION",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": self.licence(&root),
            "copyrightText": "NOASSERTION",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest}],
        })];
        packages.extend(below.iter().filter(|found| **found != root).map(|found| self.package(found)));
        let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-program")];
        for user in &below {
            let from = if *user == root { "SPDXRef-program".to_owned() } else { user.spdx_id() };
            let used = self.uses.get(user).into_iter().flatten();
            relations.extend(used.map(|used| relation(&from, "DEPENDS_ON", &used.spdx_id())));
        }
        Ok(json!({
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": title,
            // A name, not an address; the digest makes it this program's own.
            "documentNamespace": format!("https://spdx.org/spdxdocs/isthmus-{title}-{digest}"),
            "creationInfo": {"created": rfc3339(program.date)?, "creators": [format!("Tool: pack-{}", program.version)]},
            "packages": packages,
            "relationships": relations,
        }))
    }

    /// Whose work is in these programs, under what terms, where its source is, and the terms' texts, each once. Nothing of a
    /// program that `cargo tree` was not asked for; its bill of materials is then an error.
    pub fn notices(&self, programs: &[&str], version: &str) -> String {
        let roots =
            programs.iter().map(|name| Crate { name: (*name).to_owned(), version: version.to_owned() });
        let below: BTreeSet<Crate> = roots.flat_map(|root| self.below(&root)).collect();
        // Ours come from no registry: no checksum.
        let others = || below.iter().filter(|found| self.checksums.contains_key(found));
        let lines = others().map(|found| {
            let repository = self.described.get(found).map(|described| described.repository.as_str());
            let address = match repository {
                None | Some("") => format!("https://crates.io/crates/{}", found.name),
                Some(repository) => repository.to_owned(),
            };
            format!("{} {}\n    {}\n    {address}\n", found.name, found.version, self.licence(found))
        });
        let programs = programs.join(", ");
        format!(
            "The work of others in {programs} {version}: name and version, licence, source. The licences' texts follow.\n\n{}{}",
            lines.collect::<String>(),
            self.texts(others())
        )
    }

    /// Each text once, after those whose it is.
    fn texts<'a>(&self, crates: impl Iterator<Item = &'a Crate>) -> String {
        let mut whose: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for found in crates {
            let terms = self.terms.get(&(found.name.clone(), found.version.clone()));
            for text in terms.into_iter().flatten().filter(|text| !text.is_empty()) {
                whose.entry(text).or_default().push(format!("{} {}", found.name, found.version));
            }
        }
        let mut whose: Vec<_> = whose.into_iter().map(|(text, names)| (names.join(", "), text)).collect();
        whose.sort();
        whose.iter().map(|(names, text)| format!("\n==== {names}\n\n{text}\n")).collect()
    }

    fn below(&self, root: &Crate) -> BTreeSet<Crate> {
        let mut found = BTreeSet::new();
        let mut rest: Vec<&Crate> =
            self.described.get_key_value(root).map(|(root, _)| root).into_iter().collect();
        while let Some(next) = rest.pop() {
            if found.insert(next.clone()) {
                rest.extend(self.uses.get(next).into_iter().flatten());
            }
        }
        found
    }

    fn package(&self, found: &Crate) -> Value {
        let mut package = json!({
            "SPDXID": found.spdx_id(),
            "name": found.name,
            "versionInfo": found.version,
            "primaryPackagePurpose": "LIBRARY",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": self.licence(found),
            "copyrightText": "NOASSERTION",
        });
        // Ours come from no registry: no checksum.
        if let (Some(checksum), Some(package)) = (self.checksums.get(found), package.as_object_mut()) {
            let address = format!("pkg:cargo/{}@{}", found.name, found.version);
            package
                .insert("checksums".to_owned(), json!([{"algorithm": "SHA256", "checksumValue": checksum}]));
            package.insert(
                "externalRefs".to_owned(),
                json!([{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": address}]),
            );
        }
        package
    }

    /// Cargo also takes the old `MIT/Apache-2.0`, which SPDX does not.
    fn licence(&self, found: &Crate) -> String {
        match self.described.get(found).map(|described| described.licence.as_str()) {
            None | Some("") => "NOASSERTION".to_owned(),
            Some(licence) => licence.replace('/', " OR "),
        }
    }
}

impl Crate {
    /// Letters, digits, dots and dashes are all that an id may have.
    fn spdx_id(&self) -> String {
        let text = format!("SPDXRef-crate-{}-{}", self.name, self.version);
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
    }
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// `12name v1.2.3 (somewhere)|MIT|https://source (*)`: the depth runs into the name, which never starts with a digit; the
/// star says that what is below stands elsewhere.
fn line_of_tree(line: &str) -> Option<(usize, Crate, Described)> {
    let mut columns = line.trim_end_matches(" (*)").split('|');
    let (words, licence, repository) = (columns.next()?, columns.next()?, columns.next()?);
    let name_at = words.find(|c: char| !c.is_ascii_digit())?;
    let (depth, words) = words.split_at(name_at);
    let mut words = words.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let found = Crate { name: name.to_owned(), version: version.to_owned() };
    let described = Described { licence: licence.to_owned(), repository: repository.trim().to_owned() };
    Some((depth.parse().ok()?, found, described))
}

fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let value = |block: &str, key: &str| -> Option<String> {
        let start = format!("{key} = \"");
        block.lines().find_map(|line| Some(line.strip_prefix(start.as_str())?.strip_suffix('"')?.to_owned()))
    };
    let read = |block: &str| {
        let found = Crate { name: value(block, "name")?, version: value(block, "version")? };
        Some((found, value(block, "checksum")?))
    };
    lock.split("[[package]]").filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0edgecore v0.1.0 (/somewhere/edgecore)|Apache-2.0|\n\
                        1bytes v1.2.3|MIT|https://host.example/bytes\n\
                        1tokio v1.54.1|MIT|https://host.example/tokio\n\
                        2bytes v1.2.3|MIT|https://host.example/bytes\n\
                        2mio v1.0.0|MIT/Apache-2.0|https://host.example/mio\n\
                        \n\
                        0cloudcore v0.1.0 (/somewhere/cloudcore)|Apache-2.0|\n\
                        1tokio v1.54.1|MIT|https://host.example/tokio (*)\n\
                        1kube v5.0.0|| (*)\n";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"mio\"\nversion = \"1.0.0\"\nsource = \"x\"\n\
                        checksum = \"ab12\"\n\n[[package]]\nname = \"edgecore\"\nversion = \"0.1.0\"\n";

    fn spdx(name: &str) -> Value {
        let program =
            Program { name, version: "0.1.0", arch: "amd64", bytes: b"program", date: 1_700_000_000 };
        Crates::read(TREE, LOCK).unwrap().spdx(&program).unwrap()
    }

    fn names(spdx: &Value) -> Vec<&str> {
        spdx["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_program_lists_what_is_below_it_and_nothing_else() {
        assert_eq!(names(&spdx("edgecore")), ["edgecore", "bytes", "mio", "tokio"]);
        // What is below tokio was printed under another program.
        assert_eq!(names(&spdx("cloudcore")), ["cloudcore", "bytes", "kube", "mio", "tokio"]);
        let program = Program { name: "keadm", version: "0.1.0", arch: "amd64", bytes: b"", date: 0 };
        assert!(Crates::read(TREE, LOCK).unwrap().spdx(&program).is_err());
    }

    #[test]
    fn a_crate_has_its_licence_checksum_and_address() {
        let spdx = spdx("cloudcore");
        let package = |name: &str| {
            let packages = spdx["packages"].as_array().unwrap();
            packages.iter().find(|package| package["name"] == name).unwrap().clone()
        };
        assert_eq!(package("mio")["licenseDeclared"], "MIT OR Apache-2.0");
        assert_eq!(package("mio")["checksums"][0]["checksumValue"], "ab12");
        assert_eq!(package("mio")["externalRefs"][0]["referenceLocator"], "pkg:cargo/mio@1.0.0");
        assert_eq!(package("kube")["licenseDeclared"], "NOASSERTION");
        assert_eq!(package("cloudcore")["checksums"][0]["checksumValue"], sha256(b"program"));
        assert_eq!(spdx["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn relations_name_only_what_is_listed() {
        let spdx = spdx("cloudcore");
        let ids: BTreeSet<&str> = spdx["packages"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|package| package["SPDXID"].as_str())
            .collect();
        let relations = spdx["relationships"].as_array().unwrap();
        assert_eq!(relations.len(), 1 + 2 + 2);
        for relation in relations.iter().skip(1) {
            assert!(ids.contains(relation["spdxElementId"].as_str().unwrap()), "{relation}");
            assert!(ids.contains(relation["relatedSpdxElement"].as_str().unwrap()), "{relation}");
        }
        assert!(ids.contains("SPDXRef-crate-tokio-1.54.1"));
    }

    #[test]
    fn notices_name_others_and_where_their_terms_are() {
        let notices = |programs: &[&str]| Crates::read(TREE, LOCK).unwrap().notices(programs, "0.1.0");
        let others = "\n\nmio 1.0.0\n    MIT OR Apache-2.0\n    https://host.example/mio\n";
        let text = notices(&["edgecore", "cloudcore"]);
        assert!(
            text.starts_with("The work of others in edgecore, cloudcore 0.1.0: ") && text.ends_with(others),
            "{text}"
        );
        assert!(!notices(&["keadm"]).contains("mio"));

        let of = |name: &str, version: &str, text: &str| {
            ((name.to_owned(), version.to_owned()), vec![text.to_owned()])
        };
        let terms =
            [of("mio", "1.0.0", "Permission is granted"), of("tokio", "1.54.1", "of no registry")].into();
        let text = Crates::read(TREE, LOCK).unwrap().with_terms(terms).notices(&["edgecore"], "0.1.0");
        assert!(text.ends_with("/mio\n\n==== mio 1.0.0\n\nPermission is granted\n"), "{text}");
    }

    #[test]
    fn what_cargo_never_prints_is_told() {
        assert!(format!("{:#}", Crates::read("hello\n", "").unwrap_err()).contains("hello"));
    }
}
