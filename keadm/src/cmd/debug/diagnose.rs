//! `keadm debug diagnose`: what is wrong with the node, with a pod, or with a machine that should become a node.

mod pod;

use std::path::PathBuf;

use super::check::{self, Options};
use super::edgecore::Edgecore;
use super::finding::tell;
use super::{Failure, Form, get};
use crate::change;
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
        What::Pod { name, namespace } => pod::look(host, namespace, name),
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
    if change::is_cut_short(host) {
        findings.push(Finding::failed(
            "change",
            "an upgrade, rollback or new configuration was cut short, and is half done",
            "put back what was before it: keadm recover --restart",
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::render::PROGRAM;

    fn lines(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(Finding::line).collect()
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
        host.files.borrow_mut().insert("/var/lib/keadm/upgrade.journal".into(), Some(Vec::new()));
        assert!(said(&host)[0].contains("cut short") && said(&host)[0].contains("keadm recover --restart"));
        // Somebody is at it.
        host.is_locked.set(true);
        assert!(!said(&host)[0].contains("cut short"));
        host.fails.borrow_mut().push((PROGRAM.into(), "modules.x: unknown key".into()));
        assert_eq!(said(&host).len(), 1, "nothing else can be asked");
    }
}
