//! `keadm join`: makes this machine an edge node.
//!
//! In this order: flags, what an earlier join left, edgecore's own look at the machine and the cloud (nothing is touched until
//! that is good), the plan, the node is Ready. A failure takes everything back.

mod flags;
mod remains;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::Value;

pub(crate) use self::flags::Args;
use self::flags::{token, wanted};
use super::{Failure, manifest, takeover_edge};
use crate::change;
use crate::host::Host;
use crate::journal::{Joined, Journal, Undo};
use crate::node;
use crate::plan;
use crate::pod_network;
use crate::preflight::{self, Preflight};
use crate::render::{self, CONFIG, ENVIRONMENT, KEADM, NodeSettings, PROGRAM, TOKEN};
use crate::script;
use crate::service::Manager;
use crate::step::{self, Step};
use crate::supplies::{Sources, Supplies};

/// Holds what edgecore looks at before anything is written where it belongs. In memory, gone afterwards.
pub(super) const TRIAL: &str = "/run/keadm-join";

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let mut say = |line: &str| println!("{line}");
    join(host, args, &mut say)
}

fn join(host: &dyn Host, args: &Args, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let lock = change::hold(host)?;
    if args.takeover {
        must_find_scripts(host, args)?;
        say_what_is_passed_over(args, say)?;
        let limit = Duration::from_secs(args.ready_timeout_secs);
        let has_changed = takeover_edge::run(host, limit, (args.dry_run, args.pre_run.as_deref()), say)?;
        drop(lock);
        return if has_changed { after(host, args, "the node") } else { Ok(()) };
    }
    let mut wanted = wanted(host, args)?;
    must_find_scripts(host, args)?;
    args.service_manager.map_or(Ok(()), |manager| manager.must_run(host))?;
    let token = token(host, args)?;
    let cloud = format!("{}:{}", wanted.host, wanted.port);
    let joined = Joined { node: wanted.node.clone(), cloud, took_over: false };
    if is_there(host, &joined, args.dry_run, say)? {
        return Ok(());
    }
    say_what_is_passed_over(args, say)?;
    let sources = Sources {
        bundle: args.offline_bundle.as_deref(),
        runtime: &args.remote_runtime_endpoint,
        repository: args.image_repository.as_deref(),
        is_dry_run: args.dry_run,
    };
    let supplies = Supplies::gather(host, sources, say)?;
    let done = join_with(host, args, joined, &mut wanted, &token, &supplies, say);
    let cleared = supplies.clear(host);
    done?;
    if let Err(failure) = cleared {
        // The node is none the worse.
        say(&format!("warning: {failure}"));
    }
    if args.dry_run {
        return Ok(());
    }
    // A site's program may ask keadm for more.
    drop(lock);
    after(host, args, &format!("node {}", wanted.node))
}

fn must_find_scripts(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    script::must_find(host, args.pre_run.as_deref(), "--pre-run")?;
    script::must_find(host, args.post_run.as_deref(), "--post-run")
}

fn after(host: &dyn Host, args: &Args, node: &str) -> Result<(), Failure> {
    script::run(host, args.post_run.as_deref(), "--post-run")
        .map_err(|failure| Failure::Halfway(anyhow!("{failure}; {node} is Ready all the same")))
}

/// Flags of KubeEdge's that choose nothing here.
fn say_what_is_passed_over(args: &Args, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    if let Some(wanted) = &args.kubeedge_version {
        say(&manifest::kubeedges("--kubeedge-version=", wanted)?);
    }
    if let Some(profile) = &args.profile {
        let wanted = profile.strip_prefix("version=").ok_or_else(|| {
            Failure::Usage(format!(
                "--profile: {profile:?} is no version=VERSION; an example: --profile version=v1.23.0"
            ))
        })?;
        say(&manifest::kubeedges("--profile version=", wanted)?);
    }
    if args.with_mqtt == Some(true) {
        say("the MQTT broker is built into edgecore: nothing to install for --with-mqtt");
    }
    Ok(())
}

fn join_with(
    host: &dyn Host,
    args: &Args,
    joined: Joined,
    wanted: &mut NodeSettings,
    token: &str,
    supplies: &Supplies,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    remains::must_be_none(host, &render::config(wanted, TOKEN).map_err(Failure::Usage)?)?;
    let (admin, plugins) = look_at_machine(host, supplies, wanted, token, say)?;

    let manager = args.service_manager.unwrap_or_else(|| Manager::find(host));
    let tree = render::config(wanted, TOKEN).map_err(Failure::Usage)?;
    let config = render::yaml(&tree, "join").map_err(Failure::Usage)?;
    let limit = Duration::from_secs(args.ready_timeout_secs);
    let environment = render::environment(|name| host.variable(name)).map_err(Failure::Usage)?;
    let programs = [(supplies.edgecore.clone(), PROGRAM), (supplies.keadm.clone(), KEADM)];
    let mut service = supplies.steps();
    if let Some(text) = environment {
        service.push(Step::File { path: ENVIRONMENT.into(), mode: 0o600, body: text.into() });
    }
    service.extend(manager.steps());
    // Taken back after the pods, which need it to go.
    let mut all = supplies.plugin_steps(host, &plugins);
    all.extend(wanted.pod_network.iter().flat_map(|folder| pod_network::steps(host, folder)));
    let begin = begin(host, wanted, &programs, &tree);
    all.extend(steps(begin, &config, token, service, (admin, limit)));
    let steps = all;
    if args.dry_run {
        step::print(&steps).iter().for_each(|line| say(line));
        say("nothing was changed");
        return Ok(());
    }
    script::run(host, args.pre_run.as_deref(), "--pre-run")?;
    let done = plan::carry_out(host, joined, &steps, say);
    // One that went with all the rest helps nobody.
    if done.is_err() && manager.has_log(host) {
        say(&format!("edgecore's own words: {}", manager.log()));
    }
    done?;
    say(&format!("node {} is Ready. In the cloud: kubectl get nodes", wanted.node));
    if manager == Manager::None {
        say(
            "no service manager runs here: after a reboot join's last steps must be done by whoever starts this machine",
        );
    }
    Ok(())
}

/// Whether this machine is this node already. What an earlier join left half-way is taken back.
fn is_there(
    host: &dyn Host,
    joined: &Joined,
    dry_run: bool,
    say: &mut dyn FnMut(&str),
) -> Result<bool, Failure> {
    let journal = Journal::read(host).context("read the journal in /var/lib/keadm")?;
    match journal {
        Some(journal) if journal.is_done && journal.joined == *joined => {
            say(&format!(
                "this machine is node {} of {} already: nothing is changed. To join anew (the cloud has another CA, or lost the \
                 node), type `keadm reset edge` first, and `kubectl delete node {}` in the cloud",
                joined.node, joined.cloud, joined.node
            ));
            Ok(true)
        }
        Some(journal) if journal.is_done => Err(Failure::Refused(format!(
            "this machine is node {} of {}: type `keadm reset edge` before it joins as {} of {}",
            journal.joined.node, journal.joined.cloud, joined.node, joined.cloud
        ))),
        Some(_) if dry_run => {
            say("an earlier join was cut short: it would be taken back first");
            Ok(true)
        }
        Some(journal) => {
            // The cloud knows this machine by a key that goes, too.
            say(&format!(
                "an earlier join was cut short; taking it back first. If the cloud then says that the name belongs to another key, \
                 type there: kubectl delete node {}",
                journal.joined.node
            ));
            let left = journal.undo(host);
            if left.is_empty() {
                Ok(false)
            } else {
                Err(Failure::LeftBehind(anyhow!("an earlier join cannot be taken back"), left))
            }
        }
        None if host.exists(Path::new(CONFIG)) => Err(Failure::Refused(format!(
            "{CONFIG} is there, and this keadm did not write it: `keadm join --takeover` goes on with a node of KubeEdge's, \
             `keadm reset edge` removes an edge node of any origin from this machine"
        ))),
        None => Ok(false),
    }
}

/// Lets edgecore look at the machine and the cloud, takes the runtime's cgroup driver where nobody named one, and has edgecore
/// make pods' network where there is none. Gives the address at which edgecore will say how the node stands, and the plugins that
/// the network needs.
fn look_at_machine(
    host: &dyn Host,
    supplies: &Supplies,
    wanted: &mut NodeSettings,
    token: &str,
    say: &mut dyn FnMut(&str),
) -> Result<(SocketAddr, Vec<String>), Failure> {
    let trial = Path::new(TRIAL);
    host.remove_tree(trial).context("clear /run/keadm-join")?;
    host.make_folder(trial, 0o700).context("make /run/keadm-join")?;
    let edgecore = &supplies.edgecore;
    let mut plugins = Vec::new();
    let looked = look_once(host, edgecore, wanted, token).and_then(|(report, config)| {
        // Nobody named one: it is the runtime's.
        let driver = report.cgroup_driver.clone().filter(|_| wanted.cgroup_driver.is_none());
        plugins = report.no_network.as_ref().map_or_else(Vec::new, |found| found.plugins.clone());
        let is_said = config.pointer("/modules/edged/podNetwork/manage").is_some();
        if !is_said {
            wanted.pod_network = pod_network::wanted(host, report.no_network.as_ref(), supplies, say)?;
        }
        match (driver, &wanted.pod_network) {
            (None, None) => return Ok((report, config)),
            (Some(driver), _) => wanted.cgroup_driver = Some(driver),
            (None, Some(_)) => {}
        }
        let (report, config) = look_once(host, edgecore, wanted, token)?;
        Ok((if wanted.pod_network.is_some() { report.without_network() } else { report }, config))
    });
    host.remove_tree(trial).context("clear /run/keadm-join")?;
    let (report, config) = looked?;
    preflight::judge(&report, say)?;
    let admin = node::admin(&config).map_err(|wrong| Failure::Usage(format!("--set {wrong}")))?;
    Ok((admin, plugins))
}

fn look_once(
    host: &dyn Host,
    edgecore: &Path,
    wanted: &NodeSettings,
    token: &str,
) -> Result<(Preflight, Value), Failure> {
    let file = |name: &str| format!("{TRIAL}/{name}");
    let config = render::config(wanted, &file("token")).map_err(Failure::Usage)?;
    let yaml = render::yaml(&config, "join").map_err(Failure::Usage)?;
    host.write(Path::new(&file("token")), token.as_bytes(), 0o600).context("write a trial configuration")?;
    host.write(Path::new(&file("edgecore.yaml")), yaml.as_bytes(), 0o600)
        .context("write a trial configuration")?;
    Ok((preflight::before_change(host, edgecore, Path::new(&file("edgecore.yaml")))?, config))
}

/// Folders, programs, and how all that edgecore will write is taken back.
fn begin(host: &dyn Host, wanted: &NodeSettings, programs: &[(PathBuf, &str)], config: &Value) -> Vec<Step> {
    let mut steps: Vec<Step> = node::folders().collect();
    steps.push(Step::Folder { path: wanted.certificates.clone().into(), mode: 0o700 });
    let elsewhere = programs.iter().filter(|(from, to)| from != Path::new(to));
    steps.extend(elsewhere.map(|(from, to)| Step::Program { from: from.clone(), to: to.into() }));
    // Of folders that were there before.
    steps.extend(remains::data(host, config));
    steps.extend(remains::certificates(host, config));
    steps
}

fn steps(
    begin: Vec<Step>,
    config: &str,
    token: &str,
    service: Vec<Step>,
    (address, limit): (SocketAddr, Duration),
) -> Vec<Step> {
    let of_edgecore = |words: &[&str]| -> Vec<String> {
        ["--config", CONFIG].iter().chain(words).map(|word| (*word).to_owned()).collect()
    };
    let program = PathBuf::from(PROGRAM);
    let mut steps = begin;
    steps.extend([
        Step::File { path: TOKEN.into(), mode: 0o600, body: token.into() },
        Step::File { path: CONFIG.into(), mode: 0o644, body: config.into() },
        Step::Run {
            what: "get this machine's certificate".into(),
            program: program.clone(),
            arguments: of_edgecore(&["enroll"]),
        },
        Step::OnUndo(Undo::Run {
            why: "remove its pods".into(),
            program,
            arguments: of_edgecore(&["remove-pods"]),
            needs: Some(CONFIG.into()),
        }),
    ]);
    steps.extend(service);
    steps.extend([Step::WaitReady { address, limit }, Step::Drop(TOKEN.into())]);
    steps
}

#[cfg(test)]
mod tests;
