//! `keadm debug diagnose`: what is wrong with the node, with a pod, or with a machine that should become a node.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::check::{self, Options};
use super::edgecore::Edgecore;
use super::finding::tell;
use super::{Failure, Form, get};
use crate::host::Host;
use crate::preflight::Finding;
use crate::reach::Reach;
use crate::render::CONFIG;
use crate::service::Manager;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "text", global = true)]
    output: Form,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Why this node is not Ready.
    Node {
        /// edgecore's configuration.
        #[arg(short, long, default_value = CONFIG, value_name = "FILE")]
        config: PathBuf,
    },
    /// Why a pod of this node does not run.
    Pod {
        name: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
    },
    /// Whether this machine can become a node.
    Install {
        #[command(flatten)]
        options: Options,
        /// Port of the cloud at which machines get their certificate; it is tried with -s.
        #[arg(long, default_value_t = 10002, value_name = "PORT")]
        certport: u16,
    },
}

pub(super) fn run(host: &dyn Host, reach: &dyn Reach, args: &Args) -> Result<(), Failure> {
    let findings = match &args.what {
        What::Node { config } => node(host, config),
        What::Pod { name, namespace } => pod(host, namespace, name),
        What::Install { options, certport } => install(host, reach, options, *certport),
    };
    tell(&findings, args.output)
}

fn install(host: &dyn Host, reach: &dyn Reach, options: &Options, certport: u16) -> Vec<Finding> {
    let mut findings = check::everything(host, reach, options);
    // A configuration names both.
    if let Some((cloud, _)) = options.cloud_hub_server.as_ref().and_then(|server| server.rsplit_once(':')) {
        findings.push(check::cloud(reach, &format!("{cloud}:{certport}")));
    }
    if host.exists(&options.config) {
        let found = format!("there is a configuration already: {}", options.config.display());
        findings.push(Finding::warning("config", found, "to begin anew, type: keadm reset edge"));
    }
    findings
}

fn node(host: &dyn Host, config: &std::path::Path) -> Vec<Finding> {
    let edgecore = match Edgecore::find(host, Some(config)) {
        Ok(edgecore) => edgecore,
        Err(why) => {
            return vec![Finding::failed("install", why, "keadm join --help says how a machine joins")];
        }
    };
    if !host.exists(config) {
        let found = format!("there is no configuration {}", config.display());
        return vec![Finding::failed("config", found, "this machine has not joined yet: keadm join --help")];
    }
    let mut findings = Vec::new();
    findings.push(match edgecore.ask(&["config", "check"]) {
        Ok(_) => Finding::ok("config", format!("{} can be used", config.display())),
        Err(why) => {
            let advice = format!("correct it, then: edgecore config check {}", config.display());
            findings.push(Finding::failed("config", why, advice));
            return findings;
        }
    });
    let log = Manager::of_edgecore(host).log();
    let answer = |path: &str| edgecore.answer(path);
    let is_running = answer("/healthz").is_some_and(|(status, _)| status == 200);
    findings.push(match is_running {
        true => Finding::ok("edgecore", "edgecore runs"),
        false => Finding::failed(
            "edgecore",
            "edgecore does not run, or does not answer",
            format!("its last words: {log}"),
        ),
    });
    if is_running {
        findings.push(match answer("/readyz") {
            Some((200, _)) => Finding::ok("ready", "its container runtime answers"),
            said => {
                Finding::failed("ready", words(said), "start the runtime, e.g. systemctl start containerd")
            }
        });
        findings.push(match answer("/node") {
            Some((200, _)) => Finding::ok("node", "the cloud calls this node Ready"),
            said => Finding::failed("node", words(said), format!("see what edgecore says of it: {log}")),
        });
    }
    match edgecore.preflight() {
        // Its ports are its own, and the cloud was asked above.
        Ok(looked) => {
            let is_news = |finding: &Finding| !(is_running && finding.check == "ports");
            findings.extend(looked.into_iter().filter(is_news));
        }
        Err(why) => findings.push(Finding::failed("preflight", why, "try it: edgecore preflight")),
    }
    findings
}

fn words(said: Option<(u16, String)>) -> String {
    said.map_or_else(|| "edgecore does not answer".to_owned(), |(_, body)| body)
}

/// What `edgecore containers --output json` says.
#[derive(Debug, Deserialize)]
struct Sandbox {
    namespace: String,
    name: String,
    is_ready: bool,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
    state: String,
    reason: String,
    #[serde(rename = "exitCode")]
    exit_code: i32,
}

fn pod(host: &dyn Host, namespace: &str, name: &str) -> Vec<Finding> {
    let held = Edgecore::find(host, None).and_then(|edgecore| {
        let held = get::pod(get::objects(&edgecore, None)?, namespace, name);
        let sandboxes = edgecore.json::<Vec<Sandbox>>(&["containers", "--output", "json"]);
        Ok((held, sandboxes))
    });
    match held {
        Ok((held, sandboxes)) => judge_pod(held.map(|held| held.body).as_ref(), sandboxes, namespace, name),
        Err(why) => vec![Finding::failed(
            "store",
            why,
            "see whether this machine is a node: keadm debug diagnose node",
        )],
    }
}

/// `pod`: as the store holds it, with the status last reported.
fn judge_pod(
    pod: Option<&Value>,
    sandboxes: Result<Vec<Sandbox>, String>,
    namespace: &str,
    name: &str,
) -> Vec<Finding> {
    let describe = format!("kubectl -n {namespace} describe pod {name}");
    let pod_name = name;
    let Some(pod) = pod else {
        let found = format!("this node was never told of pod {namespace}/{name}");
        let advice = format!(
            "see where it runs: kubectl -n {namespace} get pod {name} -o wide; and what is here: keadm debug get pod -A"
        );
        return vec![Finding::failed("store", found, advice)];
    };
    let mut findings = vec![Finding::ok("store", "the node holds the pod")];
    if let Some(since) = pod.pointer("/metadata/deletionTimestamp").and_then(Value::as_str) {
        let found = format!("the pod is being deleted since {since}");
        findings.push(Finding::warning("pod", found, "it goes when its containers have ended"));
    }
    let text = |value: &Value, path: &str| {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let phase = text(pod, "/status/phase");
    findings.push(match phase.as_str() {
        "Running" | "Succeeded" => Finding::ok("pod", format!("it is {phase}")),
        "" => Finding::failed(
            "pod",
            "it has no status yet",
            "see whether edgecore runs: keadm debug diagnose node",
        ),
        _ => {
            let why = [text(pod, "/status/reason"), text(pod, "/status/message")].join(" ");
            Finding::failed(
                "pod",
                format!("it is {phase} {}", why.trim()).trim().to_owned(),
                describe.clone(),
            )
        }
    });
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in pod.pointer(&format!("/status/{list}")).and_then(Value::as_array).into_iter().flatten()
        {
            findings.extend(judge_container(status, list == "initContainerStatuses", namespace, name));
        }
    }
    match sandboxes {
        Ok(sandboxes) => {
            let own: Vec<&Sandbox> =
                sandboxes.iter().filter(|own| own.namespace == namespace && own.name == name).collect();
            if !own.iter().any(|sandbox| sandbox.is_ready) && phase == "Running" {
                let found = "the runtime runs nothing of it, though it was last reported as Running";
                findings.push(Finding::failed(
                    "runtime",
                    found,
                    "see whether edgecore runs: keadm debug diagnose node",
                ));
            }
            for container in
                own.iter().filter(|sandbox| sandbox.is_ready).flat_map(|sandbox| &sandbox.containers)
            {
                let Container { name, state, reason, exit_code } = container;
                let has_ended = state == "exited";
                let how =
                    if has_ended { format!(" ({reason}, exit code {exit_code})") } else { String::new() };
                let found = format!("container {name} is {state}{how} in the runtime");
                findings.push(match has_ended && *exit_code != 0 {
                    true => {
                        let advice =
                            format!("see what it said: keadm ctl logs {pod_name} -n {namespace} -c {name}");
                        Finding::warning("runtime", found, advice)
                    }
                    false => Finding::ok("runtime", found),
                });
            }
        }
        Err(why) => {
            findings.push(Finding::failed("runtime", why, "look at the runtime: keadm debug check runtime"))
        }
    }
    findings
}

fn judge_container(status: &Value, is_init: bool, namespace: &str, pod: &str) -> Option<Finding> {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let name = text("/name");
    let waiting = text("/state/waiting/reason");
    if !waiting.is_empty() {
        let image = text("/image");
        let advice = match waiting {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!("see whether the registry is reached and the image's name is right: {image}")
            }
            "CrashLoopBackOff" => {
                format!("see what it says before it ends: keadm ctl logs {pod} -n {namespace} -c {name}")
            }
            "CreateContainerConfigError" => {
                "see which ConfigMap or Secret it misses: keadm debug get all -A".to_owned()
            }
            "ContainerCreating" | "PodInitializing" => {
                return Some(Finding::warning(
                    "container",
                    format!("{name} waits: {waiting}"),
                    "wait, then look again",
                ));
            }
            _ => format!("kubectl -n {namespace} describe pod {pod}"),
        };
        let found = format!("{name} waits: {waiting} {}", text("/state/waiting/message"));
        return Some(Finding::failed("container", found.trim().to_owned(), advice));
    }
    if status.pointer("/state/terminated").is_some() {
        let code = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64).unwrap_or_default();
        let found = format!("{name} has ended: {}, exit code {code}", text("/state/terminated/reason"));
        return Some(match code {
            0 => Finding::ok("container", found),
            _ => {
                Finding::failed("container", found, format!("keadm ctl logs {pod} -n {namespace} -c {name}"))
            }
        });
    }
    // An init container that runs has not ended; one that ran says so above.
    let is_ready = status.get("ready") == Some(&Value::Bool(true)) || is_init;
    Some(match is_ready {
        true => Finding::ok("container", format!("{name} runs")),
        false => Finding::failed(
            "container",
            format!("{name} runs, but is not ready"),
            format!("see why its probe fails: kubectl -n {namespace} describe pod {pod}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::fake::FakeHost;
    use crate::render::PROGRAM;

    fn lines(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(Finding::line).collect()
    }

    #[test]
    fn a_pod_says_what_it_lacks() {
        let check = |pod: Option<Value>, expected: &[&str]| {
            let said = lines(&judge_pod(pod.as_ref(), Ok(Vec::new()), "default", "web"));
            assert_eq!(said.len(), expected.len(), "{said:?}");
            said.iter().zip(expected).for_each(|(line, expected)| assert!(line.contains(expected), "{line}"));
        };
        let status =
            |status: Value| Some(json!({"status": {"phase": "Pending", "containerStatuses": [status]}}));
        check(None, &["get pod web -o wide"]);
        check(Some(json!({})), &["ok: store", "no status yet"]);
        check(
            status(
                json!({"name": "a", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}}),
            ),
            &[
                "ok: store",
                "it is Pending",
                "a waits: ImagePullBackOff no such host: see whether the registry",
            ],
        );
        check(
            status(json!({"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}})),
            &["ok: store", "it is Pending", "keadm ctl logs web -n default -c a"],
        );
        check(
            status(json!({"name": "a", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}})),
            &["ok: store", "it is Pending", "a has ended: Error, exit code 3"],
        );
        check(
            Some(
                json!({"status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": false, "state": {"running": {}}}]}}),
            ),
            &["ok: store", "it is Running", "is not ready", "the runtime runs nothing of it"],
        );
    }

    #[test]
    fn a_container_that_failed_is_not_well() {
        let pod = json!({"status": {"phase": "Running"}});
        let check = |state: &str, exit_code: i32, expected: &str| {
            let container =
                Container { name: "app".into(), state: state.into(), reason: "Error".into(), exit_code };
            let (namespace, name) = ("default".to_owned(), "web".to_owned());
            let sandbox = Sandbox { namespace, name, is_ready: true, containers: vec![container] };
            let said = lines(&judge_pod(Some(&pod), Ok(vec![sandbox]), "default", "web"));
            assert!(said.last().unwrap().starts_with(expected), "{said:?}");
        };
        check("running", 0, "ok: runtime: container app is running in");
        check("exited", 0, "ok: runtime: container app is exited (Error, exit code 0)");
        check(
            "exited",
            137,
            "warning: runtime: container app is exited (Error, exit code 137) in the runtime: see what",
        );
    }

    #[test]
    fn a_machine_that_is_to_join_needs_both_ports_of_the_cloud() {
        struct One;
        impl Reach for One {
            fn resolve(
                &self,
                _: &str,
                _: Option<std::net::IpAddr>,
            ) -> std::io::Result<Vec<std::net::IpAddr>> {
                Ok(Vec::new())
            }
            fn connect(&self, address: &str) -> std::io::Result<()> {
                if address == "10.0.0.1:10000" { Ok(()) } else { Err(std::io::Error::other("refused")) }
            }
        }
        let options = Options { cloud_hub_server: Some("10.0.0.1:10000".into()), ..Options::default() };
        let said = lines(&install(&FakeHost::new(&[]), &One, &options, 10002)).join("\n");
        assert!(said.contains("ok: network: the cloud takes connections at 10.0.0.1:10000"), "{said}");
        assert!(said.contains("failed: network: the cloud takes no connection at 10.0.0.1:10002"), "{said}");
        assert!(said.contains("warning: dns: "), "{said}");
    }

    #[test]
    fn a_node_is_looked_at_from_the_ground_up() {
        let host = FakeHost::new(&[]);
        let said = |host: &FakeHost| lines(&node(host, CONFIG.as_ref()));
        assert!(said(&host).concat().contains("there is no edgecore on this machine"));
        host.files.borrow_mut().insert(PROGRAM.into(), Some(Vec::new()));
        assert!(said(&host).concat().contains("this machine has not joined yet"));
        host.files.borrow_mut().insert(CONFIG.into(), Some(Vec::new()));
        let report = r#"{"findings":[{"check":"ports","verdict":"failed","found":"taken","advice":"x"},{"check":"clock","verdict":"ok","found":"set"}]}"#;
        host.prints.borrow_mut().push((PROGRAM.into(), report.into()));
        let all = said(&host).concat();
        assert!(all.contains("edgecore does not run") && all.contains("failed: ports: taken"), "{all}");
        *host.node.borrow_mut() =
            vec![(200, "ok".into()), (200, "ok".into()), (503, "the cloud is away".into())];
        let all = said(&host).concat();
        assert!(all.contains("failed: node: the cloud is away") && !all.contains("ports"), "{all}");
        host.fails.borrow_mut().push((PROGRAM.into(), "modules.x: unknown key".into()));
        assert_eq!(said(&host).len(), 1, "nothing else can be asked");
    }
}
