//! KubeEdge's own defaults load, and what cannot work is refused.

use std::path::Path;

use super::*;
use ke_run::config::{ConfigError, Loaded, check, default_yaml, minimal_yaml};

fn read(yaml: &str) -> Result<Loaded<CloudCoreConfig>, ConfigError> {
    check(yaml, Path::new("cloudcore.yaml"))
}

fn refuses(yaml: &str, expected: &[&str]) {
    let ConfigError::Keys { problems, .. } = read(yaml).unwrap_err() else { panic!("{yaml}") };
    assert_eq!(problems.iter().map(Problem::to_string).collect::<Vec<_>>(), expected, "{yaml}");
}

#[test]
fn kubeedge_defaults_load_with_warnings_only() {
    let loaded = read(include_str!("../../tests/data/kubeedge-v1.23-cloudcore.yaml")).unwrap();
    let told: Vec<&str> = loaded.warnings.iter().filter_map(|warning| warning.split(':').next()).collect();
    assert_eq!(told, ["modules.cloudHub.unixsocket", "modules.iptablesManager"]);
    let hub = loaded.config.modules.cloud_hub;
    assert_eq!(hub.advertised().collect::<Vec<_>>(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(hub.names().count(), 0);
    assert!(!hub.authorization.enable);
}

#[test]
fn both_spellings_of_the_api_version() {
    for version in ["v1alpha1", "v1alpha2"] {
        let loaded = read(&format!("apiVersion: cloudcore.config.kubeedge.io/{version}\nkind: CloudCore\n"));
        assert!(loaded.unwrap().warnings.is_empty());
    }
    refuses(
        "apiVersion: edgecore.config.kubeedge.io/v1alpha2",
        &["apiVersion: found \"edgecore.config.kubeedge.io/v1alpha2\", expected \
           \"cloudcore.config.kubeedge.io/v1alpha2\" or \"cloudcore.config.kubeedge.io/v1alpha1\" (line 1)"],
    );
}

#[test]
fn printed_files_can_be_read_back() {
    for yaml in [default_yaml::<CloudCoreConfig>(), minimal_yaml::<CloudCoreConfig>()] {
        let loaded = read(&yaml).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(
            serde_json::to_value(loaded.config).unwrap(),
            serde_json::to_value(CloudCoreConfig::default()).unwrap()
        );
    }
}

#[test]
fn no_key_is_both_ours_and_unsupported() {
    let defaults = serde_json::to_value(CloudCoreConfig::default()).unwrap();
    for line in CloudCoreConfig::UNSUPPORTED.lines() {
        let path = line.split(' ').next().unwrap();
        assert!(defaults.pointer(&format!("/{}", path.replace('.', "/"))).is_none(), "{path}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    refuses(
        "modules: {cloudHub: {tlsCertfil: x, nodeLimit: 0, https: {address: here}}}",
        &[
            "modules.cloudHub.tlsCertfil: unknown key; did you mean \"tlsCertFile\"? (line 1)",
            "modules.cloudHub.nodeLimit: invalid value: integer `0`, expected a whole number from 1 to 1000000 \
             (line 1)",
            "modules.cloudHub.https.address: invalid IP address syntax (line 1)",
        ],
    );
    refuses(
        "modules: {cloudHub: {quic: {enable: true}, advertiseAddress: [cloud.example]}}",
        &[
            "modules.cloudHub.quic.enable: found true, but QUIC is not supported yet; set it to false and \
             websocket.enable to true",
            "modules.cloudHub.advertiseAddress: found \"cloud.example\", expected IP addresses; a name belongs into \
             dnsNames",
        ],
    );
}

#[test]
fn a_service_has_a_namespace() {
    refuses(
        "modules: {deviceController: {conversion: {service: cloudcore}}}",
        &["modules.deviceController.conversion.service: found \"cloudcore\", expected namespace/name or \
           namespace/name:port"],
    );
    assert!(read("modules: {deviceController: {conversion: {service: kubeedge/cloudcore}}}").is_ok());
}

#[test]
fn ranges_that_cannot_be_given() {
    let key = "modules.edgeController.podCIDR";
    let check = |section: &str, expected: &str| {
        refuses(
            &format!("modules: {{edgeController: {{podCIDR: {{{section}}}}}}}"),
            &[&format!("{key}.{expected}")],
        );
    };
    check("range: 10.0.0.0", "range: found \"10.0.0.0\", expected a range such as 10.208.0.0/12");
    check(
        "range: 10.208.1.0/12",
        "range: found \"10.208.1.0/12\", which is in the middle of 10.208.0.0/12: write that",
    );
    check("nodeMaskSize: 12", "nodeMaskSize: found 12, expected 13 to 30 for a range of 10.208.0.0/12");
    check(
        "range: 'fd00::/48', nodeMaskSize: 31",
        "nodeMaskSize: found 31, expected 49 to 126 for a range of fd00::/48",
    );
    assert!(read("modules: {edgeController: {podCIDR: {range: ''}}}").is_ok());
}

#[test]
fn how_long_pods_stay() {
    for (yaml, expected) in [
        ("", None),
        ("modules: {edgeController: {podTolerationSecs: null}}", None),
        ("modules: {edgeController: {podTolerationSecs: 0}}", Some(0)),
    ] {
        let config = read(yaml).unwrap().config;
        assert_eq!(config.modules.edge_controller.pod_toleration_secs.map(Within::get), expected);
    }
}

#[test]
fn where_the_api_server_comes_in() {
    let stream = |keys: &str| format!("modules: {{cloudStream: {{{keys}}}}}");
    refuses(
        &stream("kubeletAddress: cloud.example"),
        &[
            "modules.cloudStream.kubeletAddress: found \"cloud.example\", expected an IP address of this process, node, or \
           nothing",
        ],
    );
    refuses(
        &stream("kubeletPorts: 10400 to 11399"),
        &[
            "modules.cloudStream.kubeletPorts: found \"10400 to 11399\", expected ports from 1 to 65535 such as 10400-11399 or \
           20001,20005-20010; empty: none",
        ],
    );
    refuses(
        &stream("tunnelPort: 10500"),
        &["modules.cloudStream.tunnelPort: found 10500, which is one of kubeletPorts: take it out there"],
    );
    refuses(
        &stream("tunnelPort: 10003"),
        &["modules.cloudStream.tunnelPort: found 10003, which is streamPort: choose another"],
    );
    refuses(
        &stream("streamPort: 10400"),
        &["modules.cloudStream.streamPort: found 10400, which is one of kubeletPorts: take it out there"],
    );
    for good in
        ["kubeletAddress: node", "kubeletAddress: 2001:db8::1", "kubeletPorts: \"\"", "tunnelPort: 10004"]
    {
        assert_eq!(read(&stream(good)).unwrap().warnings, [""; 0], "{good}");
    }
}
