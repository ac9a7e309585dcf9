//! A machine whose only way to the cloud is an HTTP proxy joins through it, and goes through it after each start.

use anyhow::{Result, ensure};
use e2e::joined::{must, run_pod, told};
use e2e::joining::Joining;
use e2e::proxy::Proxy;
use e2e::site::PATIENCE;
use e2e::wait::{Seen, eventually};

const NODE: &str = "edge-behind";

#[test]
fn a_machine_behind_a_proxy_joins() -> Result<()> {
    let site = Joining::start_apart(NODE)?;
    let (link, certificates) = (site.cloud.websocket().port(), site.cloud.https().port());
    let proxy = Proxy::start(site.network()?, [link, certificates])?;
    let gateway = site.network()?.gateway();
    for port in [link, certificates] {
        site.edge.shell(&format!(
            "iptables -w -A OUTPUT -d {gateway} -p tcp --dport {port} -j REJECT --reject-with tcp-reset"
        ))?;
    }
    // As where there was a kubelet before: keadm does not remove folders that it did not make.
    site.edge.shell("mkdir -p /var/log/pods /var/lib/kubelet")?;
    let before = site.edge.machine.made()?;

    let direct = site.join(&site.token, &[])?;
    ensure!(direct.status.code() == Some(3) && told(&direct).contains("refused"), "{}", told(&direct));
    let nobody =
        site.edge.join_after(&["/usr/bin/env", "HTTPS_PROXY=http://127.0.0.1:1"], &site.token, &[])?;
    ensure!(nobody.status.code() == Some(3), "{}", told(&nobody));
    ensure!(told(&nobody).contains("proxy 127.0.0.1:1, which HTTPS_PROXY names"), "{}", told(&nobody));
    site.edge.machine.must_be_as(&before)?;

    let through = format!("HTTPS_PROXY={}", proxy.url());
    must(&site.edge.join_after(&["/usr/bin/env", &through], &site.token, &[])?)?;
    let asked = |port: u16| proxy.log().matches(&format!("CONNECT {gateway}:{port}")).count();
    ensure!(asked(certificates) > 0 && asked(link) == 1, "{}", proxy.log());
    run_pod(&site.cluster, "web")?;
    let mode = site.edge.shell("stat --format=%a /etc/kubeedge/edgecore.env")?;
    ensure!(mode == "600", "a proxy may have a password: {mode}");

    // Started again by whoever keeps it running, it goes the same way.
    site.edge.shell("kill -9 $(cat /proc/$(cat /run/edgecore.pid)/task/*/children)")?;
    eventually(PATIENCE, "the link through the proxy again", || {
        let n_links = asked(link);
        Ok(if n_links == 2 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_links} links")) })
    })?;

    must(&site.reset()?)?;
    site.edge.machine.must_be_as(&before)
}
