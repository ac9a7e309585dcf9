//! An HTTP proxy that somebody else wrote, on the network of machines: for those that have no other way to the cloud.

use std::path::Path;

use anyhow::Result;

use crate::need;
use crate::network::Network;
use crate::process::Process;
use crate::run_dir::RunDir;

pub struct Proxy {
    url: String,
    process: Process,
    // Swept when dropped.
    _run_dir: RunDir,
}

impl Proxy {
    /// CONNECT is allowed to these ports alone.
    pub fn start(network: &Network, ports: [u16; 2]) -> Result<Self> {
        need::packages(&["tinyproxy-bin"])?;
        let run_dir = RunDir::new("proxy")?;
        let (address, port) = (network.gateway(), run_dir.port()?);
        let [first, second] = ports;
        let config = format!(
            "Listen {address}\nPort {port}\nTimeout 600\nMaxClients 20\nLogLevel Connect\nConnectPort {first}\nConnectPort {second}\n"
        );
        let config = run_dir.write("tinyproxy.conf", config)?.display().to_string();
        let mut process =
            Process::new(run_dir.path(), "tinyproxy", Path::new("/usr/bin/tinyproxy"), ["-d", "-c", &config]);
        process.start()?;
        Ok(Self { url: format!("http://{address}:{port}"), process, _run_dir: run_dir })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it let through, and what not.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
