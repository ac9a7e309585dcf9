//! What is typed a second time changes nothing: no object is written, no process starts again, nothing is removed twice.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use e2e::cluster::Cluster;
use e2e::ground::{CLOUD, Ground};
use e2e::joined::{must, run_pod, told};

const NODE: &str = "edge-twice";

struct Twice {
    ground: Ground,
}

impl Twice {
    fn init(&self, more: &[&str]) -> Result<Output> {
        let address = self.ground.init();
        Ok(self.ground.keadm(&[&["init", &*address], more].concat()).output()?)
    }

    fn join(&self, node: &str, token: &str) -> Result<Output> {
        let [cloud, name, config] = self.ground.join(node);
        let token = format!("--token={token}");
        Ok(self.ground.keadm_on_edge(&["join", &cloud, &name, &config, &token])?.output()?)
    }

    fn typed(&self, mut command: Command) -> Result<String> {
        must(&command.output()?)
    }
}

#[test]
fn twice_is_once() -> Result<()> {
    let twice = Twice { ground: Ground::start(NODE, &|_| {})? };
    let (cluster, ground) = (&twice.ground.cluster, &twice.ground);

    let first = must(&twice.init(&["--set=cloudCore.modules.cloudHub.nodeLimit=777"])?)?;
    ensure!(first.contains("cloudcore is ready"), "{first}");
    let written = versions(cluster)?;
    // What is not said again holds.
    for again in [twice.init(&[])?, ground.keadm(&["init"]).output()?] {
        let again = must(&again)?;
        ensure!(!again.contains("change ") && !again.contains("create "), "{again}");
        ensure!(again.contains("cloudCore.modules.cloudHub.nodeLimit"), "what holds is not said: {again}");
        let next = format!("keadm join --cloudcore-ipport={}:10000", ground.cloud.address());
        ensure!(again.contains(&next), "{again}");
        ensure!(versions(cluster)? == written, "a second init wrote something");
    }

    // What somebody else has changed meanwhile is named, and taken back only if that is wanted.
    let patch = "--patch={\"spec\":{\"replicas\":0}}";
    cluster.kubectl_ok(&["patch", "deployment/cloudcore", "--namespace=kubeedge", patch])?;
    let patched = versions(cluster)?;
    // With something else that would be written before it.
    for more in [&["--dry-run"][..], &[], &["--set=cloudCore.modules.cloudHub.nodeLimit=778"]] {
        let refused = twice.init(more)?;
        let said = told(&refused);
        ensure!(refused.status.code() == Some(3), "{more:?}: {said}");
        ensure!(said.contains(".spec.replicas") && said.contains("--force"), "{more:?}: {said}");
        ensure!(!said.contains("taking back"), "{more:?}: nothing was made: {said}");
        ensure!(versions(cluster)? == patched, "{more:?} wrote something: {said}");
    }
    let plan = must(&twice.init(&["--force", "--dry-run"])?)?;
    ensure!(plan.contains("change Deployment kubeedge/cloudcore"), "{plan}");
    ensure!(versions(cluster)? == patched, "a dry run wrote something");
    let back = must(&twice.init(&["--force"])?)?;
    ensure!(back.contains("change Deployment kubeedge/cloudcore"), "{back}");

    let token = ground.keadm(&["gettoken"]).output()?;
    must(&token)?;
    let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
    let before = ground.edge.machine.made()?;
    // Nobody becomes one of the cluster's own machines.
    let labels = || cluster.kubectl_ok(&["get", "node", CLOUD, "--output=jsonpath={.metadata.labels}"]);
    let of_the_cluster = labels()?;
    let refused = twice.join(CLOUD, &token)?;
    ensure!(told(&refused).contains("that is no edge node: choose another name"), "{}", told(&refused));
    ground.edge.machine.must_be_as(&before)?;
    ensure!(labels()? == of_the_cluster, "{}", labels()?);

    must(&twice.join(NODE, &token)?)?;
    run_pod(cluster, "web")?;
    let (files, pid) = (ground.edge.machine.made()?, ground.edge.sh("cat /run/edgecore.pid")?);
    let containers = ground.edge.runtime.running()?;
    let again = must(&twice.join(NODE, &token)?)?;
    ensure!(again.contains("already"), "{again}");
    ensure!(ground.edge.machine.made()? == files, "the second join wrote something");
    ensure!(ground.edge.sh("cat /run/edgecore.pid")? == pid, "the second join started edgecore again");
    ensure!(ground.edge.runtime.running()? == containers, "the second join touched containers");
    // As another node it is refused, and says what to type.
    let other = twice.join("another", &token)?;
    ensure!(other.status.code() == Some(3) && told(&other).contains("keadm reset"), "{}", told(&other));
    ensure!(ground.edge.machine.made()? == files, "a refused join wrote something");

    twice.typed(ground.keadm_on_edge(&["reset", "edge", "--force"])?)?;
    ground.edge.machine.must_be_as(&before)?;
    let again = twice.typed(ground.keadm_on_edge(&["reset", "edge", "--force"])?)?;
    ensure!(again.contains("nothing to remove"), "{again}");
    // The namespace is keadm's, and what others have put into it is not.
    let mine = ["configmap/mine", "--namespace=kubeedge"];
    cluster.kubectl_ok(&["create", "configmap", "mine", "--namespace=kubeedge"])?;
    let done = twice.typed(ground.keadm(&["reset", "cloud", "--force"]))?;
    ensure!(done.contains("namespace kubeedge stays") && done.contains("ConfigMap kubeedge/mine."), "{done}");
    ensure!(
        !cluster.kubectl(&["get", "secret", "casecret", "--namespace=kubeedge"])?.status.success(),
        "{done}"
    );
    cluster.kubectl_ok(&[&["delete"][..], &mine].concat())?;
    let done = twice.typed(ground.keadm(&["reset", "cloud", "--force"]))?;
    ensure!(done.contains("remove Namespace kubeedge"), "{done}");
    let again = twice.typed(ground.keadm(&["reset", "cloud", "--force"]))?;
    ensure!(again.contains("nothing to remove"), "{again}");
    without_keadms_hands(&twice)
}

/// What keadm printed and kubectl applied is not keadm's to remove; what it says instead does it.
fn without_keadms_hands(twice: &Twice) -> Result<()> {
    let (cluster, ground) = (&twice.ground.cluster, &twice.ground);
    let printed = |words: &[&str]| -> Result<String> {
        let output = ground.keadm(&[&["manifest", "generate"], words].concat()).output()?;
        must(&output)?;
        let file = ground.cloud.run_dir().write("manifest.yaml", &output.stdout)?;
        Ok(format!("--filename={}", file.display()))
    };
    cluster.kubectl_ok(&["apply", &printed(&[&*ground.init()])?])?;
    let applied = versions(cluster)?;
    for words in [&["reset", "cloud", "--force"][..], &["reset", "cloud", "--force", "--with-secrets"]] {
        let refused = ground.keadm(words).output()?;
        let said = told(&refused);
        ensure!(refused.status.code() == Some(3), "{said}");
        ensure!(said.contains("keadm manifest generate --skip-crds | kubectl delete -f -"), "{said}");
        ensure!(said.contains("the cluster names kubectl"), "{said}");
    }
    let now = versions(cluster)?;
    ensure!(applied.iter().all(|line| now.contains(line)), "something went: {now:?}, it was {applied:?}");
    cluster.kubectl_ok(&["delete", &printed(&["--skip-crds"])?])?;
    let again = twice.typed(ground.keadm(&["reset", "cloud", "--force"]))?;
    ensure!(again.contains("nothing to remove"), "{again}");
    ensure!(!cluster.kubectl(&["get", "namespace", "kubeedge"])?.status.success(), "the namespace stays");
    Ok(())
}

/// Every object of the installation with a number that each write raises; a Deployment's own is raised by its status, too.
fn versions(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = "customresourcedefinitions,clusterroles,clusterrolebindings,roles,rolebindings,services,configmaps,secrets,\
                 serviceaccounts,poddisruptionbudgets,networkpolicies";
    let mut all = Vec::new();
    for (kinds, number) in [(kinds, "resourceVersion"), ("deployments", "generation")] {
        let format = format!(
            "--output=jsonpath={{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.{number}}}{{\"\\n\"}}{{end}}"
        );
        let table = cluster.kubectl_ok(&["get", kinds, "--all-namespaces", &format])?;
        all.extend(table.lines().map(str::to_owned));
    }
    ensure!(all.iter().any(|line| line.starts_with("Deployment/cloudcore ")), "{all:?}");
    Ok(all)
}
