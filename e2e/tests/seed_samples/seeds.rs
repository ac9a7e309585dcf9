//! What the published samples are, file by file, and how each is answered here. Ours (`e2e/samples`) have the same fields and
//! commands; where the published ones are at hand, that is checked.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How a sample is answered today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The story asserts what its reader expects.
    Shown,
    /// The story asserts what there is; this is missing.
    Partly(&'static str),
    /// Nothing here answers it yet; why, and which issue brings it, as far as that is known.
    NotYet(&'static str),
    /// Of another product, or gone from Kubernetes: the API server itself refuses it, which the story asserts.
    Refused,
}

use Answer::{NotYet, Partly, Refused, Shown};

/// Of every file of the folder.
pub(crate) const ANSWERS: [(&str, Answer); 37] = [
    (
        "000-04-traefik-ingress.yaml",
        NotYet("an ingress controller on the node reads a local API; no issue yet"),
    ),
    ("000-06-local-pvc.yaml", NotYet("no storage class local-path; no issue yet")),
    ("000-07-loadbalancer-service.yaml", NotYet("no Services on edge nodes; no issue yet")),
    ("000-09-install-kubeedge-cloud.sh", Shown),
    ("000-10-install-kubeedge-edge.sh", Shown),
    ("000-11-device-model.yaml", Shown),
    ("000-12-device-instance.yaml", Shown),
    ("000-13-bash.sh", Shown),
    ("000-14-edge-autonomous-deployment.yaml", Shown),
    ("000-15-edge-service.yaml", NotYet("no Services on edge nodes; no issue yet")),
    ("000-16-federated-learning-job.yaml", NotYet("no federated learning; no issue yet")),
    ("000-18-nodepool.yaml", NotYet("no node pools; no issue yet")),
    ("000-19-united-deployment.yaml", NotYet("no node pools; no issue yet")),
    ("000-20-service-topology.yaml", NotYet("no Services on edge nodes; no issue yet")),
    ("000-21-yurt-ingress.yaml", NotYet("an ingress controller on the node reads a local API; no issue yet")),
    ("000-22-quic-protocol.yaml", Partly("QUIC, which is refused by name until issue 7 brings it")),
    ("000-23-service-topology-policy.yaml", NotYet("no Services on edge nodes; no issue yet")),
    ("000-24-kubelet-config.yaml", Partly("pods that are evicted below the threshold: issue 6")),
    ("000-25-edge-pod-resources.yaml", Shown),
    ("000-26-bash.sh", Shown),
    ("000-27-edge-network-policy.yaml", NotYet("NetworkPolicies do not hold on edge nodes; no issue yet")),
    ("000-28-edge-node-exporter.yaml", Shown),
    (
        "000-29-fluent-bit-edge.yaml",
        Partly("/var/log/containers: issue 6; the API server's name on the node: no issue yet"),
    ),
    ("002-01-deployment.yaml", Shown),
    ("002-02-daemonset.yaml", Shown),
    ("002-03-deployment.yaml", Partly("probes: issue 6")),
    ("002-04-deployment.yaml", NotYet("no claims of volumes; no issue yet")),
    ("002-05-storageclass.yaml", NotYet("no local volumes; no issue yet")),
    ("002-06-networkpolicy.yaml", NotYet("NetworkPolicies do not hold on edge nodes; no issue yet")),
    ("002-07-kubefedcluster.yaml", Refused),
    ("002-08-serviceexport.yaml", Refused),
    ("002-09-deployment.yaml", NotYet("no claims of volumes; no issue yet")),
    ("002-10-python.py", NotYet("no rules that transform and forward; no issue yet")),
    ("002-11-podsecuritypolicy.yaml", Refused),
    ("002-12-authorizationpolicy.yaml", Refused),
    ("002-13-servicemonitor.yaml", NotYet("scraping through the cloud needs streams: issue 6")),
    ("002-14-configmap.yaml", Partly("/var/log/containers: issue 6")),
];

/// Not a sample.
const ABOUT: &str = "README.md";

pub(crate) struct Seeds {
    /// The published ones, where they are at hand; ours are then compared with them.
    published: Option<PathBuf>,
    shown: RefCell<BTreeSet<String>>,
}

impl Seeds {
    /// Where the published files are, every one of them has its answer.
    pub(crate) fn open() -> Result<Self> {
        let answered: BTreeSet<String> = ANSWERS.iter().map(|(name, _)| (*name).to_owned()).collect();
        ensure!(answered.len() == ANSWERS.len(), "a sample is answered twice");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
        let published = std::env::var_os("ISTHMUS_SEED_SAMPLES").map(PathBuf::from);
        let published = published.or_else(|| {
            let beside = root.join("../shared/seed-samples");
            beside.is_dir().then_some(beside)
        });
        match &published {
            None => eprintln!(
                "the published samples are not at hand (ISTHMUS_SEED_SAMPLES): ours are not compared with them"
            ),
            Some(folder) => {
                let mut found = BTreeSet::new();
                for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
                    found.insert(entry?.file_name().to_string_lossy().into_owned());
                }
                found.remove(ABOUT);
                let unanswered: Vec<_> = found.symmetric_difference(&answered).collect();
                ensure!(
                    unanswered.is_empty(),
                    "in the folder or in ANSWERS, but not in both: {unanswered:?}"
                );
            }
        }
        Ok(Self { published, shown: RefCell::default() })
    }

    /// Ours, and the published one.
    fn find(&self, id: &str) -> Result<(PathBuf, Option<String>)> {
        let (name, _) =
            ANSWERS.iter().find(|(name, _)| name.starts_with(id)).with_context(|| format!("no {id}"))?;
        self.shown.borrow_mut().insert((*name).to_owned());
        let theirs = self.published.as_ref().map(|folder| fs::read_to_string(folder.join(name)));
        Ok((Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name), theirs.transpose()?))
    }

    /// Our own file of that sample, which has the same fields.
    pub(crate) fn ours(&self, id: &str) -> Result<String> {
        let (path, theirs) = self.find(id)?;
        let ours = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let fields = |text: &str| -> Result<BTreeSet<String>> {
            let mut fields = BTreeSet::new();
            collect(&serde_saphyr::from_str(text)?, "", &mut fields);
            Ok(fields)
        };
        let ours_has = fields(&ours)?;
        if let Some(theirs) = theirs {
            let theirs_has = fields(&theirs)?;
            let differs: Vec<_> = ours_has.symmetric_difference(&theirs_has).collect();
            ensure!(differs.is_empty(), "{id}: fields of one only: {differs:?}");
        }
        Ok(ours)
    }

    /// Files that are to be refused: ours, which has the kind, and the published one.
    pub(crate) fn refused(&self, id: &str) -> Result<Vec<PathBuf>> {
        let (ours, _) = self.find(id)?;
        let theirs = self.published.as_ref().map(|folder| folder.join(id));
        Ok([ours].into_iter().chain(theirs).collect())
    }

    /// The commands of a script that begin with one of these programs, as a reader types them: `fill` gives what stands in
    /// the place of `<...>` after a flag, or is what is left of it.
    pub(crate) fn commands(
        &self,
        id: &str,
        programs: &[&str],
        fill: &dyn Fn(&str) -> String,
    ) -> Result<Vec<String>> {
        let (path, theirs) = self.find(id)?;
        let ours = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let ours = commands_of(&ours, programs, fill).with_context(|| id.to_owned())?;
        ensure!(!ours.is_empty(), "{id} has no such command");
        if let Some(theirs) = theirs {
            let theirs = commands_of(&theirs, programs, fill).with_context(|| id.to_owned())?;
            ensure!(ours == theirs, "{id}: ours are {ours:?}, the published ones {theirs:?}");
        }
        Ok(ours)
    }

    /// Whatever ANSWERS calls shown was.
    pub(crate) fn all_were_shown(&self) -> Result<()> {
        let shown = self.shown.borrow();
        let must = |answer: &Answer| !matches!(answer, NotYet(_));
        let forgotten: Vec<&str> = ANSWERS
            .iter()
            .filter(|(name, answer)| must(answer) != shown.contains(*name))
            .map(|(name, _)| *name)
            .collect();
        ensure!(forgotten.is_empty(), "not as ANSWERS says: {forgotten:?}");
        for (name, answer) in &ANSWERS {
            match answer {
                Shown | Refused => {}
                Partly(missing) => eprintln!("{name}: not yet: {missing}"),
                NotYet(why) => eprintln!("{name}: not yet: {why}"),
            }
        }
        Ok(())
    }
}

/// Words with one blank between.
fn commands_of(text: &str, programs: &[&str], fill: &dyn Fn(&str) -> String) -> Result<Vec<String>> {
    let whole = text.replace("\\\n", " ");
    let variable = |name: &str| {
        let value = whole.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let version = variable("KUBEEDGE_VERSION");
    let mut commands = Vec::new();
    for line in whole.lines() {
        let command = line.trim().trim_start_matches("sudo ").trim();
        if programs.iter().any(|program| command.starts_with(&format!("{program} "))) {
            let command = command.replace("${KUBEEDGE_VERSION}", &version);
            let command = filled(&command, fill).with_context(|| command.clone())?;
            commands.push(command.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    Ok(commands)
}

/// Paths of all keys, those of list members as one.
fn collect(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, below) in fields {
                let path = format!("{path}/{key}");
                into.insert(path.clone());
                collect(below, &path, into);
            }
        }
        Value::Array(members) => members.iter().for_each(|member| collect(member, path, into)),
        _ => {}
    }
}

fn filled(command: &str, fill: &dyn Fn(&str) -> String) -> Result<String> {
    let mut rest = command;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once('<') {
        let (_, after) = after.split_once('>').context("no end of <")?;
        let flag = before
            .split_whitespace()
            .last()
            .and_then(|word| word.split_once('='))
            .map_or("", |(flag, _)| flag);
        out += before;
        out += &fill(flag);
        rest = after;
    }
    Ok(out + rest)
}
