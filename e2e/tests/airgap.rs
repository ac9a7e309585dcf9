//! A machine that reaches nothing but its cloud, and on which nothing is but a container runtime, becomes a node with one file.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use e2e::images;
use e2e::joined::{Joined, must, run_pod, told};
use e2e::joining::Joining;

const NODE: &str = "edge-apart";
const LINKS: &str = "ip -o link show | sed 's/ mtu .*//; s/^[0-9]*: //' | sort";

/// The machine may ask itself, and the two ports of the cloud. What it asks others is refused and counted; the kernel's own
/// reports of groups (IGMP) are no questions.
fn cut_off(site: &Joining) -> Result<()> {
    let gateway = site.network()?.gateway();
    let allowed = [site.cloud.websocket().port(), site.cloud.https().port()]
        .map(|port| format!("iptables -w -A OUTPUT -d {gateway} -p tcp --dport {port} -j ACCEPT\n"));
    site.edge.shell(&format!(
        "iptables -w -A OUTPUT -o lo -j ACCEPT
         {}
         iptables -w -A OUTPUT -p tcp -j REJECT
         iptables -w -A OUTPUT -p udp -j REJECT
         ip6tables -w -A OUTPUT -o lo -j ACCEPT
         ip6tables -w -A OUTPUT -p tcp -j REJECT
         ip6tables -w -A OUTPUT -p udp -j REJECT",
        allowed.concat()
    ))?;
    let server = site.cluster.server();
    let port = server.rsplit(':').next().unwrap_or_default();
    site.edge.shell(&format!("! timeout 5 bash -c '</dev/tcp/{gateway}/{port}' 2>/dev/null"))?;
    ensure!(asked_others(&site.edge)? > 0, "what is refused is not counted");
    site.edge.shell("iptables -w -Z; ip6tables -w -Z").map(drop)
}

/// How many packets to anybody else were refused.
fn asked_others(edge: &Joined) -> Result<u64> {
    let counted = edge.shell("iptables -w -n -v -x -L OUTPUT; ip6tables -w -n -v -x -L OUTPUT")?;
    let refused = counted.lines().filter(|line| line.contains("REJECT"));
    refused.map(|line| Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()?)).sum()
}

#[test]
fn a_machine_without_anything_joins_with_a_bundle() -> Result<()> {
    let mut site = Joining::start_bare(NODE)?;
    cut_off(&site)?;
    // As where there was a kubelet before: keadm does not remove folders that it did not make.
    site.edge.shell("mkdir -p /var/log/pods /var/lib/kubelet")?;
    let (before, links) = (site.edge.machine.made()?, site.edge.shell(LINKS)?);
    let clean = |site: &Joining| -> Result<()> {
        site.edge.machine.must_be_as(&before)?;
        let plugins = site.edge.shell("ls /opt")?;
        ensure!(plugins.is_empty(), "left behind: {plugins}");
        let now = site.edge.shell(LINKS)?;
        ensure!(now == links, "interfaces are {now}, and were {links}");
        Ok(())
    };

    // Made on a machine that has everything.
    let stick = site.edge.machine.run_dir().folder("stick")?;
    let bundle = stick.join("edge.tar.gz");
    let file = bundle.display().to_string();
    let mut create = vec!["bundle", "create", "--out", &file, "--cni-plugins", "/usr/lib/cni"];
    let archives = images::make_all(&stick)?;
    let archives: Vec<String> = archives.iter().map(|path| path.display().to_string()).collect();
    create.extend(archives.iter().flat_map(|archive| ["--image", archive]));
    let made = std::process::Command::new(&site.edge.keadm).args(&create).output()?;
    must(&made)?;
    eprintln!("{}", told(&made));
    // Nothing lies beside the keadm that is typed.
    let unpacked = stick.join("unpacked");
    fs::create_dir(&unpacked)?;
    e2e::process::run("tar", &["-xzf", &file, "-C", &unpacked.to_string_lossy(), "keadm"])?;
    site.edge.keadm = PathBuf::from(&unpacked).join("keadm");

    let cut = stick.join("cut.tar.gz");
    let whole = fs::read(&bundle)?;
    fs::write(&cut, whole.get(..whole.len() / 2).unwrap_or_default())?;
    let refused = site.join(&site.token, &[&format!("--offline-bundle={}", cut.display())])?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    clean(&site)?;

    for round in 0..2 {
        let joined = site.join(&site.token, &[&format!("--offline-bundle={file}")])?;
        eprintln!("{}", must(&joined)?);
        let pod = format!("from-the-bundle-{round}");
        run_pod(&site.cluster, &pod)?;
        let address = site.cluster.kubectl_ok(&["get", "pod", &pod, "--output=jsonpath={.status.podIP}"])?;
        ensure!(!address.is_empty(), "a pod without an address");
        must(&site.reset()?)?;
        clean(&site)?;
        site.cluster.kubectl_ok(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
        site.cluster.kubectl_ok(&["delete", "node", NODE])?;
    }
    let n_others = asked_others(&site.edge)?;
    ensure!(n_others == 0, "{n_others} packets to others than the cloud");
    Ok(())
}
