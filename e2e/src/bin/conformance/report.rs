//! From ginkgo's report to `target/bench/conformance.json` and to what people read. Pure.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One run's result, as it is written down.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Findings {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Passed and failed. What a spec itself found not to be for this cluster stands in `skipped`.
    pub(crate) total: usize,
    pub(crate) failures: Vec<Finding>,
    pub(crate) skipped: Vec<Finding>,
    /// What was asked for; empty is all.
    pub(crate) area: String,
    pub(crate) took_secs: u64,
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) commit: String,
}

/// A spec and why, in one line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) message: String,
}

/// The file: ours, and beside it the stock kubelet's, each from its last run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) ours: Option<Findings>,
    pub(crate) peer: Option<Findings>,
}

/// The part of ginkgo's JSON report that is read here; the names are ginkgo's.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
}

impl Findings {
    /// Reads a report of `--json-report`. An error if it says that the suite did not come as far as its specs.
    pub(crate) fn read(report: &[u8]) -> Result<Self> {
        let suites: Vec<Suite> = serde_json::from_slice(report).context("read ginkgo's report")?;
        let mut found = Self::default();
        for spec in suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()) {
            let message = one_line(&spec.failure.message);
            if spec.leaf_node_type != "It" {
                ensure!(
                    ["passed", "skipped"].contains(&&*spec.state),
                    "the suite's {} failed: {message}",
                    spec.leaf_node_type
                );
                continue;
            }
            let finding = Finding { name: spec.name(), message };
            match &*spec.state {
                "passed" => found.passed += 1,
                // Those that nobody asked for are in the report too, and say nothing.
                "skipped" | "pending" if finding.message.is_empty() => {}
                "skipped" | "pending" => found.skipped.push(finding),
                _ => found.failures.push(finding),
            }
        }
        found.failures.sort_by(|one, other| one.name.cmp(&other.name));
        found.skipped.sort_by(|one, other| one.name.cmp(&other.name));
        found.failed = found.failures.len();
        found.total = found.passed + found.failed;
        Ok(found)
    }

    fn fails(&self, name: &str) -> bool {
        self.failures.iter().any(|failure| failure.name == name)
    }

    /// Failures that `peer` does not share. Without a peer all count.
    pub(crate) fn not_shared(&self, peer: Option<&Self>) -> Vec<&Finding> {
        self.failures.iter().filter(|failure| peer.is_none_or(|peer| !peer.fails(&failure.name))).collect()
    }

    /// For people: the sums, then each failure with its reason.
    pub(crate) fn told(&self, peer: Option<&Self>) -> String {
        let mut text = format!("{} of {} specs passed, {} failed", self.passed, self.total, self.failed);
        if !self.skipped.is_empty() {
            text += &format!("; {} skipped themselves", self.skipped.len());
        }
        text += "\n";
        for failure in &self.failures {
            let shared = peer.is_some_and(|peer| peer.fails(&failure.name));
            let mark = if shared { "  (as the stock kubelet)" } else { "" };
            text += &format!("  {}{mark}\n      {}\n", failure.name, failure.message);
        }
        text
    }
}

impl Spec {
    fn name(&self) -> String {
        let above = self.container_hierarchy_texts.iter().flatten().map(String::as_str);
        above.chain([&*self.leaf_node_text]).collect::<Vec<_>>().join(" ")
    }
}

/// What a failure says, in one line that suits a terminal: gomega's begin with a lone `Expected`.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// How far ginkgo's own output says that it is: specs that will run, that ended, and that failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) wanted: usize,
    pub(crate) ended: usize,
    pub(crate) failed: usize,
}

impl Progress {
    pub(crate) fn read(output: &str) -> Self {
        let mut progress = Self::default();
        for line in output.lines() {
            if let Some(rest) = line.strip_prefix("Will run ") {
                progress.wanted = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            }
            // A dot for each that ended, among letters for those that nobody asked for.
            progress.ended += line.chars().filter(|letter| *letter == '\u{2022}').count();
            progress.failed += usize::from(line.starts_with("\u{2022} [FAILED]"));
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Vec<u8> {
        let spec = |kind: &str, leaf: &str, state: &str, message: &str| {
            serde_json::json!({"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": kind,
                "LeafNodeText": leaf, "State": state, "Failure": {"Message": message}, "RunTime": 12})
        };
        let mut other = spec("It", "should be asked for", "skipped", "");
        other.as_object_mut().unwrap().remove("Failure");
        let specs = [
            spec("SynchronizedBeforeSuite", "", "passed", ""),
            spec("It", "should work", "passed", ""),
            spec("It", "should not fail", "failed", "\n  timed out\n    after a while"),
            spec("It", "should end", "timedout", "slow"),
            spec("It", "should be on two nodes", "skipped", "Requires two nodes"),
            other,
        ];
        serde_json::to_vec(
            &serde_json::json!([{"SuitePath": "/", "SpecReports": specs}, {"SpecReports": null}]),
        )
        .unwrap()
    }

    #[test]
    fn a_report_becomes_sums_and_reasons() {
        let found = Findings::read(&report()).unwrap();
        assert_eq!((found.passed, found.failed, found.total), (1, 2, 3));
        assert_eq!(found.failures[1].name, "[sig-node] Pods should not fail");
        assert_eq!(found.failures[1].message, "timed out after a while");
        assert_eq!(found.skipped.len(), 1);
        assert!(Findings::read(b"[{").is_err());
    }

    #[test]
    fn a_suite_that_cannot_begin_is_an_error() {
        let report = br#"[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed",
            "Failure": {"Message": "no nodes"}}]}]"#;
        let error = Findings::read(report).unwrap_err().to_string();
        assert_eq!(error, "the suite's SynchronizedBeforeSuite failed: no nodes");
    }

    #[test]
    fn what_the_peer_fails_too_is_marked() {
        let ours = Findings::read(&report()).unwrap();
        let mut peer = ours.clone();
        peer.failures.retain(|failure| failure.name.ends_with("should end"));
        assert_eq!(ours.not_shared(None).len(), 2);
        let names: Vec<&str> = ours.not_shared(Some(&peer)).iter().map(|failure| &*failure.name).collect();
        assert_eq!(names, ["[sig-node] Pods should not fail"]);
        let told = ours.told(Some(&peer));
        assert!(told.starts_with("1 of 3 specs passed, 2 failed; 1 skipped themselves\n"), "{told}");
        assert!(told.contains("should end  (as the stock kubelet)\n      slow\n"), "{told}");
    }

    #[test]
    fn the_record_holds_both_sides() {
        let ours = Findings::read(&report()).unwrap();
        for record in [
            Record::default(),
            Record { ours: Some(ours.clone()), peer: None },
            Record { ours: None, peer: Some(ours.clone()) },
            Record { ours: Some(ours.clone()), peer: Some(ours.clone()) },
        ] {
            let text = serde_json::to_string(&record).unwrap();
            let again: Record = serde_json::from_str(&text).unwrap();
            assert_eq!((again.ours, again.peer), (record.ours, record.peer), "{text}");
        }
        let text = serde_json::to_value(Record { ours: Some(ours), peer: None }).unwrap();
        assert_eq!(text["passed"], 1);
    }

    #[test]
    fn ginkgos_output_tells_how_far_it_is() {
        let output = "Running Suite\nWill run 4 of 7000 specs\nSS\u{2022}SSS\u{2022}\n------\n\
                      \u{2022} [FAILED] [3.1 seconds]\n------\n\u{2022} [SLOW TEST] [65.1 seconds]\n";
        assert_eq!(Progress::read(output), Progress { wanted: 4, ended: 4, failed: 1 });
    }

    #[test]
    fn a_long_line_is_cut_between_letters() {
        assert_eq!(one_line(&"\u{e9}".repeat(400)).chars().count(), 303);
        assert_eq!(one_line(""), "");
    }
}
