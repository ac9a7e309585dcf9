//! `keadm debug get`: what the node's store holds, as kubectl would show it. The cloud is not asked.

mod columns;

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::ValueEnum;
use k8s_openapi::jiff::Timestamp;
use ke_api::selector::Selector;
use serde::Deserialize;
use serde_json::{Value, json};

use super::edgecore::Edgecore;
use crate::cmd::Failure;
use crate::host::Host;
use crate::render::CONFIG;

#[derive(Debug, clap::Args)]
#[command(after_help = "Values of Secrets are shown by their length.")]
pub(crate) struct Args {
    #[arg(value_enum)]
    resource: Resource,
    name: Option<String>,
    /// Namespace of what is shown.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// How it is written; without it a table.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Only what has these labels: a=b,c!=d,e,!f,g in (h,i),j notin (k).
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// edgecore's store [default: as edgecore's configuration says]
    #[arg(short = 'p', long, value_name = "FILE")]
    edgedb_path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resource {
    All,
    #[value(alias = "pods", alias = "po")]
    Pod,
    #[value(alias = "nodes", alias = "no")]
    Node,
    #[value(alias = "services", alias = "svc")]
    Service,
    #[value(alias = "secrets")]
    Secret,
    #[value(alias = "configmaps", alias = "cm")]
    Configmap,
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
}

/// What `all` stands for, and in which order.
const EACH: [Resource; 6] = [
    Resource::Pod,
    Resource::Service,
    Resource::Node,
    Resource::Configmap,
    Resource::Secret,
    Resource::Endpoints,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Yaml,
    /// A table with more columns.
    Wide,
    Name,
}

/// What `edgecore objects --output json` says.
#[derive(Debug, Deserialize)]
struct Inventory {
    objects: Vec<Object>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Object {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    pub(super) body: Value,
}

/// What the store of this edgecore, or another one, holds.
pub(super) fn objects(edgecore: &Edgecore<'_>, store: Option<&PathBuf>) -> Result<Vec<Object>, String> {
    let mut words = vec!["objects", "--output", "json"];
    let store = store.map(|store| store.display().to_string());
    if let Some(store) = &store {
        words.extend(["--data-source", store]);
    }
    Ok(edgecore.json::<Inventory>(&words)?.objects)
}

/// The Pod of this name.
pub(super) fn pod(objects: Vec<Object>, namespace: &str, name: &str) -> Option<Object> {
    objects.into_iter().find(|held| held.kind == "pod" && held.namespace == namespace && held.name == name)
}

pub(super) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    if args.edgedb_path.is_none() && !host.exists(Path::new(CONFIG)) {
        return Err(Failure::Refused(format!(
            "this machine is no edge node (there is no {CONFIG}): keadm join --help says how it becomes one; -p FILE reads a \
             store that lies elsewhere"
        )));
    }
    // A store can be looked at where there is no node any more.
    let config = Some(Path::new("/dev/null")).filter(|_| !host.exists(Path::new(CONFIG)));
    let edgecore = Edgecore::find(host, config).map_err(Failure::Refused)?;
    let objects =
        objects(&edgecore, args.edgedb_path.as_ref()).map_err(|why| Failure::Undone(anyhow!(why)))?;
    match show(args, objects, Timestamp::now())? {
        Some(text) => print!("{text}"),
        None => eprintln!("nothing of it is held on this node"),
    }
    Ok(())
}

/// `None`: there is nothing.
fn show(args: &Args, objects: Vec<Object>, now: Timestamp) -> Result<Option<String>, Failure> {
    let selector: Selector =
        args.selector.parse().map_err(|why| Failure::Usage(format!("--selector: {why}")))?;
    let wanted = if args.resource == Resource::All { EACH.to_vec() } else { vec![args.resource] };
    let mut chosen: Vec<(Resource, Vec<Object>)> = Vec::new();
    for resource in wanted {
        let is_meant = |held: &&Object| {
            resource.kinds().contains(&held.kind.as_str())
                && (args.all_namespaces || held.namespace.is_empty() || held.namespace == args.namespace)
                && args.name.as_ref().is_none_or(|name| *name == held.name)
                && selector
                    .matches_where(|label| held.body.get("metadata")?.get("labels")?.get(label)?.as_str())
        };
        let mut found: Vec<Object> = objects.iter().filter(is_meant).cloned().collect();
        found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if !found.is_empty() {
            chosen.push((resource, found));
        }
    }
    if chosen.is_empty() {
        return match &args.name {
            Some(name) => Err(Failure::Undone(anyhow!(
                "this node holds no {} {name} in namespace {}; what it holds: keadm debug get all -A",
                args.resource.word(),
                args.namespace
            ))),
            None => Ok(None),
        };
    }
    let bodies = || chosen.iter().flat_map(|(_, found)| found.iter().map(|held| held.body.clone()));
    let tree = || match (&args.name, bodies().count()) {
        (Some(_), 1) => bodies().next().unwrap_or_default(),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": bodies().collect::<Vec<_>>()}),
    };
    let text = match args.output {
        Some(Output::Json) => format!("{:#}\n", tree()),
        Some(Output::Yaml) => {
            serde_saphyr::to_string(&tree()).map_err(|error| anyhow!("write YAML: {error}"))?
        }
        Some(Output::Name) => {
            let line = |(resource, found): &(Resource, Vec<Object>)| {
                found.iter().map(|held| format!("{}/{}\n", resource.word(), held.name)).collect::<String>()
            };
            chosen.iter().map(line).collect()
        }
        None | Some(Output::Wide) => {
            let is_many = args.resource == Resource::All;
            let tables = chosen.iter().map(|(resource, found)| {
                resource.table(found, args.all_namespaces, args.output.is_some(), is_many, now)
            });
            tables.collect::<Vec<_>>().join("\n")
        }
    };
    Ok(Some(text))
}

impl Resource {
    fn word(self) -> &'static str {
        match self {
            Self::All => "object",
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Service => "service",
            Self::Secret => "secret",
            Self::Configmap => "configmap",
            Self::Endpoints => "endpoints",
        }
    }

    /// The store's words for it: what is watched has the plural.
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Pod => &["pod", "pods"],
            Self::Node => &["node", "nodes"],
            Self::Service => &["service", "services"],
            Self::Secret => &["secret", "secrets"],
            Self::Configmap => &["configmap", "configmaps"],
            Self::Endpoints => &["endpoints"],
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_machine_that_is_no_node_says_so() {
        use crate::host::fake::FakeHost;
        let host = FakeHost::new(&["/opt/keadm/edgecore"]);
        host.fails.borrow_mut().push(("/opt/keadm/edgecore".into(), "error: open the store: no file".into()));
        let get = |line: &str| {
            let args = Line::parse_from(std::iter::once("get").chain(line.split(' '))).args;
            run(&host, &args).unwrap_err().to_string()
        };
        assert!(get("pod").starts_with("this machine is no edge node"), "{}", get("pod"));
        assert_eq!(get("pod -p /elsewhere.db"), "open the store: no file");
    }

    fn held() -> Vec<Object> {
        let pod = json!({"kind": "Pod", "metadata": {"name": "web", "labels": {"app": "a"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{}, {}], "nodeName": "edge-1"},
            "status": {"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": [{"ready": true, "restartCount": 2},
                {"ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
        let secret = json!({"kind": "Secret", "type": "Opaque", "metadata": {"name": "s"}, "data": {"a": "<7 bytes>"}});
        let node = json!({"kind": "Node", "metadata": {"name": "edge-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let object = |kind: &str, namespace: &str, name: &str, body: Value| Object {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            body,
        };
        vec![
            object("secret", "default", "s", secret),
            object("pod", "default", "web", pod.clone()),
            object("pod", "other", "web", pod),
            object("node", "", "edge-1", node),
        ]
    }

    fn shown(line: &str) -> Result<Option<String>, String> {
        let args = Line::parse_from(std::iter::once("get").chain(line.split(' '))).args;
        show(&args, held(), "2026-01-01T00:05:00Z".parse().unwrap()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_held_is_shown_as_kubectl_would() {
        let check = |line: &str, expected: &str| {
            assert_eq!(shown(line).unwrap().unwrap_or_default(), expected, "{line}")
        };
        check(
            "pods",
            "NAME   READY   STATUS             RESTARTS   AGE\nweb    1/2     CrashLoopBackOff   3          5m\n",
        );
        check("po -A -o name", "pod/web\npod/web\n");
        check("pod -n other -o name", "pod/web\n");
        check("pod -l app=b", "");
        check("pod -l app,!x,app!=b -o name", "pod/web\n");
        check("pod -l app\tin\t(a,b) -o name", "pod/web\n");
        check("pod -l app\tnotin\t(a,b)", "");
        check("svc", "");
        check("no", "NAME     STATUS   AGE         VERSION\nedge-1   Ready    <unknown>   <none>\n");
        check("all -o name", "pod/web\nnode/edge-1\nsecret/s\n");
        check(
            "secret s -o yaml",
            "data:\n  a: <7 bytes>\nkind: Secret\nmetadata:\n  name: s\ntype: Opaque\n",
        );
        let wide = shown("pod web -A -o wide").unwrap().unwrap();
        assert!(wide.starts_with("NAMESPACE   NAME") && wide.contains("10.0.0.9   edge-1"), "{wide}");
        let json: Value = serde_json::from_str(&shown("pod web -o json").unwrap().unwrap()).unwrap();
        assert_eq!(json["kind"], "Pod");
    }

    #[test]
    fn a_store_is_read_where_there_is_no_configuration() {
        let host = crate::host::fake::FakeHost::new(&["/opt/keadm/edgecore"]);
        host.prints.borrow_mut().push(("/opt/keadm/edgecore".into(), r#"{"objects":[]}"#.into()));
        run(&host, &Line::parse_from(["get", "pod", "-p", "/x.db"]).args).unwrap();
        let expected = "/opt/keadm/edgecore --config /dev/null objects --output json --data-source /x.db";
        assert_eq!(*host.ran.borrow(), [expected]);
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let check = |line: &str, expected: &str| {
            let why = shown(line).unwrap_err();
            assert!(why.contains(expected), "{line}: {why}");
        };
        check("pod x", "holds no pod x in namespace default");
        check("pod -l a(b", "is none of");
        check("pod -l =b", "is none of");
    }
}
