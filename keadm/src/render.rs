//! Pure: what a join writes. Only what differs from edgecore's defaults; edgecore itself checks it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Where runtimes look for a configuration, unless they are told otherwise.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";
/// Where edgecore's configuration is, as everywhere in KubeEdge's documents.
pub(crate) const CONFIG: &str = "/etc/kubeedge/config/edgecore.yaml";
/// Where edgecore is installed.
pub(crate) const PROGRAM: &str = "/usr/local/bin/edgecore";
/// Where keadm itself is, for what runs before edgecore starts.
pub(crate) const KEADM: &str = "/usr/local/bin/keadm";
/// The join token, until the node is Ready.
pub(crate) const TOKEN: &str = "/etc/kubeedge/bootstrap-edgecore.conf";
/// Where KubeEdge keeps certificates unless told otherwise.
pub(crate) const CERTIFICATES: &str = "/etc/kubeedge/certs";

/// What edgecore's environment holds, for whoever starts it.
pub(crate) const ENVIRONMENT: &str = "/etc/kubeedge/edgecore.env";
/// Through which proxy the cloud is reached, as edgecore reads it.
pub(crate) const PROXY: [&str; 2] = ["HTTPS_PROXY", "NO_PROXY"];

/// The file of that name, as systemd and shells read it; `None`: nothing is set. It may hold a password.
pub(crate) fn environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let mut text = String::new();
    for name in PROXY {
        let set = variable(name).or_else(|| variable(&name.to_lowercase()));
        let Some(value) = set.filter(|value| !value.trim().is_empty()) else { continue };
        if value.contains(['\'', '\\', '\n']) {
            return Err(format!(
                "{name} holds a quotation mark or backslash: write it with % and two digits"
            ));
        }
        text += &format!("{name}='{}'\n", value.trim());
    }
    // Exceptions from nothing are nothing.
    Ok(Some(text).filter(|text| text.starts_with("HTTPS_PROXY")))
}

/// What [`environment`] wrote.
pub(crate) fn read_environment(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// What the flags say of the node, and what the machine answered where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeSettings {
    pub(crate) node: String,
    /// host, as URLs write it: IPv6 in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) certificate_port: u16,
    pub(crate) certificates: String,
    pub(crate) runtime: String,
    /// `None`: the runtime's own, once that is known.
    pub(crate) cgroup_driver: Option<String>,
    pub(crate) labels: Vec<(String, String)>,
    /// A KubeletConfiguration; null if there is none.
    pub(crate) kubelet: Value,
    /// Where edgecore is to write the configuration of pods' network; `None`: it makes none.
    pub(crate) pod_network: Option<PathBuf>,
    pub(crate) set: Vec<String>,
}

/// edgecore.yaml as a tree. `token`: the file that holds the join token.
pub(crate) fn config(wanted: &NodeSettings, token: &str) -> Result<Value, String> {
    let mut kubelet = kubelet(&wanted.kubelet)?;
    put(&mut kubelet, "containerRuntimeEndpoint", json!(wanted.runtime));
    if let Some(driver) = &wanted.cgroup_driver {
        put(&mut kubelet, "cgroupDriver", json!(driver));
    }
    let mut edged = json!({"hostnameOverride": wanted.node, "tailoredKubeletConfig": kubelet});
    if !wanted.labels.is_empty() {
        let labels: Map<String, Value> =
            wanted.labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        put(&mut edged, "nodeLabels", labels);
    }
    if let Some(conf_dir) = &wanted.pod_network {
        let mut network = json!({"manage": true});
        if conf_dir != Path::new(CONF_DIR) {
            put(&mut network, "confDir", json!(conf_dir));
        }
        put(&mut edged, "podNetwork", network);
    }
    let mut hub = json!({
        "httpServer": format!("https://{}:{}", wanted.host, wanted.certificate_port),
        "websocket": {"server": format!("{}:{}", wanted.host, wanted.port)},
    });
    if wanted.certificates != CERTIFICATES {
        put(&mut hub, "tlsCertFile", json!(format!("{}/server.crt", wanted.certificates)));
        put(&mut hub, "tlsPrivateKeyFile", json!(format!("{}/server.key", wanted.certificates)));
    }
    if token != TOKEN {
        put(&mut hub, "bootstrapFile", json!(token));
    }
    let mut config = json!({
        "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
        "kind": "EdgeCore",
        "modules": {"edgeHub": hub, "edged": edged},
    });
    for set in &wanted.set {
        crate::set::lay_over(&mut config, set)?;
    }
    Ok(config)
}

/// As edgecore holds it: without the words that say what the file is.
fn kubelet(file: &Value) -> Result<Value, String> {
    let mut section = match file {
        Value::Null => Map::new(),
        Value::Object(section) => section.clone(),
        _ => return Err("--kubelet-config: the file holds no KubeletConfiguration".to_owned()),
    };
    match section.remove("kind") {
        None => {}
        Some(kind) if kind == "KubeletConfiguration" => {}
        Some(kind) => {
            return Err(format!("--kubelet-config: the file holds kind {kind}, not KubeletConfiguration"));
        }
    }
    section.remove("apiVersion");
    // kubeadm writes every duration; none means the default, to a kubelet and here.
    section.retain(|_, value| value != "0s");
    Ok(Value::Object(section))
}

fn put(section: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(section) = section.as_object_mut() {
        section.insert(key.to_owned(), value.into());
    }
}

/// As people read it. `command`: what wrote it.
pub(crate) fn yaml(config: &Value, command: &str) -> Result<String, String> {
    let text =
        serde_saphyr::to_string(config).map_err(|error| format!("write the configuration: {error}"))?;
    Ok(format!("# Written by `keadm {command}`; all keys: edgecore config default\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> NodeSettings {
        NodeSettings {
            node: "edge-1".into(),
            host: "10.0.0.1".into(),
            port: 10000,
            certificate_port: 10002,
            certificates: CERTIFICATES.into(),
            runtime: "unix:///run/containerd/containerd.sock".into(),
            ..NodeSettings::default()
        }
    }

    #[test]
    fn a_proxy_is_kept_for_later_starts() {
        let check = |set: &[(&str, &str)], expected: Option<&str>| {
            let variable =
                |name: &str| set.iter().find(|(held, _)| *held == name).map(|(_, value)| (*value).to_owned());
            let text = environment(variable).unwrap();
            assert_eq!(text.as_deref(), expected);
        };
        check(&[], None);
        check(&[("NO_PROXY", "a")], None);
        check(&[("https_proxy", "http://p:1")], Some("HTTPS_PROXY='http://p:1'\n"));
        let both = "HTTPS_PROXY='http://p:1'\nNO_PROXY='a,b'\n";
        check(&[("HTTPS_PROXY", "http://p:1"), ("no_proxy", "a,b")], Some(both));
        let pairs = read_environment(both);
        assert_eq!(pairs[1], ("NO_PROXY".to_owned(), "a,b".to_owned()));
        environment(|_| Some("http://u:p'@x".to_owned())).unwrap_err();
    }

    #[test]
    fn only_what_was_said_is_written() {
        assert_eq!(
            config(&wanted(), TOKEN).unwrap(),
            json!({
                "apiVersion": "edgecore.config.kubeedge.io/v1alpha2", "kind": "EdgeCore",
                "modules": {
                    "edgeHub": {"httpServer": "https://10.0.0.1:10002", "websocket": {"server": "10.0.0.1:10000"}},
                    "edged": {"hostnameOverride": "edge-1", "tailoredKubeletConfig":
                        {"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock"}},
                },
            })
        );
        let more = NodeSettings {
            host: "[fd00::1]".into(),
            certificates: "/data/certs".into(),
            cgroup_driver: Some("systemd".into()),
            labels: vec![("site".into(), "hall-3".into())],
            set: vec!["modules.eventBus.enable=false,modules.edged.nodeLabels.line=4".into()],
            ..wanted()
        };
        let of = |kind: &str| json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": kind, "maxPods": 50, "syncFrequency": "0s"});
        let more = NodeSettings { kubelet: of("KubeletConfiguration"), ..more };
        let network = |conf_dir: &str| {
            let wanted = NodeSettings { pod_network: Some(conf_dir.into()), ..wanted() };
            config(&wanted, TOKEN).unwrap()["modules"]["edged"]["podNetwork"].clone()
        };
        assert_eq!(network("/etc/cni/net.d"), json!({"manage": true}));
        assert_eq!(network("/k/net.d"), json!({"manage": true, "confDir": "/k/net.d"}));
        let wrong = config(&NodeSettings { kubelet: of("Pod"), ..more.clone() }, TOKEN).unwrap_err();
        assert!(wrong.contains("kind \"Pod\""), "{wrong}");
        let config = config(&more, "/run/keadm/token").unwrap();
        let kubelet = &config["modules"]["edged"]["tailoredKubeletConfig"];
        assert_eq!((kubelet["maxPods"].as_i64(), kubelet.get("syncFrequency")), (Some(50), None));
        let hub = &config["modules"]["edgeHub"];
        assert_eq!(hub["httpServer"], "https://[fd00::1]:10002");
        assert_eq!(hub["tlsPrivateKeyFile"], "/data/certs/server.key");
        assert_eq!(hub["bootstrapFile"], "/run/keadm/token");
        assert_eq!(config["modules"]["edged"]["nodeLabels"], json!({"site": "hall-3", "line": 4}));
        assert_eq!(config["modules"]["edged"]["tailoredKubeletConfig"]["cgroupDriver"], "systemd");
        assert_eq!(config["modules"]["eventBus"]["enable"], false);
        let text = yaml(&config, "join").unwrap();
        assert!(text.contains("hostnameOverride: edge-1"), "{text}");
    }
}
