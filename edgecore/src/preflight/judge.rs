//! Pure: from what was found on a machine to whether it can be an edge node, and what to do if not.

use std::path::PathBuf;

use serde::Serialize;

use super::network::OwnNetwork;
use crate::config::CgroupDriver;
use crate::edge_hub::Prospect;

/// 2024-01-01. A clock before that was never set; certificates would look as if they were of the future.
const CLOCK_WAS_SET: i64 = 1_704_067_200;
/// Room for the store, certificates and a few pods' files. Less works for a while; bytes.
const LITTLE_DISK: u64 = 1 << 30;
const NO_DISK: u64 = 100 << 20;

/// What was found on the machine.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) is_root: bool,
    /// The node's name, or why it has none.
    pub(super) node: Result<String, String>,
    /// The address, or why there is none.
    pub(super) address: Result<String, String>,
    pub(super) endpoint: String,
    pub(super) runtime: Result<RuntimeFacts, String>,
    pub(super) wanted_driver: CgroupDriver,
    /// Why there are no cgroups that may be written.
    pub(super) cgroups: Result<(), String>,
    /// Addresses that edgecore must listen on, each with why it cannot.
    pub(super) taken: Vec<(String, String)>,
    /// Whether a kubelet answers on its port.
    pub(super) has_kubelet: bool,
    /// Sentences about reservations that leave nothing for pods.
    pub(super) nothing_left: Vec<String>,
    /// Folder, and the bytes that are free where it is.
    pub(super) disks: Vec<(PathBuf, Option<u64>)>,
    /// Unix seconds.
    pub(super) clock: i64,
    pub(super) cloud: String,
    /// What stands between this machine and the cloud.
    pub(super) identity: Result<Prospect, (String, &'static str)>,
    /// The network that edgecore is to make; `None`: it makes none, or none is needed.
    pub(super) own_network: Option<OwnNetwork>,
}

/// A runtime that answers.
#[derive(Clone, Debug)]
pub(super) struct RuntimeFacts {
    pub(super) name: String,
    /// `None`: it does not tell.
    pub(super) driver: Option<CgroupDriver>,
    /// Its own words for why pods would get no network.
    pub(super) no_network: Option<String>,
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Ok,
    /// It works, but somebody should know.
    Warning,
    /// This machine cannot be a node like this.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `runtime`, `cgroups`, `network`, ...: fixed words, for scripts.
    pub check: Check,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when it is fine.
    pub advice: String,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Rights.
    Root,
    /// The node's name.
    Name,
    /// An address that is not loopback.
    Address,
    /// The container runtime.
    Runtime,
    /// Who makes cgroups.
    Cgroups,
    /// Pods' network.
    Network,
    /// Ports of this machine.
    Ports,
    /// Another node agent.
    Kubelet,
    /// What is left for pods.
    Allocatable,
    /// Room.
    Disk,
    /// The time.
    Clock,
    /// The way into the cloud, and this machine's right to it.
    Cloud,
}

/// Judges all of it; nothing is left out because something before it failed.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    use Verdict::{Failed, Ok as Fine, Warning};
    let mut findings = Vec::new();
    let mut say = |check, verdict, found: String, advice: &str| {
        let advice = if verdict == Fine { String::new() } else { advice.to_owned() };
        findings.push(Finding { check, verdict, found, advice });
    };
    match facts.is_root {
        true => say(Check::Root, Fine, "runs as root".into(), ""),
        false => say(Check::Root, Failed, "does not run as root".into(), "type it again with sudo"),
    }
    match &facts.node {
        Ok(name) => say(Check::Name, Fine, format!("the node's name is {name}"), ""),
        Err(why) => say(
            Check::Name,
            Failed,
            why.clone(),
            "give the node a name of lower-case letters, digits, dashes and dots: --edgenode-name, or \
             modules.edged.hostnameOverride",
        ),
    }
    match &facts.address {
        Ok(address) => say(Check::Address, Fine, format!("its address is {address}"), ""),
        Err(why) => {
            say(Check::Address, Failed, why.clone(), "connect it to a network, or set modules.edged.nodeIP")
        }
    }
    judge_runtime(facts, &mut say);
    if facts.taken.is_empty() {
        say(Check::Ports, Fine, "its ports are free".into(), "");
    }
    for (address, why) in &facts.taken {
        let advice = "another edgecore may run: `keadm reset edge` removes it; or set admin.bindAddress";
        say(Check::Ports, Failed, format!("cannot listen on {address}: {why}"), advice);
    }
    match facts.has_kubelet {
        false => say(Check::Kubelet, Fine, "no kubelet runs".into(), ""),
        true => say(
            Check::Kubelet,
            Failed,
            "a kubelet answers on port 10250, and two node agents remove each other's pods".into(),
            "stop and disable it first: systemctl disable --now kubelet",
        ),
    }
    for found in &facts.nothing_left {
        let advice = "pods that ask for any of it stay Pending: reserve less";
        say(Check::Allocatable, Warning, found.clone(), advice);
    }
    for (folder, free) in &facts.disks {
        let shown = folder.display();
        let advice = "make room, or put it elsewhere: database.dataSource, modules.edged.rootDirectory";
        match free {
            None => say(Check::Disk, Warning, format!("cannot tell how much room {shown} has"), advice),
            Some(free) => {
                let verdict = match *free {
                    ..NO_DISK => Failed,
                    NO_DISK..LITTLE_DISK => Warning,
                    _ => Fine,
                };
                say(Check::Disk, verdict, format!("{shown} has {} MB free", free / 1_000_000), advice);
            }
        }
    }
    if facts.clock < CLOCK_WAS_SET {
        let advice = "set it: date -s, or start an NTP client; certificates are checked against it";
        say(Check::Clock, Failed, "the clock stands before 2024".into(), advice);
    } else {
        say(Check::Clock, Fine, "the clock is set".into(), "");
    }
    let (verdict, found, advice) = super::cloud::judge(&facts.cloud, &facts.identity);
    say(Check::Cloud, verdict, found, advice);
    findings
}

fn judge_runtime(facts: &Facts, say: &mut impl FnMut(Check, Verdict, String, &str)) {
    use Verdict::{Failed, Ok as Fine, Warning};
    let runtime = match &facts.runtime {
        Ok(runtime) => runtime,
        Err(why) => {
            let found = format!("no container runtime answers at {}: {why}", facts.endpoint);
            let advice = "start it (systemctl start containerd), or name another one: --remote-runtime-endpoint, or \
                          containerRuntimeEndpoint";
            return say(Check::Runtime, Failed, found, advice);
        }
    };
    say(Check::Runtime, Fine, format!("{} answers at {}", runtime.name, facts.endpoint), "");
    let word = |driver| match driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => "systemd",
    };
    let wanted = word(facts.wanted_driver);
    match (runtime.driver, &facts.cgroups) {
        (Some(driver), _) if driver != facts.wanted_driver => {
            let theirs = word(driver);
            let found =
                format!("the cgroup driver is to be {wanted}, but the container runtime uses {theirs}");
            say(Check::Cgroups, Failed, found, &format!("type --cgroupdriver={theirs}"));
        }
        (_, Err(why)) => {
            say(Check::Cgroups, Failed, why.clone(), "mount them, or set cgroupsPerQOS to false")
        }
        (None, Ok(())) => {
            let found = format!("the container runtime does not tell its cgroup driver; {wanted} is taken");
            say(Check::Cgroups, Warning, found, "if pods do not start, try the other one");
        }
        (Some(_), Ok(())) => say(Check::Cgroups, Fine, format!("the cgroup driver is {wanted}"), ""),
    }
    match (&runtime.no_network, &facts.own_network) {
        (None, _) => say(Check::Network, Fine, "the container runtime has a network for pods".into(), ""),
        (Some(why), None) => say(
            Check::Network,
            Warning,
            format!("the container runtime has no network for pods yet: {why}"),
            "put a CNI configuration into /etc/cni/net.d and its plugins into /opt/cni/bin, or set \
             modules.edged.podNetwork.manage to true; until then the node is not Ready",
        ),
        (Some(why), Some(own)) => judge_own_network(why, own, say),
    }
}

fn judge_own_network(why: &str, own: &OwnNetwork, say: &mut impl FnMut(Check, Verdict, String, &str)) {
    use Verdict::{Failed, Ok as Fine, Warning};
    let conf_dir = own.conf_dir.display();
    if let Some(folder) = &own.elsewhere {
        let folder = folder.display();
        let found = format!("the container runtime looks for its network in {folder}, not in {conf_dir}");
        return say(
            Check::Network,
            Failed,
            found,
            &format!("set modules.edged.podNetwork.confDir to {folder}"),
        );
    }
    if let Some(name) = &own.stranger {
        let found = format!("the container runtime cannot use {conf_dir}/{name}: {why}");
        return say(
            Check::Network,
            Warning,
            found,
            "set it right, or remove it; until then the node is not Ready",
        );
    }
    if !own.missing.is_empty() {
        let folders: Vec<String> = own.plugin_folders.iter().map(|path| path.display().to_string()).collect();
        let found =
            format!("the network plugins {} are not in {}", own.missing.join(", "), folders.join(", "));
        let advice = "install them (apt-get install containernetworking-plugins), or put them there; until then the node \
                      is not Ready";
        return say(Check::Network, Warning, found, advice);
    }
    let found = "pods get a network as soon as the cloud has given this node a range of addresses";
    say(Check::Network, Fine, found.into(), "");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            is_root: true,
            node: Ok("edge-1".into()),
            address: Ok("10.0.0.7".into()),
            endpoint: "unix:///run/containerd/containerd.sock".into(),
            runtime: Ok(RuntimeFacts {
                name: "containerd 1.7.2".into(),
                driver: Some(CgroupDriver::Cgroupfs),
                no_network: None,
            }),
            wanted_driver: CgroupDriver::Cgroupfs,
            cgroups: Ok(()),
            taken: Vec::new(),
            has_kubelet: false,
            nothing_left: Vec::new(),
            disks: vec![("/var/lib/kubeedge".into(), Some(5 << 30))],
            clock: CLOCK_WAS_SET,
            cloud: "https://10.0.0.1:10002".into(),
            identity: Ok(Prospect::TokenFits),
            own_network: None,
        }
    }

    #[test]
    fn every_fault_is_found_and_has_an_advice() {
        assert!(
            judge(&good()).iter().all(|finding| finding.verdict == Verdict::Ok && finding.advice.is_empty())
        );
        let check = |spoil: &dyn Fn(&mut Facts), expected: Check, verdict: Verdict, advice: &str| {
            let mut facts = good();
            spoil(&mut facts);
            let bad: Vec<Finding> =
                judge(&facts).into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
            assert_eq!(bad.len(), 1, "{bad:?}");
            assert_eq!((bad[0].check, bad[0].verdict), (expected, verdict));
            assert!(bad[0].advice.contains(advice), "{bad:?}");
        };
        use Verdict::{Failed, Warning};
        check(&|facts| facts.is_root = false, Check::Root, Failed, "sudo");
        check(&|facts| facts.node = Err("Edge_1 is no name".into()), Check::Name, Failed, "--edgenode-name");
        check(&|facts| facts.address = Err("none".into()), Check::Address, Failed, "nodeIP");
        check(
            &|facts| facts.runtime = Err("refused".into()),
            Check::Runtime,
            Failed,
            "systemctl start containerd",
        );
        check(
            &|facts| facts.wanted_driver = CgroupDriver::Systemd,
            Check::Cgroups,
            Failed,
            "--cgroupdriver=cgroupfs",
        );
        check(&|facts| facts.cgroups = Err("read-only".into()), Check::Cgroups, Failed, "cgroupsPerQOS");
        let runtime = |facts: &mut Facts, change: &dyn Fn(&mut RuntimeFacts)| {
            if let Ok(runtime) = &mut facts.runtime {
                change(runtime);
            }
        };
        check(&|facts| runtime(facts, &|it| it.driver = None), Check::Cgroups, Warning, "the other one");
        check(
            &|facts| runtime(facts, &|it| it.no_network = Some("no CNI".into())),
            Check::Network,
            Warning,
            "/etc/cni/net.d",
        );
        // keadm knows these by their word.
        assert_eq!(serde_json::to_value(Check::Network).unwrap(), ke_api::pod_network::CHECK);
        let own = |change: &dyn Fn(&mut OwnNetwork)| {
            let mut own = OwnNetwork {
                conf_dir: "/etc/cni/net.d".into(),
                stranger: None,
                elsewhere: None,
                missing: Vec::new(),
                plugin_folders: vec!["/opt/cni/bin".into()],
            };
            change(&mut own);
            move |facts: &mut Facts| {
                runtime(facts, &|it| it.no_network = Some("no CNI".into()));
                facts.own_network = Some(own.clone());
            }
        };
        let mut facts = good();
        own(&|_| {})(&mut facts);
        assert!(judge(&facts).iter().all(|finding| finding.verdict == Verdict::Ok));
        check(
            &own(&|own| own.missing = vec!["bridge"]),
            Check::Network,
            Warning,
            "containernetworking-plugins",
        );
        check(&own(&|own| own.stranger = Some("a.conf".into())), Check::Network, Warning, "set it right");
        check(&own(&|own| own.elsewhere = Some("/cni".into())), Check::Network, Failed, "confDir to /cni");
        check(
            &|facts| facts.taken = vec![("127.0.0.1:10560".into(), "in use".into())],
            Check::Ports,
            Failed,
            "keadm reset edge",
        );
        check(&|facts| facts.has_kubelet = true, Check::Kubelet, Failed, "disable --now kubelet");
        check(&|facts| facts.disks[0].1 = Some(1), Check::Disk, Failed, "make room");
        check(
            &|facts| facts.nothing_left = vec!["no cpu is left".into()],
            Check::Allocatable,
            Warning,
            "reserve less",
        );
        check(&|facts| facts.disks[0].1 = Some(NO_DISK), Check::Disk, Warning, "make room");
        check(&|facts| facts.disks[0].1 = None, Check::Disk, Warning, "make room");
        check(&|facts| facts.clock = 0, Check::Clock, Failed, "NTP");
        check(
            &|facts| facts.identity = Err(("refused".into(), "is right")),
            Check::Cloud,
            Failed,
            "is right",
        );
    }
}
