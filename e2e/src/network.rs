//! A network between machines within this one: a bridge on which this machine has the first address, and each machine
//! with a network namespace of its own the next.
//!
//! A namespace goes with the last process in it, and its link with it; the bridge is swept with the run. Nothing is
//! changed in this machine's rules. Called by `machine` and stories.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Result, ensure};

use crate::leftovers::Leftover;
use crate::need;
use crate::process::run;
use crate::run_dir::RunDir;

/// Machines of network n live in 10.232.n.0/24.
const NETWORKS: std::ops::Range<u8> = 1..250;

pub struct Network {
    number: u8,
    n_machines: AtomicU8,
    // Swept when dropped.
    run_dir: RunDir,
}

impl Network {
    pub fn start() -> Result<Self> {
        need::root()?;
        need::packages(&["iproute2", "iptables"])?;
        let run_dir = RunDir::new("network")?;
        let free = |n: u8| !Path::new("/sys/class/net").join(bridge(n)).exists();
        let number = run_dir.number("network", NETWORKS, free)?;
        let network = Self { number, n_machines: AtomicU8::new(0), run_dir };
        let (name, address) = (bridge(number), format!("{}/24", network.gateway()));
        network.run_dir.record(&Leftover::Network(name.clone()))?;
        run("ip", &["link", "add", &name, "type", "bridge"])?;
        run("ip", &["address", "add", &address, "dev", &name])?;
        run("ip", &["link", "set", &name, "up"])?;
        Ok(network)
    }

    /// This machine as the others see it.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 232, self.number, 1)
    }

    /// Gives the network namespace of a process an address here, with a way to everywhere through this machine.
    pub fn attach(&self, pid: u32) -> Result<Ipv4Addr> {
        let n = self.n_machines.fetch_add(1, Ordering::Relaxed);
        ensure!(n < 200, "a network has room for 200 machines");
        let (address, gateway) = (Ipv4Addr::new(10, 232, self.number, n + 2), self.gateway());
        let (bridge, link, pid) = (bridge(self.number), format!("istm{}-{n}", self.number), pid.to_string());
        // A namespace outlives its processes while the kernel closes their connections, and its link with it.
        run("ip", &["link", "delete", &link]).ok();
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        run("ip", &["link", "set", &link, "master", &bridge, "up"])?;
        let script = format!(
            "ip link set lo up; ip address add {address}/24 dev eth0; ip link set eth0 up
             ip route add default via {gateway}; echo 1 >/proc/sys/net/ipv4/ip_forward"
        );
        run("nsenter", &["--target", &pid, "--net", "--", "sh", "-ec", &script])?;
        Ok(address)
    }

    /// Packets of this machine and the others for the pods of `machine` go there.
    pub fn route(&self, subnet: &str, machine: Ipv4Addr) -> Result<()> {
        run("ip", &["route", "add", subnet, "via", &machine.to_string()])?;
        Ok(())
    }

    /// It stays when this program ends.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()
    }
}

fn bridge(number: u8) -> String {
    format!("istm{number}")
}
