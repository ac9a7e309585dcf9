//! The chart with the real helm: every set of values is taken by API server and cloudcore, wrong ones are refused, keadm makes
//! the same objects without Helm, the rights that it gives to cloudcore are enough, and it takes the place of KubeEdge's chart.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::devices::{Mapper, ModbusDevice, condition, oven, oven_model};
use e2e::need;
use e2e::node::{CloudCore, EdgeCore, EdgeOptions, binary};
use e2e::run_dir::RunDir;
use e2e::runtime::Runtime;
use e2e::site::{NODE, Site, web_app};
use e2e::wait::{Seen, eventually};
use e2e::wire::Wire;
use serde_json::{Value, json};

/// As much of the Prometheus operator as an API server must know.
const SERVICE_MONITORS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
"#;
/// The chart's own words for what a KubeEdge user may count on in vain, in `values/kubeedge.yaml`.
const KUBEEDGE_WARNINGS: usize = 10;

/// Helm with caches of its own.
struct Helm {
    program: PathBuf,
    run_dir: RunDir,
}

impl Helm {
    fn new() -> Result<Self> {
        Ok(Self { program: need::helm()?, run_dir: RunDir::new("helm")? })
    }

    fn run(&self, cluster: Option<&Cluster>, arguments: &[&str]) -> Result<Output> {
        let mut helm = Command::new(&self.program);
        helm.args(arguments).stdin(Stdio::null()).env("HOME", self.run_dir.path());
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(folder, self.run_dir.join(folder));
        }
        match cluster {
            Some(cluster) => helm.env("KUBECONFIG", cluster.kubeconfig()),
            None => helm.env_remove("KUBECONFIG"),
        };
        helm.output().context("start helm")
    }

    fn ok(&self, cluster: Option<&Cluster>, arguments: &[&str]) -> Result<String> {
        let output = self.run(cluster, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`helm {}`: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn chart() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
    Ok(root.join("charts/cloudcore").to_string_lossy().into_owned())
}

/// `keadm manifest generate`, its own way to the chart's objects.
fn keadm(file: &str) -> Result<Output> {
    let mut keadm = Command::new(binary("keadm", "ISTHMUS_KEADM")?);
    keadm.args(["manifest", "generate", "--skip-crds", "--values", file]).stdin(Stdio::null());
    keadm.output().context("start keadm")
}

fn material(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts").join(name)
}

/// The files of a folder of `e2e/charts`, with their names.
fn sets(folder: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(material(folder))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        found.push((name, path.to_string_lossy().into_owned()));
    }
    found.sort();
    ensure!(!found.is_empty(), "no sets of values in {folder}");
    Ok(found)
}

#[test]
fn every_set_of_values_is_taken() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    let cluster = Cluster::start(&Options::default())?;
    cluster.kubectl_ok(&["create", "namespace", "kubeedge"])?;
    cluster.apply(SERVICE_MONITORS)?;
    cluster.kubectl_ok(&[
        "wait",
        "--for=condition=Established",
        "crd/servicemonitors.monitoring.coreos.com",
    ])?;
    for (name, file) in sets("values")? {
        let context = || format!("values/{name}.yaml");
        taken(&helm, &cluster, &chart, &name, &file).with_context(context)?;
    }
    Ok(())
}

fn taken(helm: &Helm, cluster: &Cluster, chart: &str, name: &str, file: &str) -> Result<()> {
    helm.ok(None, &["lint", chart, "--strict", "--namespace=kubeedge", "--values", file])?;
    let text = helm.ok(None, &["template", "cloudcore", chart, "--namespace=kubeedge", "--values", file])?;
    let rendered = helm.run_dir.write("rendered.yaml", text)?;
    let rendered = rendered.to_string_lossy();
    let taken = cluster.kubectl_json(&[
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--filename",
        &rendered,
    ])?;
    let objects = taken["items"].as_array().cloned().unwrap_or_default();
    let find = |kind: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == "cloudcore";
        objects.iter().find(is_it).with_context(|| format!("no {kind} cloudcore"))
    };

    // What users of KubeEdge's manifests rely on.
    let deployment = find("Deployment")?;
    ensure!(deployment["metadata"]["namespace"] == "kubeedge");
    let pod = &deployment["spec"]["template"];
    for labels in [&pod["metadata"]["labels"], &deployment["spec"]["selector"]["matchLabels"]] {
        ensure!(labels["k8s-app"] == "kubeedge" && labels["kubeedge"] == "cloudcore", "{labels}");
    }
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    let paths: Vec<&Value> =
        mounts.as_array().into_iter().flatten().map(|mount| &mount["mountPath"]).collect();
    ensure!(paths == ["/etc/kubeedge/config", "/etc/kubeedge/certs"], "{mounts}");
    ensure!(pod["spec"]["containers"][0]["securityContext"]["privileged"].is_null(), "{pod}");

    // Where a Service or a NetworkPolicy names a port, there is one.
    let named = |ports: &Value, key: &str| -> Vec<Value> {
        ports
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| port[key].clone())
            .filter(Value::is_string)
            .collect()
    };
    let there = named(&pod["spec"]["containers"][0]["ports"], "name");
    for object in &objects {
        let wanted = match object["kind"].as_str() {
            Some("Service") => named(&object["spec"]["ports"], "targetPort"),
            Some("NetworkPolicy") => {
                let rules = object["spec"]["ingress"].as_array().into_iter().flatten();
                rules.flat_map(|rule| named(&rule["ports"], "port")).collect()
            }
            _ => continue,
        };
        let missing: Vec<_> = wanted.iter().filter(|port| !there.contains(port)).collect();
        ensure!(!wanted.is_empty() && missing.is_empty(), "{missing:?} of {object} is none of {there:?}");
    }

    let config = find("ConfigMap")?["data"]["cloudcore.yaml"].as_str().context("no cloudcore.yaml")?;
    let config = helm.run_dir.write("cloudcore.yaml", config)?;
    let mut check = Command::new(binary("cloudcore", "ISTHMUS_CLOUDCORE")?);
    let check = check.args(["config", "check"]).arg(&config).output()?;
    let (said, error) = (String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
    ensure!(check.status.success() && !said.contains("warning"), "cloudcore config check: {said}{error}");

    let dry = ["install", "cloudcore", chart, "--namespace=kubeedge", "--dry-run=client", "--values", file];
    let notes = helm.ok(Some(cluster), &dry)?;
    let warnings = notes.lines().filter(|line| line.starts_with("WARNING: ")).count();
    ensure!(
        warnings == if name == "kubeedge" { KUBEEDGE_WARNINGS } else { 0 },
        "{warnings} warnings:\n{notes}"
    );
    let said = String::from_utf8_lossy(&keadm(file)?.stderr).into_owned();
    for warning in notes.lines().filter_map(|line| line.strip_prefix("WARNING: ")) {
        ensure!(said.contains(warning), "keadm does not say {warning:?}: {said}");
    }
    Ok(())
}

#[test]
fn keadm_makes_the_same_objects() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    for (name, file) in sets("values")? {
        let with_helm =
            helm.ok(None, &["template", "cloudcore", &chart, "--namespace=kubeedge", "--values", &file])?;
        let output = keadm(&file)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "values/{name}.yaml: keadm manifest generate: {error}");
        let (helms, mut keadms) = (by_name(&with_helm)?, by_name(&String::from_utf8_lossy(&output.stdout))?);
        // Helm has a flag for it.
        ensure!(keadms.remove("v1 Namespace kubeedge").is_some(), "keadm makes no namespace");
        for (object, expected) in &helms {
            let found =
                keadms.get(object).with_context(|| format!("values/{name}.yaml: keadm: no {object}"))?;
            ensure!(found == expected, "values/{name}.yaml: {object}:\nhelm  {expected}\nkeadm {found}");
        }
        let more: Vec<_> = keadms.keys().filter(|object| !helms.contains_key(*object)).collect();
        ensure!(more.is_empty(), "values/{name}.yaml: keadm alone makes {more:?}");
    }
    Ok(())
}

/// Objects of YAML documents, without the labels that say who made them.
fn by_name(documents: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for mut object in serde_saphyr::from_multiple::<Value>(documents)? {
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|label, _| label != "helm.sh/chart" && label != "app.kubernetes.io/managed-by");
        }
        let (metadata, text) = (&object["metadata"], |value: &Value| value.as_str().unwrap_or("").to_owned());
        let words = [&object["apiVersion"], &object["kind"], &metadata["namespace"], &metadata["name"]];
        let name = words.map(text).join(" ").replace("  ", " ");
        ensure!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    Ok(objects)
}

#[test]
fn wrong_values_are_refused() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    let refused = |arguments: &[&str], expected: &str| -> Result<()> {
        let output = helm.run(None, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(expected), "expected {expected:?}: {error}");
        Ok(())
    };
    for (name, file) in sets("refused")? {
        let text = fs::read_to_string(&file)?;
        let says = text.strip_prefix("# says: ").and_then(|rest| rest.lines().next());
        let says = says.with_context(|| format!("refused/{name}.yaml must begin with `# says: `"))?;
        refused(&["template", "cloudcore", &chart, "--namespace=kubeedge", "--values", &file], says)
            .with_context(|| format!("refused/{name}.yaml"))?;
        let output = keadm(&file)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(says), "refused/{name}.yaml: keadm: {error}");
    }
    refused(&["template", "cloudcore", &chart, "--namespace=default"], "add --namespace kubeedge")
}

#[test]
fn its_rights_are_enough() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    let cluster = Cluster::start(&Options::default())?;
    helm.ok(Some(&cluster), &["install", "cloudcore", &chart, "--namespace=kubeedge", "--create-namespace"])?;
    let account = account(&cluster)?;

    // cloudcore runs beside the cluster, as the account.
    let mut cloud = CloudCore::prepare(&account, &Value::Null)?;
    cloud.process.start()?;
    let runtime = Runtime::start("chart")?;
    let token = cloud.token(&cluster)?;
    let (link, enrolment) = (Wire::new(cloud.websocket())?, Wire::new(cloud.https())?);
    let options = EdgeOptions::new(NODE, &cloud, token.clone());
    let mut edge = EdgeCore::start(&runtime, &options)?;
    edge.wait_ready(&cluster, e2e::site::PATIENCE)?;
    let mut site = Site { edge, cloud, link, enrolment, runtime, cluster, token };

    // Pods with all that they name, their status and events, and their end.
    site.cluster.apply(&web_app("shop", "chart"))?;
    let first = site.pod_of("shop")?;
    site.wait_running(&first)?;
    let uid = site.cluster.kubectl_ok(&["get", "pod", &first, "--output=jsonpath={.metadata.uid}"])?;
    let noted = |site: &Site| -> Result<bool> {
        Ok(site.cluster.kubectl_ok(&["get", "objectsyncs", "--output=name"])?.contains(&uid))
    };
    eventually(e2e::site::PATIENCE, "the pod to be noted as confirmed", || {
        Ok(if noted(&site)? { Seen::Yes(()) } else { Seen::NotYet("no ObjectSync".to_owned()) })
    })?;
    site.cluster.kubectl_ok(&["delete", "pod", &first])?;
    site.wait_gone(&first)?;
    site.wait_event(&first, "Started")?;
    eventually(e2e::site::PATIENCE, "the note to be struck out", || {
        Ok(if noted(&site)? { Seen::NotYet("its ObjectSync is there".to_owned()) } else { Seen::Yes(()) })
    })?;
    // An event that happens again is counted up.
    site.cluster.apply(&no_image().to_string())?;
    let counts = [
        "get",
        "events",
        "--field-selector=involvedObject.name=no-image",
        "--output=jsonpath={.items[*].count}",
    ];
    eventually(e2e::site::PATIENCE, "an event of no-image to be counted up", || {
        let said = site.cluster.kubectl_ok(&counts)?;
        let is_counted = said.split(' ').any(|count| count.parse::<u32>().is_ok_and(|count| count > 1));
        Ok(if is_counted { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;

    // Devices: values up and down, what is wrong with one, the old version.
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    let plc = ModbusDevice::start()?;
    plc.set(e2e::devices::HEAT, 301)?;
    let _mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;
    site.cluster.apply(&oven_model())?;
    site.cluster.apply(&oven(plc.address().port(), "42"))?;
    site.wait_reported("oven-1", "heat", "30.1")?;
    site.cluster.kubectl_ok(&["get", "devicestatus", "oven-1", "--namespace=plant"])?;
    site.cluster.apply(&nowhere().to_string())?;
    site.wait_device("lost-1", "to have its condition", |device| condition(device, "ModelMissing"))?;
    site.wait_event("lost-1", "ModelMissing")?;
    site.cluster.kubectl_ok(&["get", "devices.v1alpha2.devices.kubeedge.io", "--namespace=plant"])?;

    // Heartbeats, each over the one before.
    let lease = ["get", "lease", NODE, "--namespace=kube-node-lease", "--output=jsonpath={.spec.renewTime}"];
    let first = site.cluster.kubectl_ok(&lease)?;
    eventually(e2e::site::PATIENCE, "the node's lease to be renewed", || {
        let now = site.cluster.kubectl_ok(&lease)?;
        Ok(if now == first { Seen::NotYet(now) } else { Seen::Yes(()) })
    })?;

    // A certificate for the API server.
    eventually(e2e::site::PATIENCE, "the cluster to sign for cloudcore", || {
        let is_signed = site.cloud.process.log().contains("a certificate that the cluster has signed");
        Ok(if is_signed { Seen::Yes(()) } else { Seen::NotYet(site.cloud.process.log_end(5)) })
    })?;

    // What was noted is read at a start.
    site.cloud.process.restart()?;
    site.cluster.kubectl_ok(&["delete", "namespace", "plant"])?;
    for (program, log) in [("cloudcore", site.cloud.process.log()), ("edgecore", site.edge.process.log())] {
        // A namespace that goes takes nothing new, whoever asks.
        let is_refusal =
            |line: &&str| line.to_lowercase().contains("forbidden") && !line.contains("being terminated");
        let lines: Vec<&str> = log.lines().filter(is_refusal).collect();
        ensure!(lines.is_empty(), "{program} saw something refused:\n{}", lines.join("\n"));
    }

    // And no more than enough.
    for (verb, what, namespace) in [
        ("delete", "nodes", "default"),
        ("update", "secrets", "default"),
        ("create", "secrets", "default"),
        ("patch", "secrets/other", "kubeedge"),
        ("update", "leases", "kube-system"),
        ("create", "deployments", "kubeedge"),
        ("create", "clusterrolebindings", "default"),
        ("impersonate", "users", "default"),
        ("create", "customresourcedefinitions", "default"),
        ("approve", "signers.certificates.k8s.io/kubernetes.io/kube-apiserver-client", "default"),
    ] {
        let namespace = format!("--namespace={namespace}");
        let account = "--as=system:serviceaccount:kubeedge:cloudcore";
        let output = site.cluster.kubectl(&["auth", "can-i", verb, what, &namespace, account])?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(said == "no", "cloudcore can {verb} {what}: {said}");
    }

    // Twice the same changes nothing, another value replaces the pods, and removal leaves what is not Helm's to remove.
    let cluster = Some(&site.cluster);
    let hash = |cluster: &Cluster| -> Result<String> {
        let path = "--output=jsonpath={.spec.template.metadata.annotations}";
        cluster.kubectl_ok(&["get", "deployment", "cloudcore", "--namespace=kubeedge", path])
    };
    let before = hash(&site.cluster)?;
    helm.ok(cluster, &["upgrade", "cloudcore", &chart, "--namespace=kubeedge"])?;
    ensure!(hash(&site.cluster)? == before, "nothing changed, but the pods would be replaced");
    let more = "cloudCore.modules.cloudHub.advertiseAddress={192.0.2.10}";
    helm.ok(cluster, &["upgrade", "cloudcore", &chart, "--namespace=kubeedge", "--set", more])?;
    ensure!(hash(&site.cluster)? != before, "pods would go on with the old configuration");
    helm.ok(cluster, &["uninstall", "cloudcore", "--namespace=kubeedge"])?;
    let left = site.cluster.kubectl_ok(&["get", "secrets", "--namespace=kubeedge", "--output=name"])?;
    ensure!(left.contains("casecret") && left.contains("tokensecret") && !left.contains("helm"), "{left}");
    site.cluster.kubectl_ok(&["get", "crd", "devices.devices.kubeedge.io"])?;
    Ok(())
}

#[test]
fn it_takes_the_place_of_kubeedges_chart() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    let cluster = Cluster::start(&Options::default())?;
    let get = |object: &str| cluster.kubectl_json(&["get", object, "--namespace=kubeedge"]);
    let (old, values) = (material("kubeedge"), material("values/kubeedge.yaml"));
    let (old, values) = (old.to_string_lossy(), values.to_string_lossy());
    let install =
        ["install", "cloudcore", &old, "--namespace=kubeedge", "--create-namespace", "--values", &values];
    helm.ok(Some(&cluster), &install)?;
    cluster.kubectl_ok(&[
        "create",
        "secret",
        "generic",
        "casecret",
        "--namespace=kubeedge",
        "--from-literal=cadata=ca",
    ])?;
    let service = get("service/cloudcore")?;

    // As documented, with the values that KubeEdge's installation had.
    let definitions = format!("{chart}/crds");
    cluster.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "--filename", &definitions])?;
    let notes = helm.ok(Some(&cluster), &["upgrade", "cloudcore", &chart, "--namespace=kubeedge"])?;
    let warnings = notes.lines().filter(|line| line.starts_with("WARNING: ")).count();
    ensure!(warnings == KUBEEDGE_WARNINGS, "{warnings} warnings:\n{notes}");

    // What is there is what a new installation would make, and nothing of KubeEdge's is left in it.
    let wanted =
        helm.ok(None, &["template", "cloudcore", &chart, "--namespace=kubeedge", "--values", &values])?;
    for (name, wanted) in by_name(&wanted)? {
        let text = |value: &Value| value.as_str().unwrap_or("default").to_owned();
        let (kind, metadata) = (text(&wanted["kind"]), &wanted["metadata"]);
        let namespace = format!("--namespace={}", text(&metadata["namespace"]));
        let found = cluster.kubectl_json(&["get", &kind, &text(&metadata["name"]), &namespace])?;
        ensure!(holds(&found, &wanted), "{name}:\nwanted {wanted}\nfound  {found}");
    }
    ensure!(
        get("clusterrole/cloudcore")?["aggregationRule"].is_null(),
        "the role is still put together from others"
    );
    let container = &get("deployment/cloudcore")?["spec"]["template"]["spec"]["containers"][0];
    ensure!(container["securityContext"]["privileged"].is_null(), "{container}");
    let after = get("service/cloudcore")?;
    ensure!(after["spec"]["clusterIP"] == service["spec"]["clusterIP"], "the Service was made anew");
    for gone in ["clusterrole/cloudcore-common", "daemonset/edge-eclipse-mosquitto"] {
        ensure!(
            !cluster.kubectl(&["get", gone, "--namespace=kubeedge"])?.status.success(),
            "{gone} is still there"
        );
    }
    for kept in ["secret/casecret", "secret/cloudcore"] {
        get(kept)?;
    }

    // And back.
    helm.ok(Some(&cluster), &["rollback", "cloudcore", "1", "--namespace=kubeedge"])?;
    ensure!(get("clusterrole/cloudcore")?["aggregationRule"].is_object(), "KubeEdge's role is not back");
    let ports = &get("service/cloudcore")?["spec"]["ports"];
    ensure!(ports.as_array().is_some_and(|ports| ports.len() == 5), "{ports}");
    Ok(())
}

#[test]
fn definitions_of_helms_are_upgraded_as_keadm_says() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart()?);
    let cluster = Cluster::start(&Options::default())?;
    helm.ok(Some(&cluster), &["install", "cloudcore", &chart, "--namespace=kubeedge", "--create-namespace"])?;
    let mut keadm = Command::new(binary("keadm", "ISTHMUS_KEADM")?);
    keadm.args(["upgrade", "cloud"]).env("KUBECONFIG", cluster.kubeconfig()).stdin(Stdio::null());
    let refused = keadm.output().context("start keadm")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(3), "{said}");

    // The definitions of another version.
    let (newer, mut name) = (helm.run_dir.folder("crds")?, String::new());
    for (number, entry) in fs::read_dir(format!("{chart}/crds"))?.enumerate() {
        for (of, mut definition) in by_name(&fs::read_to_string(entry?.path())?)? {
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Newer.".into();
            name = definition["metadata"]["name"].as_str().context(of)?.to_owned();
            fs::write(newer.join(format!("{number}-{name}.json")), definition.to_string())?;
        }
    }
    let (command, folder) = ("kubectl apply --server-side --force-conflicts", newer.display().to_string());
    let apply = |words: &str| cluster.kubectl(&words.split(' ').chain(["-f", &folder]).collect::<Vec<_>>());
    let conflict = apply("apply --server-side")?;
    let why = String::from_utf8_lossy(&conflict.stderr).into_owned();
    ensure!(!conflict.status.success() && why.contains("conflict with \"helm\""), "{why}");

    // keadm and the documents say what does it.
    let typed = format!("{command} -f charts/cloudcore/crds");
    let documents = ["chart.md", "upgrade.md"].map(|name| format!("{chart}/../../docs/{name}"));
    for text in documents.iter().map(fs::read_to_string).chain([Ok(said)]) {
        let text = text?.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(text.contains(&typed), "no {typed:?} in {text}");
        ensure!(!text.contains("apply --server-side -f"), "a command without --force-conflicts: {text}");
    }
    let done = apply(command.trim_start_matches("kubectl "))?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = cluster.kubectl_json(&["get", "crd", &name])?;
    ensure!(found.to_string().contains("Newer."), "{found}");
    helm.ok(Some(&cluster), &["upgrade", "cloudcore", &chart, "--namespace=kubeedge"])?;
    Ok(())
}

/// Whether everything that is wanted is there. Lists are as long as wanted; objects may have more, such as defaults.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        _ => found == wanted,
    }
}

/// A kubeconfig of the chart's service account.
fn account(cluster: &Cluster) -> Result<PathBuf> {
    let token =
        cluster.kubectl_ok(&["create", "token", "cloudcore", "--namespace=kubeedge", "--duration=2h"])?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": cluster.server(), "certificate-authority": cluster.ca().files.cert}}],
        "users": [{"name": "it", "user": {"token": token.trim()}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    cluster.run_dir().write("cloudcore-account.kubeconfig", kubeconfig.to_string())
}

/// A pod whose image nobody has.
fn no_image() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "no-image"},
        "spec": {"nodeName": NODE, "containers": [{"name": "none", "image": "registry.invalid/none:1"}]},
    })
}

/// A device whose model is not there.
fn nowhere() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "lost-1", "namespace": "plant"},
        "spec": {"deviceModelRef": {"name": "none"}, "nodeName": NODE, "protocol": {"protocolName": "modbus"}},
    })
}
