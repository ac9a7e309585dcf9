//! What `keadm join` is told, and what of it can be wrong by itself.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ke_wire::NodeName;
use serde_json::Value;

use crate::failure::Failure;
use crate::host::Host;
use crate::render::{CERTIFICATES, NodeSettings};
use crate::service::Manager;

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "Example: keadm join --cloudcore-ipport=10.0.0.1:10000 --edgenode-name=edge-1 --token=$TOKEN\n\
                        The token comes from `keadm gettoken` in the cloud."
)]
pub(crate) struct Args {
    /// The cloud, as host:port; port 10000 if left out.
    #[arg(
        short = 'e',
        long,
        value_name = "HOST:PORT",
        required_unless_present = "takeover",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) cloudcore_ipport: String,
    /// Take the place of KubeEdge's edgecore on this machine, whose configuration and certificates stay.
    #[arg(long, conflicts_with_all = [
        "cloudcore_ipport", "token", "token_file", "edgenode_name", "set", "labels", "certport", "remote_runtime_endpoint",
        "cgroupdriver", "cert_path", "kubelet_config", "hub_protocol", "service_manager", "offline_bundle", "image_repository",
    ])]
    pub(super) takeover: bool,
    /// Port of the cloud at which machines get their certificate.
    #[arg(short = 's', long, default_value_t = 10002)]
    pub(super) certport: u16,
    /// The join token.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(super) token: String,
    /// File that holds the join token: other users of this machine see the command line, but not the file.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(super) token_file: Option<PathBuf>,
    /// Name of the node [default: the machine's name]
    #[arg(short = 'i', long, value_name = "NAME")]
    pub(super) edgenode_name: Option<String>,
    /// Socket of the container runtime.
    #[arg(short = 'p', long, default_value = "unix:///run/containerd/containerd.sock", value_name = "URL")]
    pub(super) remote_runtime_endpoint: String,
    /// Who makes cgroups: cgroupfs or systemd [default: who does it for the container runtime]
    #[arg(long, value_parser = ["cgroupfs", "systemd"], value_name = "DRIVER")]
    pub(super) cgroupdriver: Option<String>,
    /// Folder for the node's certificate and key.
    #[arg(long = "certPath", alias = "cert-path", default_value = CERTIFICATES, value_name = "FOLDER")]
    pub(super) cert_path: String,
    /// Labels of the node: a=b,c=d.
    #[arg(short, long, value_delimiter = ',', value_name = "NAME=VALUE")]
    pub(super) labels: Vec<String>,
    /// A KubeletConfiguration, as kubelets take it with --config; edgecore says which keys it does not know.
    #[arg(long, value_name = "FILE")]
    pub(super) kubelet_config: Option<PathBuf>,
    /// Keys of edgecore.yaml: modules.eventBus.enable=false. Several with commas, or the flag again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// How the cloud is reached; only websocket so far.
    #[arg(long, default_value = "websocket", value_parser = ["websocket"], value_name = "PROTOCOL")]
    pub(super) hub_protocol: String,
    /// Who keeps edgecore running [default: what runs here]
    #[arg(long, value_enum)]
    pub(super) service_manager: Option<Manager>,
    /// How long the node may take to be Ready. Seconds.
    #[arg(long, default_value_t = 120, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) ready_timeout_secs: u64,
    /// A program that runs before anything is changed; it must be executable.
    #[arg(long, value_name = "FILE")]
    pub(super) pre_run: Option<PathBuf>,
    /// A program that runs once the node is Ready.
    #[arg(long, value_name = "FILE")]
    pub(super) post_run: Option<PathBuf>,
    /// Print what would be done, and do nothing.
    #[arg(short, long)]
    pub(super) dry_run: bool,
    /// KubeEdge's version; edgecore of this version of keadm is installed.
    #[arg(long, value_name = "VERSION")]
    pub(super) kubeedge_version: Option<String>,
    /// KubeEdge's profile; its version counts as --kubeedge-version.
    #[arg(long, value_name = "version=VERSION")]
    pub(super) profile: Option<String>,
    /// A bundle made by `keadm bundle create`: edgecore, images and CNI plugins come from it, and nothing from a network.
    #[arg(long, alias = "tarballpath", value_name = "FILE")]
    pub(super) offline_bundle: Option<PathBuf>,
    /// Registry and folder of the image that edgecore comes from where this machine has none: registry.example/isthmus
    #[arg(long, value_name = "PREFIX")]
    pub(super) image_repository: Option<String>,
    /// Accepted for KubeEdge's sake: edgecore has a broker of its own.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", hide = true)]
    pub(super) with_mqtt: Option<bool>,
}

pub(super) fn wanted(host: &dyn Host, args: &Args) -> Result<NodeSettings, Failure> {
    let (name, port) = cloud(&args.cloudcore_ipport).map_err(Failure::Usage)?;
    let node = args.edgenode_name.clone().unwrap_or_else(|| host.name().to_lowercase());
    if let Err(error) = node.parse::<NodeName>() {
        let near = node.to_lowercase().replace('_', "-");
        let is_name = near.parse::<NodeName>().is_ok();
        let hint = if is_name { format!("; an example: --edgenode-name={near}") } else { String::new() };
        return Err(Failure::Usage(format!("--edgenode-name: {node:?} is no name of a node: {error}{hint}")));
    }
    let label = |label: &String| match label.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!("--labels: {label:?} is no NAME=VALUE"))),
    };
    Ok(NodeSettings {
        node,
        host: name,
        port,
        certificate_port: args.certport,
        certificates: args.cert_path.trim_end_matches('/').to_owned(),
        runtime: args.remote_runtime_endpoint.clone(),
        cgroup_driver: args.cgroupdriver.clone(),
        labels: args.labels.iter().map(label).collect::<Result<_, _>>()?,
        kubelet: kubelet_config(host, args.kubelet_config.as_deref())?,
        pod_network: None,
        set: args.set.clone(),
    })
}

fn kubelet_config(host: &dyn Host, path: Option<&Path>) -> Result<Value, Failure> {
    let Some(path) = path else { return Ok(Value::Null) };
    let shown = path.display();
    let body = host.read(path).with_context(|| format!("read {shown}"))?;
    let body = body.ok_or_else(|| Failure::Usage(format!("--kubelet-config: there is no {shown}")))?;
    serde_saphyr::from_str(&String::from_utf8_lossy(&body))
        .map_err(|error| Failure::Usage(format!("--kubelet-config: {shown}: {error}")))
}

/// host:port, host, [v6]:port or [v6], to the host as URLs write it and the port.
fn cloud(text: &str) -> Result<(String, u16), String> {
    let wrong = || {
        format!(
            "--cloudcore-ipport: {text:?} is no host:port; examples: 10.0.0.1:10000, cloud.example:10000, [fd00::1]:10000"
        )
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
            (format!("[{host}]"), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let plain = host.trim_matches(['[', ']']);
    let is_host = !plain.is_empty()
        && plain.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.:".contains(letter));
    if !is_host {
        return Err(wrong());
    }
    let port = port.map_or(Ok(10000), str::parse).map_err(|_| wrong())?;
    if port == 0 { Err(wrong()) } else { Ok((host, port)) }
}

pub(super) fn token(host: &dyn Host, args: &Args) -> Result<String, Failure> {
    let text = match &args.token_file {
        Some(path) => {
            let shown = path.display();
            let body = host.read(path).with_context(|| format!("read {shown}"))?;
            let body = body.ok_or_else(|| Failure::Usage(format!("--token-file: there is no {shown}")))?;
            String::from_utf8_lossy(&body).trim().to_owned()
        }
        None => args.token.trim().to_owned(),
    };
    if text.is_empty() {
        return Err(Failure::Usage("--token is missing: get one in the cloud with `keadm gettoken`".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_are_named_in_many_ways() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            assert_eq!(cloud(text).ok(), expected.map(|(host, port)| (host.to_owned(), port)), "{text}");
        };
        check("10.0.0.1:10000", Some(("10.0.0.1", 10000)));
        check("cloud.example", Some(("cloud.example", 10000)));
        check("[fd00::1]:443", Some(("[fd00::1]", 443)));
        check("[fd00::1]", Some(("[fd00::1]", 10000)));
        for wrong in
            ["", ":1", "a:b", "a:0", "a:70000", "[fd00::1", "[x]:1", "fd00::1", "a b:1", "https://a:1"]
        {
            check(wrong, None);
        }
    }
}
