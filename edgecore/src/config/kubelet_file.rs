//! A KubeletConfiguration that a kubelet was given, or that kubeadm wrote for one, under `modules.edged.kubeletConfigFile`.
//!
//! kubeadm writes every key, most of them as nothing: a kubelet reads these as its defaults, and so they are read here.

use ke_run::config::Underlay;
use serde_json::Value;

/// How the loader reads it.
pub(super) const UNDERLAY: Underlay = Underlay {
    key: "modules.edged.kubeletConfigFile",
    section: "modules.edged.tailoredKubeletConfig",
    kind: "KubeletConfiguration",
    api_version: "kubelet.config.k8s.io/v1beta1",
    is_left_out,
};

/// Text that is a value of its own even where there is none of it: no file of name servers.
const MAY_BE_EMPTY: &str = "resolvConf";

fn is_left_out(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text == "0s" || (text.is_empty() && key != MAY_BE_EMPTY),
        Value::Array(items) => items.is_empty() && key != "enforceNodeAllocatable",
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ke_run::config::{ConfigError, Loaded, check};

    use crate::config::{CgroupDriver, EdgeCoreConfig};

    const KUBEADM: &str = include_str!("../../tests/data/kubeadm-v1.36-kubelet.yaml");

    /// Our own keys, and the file; `DIR` in the result is where it lies.
    fn read(own: &str, file: &str) -> Result<Loaded<EdgeCoreConfig>, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let text = format!(
            "modules:\n  edged:\n    kubeletConfigFile: {}\n    tailoredKubeletConfig: {own}\n",
            path.display()
        );
        check(&text, Path::new("edgecore.yaml"))
    }

    #[test]
    fn what_kubeadm_writes_is_read_as_it_is() {
        let Loaded { config, warnings } = read("{maxPods: 7}", KUBEADM).unwrap();
        let kubelet = config.modules.edged.tailored_kubelet_config;
        assert_eq!(kubelet.cgroup_driver, CgroupDriver::Systemd);
        assert_eq!(kubelet.cluster_dns, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(kubelet.cluster_domain, "cluster.local");
        assert_eq!(kubelet.static_pod_path, Path::new("/etc/kubernetes/manifests"));
        assert_eq!(kubelet.resolv_conf, Path::new("/run/systemd/resolve/resolv.conf"));
        assert_eq!(kubelet.container_runtime_endpoint, "unix:///var/run/containerd/containerd.sock");
        // Nothing means the default, as with a kubelet.
        assert_eq!(kubelet.node_status_report_frequency.get().as_secs(), 300);
        assert_eq!(kubelet.image_minimum_gc_age.get().as_secs(), 120);
        assert_eq!(kubelet.eviction_pressure_transition_period.get().as_secs(), 300);
        // Ours.
        assert_eq!(kubelet.max_pods.to_u32(), 7);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let (_, said) = warning.split_once("config.yaml: ").unwrap();
        let expected = "nothing on this node goes by authentication, authorization, healthzBindAddress, healthzPort, \
                        logging, rotateCertificates";
        assert_eq!(said, expected);
    }

    #[test]
    fn ours_goes_before_it() {
        let file = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 9\n\
                    evictionHard: {memory.available: 1Gi, nodefs.available: 1Gi}\npodPidsLimit: 77\npodsPerCore: 3\n";
        let Loaded { config, warnings } =
            read("{maxPods: 110, evictionHard: {memory.available: 1Mi}}", file).unwrap();
        let kubelet = config.modules.edged.tailored_kubelet_config;
        // What stands here counts even where it is the default, and a section as a whole.
        assert_eq!((kubelet.max_pods.to_u32(), kubelet.pod_pids_limit.get()), (110, 77));
        let hard = serde_json::to_value(kubelet.eviction_hard).unwrap();
        assert_eq!((&hard["memory.available"], &hard["nodefs.available"]), (&"1Mi".into(), &"10%".into()));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].ends_with("podsPerCore: the kubelet's key, not supported here, ignored (line 6)"),
            "{warnings:?}"
        );
    }

    /// A kubelet warns of keys that it does not know, and goes on.
    #[test]
    fn a_newer_kubelets_keys_stop_nothing() {
        let file = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPod: 3\npodPidsLimit: 77\n";
        let Loaded { config, warnings } = read("{}", file).unwrap();
        assert_eq!(config.modules.edged.tailored_kubelet_config.pod_pids_limit.get(), 77);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let expected = "maxPod: unknown key; did you mean \"maxPods\"?; ignored (line 3)";
        assert!(warning.ends_with(expected), "{warning}");
    }

    #[test]
    fn what_is_wrong_in_it_is_told_with_its_line() {
        let check = |file: &str, expected: &[&str]| {
            let ConfigError::Keys { problems, .. } = read("{}", file).unwrap_err() else { panic!("{file}") };
            let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}");
            }
        };
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        check(&format!("{head}maxPods: many\n"), &["config.yaml: maxPods: "]);
        check(&format!("{head}maxPods: many\n"), &["(line 3)"]);
        check(&format!("{head}cpuManagerPolicy: static\n"), &["found \"static\", expected none"]);
        check(
            &format!("{head}clusterDNS: 10.96.0.10\nevictionHard: 5\n"),
            &["clusterDNS: ", "evictionHard: "],
        );
        check("kind: Pod\napiVersion: v1\n", &["apiVersion: found \"v1\", expected"]);
        check(
            "apiVersion: kubelet.config.k8s.io/v1beta1\n",
            &["kind: found null, expected \"KubeletConfiguration\""],
        );
        check("", &["is nothing, expected a whole KubeletConfiguration"]);
        check("a: [", &["is not valid YAML"]);
        let missing = "modules:\n  edged:\n    kubeletConfigFile: /no/such\n";
        let ConfigError::Keys { problems, .. } = super::super::tests::read(missing).unwrap_err() else {
            panic!()
        };
        assert!(
            problems[0].to_string().starts_with("modules.edged.kubeletConfigFile: /no/such: cannot be read"),
            "{problems:?}"
        );
    }
}
